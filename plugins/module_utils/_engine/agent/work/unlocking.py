# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who holds the locks of this host, and what processes left over that were killed.

A lock dies with its holder (flock(2)), so there is none to break: what is held is held by somebody who is alive.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import List, Mapping, Optional, Sequence, Tuple

from ...catalogue import place_of, tidy
from ...databases import open_engine
from ...errors import EngineError, Locked
from ...host.apart import apart
from ...interrupts import interruptible
from ...leftovers import lock_of_the_dead
from ...model import Place
from ...scratch import Abandoned, Purpose, sweep
from ...state import Host, audit, locked, running
from ...stream.gpg import end_agent
from ..config.jobs import Job, Target
from .apart import LOOK, look

_HOLDER = re.compile(r"process ([0-9]+) since (\S+)")


@dataclass(frozen=True)
class Lock:
    """A lock: what it is on, and who holds it or held it last. ``status`` is what the holder is at, if it says so."""

    subject: str
    held: bool
    pid: Optional[int]
    since: Optional[str]
    status: Optional[Mapping[str, object]]


@dataclass(frozen=True)
class Leftover:
    """Something that a killed process left over: what it is, and where."""

    kind: str
    where: str


@dataclass(frozen=True)
class Cleared:
    """What was cleared, or would be, and what could not be looked at."""

    leftovers: Tuple[Leftover, ...]
    problems: Tuple[str, ...]


def locks_of(host: Host, jobs: Optional[Sequence[Job]]) -> Tuple[Lock, ...]:
    """The locks that are held, and those that a killed process's name is still on; of all jobs where None are given."""
    status = {str(fields.get("subject")): fields for fields in running(host)}
    found: List[Lock] = []
    directory = host.state / "locks"
    for path in sorted(directory.glob("*.lock")) if directory.is_dir() else ():
        subject = path.stem.replace("+", "/")
        held, content = _read_lock(path)
        match = _HOLDER.search(content)
        if (held or match) and _concerns(subject, jobs):
            pid, since = (int(match.group(1)), match.group(2)) if match else (None, None)
            found.append(Lock(subject, held, pid, since, status.get(subject) if held else None))
    return tuple(found)


def clear(host: Host, jobs: Optional[Sequence[Job]], every: Sequence[Job], dry_run: bool) -> Cleared:
    """Remove what killed processes left over, and nothing of a living one. ``every`` are the jobs to look at."""
    leftovers: List[Leftover] = []
    problems: List[str] = []
    for lock in locks_of(host, jobs):
        if not lock.held and _free(host, lock.subject, dry_run):
            leftovers.append(Leftover("lock", f"{lock.subject}, of process {lock.pid}"))
    for fields in running(host):
        subject = str(fields.get("subject"))
        if not fields["alive"] and _concerns(subject, jobs) and _clear_status(host, subject, dry_run):
            leftovers.append(Leftover("status", f"{subject}, of process {fields.get('pid', '?')}"))
    for path in sorted((host.state / "status").glob("*.tmp")):
        subject = path.stem.replace("+", "/")
        if _concerns(subject, jobs) and _clear_half_written(host, subject, path, dry_run):
            leftovers.append(Leftover("status", f"{subject}, half written"))
    _clear_scratch(every, dry_run, leftovers, problems)
    for job in every:
        _clear_repositories(host, job, dry_run, leftovers, problems)
        _clear_beside(job, dry_run, leftovers, problems)
    return Cleared(tuple(leftovers), tuple(problems))


def _concerns(subject: str, jobs: Optional[Sequence[Job]]) -> bool:
    if jobs is None:
        return True
    return any(subject.endswith(_place(job).path) or subject.startswith(f"notify/{job.name}.") for job in jobs)


def _place(job: Job) -> Place:
    return place_of(job.backup.source_host, job.database)


def _read_lock(path: Path) -> Tuple[bool, str]:
    """Whether a lock is held, and what its holder wrote. Nobody who wants it waits for this for long."""
    content = path.read_text("utf-8", "replace")
    with lock_of_the_dead(path) as free:
        return not free, content


def _free(host: Host, subject: str, dry_run: bool) -> bool:
    """Take a name off a lock that nobody holds; False where somebody does by now."""
    if dry_run:
        return True
    with suppress(Locked):
        with locked(host, subject, 0.0):
            return True
    return False


def _clear_status(host: Host, subject: str, dry_run: bool) -> bool:
    """Remove the status of a dead process, under the lock that a living one would hold; whether there was one."""
    if dry_run:
        return True
    stem = subject.replace("/", "+")
    path = host.state / "status" / f"{stem}.json"
    with suppress(Locked, FileNotFoundError):
        with locked(host, subject, 0.0):
            dead = any(fields.get("subject") == subject and not fields["alive"] for fields in running(host))
            if dead:
                path.unlink()
            return dead
    return False


def abandoned_directories(jobs: Sequence[Job], dry_run: bool = True) -> List[Abandoned]:
    """Remove the scratch directories that killed processes left, or only look for them. Raises EngineError."""
    chosen = [job.verification.scratch.path for job in jobs]
    places = [str(path) for path in chosen if path is not None]
    found = apart(partial(_scratch, places, dry_run), "Looking for scratch directories that killed runs left", LOOK)
    return [Abandoned(Path(path), problem) for path, problem in found]


def _scratch(places: Sequence[str], dry_run: bool) -> List[Tuple[str, str]]:
    with interruptible():
        found = sweep(map(Path, places), dry_run, {Purpose.GPG_HOME: end_agent})
    return [(str(left.path), left.problem) for left in found]


def _clear_half_written(host: Host, subject: str, path: Path, dry_run: bool) -> bool:
    """Remove a status that a killed process did not finish writing; whether there was one."""
    if dry_run:
        lock = host.state / "locks" / f"{path.stem}.lock"
        return not (lock.exists() and _read_lock(lock)[0])
    with suppress(Locked, FileNotFoundError):
        with locked(host, subject, 0.0):
            path.unlink()
            return True
    return False


def _clear_scratch(jobs: Sequence[Job], dry_run: bool, leftovers: List[Leftover], problems: List[str]) -> None:
    try:
        for left in abandoned_directories(jobs, dry_run):
            if left.problem:
                problems.append(left.problem)
            else:
                leftovers.append(Leftover("scratch", str(left.path)))
    except EngineError as error:
        problems.append(str(error))


def _clear_repositories(host: Host, job: Job, dry_run: bool, leftovers: List[Leftover], problems: List[str]) -> None:
    for target in job.targets:
        try:
            doomed = look(target.repository, partial(_tidy, host, job, target, dry_run))
        except Locked:
            # A backup is being taken, and tidies up by itself.
            continue
        except EngineError as error:
            problems.append(f"{job.name}: {error}")
            continue
        where = f"{target.repository.label}/{_place(job).path}"
        leftovers += [Leftover("repository", f"{where}/{name}") for name in doomed]


def _clear_beside(job: Job, dry_run: bool, leftovers: List[Leftover], problems: List[str]) -> None:
    try:
        names = apart(partial(_swept, job, dry_run), f"Looking for what runs of {job.name} left", LOOK)
    except EngineError as error:
        problems.append(f"{job.name}: {error}")
        return
    leftovers += [Leftover("database", name) for name in names]


def _swept(job: Job, dry_run: bool) -> List[str]:
    """What killed runs left beside a job's database, which is removed."""
    with interruptible():
        return open_engine(job.opened().database).sweep(dry_run)


def _tidy(host: Host, job: Job, target: Target, dry_run: bool) -> List[str]:
    """Remove what killed processes left in a repository; its names. Raises Locked while a backup is being taken."""
    place, repository = _place(job), target.repository
    doomed = tidy(host, repository, place, dry_run=True)
    if doomed and not dry_run:
        with locked(host, place.path, 0.0):
            audit(host, "tidy", place.path, "removing", {"repository": repository.label, "files": doomed})
            doomed = tidy(host, repository, place, dry_run=False)
    return doomed
