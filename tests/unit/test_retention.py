# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Retention: the schemes that teams use, days on which clocks are turned, and what no policy may lose.

That counts and spans agree with restic's is tested in tests/integration against restic itself.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Callable, List, Optional, Sequence, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _engine import retention
from _engine.errors import BadInput, MissingTool
from _engine.model import Backup, Decision, Level, Manifest, Outcome, Place, Policy, Proof, Remembered
from _engine.names import make_id

UTC = timezone.utc
NOW = datetime(2026, 3, 15, 11, 20, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def at(text: str) -> datetime:
    """A time in UTC, written ``2026-03-15 11:20`` or with an offset behind."""
    return datetime.fromisoformat(text if text[-6] in "+-" else text + "+00:00").astimezone(UTC)


def backup(time: datetime, number: int = 1, proofs: Sequence[Proof] = (), defect: Optional[str] = None) -> Backup:
    manifest = Manifest(make_id("shop", time, number), "db1", "sqlite", "shop", time, time, ())
    return Backup(Place("db1", "sqlite", "shop"), manifest, tuple(proofs), defect)


def proof(outcome: Outcome, level: Level = Level.RESTORE, hours: int = 0) -> Proof:
    return Proof(level, outcome, NOW + hours * HOUR, "drill1", "3 rows are missing")


def every(step: timedelta, until: str, since: str) -> List[Backup]:
    """Backups from ``until`` back to ``since``, newest first."""
    newest, oldest = at(until), at(since)
    return [backup(newest - step * number) for number in range((newest - oldest) // step + 1)]


def kept(backups: Sequence[Backup], policy: Policy, now: datetime = NOW) -> List[datetime]:
    return [decision.backup.time for decision in retention.plan(backups, policy, now) if decision.keep]


def reasons(backups: Sequence[Backup], policy: Policy, now: datetime = NOW) -> List[Tuple[str, ...]]:
    return [decision.reasons for decision in retention.plan(backups, policy, now)]


# Schemes.


def test_24_hourly_30_daily_12_monthly_of_hourly_backups() -> None:
    backups = every(HOUR, "2026-03-15 11:00", "2025-01-01 00:00")
    hourly = [at("2026-03-15 11:00") - HOUR * number for number in range(24)]
    daily = [at("2026-03-15 11:00"), *(at("2026-03-14 23:00") - DAY * number for number in range(29))]
    months = ("2026-02-28", "2026-01-31", "2025-12-31", "2025-11-30", "2025-10-31", "2025-09-30", "2025-08-31")
    older = ("2025-07-31", "2025-06-30", "2025-05-31", "2025-04-30")
    monthly = [at(f"{day} 23:00") for day in months + older]
    found = kept(backups, Policy(hourly=24, daily=30, monthly=12))
    assert found == sorted({*hourly, *daily, *monthly}, reverse=True)
    assert len(found) == 62
    assert daily[-1] == at("2026-02-14 23:00")


def test_7_daily_4_weekly_12_monthly_of_nightly_backups() -> None:
    backups = every(DAY, "2026-03-15 03:00", "2025-01-01 03:00")
    days = ("2026-03-15", "2026-03-14", "2026-03-13", "2026-03-12", "2026-03-11", "2026-03-10", "2026-03-09")
    sundays = ("2026-03-08", "2026-03-01", "2026-02-22")
    months = ("2026-02-28", "2026-01-31", "2025-12-31", "2025-11-30", "2025-10-31", "2025-09-30", "2025-08-31")
    older = ("2025-07-31", "2025-06-30", "2025-05-31", "2025-04-30")
    expected = sorted((at(f"{day} 03:00") for day in days + sundays + months + older), reverse=True)
    assert kept(backups, Policy(daily=7, weekly=4, monthly=12)) == expected


def test_30_daily_12_weekly_12_monthly_of_nightly_backups() -> None:
    backups = every(DAY, "2026-03-15 03:00", "2025-01-01 03:00")
    days = [at("2026-03-15 03:00") - DAY * number for number in range(30)]
    sundays = [at("2026-03-15 03:00") - 7 * DAY * number for number in range(12)]
    months = ("2026-01-31", "2025-12-31", "2025-11-30", "2025-10-31", "2025-09-30", "2025-08-31", "2025-07-31")
    older = ("2025-06-30", "2025-05-31", "2025-04-30")
    found = kept(backups, Policy(daily=30, weekly=12, monthly=12))
    assert found == sorted({*days, *sundays, *(at(f"{day} 03:00") for day in months + older)}, reverse=True)
    assert len(found) == 47


def test_each_kept_backup_names_every_rule_that_keeps_it() -> None:
    backups = every(12 * HOUR, "2026-03-15 09:00", "2026-03-01 09:00")
    policy = Policy(last=2, within=2 * DAY, daily=4, weekly=2, minimum_keep=1)
    assert reasons(backups, policy)[:9] == [
        ("within 2d", "last", "daily", "weekly", "one of the last 1 good backups (minimum_keep)"),
        ("within 2d", "last", "daily"),
        ("within 2d",),
        ("within 2d", "daily"),
        ("removed: no rule keeps it",),
        ("daily",),
        *[("removed: no rule keeps it",)] * 3,
    ]


def test_the_oldest_backup_stays_while_a_count_is_not_used_up() -> None:
    backups = every(HOUR, "2026-03-15 10:00", "2026-03-15 08:00")
    found = retention.plan(backups, Policy(daily=7), NOW)
    assert [decision.keep for decision in found] == [True, False, True]
    assert found[-1].reasons == ("oldest backup while daily has counts left",)


def test_a_week_belongs_to_one_iso_year_and_a_year_ends_in_december() -> None:
    backups = every(DAY, "2027-01-03 03:00", "2026-12-27 03:00")
    later = at("2027-01-03 04:00")
    assert kept(backups, Policy(weekly=2), later) == [at("2027-01-03 03:00"), at("2026-12-27 03:00")]
    assert kept(backups, Policy(yearly=2), later) == [at("2027-01-03 03:00"), at("2026-12-31 03:00")]


def test_minus_one_keeps_every_period() -> None:
    backups = every(12 * HOUR, "2026-03-15 09:00", "2026-01-01 21:00")
    assert len(kept(backups, Policy(daily=-1))) == 31 + 28 + 15
    assert len(kept(backups, Policy(last=-1))) == len(backups)


def test_within_one_moment_the_later_id_is_the_newer_backup() -> None:
    second = at("2026-03-15 09:00")
    by_name = sorted((backup(second, number) for number in range(1, 13)), key=lambda one: one.id)
    found = retention.plan(by_name, Policy(last=1), NOW)
    assert [decision.backup.id for decision in found] == [make_id("shop", second, 12 - number) for number in range(12)]
    assert [decision.keep for decision in found] == [True] + [False] * 11


def test_no_backups_need_no_decision() -> None:
    assert retention.plan([], Policy(last=1), NOW) == []


# The clock and the calendar of a timezone.


def test_the_timezone_says_which_day_a_backup_is_of() -> None:
    backups = [backup(at("2026-01-10 23:30")), backup(at("2026-01-10 22:30")), backup(at("2026-01-10 12:00"))]
    assert kept(backups, Policy(daily=2, timezone="Europe/Berlin")) == [at("2026-01-10 23:30"), at("2026-01-10 22:30")]
    assert kept(backups, Policy(daily=2)) == [at("2026-01-10 23:30"), at("2026-01-10 12:00")]


@pytest.mark.parametrize(
    ("zone", "newest", "expected"),
    [
        # 02:00 to 03:00 is lived through twice.
        (
            "Europe/Berlin",
            "2026-10-25 03:40+01:00",
            ("03:40+01:00", "02:40+01:00", "01:40+02:00", "00:40+02:00"),
        ),
        # 02:00 to 03:00 is left out.
        (
            "America/New_York",
            "2026-03-08 04:40-04:00",
            ("04:40-04:00", "03:40-04:00", "01:40-05:00", "00:40-05:00"),
        ),
        # 01:30 to 02:00 is lived through twice.
        (
            "Australia/Lord_Howe",
            "2026-04-05 03:40+10:30",
            ("03:40+10:30", "02:40+10:30", "01:40+10:30", "00:50+11:00"),
        ),
    ],
)
def test_an_hour_is_what_the_clock_shows_when_clocks_are_turned(
    zone: str, newest: str, expected: Tuple[str, ...]
) -> None:
    backups = [backup(at(newest) - timedelta(minutes=20) * number) for number in range(40)]
    found = kept(backups, Policy(hourly=4, timezone=zone), at(newest) + DAY)
    assert found == [at(f"{newest[:10]} {time}") for time in expected]


@pytest.mark.parametrize(
    ("newest", "last_of_the_day_before", "hours"),
    [
        ("2026-03-29 23:00+02:00", "2026-03-28 23:00+01:00", 23),
        ("2026-10-25 23:00+01:00", "2026-10-24 23:00+02:00", 25),
    ],
)
def test_a_day_of_23_or_25_hours_is_one_day(newest: str, last_of_the_day_before: str, hours: int) -> None:
    assert at(newest) - at(last_of_the_day_before) == hours * HOUR
    backups = [backup(at(newest) - HOUR * number) for number in range(100)]
    found = kept(backups, Policy(daily=2, timezone="Europe/Berlin"), at(newest) + DAY)
    assert found == [at(newest), at(last_of_the_day_before)]


def test_within_counts_whole_days_by_the_calendar_and_the_rest_in_hours() -> None:
    newest = at("2026-10-25 12:00+01:00")
    backups = [backup(newest - timedelta(minutes=30) * number) for number in range(100)]
    day = Policy(within=DAY, timezone="Europe/Berlin")
    assert kept(backups, day, newest)[-1] == at("2026-10-24 12:30+02:00")
    assert kept(backups, replace(day, timezone="UTC"), newest)[-1] == newest - 24 * HOUR + timedelta(minutes=30)
    assert kept(backups, replace(day, within=23 * HOUR), newest)[-1] == newest - 23 * HOUR + timedelta(minutes=30)
    assert kept(backups, replace(day, within=26 * HOUR), newest)[-1] == at("2026-10-24 10:30+02:00")


@pytest.mark.parametrize(
    ("zone", "newest", "within"),
    [
        ("Europe/Berlin", "2026-10-25 02:30+02:00", HOUR),  # 02:30 comes again an hour later
        ("Pacific/Apia", "2011-12-31 12:00+14:00", DAY),  # there was no 30 December
    ],
)
def test_the_newest_backup_is_within_every_span_when_clocks_are_turned(
    zone: str, newest: str, within: timedelta
) -> None:
    policy = Policy(within=within, timezone=zone, minimum_keep=0)
    assert kept([backup(at(newest)), backup(at(newest) - 10 * DAY)], policy, at(newest)) == [at(newest)]


def test_within_more_than_the_calendar_has_keeps_everything() -> None:
    backups = every(DAY, "2026-03-15 03:00", "2025-01-01 03:00")
    assert len(kept(backups, Policy(within=timedelta(days=999_999_999)))) == len(backups)


# Policies that cannot be meant.


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (Policy(), "empty"),
        (Policy(minimum_keep=5, max_age=DAY), "empty"),
        (Policy(daily=-2), "keep_daily: -2"),
        (Policy(last=7, yearly=-7), "keep_yearly: -7"),
        (Policy(last=1, minimum_keep=-1), "minimum_keep: -1"),
        (Policy(within=timedelta()), "keep_within"),
        (Policy(last=1, within=-DAY), "keep_within"),
        (Policy(last=1, max_age=timedelta()), "max_age"),
        (Policy(last=1, timezone="Europe/Atlantis"), '"Europe/Atlantis"'),
        (Policy(last=1, timezone="../../etc/passwd"), '"../../etc/passwd"'),
        (Policy(last=1, timezone="Europe"), '"Europe"'),
        (Policy(last=1, timezone=""), '""'),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(policy: Policy, words: str) -> None:
    with pytest.raises(BadInput, match=words.replace(".", r"\.")):
        retention.plan(every(DAY, "2026-03-15 03:00", "2026-03-01 03:00"), policy, NOW)
    with pytest.raises(BadInput):
        retention.check(policy)


def test_a_timezone_on_a_python_without_timezones_is_a_missing_tool_and_utc_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "zoneinfo", None)
    monkeypatch.setitem(sys.modules, "backports.zoneinfo", None)
    with pytest.raises(MissingTool, match=r"Europe/Berlin.*backports\.zoneinfo"):
        retention.check(Policy(last=1, timezone="Europe/Berlin"))
    retention.check(Policy(last=1))


# What no policy may lose, by example.

SOUND = every(DAY, "2026-03-15 03:00", "2026-03-01 03:00")
PROVEN = (proof(Outcome.PASSED),)


def test_the_newest_restore_proven_backup_stays_when_the_policy_would_remove_it() -> None:
    backups = [replace(one, proofs=PROVEN) if number in (6, 9) else one for number, one in enumerate(SOUND)]
    found = retention.plan(backups, Policy(last=2), NOW)
    assert [number for number, decision in enumerate(found) if decision.keep] == [0, 1, 6]
    assert found[6].reasons == ("the newest restore-proven backup",)
    assert kept(backups, Policy(last=2, protect_proven=False)) == [SOUND[0].time, SOUND[1].time]


def test_only_a_restore_proves_a_backup() -> None:
    checked = (proof(Outcome.PASSED, Level.CONTENTS), proof(Outcome.UNVERIFIABLE, Level.RESTORE, hours=1))
    backups = [*SOUND[:5], replace(SOUND[5], proofs=checked), replace(SOUND[6], proofs=PROVEN)]
    assert kept(backups, Policy(last=1)) == [SOUND[0].time, SOUND[6].time]


def test_a_backup_known_to_be_bad_fills_no_count_and_goes_once_good_ones_are_newer() -> None:
    failed = replace(SOUND[1], proofs=(proof(Outcome.FAILED),))
    missing = replace(SOUND[3], defect="shop.db.zst is missing")
    found = retention.plan([SOUND[0], failed, SOUND[2], missing, SOUND[4]], Policy(last=3, minimum_keep=2), NOW)
    assert [decision.keep for decision in found] == [True, True, True, False, True]
    why = "restore verification failed: 3 rows are missing"
    assert found[1].reasons == (f"known bad ({why}), kept until 2 newer good backups exist",)
    assert found[3].reasons == ("removed: known bad (shop.db.zst is missing), and 2 newer good backups exist",)


def test_the_only_backups_stay_even_when_all_are_known_to_be_bad() -> None:
    backups = [replace(one, defect="shop.db.zst is missing") for one in SOUND]
    found = retention.plan(backups, Policy(last=1, minimum_keep=0), NOW)
    assert {decision.reasons for decision in found} == {
        ("known bad (shop.db.zst is missing), kept until 1 newer good backup exists",)
    }


def test_nothing_is_removed_while_the_newest_good_backup_is_older_than_max_age() -> None:
    late = NOW + 3 * DAY
    backups = [backup(late - HOUR, defect="shop.db.zst is missing"), *SOUND]
    policy = Policy(last=1, minimum_keep=0, max_age=26 * HOUR)
    found = retention.plan(backups, policy, late)
    assert all(decision.keep for decision in found)
    assert found[-1].reasons == ("the newest good backup is 3d 8h old, older than max_age 1d 2h: nothing is removed",)
    assert kept(backups[1:], policy, SOUND[0].time + 26 * HOUR) == [SOUND[0].time]


def test_backups_from_the_future_stay_and_do_not_stand_for_today() -> None:
    ahead = backup(at("2031-01-01 03:00"), proofs=PROVEN)
    found = retention.plan([ahead, *SOUND], Policy(last=1, within=DAY), NOW)
    assert [decision.backup.time for decision in found if decision.keep] == [ahead.time, SOUND[0].time]
    assert found[0].reasons == ("dated in the future (2031-01-01T03:00:00Z), so its age is unknown",)
    overdue = retention.plan([ahead, *SOUND], Policy(last=1, max_age=HOUR), NOW)
    assert all(decision.keep for decision in overdue)


# What no policy may lose, on generated histories.

PROOFS = (
    (),
    (),
    (proof(Outcome.PASSED, Level.CHECKSUM),),
    (proof(Outcome.UNVERIFIABLE),),
    PROVEN,
    (proof(Outcome.FAILED),),
    (proof(Outcome.FAILED, Level.CHECKSUM), proof(Outcome.PASSED, hours=1)),
    (proof(Outcome.PASSED), proof(Outcome.FAILED, hours=1)),
)
GAPS = (timedelta(), timedelta(seconds=1), 20 * timedelta(minutes=1), HOUR, 7 * HOUR, DAY, 8 * DAY, 100 * DAY)
ZONES = ("UTC", "Europe/Berlin", "Australia/Lord_Howe")

ages = st.sampled_from((timedelta(), HOUR, 30 * HOUR, 10 * DAY, -HOUR, -DAY, -100 * DAY))
defects = st.sampled_from((None, None, None, "a file is gone"))
entries = st.tuples(st.sampled_from(GAPS), st.sampled_from(PROOFS), defects)
counts = st.sampled_from((0, 0, 0, 1, 2, 3, 7, -1))
spans = st.sampled_from((None, None, HOUR, 25 * HOUR, 9 * DAY))


@st.composite
def histories(draw: st.DrawFn) -> List[Backup]:
    """Up to thirty backups in any order: good, failed, missing, proven and not, some perhaps from the future."""
    time = NOW - draw(ages)
    found = []
    for number, (gap, proofs, defect) in enumerate(draw(st.lists(entries, max_size=30))):
        time -= gap
        found.append(backup(time, 100 - number, proofs, defect))
    draw(st.randoms(use_true_random=False)).shuffle(found)
    return found


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    policy = Policy(
        within=draw(spans),
        timezone=draw(st.sampled_from(ZONES)),
        minimum_keep=draw(st.integers(0, 4)),
        max_age=draw(spans),
        protect_proven=draw(st.booleans()),
        **{name: draw(counts) for name in Policy().counts},
    )
    return replace(policy, last=1) if policy.empty else policy


def holds_for_all(promise: Callable[[List[Backup], Policy], None]) -> Callable[..., None]:
    """Run a test on generated histories and policies."""
    examples = 5 * settings.default.max_examples
    return settings(max_examples=examples, deadline=None)(given(backups=histories(), policy=policies())(promise))


def split(decisions: Sequence[Decision]) -> Tuple[List[Backup], List[Backup]]:
    """What is kept and what is removed."""
    return [one.backup for one in decisions if one.keep], [one.backup for one in decisions if not one.keep]


def good(backups: Sequence[Backup]) -> List[Backup]:
    """Backups that can be counted on, newest first."""
    usable = [one for one in backups if one.known_bad is None and one.time <= NOW]
    return sorted(usable, key=lambda one: (one.time, one.id), reverse=True)


@holds_for_all
def test_every_backup_gets_one_decision_with_reasons_the_newest_first(backups: List[Backup], policy: Policy) -> None:
    decisions = retention.plan(backups, policy, NOW)
    times = [decision.backup.time for decision in decisions]
    assert times == sorted(times, reverse=True)
    assert sorted(decision.backup.id for decision in decisions) == sorted(one.id for one in backups)
    for decision in decisions:
        assert decision.reasons
        assert all(reason.startswith("removed: ") is not decision.keep for reason in decision.reasons)


@holds_for_all
def test_minimum_keep_good_backups_remain_whatever_the_policy(backups: List[Backup], policy: Policy) -> None:
    remaining, _removed = split(retention.plan(backups, policy, NOW))
    newest = good(backups)[: policy.minimum_keep]
    assert good(remaining)[: policy.minimum_keep] == newest


@holds_for_all
def test_the_newest_good_backup_is_never_removed(backups: List[Backup], policy: Policy) -> None:
    remaining, _removed = split(retention.plan(backups, replace(policy, minimum_keep=0, protect_proven=False), NOW))
    assert good(remaining)[:1] == good(backups)[:1]


@holds_for_all
def test_the_newest_restore_proven_backup_is_never_removed(backups: List[Backup], policy: Policy) -> None:
    remaining, _removed = split(retention.plan(backups, replace(policy, protect_proven=True), NOW))
    proven = [one for one in good(backups) if one.proven(Level.RESTORE)]
    assert [one for one in good(remaining) if one in proven][:1] == proven[:1]


@holds_for_all
def test_a_backup_known_to_be_bad_goes_only_when_enough_newer_good_ones_remain(
    backups: List[Backup], policy: Policy
) -> None:
    remaining, removed = split(retention.plan(backups, policy, NOW))
    for bad in (one for one in removed if one.known_bad):
        newer = [one for one in good(remaining) if one.time >= bad.time]
        assert len(newer) >= max(1, policy.minimum_keep)


@holds_for_all
def test_backups_known_to_be_bad_change_nothing_for_good_ones(backups: List[Backup], policy: Policy) -> None:
    sound = [one for one in backups if one.known_bad is None]
    among_bad_ones = [one for one in retention.plan(backups, policy, NOW) if one.backup.known_bad is None]
    assert among_bad_ones == retention.plan(sound, policy, NOW)


@holds_for_all
def test_backups_from_the_future_stay_and_change_nothing_for_others(backups: List[Backup], policy: Policy) -> None:
    past = [one for one in backups if one.time <= NOW]
    decisions = retention.plan(backups, policy, NOW)
    assert [one for one in decisions if one.backup.time <= NOW] == retention.plan(past, policy, NOW)
    assert all(one.keep for one in decisions if one.backup.time > NOW)


@holds_for_all
def test_nothing_is_removed_while_no_good_backup_is_young_enough(backups: List[Backup], policy: Policy) -> None:
    policy = replace(policy, max_age=policy.max_age or 25 * HOUR)
    _remaining, removed = split(retention.plan(backups, policy, NOW))
    if all(NOW - one.time > policy.max_age for one in good(backups)):
        assert removed == []


@holds_for_all
def test_a_second_rotation_removes_nothing_more(backups: List[Backup], policy: Policy) -> None:
    remaining, _removed = split(retention.plan(backups, policy, NOW))
    assert split(retention.plan(remaining, policy, NOW)) == (remaining, [])


@holds_for_all
def test_the_order_in_which_backups_are_listed_does_not_matter(backups: List[Backup], policy: Policy) -> None:
    assert retention.plan(backups, policy, NOW) == retention.plan(backups[::-1], policy, NOW)


# What a forger can do: nothing.


def known(one: Backup) -> Backup:
    """A backup that this host wrote, and whose proofs are its own."""
    return replace(one, remembered=Remembered("", "", proofs=one.proofs, written=True))


forgeries = st.lists(st.tuples(st.integers(0, 40), st.sampled_from(PROOFS[1:])), max_size=6)


@settings(max_examples=5 * settings.default.max_examples, deadline=None)
@given(true=histories(), forged=histories(), proofs=forgeries, policy=policies())
def test_forged_backups_and_proofs_have_no_true_backup_removed(
    true: List[Backup], forged: List[Backup], proofs: List[Tuple[int, Tuple[Proof, ...]]], policy: Policy
) -> None:
    mine = [known(one) for one in true]
    _kept, before = split(retention.plan_trusted(mine, policy, NOW))
    attacked = list(mine)
    for place, added in proofs:
        if place < len(attacked):
            attacked[place] = replace(attacked[place], proofs=(*attacked[place].proofs, *added))
    others = [replace(one, manifest=replace(one.manifest, id=f"x{one.id}")) for one in forged]
    decisions = retention.plan_trusted([*attacked, *others], policy, NOW)
    remaining, after = split(decisions)
    assert {one.id for one in after} <= {one.id for one in before}
    assert {one.id for one in others} <= {one.id for one in remaining}
    assert sorted(one.backup.id for one in decisions) == sorted(one.id for one in [*attacked, *others])


@holds_for_all
def test_what_a_host_knows_all_of_is_decided_as_by_the_policy_alone(backups: List[Backup], policy: Policy) -> None:
    mine = [known(one) for one in backups]
    plain = [(one.backup.id, one.keep, one.reasons) for one in retention.plan(backups, policy, NOW)]
    assert [(one.backup.id, one.keep, one.reasons) for one in retention.plan_trusted(mine, policy, NOW)] == plain


def test_a_host_without_any_memory_removes_nothing_and_says_what_it_does_not_know() -> None:
    backups = [backup(NOW - number * DAY, 100 - number, (), None) for number in range(5)]
    decisions = retention.plan_trusted(backups, Policy(last=1), NOW)
    assert all(one.keep for one in decisions)
    assert all("did not write it" in one.reasons[0] for one in decisions)
