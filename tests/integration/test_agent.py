# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent as a host runs it: one file, jobs in files, exit statuses, tables and JSON."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from _engine.agent.archive import build, compiled
from _engine.model import SAFETY_TIER
from postgres import Cluster
from world import World

ENGINE = Path(__file__).parents[2] / "plugins" / "module_utils" / "_engine"


def install_agent(directory: Path) -> Path:
    """Install the agent, compiled, into a directory; its file."""
    program, code = directory / "fleet-backup", directory / "lib" / "fleet-backup" / "code.zip"
    content, compiled_content = _built()
    program.write_bytes(content)
    program.chmod(0o755)
    code.parent.mkdir(parents=True)
    code.write_bytes(compiled_content)
    return program


@cache
def _built() -> tuple[bytes, bytes]:
    with TemporaryDirectory() as directory:
        program = Path(directory) / "fleet-backup"
        program.write_bytes(build(ENGINE, sys.executable))
        return program.read_bytes(), compiled(str(program))


class Agent:
    """A host with the agent installed, and jobs that a test gives it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.root = world.root / "etc"
        self.jobs = self.root / "jobs.d"
        self.jobs.mkdir(parents=True)
        self.program = install_agent(world.root)
        (self.root / "ops.pub").write_text(world.public)
        (self.root / "ops.pem").write_text(world.private)
        (self.root / "ops.pem").chmod(0o600)
        settings = {"host": "web1", "state": str(world.host.state)}
        (self.root / "agent.json").write_text(json.dumps(settings))

    @property
    def both_keys(self) -> dict[str, list[str]]:
        """An encryption that can also read, as on a drill host."""
        return {"recipients": [str(self.root / "ops.pub")], "identities": [str(self.root / "ops.pem")]}

    def job(self, name: str, **options: Any) -> dict[str, Any]:
        """Deploy a job for the shop, changed by ``options``."""
        document = {
            "engine": "sqlite",
            "database": str(self.world.path),
            "repositories": [{"path": self.world.repository.label}],
            "encryption": {"recipients": [str(self.root / "ops.pub")]},
            **options,
        }
        (self.jobs / f"{name}.json").write_text(json.dumps(document))
        return document

    def command(self, *arguments: str) -> list[str]:
        return [str(self.program), *arguments, "--config", str(self.root / "agent.json")]

    def run(self, *arguments: str, status: int = 0, **environment: str) -> str:
        """Run the command; what it says, on both streams."""
        done = subprocess.run(
            self.command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout
        assert "Traceback" not in done.stdout
        return done.stdout

    def json(self, *arguments: str, status: int = 0, **environment: str) -> Any:
        return json.loads(self.run(*arguments, "--json", status=status, **environment))


def family(process: subprocess.Popen[Any]) -> list[int]:
    """A command's processes: its supervisor, the command, the one that works for it, and theirs (proc(5), children)."""
    found = [process.pid]
    for pid in found:
        try:
            found += [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:
            # It has ended by now.
            continue
    return found


def wait_for(condition: Any, seconds: float = 30.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def kill_all(process: subprocess.Popen[Any]) -> None:
    """Kill a command with all its processes at once, as a loss of power does: none may clean up after another one."""
    doomed: list[int] = []
    while doomed != family(process):
        doomed = family(process)
        for pid in doomed:
            os.kill(pid, signal.SIGSTOP)
    for pid in doomed:
        os.kill(pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    world = World(tmp_path)
    world.make_shop()
    return Agent(world)


def test_what_the_agent_backs_up_the_engine_restores_and_the_other_way_round(agent: Agent) -> None:
    agent.job(
        "shop", encryption={"recipients": [str(agent.root / "ops.pub")], "identities": [str(agent.root / "ops.pem")]}
    )
    (report,) = agent.json("run", "shop")
    assert report["changed"] and report["error"] is None
    before = agent.world.orders()
    agent.world.path.unlink()
    agent.world.restore(backup=report["backup"]["id"])
    assert agent.world.orders() == before
    agent.world.backup()
    assert "1 backup passed (contents)" in agent.run("verify", "shop")
    assert len(agent.json("list")["backups"]) == 2


def test_the_list_marks_what_a_restore_saved_of_the_database_before(agent: Agent) -> None:
    agent.job("shop")
    agent.world.backup()
    safety = agent.world.backup(tier=SAFETY_TIER)
    head, *rows = agent.run("list").splitlines()
    assert "TIER" in head.split()
    assert {row.split()[1]: "safety" in row.split() for row in rows} == {
        backup["id"]: backup["id"] == safety.manifest.id for backup in agent.json("list")["backups"]
    }


def test_a_broken_job_stops_no_other_one_and_the_run_fails(agent: Agent) -> None:
    agent.job("shop")
    agent.job("gone", database="/nowhere/gone.db")
    agent.job("odd", databse="x")
    (agent.jobs / "cut.json").write_text('{"engine": ')
    reports = {report["job"]: report for report in agent.json("run", "--all", status=1)}
    assert {name: report["error"] for name, report in reports.items()} == {
        "cut": "bad_input",
        "gone": "not_found",
        "odd": "bad_input",
        "shop": None,
    }
    assert 'unknown option "databse"; did you mean "database"?' in reports["odd"]["message"]
    told = agent.run("run", "--all", status=1)
    assert [line.split()[:2] for line in told.splitlines()] == [
        ["JOB", "RESULT"],
        ["cut", "failed"],
        ["gone", "failed"],
        ["odd", "failed"],
        ["shop", "done"],
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run",), "No job is named"),
        (("run", "shop", "--all"), "Leave all but one of them out"),
        (("run", "shap"), 'There is no job "shap" .*The jobs there: shop'),
        (("dance",), "invalid choice"),
        (("config", "mend"), "invalid choice"),
        (("restore", "shop", "--replace", "--yes", "--into", ""), "an argument is empty"),
        (("restore", "shop", "--replace", "--yes", "--before="), "an argument is empty"),
        (("verify", "shop", ""), "an argument is empty"),
    ],
)
def test_a_wrong_command_line_is_usage(agent: Agent, arguments: tuple[str, ...], says: str) -> None:
    agent.job("shop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        assert re.search(says, agent.run(*arguments, status=2))
    assert agent.world.files() == []


def test_a_dry_run_changes_no_byte_and_says_what_the_run_then_does(agent: Agent) -> None:
    agent.job("shop", retention={"keep_last": 1})
    assert "There is no backup" in agent.run("verify", "shop", "--dry-run", status=1)
    agent.run("run", "shop")
    agent.run("run", "shop")
    before = agent.world.picture()
    assert "a backup of about" in agent.run("run", "shop", "--dry-run")
    assert "1 verification would be done" in agent.run("verify", "shop", "--dry-run")
    assert "1 backup would be removed, 1 kept" in agent.run("rotate", "shop", "--dry-run")
    assert agent.world.picture() == before
    assert "1 backup removed, 1 kept" in agent.run("rotate", "shop")


def test_hooks_stop_a_backup_before_it_and_run_after_it_whatever_happened(agent: Agent) -> None:
    log = agent.world.root / "hooks.log"
    script = agent.world.root / "hook"
    script.write_text(f'#!/bin/sh\necho "$1 $FLEET_BACKUP_JOB $FLEET_BACKUP_OUTCOME" >>{log}\nexit "${{2:-0}}"\n')
    script.chmod(0o755)
    hooks = {kind: [[str(script), kind]] for kind in ("before", "after", "failure")}
    agent.job("shop", hooks=hooks)
    agent.run("run", "shop")
    assert log.read_text().splitlines() == ["before shop ", "after shop done"]
    log.unlink()
    agent.job("shop", hooks={**hooks, "before": [[str(script), "before", "3"]]})
    assert "the hook before of shop" in agent.run("run", "shop", status=1)
    assert log.read_text().splitlines() == ["before shop ", "failure shop failed", "after shop failed"]
    agent.job("shop", hooks={**hooks, "after": [[str(script), "after", "4"], [str(script), "again"]]})
    log.unlink()
    told = agent.run("run", "shop", status=1)
    assert "shop.db" in told and "the hook after of shop" in told, "the backup is there, and the hook failed"
    assert log.read_text().splitlines()[-1] == "again shop done"


def test_a_signal_ends_the_run_cleans_up_and_restarts_the_application(agent: Agent) -> None:
    stopped, started = agent.world.root / "stopped", agent.world.root / "started"
    before = [["/usr/bin/touch", str(stopped)], ["/bin/sleep", "60"]]
    agent.job("a-shop", hooks={"before": before, "after": [["/usr/bin/touch", str(started)]]})
    agent.job("b-shop")
    process = subprocess.Popen(
        agent.command("run", "--all"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while not stopped.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    told, _nothing = process.communicate(timeout=20)
    assert process.returncode == 130, told
    assert "interrupted" in told and "b-shop" not in told
    assert started.exists()
    assert agent.world.files() == []


def test_a_signal_after_the_backup_cuts_no_hook_short_and_stops_the_next_job(agent: Agent) -> None:
    begun, ended, failed = (agent.world.root / name for name in ("begun", "ended", "failed"))
    after = [["/usr/bin/touch", str(begun)], ["/bin/sleep", "1"], ["/usr/bin/touch", str(ended)]]
    agent.job("a-shop", hooks={"after": after, "failure": [["/usr/bin/touch", str(failed)]]})
    agent.job("b-shop")
    process = subprocess.Popen(agent.command("run", "--all", "--json"), stdout=subprocess.PIPE, text=True)
    while not begun.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    told, _nothing = process.communicate(timeout=20)
    assert process.returncode == 130, told
    first, second = json.loads(told)
    assert (first["error"], first["changed"], second["error"]) == (None, True, "interrupted")
    assert ended.exists() and not failed.exists()
    assert len([name for name in agent.world.files() if name.endswith(".manifest.json")]) == 1


def test_a_repository_that_is_missing_keeps_no_other_one_from_being_rotated(agent: Agent) -> None:
    own = agent.world.repository.label
    agent.job("shop")
    agent.run("run", "shop")
    agent.run("run", "shop")
    agent.job("shop", repositories=[{"path": "/nowhere/share"}, {"path": own}], retention={"keep_last": 1})
    (report,) = json.loads(agent.run("rotate", "shop", "--json", status=1))
    assert report["changed"] and report["error"] == "repository_unusable", report
    assert "1 backup removed, 1 kept, but" in report["message"] and "/nowhere/share" in report["message"]
    assert len([name for name in agent.world.files() if name.endswith(".manifest.json")]) == 1


def test_a_password_reaches_the_server_from_its_file_and_appears_nowhere(
    agent: Agent, cluster: Cluster, database: str
) -> None:
    cluster.sql("CREATE TABLE orders AS SELECT 1 AS id", database)
    server = cluster.server
    secret = agent.root / "password"
    secret.write_text(f"{server.password}\n")
    secret.chmod(0o600)
    agent.job(
        "orders",
        engine="postgresql",
        database=database,
        login_host=server.host,
        login_port=server.port,
        login_user=server.user,
        login_password={"file": str(secret)},
    )
    assert "orders  done" in agent.run("run", "orders")
    secret.chmod(0o644)
    told = agent.run("run", "orders", status=1)
    assert "orders: login_password" in told and "mode 0644" in told
    for path in agent.world.root.rglob("*"):
        if path.is_file() and path != secret:
            assert str(server.password).encode() not in path.read_bytes(), path


def test_the_agent_restores_postgresql_into_a_throwaway_server_and_what_can_be_restored(
    agent: Agent, cluster: Cluster, database: str
) -> None:
    cluster.sql("CREATE TABLE orders AS SELECT 1 AS id", database)
    agent.job(
        "orders",
        engine="postgresql",
        database=database,
        login_unix_socket=str(cluster.directory),
        login_port=cluster.port,
        login_user="postgres",
        encryption=agent.both_keys,
        verify={"level": "restore", "assertions": [{"sql": "SELECT count(*) FROM orders", "expect": 1}]},
    )
    agent.run("run", "orders")
    assert "orders  done" in agent.run("verify", "orders")
    cluster.sql("CREATE FUNCTION b(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1'", database)
    cluster.sql("CREATE FUNCTION a(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT b($1)'", database)
    cluster.sql("CREATE INDEX by_a ON orders (a(id))", database)
    agent.run("run", "orders")
    assert "INDEX public by_a" in agent.run("verify", "orders", status=3)
    into = ("restore", "orders", "--yes", "--into", f"{database}_copy")
    agent.run(*into, status=1)
    assert "INDEX public by_a" in agent.run(*into, "--on-error", "continue", status=4)
    assert cluster.sql("SELECT id FROM orders", f"{database}_copy") == [(1,)]


def test_the_status_names_what_is_not_as_it_should_be(agent: Agent) -> None:
    agent.job("shop", health={"max_age": "26h", "max_proof_age": "7d", "min_free": 0})
    agent.job("gone", repositories=[{"path": "/nowhere"}])
    assert "there is no good backup" in agent.run("status", "shop", status=1)
    agent.run("run", "shop")
    assert "no backup was ever proven by restoring it" in agent.run("status", "shop", status=1)
    agent.job(
        "shop",
        encryption=agent.both_keys,
        verify={"level": "restore"},
        health={"max_age": "26h", "max_proof_age": "7d", "min_free": 0},
    )
    agent.run("verify", "shop")
    told = agent.run("status", "shop")
    assert told.splitlines()[1].endswith("fine")
    assert "Repository /nowhere does not exist" in agent.run("status", status=1)
    agent.job("shop", health={"min_free": 1})
    assert "of the space is free, and 100% should be" in agent.run("status", "shop", status=1)


def test_an_encrypted_database_is_unverifiable_and_says_so_by_its_exit_status(agent: Agent, tmp_path: Path) -> None:
    opaque = tmp_path / "secret.db"
    opaque.write_bytes(os.urandom(4096 * 4))
    agent.job("secret", database=str(opaque), encryption=agent.both_keys)
    agent.run("run", "secret")
    assert "unverifiable" in agent.run("verify", "secret", status=3)


def test_the_version_needs_nothing_and_a_closed_pipe_is_no_traceback(agent: Agent) -> None:
    done = subprocess.run([str(agent.program), "--version"], stdout=subprocess.PIPE, text=True, check=True, env={})
    assert done.stdout.startswith("fleet-backup ")
    agent.job("shop")
    command = " ".join(agent.command("list"))
    done = subprocess.run(["bash", "-c", f"{command} | true"], stderr=subprocess.PIPE, text=True, check=False)
    assert done.stderr == ""
    assert stat.S_IMODE(agent.program.stat().st_mode) == 0o755


def test_neither_the_environment_nor_the_current_directory_puts_code_into_the_agent(
    agent: Agent, tmp_path: Path
) -> None:
    agent.job("shop")
    planted = tmp_path / "planted"
    planted.mkdir()
    for name in ("argparse", "sitecustomize", "sqlite3"):
        (planted / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    done = subprocess.run(
        agent.command("run", "shop"),
        cwd=planted,
        env={**os.environ, "PYTHONPATH": str(planted), "PYTHONUSERBASE": str(planted)},
        check=False,
    )
    assert done.returncode == 0 and not (tmp_path / "ran").exists()


def test_a_hook_sees_no_secret_of_the_job_and_no_process_can_leave_a_core_file(agent: Agent, tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    said = tmp_path / "said"
    hook.write_text(f"#!/bin/sh\nenv >{said}\ngrep 'Max core' /proc/$$/limits /proc/$PPID/limits >>{said}\n")
    hook.chmod(0o755)
    agent.job("shop", hooks={"before": [[str(hook)]]})
    agent.run("run", "shop", ORDERS_PASSWORD="s3cret")
    text = said.read_text()
    assert "s3cret" not in text and "FLEET_BACKUP_JOB=shop" in text
    limits = [line.split()[-3:-1] for line in text.splitlines() if "Max core" in line]
    assert limits == [["0", "0"], ["0", "0"]]
