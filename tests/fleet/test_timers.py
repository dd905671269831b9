# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hosts back up by themselves, with no controller: on time, and after they were off."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Any, Callable

from databases import deploy, orders, shop
from hosts import Fleet, Host

MINUTELY = {"backup": {"calendar": "minutely"}}


def wait_for_backup(host: Host, job: str, more_than: int = 0) -> list[dict[str, Any]]:
    """The job's backups, once there are more than so many."""
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        found = host.backups(job)
        if len(found) > more_than:
            return found
        time.sleep(2)
    raise AssertionError(host.run(["journalctl", "--no-pager", "--unit", f"fleet-backup-backup-{job}*"]))


def test_a_job_that_is_due_every_minute_makes_backups_by_itself(start_fleet: Callable[..., Fleet]) -> None:
    fleet = start_fleet(old=11, new=13)
    for host in fleet:
        fleet.variables[host.name]["fleet_backup_jobs"] = [shop(schedule=MINUTELY), orders(schedule=MINUTELY)]
    deploy(fleet)
    for host in fleet:
        for job in ("shop", "orders"):
            wait_for_backup(host, job)
            log = host.run(["journalctl", "--no-pager", "--unit", f"fleet-backup-backup-{job}.service"])
            assert f"Starting Back up {job}" in log or f"Starting fleet-backup-backup-{job}.service" in log


def test_cron_makes_backups_where_a_host_has_no_timers(start_fleet: Callable[..., Fleet]) -> None:
    fleet = start_fleet(web1=12)
    fleet.variables["web1"] = {
        "fleet_backup_jobs": [shop(schedule={"backup": {"cron": "* * * * *"}})],
        "schedule_manager": "cron",
    }
    deploy(fleet)
    assert fleet["web1"].run(["systemctl", "list-timers", "--all", "--no-legend", "fleet-backup-*"]) == ""
    wait_for_backup(fleet["web1"], "shop")


def test_a_host_that_was_off_at_the_moment_catches_up_when_it_starts(start_fleet: Callable[..., Fleet]) -> None:
    fleet = start_fleet(web1=12)
    host = fleet["web1"]
    deploy(fleet)
    # The deployment takes its time, so that only now can a moment be chosen that is soon.
    due = int(time.time()) + 30
    calendar = datetime.fromtimestamp(due, tz=timezone.utc).strftime("*-*-* %H:%M:%S UTC")
    timer = "fleet-backup-backup-shop.timer"
    host.write(f"/etc/systemd/system/{timer}.d/soon.conf", f"[Timer]\nOnCalendar=\nOnCalendar={calendar}\n")
    host.run(["systemctl", "daemon-reload"])
    host.run(["systemctl", "restart", timer])
    host.stop()
    assert time.time() < due, "Switching the host off took too long for what this test is about."
    time.sleep(due + 2 - time.time())
    host.start()
    (backup,) = wait_for_backup(host, "shop")
    assert datetime.fromisoformat(backup["started"].replace("Z", "+00:00")).timestamp() >= due
    # What was not due is not done.
    assert host.backups("orders") == []
