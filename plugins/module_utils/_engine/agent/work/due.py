# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which backups are due: those of jobs that have no good one since the last moment at which it should have begun."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import FrozenSet, List, Optional, Sequence, Tuple

from ...catalogue import in_future, place_of, read_place
from ...command import Command, find_program
from ...errors import EngineError
from ...process import output_of
from ...state import Host, running
from ..config.jobs import Job, Target
from ..config.schedule import Expression, Schedule, Work, seed_of
from .apart import look

#: The moment that systemd-analyze(1) tells: in UTC on a line of its own, unless local time is UTC.
_NEXT = re.compile(r"^ *(?:Next elapse|\(in UTC\)): \w+ (?P<time>[0-9-]+ [0-9:]+) UTC$", re.MULTILINE)

#: A timer's work may begin so much later, and a fresh one needs time to end.
_LATE = timedelta(minutes=5)


def due_jobs(jobs: Sequence[Job], host: Host) -> Tuple[Job, ...]:
    """The jobs whose backup is due, such that one which another process takes meanwhile is enough.

    Where nobody can tell, it is due: a backup too many is better than one too few.
    """
    found = (_due(job, job.timetable.backup, host) for job in jobs if job.timetable.backup)
    return tuple(job for job in found if job)


def _due(job: Job, schedule: Schedule, host: Host) -> Optional[Job]:
    now, newest = host.now(), _newest(job, host)
    if newest is None:
        return job
    try:
        moment = missed(schedule, seed_of(host.name, job.name, Work.BACKUP), newest, now)
    except EngineError:
        return job
    if moment is None:
        return None
    fresh = max(now - moment, job.backup.max_age or timedelta())
    return replace(job, backup=replace(job.backup, max_age=fresh))


def awaited(job: Job, host: Host) -> FrozenSet[Work]:
    """The scheduled work that a new job need not have done yet: its first moment has not come, or only just has.

    Nothing of a job of which it is not known since when it is there.
    """
    if job.since is None:
        return frozenset()
    until = host.now() - _LATE
    found = {
        work
        for work, schedule in job.timetable.entries()
        if _awaits(schedule, seed_of(host.name, job.name, work), job.since, until)
    }
    return frozenset(found | ({Work.BACKUP} if _is_running(job, host) else set()))


def _awaits(schedule: Schedule, seed: str, since: datetime, until: datetime) -> bool:
    try:
        return missed(schedule, seed, since, until) is None
    except EngineError:
        # Where nobody can tell, what is missing is told.
        return False


def _is_running(job: Job, host: Host) -> bool:
    mine = place_of(job.backup.source_host, job.database).path
    return any(work.get("alive") and work.get("verb") == "backup" and work["subject"] == mine for work in running(host))


def missed(schedule: Schedule, seed: str, newest: datetime, now: datetime) -> Optional[datetime]:
    """A moment at or before ``now`` at which a backup should have begun, and none later than it was taken."""
    if isinstance(schedule, Expression) and schedule.calendar and not schedule.fields:
        # Only systemd reads its calendars, and it tells the next moment of them, not the last.
        moment = _next_elapse(schedule.calendar, newest)
        return moment if moment and moment <= now else None
    moment = schedule.last(seed, now)
    return moment if moment and moment > newest else None


def _newest(job: Job, host: Host) -> Optional[datetime]:
    """The time of the newest good backup that every repository has; None where one has none, or cannot be read."""
    times: List[datetime] = []
    for target in job.targets:
        try:
            newest = look(target.repository, partial(_newest_in, job, target, host))
        except EngineError:
            # The backup itself will say why, and reach the other repositories.
            return None
        if newest is None:
            return None
        times.append(datetime.fromtimestamp(newest, timezone.utc))
    return min(times)


def _newest_in(job: Job, target: Target, host: Host) -> Optional[float]:
    target.repository.check(writing=False)
    catalogue = read_place(host, target.repository, place_of(job.backup.source_host, job.database))
    # One that this host did not write may be forged, and would put the next one off.
    good = (backup.time.timestamp() for backup in catalogue.known.good if not in_future(backup, host.now()))
    return max(good, default=None)


def _next_elapse(calendar: str, after: datetime) -> Optional[datetime]:
    """The first moment of a calendar event (systemd.time(7)) after another one; None where there is none.

    Raises MissingTool, and ToolFailed where this systemd cannot tell: it can as of version 244.
    """
    program = find_program("systemd-analyze", "systemd", f'The schedule "{calendar}"')
    arguments = ("calendar", f"--base-time=@{int(after.timestamp())}", "--", calendar)
    answer = output_of(Command("systemd-analyze", (program, *arguments), {"LC_ALL": "C"}))
    match = _NEXT.search(answer)
    if match is None:
        return None
    return datetime.strptime(match.group("time"), "%Y-%m-%d %H:%M:%S").replace(tzinfo=timezone.utc)
