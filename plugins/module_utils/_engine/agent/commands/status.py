# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Saying how healthy the backups of jobs are, and what is running on this host."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import Any, Dict, Mapping, Tuple

from ...catalogue import place_of, scan
from ...errors import EngineError
from ...state import running
from ...timespan import format_size
from ..exits import Exit
from ..health import complaints, health_of
from ..jobs import Job, Target
from ..printing import put, put_json, table
from ..selection import add_selection, age, select


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    add_selection(parser, every=True)


def act(parsed: argparse.Namespace) -> Exit:
    """Tell; FAILED where anything is not as it should be."""
    selection = select(parsed)
    now = selection.host.now()
    found = [_look(job, target, now) for job in selection.jobs for target in job.targets]
    found += [_unknown(job.name, "-", str(job.error)) for job in selection.broken]
    work = list(running(selection.host))
    if parsed.json:
        put_json({"jobs": found, "running": work})
    else:
        put(
            table(
                ("JOB", "REPOSITORY", "BACKUPS", "NEWEST", "PROVEN", "HEALTH"), list(map(_row, found)), right=(2, 3, 4)
            )
        )
        for fields in work:
            put(f"running: {fields.get('verb', '?')} of {fields['subject']}, {fields['stage']}{_amount(fields)}\n")
    return Exit.FAILED if any(one["complaints"] for one in found) else Exit.FINE


def _look(job: Job, target: Target, now: datetime) -> Dict[str, Any]:
    try:
        target.repository.check(writing=False)
        catalogue = scan(target.repository, place_of(job.backup.source_host, job.database))
        health = health_of(catalogue, now)
        wrong = complaints(health, catalogue, job.limits, target.repository.space(), now)
    except EngineError as error:
        return _unknown(job.name, target.repository.label, str(error))
    proven = health.restore_proven if health else None
    return {
        "job": job.name,
        "repository": target.repository.label,
        "backups": health.backups if health else 0,
        "age_seconds": int(health.age.total_seconds()) if health and health.age is not None else None,
        "proof_age_seconds": int((now - proven).total_seconds()) if proven else None,
        "complaints": wrong,
    }


def _unknown(job: str, repository: str, why: str) -> Dict[str, Any]:
    ages = {"backups": None, "age_seconds": None, "proof_age_seconds": None}
    return {"job": job, "repository": repository, **ages, "complaints": [why]}


def _row(found: Dict[str, Any]) -> Tuple[str, ...]:
    count = "-" if found["backups"] is None else str(found["backups"])
    ages = [age(found[name]) for name in ("age_seconds", "proof_age_seconds")]
    return (found["job"], found["repository"], count, *ages, "; ".join(found["complaints"]) or "fine")


def _amount(fields: Mapping[str, Any]) -> str:
    if not fields.get("alive"):
        return ", but its process is gone: it was killed"
    done, expected = fields.get("bytes", 0), fields.get("expected_bytes", 0)
    return f", {format_size(done)}" + (f" of about {format_size(expected)}" if expected else "")
