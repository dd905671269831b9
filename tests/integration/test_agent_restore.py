# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Restoring with the agent: by options, by a conversation on a terminal, and with the application stopped meanwhile."""

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
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from _engine.errors import Refused
from postgres import Cluster
from terminal import terminal
from test_agent import Agent, kill_all, wait_for
from world import World

_COUNTDOWN = "Ctrl-C stops it"


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    """A host whose job for the shop has a backup, and whose shop has changed since."""
    world = World(tmp_path)
    world.make_shop()
    made = Agent(world)
    made.job("shop")
    made.run("run", "shop")
    return made


@pytest.fixture
def key(agent: Agent) -> str:
    return str(agent.root / "ops.pem")


def backups(agent: Agent) -> list[dict[str, Any]]:
    """What the agent lists, newest first."""
    found: list[dict[str, Any]] = agent.json("list", "shop")["backups"]
    return found


def data(agent: Agent) -> dict[str, tuple[int, int, bytes]]:
    """All that a restore that does nothing leaves alone."""
    return {name: what for name, what in agent.world.picture().items() if not name.startswith("state")}


# By options.


def test_a_restore_by_options_brings_the_backup_back_and_says_how_to_undo_it(agent: Agent, key: str) -> None:
    wanted = agent.world.orders()
    agent.world.make_shop(10)
    lost = agent.world.orders()
    told = agent.run("restore", "shop", "--yes", "--replace", "--identity", key)
    assert agent.world.orders() == wanted
    undo = told.splitlines()[-1].split()
    assert undo[:3] == ["fleet-backup", "restore", "shop"]
    agent.run(*undo[1:], "--yes", "--identity", key)
    assert agent.world.orders() == lost


def test_what_exists_is_replaced_only_when_that_is_said(agent: Agent, key: str) -> None:
    before = data(agent)
    told = agent.run("restore", "shop", "--yes", "--identity", key, status=1)
    assert "it exists" in told and "--replace and --into NAME" in told
    assert data(agent) == before


def test_a_restore_goes_into_another_database_beside_the_first(agent: Agent, key: str) -> None:
    other = agent.world.path.with_name("other.db")
    (report,) = agent.json("restore", "shop", "--yes", "--into", str(other), "--identity", key)
    assert (report["target"], report["replaced"], report["undo"]) == (str(other), False, None)
    assert agent.world.orders(other) == agent.world.orders()
    told = agent.run("restore", "shop", "--yes", "--replace", "--into", str(other), "--identity", key)
    agent.run(*told.splitlines()[-1].split()[1:], "--yes", "--identity", key)
    assert agent.world.orders(other) == agent.world.orders()


def test_the_backup_can_be_named_by_its_id_its_file_or_a_time(agent: Agent, key: str) -> None:
    first = backups(agent)[0]
    wanted = agent.world.orders()
    time.sleep(1.1)
    agent.world.make_shop(10)
    agent.run("run", "shop")
    path = f"{agent.world.repository.label}/{first['path']}/{first['artefacts'][0]['name']}"
    for number, which in enumerate((["--backup", first["id"]], ["--backup", path], ["--before", first["started"]])):
        into = agent.world.path.with_name(f"{number}.db")
        agent.run("restore", "shop", "--yes", *which, "--into", str(into), "--identity", key)
        assert agent.world.orders(into) == wanted


def test_a_plain_backup_is_read_only_where_that_is_accepted(agent: Agent, key: str) -> None:
    time.sleep(1.1)
    agent.job("shop", encryption={"method": "none"})
    agent.run("run", "shop")
    agent.job("shop", encryption={"recipients": [agent.world.public]})
    into = ("--into", str(agent.world.path.with_name("other.db")))
    told = agent.run("restore", "shop", "--yes", "--identity", key, *into, status=1)
    assert "is not encrypted" in told and "--accept-encryption METHOD" in told
    assert "is not encrypted" in agent.run("verify", "shop", "--level", "checksum", status=1)
    agent.run("restore", "shop", "--yes", "--accept-encryption", "none", *into)
    agent.run("verify", "shop", "--accept-encryption", "none", "--level", "restore")
    agent.job("shop", encryption={"recipients": [agent.world.public]}, accept_encryption=["none"])
    agent.run("verify", "shop", "--level", "restore")


def test_a_dry_run_tells_all_and_changes_no_byte(agent: Agent, key: str) -> None:
    before = agent.world.picture()
    told = agent.run("restore", "shop", "--dry-run", "--replace", "--identity", key)
    assert "would be replaced by" in told and "beside it" in told and "is backed up to" in told
    (report,) = agent.json("restore", "shop", "--dry-run", "--replace", "--identity", key)
    assert report["changed"] and report["takes_safety_backup"] and report["needed_bytes"] > 0
    assert "encrypted for" in agent.run("restore", "shop", "--dry-run", "--replace", status=1)
    assert agent.world.picture() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("restore", "shop"), "no terminal to ask on. Add --yes"),
        (("restore",), "no terminal to ask on. Add --yes"),
        (("restore", "--yes"), "No job is named"),
        (("restore", "shap", "--yes"), 'There is no job "shap"'),
        (("restore", "shop", "--yes", "--repository", "/other"), 'no repository "/other". Those that it has: /'),
        (("restore", "shop", "--yes", "--before", "noon"), '--before: "noon" is not a time'),
        (("restore", "shop", "--yes", "--stop-service", "-x"), "expected one argument"),
        (("restore", "shop", "--yes", "--stop-service", "a b"), "cannot be the name of a unit"),
        (("restore", "shop", "--yes", "--identity", "/nowhere"), "private key /nowhere cannot be read"),
        (("restore", "shop", "--yes", "--identity", "-", "--passphrase-file", "-"), "can hold one"),
        (("restore", "shop", "--yes", "--parallel", "0"), "parallel is 0"),
    ],
)
def test_a_wrong_restore_is_usage_and_touches_nothing(agent: Agent, arguments: tuple[str, ...], says: str) -> None:
    before = data(agent)
    assert says in agent.run(*arguments, status=2)
    assert data(agent) == before


def test_a_key_comes_from_standard_input_and_nothing_is_encrypted_for_it(agent: Agent) -> None:
    agent.job("shop", encryption={"method": "aes256-cbc"}, passphrase={"environment": "OWN"})
    agent.run("run", "shop", OWN="the first one")
    wanted = backups(agent)[0]["id"]
    done = subprocess.run(
        agent.command("restore", "shop", "--yes", "--replace", "--backup", wanted, "--passphrase-file", "-", "--json"),
        input="the first one\n",
        env={"PATH": "/usr/bin:/bin", "OWN": "the second one"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    (report,) = json.loads(done.stdout)
    into = str(agent.world.path.with_name("safe.db"))
    again = ("restore", "shop", "--yes", "--into", into, "--backup", report["safety_backup"])
    agent.run(*again, OWN="the second one")
    told = subprocess.run(
        agent.command("verify", "shop", "--identity", "-"),
        input="no key at all",
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert told.returncode == 2 and "holds no private key" in told.stderr and "at all" not in told.stderr


def test_a_restore_of_a_server_can_go_into_a_new_database(agent: Agent, cluster: Cluster, database: str) -> None:
    cluster.sql("CREATE TABLE orders AS SELECT 1 AS id", database)
    server = cluster.server
    secret = agent.root / "password"
    secret.write_text(f"{server.password}\n")
    secret.chmod(0o600)
    login = {"login_host": server.host, "login_port": server.port, "login_user": server.user}
    options = {"engine": "postgresql", "database": database, "encryption": {"method": "none"}, **login}
    agent.job("orders", login_password={"file": str(secret)}, **options)
    agent.run("run", "orders")
    agent.run("restore", "orders", "--yes", "--into", f"{database}_again", "--parallel", "2")
    assert f"{database}_again" in cluster.databases()
    assert cluster.sql("SELECT id FROM orders", f"{database}_again") == cluster.sql("SELECT id FROM orders", database)
    assert "would be replaced by" in agent.run("restore", "orders", "--dry-run", "--replace")


# In a conversation.


def to_the_name(agent: Agent, screen: Any, key: str) -> None:
    """Answer all questions up to the one for the database's name."""
    screen.expect(r"which job.*\?")
    screen.type("shop\n")
    screen.expect(r"which backup.*\?")
    screen.type("1\n")
    screen.expect("private key's file.*: ")
    screen.type(f"{key}\n")
    screen.expect('type the name of the database, "shop.db": ')


def test_the_menu_leads_to_a_restore(agent: Agent, key: str) -> None:
    agent.job("other", database="/nowhere/other.db")
    wanted = agent.world.orders()
    agent.world.make_shop(10)
    with terminal(agent.command("restore")) as screen:
        screen.expect(r"which job.*\?")
        screen.type("9\n")
        screen.expect("no job '9'")
        to_the_name(agent, screen, key)
        assert "will be REPLACED" in screen.screen and "is backed up to" in screen.screen
        screen.type("shop.db\n")
        screen.expect(f"{_COUNTDOWN}. 5 4 3 2 1")
        assert screen.end() == 0
    assert "is restored from" in screen.screen and "This brings it back" in screen.screen
    assert agent.world.orders() == wanted


def test_what_is_restored_is_what_was_confirmed_whatever_is_taken_meanwhile(agent: Agent, key: str) -> None:
    wanted = agent.world.orders()
    command = agent.command("restore", "shop", "--backup", "latest", "--identity", key, "--no-safety-backup")
    with terminal(command) as screen:
        screen.expect('type the name of the database, "shop.db": ')
        agent.world.make_shop(10)
        agent.run("run", "shop")
        screen.type("shop.db\n")
        assert screen.end() == 0
    assert agent.world.orders() == wanted


def test_another_name_ends_the_menu_with_nothing_changed(agent: Agent, key: str) -> None:
    before = data(agent)
    with terminal(agent.command("restore")) as screen:
        to_the_name(agent, screen, key)
        screen.type("shop\n")
        screen.expect('"shop" is not "shop.db". Nothing was changed.')
        assert screen.end() == 1
    assert _COUNTDOWN not in screen.screen
    assert data(agent) == before


def test_ctrl_c_in_the_countdown_ends_it_with_nothing_changed(agent: Agent, key: str) -> None:
    before = data(agent)
    with terminal(agent.command("restore")) as screen:
        to_the_name(agent, screen, key)
        screen.type("shop.db\n")
        screen.expect(f"{_COUNTDOWN}. 5 4")
        screen.press("c")
        assert screen.end() == 130
    assert "before anything was changed" in screen.screen and "Traceback" not in screen.screen
    assert data(agent) == before


@pytest.mark.parametrize("question", [r"which job.*\?", r"which backup.*\?", "file.*: ", "the name.*: "])
@pytest.mark.parametrize("answer", ["q\n", "\x04", "\x03"], ids=["q", "Ctrl-D", "Ctrl-C"])
def test_every_question_can_be_left_with_nothing_changed(agent: Agent, key: str, question: str, answer: str) -> None:
    before = data(agent)
    answers = {r"which job.*\?": "1\n", r"which backup.*\?": "1\n", "file.*: ": f"{key}\n", "the name.*: ": ""}
    with terminal(agent.command("restore")) as screen:
        for asked, usual in answers.items():
            screen.expect(asked)
            screen.type(answer if asked == question else usual)
            if asked == question:
                break
        assert screen.end() == 130, screen.screen
    assert "before anything was changed" in screen.screen and "Traceback" not in screen.screen
    assert data(agent) == before


def test_what_is_known_to_be_bad_is_offered_by_its_id_alone(agent: Agent, key: str) -> None:
    good = backups(agent)[0]["id"]
    time.sleep(1.1)
    (report,) = agent.json("run", "shop")
    bad = report["backup"]["id"]
    artefact = agent.world.directory / report["backup"]["artefacts"][0]["name"]
    artefact.write_bytes(artefact.read_bytes()[:-1] + b"?")
    agent.run("verify", "shop", status=1)
    with terminal(agent.command("restore", "shop")) as screen:
        told = screen.expect(r"which backup.*\?")
        (line,) = [line for line in told.splitlines() if bad in line]
        assert line.startswith("-") and "BAD: checksum verification failed" in line
        (line,) = [line for line in told.splitlines() if good in line]
        assert line.startswith("1")
        screen.type("2\n")
        screen.expect("no backup '2' here.*" + r"\?")
        screen.type(f"{bad}\n")
        screen.expect("private key's file.*: ")
        screen.type(f"{key}\n")
        screen.expect("BAD: .*the name.*: ")
        screen.press("d")
        assert screen.end() == 130


def test_a_passphrase_is_asked_for_again_when_it_is_wrong_and_never_shown(agent: Agent, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("open sesame\n")
    secret.chmod(0o600)
    agent.job("shop", encryption={}, passphrase={"file": str(secret)})
    agent.run("run", "shop")
    secret.unlink()
    # As on a host that was built anew: whoever restores it brings what it had.
    agent.job("shop", encryption={"recipients": [str(agent.root / "ops.pub")]})
    wanted = agent.world.orders()
    agent.world.path.unlink()
    with terminal(agent.command("restore", "shop", "--backup", "latest")) as screen:
        for passphrase in ("open barley", "open sesame"):
            screen.expect("private key's file.*: ")
            screen.type("\n")
            screen.expect("Passphrase: ")
            screen.type(f"{passphrase}\n")
        screen.expect("which does not exist.*the name.*: ")
        screen.type("shop.db\n")
        assert screen.end() == 0
    assert "Nothing that was given opens" in screen.screen
    assert "sesame" not in screen.screen and "barley" not in screen.screen
    assert agent.world.orders() == wanted


# With the application stopped.


class Systemd:
    """A program that stands where systemctl is looked for: units are files, and every order is written down."""

    def __init__(self, root: Path) -> None:
        self.units, self.log = root / "units", root / "systemctl.log"
        self.units.mkdir()
        program = root / "bin" / "systemctl"
        program.parent.mkdir()
        program.write_text(
            f"""#!{sys.executable} -S
import os, pathlib, sys, time
units, words = pathlib.Path({str(self.units)!r}), sys.argv[2:]
unit, verb = units / words[-1], words[0]
if verb == "show":
    state = unit.read_text().split()[0] if unit.exists() else "inactive"
    print("LoadState=" + ("loaded" if unit.exists() else "not-found") + "\\nActiveState=" + state)
    sys.exit(0)
with open({str(self.log)!r}, "a") as log:
    log.write(verb + " " + unit.name + "\\n")
if verb + "-slowly" in unit.read_text():
    time.sleep(2)
if verb + "-waits" in unit.read_text():
    caller = os.getppid()
    while os.getppid() == caller:
        time.sleep(0.05)
    sys.exit(1)
if verb + "-fails" in unit.read_text():
    sys.exit("Job for " + unit.name + " failed.")
rest = unit.read_text().split()[1:]
after = {{"stop": "inactive", "start": "failed" if "dies" in rest else "active"}}[verb]
unit.write_text(" ".join([after, *rest]))
"""
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        self.path = f"{program.parent}:/usr/bin:/bin"

    def unit(self, name: str, state: str) -> None:
        (self.units / name).write_text(state)

    def state(self, name: str) -> str:
        return (self.units / name).read_text().split()[0]

    def orders(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def wait_for(self, order: str) -> None:
        deadline = time.monotonic() + 30
        while order not in self.orders():
            assert time.monotonic() < deadline, self.orders()
            time.sleep(0.02)


@pytest.fixture
def systemd(agent: Agent) -> Systemd:
    """Two services of the shop run, and one does not."""
    made = Systemd(agent.world.root)
    made.unit("shop.service", "active")
    made.unit("worker.service", "active")
    made.unit("mail.service", "inactive")
    agent.job("shop", restore={"stop_services": ["shop.service", "worker.service", "mail.service"]})
    return made


STOPPED = ["stop shop.service", "stop worker.service"]
STARTED = ["start worker.service", "start shop.service"]


def test_services_that_run_are_stopped_and_started_again(agent: Agent, key: str, systemd: Systemd) -> None:
    options = ("restore", "shop", "--yes", "--replace", "--identity", key, "--json")
    (report,) = json.loads(agent.run(*options, "--dry-run", PATH=systemd.path))
    assert report["stops"] == ["shop.service", "worker.service"] and systemd.orders() == []
    (report,) = json.loads(agent.run(*options, PATH=systemd.path))
    assert report["stopped_services"] == ["shop.service", "worker.service"]
    assert systemd.orders() == STOPPED + STARTED


def test_services_are_started_again_when_the_restore_fails(agent: Agent, key: str, systemd: Systemd) -> None:
    for artefact in agent.world.directory.glob("*.aes"):
        artefact.write_bytes(artefact.read_bytes()[:-1] + b"?")
    wanted = agent.world.orders()
    told = agent.run("restore", "shop", "--yes", "--replace", "--identity", key, status=1, PATH=systemd.path)
    assert "is damaged" in told
    assert systemd.orders() == STOPPED + STARTED
    assert agent.world.orders() == wanted


def test_what_cannot_succeed_stops_no_service(agent: Agent, systemd: Systemd) -> None:
    agent.run("restore", "shop", "--yes", "--replace", status=1, PATH=systemd.path)
    assert systemd.orders() == []


def test_a_service_that_does_not_stop_ends_the_restore_and_the_others_run_again(
    agent: Agent, key: str, systemd: Systemd
) -> None:
    systemd.unit("worker.service", "active stop-fails")
    before = agent.world.orders()
    told = agent.run("restore", "shop", "--yes", "--replace", "--identity", key, status=1, PATH=systemd.path)
    assert "systemctl stop worker.service" in told
    assert systemd.orders() == STOPPED + STARTED
    assert agent.world.orders() == before


@pytest.fixture
def stopping(agent: Agent, key: str, systemd: Systemd) -> Iterator[subprocess.Popen[bytes]]:
    """A restore that has stopped one of the two services, and waits for the other one to stop."""
    systemd.unit("worker.service", "active stop-waits")
    command = agent.command("restore", "shop", "--yes", "--replace", "--identity", key)
    with subprocess.Popen(command, env={**os.environ, "PATH": systemd.path}) as process:
        systemd.wait_for("stop worker.service")
        yield process
        process.kill()


def test_what_a_killed_restore_left_stopped_is_told_and_started_by_the_next_one(
    agent: Agent, key: str, systemd: Systemd, stopping: subprocess.Popen[bytes]
) -> None:
    agent.run("status", PATH=systemd.path)
    kill_all(stopping)
    systemd.unit("worker.service", "inactive")
    told = agent.run("status", status=1, PATH=systemd.path)
    assert "by a restore, and does not run: restore again, or systemctl start shop.service worker.service" in told
    (status,) = json.loads(agent.run("status", "--json", status=1, PATH=systemd.path))["jobs"]
    assert status["codes"] == ["stopped"]
    systemd.log.unlink()
    told = agent.run("restore", "shop", "--yes", "--replace", "--identity", key, PATH=systemd.path)
    assert "shop.service is stopped since an earlier restore, and is started again" in told
    assert systemd.orders() == STARTED
    agent.run("status", PATH=systemd.path)


def test_where_the_supervisor_alone_is_killed_the_restore_still_starts_what_it_has_stopped(
    systemd: Systemd, stopping: subprocess.Popen[bytes]
) -> None:
    stopping.kill()
    systemd.wait_for("start shop.service")


def test_what_somebody_started_by_hand_after_a_killed_restore_is_told_and_started_no_more(
    agent: Agent, key: str, systemd: Systemd, stopping: subprocess.Popen[bytes]
) -> None:
    kill_all(stopping)
    systemd.unit("shop.service", "active")
    systemd.unit("worker.service", "active")
    agent.run("status", PATH=systemd.path)
    # For maintenance, long afterwards.
    systemd.unit("shop.service", "inactive")
    systemd.log.unlink()
    agent.run("status", PATH=systemd.path)
    agent.run("restore", "shop", "--yes", "--replace", "--identity", key, PATH=systemd.path)
    assert systemd.orders() == ["stop worker.service", "start worker.service"]


def test_a_service_that_was_removed_since_a_restore_was_killed_is_not_told(
    agent: Agent, systemd: Systemd, stopping: subprocess.Popen[bytes]
) -> None:
    kill_all(stopping)
    (systemd.units / "shop.service").unlink()
    systemd.unit("worker.service", "active")
    agent.run("status", PATH=systemd.path)


def test_what_a_killed_restore_left_stopped_is_told_even_when_its_job_is_gone(
    agent: Agent, systemd: Systemd, stopping: subprocess.Popen[bytes]
) -> None:
    kill_all(stopping)
    for file in (agent.root / "jobs.d").iterdir():
        file.unlink()
    assert "systemctl start shop.service" in agent.run("status", status=1, PATH=systemd.path)


def test_another_restore_of_the_job_forgets_nothing_of_one_that_is_at_work(
    agent: Agent, key: str, systemd: Systemd, stopping: subprocess.Popen[bytes]
) -> None:
    systemd.unit("worker.service", "inactive")
    copy = str(agent.world.root / "copy.db")
    agent.run("restore", "shop", "--yes", "--into", copy, "--identity", key, PATH=systemd.path)
    kill_all(stopping)
    assert "by a restore, and does not run" in agent.run("status", status=1, PATH=systemd.path)


@pytest.mark.parametrize("how", ["start-fails", "dies"])
def test_a_service_that_does_not_start_again_is_named_and_the_others_start(
    agent: Agent, key: str, systemd: Systemd, how: str
) -> None:
    systemd.unit("worker.service", f"active {how}")
    wanted = agent.world.orders()
    agent.world.make_shop(10)
    told = agent.run("restore", "shop", "--yes", "--replace", "--identity", key, status=1, PATH=systemd.path)
    assert "is restored from" in told and "but worker.service" in told and "journalctl -u worker.service" in told
    assert systemd.state("shop.service") == "active"
    assert agent.world.orders() == wanted


def test_a_service_that_did_not_start_again_is_told_until_it_runs(agent: Agent, key: str, systemd: Systemd) -> None:
    options = ("restore", "shop", "--yes", "--replace", "--identity", key)
    systemd.unit("worker.service", "active start-fails")
    agent.run(*options, status=1, PATH=systemd.path)
    for _again in range(2):
        assert "systemctl start worker.service" in agent.run("status", status=1, PATH=systemd.path)
        # The next restore does not forget it either, and tries again.
        told = agent.run(*options, status=1, PATH=systemd.path)
        assert "worker.service did not start again" in told
    systemd.unit("worker.service", "inactive")
    agent.run(*options, PATH=systemd.path)
    assert systemd.state("worker.service") == "active"
    agent.run("status", PATH=systemd.path)


def test_a_service_may_stay_stopped_where_the_user_says_so(agent: Agent, key: str, systemd: Systemd) -> None:
    systemd.unit("worker.service", "active start-fails")
    agent.run("restore", "shop", "--yes", "--replace", "--identity", key, status=1, PATH=systemd.path)
    assert "worker.service, of shop" in agent.run("unlock", "--let-stay-stopped", "--dry-run", "shop")
    agent.run("status", status=1, PATH=systemd.path)
    agent.run("unlock", "--let-stay-stopped", "shop", PATH=systemd.path)
    agent.run("status", PATH=systemd.path)


def test_a_signal_in_the_middle_starts_the_services_again(agent: Agent, key: str, systemd: Systemd) -> None:
    before = agent.world.orders()
    # The restored file waits for this program to let go of the database.
    holder = sqlite3.connect(agent.world.path, isolation_level=None)
    holder.execute("PRAGMA locking_mode=EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    command = agent.command("restore", "shop", "--yes", "--replace", "--identity", key)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={"PATH": systemd.path}
    )
    progress = agent.world.host.state / "status"
    wait_for(lambda: any('"swap"' in path.read_text() for path in progress.glob("*.json")))
    process.send_signal(signal.SIGTERM)
    told, _nothing = process.communicate(timeout=30)
    holder.close()
    assert process.returncode == 130, told
    assert systemd.orders() == STOPPED + STARTED
    assert agent.world.orders() == before


def test_a_signal_while_services_stop_starts_those_again_that_were_stopped(
    agent: Agent, key: str, systemd: Systemd
) -> None:
    systemd.unit("worker.service", "active stop-slowly")
    process = subprocess.Popen(
        agent.command("restore", "shop", "--yes", "--replace", "--identity", key),
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": systemd.path},
    )
    systemd.wait_for("stop worker.service")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 130
    assert systemd.orders() == STOPPED + STARTED


def test_a_signal_that_comes_too_late_keeps_no_service_down(agent: Agent, key: str, systemd: Systemd) -> None:
    systemd.unit("worker.service", "active start-slowly")
    process = subprocess.Popen(
        agent.command("restore", "shop", "--yes", "--replace", "--identity", key),
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": systemd.path},
    )
    systemd.wait_for("start worker.service")
    process.send_signal(signal.SIGTERM)
    told, _nothing = process.communicate(timeout=30)
    assert process.returncode == 0, told
    assert "is restored from" in told and "too late" in told
    assert systemd.orders() == STOPPED + STARTED


def test_a_service_that_is_not_installed_is_an_error_on_the_command_line_and_a_warning_in_a_job(
    agent: Agent, key: str, systemd: Systemd
) -> None:
    options = ("restore", "shop", "--yes", "--replace", "--identity", key)
    told = agent.run(*options, "--stop-service", "shap.service", status=2, PATH=systemd.path)
    assert "no unit shap.service" in told and systemd.orders() == []
    agent.job("shop", restore={"stop_services": ["shap.service"]})
    told = agent.run(*options, "--stop-service", "shop.service", PATH=systemd.path)
    assert "shap.service is not installed" in told
    assert systemd.orders() == ["stop shop.service", "start shop.service"]


def test_commands_run_around_the_restore_and_outside_of_the_services(agent: Agent, key: str, systemd: Systemd) -> None:
    script = agent.world.root / "hook"
    script.write_text(
        f'#!/bin/sh\necho "$1 $FLEET_BACKUP_JOB $FLEET_BACKUP_OUTCOME" >>{systemd.log}\nexit "${{2:-0}}"\n'
    )
    script.chmod(0o755)
    around = {"before": [[str(script), "before"]], "after": [[str(script), "after"]]}
    agent.job("shop", restore={"stop_services": ["shop.service"], **around})
    options = ("restore", "shop", "--yes", "--replace", "--identity", key)
    agent.run(*options, PATH=systemd.path)
    assert systemd.orders() == ["before shop ", "stop shop.service", "start shop.service", "after shop done"]
    systemd.log.unlink()
    agent.job("shop", restore={"stop_services": ["shop.service"], **around, "before": [[str(script), "before", "3"]]})
    assert "the hook restore.before of shop" in agent.run(*options, status=1, PATH=systemd.path)
    assert systemd.orders() == ["before shop ", "after shop failed"]


# And no harm.


def test_a_database_is_never_restored_into_a_repository(agent: Agent, key: str, tmp_path: Path) -> None:
    inside = agent.world.root / "backups" / "web1" / "new.db"
    link = tmp_path / "link"
    link.symlink_to(agent.world.root / "backups")
    before = data(agent)
    for target in (inside, link / "new.db", agent.world.root / "data" / ".." / "backups" / "new.db"):
        told = agent.run("restore", "shop", "--yes", "--into", str(target), "--identity", key, status=1)
        assert "lies inside the repository" in told and "Restore to a path outside of it" in told
        # The engine refuses it for whoever asks, the modules too.
        database = replace(agent.world.database, name=str(target))
        with pytest.raises(Refused, match="lies inside the repository"):
            agent.world.restore(database=database, source_database=agent.world.database.name)
    assert data(agent) == before


def test_nor_into_another_repository_of_the_job(agent: Agent, key: str) -> None:
    second = agent.world.root / "second"
    second.mkdir()
    first = agent.world.repository.label
    agent.job("shop", repositories=[{"path": first}, {"path": str(second)}])
    options = ("--into", str(second / "new.db"), "--repository", first, "--identity", key)
    assert "lies inside the repository" in agent.run("restore", "shop", "--yes", *options, status=1)
    assert list(second.iterdir()) == []
