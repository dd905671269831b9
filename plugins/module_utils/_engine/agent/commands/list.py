# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Listing: the backups of jobs, newest first, with their age, size and proof."""

from __future__ import annotations

import argparse
from datetime import datetime
from functools import partial
from typing import Any, Dict, Iterator, List, Sequence, Tuple

from ...catalogue import place_of, read_place
from ...documents import backup_document
from ...errors import BadManifest, EngineError
from ...model import Backup
from ...state import Host
from ...text import shortened
from ...timespan import format_size
from ..config.jobs import Job, Target
from ..console.exits import Exit, exit_of
from ..console.facts import age_of, proof_of
from ..console.printing import put, put_json, put_line, table
from ..console.selection import add_selection, select
from ..work.apart import look


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    add_selection(parser, every=True)


def act(parsed: argparse.Namespace) -> Exit:
    """List."""
    selection = select(parsed)
    problems: List[Tuple[str, EngineError]] = [(job.name, job.error) for job in selection.broken]
    documents: List[Dict[str, Any]] = []
    rows: List[Tuple[str, ...]] = []
    now = selection.host.now()
    for job in selection.jobs:
        for target in job.targets:
            try:
                found, wrong = look(target.repository, partial(_backups, job, target, selection.host, now))
            except EngineError as error:
                problems.append((job.name, error))
                continue
            documents += [document for document, _row in found]
            rows += [tuple(row) for _document, row in found]
            problems += [(job.name, BadManifest(reason)) for reason in wrong]
    if parsed.json:
        failed = [{"job": name, "error": why.code, "message": str(why)} for name, why in problems]
        put_json({"backups": documents, "problems": failed})
    else:
        heads = ("JOB", "BACKUP", "AGE", "SIZE", "TIER", "PROOF", "REPOSITORY")
        empty = "No backup can be read.\n" if problems else "There are no backups.\n"
        put(table(heads, rows, right=(2, 3)) if rows else empty)
        for line in _lines(problems):
            put_line(line)
    return exit_of([why.code for _name, why in problems])


def _lines(problems: Sequence[Tuple[str, EngineError]]) -> Iterator[str]:
    """What is wrong, a line each; for each job, only the first ones and how many more there are."""
    told: Dict[str, List[str]] = {}
    for name, why in problems:
        told.setdefault(name, []).append(str(why))
    for name, reasons in told.items():
        yield from (f"{name}: {reason}" for reason in shortened(reasons))


def _backups(
    job: Job, target: Target, host: Host, now: datetime
) -> Tuple[List[Tuple[Dict[str, Any], Tuple[str, ...]]], List[str]]:
    """The backups as documents and as rows of the table, the newest first; and what cannot be read."""
    target.repository.check(writing=False)
    catalogue = read_place(host, target.repository, place_of(job.backup.source_host, job.database))
    where = target.repository.label
    rows: List[Tuple[Dict[str, Any], Tuple[str, ...]]] = [
        (
            dict(backup_document(backup), job=job.name, repository=where),
            (job.name, backup.id, *_told(backup, now), where),
        )
        for backup in reversed(catalogue.backups)
    ]
    return rows, [problem.reason for problem in catalogue.problems]


def _told(backup: Backup, now: datetime) -> Tuple[str, str, str, str]:
    return age_of(backup, now), format_size(backup.manifest.bytes), backup.manifest.tier or "-", proof_of(backup)
