# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The services that a restore has stopped, kept in ``<state>/stopped/<job>.json`` until it has started them again.

A restore that is killed starts nothing. What it left stopped is told by ``status``, and started by the next restore.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence, Tuple

from ...errors import EngineError
from ...state import Host, process_started
from ...timespan import format_time
from ..notifications.files import read_json, write_json
from .health import Complaint
from .services import Service, look


@dataclass(frozen=True)
class Stoppage:
    """Services that a killed restore has stopped, of which some may run by now, and when it did so (RFC 3339)."""

    units: Tuple[str, ...]
    since: str


def note(host: Host, job: str, units: Sequence[str]) -> None:
    """Keep what is about to be stopped. Raises PermissionDenied."""
    pid = os.getpid()
    document = {
        "units": list(units),
        "since": format_time(host.now()),
        "pid": pid,
        "process_started": process_started(pid),
    }
    write_json(_path(host, job), document)


def forget(host: Host, job: str) -> None:
    """What was stopped was started again, or it was told that it could not be."""
    with suppress(FileNotFoundError):
        _path(host, job).unlink()


def left_by_the_dead(host: Host, job: str) -> Optional[Stoppage]:
    """What a restore of this job stopped that is not there any more. Changes nothing."""
    document = read_json(_path(host, job))
    if not isinstance(document, dict):
        return None
    started = process_started(document.get("pid", 0))
    if started is not None and started == document.get("process_started"):
        return None
    return Stoppage(tuple(map(str, document.get("units", ()))), str(document.get("since")))


def still_stopped(host: Host, job: str) -> Tuple[Service, ...]:
    """Those of them that do not run by now, in the order in which they were stopped. Raises what ``look`` raises."""
    stoppage = left_by_the_dead(host, job)
    return tuple(service for service in look(stoppage.units) if not service.running) if stoppage else ()


def complaint_of(host: Host, job: str) -> Optional[Complaint]:
    """What is to be said of them."""
    stoppage = left_by_the_dead(host, job)
    if stoppage is None:
        return None
    try:
        units = [service.unit for service in still_stopped(host, job)]
    except EngineError as error:
        return Complaint("stopped", f"a restore that was killed stopped {', '.join(stoppage.units)}: {error}")
    if not units:
        return None
    names = " ".join(units)
    text = f"{names} was stopped at {stoppage.since} by a restore that was killed: restore again, or systemctl start"
    return Complaint("stopped", f"{text} {names}")


def _path(host: Host, job: str) -> Path:
    return host.state / "stopped" / f"{job}.json"
