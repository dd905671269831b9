# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Restoring for a job: what is asked for, around it the application stopped and started, and what is told of it."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ...documents import manifest_document
from ...errors import BadInput, EngineError, NoKey, Stopped, TargetExists, ToolFailed, WeakerEncryption, WrongKey
from ...interrupts import finish, interruptible, last_part
from ...model import Encryption
from ...repositories.base import Repository
from ...restore import RestorePlan, RestoreRequest, RestoreResult, check_outside, plan_restore, restore
from ...state import Host
from ...text import bounded
from ..config.given import GivenKeys
from ..config.jobs import Job
from . import stoppage
from .hooks import LAST, late_hooks, run_hooks
from .running import Done, Report
from .services import Service, look, start_all, stop


@dataclass(frozen=True)
class RestoreOptions:
    """What is asked for: by the command line, or by whoever answers the menu. None is what the job says."""

    backup: str = "latest"
    before: Optional[datetime] = None
    source_host: Optional[str] = None
    source_database: Optional[str] = None
    into: Optional[str] = None
    repository: Optional[str] = None
    replace: bool = False
    keep_replaced: bool = False
    safety_backup: bool = True
    parallel: int = 1
    owner: Optional[str] = None
    globals: bool = False
    tolerant: bool = False
    stop_services: Tuple[str, ...] = ()
    #: How long it may take, in seconds.
    timeout: Optional[float] = None
    given: GivenKeys = field(default_factory=GivenKeys)
    accepted: Tuple[Encryption, ...] = ()


@dataclass(frozen=True)
class Prospect:
    """What a run would do, with what it would stop."""

    request: RestoreRequest
    plan: RestorePlan
    services: Tuple[Service, ...]
    #: What earlier restores have left stopped.
    left_stopped: Tuple[Service, ...] = ()

    @property
    def stopped(self) -> Tuple[Service, ...]:
        """The services that run now, in the order in which they are stopped."""
        return tuple(service for service in self.services if service.running)

    @property
    def saves(self) -> bool:
        """Whether a safety backup is taken of what is replaced."""
        return self.plan.replaces and self.request.safety_backup


def repositories_of(job: Job, label: Optional[str]) -> Tuple[Repository, ...]:
    """The job's repositories, or only that with a label. Raises BadInput where none has it."""
    every = tuple(target.repository for target in job.targets)
    chosen = tuple(repository for repository in every if label in (None, repository.label))
    if not chosen:
        there = ", ".join(repository.label for repository in every)
        raise BadInput(f'Job {job.name} has no repository "{label}". Those that it has: {there}.')
    return chosen


def prospect_of(job: Job, options: RestoreOptions, host: Host) -> Prospect:
    """Check everything that can be checked beforehand, and change nothing. Raises what a run would raise."""
    request = _request_of(job, options)
    check_outside(request.database, repositories_of(job, None))
    services = look((*job.surroundings.stop_services, *options.stop_services))
    missing = [service.unit for service in services if not service.installed and service.unit in options.stop_services]
    if missing:
        raise BadInput(f"There is no unit {', '.join(missing)} on this host. Correct --stop-service.")
    return Prospect(request, plan_restore(request, host.unchanging()), services, stoppage.left_stopped(host, job.name))


def restore_for(job: Job, options: RestoreOptions, host: Host, dry_run: bool = False) -> Report:
    """Restore, with the application stopped meanwhile, and say how that ended."""
    began = time.monotonic()
    done: Optional[Done] = None
    refused = False
    try:
        # Within two: a signal that comes when it is too late to stop is delivered between the ends of both.
        with interruptible():
            with interruptible():
                done = _plan(job, options, host) if dry_run else _restore(job, options, host)
    except (EngineError, Stopped) as error:
        if done is None:
            done = Done(False, explained(error), error.code)
            refused = isinstance(error, EngineError)
        else:
            done = replace(done, warnings=(*done.warnings, "It was asked to stop when it was too late for that."))
    seconds = time.monotonic() - began
    report = Report(job.name, "restore", done.changed, done.text, seconds, done.error, done.warnings, done.detail)
    return replace(report, refused=refused)


def explained(error: BaseException) -> str:
    """An error's message, with the options of the command that the next step takes."""
    if isinstance(error, TargetExists):
        return f"{error} The options are --replace and --into NAME."
    if isinstance(error, (NoKey, WrongKey)):
        return f"{error} The options are --identity FILE and --passphrase-file FILE."
    if isinstance(error, WeakerEncryption):
        return f"{error} The option is --accept-encryption METHOD."
    return str(error)


def _request_of(job: Job, options: RestoreOptions) -> RestoreRequest:
    """The request, with its secrets. Raises what ``SecretSource.read`` raises."""
    job = job.accepting(options.accepted)
    opened = replace(job, given=options.given).opened()
    # What somebody brought to read is no key of the job's: its next backup is encrypted as all the others are.
    own = job.opened().backup.encryption if options.given and options.safety_backup else None
    database = opened.database
    return RestoreRequest(
        database=replace(database, name=options.into or database.name),
        repositories=repositories_of(job, options.repository),
        encryption=opened.verification.encryption,
        source_host=options.source_host or job.backup.source_host,
        source_database=options.source_database or database.name,
        backup=options.backup,
        before=options.before,
        replace=options.replace,
        safety_backup=options.safety_backup,
        keep_replaced=options.keep_replaced,
        parallel=options.parallel,
        owner=options.owner,
        globals=options.globals,
        tolerant=options.tolerant,
        lock_timeout=job.backup.lock_timeout,
        safety_encryption=own,
    )


def _plan(job: Job, options: RestoreOptions, host: Host) -> Done:
    prospect = prospect_of(job, options, host)
    plan, request = prospect.plan, prospect.request
    over = ", which exists, would be replaced by" if plan.replaces else " would be made from"
    detail = {
        **_origin(plan, request),
        "replaces": plan.replaces,
        "needed_bytes": plan.backup.manifest.main.plain_bytes,
        "expected_seconds": plan.expected_seconds,
        "takes_safety_backup": prospect.saves,
        "stops": [service.unit for service in prospect.stopped],
    }
    return Done(True, f"{request.database.name}{over} {plan.backup.id}", None, _warnings(prospect), detail)


def _restore(job: Job, options: RestoreOptions, host: Host) -> Done:
    # All that can fail beforehand does so while the application still runs.
    prospect = prospect_of(job, options, host)
    stopped: List[Service] = list(prospect.left_stopped)
    try:
        run_hooks("restore.before", job.surroundings.before, job.name, {})
        for service in prospect.stopped:
            # First: one that was interrupted while it stopped is started again too.
            stopped.append(service)
            stoppage.note(host, job.name, [one.unit for one in stopped])
            stop(service)
        # What a signal says from here on reaches the restore alone: what was stopped is started again first.
        finish()
        result = restore(prospect.request, host)
    except BaseException as error:
        failed = {"FLEET_BACKUP_OUTCOME": "failed", "FLEET_BACKUP_MESSAGE": bounded(str(error))}
        late = _resume(job, stopped, failed, host)
        if not isinstance(error, (EngineError, Stopped)):
            raise
        return Done(False, " ".join([explained(error), *late]), error.code, detail=_units(stopped))
    late = _resume(job, stopped, {"FLEET_BACKUP_OUTCOME": "done"}, host)
    text = f"{prospect.request.database.name} is restored from {result.plan.backup.id}"
    detail = {**_told(job, prospect.request, result, host), **_units(stopped)}
    warnings = (*_warnings(prospect), *filter(None, [result.unverified]), *result.notes)
    failure = result.failure
    if failure:
        text = str(failure)
    if late:
        # The database is there, and yet the application may not be running again: that is no success.
        return Done(True, f"{text}, but {' '.join(late)}", ToolFailed.code, warnings, detail)
    if failure:
        return Done(True, text, failure.code, warnings, detail)
    return Done(True, text, None, warnings, detail)


def _resume(job: Job, stopped: Sequence[Service], environment: Mapping[str, str], host: Host) -> List[str]:
    """Start again what was stopped, in the opposite order, and run what is to run afterwards; what failed of that."""
    failures = start_all(tuple(reversed(stopped)))
    try:
        with last_part(LAST):
            stoppage.settle(host, job.name, [service.unit for service in stopped])
    except (EngineError, Stopped) as error:
        failures.append(f"It could not be noted what still is stopped: {error}")
    return failures + late_hooks("restore.after", job.surroundings.after, job.name, environment)


def _warnings(prospect: Prospect) -> Tuple[str, ...]:
    missing = [service.unit for service in prospect.services if not service.installed]
    absent = [f"{unit} is not installed on this host, so it was not stopped." for unit in missing]
    left = [f"{one.unit} is stopped since an earlier restore, and is started again." for one in prospect.left_stopped]
    return (*prospect.plan.warnings, *absent, *left)


def _units(stopped: Sequence[Service]) -> Dict[str, Any]:
    return {"stopped_services": [service.unit for service in stopped]}


def _origin(plan: RestorePlan, request: RestoreRequest) -> Dict[str, Any]:
    return {
        "backup": manifest_document(plan.backup.manifest, plan.backup.key_slots),
        "repository": plan.repository.label,
        "target": request.database.name,
    }


def _told(job: Job, request: RestoreRequest, result: RestoreResult, host: Host) -> Dict[str, Any]:
    return {
        **_origin(result.plan, request),
        "replaced": result.plan.replaces,
        "safety_backup": result.safety_backup,
        "kept_as": result.kept_as,
        "unverified": result.unverified,
        "missing": list(result.missing),
        "durations": dict(result.durations),
        "undo": _undo(job, request, result, host),
    }


def _undo(job: Job, request: RestoreRequest, result: RestoreResult, host: Host) -> Optional[str]:
    """The command that brings back what was replaced; None where no backup of it was taken."""
    if result.safety_backup is None:
        return None
    words = ["fleet-backup", "restore", job.name, "--backup", result.safety_backup, "--replace"]
    words += ["--repository", result.plan.repository.label]
    if request.database.name != job.database.name:
        words += ["--into", request.database.name, "--source-database", request.database.name]
    # Safety backups are this host's, whatever host the job's backups are of.
    if host.name != job.backup.source_host:
        words += ["--source-host", host.name]
    return " ".join(shlex.quote(word) for word in words)
