# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Restoring: check everything, load beside, check what came back, save what is there, and only then swap."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from typing import List, NamedTuple, Optional, Sequence, Tuple

from .catalogue import Catalogue, place_of, planted, read_place, whole
from .choosing import choose
from .cipher import check_accepted, opened_with, opening
from .databases import open_engine
from .databases.base import Engine, Inspection, Staging, differing
from .errors import (
    BadInput,
    EngineError,
    Incomplete,
    Mismatch,
    NotFound,
    PartlyDone,
    Refused,
    Unverifiable,
    WeakerEncryption,
)
from .interrupts import interruptible, time_limit
from .loading import check_checksum, check_staged, load
from .model import (
    Artefact,
    Backup,
    Database,
    Encryption,
    EncryptionSettings,
    Level,
    Manifest,
)
from .nesting import surrounding
from .repositories.base import Repository
from .safety import Safety, check_sealing
from .state import Host, Progress, audit, audit_failure, locked


@dataclass(frozen=True)
class RestoreRequest:
    """What to restore, from where, into what. ``database`` is the target; the source has its name unless given one.

    Where ``tolerant``, what cannot be restored is named, and everything else is restored. ``safety_encryption`` is how
    the safety backup is encrypted where that is not as ``encryption`` says: a key that somebody brought to read one
    backup shall not open the next one.
    """

    database: Database
    repositories: Tuple[Repository, ...]
    encryption: EncryptionSettings
    source_host: str
    source_database: Optional[str] = None
    backup: str = "latest"
    before: Optional[datetime] = None
    replace: bool = False
    safety_backup: bool = True
    keep_replaced: bool = False
    parallel: int = 1
    verify_checksum: bool = True
    owner: Optional[str] = None
    globals: bool = False
    tolerant: bool = False
    lock_timeout: float = 60.0
    timeout: Optional[float] = None
    safety_encryption: Optional[EncryptionSettings] = None

    @property
    def source(self) -> Database:
        return replace(self.database, name=self.source_database or self.database.name)


class RestorePlan(NamedTuple):
    """What a run would do: restore ``backup`` into a target, which it replaces where that exists."""

    repository: Repository
    backup: Backup
    target: Inspection
    #: About how long it takes, judged by the last restore of this backup or by how long its dump took.
    expected_seconds: Optional[float]
    #: Repositories that could not be asked, and why.
    warnings: Tuple[str, ...] = ()

    @property
    def replaces(self) -> bool:
        return self.target.exists


@dataclass(frozen=True)
class RestoreResult:
    """What a run did. ``durations`` are seconds by stage, ``unverified`` what could not be checked of the copy.

    ``notes`` say what the user has to know of the restored database, or to do before it serves. ``missing`` has
    a line about each object that could not be restored. ``failure`` is what the
    restored database is no full success for, although it is in its place.
    """

    plan: RestorePlan
    durations: Tuple[Tuple[str, float], ...]
    safety_backup: Optional[str] = None
    kept_as: Optional[str] = None
    unverified: Optional[str] = None
    notes: Tuple[str, ...] = ()
    missing: Tuple[str, ...] = ()
    failure: Optional[EngineError] = None

    @property
    def warnings(self) -> Tuple[str, ...]:
        """All that the user should be told besides that it is done."""
        return (*self.plan.warnings, *filter(None, [self.unverified]), *self.notes)


def plan_restore(request: RestoreRequest, host: Host) -> RestorePlan:
    """Check everything that can be checked beforehand, and change nothing. Raises what a run would raise."""
    _check_request(request)
    repository, backup, warnings = _choose(request, host)
    _check_usable(request, repository, backup)
    if request.globals:
        _globals_of(backup)
    engine = open_engine(request.database)
    target = engine.check_restore(backup.manifest, request.replace, request.owner, request.globals, request.tolerant)
    for artefact in backup.manifest.artefacts:
        with opening(request.encryption, backup, artefact):
            pass
    if target.exists and request.safety_backup:
        check_sealing(request.safety_encryption or request.encryption)
        repository.check(writing=True)
    return RestorePlan(repository, backup, target, _expected_seconds(backup), warnings)


def restore(request: RestoreRequest, host: Host) -> RestoreResult:
    """Restore a backup. Raises an EngineError; then the target is as it was, or does not exist if it did not."""
    subject = f"restore/{place_of(host.name, request.database).path}"
    limit = time_limit(request.timeout, f"The restore of {request.database.name}")
    with interruptible(), limit, locked(host, subject, request.lock_timeout):
        try:
            result = _run(request, host, subject)
        except BaseException as error:
            audit_failure(host, "restore", subject, error)
            raise
        backup = result.plan.backup
        facts = {
            "id": backup.id,
            "source": backup.place.path,
            "repository": result.plan.repository.label,
            "own": backup.own,
            "opened_with": opened_with(request.encryption, backup),
            "safety_backup": result.safety_backup,
        }
        if result.failure:
            facts["reason"] = str(result.failure)
        audit(host, "restore", subject, result.failure.code if result.failure else "done", facts)
        return result


def _run(request: RestoreRequest, host: Host, subject: str) -> RestoreResult:
    plan = plan_restore(request, host)
    repository, backup, manifest = plan.repository, plan.backup, plan.backup.manifest
    engine = open_engine(request.database)
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(host, "restore", subject))
        if _must_check(request, manifest):
            check_checksum(repository, backup, progress)
        if request.globals:
            _restore_globals(request, plan, engine, progress)
            engine.check_restore(manifest, request.replace, request.owner, tolerant=request.tolerant)
        progress.stage("prepare")
        stage = stack.enter_context(opening(request.encryption, backup, manifest.main))
        staging = stack.enter_context(engine.stage(manifest, request.owner, request.parallel, request.tolerant))
        load(repository, backup, manifest.main, stage, staging.load, engine, progress, _must_check(request, manifest))
        staging.loaded()
        unverified = _check(staging, manifest, progress)
        safety = _safety(request, host, plan)
        if safety:
            safety.check()
        progress.stage("swap")
        # What came into being meanwhile is not replaced.
        replaces = request.replace and plan.replaces
        kept_as = staging.promote(replaces, request.keep_replaced, safety.take if safety else None)
    return RestoreResult(
        plan=plan,
        durations=tuple(progress.durations.items()),
        safety_backup=safety.backup if safety else None,
        kept_as=kept_as,
        unverified=unverified,
        notes=staging.notes,
        missing=staging.missing,
        failure=_unsaved(request, staging, kept_as) or _incomplete(request, staging),
    )


def _must_check(request: RestoreRequest, manifest: Manifest) -> bool:
    """Whether stored bytes are compared with their digest: where nothing else authenticates them, always."""
    return request.verify_checksum or manifest.is_encrypted_with(Encryption.AES256_CBC)


def _check(staging: Staging, manifest: Manifest, progress: Progress) -> Optional[str]:
    """Check what came back; what could not be known of it, where there is such a thing.

    That is no reason to withhold a database in need: every byte of it is known to be what was backed up. Whoever
    restores is told, and a verification does not pass.
    """
    try:
        check_staged(staging, manifest, progress)
    except Unverifiable as error:
        return str(error)
    except Mismatch as error:
        # What could not be restored is known to be missing; what else differs for it is told with it.
        if not staging.missing:
            raise
        return str(error)
    return None


def _incomplete(request: RestoreRequest, staging: Staging) -> Optional[EngineError]:
    if not staging.missing:
        return None
    return Incomplete(
        differing(staging.missing, f"{request.database.name} is restored, but not completely")
        + ". Mend what these objects need, and create them by hand."
    )


def _restore_globals(request: RestoreRequest, plan: RestorePlan, engine: Engine, progress: Progress) -> None:
    backup = plan.backup
    artefact = _globals_of(backup)
    with opening(request.encryption, backup, artefact) as stage, engine.load_globals() as loading:
        load(
            plan.repository,
            backup,
            artefact,
            stage,
            loading.load,
            engine,
            progress,
            _must_check(request, backup.manifest),
        )
        loading.loaded()


def _globals_of(backup: Backup) -> Artefact:
    artefact = backup.manifest.globals
    if artefact is None:
        raise NotFound(
            f"{backup.id} holds no roles and tablespaces. Take backups with globals, or restore without them."
        )
    return artefact


def _safety(request: RestoreRequest, host: Host, plan: RestorePlan) -> Optional[Safety]:
    if not (plan.replaces and request.safety_backup):
        return None
    encryption = request.safety_encryption or request.encryption
    return Safety(request.database, plan.repository, encryption, host, plan.backup.id, request.lock_timeout)


def _unsaved(request: RestoreRequest, staging: Staging, kept_as: Optional[str]) -> Optional[EngineError]:
    if staging.unsaved is None:
        return None
    return PartlyDone(
        f"{request.database.name} is restored, but the safety backup of what it replaced failed: "
        f"{staging.unsaved.__cause__ or staging.unsaved} It is kept as {kept_as}: back it up, or drop it."
    )


def _check_request(request: RestoreRequest) -> None:
    if not request.repositories:
        raise BadInput("There is no repository to restore from. Give one in repository, or several in repositories.")
    if request.parallel < 1:
        raise BadInput(f"parallel is {request.parallel}. Give the number of jobs, 1 or more.")
    if request.before is not None and request.backup != "latest":
        raise BadInput("before and backup are both given. Name one backup, or ask for the newest one before a time.")
    check_outside(request.database, request.repositories)


def check_outside(target: Database, repositories: Sequence[Repository]) -> None:
    """Raise Refused for a target inside a repository: it would lie among backups, or replace one."""
    repository = surrounding(target, repositories)
    if repository:
        raise Refused(
            f"Cannot restore to {target.name}: it lies inside the repository {repository.label}, "
            "which holds nothing but backups. Restore to a path outside of it."
        )


def _choose(request: RestoreRequest, host: Host) -> Tuple[Repository, Backup, Tuple[str, ...]]:
    """The backup that is meant, and the first repository that has it; why others could not be asked."""
    place = place_of(request.source_host, request.source)
    found: List[Tuple[Repository, Backup]] = []
    failures: List[EngineError] = []
    for repository in request.repositories:
        try:
            repository.check(writing=False)
            catalogue = read_place(host, repository, place)
            backup = choose(catalogue, repository, place, request.backup, request.before, host.now())
            _check_accepted(request, catalogue, backup)
            found.append((repository, backup))
        except Refused:
            # Which backup is the newest is not known; that another repository lacks this one does not settle it.
            raise
        except WeakerEncryption as error:
            # Another repository may hold the very backup that is named; which one is the newest, it cannot say.
            if request.backup == "latest":
                raise
            failures.append(error)
        except EngineError as error:
            failures.append(error)
    if not found:
        raise failures[0]
    newest = max(backup.time for _repository, backup in found)
    repository, chosen = next(item for item in found if item[1].time == newest)
    own = [other for _repository, other in found if other.own]
    if own and not chosen.own and request.backup == "latest":
        # A repository in which this host has written nothing must not outdo those in which it has.
        mine = max(own, key=lambda backup: backup.time)
        raise Refused(f"{planted(repository, chosen)} The newest of its own is {mine.id}; name one of them in backup.")
    backup = whole(repository, chosen)
    # That one repository does not hold what another one does is no news; that it cannot be read is.
    return repository, backup, tuple(str(error) for error in failures if not isinstance(error, NotFound))


def _check_accepted(request: RestoreRequest, catalogue: Catalogue, backup: Backup) -> None:
    """Raise WeakerEncryption for a backup of another method than was asked for, and name the newest one that has it."""
    try:
        check_accepted(request.encryption, backup.manifest)
    except WeakerEncryption as error:
        if request.backup != "latest":
            raise
        good = [other for other in catalogue.good if request.encryption.accepts(other.manifest)]
        hint = f" The newest good backup that has it is {good[-1].id}; name it in backup." if good else ""
        raise WeakerEncryption(f"{error}{hint}") from None


def _check_usable(request: RestoreRequest, repository: Repository, backup: Backup) -> None:
    if backup.manifest.engine != request.database.engine.value:
        raise BadInput(
            f"{backup.id} is a backup of {backup.manifest.engine}, and the target is {request.database.engine.value}. "
            "Give the engine that it was taken with."
        )
    if backup.defect:
        raise NotFound(f"{backup.id} in {repository.label} cannot be restored: {backup.defect}. Choose another backup.")


def _expected_seconds(backup: Backup) -> Optional[float]:
    proof = backup.proven(Level.RESTORE)
    if proof and proof.seconds:
        return proof.seconds
    took = backup.manifest.durations.get("dump")
    return float(took) if isinstance(took, (int, float)) else None
