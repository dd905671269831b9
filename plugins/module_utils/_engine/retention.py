# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Retention: which backups of one database stay, which go, and why. Pure functions.

A policy's counts and ``within`` are read as restic's ``forget`` reads them since its release 0.16 (restic,
internal/data/snapshot_policy.go). Then come the rules under which no policy loses the last good backup:

- Backups known to be bad and backups from the future fill no count and never stand for good ones.
- The newest ``minimum_keep`` good backups stay, and the newest one that a restore proved (``protect_proven``).
- A backup known to be bad stays until enough newer good ones exist.
- A backup from the future stays: some clock is wrong, and nobody knows how old the backup really is.
- Nothing goes while the newest good backup is older than ``max_age``.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from datetime import datetime, timedelta, timezone, tzinfo
from importlib import import_module
from itertools import chain
from typing import Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from .errors import BadInput, MissingTool
from .model import Backup, Decision, Level, Policy
from .timespan import format_span, format_time

_UNKNOWN = "kept: this host did not write it; rotate once with adopt if it is this host's own"
_REKEYED = (
    "kept: its key slots were changed, and not by this host; verify it at level contents, or rotate once with adopt"
)
#: A reason to keep the backup at this position of a history.
_Kept = Tuple[int, str]


def plan(backups: Sequence[Backup], policy: Policy, now: datetime) -> List[Decision]:
    """Decide on all backups of one database in one repository, the newest first.

    ``now`` is aware. Raises BadInput for a policy that cannot be meant (see ``check``), and MissingTool where its
    timezone cannot be read on this Python.
    """
    check(policy)
    zone = _timezone(policy.timezone)
    history = _survey(backups, now)
    reasons: Dict[int, Tuple[str, ...]] = {}
    for position, reason in chain(
        _kept_within(history, policy, zone),
        _kept_by_counts(history, policy, zone),
        _kept_for_the_minimum(history, policy),
        _kept_as_newest_proven(history, policy),
        _kept_until_enough_good_are_newer(history, policy),
        _kept_from_the_future(history),
    ):
        reasons[position] = (*reasons.get(position, ()), reason)
    overdue = _overdue(history, policy, now)
    return [_decide(history, position, reasons.get(position), overdue) for position in range(len(history.backups))]


def plan_trusted(backups: Sequence[Backup], policy: Policy, now: datetime) -> List[Decision]:
    """Decide as ``plan`` does, on what this host itself wrote, so that no forger can have a backup removed.

    A backup goes only where the policy lets it go both by this host's own proofs alone and by all proofs: those of
    others can keep a backup, and never help to remove one. What the host does not know stays, and fills no count.
    """
    check(policy)
    known = [backup for backup in backups if backup.known]
    by_all = {decision.backup.id: decision for decision in plan(known, policy, now)}
    decided = []
    for own in plan([as_judged_here(backup) for backup in known], policy, now):
        other = by_all[own.backup.id]
        decided.append(own._replace(backup=other.backup) if own.keep else other)
    decided += [
        Decision(backup, True, (_REKEYED if backup.own else _UNKNOWN,)) for backup in backups if not backup.known
    ]
    return sorted(decided, key=lambda one: _order(one.backup), reverse=True)


def as_judged_here(backup: Backup) -> Backup:
    """A backup as this host's own proofs alone judge it."""
    known = backup.remembered
    return backup if known is None else replace(backup, proofs=known.proofs, unjudged=None)


def check(policy: Policy) -> None:
    """Raise BadInput for an empty policy, a count below -1, a span that is not longer than nothing, a negative
    ``minimum_keep`` and an unknown timezone; MissingTool where timezones other than UTC need a newer Python.
    """
    for name, count in policy.counts.items():
        if count < -1:
            raise BadInput(
                f"keep_{name}: {count} is not a number of backups. Write how many to keep, 0 for none, or -1 for all."
            )
    for option, span in (("keep_within", policy.within), ("max_age", policy.max_age)):
        if span is not None and span <= timedelta():
            raise BadInput(f"{option}: it must be longer than nothing. Write for example 7d, or leave it out.")
    if policy.minimum_keep < 0:
        raise BadInput(
            f"minimum_keep: {policy.minimum_keep} is not a number of backups. Write 1 or more, or 0 to go without."
        )
    if policy.empty:
        raise BadInput(
            "The retention policy is empty, so every backup would be removed. "
            "Set at least one of keep_last, keep_within, keep_hourly, keep_daily, keep_weekly, keep_monthly and "
            "keep_yearly."
        )
    _timezone(policy.timezone)


class _History(NamedTuple):
    """The backups, newest first, and the positions at which they can be counted on or cannot."""

    backups: Sequence[Backup]
    #: Why the backup at a position is known to be bad.
    bad: Mapping[int, str]
    #: Backups that claim to be younger than now, bad or not.
    future: Sequence[int]
    #: All others: neither bad nor from the future. Ascending, so the newest good backup is the first.
    good: Sequence[int]

    def newer_good(self, position: int) -> int:
        """How many good backups are newer than the one at ``position``."""
        return bisect_left(self.good, position)


def _survey(backups: Sequence[Backup], now: datetime) -> _History:
    """Sort the backups and judge each of them once."""
    ordered = sorted(backups, key=_order, reverse=True)
    bad: Dict[int, str] = {}
    future: List[int] = []
    good: List[int] = []
    for position, backup in enumerate(ordered):
        why = backup.known_bad
        if why is not None:
            bad[position] = why
        if backup.manifest.started > now:
            future.append(position)
        elif why is None:
            good.append(position)
    return _History(ordered, bad, future, good)


def _order(backup: Backup) -> Tuple[datetime, str]:
    return backup.manifest.started, backup.manifest.id


# What the policy asks for: as restic counts.


class _Count:
    """What is left of one count, and the period that the backup before fell into."""

    def __init__(self, name: str, left: int) -> None:
        self.name = name
        #: How many more backups to keep; -1 for all.
        self.left = left
        self._period = _PERIODS[name]
        self._last: object = None

    def keeps(self, number: int, local: datetime, oldest: bool) -> Optional[str]:
        """The reason to keep the ``number``-th backup, which was taken at ``local`` time, if this count does.

        Not asked once nothing is left.
        """
        period = self._period(number, local)
        begins = period != self._last
        # A young history shall reach back as far as it can: its oldest backup stays while the count is not used up.
        if not begins and not oldest:
            return None
        self._last = period
        if self.left > 0:
            self.left -= 1
        return self.name if begins else f"oldest backup while {self.name} has counts left"


_PERIODS: Dict[str, Callable[[int, datetime], object]] = {
    "last": lambda number, local: number,
    "hourly": lambda number, local: (local.year, local.month, local.day, local.hour),
    "daily": lambda number, local: (local.year, local.month, local.day),
    "weekly": lambda number, local: local.isocalendar()[:2],
    "monthly": lambda number, local: (local.year, local.month),
    "yearly": lambda number, local: local.year,
}


def _kept_by_counts(history: _History, policy: Policy, zone: tzinfo) -> Iterator[_Kept]:
    """The newest good backup of each of the last n periods that have one, by the clock and calendar of ``zone``.

    The hour that a clock lives through twice is one period, as the clock shows it.
    """
    counts = [_Count(name, left) for name, left in policy.counts.items() if left != 0]
    oldest = len(history.good) - 1
    for number, position in enumerate(history.good):
        if not counts:
            return
        local = history.backups[position].time.astimezone(zone)
        used_up = False
        for count in counts:
            reason = count.keeps(number, local, number == oldest)
            if reason is not None:
                yield position, reason
                used_up = used_up or count.left == 0
        if used_up:
            counts = [count for count in counts if count.left != 0]


def _kept_within(history: _History, policy: Policy, zone: tzinfo) -> Iterator[_Kept]:
    """Every good backup younger than ``within``, counted back from the newest good one, which always is."""
    if policy.within is None or not history.good:
        return
    newest = history.backups[history.good[0]].time
    # Where clocks skip or repeat hours, counting back by the calendar can end at the newest backup, or after it.
    limit = min(_counted_back(newest, policy.within, zone), newest - timedelta.resolution)
    reason = f"within {format_span(policy.within)}"
    for position in history.good:
        if history.backups[position].time <= limit:
            return
        yield position, reason


def _counted_back(moment: datetime, span: timedelta, zone: tzinfo) -> datetime:
    """``moment`` less the span's whole days by the calendar of ``zone``, then less the rest in exact hours."""
    try:
        wall = moment.astimezone(zone).replace(tzinfo=None) - timedelta(days=span.days)
        return _at_wall_clock(wall, zone) - (span - timedelta(days=span.days))
    except OverflowError:
        return datetime.min.replace(tzinfo=timezone.utc)


def _at_wall_clock(wall: datetime, zone: tzinfo) -> datetime:
    """The moment at which clocks in ``zone`` show ``wall``.

    Where they never show it or show it twice, this takes the moment that Go's ``time.Date`` takes, as restic does:
    the zone's offset is guessed as if the wall time were in UTC, and looked up once more at the moment that this gives.
    """

    def offset(utc: datetime) -> timedelta:
        return utc.replace(tzinfo=timezone.utc).astimezone(zone).utcoffset() or timedelta()

    return (wall - offset(wall - offset(wall))).replace(tzinfo=timezone.utc)


# What no policy may lose.


def _kept_for_the_minimum(history: _History, policy: Policy) -> Iterator[_Kept]:
    for position in history.good[: policy.minimum_keep]:
        yield position, f"one of the last {policy.minimum_keep} good backups (minimum_keep)"


def _kept_as_newest_proven(history: _History, policy: Policy) -> Iterator[_Kept]:
    if policy.protect_proven:
        for position in history.good:
            if history.backups[position].passed(Level.RESTORE):
                yield position, "the newest restore-proven backup"
                return


def _kept_until_enough_good_are_newer(history: _History, policy: Policy) -> Iterator[_Kept]:
    """Backups known to be bad: what is left in one may be all there is."""
    needed = max(1, policy.minimum_keep)
    for position, why in history.bad.items():
        if history.newer_good(position) < needed:
            yield position, f"known bad ({why}), kept until {_newer_good_backups(needed)}"


def _kept_from_the_future(history: _History) -> Iterator[_Kept]:
    for position in history.future:
        yield position, f"dated in the future ({format_time(history.backups[position].time)}), so its age is unknown"


def _overdue(history: _History, policy: Policy, now: datetime) -> Optional[str]:
    """Why nothing may be removed for now: new backups fail to appear, so the old ones are what there is."""
    if policy.max_age is None or not history.good:
        return None
    age = now - history.backups[history.good[0]].time
    if age <= policy.max_age:
        return None
    return (
        f"the newest good backup is {format_span(age)} old, older than max_age {format_span(policy.max_age)}: "
        "nothing is removed"
    )


def _decide(history: _History, position: int, kept: Optional[Tuple[str, ...]], overdue: Optional[str]) -> Decision:
    backup = history.backups[position]
    if kept:
        return Decision(backup, True, kept)
    if overdue is not None:
        return Decision(backup, True, (overdue,))
    if position in history.bad:
        exist = _newer_good_backups(history.newer_good(position))
        return Decision(backup, False, (f"removed: known bad ({history.bad[position]}), and {exist}",))
    return Decision(backup, False, ("removed: no rule keeps it",))


def _newer_good_backups(count: int) -> str:
    return "1 newer good backup exists" if count == 1 else f"{count} newer good backups exist"


def _timezone(name: str) -> tzinfo:
    """A timezone by its name in the tz database."""
    if name == "UTC":
        return timezone.utc
    try:
        return _zone_reader(name)(name)
    except (KeyError, ValueError, OSError):
        raise BadInput(
            f'timezone: "{name}" is not known on this host. Write a name such as Europe/Berlin or UTC; '
            "if the name is right, install the package tzdata."
        ) from None


def _zone_reader(name: str) -> Callable[[str], tzinfo]:
    for module in ("zoneinfo", "backports.zoneinfo"):
        try:
            reader: Callable[[str], tzinfo] = import_module(module).ZoneInfo
        except ImportError:
            continue
        return reader
    raise MissingTool(
        f"timezone: {name} cannot be read by this Python, which is older than 3.9. "
        "Install the Python library backports.zoneinfo, or set the timezone UTC."
    )
