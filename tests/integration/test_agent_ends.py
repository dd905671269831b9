# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every run ends, alone, and says how: whatever hangs, crashes or is refused is the failure of its own job."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from _engine.agent.work import stoppage
from _engine.databases.postgresql.promotion import RESTORING, beside
from postgres import Cluster
from receivers import WebServer, web_server
from test_agent import Agent
from world import World

#: Kills the process that runs the hook, as the kernel does when memory is short.
KILL_PARENT = [sys.executable, "-c", "import os; os.kill(os.getppid(), 9)"]
#: Goes on whatever it is told.
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; [signal.signal(n, signal.SIG_IGN) for n in (15, 1, 2)]; time.sleep(600)",
]
#: Longer than any run of these tests may take, in seconds, and far shorter than what hangs in them.
SOON = 100


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    world = World(tmp_path)
    world.make_shop()
    return Agent(world)


@pytest.fixture
def web(agent: Agent) -> Iterator[WebServer]:
    """What hears of the failures of jobs."""
    with web_server() as server:
        url = agent.root / "url"
        url.write_text(server.url)
        url.chmod(0o600)
        channel = {"name": "ops", "type": "webhook", "url": {"file": str(url)}}
        (agent.root / "notifications.json").write_text(json.dumps({"channels": [channel]}))
        yield server


def ends(agent: Agent, *arguments: str, **options: Any) -> tuple[int, str]:
    """Run the command, which must end soon; its exit status and what it says."""
    done = subprocess.run(
        agent.command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="surrogateescape",
        timeout=SOON,
        check=False,
        **options,
    )
    assert "Traceback" not in done.stdout and "Exception" not in done.stdout, done.stdout
    return done.returncode, done.stdout


def reports(agent: Agent, *arguments: str, status: int = 1) -> dict[str, dict[str, Any]]:
    code, told = ends(agent, *arguments, "--json")
    assert code == status, told
    return {report["job"]: report for report in json.loads(told)}


def recorded(agent: Agent) -> str:
    """What the audit log says of failures."""
    lines = [json.loads(line) for line in (agent.world.host.state / "audit.jsonl").read_text().splitlines()]
    return "\n".join(f"{line['subject']}: {line.get('reason')}" for line in lines if line["outcome"] == "failed")


def another_database(agent: Agent) -> Path:
    path = agent.world.root / "data" / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE orders (id)")
    connection.close()
    return path


@contextmanager
def hung(directory: Path) -> Iterator[Path]:
    """A file system beside a directory that shows it, and never answers."""
    mounted = directory.with_name(f"{directory.name}-hung")
    mounted.mkdir()
    server = subprocess.Popen(["bindfs", "-f", str(directory), str(mounted)])
    try:
        while not os.path.ismount(mounted):
            assert server.poll() is None
            time.sleep(0.01)
        server.send_signal(signal.SIGSTOP)
        yield mounted
    finally:
        server.send_signal(signal.SIGCONT)
        subprocess.run(["umount", "--lazy", str(mounted)], check=True)
        server.wait()


@pytest.mark.parametrize(
    ("hook", "code"),
    [
        (["/bin/sleep", "600"], "timeout"),
        (STUBBORN, "timeout"),
        (KILL_PARENT, "crashed"),
        (["/etc/passwd/hook"], "missing_tool"),
        (["{root}/no-interpreter"], "missing_tool"),
        (["/nonexistent/caf\udcff"], "missing_tool"),
    ],
    ids=["hangs", "stubborn", "kills", "below-a-file", "no-interpreter", "surrogate"],
)
def test_a_hook_that_goes_wrong_fails_its_own_job_alone(
    agent: Agent, web: WebServer, hook: list[str], code: str
) -> None:
    script = agent.world.root / "no-interpreter"
    script.write_text("exit 0\n")
    script.chmod(0o755)
    words = [word.format(root=agent.world.root) for word in hook]
    agent.job("a-bad", hooks={"before": [words]}, timeout="2s")
    agent.job("b-good")
    found = reports(agent, "run", "--all")
    assert found["a-bad"]["error"] == code, found["a-bad"]
    assert found["b-good"]["error"] is None and found["b-good"]["changed"]
    assert [item.json["job"] for item in web.requests] == ["a-bad"]
    assert web.requests[0].json["error"] == code


def test_a_hook_after_the_backup_that_hangs_ends_soon_after_a_signal_and_the_backup_counts(agent: Agent) -> None:
    begun = agent.world.root / "begun"
    agent.job("shop", hooks={"after": [["/usr/bin/touch", str(begun)], ["/bin/sleep", "600"]]})
    process = subprocess.Popen(agent.command("run", "shop", "--json"), stdout=subprocess.PIPE, text=True)
    while not begun.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    told, _nothing = process.communicate(timeout=SOON)
    (report,) = json.loads(told)
    assert report["changed"] and "the hook after of shop (/bin/sleep) was ended" in report["message"], report


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_run_whose_hook_hangs(agent: Agent, number: signal.Signals) -> None:
    begun = agent.world.root / "begun"
    agent.job("shop", hooks={"before": [["/usr/bin/touch", str(begun)], STUBBORN]})
    process = subprocess.Popen(agent.command("run", "shop", "--json"), stdout=subprocess.PIPE, text=True)
    while not begun.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    told, _nothing = process.communicate(timeout=SOON)
    assert process.returncode == 130, told
    assert json.loads(told)[0]["error"] == "interrupted"


def test_a_repository_that_never_answers_fails_its_job_and_the_next_one_runs(agent: Agent, web: WebServer) -> None:
    agent.run("config", "check")
    with hung(agent.world.root / "backups") as mounted:
        agent.job("a-hung", repositories=[{"path": str(mounted)}], timeout="2s")
        agent.job("b-good")
        found = reports(agent, "run", "--all")
        assert found["a-hung"]["error"] == "timeout", found["a-hung"]
        assert found["b-good"]["error"] is None
        assert "a-hung" in [item.json["job"] for item in web.requests]
        assert "job/a-hung: The backup of a-hung took longer than its timeout of 2 s" in recorded(agent)


def test_status_tells_of_a_repository_that_never_answers_and_asks_it_once(agent: Agent, web: WebServer) -> None:
    agent.job("shop")
    agent.run("run", "shop")
    with hung(agent.world.root / "backups") as mounted:
        for name in ("a-hung", "b-hung", "c-hung"):
            agent.job(name, repositories=[{"path": str(mounted)}])
        code, told = ends(agent, "status", "--notify", "--json")
        health = {one["job"]: one["complaints"] for one in json.loads(told)["jobs"]}
        assert code == 1 and health["shop"] == []
        assert all("has not answered for" in health[name][0] for name in ("a-hung", "b-hung", "c-hung")), health
        assert sorted(item.json["job"] for item in web.requests) == ["a-hung", "b-hung", "c-hung"]


def test_a_systemd_that_never_answers_keeps_no_health_from_being_told(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = agent.root / "systemctl"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(agent.root), prepend=os.pathsep)
    monkeypatch.setattr(stoppage, "LOOK", 1.0)
    notes = agent.world.host.state / "stopped"
    notes.mkdir(parents=True)
    ended = {"units": ["shop.service"], "since": "2026-03-01T02:00:00Z", "pid": 0, "process_started": None}
    (notes / "shop+0.json").write_text(json.dumps(ended))
    (complaint,) = stoppage.complaints_by_job(agent.world.host).values()
    assert complaint.code == "stopped" and "shop.service" in complaint.text
    assert "Asking systemd what runs took longer than its timeout of 1 s" in complaint.text
    # What was noted and cannot be read any more is told too, until somebody has looked.
    (notes / "shop+0.json").write_text("[")
    for _again in range(2):
        assert "shop+0.json cannot be read" in stoppage.complaints_by_job(agent.world.host)["shop"].text
    assert len(stoppage.let_stay_stopped(agent.world.host, ["shop"], dry_run=False)) == 1
    assert stoppage.complaints_by_job(agent.world.host) == {}


def test_a_process_that_the_kernel_holds_is_left_behind_and_named(agent: Agent, tmp_path: Path) -> None:
    image, mounted = tmp_path / "image", tmp_path / "frozen"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(mounted)], check=True)
    try:
        subprocess.run(["fsfreeze", "--freeze", str(mounted)], check=True)
        try:
            agent.job("a-frozen", repositories=[{"path": str(mounted)}], timeout="8s")
            agent.job("b-good", database=str(another_database(agent)))
            found = reports(agent, "run", "--all")
            assert found["a-frozen"]["error"] == "timeout" and found["b-good"]["error"] is None
            assert "Not even SIGKILL ends process" in found["a-frozen"]["message"], found["a-frozen"]
            agent.job("a-frozen", lock_timeout="1s")
            again = reports(agent, "run", "a-frozen")["a-frozen"]
            assert again["error"] == "locked" and "is in use by process" in again["message"], again
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", str(mounted)], check=True)
    finally:
        while subprocess.run(["umount", str(mounted)], stderr=subprocess.DEVNULL, check=False).returncode:
            time.sleep(0.1)


@pytest.mark.parametrize("how", ["timeout", "signal"])
def test_a_server_that_stopped_answering_ends_the_run_too(agent: Agent, empty_cluster: Cluster, how: str) -> None:
    empty_cluster.sql("CREATE DATABASE shop")
    server = empty_cluster.server
    password = agent.root / "password"
    password.write_text(str(server.password))
    password.chmod(0o600)
    limit = {"timeout": "2s"} if how == "timeout" else {}
    agent.job(
        "shop",
        engine="postgresql",
        database="shop",
        login_host=server.host,
        login_port=server.port,
        login_user=server.user,
        login_password={"file": str(password)},
        **limit,
    )
    postmaster = int((empty_cluster.directory / "data" / "postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGSTOP)
    try:
        process = subprocess.Popen(agent.command("run", "shop", "--json"), stdout=subprocess.PIPE, text=True)
        if how == "signal":
            # It has the lock, and turns to the server.
            while not any(path.read_text() for path in agent.world.host.state.glob("locks/*.lock")):
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
        told, _nothing = process.communicate(timeout=SOON)
        assert json.loads(told)[0]["error"] == {"timeout": "timeout", "signal": "interrupted"}[how], told
    finally:
        os.kill(postmaster, signal.SIGCONT)


def test_what_a_killed_restore_left_on_a_server_is_listed_and_then_dropped(
    agent: Agent, cluster: Cluster, database: str
) -> None:
    left = beside(database, RESTORING, f"{database}-20260301T020000Z-h3k7")
    cluster.sql(f'CREATE DATABASE "{left}"')
    password = agent.root / "password"
    password.write_text(str(cluster.server.password))
    password.chmod(0o600)
    agent.job(
        "shop",
        engine="postgresql",
        database=database,
        login_host=cluster.server.host,
        login_port=cluster.server.port,
        login_user=cluster.server.user,
        login_password={"file": str(password)},
    )
    assert left in agent.run("unlock", "shop", "--dry-run") and left in cluster.databases()
    assert {"kind": "database", "where": left} in agent.json("unlock", "shop")["cleared"]
    assert left not in cluster.databases() and database in cluster.databases()


def test_too_few_open_files_are_a_failure_with_a_reason(agent: Agent) -> None:
    agent.job("shop")
    told = subprocess.run(
        ["prlimit", "--nofile=14", *agent.command("run", "shop")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SOON,
        check=False,
    )
    assert told.returncode == 1 and "Traceback" not in told.stdout and "failed" in told.stdout, told


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_what_is_no_file_in_the_place_of_a_small_one_holds_nothing_up(agent: Agent, kind: str) -> None:
    agent.job("b-good")
    for path in (agent.jobs / "a-odd.json", agent.root / "notifications.json"):
        os.mkfifo(path) if kind == "fifo" else os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    found = reports(agent, "run", "--all")
    assert "It is not a regular file" in found["a-odd"]["message"] and found["b-good"]["error"] is None
    status = agent.world.host.state / "status" / "odd.json"
    os.mkfifo(status) if kind == "fifo" else os.mknod(status, 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    assert ends(agent, "status")[0] == 1


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_streams_keep_no_backup_from_being_taken(agent: Agent, closed: tuple[int, ...]) -> None:
    agent.job("shop")
    done = subprocess.run(
        agent.command("run", "shop"),
        preexec_fn=lambda: [os.close(descriptor) for descriptor in closed],
        timeout=SOON,
        check=False,
    )
    assert done.returncode == 0
    assert len([name for name in agent.world.files() if name.endswith(".manifest.json")]) == 1


def test_a_full_output_is_told_by_the_exit_status_and_the_backup_is_there(agent: Agent) -> None:
    agent.job("shop")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            agent.command("run", "shop"), stdout=full, stderr=subprocess.PIPE, text=True, timeout=SOON, check=False
        )
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and "No space left" in done.stderr, done
        assert ends(agent, "status")[0] == 0
        done = subprocess.run(agent.command("run", "shop"), stdout=full, stderr=full, timeout=SOON, check=False)
        assert done.returncode == 1
    assert len([name for name in agent.world.files() if name.endswith(".manifest.json")]) == 2


def test_a_state_that_cannot_be_written_fails_each_job_and_is_notified(agent: Agent, web: WebServer) -> None:
    agent.job("shop")
    state = agent.world.host.state
    state.mkdir()
    subprocess.run(["mount", "--bind", str(state), str(state)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(state)], check=True)
        report = reports(agent, "run", "--all")["shop"]
        assert report["error"] == "permission_denied" and "Read-only file system" in report["message"]
        assert [item.json["job"] for item in web.requests] == ["shop"]
        assert ends(agent, "status")[0] == 1
    finally:
        subprocess.run(["umount", str(state)], check=True)


def test_a_killed_supervisor_leaves_nothing_running(agent: Agent) -> None:
    begun = agent.world.root / "begun"
    agent.job("shop", hooks={"before": [["/usr/bin/touch", str(begun)], ["/bin/sleep", "599"]]})
    process = subprocess.Popen(agent.command("run", "shop"))
    while not begun.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    for _try in range(1000):
        left = [path for path in Path("/proc").glob("[0-9]*") if str(agent.world.root) in command_of(path)]
        if not left:
            break
        time.sleep(0.01)
    else:
        pytest.fail(f"{left} go on")


def command_of(process: Path) -> str:
    try:
        return (process / "cmdline").read_text("utf-8", "replace")
    except OSError:
        return ""
