# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role that sets timers or lines of cron: idempotent, honest in check mode, and it takes away what it made.

What needs a running systemd, tests/fleet has. Here, everything is below one directory.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DAILY = {"every": "daily", "at": "02:00", "window": "4h"}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="units belong to root")


class Fleet:
    """A fleet of this machine alone."""

    def __init__(self, directory: Path) -> None:
        self.root = directory
        self.units, self.stamps, self.cron = directory / "units", directory / "stamps", directory / "cron.d"
        for made in (self.units, self.stamps, self.cron):
            made.mkdir()
        parent = directory / "collections" / "ansible_collections" / "fleet"
        parent.mkdir(parents=True)
        (parent / "backup").symlink_to(ROOT)
        self.shop = self.job("shop", backup=DAILY, rotate=DAILY)
        self.orders = self.job("orders", backup=DAILY)

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
        self, *jobs: dict[str, Any], options: tuple[str, ...] = (), fails: bool = False, **variables: Any
    ) -> str:
        """Run the role; all that Ansible says."""
        play = {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "vars": {
                "fleet_backup_jobs": list(jobs),
                "schedule_manager": "systemd",
                "schedule_unit_directory": str(self.units),
                "schedule_stamp_directory": str(self.stamps),
                "schedule_cron_file": str(self.cron / "fleet-backup"),
                "schedule_activate": False,
                "schedule_packages": False,
                **variables,
            },
            "roles": ["fleet.backup.schedule"],
        }
        (self.root / "deploy.yml").write_text(yaml.safe_dump([play]))
        done = subprocess.run(
            ["ansible-playbook", str(self.root / "deploy.yml"), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(self.root / "collections")},
            text=True,
            check=False,
        )
        assert (done.returncode != 0) is fails, done.stdout
        return done.stdout

    def files(self) -> dict[str, int]:
        """All files of the role and their modes; 0 for what starts with the timers."""
        found = {}
        for directory in (self.units, self.stamps, self.cron):
            for path in directory.rglob("*"):
                if path.is_symlink():
                    found[path.name] = found.get(path.name, 0)
                    assert path.resolve() == self.units / path.name
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
    mine = {"fleet-backup-mine.timer": 0o644, "mine.conf": 0o644}
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


@pytest.mark.parametrize("manager", ["systemd", "cron"])
def test_root_starts_no_agent_that_another_account_can_change(fleet: Fleet, manager: str) -> None:
    output = fleet.deploy(fleet.shop, agent_owner="nobody", schedule_manager=manager, fails=True)
    assert "agent_owner is nobody, and timers start the agent as root" in " ".join(output.split())
    assert fleet.files() == {}


def test_a_file_of_cron_that_somebody_else_made_stays(fleet: Fleet) -> None:
    (fleet.cron / "fleet-backup").write_text("0 0 * * * root /bin/true\n")
    fleet.deploy(fleet.shop, fleet_backup_state="absent")
    assert fleet.files() == {"fleet-backup": 0o644}


def test_where_no_systemd_runs_it_is_said(fleet: Fleet) -> None:
    if Path("/run/systemd/system").exists():
        pytest.skip("systemd runs on this machine")
    output = fleet.deploy(fleet.shop, schedule_activate=True, fails=True)
    assert "localhost: systemd does not run on this host" in output and "schedule_manager" in output
    output = fleet.deploy(fleet.shop, options=("--check",), schedule_activate=True, fails=True)
    assert "localhost: systemd does not run on this host" in output
    assert fleet.files() == {}
    # What was set while it ran can be taken away.
    fleet.deploy(fleet.shop)
    fleet.deploy(fleet.shop, schedule_activate=True, fleet_backup_state="absent")
    assert fleet.files() == {}


def test_where_there_is_no_cron_either_it_is_said(fleet: Fleet) -> None:
    nowhere = str(fleet.root / "none" / "fleet-backup")
    output = fleet.deploy(fleet.shop, schedule_manager="cron", schedule_cron_file=nowhere, fails=True)
    assert "localhost has no directory" in output and "Install a cron" in output


def test_a_calendar_that_systemd_does_not_know_is_named_before_anything_is_changed(fleet: Fleet) -> None:
    wrong = fleet.job("orders", backup={"calendar": "Mon..Fry 02:00"})
    for options in ((), ("--check",)):
        output = fleet.deploy(fleet.shop, wrong, options=options, fails=True)
        assert "localhost: job orders: schedule.backup: calendar cannot be used: " in output
        assert "Failed to parse calendar" in output and "Mon..Fry 02:00" in output
        assert fleet.files() == {}
    fleet.deploy(fleet.job("orders", backup={"calendar": "Mon..Fri 02:00"}))
    timer = (fleet.units / "fleet-backup-backup-orders.timer").read_text()
    assert "\nOnCalendar=Mon..Fri 02:00\n" in timer


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({}, "localhost: job shop: schedule.backup: cron alone is given, and systemd needs calendar"),
        (
            {"schedule_manager": "cron", "schedule_health": {"every": "never"}},
            r'localhost: schedule_health: every cannot be used: \\?"never',
        ),
        ({"schedule_manager": "launchd"}, "value of schedule_manager must be one of"),
    ],
)
def test_what_cannot_be_meant_fails_on_the_controller_by_name(
    fleet: Fleet, variables: dict[str, Any], says: str
) -> None:
    output = fleet.deploy(fleet.job("shop", backup={"cron": "0 2 * * *"}), fails=True, **variables)
    assert re.search(says, output), output
    assert fleet.files() == {}


def test_settings_of_the_users_own_are_in_every_service(fleet: Fleet) -> None:
    options = {"Nice": 0, "ReadWritePaths": ["/srv/a", "/srv/b"], "PrivateDevices": False}
    fleet.deploy(fleet.shop, schedule_service_options=options, schedule_health=False)
    assert not list(fleet.units.glob("fleet-backup-health.*"))
    services = list(fleet.units.glob("*.service"))
    assert len(services) == 2
    for service in services:
        assert service.read_text().endswith("Nice=0\nPrivateDevices=no\nReadWritePaths=/srv/a\nReadWritePaths=/srv/b\n")
