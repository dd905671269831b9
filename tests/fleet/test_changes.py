# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is deployed, changed and taken away again, each on a host of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Iterator

import pytest

from databases import PASSWORD, REPOSITORY, deploy, furnished_fleet, orders, orders_by_password, uninstall
from hosts import Fleet, Host

AGENT = "/usr/local/bin/fleet-backup"
COMPILED = "/usr/local/lib/fleet-backup/code.zip"
EVERYWHERE = ("/etc", "/usr/local", "/var/lib/fleet-backup", "/var/lib/systemd/timers", "/srv")


def times(host: Host, *paths: str) -> dict[str, str]:
    """When each file below the paths was written, and its place on the disk."""
    found = host.run(["find", *paths, "-type", "f", "-printf", "%p\\t%T@ %i\\n"])
    rows = (line.partition("\t") for line in found.splitlines())
    return {path: when for path, _tab, when in rows}


def differences(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {path for path in {**before, **after} if before.get(path) != after.get(path)}


def made_by_us(host: Host) -> list[str]:
    return sorted(
        path for path in host.files("/etc", "/usr/local", "/var/lib/systemd", "/run") if "fleet-backup" in path
    )


@pytest.fixture(scope="module")
def backed_up() -> Iterator[Fleet]:
    """A host whose jobs are deployed, and which has backups. Each test leaves the orders, and may change the rest."""
    with furnished_fleet({"web1": 13}) as fleet:
        deploy(fleet)
        fleet["web1"].agent("run", "--all")
        yield fleet


def test_check_mode_on_bare_hosts_predicts_and_changes_nothing(start_fleet: Callable[..., Fleet]) -> None:
    fleet = start_fleet(old=11, new=13)
    before = {host.name: host.files(*EVERYWHERE) for host in fleet}
    play = deploy(fleet, "--check", "--diff")
    assert all(changed > 0 for changed in play.changed.values()), play.output
    assert "fleet-backup-backup-shop.timer" in play.output
    assert play.output.count("would be deployed") >= 4, "the ledger says so, of two jobs on each host"
    assert {host.name: differences(before[host.name], host.files(*EVERYWHERE)) for host in fleet} == {
        "old": set(),
        "new": set(),
    }
    assert list(fleet.directory.rglob("*.pem")) == []


def test_an_upgrade_replaces_the_agent_and_nothing_else(backed_up: Fleet) -> None:
    host = backed_up["web1"]
    # Listing keeps what it read of manifests, so that comes first.
    backups = len(host.backups("orders"))
    before = times(host, *EVERYWHERE)
    marker = backed_up.collection / "plugins" / "module_utils" / "_engine" / "__init__.py"
    marker.write_text(marker.read_text() + "\n# The next version.\n")
    play = deploy(backed_up)
    assert play.changed == {"web1": 1}, play.output
    assert differences(before, times(host, *EVERYWHERE)) == {AGENT, COMPILED}
    host.agent("run", "--all")
    assert len(host.backups("orders")) == backups + 1


def test_a_job_that_leaves_the_inventory_loses_its_timers_and_keeps_its_backups(backed_up: Fleet) -> None:
    host = backed_up["web1"]
    backups = host.files(REPOSITORY)
    backed_up.variables["web1"]["fleet_backup_jobs"] = [orders()]
    play = deploy(backed_up)
    assert [path for path in made_by_us(host) if "shop" in path] == []
    timers = play.output.index("Timers of what is not scheduled any more are stopped")
    jobs = play.output.index("[fleet.backup.agent : Files of other jobs are gone")
    assert timers < jobs, "a timer that fires meanwhile would find no job"
    assert "shop" not in host.run(["systemctl", "list-units", "--all", "--no-pager", "fleet-backup-*"])
    assert "fleet-backup-backup-orders.timer" in host.run(["systemctl", "list-timers", "--no-pager"])
    assert host.files(REPOSITORY) == backups
    assert any("shop" in path for path in backups)


def test_uninstalling_leaves_nothing_but_all_backups(start_fleet: Callable[..., Fleet]) -> None:
    fleet = start_fleet(old=11, new=12)
    fleet.variables["new"]["schedule_manager"] = "cron"
    deploy(fleet)
    assert "/etc/cron.d/fleet-backup" in fleet["new"].files("/etc/cron.d")
    for host in fleet:
        host.agent("run", "--all")
    backups = {host.name: host.files(REPOSITORY) for host in fleet}
    taken = uninstall(fleet)
    assert "2 hosts, 4 jobs: 4 done" in taken.output
    for host in fleet:
        assert made_by_us(host) == []
        assert "fleet-backup" not in host.run(["systemctl", "list-units", "--all", "--no-pager"])
        assert host.run(["systemctl", "is-system-running"]).strip() == "running"
    assert {host.name: host.files(REPOSITORY) for host in fleet} == backups
    assert uninstall(fleet).changed == {"old": 0, "new": 0}


def test_a_password_that_systemd_decrypts_reaches_the_service_alone(start_fleet: Callable[..., Fleet]) -> None:
    fleet = start_fleet(db1=13)
    host = fleet["db1"]
    sealed = "/etc/credstore.encrypted/orders-password"
    host.run(["install", "--directory", "--mode", "0700", "/etc/credstore.encrypted"])
    host.run(["systemd-creds", "encrypt", "--with-key=host", "--name=orders-password", "-", sealed], stdin=PASSWORD)
    fleet.variables["db1"] = {
        "fleet_backup_jobs": [{**orders_by_password(), "login_password": {"credential": "orders-password"}}],
        "schedule_credentials": {"orders-password": sealed},
    }
    deploy(fleet)
    host.run(["systemctl", "start", "fleet-backup-backup-orders.service"])
    assert len(host.backups("orders")) == 1
    host.run(["grep", "--recursive", "--text", PASSWORD, "/etc", "/var/lib", "/run", "/srv"], fails=True)
    said = host.agent("run", "orders", fails=True)
    assert "systemctl start" in said or "credential" in said, said


def test_two_fleets_at_once_do_not_meet(start_fleet: Callable[..., Fleet]) -> None:
    one, other = start_fleet(web1=12), start_fleet(web1=12)
    one["web1"].write("/etc/mark", "one")
    assert "/etc/mark" not in other["web1"].files("/etc")
    assert one["web1"].address != other["web1"].address
    assert Path(one.directory) != Path(other.directory)
