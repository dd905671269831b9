# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What was told of each job and verb, so that a failure is told once, and its end.

``<state>/notifications/jobs/<job>.<verb>.json``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Dict, FrozenSet, Mapping, Optional, Tuple

from ...errors import BadInput
from ...timespan import format_time, parse_time
from .base import Route
from .events import Kind
from .files import read_json, write_json


@dataclass(frozen=True)
class Told:
    """What a channel was told last to be wrong, by codes, and when."""

    errors: FrozenSet[str]
    time: datetime


@dataclass(frozen=True)
class Memory:
    """Since when a job's verb fails, and what each channel knows of it, by the channel's name."""

    since: Optional[datetime] = None
    told: Mapping[str, Told] = field(default_factory=dict)


def decide(memory: Memory, route: Route, errors: FrozenSet[str], now: datetime) -> Tuple[Optional[Kind], Memory]:
    """What a channel is to be told where these errors were found, and what is remembered then. Pure.

    An error of another kind than those before is news; one that lasts is none, but for a reminder, and neither is that
    there are fewer.
    """
    known = memory.told.get(route.name)
    others = {name: told for name, told in memory.told.items() if name != route.name}
    if not errors:
        wanted = [Kind.RECOVERY, Kind.SUCCESS] if known else [Kind.SUCCESS]
        return next((kind for kind in wanted if kind in route.events), None), replace(memory, told=others)
    due = known is None or bool(errors - known.errors)
    if known is not None and route.remind is not None and now - known.time >= route.remind:
        due = True
    if known is not None and not due:
        return None, replace(memory, told={**others, route.name: replace(known, errors=errors)})
    remembered = replace(memory, told={**others, route.name: Told(errors, now)})
    return (Kind.FAILURE if Kind.FAILURE in route.events else None), remembered


def path_of(state: Path, job: str, verb: str) -> Path:
    """Where the memory of a job's verb is."""
    return state / "notifications" / "jobs" / f"{job}.{verb}.json"


def recall(path: Path) -> Memory:
    """What is remembered: nothing, where the file is missing or spoilt. Then a failure is told again."""
    document = read_json(path)
    try:
        return _memory(document) if document is not None else Memory()
    except (BadInput, KeyError, TypeError, AttributeError):
        return Memory()


def remember(path: Path, memory: Memory) -> None:
    """Write it. Raises PermissionDenied."""
    told = {
        name: {"errors": sorted(one.errors), "time": format_time(one.time)} for name, one in sorted(memory.told.items())
    }
    write_json(path, {"since": format_time(memory.since) if memory.since else None, "told": told})


def _memory(document: Any) -> Memory:
    told: Dict[str, Told] = {
        str(name): Told(frozenset(map(str, one["errors"])), parse_time(one["time"], "time"))
        for name, one in document["told"].items()
    }
    since = document["since"]
    return Memory(parse_time(since, "since") if since else None, told)
