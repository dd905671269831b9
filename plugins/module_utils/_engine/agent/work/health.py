# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a job's backups are as they should be. Pure functions."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import FrozenSet, List, NamedTuple, Optional

from ...catalogue import Catalogue, in_future
from ...info import DatabaseHealth, judge
from ...model import Space
from ...timespan import format_size, format_span
from ..config.jobs import Limits
from ..config.schedule import Work


class Complaint(NamedTuple):
    """Something that is not as it should be: a word for programs, and a sentence that says how much."""

    code: str
    text: str


def health_of(catalogue: Catalogue, now: datetime) -> Optional[DatabaseHealth]:
    """The numbers of one place; None where it holds no backup."""
    return next(judge(catalogue.backups, now), None)


def complaints(
    health: Optional[DatabaseHealth],
    catalogue: Catalogue,
    limits: Limits,
    space: Optional[Space],
    now: datetime,
    awaited: FrozenSet[Work] = frozenset(),
) -> List[Complaint]:
    """What is not as it should be. ``space`` is the repository's, where that is known.

    ``awaited`` is the work that a new job need not have done yet: that it is missing is no fault.
    """
    if health is None and Work.BACKUP in awaited:
        return []
    if health is None or health.newest is None:
        return [Complaint("no_backup", "there is no good backup")]
    found: List[Complaint] = []
    if limits.age is not None and health.age is not None and health.age > limits.age:
        text = f"the newest backup is {format_span(health.age)} old, and may be {format_span(limits.age)}"
        found.append(Complaint("stale", text))
    if health.restore_proven is not None or Work.VERIFY not in awaited:
        found += _unproven(health, limits.proof_age, now)
    if health.bad:
        regular = [one for one in catalogue.backups if not (one.manifest.safety or one.foreign)]
        newest = [one.id for one in regular if one.known_bad is not None][-1]
        text = f"{health.bad} of {health.backups} backups are known to be bad, the newest of them {newest}"
        found.append(Complaint("bad", text))
    future = [backup for backup in catalogue.backups if in_future(backup, now)]
    if future:
        found.append(Complaint("future", f"{future[-1].id} is dated in the future, so that its age is not known"))
    if catalogue.problems:
        text = f"{len(catalogue.problems)} files are not in order: {catalogue.problems[0].reason}"
        found.append(Complaint("disorder", text))
    return found + _crowded(health.newest.manifest.bytes, limits, space)


def _crowded(size: int, limits: Limits, space: Optional[Space]) -> List[Complaint]:
    """What is wrong with the space for backups of this size."""
    if space is None:
        return []
    found: List[Complaint] = []
    needed = size * limits.room
    if space.free < needed:
        text = f"{format_size(space.free)} are free, and {limits.room} more backups need {format_size(needed)}"
        found.append(Complaint("space", text))
    if space.share < limits.free:
        found.append(Complaint("space", f"{space.share:.0%} of the space is free, and {limits.free:.0%} should be"))
    return found


def _unproven(health: DatabaseHealth, limit: Optional[timedelta], now: datetime) -> List[Complaint]:
    if limit is None:
        return []
    if health.restore_proven is None:
        return [Complaint("unproven", "no backup was ever proven by restoring it")]
    age = now - health.restore_proven
    if age <= limit:
        return []
    text = f"the last proof by restoring is {format_span(age)} old, and may be {format_span(limit)}"
    return [Complaint("unproven", text)]
