# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The playbooks, on a fleet of "hosts" that are this machine, each with its own directories, and one that is down."""

from __future__ import annotations

import getpass
import grp
import json
import os
import pty
import re
import select
import socket
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

import pytest

from receivers import web_server
from world import World

ROOT = Path(__file__).parents[2]

# One worker deploys the hosts that these tests share.
pytestmark = pytest.mark.xdist_group("playbooks")


@dataclass(frozen=True)
class Ran:
    """How a playbook ended."""

    status: int
    output: str
    ledger: dict[str, Any]

    @property
    def outcomes(self) -> dict[tuple[str, str], str]:
        return {(entry["host"], entry["job"]): entry["outcome"] for entry in self.ledger["entries"]}

    def message(self, host: str, job: str) -> str:
        (found,) = [one["message"] for one in self.ledger["entries"] if (one["host"], one["job"]) == (host, job)]
        return str(found)

    def changed(self, host: str) -> int:
        return int(re.search(rf"^{host} .*changed=(\d+)", self.output, re.MULTILINE).group(1))  # type: ignore[union-attr]

    def failed(self, host: str) -> bool:
        return re.search(rf"^{host} .*failed=0", self.output, re.MULTILINE) is None


class Fleet:
    """An inventory, of which tests change the variables of hosts for one run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.worlds: dict[str, World] = {}
        self.hosts: dict[str, dict[str, Any]] = {
            "lb1": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        }
        parent = root / "collections" / "ansible_collections" / "fleet"
        parent.mkdir(parents=True)
        (parent / "backup").symlink_to(ROOT)

    def add(self, host: str) -> None:
        """Add a host with a shop."""
        world = World(self.root / host)
        world.make_shop()
        self.worlds[host] = world
        (world.root / "key.pem").write_text(world.private)
        (world.root / "key.pem").chmod(0o600)
        (world.root / "tmp").mkdir()
        (world.root / "units").mkdir()
        self.hosts[host] = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "ansible_become": False,
            "ansible_remote_tmp": str(world.root / "tmp"),
            "agent_python": sys.executable,
            "agent_packages": False,
            "agent_path": str(world.root / "fleet-backup"),
            "agent_directory": str(world.root / "etc"),
            "agent_logrotate": "",
            "agent_share": "",
            "agent_owner": getpass.getuser(),
            "agent_group": grp.getgrgid(os.getegid()).gr_name,
            "schedule_manager": "systemd",
            "schedule_activate": False,
            "schedule_packages": False,
            "schedule_unit_directory": str(world.root / "units"),
            "schedule_stamp_directory": str(world.root / "stamps"),
            "schedule_cron_file": str(world.root / "units" / "cron"),
            "fleet_backup_environment": {"FLEET_BACKUP_STATE": str(world.root / "state")},
            "fleet_backup_jobs": [self.job(host)],
        }

    def job(self, host: str, **more: Any) -> dict[str, Any]:
        world = self.worlds[host]
        return {
            "name": "shop",
            "engine": "sqlite",
            "database": str(world.path),
            "repositories": [{"path": world.repository.label}],
            "encryption": {"recipients": [world.public]},
            "retention": {"keep_last": 1},
            "schedule": {"backup": {"every": "daily", "at": "02:00"}},
            **more,
        }

    def add_down(self, host: str) -> None:
        """Add a host that cannot be reached."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.hosts[host] = {
            "ansible_host": "127.0.0.1",
            "ansible_port": port,
            "fleet_backup_jobs": [{"name": "orders", "engine": "postgresql", "database": "orders"}],
        }

    def command(self, playbook: str, *options: str, hosts: Any = None, **variables: Any) -> list[str]:
        inventory = self.root / "inventory.json"
        merged = {host: {**own, **(hosts or {}).get(host, {})} for host, own in self.hosts.items()}
        # A variable without a value is one that the inventory does not have.
        merged = {host: {name: one for name, one in own.items() if one is not None} for host, own in merged.items()}
        inventory.write_text(json.dumps({"all": {"hosts": merged}}))
        extra = {"fleet_backup_ledger_file": str(self.root / "ledger.json"), **variables}
        return [
            "ansible-playbook",
            f"fleet.backup.{playbook}",
            f"--inventory={inventory}",
            f"--extra-vars={json.dumps(extra)}",
            *options,
        ]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(self.root / "collections")}

    def play(self, playbook: str, *options: str, hosts: Any = None, **variables: Any) -> Ran:
        """Run a playbook without a terminal. ``hosts`` changes variables of hosts by name."""
        (self.root / "ledger.json").unlink(missing_ok=True)
        done = subprocess.run(
            self.command(playbook, *options, hosts=hosts, **variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment,
            text=True,
            check=False,
        )
        return self.ran(done.returncode, done.stdout)

    def ran(self, status: int, output: str) -> Ran:
        ledger = self.root / "ledger.json"
        return Ran(status, output, json.loads(ledger.read_text()) if ledger.exists() else {"entries": []})

    def agent(self, host: str, *arguments: str) -> None:
        """Run a host's agent without Ansible."""
        own = self.hosts[host]
        subprocess.run(
            [own["agent_path"], *arguments, "--config", f"{own['agent_directory']}/agent.json"],
            env={**os.environ, **own["fleet_backup_environment"]},
            stdout=subprocess.DEVNULL,
            check=True,
        )

    def lose_orders(self, host: str) -> None:
        with sqlite3.connect(self.worlds[host].path) as connection:
            connection.execute("DELETE FROM orders")
        connection.close()

    def orders(self, host: str) -> int:
        with sqlite3.connect(self.worlds[host].path) as connection:
            count = connection.execute("SELECT count(*) FROM orders").fetchone()[0]
        connection.close()
        return int(count)

    def pretend(self, host: str, script: str) -> dict[str, Any]:
        """Variables with which a host has this script for an agent."""
        path = self.worlds[host].root / "pretended"
        path.write_text(f"#!{sys.executable}\n{script}")
        path.chmod(0o755)
        return {host: {"agent_path": str(path)}}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two hosts with a shop, deployed, and before them one that is down; and one without jobs."""
    made = Fleet(tmp_path_factory.mktemp("fleet"))
    made.add_down("db1")
    made.add("web1")
    made.hosts["web1"]["fleet_backup_jobs"] = [made.job("web1", verify={"level": "contents"})]
    made.add("web2")
    made.hosts["web2"]["fleet_backup_jobs"].append(made.job("web2", name="daily", max_age="20h"))
    # Of these batches, the first one's only host is down, and the last one's has no jobs.
    ran = made.play("deploy", fleet_backup_serial=1)
    assert ran.outcomes == {
        ("db1", "orders"): "unreachable",
        ("web1", "shop"): "done",
        ("web2", "shop"): "done",
        ("web2", "daily"): "done",
        ("lb1", ""): "nothing to do",
    }, ran.output
    assert ran.status != 0 and ran.changed("web1") > 0
    yield made


def test_a_second_deployment_changes_nothing_and_is_well_where_all_hosts_are(fleet: Fleet) -> None:
    again = fleet.play("deploy", "-l", "web*")
    assert again.status == 0, again.output
    assert (again.changed("web1"), again.changed("web2")) == (0, 0)
    assert "2 hosts, 3 jobs: 3 done" in again.output


def test_a_wrong_job_fails_its_own_host_before_anything_is_changed_there(fleet: Fleet) -> None:
    wrong = {"web1": {"fleet_backup_jobs": [fleet.job("web1", retention={"keep_within": "soon"})]}}
    ran = fleet.play("deploy", "-l", "web*", hosts=wrong, fleet_backup_serial=1)
    assert ran.outcomes[("web1", "shop")] == "failed" and ran.outcomes[("web2", "shop")] == "done"
    assert "web1: job shop: retention: keep_within" in ran.message("web1", "shop")
    assert ran.status != 0 and ran.changed("web1") == 0


def test_what_is_wrong_with_a_job_arrives_in_the_ledger_word_for_word(fleet: Fleet) -> None:
    schedule = {"backup": {"every": "daily"}, "rotate": {"every": "daily", "att": "02:00"}}
    wrong = {"web2": {"fleet_backup_jobs": [fleet.job("web2", schedule=schedule)]}}
    ran = fleet.play("deploy", "-l", "web2", hosts=wrong)
    assert ran.status != 0 and ran.changed("web2") == 0
    assert ran.message("web2", "shop") == ('web2: job shop: schedule.rotate: unknown option "att"; did you mean "at"?')


def test_jobs_whose_variable_has_vanished_are_told_and_a_misspelt_one_fails(fleet: Fleet) -> None:
    vanished = {"web1": {"fleet_backup_jobs": None}}
    for playbook in ("deploy", "backup"):
        ran = fleet.play(playbook, "-l", "web1,lb1", hosts=vanished)
        assert ran.status == 0, ran.output
        assert ran.outcomes == {("web1", "shop"): "undeclared", ("lb1", ""): "nothing to do"}
        assert "keeps running this job" in ran.message("web1", "shop")
    misspelt = {"web1": {"fleet_backup_jobs": None, "fleet_backup_job": fleet.hosts["web1"]["fleet_backup_jobs"]}}
    ran = fleet.play("deploy", "-l", "web1,lb1", hosts=misspelt)
    assert ran.status != 0 and ran.failed("web1") and not ran.failed("lb1")
    assert ran.outcomes[("web1", "shop")] == "undeclared"
    assert ran.message("web1", "") == 'web1: unknown variable "fleet_backup_job"; did you mean "fleet_backup_jobs"?'
    # Where there are jobs too, nothing is changed.
    ran = fleet.play("deploy", "-l", "web1", hosts={"web1": {"fleet_backup_default": {"max_age": "1d"}}})
    assert ran.status != 0 and ran.changed("web1") == 0
    assert "fleet_backup_defaults" in ran.message("web1", "shop")


def test_every_host_and_job_is_in_the_ledger_and_one_that_is_down_stops_no_batch(fleet: Fleet) -> None:
    jobs = fleet.hosts["web1"]["fleet_backup_jobs"]
    more = {"web1": {"fleet_backup_jobs": [*jobs, fleet.job("web1", name="orders")]}}
    ran = fleet.play("backup", hosts=more, fleet_backup_serial=1)
    assert ran.status != 0
    assert {key: outcome for key, outcome in ran.outcomes.items() if key != ("web2", "daily")} == {
        ("db1", "orders"): "unreachable",
        ("web1", "shop"): "done",
        ("web1", "orders"): "missing",
        ("web2", "shop"): "done",
        ("lb1", ""): "nothing to do",
    }
    assert "Connection refused" in ran.message("db1", "orders")
    assert (ran.failed("db1"), ran.failed("web1"), ran.failed("web2"), ran.failed("lb1")) == (True, True, False, False)
    assert "4 hosts, 5 jobs: " in ran.output and "Not done: 2 of 5, on db1 and web1." in ran.output
    (entry,) = [one for one in ran.ledger["entries"] if (one["host"], one["job"]) == ("web2", "shop")]
    assert entry["backup"] and entry["bytes"] > 0 and ran.ledger["failed"] is True


def test_a_host_that_is_down_is_told_of_by_the_controller_and_no_other_one(fleet: Fleet) -> None:
    with web_server() as receiver:
        channels = [{"name": "hook", "type": "webhook", "url": f"{receiver.url}/sesame"}]
        channels.append({**channels[0], "name": "shops", "jobs": ["shop"]})
        told = {host: {"fleet_backup_notifications": channels} for host in fleet.hosts}
        ran = fleet.play("backup", hosts=told)
        (event,) = (request.json for request in receiver.requests)
        assert (event["host"], event["job"], event["event"]) == ("db1", "orders", "failure")
        assert "Connection refused" in event["message"] and "sesame" not in ran.output
        fleet.play("backup", "--check", hosts=told)
        assert len(receiver.requests) == 1
    gone = fleet.play("backup", hosts=told)
    assert "hook was not told of db1" in gone.output and "sesame" not in gone.output


def test_a_host_of_which_all_is_broken_stops_no_other_one(fleet: Fleet) -> None:
    broken = {
        "web1": {"fleet_backup_jobs": "{{ what_nobody_defined }}"},
        **fleet.pretend("web2", "print('Welcome to web2!')"),
        "lb1": {"fleet_backup_jobs": [{"name": "a"}], "agent_path": "/nowhere/fleet-backup"},
    }
    ran = fleet.play("backup", hosts=broken)
    assert ran.outcomes == {
        ("db1", "orders"): "unreachable",
        ("web1", ""): "failed",
        ("web2", "shop"): "failed",
        ("web2", "daily"): "failed",
        ("lb1", "a"): "missing",
    }, ran.output
    assert "what_nobody_defined" in ran.message("web1", "")
    assert "cannot be read: 'Welcome to web2!'" in ran.message("web2", "shop")
    assert ran.status != 0


def test_check_mode_says_what_would_be_done_and_does_nothing(fleet: Fleet) -> None:
    fleet.agent("web2", "run", "--all")
    before = fleet.worlds["web2"].files()
    ran = fleet.play("backup", "--check", "-l", "web2")
    assert ran.status == 0
    assert ran.outcomes == {("web2", "shop"): "done", ("web2", "daily"): "nothing to do"} and ran.changed("web2") == 1
    assert "would be taken" in ran.message("web2", "shop")
    ran = fleet.play("backup", "--check", "-l", "web2", fleet_backup_only=["daily"])
    assert ran.outcomes == {("web2", "daily"): "nothing to do"} and ran.changed("web2") == 0 and ran.status == 0
    assert fleet.worlds["web2"].files() == before


def test_only_jobs_that_are_chosen_run_in_the_background_too(fleet: Fleet) -> None:
    ran = fleet.play("backup", fleet_backup_only=["shop"], fleet_backup_async=600, fleet_backup_poll=1)
    assert ran.status == 0, ran.output
    assert ran.outcomes == {
        ("db1", ""): "nothing to do",
        ("web1", "shop"): "done",
        ("web2", "shop"): "done",
        ("lb1", ""): "nothing to do",
    }


def test_a_chosen_job_that_its_host_does_not_have_yet_is_missing_and_the_others_run(fleet: Fleet) -> None:
    jobs = fleet.hosts["web1"]["fleet_backup_jobs"]
    more = {"web1": {"fleet_backup_jobs": [*jobs, fleet.job("web1", name="orders")]}}
    ran = fleet.play("backup", "-l", "web1", hosts=more, fleet_backup_only=["shop", "orders"])
    assert ran.status != 0
    assert ran.outcomes == {("web1", "shop"): "done", ("web1", "orders"): "missing"}


def test_a_key_stays_while_jobs_need_it_and_goes_when_they_do_not(tmp_path: Path) -> None:
    made = Fleet(tmp_path)
    made.add("web1")
    keys = [{"name": "ops", "public": made.worlds["web1"].public}]
    named = {"web1": {"fleet_backup_jobs": [made.job("web1", encryption={"recipients": ["ops"]})]}}
    path = made.worlds["web1"].root / "etc" / "keys" / "ops.pem.pub"
    assert made.play("deploy", "-l", "web1", hosts=named, fleet_backup_keys=keys).status == 0
    # The inventory forgets the key, and not the job that names it.
    ran = made.play("deploy", "-l", "web1", hosts=named, fleet_backup_keys=[])
    assert ran.status != 0 and ran.changed("web1") == 0 and "ops" in ran.message("web1", "shop"), ran.output
    assert path.exists()
    made.agent("web1", "run", "shop")
    ran = made.play("deploy", "-l", "web1", fleet_backup_keys=[])
    assert ran.status == 0 and not path.exists(), ran.output
    made.agent("web1", "run", "shop")


def test_a_name_that_no_job_has_is_an_error(fleet: Fleet) -> None:
    ran = fleet.play("backup", fleet_backup_only=["shpo"])
    assert ran.status != 0 and ran.outcomes[("", "shpo")] == "missing"
    ran = fleet.play("backup", fleet_backup_only={"shop": True})
    assert ran.status != 0 and "fleet_backup_only" in ran.output and not ran.outcomes


def test_backups_are_rotated(fleet: Fleet) -> None:
    fleet.agent("web2", "run", "shop")
    fleet.agent("web2", "run", "shop")
    ran = fleet.play("rotate", "-l", "web2", fleet_backup_only=["shop"])
    assert ran.outcomes == {("web2", "shop"): "done"} and "1 kept" in ran.message("web2", "shop")


#: An agent that looks for the key that it is sent in all places where it must not be.
SPY = """
import json, os, pathlib, sys
key = sys.stdin.read()
root = pathlib.Path(__file__).parent
found = [str(path) for path in (root / "tmp").rglob("*") if path.is_file() and key.encode() in path.read_bytes()]
told = "".join(pathlib.Path(f"/proc/{number}/cmdline").read_text() for number in ("self", os.getppid()))
print(json.dumps([{"job": "shop", "verb": "verify", "changed": True, "error": None, "warnings": [], "seconds": 0,
                   "message": f"{len(key)} characters, {found}, {'PRIVATE' in told}, {sys.argv[1:]}"}]))
"""


def test_a_private_key_reaches_the_agent_by_its_standard_input_and_stays_nowhere(fleet: Fleet) -> None:
    key = fleet.worlds["web1"].private
    given = {"fleet_backup_identity": key, "fleet_backup_level": "restore"}
    spied = fleet.play("verify", "-l", "web1", hosts=fleet.pretend("web1", SPY), **given)
    message = spied.message("web1", "shop")
    assert message.startswith(f"{len(key)} characters, [], False, ")
    assert "'--level', 'restore', '--identity', '-'" in message
    fleet.agent("web1", "run", "shop")
    assert fleet.play("verify", "-l", "web1").outcomes == {("web1", "shop"): "unverifiable"}
    ran = fleet.play("verify", "-l", "web1", "-vvv", "--diff", fleet_backup_identity=key)
    assert ran.outcomes == {("web1", "shop"): "done"}, ran.output
    assert key.splitlines()[1] not in ran.output
    assert not list((fleet.worlds["web1"].root / "tmp").rglob("*.py"))
    ran = fleet.play("verify", "-l", "web1", fleet_backup_identity=key, fleet_backup_async=60)
    assert ran.status != 0 and "exclude each other" in ran.output
    asked = {"fleet_backup_restore_host": "web1", "fleet_backup_restore_job": "shop"}
    for ran in (
        fleet.play("verify", "-l", "web1", fleet_backup_identity_file="/gone/ops.pem"),
        fleet.play("restore", fleet_backup_identity_file="/gone/ops.pem", **asked),
    ):
        assert ran.status != 0 and "the controller has no file /gone/ops.pem. Name the file" in ran.output


def restoring(fleet: Fleet, *options: str, hosts: Any = None, **variables: Any) -> Ran:
    return fleet.play(
        "restore",
        *options,
        hosts=hosts,
        **{
            "fleet_backup_restore_host": "web2",
            "fleet_backup_restore_job": "shop",
            "fleet_backup_restore_replace": True,
            "fleet_backup_identity": fleet.worlds["web2"].private,
            **variables,
        },
    )


def test_a_database_is_replaced_only_by_whoever_names_it(fleet: Fleet) -> None:
    fleet.agent("web2", "run", "shop")
    fleet.lose_orders("web2")
    unnamed = restoring(fleet)
    assert unnamed.status != 0 and "fleet_backup_restore_confirm=shop.db" in unnamed.output
    wrong = restoring(fleet, fleet_backup_restore_confirm="shop")
    assert wrong.status != 0 and "is not the name" in wrong.output
    absent = restoring(fleet, fleet_backup_restore_replace=False)
    assert absent.status != 0 and "it exists" in absent.output and "fleet_backup_restore_replace" in absent.output
    planned = restoring(fleet, "--check")
    assert planned.status == 0 and planned.changed("web2") == 1
    assert fleet.orders("web2") == 0
    ran = restoring(fleet, fleet_backup_restore_confirm="shop.db")
    assert ran.status == 0, ran.output
    assert ran.outcomes == {("web2", "shop"): "done"} and "fleet-backup restore shop --backup" in ran.output
    assert fleet.orders("web2") == 100


def test_a_restore_beside_the_database_needs_no_name_but_on_a_production_host(fleet: Fleet) -> None:
    fleet.agent("web2", "run", "shop")
    beside = {"fleet_backup_restore_replace": False}
    copy = fleet.worlds["web2"].root / "data" / "copy.db"
    production = {"web2": {"fleet_backup_production": True}}
    ran = restoring(fleet, hosts=production, fleet_backup_restore_into=str(copy), **beside)
    assert ran.status != 0 and "production host" in ran.output and not copy.exists()
    ran = restoring(fleet, fleet_backup_restore_into=str(copy), **beside)
    assert ran.status == 0 and copy.exists(), ran.output


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"fleet_backup_restore_host": "web*"}, "is no host of this run"),
        ({"fleet_backup_restore_jub": "shop"}, "fleet_backup_restore_jub"),
        ({"fleet_backup_restore_job": "orders"}, "There is no job"),
    ],
)
def test_a_restore_that_cannot_be_meant_is_refused(fleet: Fleet, variables: dict[str, Any], says: str) -> None:
    ran = restoring(fleet, **variables)
    assert ran.status != 0 and says in ran.output, ran.output


def test_on_a_terminal_the_name_is_asked_for(fleet: Fleet) -> None:
    fleet.agent("web2", "run", "shop")
    fleet.lose_orders("web2")
    command = fleet.command(
        "restore",
        fleet_backup_restore_host="web2",
        fleet_backup_restore_job="shop",
        fleet_backup_restore_replace=True,
        fleet_backup_identity=fleet.worlds["web2"].private,
    )
    child, terminal = pty.fork()
    if child == 0:
        os.execvpe(command[0], command, fleet.environment)
    output = b""
    while b"to go on" not in output.rpartition(b"TASK")[2]:
        output += os.read(terminal, 4096)
    # What is typed in the moment between the prompt and the reading of it, Ansible throws away.
    typed = 0
    try:
        while True:
            if not select.select([terminal], [], [], 5 if typed else 0.5)[0]:
                assert typed < 10, output.decode()
                os.write(terminal, b"shop.db\r")
                typed += 1
            elif not (piece := os.read(terminal, 4096)):
                break
            else:
                output += piece
    except OSError:
        # The other end of the terminal is closed (EIO).
        pass
    _child, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, output.decode()
    assert fleet.orders("web2") == 100
