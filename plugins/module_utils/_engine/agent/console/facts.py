# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Backups as people are told of them. Pure functions."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Optional, Sequence, Tuple

from ...model import Backup, Level
from ...timespan import format_span
from .printing import table


def facts(rows: Sequence[Tuple[str, str]]) -> str:
    """Names and what is known by them, a line each; a name that is empty goes on with the one above it."""
    return table(("", ""), rows).split("\n", 1)[1]


def proof_of(backup: Backup) -> str:
    """How far a backup is proven, or why it must not be counted on."""
    if backup.known_bad:
        return f"BAD: {backup.known_bad}"
    if backup.foreign:
        return "FOREIGN: this host did not write it"
    proven = next((level for level in reversed(Level) if backup.proven(level)), None)
    return proven.value if proven else "unproven"


def brief_proof_of(backup: Backup) -> str:
    """The same in a few words, for a list."""
    proof = proof_of(backup)
    return ": ".join(proof.split(": ")[:2]) if backup.known_bad else proof.split(": ", 1)[0]


def age_of(backup: Backup, now: datetime) -> str:
    """How old a backup is."""
    return "in the future" if backup.time > now else format_span(now - backup.time)


def time_of(seconds: Optional[float]) -> str:
    """How long something is expected to take."""
    return "not known" if seconds is None else f"about {format_span(timedelta(seconds=max(1.0, seconds)))}"


def safety_of(replaces: bool, saves: bool, repository: str) -> str:
    """What becomes of the database that is there before a restore."""
    if saves:
        return f"what is there now is backed up to {repository} first"
    return "NO BACKUP of what is there now" if replaces else "nothing is there to back up"
