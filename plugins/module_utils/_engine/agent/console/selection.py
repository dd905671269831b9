# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which jobs a command is about, and how it tells what became of them."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Callable, List, Optional, Sequence, Tuple

from ...errors import BadInput, Interrupted
from ...interrupts import between_works
from ...state import Host
from ...timespan import format_span
from ..config.jobs import Job
from ..config.reading import BrokenJob, read_jobs
from ..config.settings import CONFIG, Settings, read_settings
from ..work.apart import report_apart
from ..work.concluding import Concluding
from ..work.due import due_jobs
from ..work.running import Report
from .exits import Exit, exit_of
from .printing import put, put_json, put_line, table
from .progress import watched

_SECOND = 1.0


@dataclass(frozen=True)
class Selection:
    """The jobs that are meant, in the order of their names, and those among them that cannot be read."""

    settings: Settings
    jobs: Tuple[Job, ...]
    broken: Tuple[BrokenJob, ...]

    @property
    def host(self) -> Host:
        return self.settings.host


def add_selection(parser: argparse.ArgumentParser, every: bool) -> None:
    """Take names of jobs, and with ``every`` all of them where none is named; else that must be said by --all."""
    parser.add_argument("jobs", nargs="*", metavar="JOB", help="the jobs' names" + (" (default: all)" if every else ""))
    if not every:
        parser.add_argument("--all", action="store_true", help="all jobs of this host")
        parser.add_argument("--skip-unknown", action="store_true", help="pass over names that no job of this host has")


def settings_of(parsed: argparse.Namespace) -> Settings:
    """The settings that the command line or the environment (FLEET_BACKUP_CONFIG) names."""
    given = parsed.config or os.environ.get("FLEET_BACKUP_CONFIG")
    return read_settings(Path(given) if given else CONFIG, required=given is not None)


def select(parsed: argparse.Namespace) -> Selection:
    """The jobs that are meant. Raises BadInput for a name that no job has."""
    settings = settings_of(parsed)
    jobs, broken = read_jobs(settings.jobs, settings.host.name)
    wanted: Sequence[str] = parsed.jobs
    _check_one_way(parsed)
    if wanted:
        known = [job.name for job in jobs] + [job.name for job in broken]
        for name in wanted:
            if name not in known and not getattr(parsed, "skip_unknown", False):
                there = ", ".join(sorted(known)) or "none"
                raise BadInput(f'There is no job "{name}" in {settings.jobs}. The jobs there: {there}.')
        jobs = tuple(job for job in jobs if job.name in wanted)
        broken = tuple(job for job in broken if job.name in wanted)
    if getattr(parsed, "due", False):
        jobs = due_jobs(jobs, settings.host)
    return Selection(settings, jobs, broken)


def _check_one_way(parsed: argparse.Namespace) -> None:
    """Raise BadInput where it is not said which jobs are meant, or in two ways."""
    flags = [name for name in ("all", "due") if hasattr(parsed, name)]
    said = ["names of jobs"] * bool(parsed.jobs) + [f"--{name}" for name in flags if getattr(parsed, name)]
    if flags and not said:
        raise BadInput(f"No job is named. Name jobs, or say {' or '.join(f'--{name}' for name in flags)}.")
    if len(said) > 1:
        raise BadInput(f"{' and '.join(said)} are given together. Leave all but one of them out.")


def do_each(
    parsed: argparse.Namespace,
    verb: str,
    act: Callable[[Job, Host, bool], Report],
    seconds: Callable[[Job], float],
) -> Exit:
    """Do the same with each job, and tell what became of it. One that fails, hangs or crashes stops no other one.

    ``act`` runs in a process of its own, for ``seconds`` at most, and is a function of a module.
    """
    selection = select(parsed)

    def act_apart(job: Job, host: Host, dry_run: bool) -> Report:
        return report_apart(job.name, verb, host, partial(act, job, host, dry_run), seconds(job))

    if parsed.dry_run:
        reports = [_broken(job, verb) for job in selection.broken]
        reports += [act_apart(job, selection.host, True) for job in selection.jobs]
    else:
        reports = _do(selection, verb, watched(act_apart, wanted=not parsed.json))
    reports.sort(key=lambda report: report.job)
    if parsed.json:
        put_json([report.document for report in reports])
    else:
        _tell(reports, "No backup is due." if getattr(parsed, "due", False) else "This host has no jobs.")
    return exit_of([report.error for report in reports])


def _do(selection: Selection, verb: str, act: Callable[[Job, Host, bool], Report]) -> List[Report]:
    # What follows a job's work is not cut short: a signal ends the run with the next work.
    with between_works(), Concluding(selection.settings) as concluding:
        reports = [concluding.conclude(None, _broken(broken, verb)) for broken in selection.broken]
        for job in selection.jobs:
            concluding.begin(job, verb)
            reports.append(concluding.conclude(job, act(job, selection.host, False)))
            if reports[-1].error == Interrupted.code:
                break
        return concluding.deliver(reports)


def _broken(job: BrokenJob, verb: str) -> Report:
    return Report(job.name, verb, False, str(job.error), 0.0, job.error.code)


def _tell(reports: Sequence[Report], nothing: str) -> None:
    if not reports:
        put_line(nothing)
        return
    rows = [(report.job, _word(report), _time(report.seconds), report.text) for report in reports]
    put(table(("JOB", "RESULT", "TIME", ""), rows, right=(2,)))
    for report in reports:
        for warning in report.warnings:
            put_line(f"{report.job}: {warning}")


def _word(report: Report) -> str:
    if report.error is not None:
        return report.error if report.error in ("unverifiable", "interrupted") else "failed"
    return "done" if report.changed else "nothing to do"


def _time(seconds: float) -> str:
    return format_span(timedelta(seconds=seconds)) if seconds >= _SECOND else "<1s"


def age(seconds: Optional[float]) -> str:
    """An age for people, or a dash."""
    return "-" if seconds is None else format_span(timedelta(seconds=seconds))
