# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hosts are spread over a window by their names, and stay where they are."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Dict

import pytest

from _engine.agent.fields import Fields
from _engine.agent.schedule import Every, Schedule, read_schedule
from _engine.errors import BadInput

HOSTS = [f"db{number}.example.com/shop/backup" for number in range(1000)]


def test_a_thousand_hosts_are_spread_evenly_over_the_window_and_never_leave_it() -> None:
    schedule = Schedule(Every.DAILY, at=22 * 3600, window=4 * 3600)
    hours = Counter(schedule.systemd(host)[6:8] for host in HOSTS)
    assert set(hours) == {"22", "23", "00", "01"}
    assert max(hours.values()) < 2 * min(hours.values())
    assert len({schedule.systemd(host) for host in HOSTS}) > 900


def test_a_host_stays_where_it_is_whoever_else_joins_and_cron_says_the_same_minute() -> None:
    schedule = Schedule(Every.DAILY, at=2 * 3600, window=4 * 3600)
    assert schedule.systemd(HOSTS[7]) == "*-*-* 04:10:14"
    assert schedule.cron(HOSTS[7]) == "10 4 * * *"


@pytest.mark.parametrize(
    ("schedule", "systemd", "cron"),
    [
        (Schedule(Every.HOURLY, at=15 * 60), "*-*-* *:15:00", "15 * * * *"),
        (Schedule(Every.DAILY, at=2 * 3600 + 1800), "*-*-* 02:30:00", "30 2 * * *"),
        (Schedule(Every.WEEKLY, at=3 * 3600, weekday=6), "Sun *-*-* 03:00:00", "0 3 * * 0"),
        (Schedule(Every.WEEKLY, at=3 * 3600, weekday=0), "Mon *-*-* 03:00:00", "0 3 * * 1"),
        (Schedule(Every.MONTHLY, at=60, day=27), "*-*-27 00:01:00", "1 0 27 * *"),
    ],
)
def test_without_a_window_work_begins_when_it_is_said(schedule: Schedule, systemd: str, cron: str) -> None:
    assert schedule.systemd("any") == systemd
    assert schedule.cron("any") == cron


def test_a_window_past_midnight_leads_into_the_next_day() -> None:
    weekly = Schedule(Every.WEEKLY, at=23 * 3600, window=2 * 3600, weekday=6)
    assert {weekly.systemd(host)[:7] for host in HOSTS} == {"Sun *-*", "Mon *-*"}
    assert {weekly.cron(host)[-1] for host in HOSTS} == {"0", "1"}
    monthly = Schedule(Every.MONTHLY, at=23 * 3600, window=2 * 3600, day=27)
    assert {monthly.systemd(host)[:6] for host in HOSTS} == {"*-*-27", "*-*-28"}


def test_an_hourly_window_stays_within_the_hour() -> None:
    hourly = Schedule(Every.HOURLY, at=50 * 60, window=3600)
    assert all(re.fullmatch(r"\*-\*-\* \*:[0-5][0-9]:[0-5][0-9]", hourly.systemd(host)) for host in HOSTS)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "every .*missing"),
        ({"every": "sometimes"}, '"sometimes" is none of hourly, daily'),
        ({"every": "daily", "at": "2:30"}, 'at .*"2:30" is no time of day'),
        ({"every": "daily", "at": "24:00"}, "no time of day"),
        ({"every": "hourly", "at": "01:00"}, "a minute of each hour"),
        ({"every": "daily", "window": "25h"}, "spread over more than 24h"),
        ({"every": "hourly", "window": "2h"}, "spread over more than 1h"),
        ({"every": "daily", "weekday": "Mon"}, "for weekly work"),
        ({"every": "weekly", "weekday": "Monday"}, "one of Mon, Tue"),
        ({"every": "monthly", "day": 31}, "a day from 1 to 27"),
        ({"every": "daily", "day": 1}, "for monthly work"),
    ],
)
def test_a_schedule_that_cannot_be_meant_is_refused(options: Dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=f"^shop: .*{says}"):
        read_schedule(Fields(options, "shop"))


def test_a_schedule_is_read_as_it_is_written() -> None:
    options = {"every": "weekly", "at": "23:30", "weekday": "Sat", "window": "90m"}
    assert read_schedule(Fields(options, "shop")) == Schedule(Every.WEEKLY, 23 * 3600 + 1800, 5400, 5)
