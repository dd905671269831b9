# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a job's backups are as they should be. Pure functions."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import List, Optional

from ..catalogue import Catalogue, in_future
from ..info import DatabaseHealth, judge
from ..model import Space
from ..timespan import format_size, format_span
from .jobs import Limits


def health_of(catalogue: Catalogue, now: datetime) -> Optional[DatabaseHealth]:
    """The numbers of one place; None where it holds no backup."""
    return next(judge(catalogue.backups, now), None)


def complaints(
    health: Optional[DatabaseHealth], catalogue: Catalogue, limits: Limits, space: Optional[Space], now: datetime
) -> List[str]:
    """What is not as it should be, a sentence each. ``space`` is the repository's, where that is known."""
    if health is None or health.newest is None:
        return ["there is no good backup"]
    found: List[str] = []
    if limits.age is not None and health.age is not None and health.age > limits.age:
        found.append(f"the newest backup is {format_span(health.age)} old, and may be {format_span(limits.age)}")
    found += _unproven(health, limits.proof_age, now)
    if health.bad:
        found.append(f"{health.bad} of {health.backups} backups are known to be bad")
    future = [backup for backup in catalogue.backups if in_future(backup, now)]
    if future:
        found.append(f"{future[-1].id} is dated in the future, so that its age is not known")
    if catalogue.problems:
        found.append(f"{len(catalogue.problems)} files are not in order: {catalogue.problems[0].reason}")
    return found + _crowded(health.newest.manifest.bytes, limits, space)


def _crowded(size: int, limits: Limits, space: Optional[Space]) -> List[str]:
    """What is wrong with the space for backups of this size."""
    if space is None:
        return []
    found: List[str] = []
    needed = size * limits.room
    if space.free < needed:
        found.append(f"{format_size(space.free)} are free, and {limits.room} more backups need {format_size(needed)}")
    if space.share < limits.free:
        found.append(f"{space.share:.0%} of the space is free, and {limits.free:.0%} should be")
    return found


def _unproven(health: DatabaseHealth, limit: Optional[timedelta], now: datetime) -> List[str]:
    if limit is None:
        return []
    if health.restore_proven is None:
        return ["no backup was ever proven by restoring it"]
    age = now - health.restore_proven
    if age <= limit:
        return []
    return [f"the last proof by restoring is {format_span(age)} old, and may be {format_span(limit)}"]
