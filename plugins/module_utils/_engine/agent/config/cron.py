# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The five fields of cron (crontab(5)): reading them, and the last moment that they named. Pure functions.

Local time is that of a zone, or of this process (TZ, /etc/localtime) where none is given.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from typing import FrozenSet, Iterator, NamedTuple, Optional, Tuple

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_PART = re.compile(r"(?:\*|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>[1-9][0-9]*))?")
#: The longest month of each number that can have a day: February has 29 at times.
_LENGTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_MINUTE = timedelta(minutes=1)
#: Days in which even February 29 comes round: a turn of the century can leave one out.
_LONGEST = 366 * 8 + 2


class _Kind(NamedTuple):
    """A field of cron: what it is called, its least and greatest number, and the names of the numbers."""

    name: str
    least: int
    greatest: int
    names: Tuple[str, ...] = ()


_FIELDS = (
    _Kind("minute", 0, 59),
    _Kind("hour", 0, 23),
    _Kind("day of the month", 1, 31),
    _Kind("month", 1, 12, _MONTHS),
    # Both 0 and 7 are Sunday.
    _Kind("day of the week", 0, 7, _DAYS),
)


@dataclass(frozen=True)
class CronTime:
    """The moments that an expression names. ``weekdays`` count from Sunday, 0."""

    minutes: FrozenSet[int]
    hours: FrozenSet[int]
    days: FrozenSet[int]
    months: FrozenSet[int]
    weekdays: FrozenSet[int]
    #: Whether it goes by the hours that pass and not by the clock: its minute or hour begins with a star.
    steady: bool
    #: Whether a day needs both its day of the month and that of the week; else one of them will do.
    both_days: bool

    def last(self, now: datetime, zone: Optional[tzinfo] = None) -> Optional[datetime]:
        """The last of its moments at or before ``now``, in UTC; None where there was none in eight years.

        As cron(8) has it: where clocks go forward, a time of day that they leave out counts at the moment of the jump;
        where they go back, it counts once, the first time. Steady times are those of each hour that passes.
        """
        newest: Optional[datetime] = None
        today = now.astimezone(zone).date()
        # Tomorrow's date can lie behind: clocks may go back over midnight. So one more day is looked at, too.
        for back in range(-1, _LONGEST):
            found = self._newest(today - timedelta(days=back), now, zone)
            if newest is not None:
                return max(newest, found or newest)
            newest = found
        return newest

    def _newest(self, day: date, now: datetime, zone: Optional[tzinfo]) -> Optional[datetime]:
        if not self._names(day):
            return None
        moments = (moment for hour in self.hours for moment in self._moments(day, hour, zone))
        return max((moment for moment in moments if moment <= now), default=None)

    def _names(self, day: date) -> bool:
        by_month, by_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return day.month in self.months and (by_month and by_week if self.both_days else by_month or by_week)

    def _moments(self, day: date, hour: int, zone: Optional[tzinfo]) -> Iterator[datetime]:
        for minute in self.minutes:
            wall = datetime.combine(day, time(hour, minute))
            first, second = _moment(wall, zone), _moment(wall.replace(fold=1), zone)
            if _wall(first, zone) == wall:
                yield first
                if self.steady:
                    yield second
            elif not self.steady:
                yield _jump(first, wall, zone)


def parse_cron(text: str) -> CronTime:
    """Read an expression such as ``*/5 8-18 * * mon-fri``. Raises ValueError, which says why it is none."""
    words = text.split()
    if len(words) != len(_FIELDS):
        raise ValueError(f'"{text}" has {len(words)} fields, and cron five: minute, hour, day, month, day of the week')
    minutes, hours, days, months, weekdays = (_numbers(word, kind) for word, kind in zip(words, _FIELDS))
    steady = words[0].startswith("*") or words[1].startswith("*")
    both_days = words[2].startswith("*") or words[4].startswith("*")
    if both_days and min(days) > max(_LENGTHS[month - 1] for month in months):
        raise ValueError(f'"{text}" never comes: none of its months has a day {min(days)}')
    return CronTime(minutes, hours, days, months, frozenset(day % 7 for day in weekdays), steady, both_days)


def _numbers(word: str, kind: _Kind) -> FrozenSet[int]:
    found: FrozenSet[int] = frozenset()
    for part in word.split(","):
        match = _PART.fullmatch(part)
        if match is None or (match.group("step") and match.group("first") and not match.group("last")):
            raise ValueError(f'the {kind.name} "{word}" is none: write a number, 1-5, */5, 1-5/2 or a list of them')
        first, last = kind.least, kind.greatest
        if match.group("first"):
            first = _number(match.group("first"), kind)
            last = _number(match.group("last"), kind) if match.group("last") else first
        if first > last:
            raise ValueError(f'the {kind.name} "{word}" ends before it begins')
        found |= frozenset(range(first, last + 1, int(match.group("step") or 1)))
    return found


def _number(word: str, kind: _Kind) -> int:
    if word.lower() in kind.names:
        return kind.names.index(word.lower()) + kind.least
    if not (word.isascii() and word.isdigit()) or not kind.least <= int(word) <= kind.greatest:
        raise ValueError(f'the {kind.name} "{word}" is none from {kind.least} to {kind.greatest}')
    return int(word)


def _moment(wall: datetime, zone: Optional[tzinfo]) -> datetime:
    """When clocks show ``wall``; a time that they leave out is read by the clock before the jump (PEP 495)."""
    if zone is None:
        # astimezone() reads a local time that clocks leave out by the clock after the jump.
        return datetime.fromtimestamp(wall.timestamp(), timezone.utc)
    return wall.replace(tzinfo=zone).astimezone(timezone.utc)


def _wall(moment: datetime, zone: Optional[tzinfo]) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


def _jump(after: datetime, wall: datetime, zone: Optional[tzinfo]) -> datetime:
    """The moment at which clocks leave ``wall`` out; ``after`` is one behind it."""
    while _wall(after - _MINUTE, zone) > wall:
        after -= _MINUTE
    return after
