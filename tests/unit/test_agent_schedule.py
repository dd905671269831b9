# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hosts are spread over a window by their names, and stay where they are."""

from __future__ import annotations

import re
import time
from collections import Counter
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any, Dict, FrozenSet, Iterator, List, Optional, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _engine.agent.config.cron import parse_cron
from _engine.agent.config.fields import Fields
from _engine.agent.config.schedule import Every, Expression, Spread, read_schedule
from _engine.errors import BadInput

HOSTS = [f"db{number}.example.com/shop/backup" for number in range(1000)]


def test_a_thousand_hosts_are_spread_evenly_over_the_window_and_never_leave_it() -> None:
    schedule = Spread(Every.DAILY, at=22 * 3600, window=4 * 3600)
    hours = Counter(schedule.systemd(host)[6:8] for host in HOSTS)
    assert set(hours) == {"22", "23", "00", "01"}
    assert max(hours.values()) < 2 * min(hours.values())
    assert len({schedule.systemd(host) for host in HOSTS}) > 900


def test_a_host_stays_where_it_is_whoever_else_joins_and_cron_says_the_same_minute() -> None:
    schedule = Spread(Every.DAILY, at=2 * 3600, window=4 * 3600)
    assert schedule.systemd(HOSTS[7]) == "*-*-* 04:10:14"
    assert schedule.cron(HOSTS[7]) == "10 4 * * *"


@pytest.mark.parametrize(
    ("schedule", "systemd", "cron"),
    [
        (Spread(Every.HOURLY, at=15 * 60), "*-*-* *:15:00", "15 * * * *"),
        (Spread(Every.DAILY, at=2 * 3600 + 1800), "*-*-* 02:30:00", "30 2 * * *"),
        (Spread(Every.WEEKLY, at=3 * 3600, weekday=6), "Sun *-*-* 03:00:00", "0 3 * * 0"),
        (Spread(Every.WEEKLY, at=3 * 3600, weekday=0), "Mon *-*-* 03:00:00", "0 3 * * 1"),
        (Spread(Every.MONTHLY, at=60, day=27), "*-*-27 00:01:00", "1 0 27 * *"),
    ],
)
def test_without_a_window_work_begins_when_it_is_said(schedule: Spread, systemd: str, cron: str) -> None:
    assert schedule.systemd("any") == systemd
    assert schedule.cron("any") == cron


def test_a_window_past_midnight_leads_into_the_next_day() -> None:
    weekly = Spread(Every.WEEKLY, at=23 * 3600, window=2 * 3600, weekday=6)
    assert {weekly.systemd(host)[:7] for host in HOSTS} == {"Sun *-*", "Mon *-*"}
    assert {weekly.cron(host)[-1] for host in HOSTS} == {"0", "1"}
    monthly = Spread(Every.MONTHLY, at=23 * 3600, window=2 * 3600, day=27)
    assert {monthly.systemd(host)[:6] for host in HOSTS} == {"*-*-27", "*-*-28"}


def test_an_hourly_window_stays_within_the_hour() -> None:
    hourly = Spread(Every.HOURLY, at=50 * 60, window=3600)
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
        ({"every": "daily", "calendar": "daily"}, "every .*calendar and cron say all of it"),
        ({"cron": "0 2 * * *", "window": "4h"}, "window .*on every host alike"),
        ({"calendar": 'daily"\nExecStart=/bin/sh'}, "calendar .*no calendar event"),
        ({"calendar": "%n"}, "calendar .*no calendar event"),
        ({"cron": "daily"}, 'cron .*"daily" has 1 fields, and cron five'),
        ({"cron": "60 * * * *"}, 'the minute "60" is none from 0 to 59'),
        ({"cron": "* 24 * * *"}, 'the hour "24" is none from 0 to 23'),
        ({"cron": "* * 0 * *"}, 'the day of the month "0" is none from 1 to 31'),
        ({"cron": "* * * sept *"}, 'the month "sept" is none from 1 to 12'),
        ({"cron": "* * * * 8"}, 'the day of the week "8" is none from 0 to 7'),
        ({"cron": "* * * * fri-mon"}, "ends before it begins"),
        ({"cron": "5/10 * * * *"}, 'the minute "5/10" is none: write'),
        ({"cron": "*/0 * * * *"}, "is none: write"),
        ({"cron": "1,, * * * *"}, "is none: write"),
        ({"cron": "² * * * *"}, "is none from 0 to 59"),
        ({"cron": "0 2 30 feb *"}, "never comes: none of its months has a day 30"),
        ({"cron": "0 2 31 4,6 *"}, "never comes"),
    ],
)
def test_a_schedule_that_cannot_be_meant_is_refused(options: Dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=f"^shop: .*{says}"):
        read_schedule(Fields(options, "shop"))


def test_a_schedule_is_read_as_it_is_written() -> None:
    options = {"every": "weekly", "at": "23:30", "weekday": "Sat", "window": "90m"}
    assert read_schedule(Fields(options, "shop")) == Spread(Every.WEEKLY, 23 * 3600 + 1800, 5400, 5)


def test_what_systemd_or_cron_is_told_as_it_is_is_told_on_every_host_alike() -> None:
    both = read_schedule(Fields({"calendar": "Mon..Fri *-*-* 02:00", "cron": "0  2 * * mon-fri"}, "shop"))
    assert both == Expression("Mon..Fri *-*-* 02:00", "0 2 * * mon-fri")
    assert {(both.systemd(host), both.cron(host)) for host in HOSTS} == {("Mon..Fri *-*-* 02:00", "0 2 * * mon-fri")}
    assert read_schedule(Fields({"calendar": "daily"}, "shop")).cron("any") is None
    assert read_schedule(Fields({"cron": "0 0 * * *"}, "shop")).systemd("any") is None


def zone(name: str) -> tzinfo:
    """A time zone; Python 3.8 has none of its own."""
    module = pytest.importorskip("zoneinfo")
    found: tzinfo = module.ZoneInfo(name)
    return found


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("fields", "now", "last"),
    [
        ("30 2 * * *", "2026-01-05T02:29:59", "2026-01-04T02:30:00"),
        ("30 2 * * *", "2026-01-05T02:30:00", "2026-01-05T02:30:00"),
        ("*/15 * * * *", "2026-01-05T02:44:59", "2026-01-05T02:30:00"),
        ("0 3 * * 7", "2026-01-05T00:00:00", "2026-01-04T03:00:00"),
        ("0 3 1 * *", "2026-01-01T02:00:00", "2025-12-01T03:00:00"),
        ("0 0 29 feb *", "2028-02-28T00:00:00", "2024-02-29T00:00:00"),
        ("0 0 29 feb *", "2104-02-28T00:00:00", "2096-02-29T00:00:00"),
        # Either day will do where both are restricted, and both are needed where one of them begins with a star.
        ("0 0 13 * fri", "2026-03-14T00:00:00", "2026-03-13T00:00:00"),
        ("0 0 13 * fri", "2026-03-26T00:00:00", "2026-03-20T00:00:00"),
        ("0 0 */13 * fri", "2026-03-26T00:00:00", "2026-02-27T00:00:00"),
    ],
)
def test_the_last_moment_of_cron_is_the_one_that_it_names(fields: str, now: str, last: str) -> None:
    assert parse_cron(fields).last(utc(now), timezone.utc) == utc(last)


@pytest.mark.parametrize(
    ("fields", "now", "last"),
    [
        # Clocks jump from 02:00 to 03:00 at 01:00 UTC: what they leave out counts at the jump.
        ("30 2 * * *", "2026-03-29T00:59:00", "2026-03-28T01:30:00"),
        ("30 2 * * *", "2026-03-29T01:00:00", "2026-03-29T01:00:00"),
        ("*/30 * * * *", "2026-03-29T00:59:00", "2026-03-29T00:30:00"),
        ("*/30 * * * *", "2026-03-29T01:10:00", "2026-03-29T01:00:00"),
        # Clocks go back from 03:00 to 02:00 at 01:00 UTC: a time of day counts once, an hour that passes always.
        ("30 2 * * *", "2026-10-25T00:30:00", "2026-10-25T00:30:00"),
        ("30 2 * * *", "2026-10-25T01:30:00", "2026-10-25T00:30:00"),
        ("30 * * * *", "2026-10-25T01:30:00", "2026-10-25T01:30:00"),
    ],
)
def test_where_clocks_jump_a_time_of_day_counts_once(fields: str, now: str, last: str) -> None:
    assert parse_cron(fields).last(utc(now), zone("Europe/Berlin")) == utc(last)


@pytest.mark.parametrize(
    ("now", "last"), [("2010-11-07T02:45:00", "2010-11-07T02:30:00"), ("2010-11-07T03:05:00", "2010-11-07T03:00:00")]
)
def test_where_clocks_go_back_over_midnight_tomorrows_date_lies_behind(now: str, last: str) -> None:
    # From 00:01 on November 7 to 23:01 on November 6, at 02:31 UTC.
    assert parse_cron("*/30 0,23 * * *").last(utc(now), zone("America/St_Johns")) == utc(last)


def test_without_a_zone_the_hosts_own_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    daily = Spread(Every.DAILY, at=2 * 3600 + 1800)
    try:
        monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        assert daily.last("any", utc("2026-07-01T12:00:00")) == utc("2026-07-01T00:30:00")
        assert daily.last("any", utc("2026-03-29T12:00:00")) == utc("2026-03-29T01:00:00")
        assert daily.last("any", utc("2026-10-25T12:00:00")) == utc("2026-10-25T00:30:00")
    finally:
        monkeypatch.undo()
        time.tzset()


def test_what_only_systemd_can_tell_is_not_guessed() -> None:
    assert Expression(calendar="daily").last("any", utc("2026-01-05T00:00:00")) is None


#: Clocks that jump by an hour, by half of one, over midnight, over a whole day, and never.
ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Havana",
    "Africa/Cairo",
    "Pacific/Apia",
    "Asia/Kolkata",
)
Written = Tuple[str, FrozenSet[int]]


@st.composite
def written(draw: st.DrawFn, least: int, greatest: int) -> Written:
    """A field as cron has it, and the numbers that it names."""
    kind = draw(st.sampled_from(["all", "all", "steps", "list", "range"]))
    if kind == "all":
        return "*", frozenset(range(least, greatest + 1))
    if kind == "steps":
        step = draw(st.integers(1, greatest))
        return f"*/{step}", frozenset(range(least, greatest + 1, step))
    if kind == "list":
        numbers = draw(st.sets(st.integers(least, greatest), min_size=1, max_size=5))
        return ",".join(map(str, sorted(numbers))), frozenset(numbers)
    first = draw(st.integers(least, greatest))
    last = draw(st.integers(first, greatest))
    step = draw(st.integers(1, 5))
    return f"{first}-{last}/{step}", frozenset(range(first, last + 1, step))


def names(fields: List[Written], local: datetime) -> bool:
    """Whether an expression names what clocks show, read off crontab(5)."""
    minutes, hours, days, months, weekdays = (numbers for _text, numbers in fields)
    by_month, by_week = local.day in days, local.isoweekday() % 7 in weekdays
    starred = fields[2][0][0] == "*" or fields[4][0][0] == "*"
    right_day = by_month and by_week if starred else by_month or by_week
    return local.minute in minutes and local.hour in hours and local.month in months and right_day


def moments(fields: List[Written], now: datetime, where: tzinfo) -> Iterator[datetime]:
    """Every moment that cron would run at in the three weeks before ``now``, newest first, minute by minute."""
    steady = fields[0][0][0] == "*" or fields[1][0][0] == "*"
    minute = timedelta(minutes=1)
    moment = now.replace(second=0, microsecond=0)
    for _number in range(21 * 1440):
        local, before = moment.astimezone(where), (moment - minute).astimezone(where).replace(tzinfo=None)
        shown = local.replace(tzinfo=None, fold=0)
        skipped = before + minute
        left_out = False
        while not steady and skipped < shown and not left_out:
            left_out = names(fields, skipped)
            skipped += minute
        if left_out or (names(fields, shown) and (steady or not local.fold)):
            yield moment
        moment -= minute


@settings(deadline=None)
@given(
    minutes=written(0, 59),
    hours=written(0, 23),
    days=written(1, 31),
    weekdays=written(0, 6),
    place=st.sampled_from(ZONES),
    jump=st.sampled_from([(2026, 3, 29), (2026, 10, 25), (2026, 3, 8), (2026, 11, 1), (2026, 4, 5), (2011, 12, 31)]),
    after=st.integers(-2 * 86400, 2 * 86400),
)
def test_the_last_moment_is_the_one_that_counting_minutes_finds(
    minutes: Written,
    hours: Written,
    days: Written,
    weekdays: Written,
    place: str,
    jump: Tuple[int, int, int],
    after: int,
) -> None:
    where = zone(place)
    now = datetime(*jump, tzinfo=timezone.utc) + timedelta(seconds=after)
    fields = [minutes, hours, days, ("*", frozenset(range(1, 13))), weekdays]
    text = " ".join(word for word, _numbers in fields)
    found = parse_cron(text).last(now, where)
    expected: Optional[datetime] = next(moments(fields, now, where), None)
    assert found == expected or (expected is None and found is not None and found < now - timedelta(days=20))
