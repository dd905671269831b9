# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Doing a job: with its secrets and hooks, and with an outcome that can be told in one line, whatever happens."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from ...backup import plan_backup, take_backup
from ...documents import check_document, manifest_document, rotation_document
from ...errors import BadManifest, EngineError, NoKey, Stopped, ToolFailed, Unverifiable, WrongKey
from ...interrupts import interruptible
from ...model import Encryption, Level, Outcome
from ...rotate import RotateRequest, plan_rotation, rotate
from ...state import Host
from ...text import bounded, shortened
from ...timespan import format_size
from ...verify import Check, VerifyResult, plan_verification, verify
from ..config.jobs import Job
from .hooks import late_hooks, run_hooks


@dataclass(frozen=True)
class Report:
    """How a job ended. ``error`` is the error's code, None where all went well; ``text`` says it to people.

    ``causes`` are the codes of what is wrong where the error alone does not tell one failure from another. What was
    ``refused`` ended before anything began.
    """

    job: str
    verb: str
    changed: bool
    text: str
    seconds: float
    error: Optional[str] = None
    warnings: Tuple[str, ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)
    causes: Tuple[str, ...] = ()
    refused: bool = False

    @property
    def document(self) -> Dict[str, Any]:
        """The report as plain values."""
        return {
            "job": self.job,
            "verb": self.verb,
            "changed": self.changed,
            "error": self.error,
            "message": self.text,
            "warnings": shortened(self.warnings),
            "seconds": round(self.seconds, 3),
            **self.detail,
        }

    @property
    def packed(self) -> Dict[str, Any]:
        """The report for another process: plain values that ``unpacked`` reads."""
        return asdict(self)

    @classmethod
    def unpacked(cls, packed: Mapping[str, Any]) -> Report:
        return cls(**{**packed, "warnings": tuple(packed["warnings"]), "causes": tuple(packed["causes"])})


@dataclass(frozen=True)
class Done:
    """What a verb did, or would do."""

    changed: bool
    text: str
    error: Optional[str] = None
    warnings: Tuple[str, ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)


def back_up(job: Job, host: Host, dry_run: bool = False, accept_source: bool = False) -> Report:
    """Take the job's backup, between its hooks."""
    job = replace(job, backup=replace(job.backup, accept_source=accept_source))
    if dry_run:
        return _report(job, "backup", lambda: _plan_backup(job.opened(), host.unchanging()))
    return _report(job, "backup", lambda: _backup(job, host), interrupted_within=True)


def prove(job: Job, host: Host, dry_run: bool = False) -> Report:
    """Verify the job's backups as it says."""
    if dry_run:
        return _report(job, "verify", lambda: _plan_proof(job.opened(), host.unchanging()))
    return _report(job, "verify", lambda: _prove(job.opened(), host))


def thin_out(job: Job, host: Host, dry_run: bool = False, adopt: bool = False, trust_clock: bool = False) -> Report:
    """Rotate the job's backups in each repository that has a policy."""
    requests = [replace(request, adopt=adopt, trust_clock=trust_clock) for request in job.rotations()]
    return _report(job, "rotate", lambda: _thin_out(requests, host, dry_run))


def _report(job: Job, verb: str, act: Callable[[], Done], interrupted_within: bool = False) -> Report:
    """Do it. What the engine explains becomes the report of this job, and stops no other one.

    With ``interrupted_within``, ``act`` decides by itself where a signal may stop it.
    """
    began = time.monotonic()
    done: Optional[Done] = None
    try:
        with ExitStack() as stack:
            if not interrupted_within:
                stack.enter_context(interruptible())
            done = act()
    except (EngineError, Stopped) as error:
        # One that came when it was done is for what follows.
        done = done or Done(False, str(error), error.code)
    seconds = time.monotonic() - began
    return Report(job.name, verb, done.changed, done.text, seconds, done.error, done.warnings, done.detail)


def _plan_backup(job: Job, host: Host) -> Done:
    plan = plan_backup(job.backup, host)
    if plan.fresh:
        return Done(False, f"{plan.fresh.id} is fresh; nothing would be done")
    size = f" of about {format_size(plan.expected_bytes)}" if plan.expected_bytes else ""
    return Done(True, f"a backup{size} would be taken")


def _backup(job: Job, host: Host) -> Done:
    try:
        # A signal ends the hook, or the backup while it can still be undone, and nothing that has to follow.
        with interruptible():
            job = job.opened()
            run_hooks("before", job.hooks.before, job.name, {})
        result = take_backup(job.backup, host)
    except (EngineError, Stopped) as error:
        failed = {"FLEET_BACKUP_OUTCOME": "failed", "FLEET_BACKUP_MESSAGE": bounded(str(error))}
        late = late_hooks("failure", job.hooks.failure, job.name, failed)
        late += late_hooks("after", job.hooks.after, job.name, failed)
        return Done(False, " ".join([str(error), *late]), error.code)
    late = late_hooks("after", job.hooks.after, job.name, {"FLEET_BACKUP_OUTCOME": "done"})
    size = format_size(result.manifest.bytes)
    text = f"{result.manifest.id}, {size}" if result.changed else f"{result.manifest.id} is fresh; nothing was done"
    detail = {"backup": manifest_document(result.manifest, result.slots), "repositories": list(result.repositories)}
    if late:
        # The backup is there, and yet the application may not be running again: that is no success.
        return Done(result.changed, f"{text}, but {' '.join(late)}", ToolFailed.code, result.warnings, detail)
    return Done(result.changed, text, None, result.warnings, detail)


def _plan_proof(job: Job, host: Host) -> Done:
    planned = plan_verification(job.verification, host)
    failed = tuple(item for item in planned if isinstance(item, Check))
    if failed:
        # A run would fail for these, whatever it found of the others.
        return Done(len(planned) > len(failed), failed[0].detail, _verdict(job, VerifyResult(failed)))
    if planned and job.verification.level is not Level.CHECKSUM and _needs_key(job):
        return Done(True, f"this host holds no key of {job.name}. {_BRING_A_KEY}", Unverifiable.code)
    return Done(bool(planned), f"{_count(len(planned), 'verification')} would be done")


def _prove(job: Job, host: Host) -> Done:
    result = verify(job.verification, host)
    detail = {"checks": [check_document(check) for check in result.checks]}
    changed = any(check.backup for check in result.checks)
    if result.passed:
        level = job.verification.level.value
        return Done(changed, f"{_count(len(result.checks), 'backup')} passed ({level})", detail=detail)
    bad = next(check for check in result.checks if check.outcome is not Outcome.PASSED)
    text = f"{bad.detail} {_BRING_A_KEY}" if _lacks_key(job, bad) else bad.detail
    return Done(changed, text, _verdict(job, result), detail=detail)


def _verdict(job: Job, result: VerifyResult) -> str:
    """The code of what did not pass; "unverifiable" only where nothing worse was found."""
    bad = [check for check in result.checks if check.outcome is not Outcome.PASSED and not _lacks_key(job, check)]
    # What could not be checked is that, whatever kept it from being checked: its own code is in the details.
    codes = [check.code if check.outcome is Outcome.FAILED and check.code else Unverifiable.code for check in bad]
    return next((code for code in codes if code != Unverifiable.code), Unverifiable.code)


#: What to do where a host cannot read its own backups, as it should be.
_BRING_A_KEY = "Give one with --identity or --passphrase-file, or verify at level checksum, which needs none."


def _lacks_key(job: Job, check: Check) -> bool:
    """Whether a check could not be made for want of a key. gpg, which may have one, calls that a wrong one."""
    return not job.has_keys and check.code in (NoKey.code, WrongKey.code)


def _needs_key(job: Job) -> bool:
    """Whether nothing that is encrypted as the job says can be read here. What gpg has is not known before it tries."""
    return not job.has_keys and job.backup.encryption.method not in (Encryption.NONE, Encryption.GPG)


def _thin_out(requests: Sequence[RotateRequest], host: Host, dry_run: bool) -> Done:
    if not requests:
        return Done(False, "no repository of this job has a retention policy; all is kept")
    rotations: List[Any] = []
    failures: List[EngineError] = []
    for request in requests:
        try:
            result = plan_rotation(request, host.unchanging()) if dry_run else rotate(request, host)
            rotations += result.rotations
            failures += result.failures
        except EngineError as error:
            # One repository that cannot be used lets no other one fill up.
            failures.append(error)
    removed = sum(len(rotation.removed) for rotation in rotations)
    kept = sum(len(rotation.decisions) for rotation in rotations) - removed
    would = "would be " if dry_run else ""
    text = f"{_count(removed, 'backup')} {would}removed, {kept} kept"
    changed = any(rotation.changed for rotation in rotations)
    detail = {"rotations": [rotation_document(rotation) for rotation in rotations]}
    unknown = sum(len(rotation.unknown) for rotation in rotations)
    warnings = [f"{_count(unknown, 'backup')} not known to this host {'is' if unknown == 1 else 'are'} kept. {_ADOPT}"]
    # What cannot be read was not decided on: the repository is not as it should be.
    failures += [BadManifest(problem.reason) for rotation in rotations for problem in rotation.problems]
    if failures:
        text = " ".join([f"{text}, but" if rotations else "", *shortened(list(map(str, failures)))]).strip()
    return Done(changed, text, failures[0].code if failures else None, tuple(warnings if unknown else ()), detail)


#: What to do where a host does not know its backups.
_ADOPT = "Rotate once with --adopt if they are its own."


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
