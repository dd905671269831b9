# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The services that restores have stopped, noted in ``<state>/stopped/<job>+<process>.json`` until they run again.

A restore that is killed starts nothing, and a service may not start again. Whatever is left stopped is told by
``status``, and started by the next restore of the job, until it runs or the user says that it may stay stopped.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from ...errors import EngineError
from ...host.apart import apart
from ...interrupts import interruptible
from ...state import Host, lives, process_started
from ...timespan import format_time
from ..notifications.files import read_json, write_json
from .apart import LOOK
from .health import Complaint
from .services import Service, look


@dataclass(frozen=True)
class _Note:
    """What one restore has stopped, and when (RFC 3339). ``readable`` is False where that is not known any more."""

    path: Path
    job: str
    units: Tuple[str, ...]
    since: str
    readable: bool = True


def note(host: Host, job: str, units: Sequence[str], since: Optional[str] = None) -> None:
    """Note what this restore has stopped, or is about to. Raises PermissionDenied."""
    pid = os.getpid()
    document = {
        "units": list(units),
        "since": since or format_time(host.now()),
        "pid": pid,
        "process_started": process_started(pid),
    }
    write_json(_directory(host) / f"{job}+{pid}.json", document)


def settle(host: Host, job: str, units: Sequence[str]) -> None:
    """Keep noted what does not run now of ``units``, which this restore has stopped, and of what ended ones have.

    Raises PermissionDenied.
    """
    ended = [one for one in _ended_notes(host) if one.job == job]
    mine = _directory(host) / f"{job}+{os.getpid()}.json"
    every = dict.fromkeys([*(unit for one in ended for unit in one.units), *units])
    try:
        left = [service.unit for service in _stopped(list(every))]
    except EngineError:
        # It is not known what runs, so that all of it is looked at again.
        left = list(every)
    if left:
        note(host, job, left, min((one.since for one in ended), default=None))
    else:
        _drop(mine)
    for one in ended:
        if one.path != mine and one.readable:
            _drop(one.path)


def left_stopped(host: Host, job: str) -> Tuple[Service, ...]:
    """What ended restores of a job have stopped and what does not run since. Raises what ``look`` raises."""
    return _stopped([unit for one in _ended_notes(host) if one.job == job for unit in one.units])


def complaints_by_job(host: Host) -> Dict[str, Complaint]:
    """What is to be said of services that were left stopped, by job. Notes of those that run again are dropped."""
    found: Dict[str, Complaint] = {}
    for one in _ended_notes(host):
        complaint = _complaint(one)
        if complaint:
            found[one.job] = complaint
        else:
            _drop(one.path)
    return found


def let_stay_stopped(host: Host, jobs: Optional[Sequence[str]], dry_run: bool) -> List[str]:
    """Forget what ended restores of these jobs, or of all, have left stopped; the units, each with its job."""
    found: List[str] = []
    for one in _ended_notes(host):
        if jobs is None or one.job in jobs:
            found += [f"{unit}, of {one.job}" for unit in one.units or ["services that are not known any more"]]
            if not dry_run:
                _drop(one.path)
    return found


def _stopped(units: Sequence[str]) -> Tuple[Service, ...]:
    return tuple(service for service in look(units) if service.installed and not service.running)


def _stopped_names(units: Sequence[str]) -> List[str]:
    with interruptible():
        return [service.unit for service in _stopped(units)]


def _complaint(one: _Note) -> Optional[Complaint]:
    if not one.readable:
        return Complaint(
            "stopped",
            f"a restore has stopped services, and its note {one.path} cannot be read: see what does not run, and then "
            f"fleet-backup unlock --let-stay-stopped {one.job}",
        )
    try:
        # A systemd that does not answer must not keep the health of backups from being told.
        units: List[str] = apart(partial(_stopped_names, one.units), "Asking systemd what runs", LOOK)
    except EngineError as error:
        return Complaint(
            "stopped", f"a restore has stopped {', '.join(one.units)}, and did not start it again: {error}"
        )
    if not units:
        return None
    names = " ".join(units)
    return Complaint(
        "stopped",
        f"{names} was stopped at {one.since} by a restore, and does not run: restore again, or systemctl start {names};"
        f" fleet-backup unlock --let-stay-stopped {one.job} where it may stay stopped",
    )


def _ended_notes(host: Host) -> Iterator[_Note]:
    """The notes of restores that are not there any more."""
    directory = _directory(host)
    for path in sorted(directory.glob("*+*.json")) if directory.is_dir() else ():
        document, job = read_json(path), path.stem.rpartition("+")[0]
        units = document.get("units") if isinstance(document, dict) else None
        if not isinstance(document, dict) or not isinstance(units, list):
            if path.exists():
                yield _Note(path, job, (), "an unknown time", readable=False)
        elif not lives(document.get("pid", 0), document.get("process_started")):
            yield _Note(path, job, tuple(map(str, units)), str(document.get("since")))


def _drop(path: Path) -> None:
    # A note that stays is looked at again, and says nothing then either.
    with suppress(OSError):
        path.unlink()


def _directory(host: Host) -> Path:
    return host.state / "stopped"
