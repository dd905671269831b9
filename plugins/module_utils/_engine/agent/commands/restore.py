# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Restoring a backup of a job: by options, or where there is a terminal by asking."""

from __future__ import annotations

import argparse
from datetime import datetime, timedelta
from functools import partial
from pathlib import PurePath
from typing import Any, List, Mapping, Optional, Tuple

from ...errors import BadInput, Interrupted
from ...interrupts import between_works, interruptible
from ...state import Host
from ...timespan import format_size, format_span, parse_span, parse_time
from ..config.given import accepted_methods, add_accepted, add_keys, given_keys
from ..config.jobs import Job, is_unit
from ..console.exits import Exit, exit_of
from ..console.facts import facts, safety_of, time_of
from ..console.menu import agree, choose_backup, choose_job, confirm
from ..console.printing import complain, put, put_json, put_line
from ..console.progress import showing
from ..console.selection import Selection, select
from ..console.terminal import has_terminal
from ..work.apart import report_apart
from ..work.concluding import conclude
from ..work.restoring import RestoreOptions, restore_for
from ..work.running import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("job", nargs="?", metavar="JOB", help="the job's name (default: asks on a terminal)")
    what = parser.add_argument_group("what is restored")
    what.add_argument("--backup", metavar="ID", help="latest, an id, or the name of a backup's file")
    what.add_argument("--before", metavar="TIME", help="the newest backup of this time or before, as 2026-03-01T12:00Z")
    what.add_argument("--source-host", metavar="HOST", help="the host whose backup it is (default: the job's)")
    what.add_argument("--source-database", metavar="NAME", help="the database it is a backup of (default: the job's)")
    what.add_argument("--repository", metavar="LABEL", help="the repository to restore from (default: any that has it)")
    add_keys(parser)
    add_accepted(what)
    into = parser.add_argument_group("into what")
    into.add_argument("--into", metavar="NAME", help="the database to restore into (default: the job's own)")
    into.add_argument("--replace", action="store_true", help="replace that database where it exists")
    into.add_argument("--keep-replaced", action="store_true", help="keep the replaced one, under another name")
    into.add_argument("--no-safety-backup", action="store_true", help="take no backup of what is replaced")
    into.add_argument("--owner", metavar="NAME", help="whose the database will be")
    into.add_argument("--globals", action="store_true", help="restore roles and tablespaces first")
    how = parser.add_argument_group("how")
    how.add_argument("--parallel", type=int, default=1, metavar="N", help="the number of parallel jobs (PostgreSQL)")
    how.add_argument(
        "--on-error",
        choices=("stop", "continue"),
        default="stop",
        help="what to do about an object that cannot be restored: continue restores the others, and names it",
    )
    how.add_argument(
        "--stop-service",
        action="append",
        default=[],
        metavar="UNIT",
        help="stop this unit of systemd meanwhile, besides those that the job names",
    )
    how.add_argument("--timeout", metavar="TIME", help="how long it may take, such as 6h (default: no limit)")
    how.add_argument("--yes", action="store_true", help="do not ask; without a terminal this must be said")
    how.add_argument("--dry-run", action="store_true", help="say what would be done, and change nothing")


def act(parsed: argparse.Namespace) -> Exit:
    """Restore, and tell."""
    asked = has_terminal()
    named: Optional[str] = parsed.job
    if not (asked or parsed.yes or parsed.dry_run):
        raise BadInput(
            "A restore asks before it begins, and there is no terminal to ask on. Add --yes, and --replace where the "
            "database exists and shall be replaced; --dry-run says what would be done."
        )
    if named is None and (parsed.yes or not asked):
        raise BadInput("No job is named. Name one: fleet-backup restore JOB.")
    options = _options(parsed)
    selection = select(argparse.Namespace(config=parsed.config, jobs=[named] if named else []))
    if named and selection.broken:
        raise selection.broken[0].error
    if parsed.yes or (named and parsed.dry_run):
        job = selection.jobs[0]
    else:
        job, options = _talk(selection, options, parsed)
        if parsed.dry_run:
            return Exit.FINE
    with between_works():
        with showing(selection.host, job.name, wanted=not parsed.json):
            work = partial(restore_for, job, options, selection.host, parsed.dry_run)
            report = report_apart(job.name, "restore", selection.host, work, options.timeout)
        # The person at the terminal sees why the restore was refused. Nobody sees it of a scheduled one.
        if not (parsed.dry_run or (report.refused and asked)):
            report = conclude(job, report, selection.settings)
    if parsed.json:
        put_json([report.document])
    else:
        _tell(report)
    return exit_of([report.error])


def _options(parsed: argparse.Namespace) -> RestoreOptions:
    """The options, checked. Raises BadInput, and what ``given_keys`` raises."""
    services: List[str] = parsed.stop_service
    for unit in services:
        if not is_unit(unit):
            raise BadInput(f'--stop-service: "{unit}" cannot be the name of a unit of systemd. Correct it.')
    return RestoreOptions(
        # Of a path that somebody copied, the file's name is what says which backup it is.
        backup=PurePath(parsed.backup).name if parsed.backup else "latest",
        before=_moment(parsed.before) if parsed.before else None,
        source_host=parsed.source_host,
        source_database=parsed.source_database,
        into=parsed.into,
        repository=parsed.repository,
        replace=parsed.replace,
        keep_replaced=parsed.keep_replaced,
        safety_backup=not parsed.no_safety_backup,
        parallel=parsed.parallel,
        owner=parsed.owner,
        globals=parsed.globals,
        tolerant=parsed.on_error == "continue",
        stop_services=tuple(services),
        timeout=parse_span(parsed.timeout, "--timeout").total_seconds() if parsed.timeout else None,
        given=given_keys(parsed),
        accepted=accepted_methods(parsed),
    )


def _moment(text: str) -> datetime:
    """A time, as late as it can be meant: backups are taken within a second, and listed without its parts."""
    moment = parse_time(text, "--before")
    return moment if moment.microsecond else moment.replace(microsecond=999_999)


def _talk(selection: Selection, options: RestoreOptions, parsed: argparse.Namespace) -> Tuple[Job, RestoreOptions]:
    """Ask for what the command line leaves open, show what would be done, and have it confirmed."""
    host: Host = selection.host
    try:
        with interruptible():
            job = selection.jobs[0] if parsed.job else choose_job(selection)
            if parsed.backup is None and parsed.before is None:
                options = choose_backup(job, options, host)
            prospect, options = agree(job, options, host)
            if not parsed.dry_run:
                confirm(prospect)
    except Interrupted:
        # Whatever stopped it, this much is known: it had not begun.
        raise Interrupted("Ended before anything was changed.") from None
    return job, options


def _foreseen(detail: Mapping[str, Any]) -> str:
    rows = [
        ("repository", detail["repository"]),
        ("space", f"about {format_size(detail['needed_bytes'])} beside it"),
        ("time", time_of(detail["expected_seconds"])),
        ("safety", safety_of(detail["replaces"], detail["takes_safety_backup"], detail["repository"])),
        ("stops", ", ".join(detail["stops"]) or "no service"),
    ]
    return facts(rows)


def _tell(report: Report) -> None:
    if report.error is not None and not report.changed:
        complain(report.text)
        return
    detail = report.detail
    took = f" in {format_span(timedelta(seconds=max(1.0, report.seconds)))}" if "durations" in detail else ""
    put_line(f"{report.text}{took}")
    if "needed_bytes" in detail:
        put(_foreseen(detail))
    for line in detail.get("missing", ()):
        put(f"  {line}\n")
    if detail.get("undo"):
        put_line(f"What was there is in the safety backup {detail['safety_backup']}. This brings it back:")
        put_line(f"  {detail['undo']}")
    if detail.get("kept_as"):
        put_line(f"What was there is kept as {detail['kept_as']}.")
    for warning in report.warnings:
        put_line(warning)
