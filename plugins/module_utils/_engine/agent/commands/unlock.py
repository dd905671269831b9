# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Saying who holds locks, and clearing what killed processes left over. A lock that is held is never broken."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any, Dict, List, Sequence, Tuple

from ...timespan import format_size
from ..console.exits import Exit
from ..console.printing import put, put_json, table
from ..console.selection import add_selection, select
from ..work.stoppage import let_stay_stopped
from ..work.unlocking import Cleared, Leftover, Lock, clear, locks_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    add_selection(parser, every=True)
    parser.add_argument(
        "--let-stay-stopped",
        action="store_true",
        help="say no more of services that restores have stopped and that did not start again",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be cleared, and change nothing")


def act(parsed: argparse.Namespace) -> Exit:
    """Tell and clear; FAILED where something could not be looked at."""
    selection = select(parsed)
    meant = selection.jobs if parsed.jobs else None
    locks = [lock for lock in locks_of(selection.host, meant) if lock.held]
    cleared = clear(selection.host, meant, selection.jobs, parsed.dry_run)
    if parsed.let_stay_stopped:
        units = let_stay_stopped(selection.host, parsed.jobs or None, parsed.dry_run)
        found = tuple(Leftover("stopped", unit) for unit in units)
        cleared = replace(cleared, leftovers=(*cleared.leftovers, *found))
    problems = (*cleared.problems, *(f"{job.name}: {job.error}" for job in selection.broken))
    if parsed.json:
        put_json({"locks": [_document(lock) for lock in locks], **_cleared(cleared, problems, parsed.dry_run)})
    else:
        put(_text(locks, cleared, parsed.dry_run) + "".join(f"{problem}\n" for problem in problems))
    return Exit.FAILED if problems else Exit.FINE


def _document(lock: Lock) -> Dict[str, Any]:
    return {"subject": lock.subject, "pid": lock.pid, "since": lock.since, "status": lock.status}


def _cleared(cleared: Cleared, problems: Sequence[str], dry_run: bool) -> Dict[str, Any]:
    found = [{"kind": leftover.kind, "where": leftover.where} for leftover in cleared.leftovers]
    return {"would_clear" if dry_run else "cleared": found, "problems": list(problems)}


def _text(locks: Sequence[Lock], cleared: Cleared, dry_run: bool) -> str:
    parts: List[str] = []
    if locks:
        rows = [_row(lock) for lock in locks]
        parts.append(table(("LOCK", "HELD BY", "SINCE", "WHAT IT DOES"), rows))
        pids = " ".join(str(pid) for pid in dict.fromkeys(lock.pid for lock in locks) if pid is not None)
        parts.append(
            f"The work goes on, so its locks are not touched. kill {pids or 'PID'} ends it, and it cleans up.\n"
        )
    if cleared.leftovers:
        head = "WOULD BE CLEARED" if dry_run else "CLEARED"
        parts.append(table((head, ""), [(leftover.kind, leftover.where) for leftover in cleared.leftovers]))
    return "".join(parts) or "Nothing is locked, and nothing is left over.\n"


def _row(lock: Lock) -> Tuple[str, ...]:
    return lock.subject, f"process {lock.pid or '?'}", lock.since or "-", _work(lock)


def _work(lock: Lock) -> str:
    if not lock.status:
        return "-"
    done, expected = lock.status.get("bytes"), lock.status.get("expected_bytes")
    amount = f", {format_size(done)}" if isinstance(done, int) and done else ""
    of = f" of about {format_size(expected)}" if isinstance(expected, int) and expected and amount else ""
    return f"{lock.status.get('verb', '?')}: {lock.status.get('stage', '?')}{amount}{of}"
