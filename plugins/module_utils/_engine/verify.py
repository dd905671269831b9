# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Verifying backups: by checksum, by reading them to their end, or by restoring them into a scratch database."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Dict, Iterator, List, Optional, Sequence, Set, Tuple, Union

from .catalogue import Catalogue, dated_in_future, in_future, place_of, read_place, whole
from .cipher import check_accepted, opened, opened_with, opening
from .crypto.signing import PROOFS, SIGNATURE
from .databases import open_engine
from .databases.base import Engine, Staging
from .errors import (
    AssertionFailed,
    BadInput,
    BadManifest,
    Damaged,
    EngineError,
    Mismatch,
    NotFound,
    Refused,
    Stale,
    Unverifiable,
    WeakerEncryption,
)
from .host.unexpected import reason_of
from .interrupts import interruptible, time_limit
from .loading import check_checksum, check_staged, load
from .memory import remember_proof, remember_read
from .model import (
    Backup,
    Database,
    Encryption,
    EncryptionSettings,
    EngineName,
    Level,
    Manifest,
    Outcome,
    Place,
    Proof,
    Remembered,
    Scratch,
    Server,
)
from .names import MANIFEST, id_of_file, make_proof_name
from .proofs import BEGUN, write_proof
from .repositories.base import Repository
from .retention import as_judged_here
from .scanning import confirmed
from .scratch import Purpose, unprivileged_directory
from .small_files import store
from .state import Host, Progress, audit, audit_failure, locked
from .timespan import format_span

#: What a check raises when the backup itself is at fault. Anything else means that it could not be judged: a role that
#: the scratch server lacks, or a disk that is full, is no reason to give a backup up.
_CONCLUSIVE = (Damaged, Mismatch, BadManifest)

#: How much of a database's name is in that of its copy on a named server, in bytes.
_LONGEST_BASE = 40


@dataclass(frozen=True)
class Assertion:
    """A query on the restored database, and what it must return: a value, or a list of rows."""

    sql: str
    expect: Any
    name: str = ""


@dataclass(frozen=True)
class VerifyRequest:
    """Which backups to verify, how far, and where to restore them for it.

    ``max_age`` is how old the newest backup may be.
    """

    database: Database
    repositories: Tuple[Repository, ...]
    encryption: EncryptionSettings
    source_host: str
    backup: str = "latest"
    sample: Optional[int] = None
    level: Level = Level.CHECKSUM
    assertions: Tuple[Assertion, ...] = ()
    max_age: Optional[timedelta] = None
    scratch: Scratch = field(default_factory=Scratch)
    lock_timeout: float = 60.0
    timeout: Optional[float] = None

    @property
    def place(self) -> Place:
        return place_of(self.source_host, self.database)


@dataclass(frozen=True)
class Check:
    """One verification of one backup in one repository. ``code`` is the error's code where it did not pass."""

    repository: str
    backup: str
    level: Level
    outcome: Outcome
    detail: str = ""
    code: Optional[str] = None
    seconds: float = 0.0


@dataclass(frozen=True)
class VerifyResult:
    """All checks, in order. What should have been checked and could not be is among them."""

    checks: Tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.outcome is Outcome.PASSED for check in self.checks)


def plan_verification(request: VerifyRequest, host: Host) -> Tuple[Union[Check, Tuple[Repository, Backup]], ...]:
    """The backups that a run would verify, and the checks that have failed already. Changes nothing."""
    _check_request(request, host)
    return tuple(_selection(request, host))


def verify(request: VerifyRequest, host: Host) -> VerifyResult:
    """Verify, and record a proof beside each backup. A backup that fails is in the result, and stops no other."""
    _check_request(request, host)
    subject = request.place.path
    checks: List[Check] = []
    used: Set[str] = set()
    limit = time_limit(request.timeout, f"The verification of {request.database.name}")
    with interruptible(), limit, locked(host, f"verify/{subject}", request.lock_timeout):
        try:
            with Progress(host, "verify", f"verify/{subject}") as progress:
                for target in _selection(request, host):
                    check = target if isinstance(target, Check) else _prove(request, host, *target, progress)
                    if check is None:
                        continue
                    checks.append(check)
                    if not isinstance(target, Check) and request.level is not Level.CHECKSUM:
                        used.update(opened_with(request.encryption, target[1]))
        except BaseException as error:
            audit_failure(host, "verify", subject, error, {"checked": len(checks), "opened_with": sorted(used)})
            raise
        result = VerifyResult(tuple(checks))
        audit(host, "verify", subject, "passed" if result.passed else "failed", _facts(request, result, used))
    return result


def _facts(request: VerifyRequest, result: VerifyResult, used: Set[str]) -> Dict[str, Any]:
    """What the audit log has of a verification."""
    ids = {
        outcome.value: [check.backup for check in result.checks if check.outcome is outcome and check.backup]
        for outcome in Outcome
    }
    reasons = [check.detail for check in result.checks if check.outcome is not Outcome.PASSED]
    facts: Dict[str, Any] = {"level": request.level.value, "checked": len(result.checks), "opened_with": sorted(used)}
    facts.update({name: found for name, found in ids.items() if found})
    return dict(facts, reason=reasons[0]) if reasons else facts


def _check_request(request: VerifyRequest, host: Host) -> None:
    host.signing.require_able(request.place.host, PROOFS, host.now())
    if not request.repositories:
        raise BadInput("There is no repository to verify. Give at least one in repositories.")
    if request.assertions and request.level is not Level.RESTORE:
        raise BadInput("assertions are queries on a restored database. Set level to restore, or leave them out.")
    if request.sample is not None and request.sample < 1:
        raise BadInput(f"sample is {request.sample}. Give the number of backups to verify, 1 or more.")
    if request.sample is not None and request.backup != "all":
        raise BadInput("sample picks among all backups. Set backup to all, or leave sample out.")


def _selection(request: VerifyRequest, host: Host) -> Iterator[Union[Check, Tuple[Repository, Backup]]]:
    """Each backup to verify, or a check that has failed already: what cannot be found or read is no pass."""
    own: List[Tuple[Repository, Backup]] = []
    foreign: List[Tuple[Repository, Backup]] = []
    for repository in request.repositories:
        try:
            repository.check(writing=False)
            catalogue = read_place(host, repository, request.place)
        except EngineError as error:
            yield _failed(repository, "", request.level, error, Outcome.UNVERIFIABLE)
            continue
        now = host.now()
        for shortcoming in _shortcomings(request, repository, catalogue, now):
            yield _failed(repository, "", request.level, shortcoming, Outcome.FAILED)
        for backup in _chosen(request, catalogue, now):
            (foreign if backup.foreign else own).append((repository, backup))
    # What another planted comes last, whichever repository holds it: it may take all the time that there is.
    yield from own
    yield from foreign


def _shortcomings(
    request: VerifyRequest, repository: Repository, catalogue: Catalogue, now: datetime
) -> Iterator[EngineError]:
    where = f"{repository.label}/{request.place.path}"
    chosen = _chosen(request, catalogue, now)
    if not chosen:
        yield NotFound(f'There is no backup "{request.backup}" in {where}. Check source_host and the database\'s name.')
    newest = chosen[-1].id if chosen else ""
    for problem in catalogue.problems:
        # Asked for one backup by its id, what is wrong with another one is not the question.
        newer = (id_of_file(problem.name) or "") > newest
        if not problem.name and (request.backup == "all" or not chosen):
            yield BadManifest(problem.reason)
        if problem.name.endswith(MANIFEST) and (request.backup == "all" or (request.backup == "latest" and newer)):
            yield BadManifest(problem.reason)
    if request.backup == "latest" and chosen:
        yield from _weaker(request, catalogue, chosen[-1])
    if request.max_age is not None:
        # One from the future tells of a clock that was wrong, and not of how old the newest one is.
        good = [backup for backup in _accepted(request, catalogue.good) if not in_future(backup, now)]
        age = now - good[-1].time if good else None
        if age is None or age > request.max_age:
            found = f"is {format_span(age)} old" if age is not None else "does not exist"
            yield Stale(
                f"The newest good backup in {where} {found}, and max_age is {format_span(request.max_age)}. "
                "See why no newer one was taken."
            )
    if request.backup == "latest" and catalogue.eligible and in_future(catalogue.eligible[-1], now):
        odd = dated_in_future(catalogue.eligible[-1], repository)
        yield Refused(f"{odd} So nobody knows which one is the newest. Move its files elsewhere.")


def _weaker(request: VerifyRequest, catalogue: Catalogue, chosen: Backup) -> Iterator[EngineError]:
    """What is wrong with backups newer than the one that is verified, because they have another method."""
    for backup in catalogue.eligible:
        if backup.time > chosen.time:
            try:
                check_accepted(request.encryption, backup.manifest)
            except WeakerEncryption as error:
                yield error


def _accepted(request: VerifyRequest, backups: Sequence[Backup]) -> Sequence[Backup]:
    return [backup for backup in backups if request.encryption.accepts(backup.manifest)]


def _chosen(request: VerifyRequest, catalogue: Catalogue, now: datetime) -> Sequence[Backup]:
    if request.backup == "latest":
        # One from the future, or of a weaker method, would be verified again and again, and the true ones never.
        usual = [backup for backup in catalogue.eligible if not in_future(backup, now)]
        return _accepted(request, usual)[-1:] or usual[-1:] or catalogue.eligible[-1:]
    if request.backup != "all":
        wanted = id_of_file(request.backup)
        return [backup for backup in catalogue.backups if backup.id == wanted]
    if request.sample is None:
        return catalogue.backups

    # Those whose last verification is the oldest come first, so that repeated samples reach every backup in turn.
    return sorted(catalogue.backups, key=lambda one: (one.foreign, _last_verified(one, request.level, now), one.id))[
        : request.sample
    ]


def _last_verified(backup: Backup, level: Level, now: datetime) -> float:
    """When a backup was last verified this far, as this host remembers; proofs in the repository can be forged.

    Where it remembers nothing of the backup those count, but for proofs from the future.
    """
    proofs = as_judged_here(backup).proofs
    times = [proof.time for proof in proofs if proof.level.strength >= level.strength and proof.time <= now]
    return max((time.timestamp() for time in times), default=0.0)


def _prove(
    request: VerifyRequest, host: Host, repository: Repository, backup: Backup, progress: Progress
) -> Optional[Check]:
    """Verify one backup and record how that went. None where it was one of all, and was removed before it ended."""
    began = time.monotonic()
    try:
        if request.sample is not None:
            # Should it take all the time that there is, it is another one's turn the next time.
            begun = Proof(request.level, Outcome.UNVERIFIABLE, host.now(), host.name, BEGUN)
            remember_proof(host, repository, backup.place, backup.id, begun)
        _verify_one(request, repository, backup, progress)
        check = Check(repository.label, backup.id, request.level, Outcome.PASSED)
    except EngineError as error:
        conclusive = isinstance(error, (*_CONCLUSIVE, AssertionFailed))
        outcome = Outcome.FAILED if conclusive else Outcome.UNVERIFIABLE
        check = _failed(repository, backup.id, request.level, error, outcome)
    check = replace(check, seconds=round(time.monotonic() - began, 3))
    # An assertion that does not hold is no fault of the backup: it fails the check, and does not condemn the backup.
    proven = Outcome.UNVERIFIABLE if check.code == AssertionFailed.code else check.outcome
    # What programs go on to say can quote rows, and the proof lies in the clear beside what is encrypted.
    said = check.detail.split("\n", 1)[0][:500]
    proof = Proof(check.level, proven, host.now(), host.name, said, check.seconds)
    try:
        if not repository.stat(backup.place, backup.id + MANIFEST):
            # What was rotated away meanwhile needs no proof any more, and is not bad.
            return None if request.backup == "all" else _removed(repository, check)
        # First where nobody else writes: a failure must not be forgotten because a store does not take it.
        _remember(request, host, repository, backup, proof)
        name = make_proof_name(backup.id, proof.time)
        store(host, repository, backup.place, name, write_proof(backup.id, proof), PROOFS)
        if not repository.stat(backup.place, backup.id + MANIFEST):
            # It was removed while this was written.
            repository.discard(backup.place, [name, name + SIGNATURE])
    except EngineError as error:
        unrecorded = Unverifiable(f"{check.outcome.value}, but the proof could not be recorded: {error}")
        if check.outcome is Outcome.FAILED:
            return replace(check, detail=f"{check.detail} The proof of it could not be recorded: {error}")
        return replace(check, outcome=Outcome.UNVERIFIABLE, code=unrecorded.code, detail=str(unrecorded))
    return check


def _remember(request: VerifyRequest, host: Host, repository: Repository, backup: Backup, proof: Proof) -> None:
    """Keep what this host found; of a backup that it has read to its end, also how its files were."""
    read = proof.outcome is Outcome.PASSED and proof.level is not Level.CHECKSUM
    if read and (backup.remembered is None or backup.rekeyed) and _opens(request, repository, backup):
        what = Remembered(backup.digest, backup.slots_digest, backup.manifest.safety)
        remember_read(host, repository, backup.place, backup.id, what)
    remember_proof(host, repository, backup.place, backup.id, proof)


def _opens(request: VerifyRequest, repository: Repository, backup: Backup) -> bool:
    """Whether its newest key slots are the ones that opened it: older ones may have done so."""
    if not backup.manifest.is_encrypted_with(Encryption.AES256_GCM):
        return True
    _data_key, generation = opened(request.encryption, whole(repository, backup), backup.manifest.main)
    return generation.digest == backup.slots_digest


def _check_manifest(repository: Repository, backup: Backup) -> None:
    """Raise Unverifiable where the manifest is not the one that this host, or the backup after it, knows.

    Without a private key, nothing else tells a true manifest from a forged one. It condemns no backup: what came after
    it may be forged as well.
    """
    if backup.rekeyed:
        raise Unverifiable(
            f"The key slots of {backup.id} were changed, and not by this host, so whether they open it is not known. "
            "Verify it at level contents with a key, or rotate once with adopt if you changed them."
        )
    if backup.remembered is None and backup.claimed and backup.digest not in backup.claimed:
        name = f"{repository.label}/{backup.place.path}/{backup.id}{MANIFEST}"
        raise Unverifiable(
            f"Manifest {name} is not the one that the backup after it names as the previous one. One of both was "
            "changed; verify it at level contents with a key."
        )


def _removed(repository: Repository, check: Check) -> Check:
    """The check of a backup that was removed meanwhile: it proves nothing, whatever was found."""
    gone = NotFound(f"{check.backup} was removed from {repository.label} while it was verified. Verify another one.")
    return replace(check, outcome=Outcome.UNVERIFIABLE, code=gone.code, detail=str(gone))


def _verify_one(request: VerifyRequest, repository: Repository, backup: Backup, progress: Progress) -> None:
    # At every level: whole bytes of a backup that nobody asked for prove nothing. It is not condemned either, since the
    # method may have been changed on purpose.
    check_accepted(request.encryption, backup.manifest)
    now = confirmed(repository, backup)
    if now is None:
        raise NotFound(f"{backup.id} was removed from {repository.label} before it was verified. Verify another one.")
    if now.defect:
        raise Damaged(f"{backup.id} is not whole: {now.defect}. Restore it from another repository.")
    backup = whole(repository, now)
    check_checksum(repository, backup, progress)
    if request.level is Level.CHECKSUM:
        _check_manifest(repository, backup)
        return
    manifest = backup.manifest
    if manifest.globals:
        # Roles are restored into no scratch database, but are read to their end and judged.
        with opening(request.encryption, backup, manifest.globals) as stage, _scratch_engine(
            request, backup
        ) as engine, engine.examine_globals() as examination:
            load(repository, backup, manifest.globals, stage, examination.load, engine, progress)
            examination.loaded()
    with opening(request.encryption, backup, manifest.main) as stage, _scratch_engine(request, backup) as engine:
        if request.level is Level.CONTENTS:
            with engine.examine(manifest) as examination:
                load(repository, backup, manifest.main, stage, examination.load, engine, progress)
                examination.conclude()
            return
        with _staged(request, engine, manifest) as staging:
            load(repository, backup, manifest.main, stage, staging.load, engine, progress)
            staging.loaded()
            check_staged(staging, manifest, progress)
            progress.stage("assertions")
            for assertion in request.assertions:
                _check_assertion(staging, assertion)


def _staged(request: VerifyRequest, engine: Engine, manifest: Manifest) -> AbstractContextManager[Staging]:
    """An empty copy to restore into: on a named server where there is one, in a place of its own otherwise."""
    scratch = request.scratch
    if request.database.engine is EngineName.POSTGRESQL:
        if scratch.server is not None:
            engine.check_scratch(scratch.allow_superuser and not request.assertions)
        return engine.rehearse(manifest, scratch)
    engine.check_restore(manifest, replace=False, owner=None)
    return engine.stage(manifest, owner=None, parallel=1)


@contextmanager
def _scratch_engine(request: VerifyRequest, backup: Backup) -> Iterator[Engine]:
    """An engine for a database that does not exist, beside which a copy can be staged."""
    if request.database.engine is EngineName.SQLITE:
        with ExitStack() as stack:
            try:
                place, account = request.scratch.path, request.scratch.become_user
                directory = stack.enter_context(unprivileged_directory(Purpose.VERIFICATION, place, account))
            except OSError as error:
                raise Unverifiable(
                    f"There is no scratch directory: {reason_of(error)}. Give a directory in scratch."
                ) from None
            yield open_engine(Database(EngineName.SQLITE, str(directory / "scratch.db"), Server(become_user=account)))
    else:
        server = request.scratch.server or request.database.server
        # Whatever the name's length, the server takes this one; copies of it are told apart by the backup's id.
        short = backup.manifest.database.encode("utf-8")[:_LONGEST_BASE].decode("utf-8", "ignore")
        yield open_engine(Database(request.database.engine, f"{short}__verifying", server))


def _check_assertion(staging: Staging, assertion: Assertion) -> None:
    name = assertion.name or assertion.sql
    try:
        rows = staging.query(assertion.sql)
    except Mismatch as error:
        raise AssertionFailed(f'The assertion "{name}" cannot be tried: {error}') from None
    if not is_expected(assertion.expect, rows):
        raise AssertionFailed(
            f'The assertion "{name}" does not hold: it must return {assertion.expect!r}, not {_found(rows)}.'
        )


def is_expected(expected: Any, rows: Sequence[Tuple[Any, ...]]) -> bool:
    """Whether a query returned what an assertion expects: one value, or rows in their order. Pure.

    A value that stands for a row is one of a single column. Databases differ in how they say the same: for true and
    false, SQLite has 1 and 0, and numbers can arrive as binary, as decimal or as text.
    """
    if not isinstance(expected, list):
        return len(rows) == 1 and len(rows[0]) == 1 and _is_same(expected, rows[0][0])
    wanted = [row if isinstance(row, list) else [row] for row in expected]
    return len(rows) == len(wanted) and all(
        len(row) == len(values) and all(map(_is_same, values, row)) for row, values in zip(rows, wanted)
    )


def _is_same(expected: Any, found: Any) -> bool:
    if expected is None or found is None:
        return expected is found
    one, other = _number(expected), _number(found)
    if one is not None and other is not None:
        return one == other
    # Strings stay strings: "True" is a word, and "1" a text.
    if isinstance(expected, bool) or isinstance(found, bool):
        return False
    return bool(expected == found) or str(expected) == str(found)


def _number(value: Any) -> Optional[Decimal]:
    """A number as it is written: the 0.1 of YAML is the 0.10 of a column, and not the binary fraction next to it."""
    if isinstance(value, bool):
        return Decimal(int(value))
    return Decimal(str(value)) if isinstance(value, (int, float, Decimal)) else None


def _found(rows: Sequence[Tuple[Any, ...]]) -> str:
    """What a query returned, without the contents of rows: those may be what the backup is encrypted for."""
    if len(rows) == 1 and len(rows[0]) == 1:
        if rows[0][0] is None:
            return "NULL"
        if isinstance(rows[0][0], (bool, int, float)):
            return repr(rows[0][0])
    return f"what came ({len(rows)} rows)"


def _failed(repository: Repository, backup: str, level: Level, error: EngineError, outcome: Outcome) -> Check:
    return Check(repository.label, backup, level, outcome, str(error), error.code)
