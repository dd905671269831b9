# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When a host does its work: a calendar and a window, over which the hosts of a fleet are spread. Pure functions.

Each host has its own moment in the window, by a digest of its name: so a thousand hosts do not start at once, and none
moves from one day to the next, or when another one joins. All times are the host's local ones.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from enum import Enum
from typing import Optional

from .cron import parse_cron
from .fields import Fields

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
#: What a calendar event is made of (systemd.time(7)); whether it is one, systemd says.
_CALENDAR = re.compile(r"[A-Za-z0-9 *,./:~_+-]+")
_HOUR, _DAY = 3600, 86400


class Work(str, Enum):
    """What a host does for a job by itself, as units are named after it."""

    BACKUP = "backup"
    ROTATE = "rotate"
    VERIFY = "verify"


def seed_of(host: str, job: str, work: Work) -> str:
    """What spreads the work: each work of each job of each host has a moment of its own."""
    return f"{host}/{job}/{work.value}"


class Every(str, Enum):
    """How often."""

    HOURLY = "hourly"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"


class Schedule(ABC):
    """When work is done. ``seed`` is what the spread goes by."""

    @abstractmethod
    def systemd(self, seed: str) -> Optional[str]:
        """The calendar event (systemd.time(7)); None where the schedule says none."""

    @abstractmethod
    def cron(self, seed: str) -> Optional[str]:
        """The five fields of cron (crontab(5)); None where the schedule says none."""

    def last(self, seed: str, now: datetime, zone: Optional[tzinfo] = None) -> Optional[datetime]:
        """The last moment at or before ``now`` at which the work should have begun, to the minute, in UTC.

        None where that is not known, since only systemd can tell, or never was. ``zone`` is that of the host, by
        default this process's own.
        """
        fields = self.cron(seed)
        return parse_cron(fields).last(now, zone) if fields else None


@dataclass(frozen=True)
class Spread(Schedule):
    """``at`` is the window's beginning, in seconds after midnight, or for HOURLY after the hour; ``window`` its length.

    ``weekday`` counts from Monday, 0, and holds for WEEKLY; ``day`` is that of the month, and holds for MONTHLY.
    """

    every: Every
    at: int = 0
    window: int = 0
    weekday: int = 6
    day: int = 1

    def systemd(self, seed: str) -> str:
        days, clock = divmod(self._moment(seed), _DAY)
        hour, minute, second = clock // _HOUR, clock // 60 % 60, clock % 60
        if self.every is Every.HOURLY:
            return f"*-*-* *:{minute:02}:{second:02}"
        time = f"{hour:02}:{minute:02}:{second:02}"
        if self.every is Every.DAILY:
            return f"*-*-* {time}"
        if self.every is Every.WEEKLY:
            return f"{_DAYS[(self.weekday + days) % 7]} *-*-* {time}"
        return f"*-*-{self.day + days:02} {time}"

    def cron(self, seed: str) -> str:
        """The same but for the seconds, which cron does not know."""
        days, clock = divmod(self._moment(seed), _DAY)
        hour, minute = clock // _HOUR, clock // 60 % 60
        if self.every is Every.HOURLY:
            return f"{minute} * * * *"
        if self.every is Every.DAILY:
            return f"{minute} {hour} * * *"
        if self.every is Every.WEEKLY:
            return f"{minute} {hour} * * {(self.weekday + days + 1) % 7}"
        return f"{minute} {hour} {self.day + days} * *"

    def _moment(self, seed: str) -> int:
        """Seconds after the beginning of the hour or day."""
        number = int.from_bytes(hashlib.sha256(seed.encode("utf-8")).digest()[:8], "big")
        moment = self.at + (number % self.window if self.window else 0)
        return moment % _HOUR if self.every is Every.HOURLY else moment


@dataclass(frozen=True)
class Expression(Schedule):
    """What systemd or cron shall be told as it is, on every host alike; where both are given, they mean the same."""

    calendar: Optional[str] = None
    fields: Optional[str] = None

    def systemd(self, seed: str) -> Optional[str]:
        return self.calendar

    def cron(self, seed: str) -> Optional[str]:
        return self.fields


def read_schedule(fields: Fields) -> Schedule:
    """Read a schedule's options. Raises BadInput, which names the option."""
    calendar, cron = fields.text("calendar"), fields.text("cron")
    if calendar is None and cron is None:
        return _spread(fields)
    for option in ("every", "at", "window", "weekday", "day"):
        if fields.raw(option) is not None:
            raise fields.wrong(option, "calendar and cron say all of it, on every host alike. Leave one out")
    if calendar is not None and not _CALENDAR.fullmatch(calendar):
        raise fields.wrong("calendar", f'{json.dumps(calendar)} is no calendar event, such as "Mon..Fri *-*-* 02:00"')
    if cron is not None:
        try:
            parse_cron(cron)
        except ValueError as error:
            raise fields.wrong("cron", str(error)) from None
        cron = " ".join(cron.split())
    return Expression(calendar, cron)


def _spread(fields: Fields) -> Spread:
    every = fields.choice("every", Every)
    window = int((fields.span("window") or timedelta()).total_seconds())
    longest = _HOUR if every is Every.HOURLY else _DAY
    if window > longest:
        raise fields.wrong("window", f"{every.value} work cannot be spread over more than {longest // _HOUR}h")
    at = _clock(fields, every)
    weekday, day = fields.text("weekday"), fields.integer("day", least=1)
    if weekday is not None and (every is not Every.WEEKLY or weekday not in _DAYS):
        raise fields.wrong("weekday", f"it is for weekly work, and one of {', '.join(_DAYS)}")
    # The window may lead into the next day, and every month has that one.
    if day is not None and (every is not Every.MONTHLY or day > 27):
        raise fields.wrong("day", "it is for monthly work, and a day from 1 to 27")
    return Spread(every, at, window, _DAYS.index(weekday) if weekday else 6, day or 1)


def _clock(fields: Fields, every: Every) -> int:
    text = fields.text("at")
    if text is None:
        return 0
    match = _CLOCK.fullmatch(text)
    if match is None:
        raise fields.wrong("at", f'"{text}" is no time of day, such as "02:30"')
    hours, minutes = int(match.group(1)), int(match.group(2))
    if every is Every.HOURLY and hours:
        raise fields.wrong("at", 'hourly work begins at a minute of each hour: write "00:15"')
    return hours * _HOUR + minutes * 60
