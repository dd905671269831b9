# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role that sets timers or lines of cron: idempotent, honest in check mode, and it takes away what it made.

What needs a running systemd, tests/fleet has. Here, everything is below one directory.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SYSTEMD_RUNS = Path("/run/systemd/system").exists()
DAILY = {"every": "daily", "at": "02:00", "window": "4h"}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="units belong to root")


class Fleet:
    """A fleet of this machine alone, or of hosts that are this machine, each below a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.root = directory
        self.units, self.stamps, self.cron = self.directories()
        parent = directory / "collections" / "ansible_collections" / "fleet"
        parent.mkdir(parents=True)
        (parent / "backup").symlink_to(ROOT)
        self.shop = self.job("shop", backup=DAILY, rotate=DAILY)
        self.orders = self.job("orders", backup=DAILY)

    def directories(self, host: str = "localhost") -> tuple[Path, Path, Path]:
        """Those of units, of stamps and of cron."""
        found = (self.root / host / "units", self.root / host / "stamps", self.root / host / "cron.d")
        for path in found:
            path.mkdir(parents=True, exist_ok=True)
        return found

    def job(self, name: str, **schedule: Any) -> dict[str, Any]:
        return {
            "name": name,
            "engine": "sqlite",
            "database": f"/srv/{name}/{name}.db",
            "repositories": [{"path": "/srv/backups"}],
            "encryption": {"method": "none"},
            "schedule": schedule,
        }

    def deploy(
        self,
        *jobs: dict[str, Any],
        options: tuple[str, ...] = (),
        fails: bool = False,
        hosts: dict[str, dict[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """Run the role on this machine, or on hosts with variables of their own; all that Ansible says."""
        inventory = {}
        for host, own in (hosts or {"localhost": {}}).items():
            units, stamps, cron = self.directories(host)
            inventory[host] = {
                "ansible_connection": "local",
                "ansible_python_interpreter": sys.executable,
                "fleet_backup_jobs": list(jobs),
                "schedule_manager": "systemd",
                "schedule_unit_directory": str(units),
                "schedule_stamp_directory": str(stamps),
                "schedule_cron_file": str(cron / "fleet-backup"),
                "schedule_activate": False,
                "schedule_packages": False,
                **variables,
                **own,
            }
        (self.root / "hosts.json").write_text(json.dumps({"all": {"hosts": inventory}}))
        play = {"hosts": "all", "gather_facts": False, "roles": ["fleet.backup.schedule"]}
        (self.root / "deploy.yml").write_text(yaml.safe_dump([play]))
        done = subprocess.run(
            ["ansible-playbook", "-i", str(self.root / "hosts.json"), str(self.root / "deploy.yml"), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(self.root / "collections")},
            text=True,
            check=False,
        )
        assert (done.returncode != 0) is fails, done.stdout
        return done.stdout

    def files(self, host: str = "localhost") -> dict[str, int]:
        """All files of the role and their modes; 0 for what starts with the timers."""
        found = {}
        units, *others = self.directories(host)
        for directory in (units, *others):
            for path in directory.rglob("*"):
                if path.is_symlink():
                    found[path.name] = found.get(path.name, 0)
                    assert path.resolve() == units / path.name
                elif path.is_file():
                    found[path.name] = stat.S_IMODE(path.stat().st_mode)
        return found

    def enabled(self) -> set[str]:
        return {path.name for path in (self.units / "timers.target.wants").glob("*")}


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def changed(output: str) -> int:
    return int(re.search(r"changed=(\d+)", output).group(1))  # type: ignore[union-attr]


def reason(output: str, host: str) -> str:
    """Why a host failed."""
    failures = re.findall(rf"^(?:fatal|failed): \[{host}\].*?=> (.*?)^(?=\S|$)", output, re.MULTILINE | re.DOTALL)
    return " ".join(" ".join(failures).split()).replace('\\"', '"')


SHOP_UNITS = {
    f"fleet-backup-{work}.{kind}": 0o644
    for work in ("backup-shop", "rotate-shop", "health")
    for kind in ("service", "timer")
}
ORDERS_UNITS = {f"fleet-backup-backup-orders.{kind}": 0o644 for kind in ("service", "timer")}


def test_units_are_foretold_set_and_left_alone_the_second_time(fleet: Fleet) -> None:
    predicted = changed(fleet.deploy(fleet.shop, fleet.orders, options=("--check",)))
    assert fleet.files() == {}
    assert changed(fleet.deploy(fleet.shop, fleet.orders)) == predicted > 0
    assert fleet.files() == {**SHOP_UNITS, **ORDERS_UNITS}
    assert fleet.enabled() == {name for name in fleet.files() if name.endswith(".timer")}
    assert changed(fleet.deploy(fleet.shop, fleet.orders)) == 0
    unit = fleet.units / "fleet-backup-backup-shop.timer"
    before = unit.read_text()
    unit.write_text(before.replace("true", "false"))
    assert changed(fleet.deploy(fleet.shop, fleet.orders)) == 1
    assert unit.read_text() == before


def test_a_job_that_leaves_the_inventory_loses_its_units_and_nobody_elses_are_touched(fleet: Fleet) -> None:
    fleet.deploy(fleet.shop, fleet.orders)
    (fleet.units / "fleet-backup-mine.timer").write_text("[Timer]\nOnCalendar=daily\n")
    (fleet.units / "fleet-backup-backup-shop.service.d").mkdir()
    (fleet.units / "fleet-backup-backup-shop.service.d" / "mine.conf").write_text("[Service]\nNice=0\n")
    (fleet.stamps / "stamp-fleet-backup-backup-orders.timer").write_text("")
    (fleet.cron / "fleet-backup").write_text("0 0 * * * root /bin/true\n")
    mine = {"fleet-backup-mine.timer": 0o644, "mine.conf": 0o644, "fleet-backup": 0o644}
    fleet.deploy(fleet.shop)
    assert fleet.files() == {**SHOP_UNITS, **mine}
    fleet.deploy(fleet.shop, fleet_backup_state="absent")
    assert fleet.files() == mine and fleet.enabled() == set()
    assert changed(fleet.deploy(fleet.shop, fleet_backup_state="absent")) == 0


def test_cron_takes_over_from_systemd_and_gives_back(fleet: Fleet) -> None:
    fleet.deploy(fleet.shop)
    predicted = changed(fleet.deploy(fleet.shop, options=("--check",), schedule_manager="cron"))
    assert changed(fleet.deploy(fleet.shop, schedule_manager="cron")) == predicted > 0
    assert fleet.files() == {"fleet-backup": 0o644}
    assert changed(fleet.deploy(fleet.shop, schedule_manager="cron")) == 0
    text = (fleet.cron / "fleet-backup").read_text()
    assert text.startswith("# Made by fleet.backup\n") and text.endswith("fleet-backup\n")
    assert re.search(r"^\d+ \d+ \* \* \* root /usr/local/bin/fleet-backup run shop ", text, re.MULTILINE)
    fleet.deploy(fleet.shop)
    assert fleet.files() == SHOP_UNITS


def test_where_no_systemd_runs_what_was_set_while_it_ran_can_be_taken_away(fleet: Fleet) -> None:
    if SYSTEMD_RUNS:
        pytest.skip("systemd runs on this machine")
    fleet.deploy(fleet.shop)
    fleet.deploy(fleet.shop, schedule_activate=True, fleet_backup_state="absent")
    assert fleet.files() == {}


ONLY_CRON: dict[str, Any] = {"backup": {"cron": "0 2 * * *"}}
WRONG_CALENDAR: dict[str, Any] = {"backup": {"calendar": "Mon..Fry 02:00"}}
#: Variables of a host, the schedule of its job, and what is said of it.
REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, WRONG_CALENDAR, r"{host}: job shop: schedule\.backup: calendar cannot be used: .*Failed to parse calendar"),
    ({}, ONLY_CRON, r"{host}: job shop: schedule\.backup: cron alone is given, and systemd needs calendar"),
    (
        {"schedule_manager": "cron", "schedule_health": {"every": "never"}},
        ONLY_CRON,
        '{host}: schedule_health: every cannot be used: "never',
    ),
    ({"schedule_manager": "launchd"}, {}, "value of schedule_manager must be one of"),
    (
        {"schedule_manager": "cron", "schedule_cron_file": "/nowhere/cron.d/fleet-backup"},
        {},
        "{host} has no directory .*Install a cron",
    ),
    ({"agent_owner": "nobody"}, {}, "agent_owner is nobody, and timers start the agent as root"),
    (
        {"agent_owner": "nobody", "schedule_manager": "cron"},
        {},
        "agent_owner is nobody, and timers start the agent as root",
    ),
]
if not SYSTEMD_RUNS:
    REFUSED.append(({"schedule_activate": True}, {}, "{host}: systemd does not run on this host.*schedule_manager"))


@pytest.mark.parametrize("options", [(), ("--check",)], ids=["run", "check"])
def test_what_cannot_be_meant_or_done_is_named_before_anything_is_changed(
    fleet: Fleet, options: tuple[str, ...]
) -> None:
    hosts = {
        f"web{number}": {"fleet_backup_jobs": [fleet.job("shop", **(schedule or {"backup": DAILY}))], **variables}
        for number, (variables, schedule, _says) in enumerate(REFUSED)
    }
    output = fleet.deploy(hosts=hosts, options=options, fails=True)
    for host, (_variables, _schedule, says) in zip(hosts, REFUSED):
        assert re.search(says.replace("{host}", host), reason(output, host)), (host, output)
        assert fleet.files(host) == {}
    assert "Mon..Fry 02:00" in output


def test_a_calendar_and_settings_of_the_users_own_are_in_the_units(fleet: Fleet) -> None:
    options = {"Nice": 0, "PrivateDevices": False, "ReadWritePaths": ["/srv/a", "/srv/b"]}
    orders = fleet.job("orders", backup={"calendar": "Mon..Fri 02:00"})
    fleet.deploy(fleet.shop, orders, schedule_service_options=options, schedule_health=False)
    assert not list(fleet.units.glob("fleet-backup-health.*"))
    services = list(fleet.units.glob("*.service"))
    assert len(services) == 3
    for service in services:
        assert service.read_text().endswith("Nice=0\nPrivateDevices=no\nReadWritePaths=/srv/a\nReadWritePaths=/srv/b\n")
    timer = (fleet.units / "fleet-backup-backup-orders.timer").read_text()
    assert "\nOnCalendar=Mon..Fri 02:00\n" in timer
