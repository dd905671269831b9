# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Saying how healthy the backups of jobs are, and what is running on this host."""

from __future__ import annotations

import argparse
from datetime import datetime
from functools import partial
from typing import Any, Dict, List, Mapping, Sequence, Tuple, Union

from ...catalogue import place_of, read_place
from ...errors import EngineError
from ...interrupts import between_works
from ...state import Host, running
from ...timespan import format_size
from ..config.jobs import Job, Target
from ..config.reading import BrokenJob
from ..console.exits import Exit
from ..console.printing import put, put_json, put_line, table
from ..console.selection import Selection, add_selection, age, select
from ..notifications.events import HEALTH, UNHEALTHY
from ..notifications.outbox import unreachable, waiting
from ..work.apart import look
from ..work.concluding import Concluding
from ..work.due import awaited
from ..work.health import Complaint, complaints, health_of
from ..work.running import Report
from ..work.stoppage import complaints_by_job
from ..work.unlocking import abandoned_directories


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    add_selection(parser, every=True)
    parser.add_argument(
        "--notify", action="store_true", help="tell the channels of jobs that became unhealthy or healthy again"
    )


def act(parsed: argparse.Namespace) -> Exit:
    """Tell; FAILED where anything is not as it should be."""
    selection = select(parsed)
    now = selection.host.now()
    found = [_look(job, target, selection.host, now) for job in selection.jobs for target in job.targets]
    found += [_unknown(job.name, "-", Complaint("unknown", str(job.error))) for job in selection.broken]
    found = _with_stopped(found, selection, every=not parsed.jobs)
    work = list(running(selection.host))
    warnings = _notify(selection, found) if parsed.notify else []
    unsent = _unsent(selection)
    leftovers = _leftovers(selection, warnings)
    if parsed.json:
        told = {"jobs": found, "running": work, "unsent": unsent, "leftovers": leftovers, "warnings": warnings}
        put_json(told)
    else:
        put(
            table(
                ("JOB", "REPOSITORY", "BACKUPS", "NEWEST", "PROVEN", "HEALTH"), list(map(_row, found)), right=(2, 3, 4)
            )
        )
        for fields in work:
            put_line(f"running: {fields.get('verb', '?')} of {fields['subject']}, {fields['stage']}{_amount(fields)}")
        for one in unsent:
            since = f" since {one['since']}" if one["since"] else ""
            put_line(f"notifications: {one['waiting']} wait for {one['channel']}{since}: {one['reason']}")
        for path in leftovers:
            put_line(f"left over: {path}, by a process that was killed; fleet-backup unlock removes it")
        for warning in warnings:
            # What still waits is told above.
            if not any(warning.startswith(one["reason"]) for one in unsent):
                put_line(f"notifications: {warning}")
    return Exit.FAILED if any(one["complaints"] for one in found) else Exit.FINE


def _with_stopped(found: Sequence[Dict[str, Any]], selection: Selection, every: bool) -> List[Dict[str, Any]]:
    """Say with each job, once, what a restore of it has left stopped; of ``every`` job, also of those that are gone."""
    told = list(found)
    for job, complaint in complaints_by_job(selection.host).items():
        mine = next((one for one in told if one["job"] == job), None)
        if mine is not None:
            mine["complaints"].append(complaint.text)
            mine["codes"].append(complaint.code)
        elif every:
            told.append(_unknown(job, "-", complaint))
    return told


def _notify(selection: Selection, found: Sequence[Mapping[str, Any]]) -> List[str]:
    """Tell of each job whose health changed; what could not be told."""
    reports: List[Report] = []
    jobs: List[Union[Job, BrokenJob]] = [*selection.jobs, *selection.broken]
    with between_works(), Concluding(selection.settings) as concluding:
        for job in jobs:
            wrong = [sentence for one in found if one["job"] == job.name for sentence in one["complaints"]]
            # The same thing wrong in a second repository is news.
            causes = {f"{code} {one['repository']}" for one in found if one["job"] == job.name for code in one["codes"]}
            waits = any("backup" in one["awaited"] for one in found if one["job"] == job.name)
            text = "; ".join(wrong) or ("the first backup is not due yet" if waits else "all is as it should be")
            error = UNHEALTHY if wrong else None
            report = Report(job.name, HEALTH, False, f"{text}.", 0.0, error, causes=tuple(sorted(causes)))
            reports.append(concluding.conclude(job if isinstance(job, Job) else None, report))
        reports = concluding.deliver(reports)
    return list(dict.fromkeys(warning for report in reports for warning in report.warnings))


def _unsent(selection: Selection) -> List[Dict[str, Any]]:
    """The channels that could not be reached, and how many messages wait for each."""
    state, counts = selection.host.state, waiting(selection.host.state)
    found = []
    for channel in sorted({*counts, *unreachable(state)}):
        noted = unreachable(state).get(channel, {})
        reason, since = str(noted.get("reason", "not tried yet")), noted.get("since")
        found.append({"channel": channel, "waiting": counts.get(channel, 0), "since": since, "reason": reason})
    return found


def _leftovers(selection: Selection, warnings: List[str]) -> List[str]:
    """The scratch directories that killed processes left."""
    try:
        return [str(left.path) for left in abandoned_directories(selection.jobs)]
    except EngineError as error:
        warnings.append(str(error))
    return []


def _look(job: Job, target: Target, host: Host, now: datetime) -> Dict[str, Any]:
    try:
        found: Dict[str, Any] = look(target.repository, partial(_found, job, target, host, now))
    except EngineError as error:
        return _unknown(job.name, target.repository.label, Complaint("unknown", str(error)))
    return found


def _found(job: Job, target: Target, host: Host, now: datetime) -> Dict[str, Any]:
    target.repository.check(writing=False)
    catalogue = read_place(host, target.repository, place_of(job.backup.source_host, job.database))
    health = health_of(catalogue, now)
    waits = awaited(job, host)
    wrong = complaints(health, catalogue, job.limits, target.repository.space(), now, waits)
    proven = health.restore_proven if health else None
    return {
        "job": job.name,
        "repository": target.repository.label,
        "backups": health.backups if health else 0,
        "age_seconds": int(health.age.total_seconds()) if health and health.age is not None else None,
        "proof_age_seconds": int((now - proven).total_seconds()) if proven else None,
        **_told(wrong),
        "awaited": sorted(work.value for work in waits) if health is None else [],
    }


def _unknown(job: str, repository: str, complaint: Complaint) -> Dict[str, Any]:
    ages = {"backups": None, "age_seconds": None, "proof_age_seconds": None}
    return {"job": job, "repository": repository, **ages, **_told([complaint]), "awaited": []}


def _told(wrong: Sequence[Complaint]) -> Dict[str, List[str]]:
    return {"complaints": [one.text for one in wrong], "codes": list(dict.fromkeys(one.code for one in wrong))}


def _row(found: Dict[str, Any]) -> Tuple[str, ...]:
    count = "-" if found["backups"] is None else str(found["backups"])
    ages = [age(found[name]) for name in ("age_seconds", "proof_age_seconds")]
    fine = "the first backup is not due yet" if "backup" in found["awaited"] else "fine"
    return (found["job"], found["repository"], count, *ages, "; ".join(found["complaints"]) or fine)


def _amount(fields: Mapping[str, Any]) -> str:
    if not fields.get("alive"):
        return ", but its process is gone: it was killed"
    done, expected = fields.get("bytes", 0), fields.get("expected_bytes", 0)
    return f", {format_size(done)}" + (f" of about {format_size(expected)}" if expected else "")
