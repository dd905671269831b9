# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the agent tells people: one backup whole, who holds locks, how far it is, its manual, and completion."""

from __future__ import annotations

import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from terminal import terminal
from test_agent import Agent, family, kill_all
from world import World


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    # What others leave in the machine's own directory is none of these tests' business.
    world = World(tmp_path)
    world.make_shop()
    made = Agent(world)
    made.job("shop", tier="daily", labels={"owner": "ops"})
    # An account without rights verifies there, which no directory of pytest lets in.
    with tempfile.TemporaryDirectory(dir="/tmp") as temporary:
        os.chmod(temporary, 0o711)
        monkeypatch.setenv("TMPDIR", temporary)
        yield made


def test_one_backup_is_shown_whole(agent: Agent) -> None:
    agent.run("run", "shop")
    second = agent.world.root / "second"
    second.mkdir()
    agent.job("shop", repositories=[{"path": agent.world.repository.label}, {"path": str(second)}], labels={"a": "b"})
    (report,) = agent.json("run", "shop")
    agent.run("verify", "shop")
    told = agent.run("show", "shop")
    manifest = report["backup"]
    for known in (
        manifest["id"],
        manifest["artefacts"][0]["sha256"],
        manifest["previous"],
        manifest["recipients"][0][:16],
        "a=b",
        "zstd",
        "aes256-gcm",
        "100 rows in 1 table",
        str(second),
        agent.world.repository.label,
    ):
        assert known in told, known
    assert len(re.findall("checksum +passed", told)) == 2
    shown = agent.json("show", "shop", "--backup", manifest["id"])
    assert [copy["repository"] for copy in shown["backups"]] == [agent.world.repository.label, str(second)]
    assert shown["backups"][0]["fingerprint_tables"] == {"orders": 100}
    assert shown["backups"][0]["proofs"][0]["level"] == "checksum"
    assert agent.world.private not in told
    assert "tier      daily" in agent.run("show", "shop", "--backup", manifest["previous"])
    assert 'There is no backup "none"' in agent.run("show", "shop", "--backup", "none", status=1)


def test_rubbish_in_a_repository_fills_no_screen_and_hides_nothing_that_matters(agent: Agent) -> None:
    agent.run("run", "shop")
    (newest,) = agent.world.directory.glob("*.manifest.json")
    newest.rename(agent.world.root / "gone")
    for number in range(50):
        (agent.world.directory / f"rubbish{number}").touch()
    told = agent.run("list", "shop", status=1).splitlines()
    assert len(told) < 15 and f"{newest.name} is gone" in told[1] and "more like these" in told[-1]
    assert len(agent.json("list", "shop", status=1)["problems"]) > 50


def test_a_backup_is_shown_where_another_repository_cannot_be_read(agent: Agent) -> None:
    agent.run("run", "shop")
    agent.job("shop", repositories=[{"path": "/nowhere"}, {"path": agent.world.repository.label}])
    told = agent.run("show", "shop", status=1)
    assert "100 rows in 1 table" in told and "Repository /nowhere does not exist" in told


def test_a_host_without_keys_says_that_it_cannot_verify_and_does_so_with_one(agent: Agent) -> None:
    agent.run("run", "shop")
    assert "passed (checksum)" in agent.run("verify", "shop")
    # A key is there to be used.
    key = ("--identity", str(agent.root / "ops.pem"))
    assert "passed (contents)" in agent.run("verify", "shop", *key)
    assert "passed (checksum)" in agent.run("verify", "shop", "--level", "checksum", *key)
    assert "passed (restore)" in agent.run("verify", "shop", "--level", "restore", *key)
    for level in ("contents", "restore"):
        agent.job("shop", verify={"level": level})
        for how in ([], ["--dry-run"]):
            told = agent.run("verify", "shop", *how, status=3)
            assert "unverifiable" in told and "--identity" in told
        told = agent.run("verify", "shop", *key)
        assert f"passed ({level})" in told
    # What queries a restored database has no part in less.
    failing = {"sql": "SELECT count(*) FROM orders", "expect": 0}
    agent.job("shop", verify={"level": "restore", "assertions": [failing]})
    agent.run("verify", "shop", *key, status=1)
    assert "passed (contents)" in agent.run("verify", "shop", "--level", "contents", *key)
    wrong = World(agent.world.root / "elsewhere").private
    (agent.root / "wrong.pem").write_text(wrong)
    (agent.root / "wrong.pem").chmod(0o600)
    assert "Nothing that was given opens" in agent.run(
        "verify", "shop", "--identity", str(agent.root / "wrong.pem"), status=3
    )


# Locks and what is left over.


@pytest.fixture
def held(agent: Agent) -> Iterator[subprocess.Popen[bytes]]:
    """A backup that waits, with its locks held."""
    agent.run("run", "shop")
    agent.job("shop", lock_timeout="10m")
    holder = sqlite3.connect(agent.world.path, isolation_level=None)
    holder.execute("PRAGMA locking_mode=EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    process = subprocess.Popen(agent.command("run", "shop"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not list((agent.world.host.state / "status").glob("*.json")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield process
    if process.poll() is None:
        kill_all(process)
    holder.close()


def test_a_living_lock_is_told_and_never_broken(agent: Agent, held: subprocess.Popen[bytes]) -> None:
    for how in (["--dry-run"], []):
        told = agent.run("unlock", "shop", *how)
        worker = next(pid for pid in family(held) if f"process {pid} " in told)
        assert f"kill {worker} ends it" in told and "backup: snapshot" in told
    (lock,) = agent.json("unlock")["locks"]
    assert lock["pid"] == worker and lock["status"]["alive"]
    assert held.poll() is None
    assert list((agent.world.host.state / "status").glob("*.json"))


def test_what_a_killed_process_left_over_is_listed_and_then_cleared(
    agent: Agent, held: subprocess.Popen[bytes]
) -> None:
    kill_all(held)
    partial = agent.world.directory / ".shop-20260301T020000Z-h3k7.db.partial"
    partial.write_bytes(b"half")
    half = agent.world.host.state / "status" / "verify+web1+sqlite+shop.tmp"
    half.write_bytes(b"{")
    before = agent.world.picture()
    told = agent.run("unlock", "--dry-run")
    assert "half written" in told
    assert agent.world.picture() == before
    for left in ("lock", "status", "repository"):
        assert re.search(f"^{left} ", told, re.MULTILINE), told
    assert "ends it" not in told and str(partial) in told
    found = agent.json("unlock")["cleared"]
    assert [one["kind"] for one in found] == ["lock", "status", "status", "repository"]
    assert not half.exists()
    assert not partial.exists() and "it was killed" not in agent.run("status")
    assert "nothing is left over" in agent.run("unlock")


def test_scratch_directories_of_the_dead_are_cleared_and_those_of_the_living_stay(agent: Agent, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    program = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from _engine.scratch import Purpose, private_directory\n"
        "with private_directory(Purpose[sys.argv[3]], Path(sys.argv[2])) as made:\n"
        "    print(made, flush=True); time.sleep(600)\n"
    )
    engine = Path(__file__).parents[2] / "plugins" / "module_utils"
    owners = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(engine), str(temporary), purpose], stdout=subprocess.PIPE, text=True
        )
        for purpose in ("EXAMINATION", "VERIFICATION")
    ]
    dead, alive = (Path(owner.stdout.readline().strip()) for owner in owners if owner.stdout)
    owners[0].kill()
    owners[0].wait()
    (dead / "scratch.db").write_bytes(b"decrypted")
    try:
        assert str(dead) in agent.run("unlock", "--dry-run", TMPDIR=str(temporary))
        # There is no backup yet, which is not fine.
        assert str(dead) in agent.json("status", status=1, TMPDIR=str(temporary))["leftovers"]
        assert f"left over: {dead}" in agent.run("status", status=1, TMPDIR=str(temporary))
        assert dead.exists()
        told = agent.run("unlock", TMPDIR=str(temporary))
        assert str(dead) in told and str(alive) not in told
        assert not dead.exists() and alive.exists()
    finally:
        owners[1].kill()
        owners[1].wait()


# How far it is.


def test_progress_is_drawn_on_a_terminal_and_taken_away_again(agent: Agent, held: subprocess.Popen[bytes]) -> None:
    kill_all(held)
    with terminal(agent.command("run", "shop")) as screen:
        screen.expect("shop: snapshot  [1-9][0-9]*s")
        screen.press("c")
        assert screen.end() == 130
    assert re.search(r"\r\x1b\[K(JOB|shop)", screen.screen), screen.screen
    for quiet in ({"TERM": "dumb"}, {"NO_COLOR": "1"}):
        with terminal(agent.command("run", "shop"), **quiet) as screen:
            while not agent.json("unlock")["locks"]:
                time.sleep(0.1)
            time.sleep(1)
            screen.press("c")
            assert screen.end() == 130
        assert "snapshot" not in screen.screen and "\x1b" not in screen.screen


def test_nothing_is_drawn_where_nobody_looks(agent: Agent) -> None:
    ours, theirs = pty.openpty()
    done = subprocess.run(agent.command("run", "shop"), stdout=theirs, stderr=subprocess.PIPE, check=True)
    assert done.stderr == b""
    os.close(theirs)
    os.close(ours)


def test_a_terminal_that_goes_away_breaks_no_backup(agent: Agent, held: subprocess.Popen[bytes]) -> None:
    kill_all(held)
    agent.job("shop", lock_timeout="3s")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        agent.command("run", "shop"), stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"}
    )
    os.close(theirs)
    os.close(ours)
    told, _nothing = process.communicate(timeout=60)
    assert process.returncode == 1 and b"shop" in told, told


# What it says of itself.


def test_the_manual_page_is_right_by_the_formatters_own_judgement(agent: Agent) -> None:
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8"], input=agent.run("manual"), capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    # What is bold is struck twice (grotty(1)).
    assert "--keep-replaced" in re.sub(".\x08", "", done.stdout)


def test_bash_completes_commands_jobs_and_backups(agent: Agent) -> None:
    (report,) = agent.json("run", "shop")
    backup = report["backup"]["id"]
    script = (
        "source <(fleet-backup completion bash)\n"
        'try() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _fleet_backup "$1"; echo "${COMPREPLY[@]}"; }\n'
        "try fleet-backup rest\ntry fleet-backup restore sh\ntry fleet-backup restore shop --backup la\n"
        f"try fleet-backup restore shop --backup {backup[:5]}\ntry fleet-backup restore shop --keep\n"
        "try fleet-backup restore shop --identity /e\n"
    )
    environment = {
        "PATH": f"{agent.program.parent}:/usr/bin:/bin",
        "FLEET_BACKUP_CONFIG": str(agent.root / "agent.json"),
    }
    done = subprocess.run(["bash", "-c", script], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.split("\n") == ["restore", "shop", "latest", backup, "--keep-replaced", "", ""]


@pytest.mark.parametrize("way", ["a file in fpath", "sourced"])
def test_zsh_completes_commands_jobs_and_backups(agent: Agent, tmp_path: Path, way: str) -> None:
    (report,) = agent.json("run", "shop")
    functions = tmp_path / "functions"
    functions.mkdir()
    lines = [f"fpath=({functions} $fpath)", "autoload -Uz compinit", "compinit -u -D", "PROMPT='ready> '"]
    if way == "sourced":
        lines.append("source <(fleet-backup completion zsh)")
    else:
        (functions / "_fleet-backup").write_text(agent.run("completion", "zsh"))
    (tmp_path / ".zshrc").write_text("\n".join([*lines, ""]))
    path = f"{agent.program.parent}:/usr/bin:/bin"
    config = str(agent.root / "agent.json")
    with terminal(["zsh", "-i"], ZDOTDIR=str(tmp_path), PATH=path, FLEET_BACKUP_CONFIG=config) as shell:
        shell.expect("ready> ")
        shell.type("fleet-backup rest\tsh\t--backup shop\t")
        shell.press("a")
        shell.type("print -r -- completed: \n")
        backup = report["backup"]["id"]
        shell.expect(f"\ncompleted: fleet-backup restore shop --backup {backup}\n")


def test_a_signal_is_no_traceback(agent: Agent, held: subprocess.Popen[bytes]) -> None:
    held.send_signal(signal.SIGINT)
    assert held.wait(timeout=30) == 130
