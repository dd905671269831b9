# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The services that a restore has stopped, noted in ``<state>/stopped/<job>+<process>.json`` until they run again.

A restore that is killed starts nothing. What it left stopped is told by ``status``, and started by the next restore of
the job. When the host has started anew since then, its services have been started by what starts them with it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, Optional, Sequence, Tuple

from ...errors import EngineError
from ...state import Host, lives, process_started
from ...timespan import format_time
from ..notifications.files import read_json, write_json
from .health import Complaint
from .services import Service, look

_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class _Note:
    """What one restore has stopped, when (RFC 3339), and whether the host has been up since then."""

    path: Path
    job: str
    units: Tuple[str, ...]
    since: str
    this_boot: bool


def note(host: Host, job: str, units: Sequence[str]) -> None:
    """Note what this restore has stopped, or is about to. Raises PermissionDenied."""
    pid = os.getpid()
    document = {
        "units": list(units),
        "since": format_time(host.now()),
        "boot": _boot(),
        "pid": pid,
        "process_started": process_started(pid),
    }
    write_json(_directory(host) / f"{job}+{pid}.json", document)


def forget(host: Host, job: str) -> None:
    """Drop what this restore and killed ones have noted: it runs again, or it was told that it does not."""
    for one in _notes_of_the_dead(host):
        if one.job == job:
            _drop(one.path)
    _drop(_directory(host) / f"{job}+{os.getpid()}.json")


def left_stopped(host: Host, job: str) -> Tuple[Service, ...]:
    """What killed restores of a job have stopped and what does not run since. Raises what ``look`` raises."""
    notes = [one for one in _notes_of_the_dead(host) if one.job == job and one.this_boot]
    return _stopped([unit for one in notes for unit in one.units])


def complaints_by_job(host: Host) -> Dict[str, Complaint]:
    """What is to be said of services that were left stopped, by job. Notes of those that run again are dropped."""
    found: Dict[str, Complaint] = {}
    for one in _notes_of_the_dead(host):
        complaint = _complaint(one)
        if complaint:
            found[one.job] = complaint
        else:
            _drop(one.path)
    return found


def _stopped(units: Sequence[str]) -> Tuple[Service, ...]:
    return tuple(service for service in look(units) if service.installed and not service.running)


def _complaint(one: _Note) -> Optional[Complaint]:
    if not one.this_boot:
        return None
    try:
        units = [service.unit for service in _stopped(one.units)]
    except EngineError as error:
        return Complaint("stopped", f"a restore that was killed has stopped {', '.join(one.units)}: {error}")
    if not units:
        return None
    names = " ".join(units)
    text = f"{names} was stopped at {one.since} by a restore that was killed: restore again, or systemctl start"
    return Complaint("stopped", f"{text} {names}")


def _notes_of_the_dead(host: Host) -> Iterator[_Note]:
    """The notes of restores that are not there any more."""
    directory = _directory(host)
    for path in sorted(directory.glob("*+*.json")) if directory.is_dir() else ():
        document = read_json(path)
        if not isinstance(document, dict):
            continue
        if not lives(document.get("pid", 0), document.get("process_started")):
            units = tuple(map(str, document.get("units", ())))
            job, this_boot = path.stem.rpartition("+")[0], _boot() in (document.get("boot"), None)
            yield _Note(path, job, units, str(document.get("since")), this_boot)


def _drop(path: Path) -> None:
    # A note that stays is looked at again, and says nothing then either.
    with suppress(FileNotFoundError, PermissionError):
        path.unlink()


def _boot() -> Optional[str]:
    """Which start of the host this is (random(4)); None in a service that does not see it (``ProcSubset=pid``)."""
    try:
        return _BOOT.read_text("ascii").strip()
    except FileNotFoundError:
        return None


def _directory(host: Host) -> Path:
    return host.state / "stopped"
