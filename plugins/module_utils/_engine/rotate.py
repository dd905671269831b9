# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rotating: decide by policy which backups stay, remove the others, and tidy up what crashes left."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Collection, Dict, Iterator, List, Optional, Sequence, Tuple

from .apiece import Apiece
from .catalogue import Catalogue, in_future, place_of, read_place, scan, tidy, unchanged
from .clock import note, require_trustworthy
from .crypto.signing import SIGNATURE
from .errors import BadInput, EngineError, NotFound, PartlyDone
from .interrupts import interruptible
from .memory import adopt, dismiss, forget, recall
from .model import Backup, Database, Decision, Place, Policy, Problem, Remembered
from .names import MANIFEST, id_of_file, parse_proof_name, safe_name
from .repositories.base import Repository
from .retention import plan_trusted
from .state import Host, audit, audit_failure, locked
from .text import shortened


@dataclass(frozen=True)
class RotateRequest:
    """Which backups to rotate: those of one database of a host, or of all its databases (of one engine).

    Exactly one of ``policy`` and ``purge`` is given; ``purge`` removes all backups of the one database.
    """

    repositories: Tuple[Repository, ...]
    source_host: str
    policy: Optional[Policy] = None
    database: Optional[Database] = None
    engine: Optional[str] = None
    purge: bool = False
    #: Whether this host takes all that lies there now, and can be read, for its own.
    adopt: bool = False
    #: Whether this host's clock is right, although it seems to have gone forward.
    trust_clock: bool = False
    lock_timeout: float = 60.0


@dataclass(frozen=True)
class PlaceRotation:
    """What happens in one place of one repository, newest backup first."""

    repository: str
    place: Place
    decisions: Tuple[Decision, ...]
    leftovers: Tuple[str, ...]
    problems: Tuple[Problem, ...]
    #: Whether even what is not in order goes.
    purge: bool = False
    #: Proofs that newer ones make irrelevant.
    superseded: Tuple[str, ...] = ()

    @property
    def unknown(self) -> Tuple[str, ...]:
        """The backups that are not this host's own, or not any more, so that they stay and count for nothing."""
        unknown = [decision.backup.id for decision in self.decisions if not decision.backup.known]
        return () if self.purge else tuple(unknown)

    @property
    def removed(self) -> Tuple[Decision, ...]:
        return tuple(decision for decision in self.decisions if not decision.keep)

    @property
    def changed(self) -> bool:
        return bool(self.removed or self.leftovers or self.superseded or (self.purge and self.problems))


@dataclass(frozen=True)
class RotateResult:
    """What happens in all places."""

    rotations: Tuple[PlaceRotation, ...]
    #: Why other places or repositories could not be rotated.
    failures: Tuple[EngineError, ...] = ()

    @property
    def changed(self) -> bool:
        return any(rotation.changed for rotation in self.rotations)


def plan_rotation(request: RotateRequest, host: Host) -> RotateResult:
    """What a run would remove and keep, and why. Changes nothing."""
    _check_request(request)
    now, apiece = host.now(), Apiece()
    rotations = []
    for repository, place in _places(request, apiece):
        with apiece.trying():
            rotations.append(_plan_place(request, host, repository, place, now))
    return _result(rotations, apiece)


def rotate(request: RotateRequest, host: Host) -> RotateResult:
    """Remove what the policy does not keep. Every removal is in the audit log before it happens.

    A place that cannot be rotated is among the result's ``failures``; where none can, that is raised.
    """
    _check_request(request)
    rotations, apiece = [], Apiece()
    with interruptible():
        note(host, request.trust_clock)
        for repository, place in _places(request, apiece):
            with apiece.trying():
                rotations.append(_rotate_place(request, host, repository, place))
    return _result(rotations, apiece)


def _result(rotations: Sequence[PlaceRotation], apiece: Apiece) -> RotateResult:
    if apiece.failures and not rotations:
        raise apiece.failures[0]
    return RotateResult(tuple(rotations), tuple(apiece.failures))


def _rotate_place(request: RotateRequest, host: Host, repository: Repository, place: Place) -> PlaceRotation:
    action = "purge" if request.purge else "rotate"
    # Under the lock of the place's backups: what is planned here stays true until it is done.
    with locked(host, place.path, request.lock_timeout):
        try:
            rotation = _plan_place(request, host, repository, place, host.now())
            _carry_out(request, host, repository, rotation)
        except BaseException as error:
            audit_failure(host, action, place.path, error, {"repository": repository.label})
            raise
        if rotation.changed:
            kept = len(rotation.decisions) - len(rotation.removed)
            facts = {"repository": repository.label, "removed": len(rotation.removed), "kept": kept}
            audit(host, action, place.path, "done", facts)
        return rotation


def _carry_out(request: RotateRequest, host: Host, repository: Repository, rotation: PlaceRotation) -> None:
    place = rotation.place
    action = "purge" if request.purge else "rotate"
    if host.real and rotation.removed and not (request.purge or request.trust_clock):
        require_trustworthy(host, (), repository.clock(place))
    if request.adopt:
        _adopt(host, repository, rotation)
    dismiss(host, repository, place, {decision.backup.id for decision in rotation.removed})
    files = _files(repository, place)
    # The oldest goes first: if this is interrupted, what is left is what a policy would rather keep.
    for decision in reversed(rotation.removed):
        backup = decision.backup
        if not request.purge and not _still_there(repository, backup):
            continue
        facts = {"id": backup.id, "repository": repository.label, "reasons": list(decision.reasons)}
        audit(host, action, place.path, "removing", facts)
        named = [artefact.name for artefact in backup.manifest.artefacts]
        repository.remove_backup(place, backup.id + MANIFEST, sorted({*named, *files.get(backup.id, ())}))
    forget(host, repository, place, {decision.backup.id for decision in rotation.removed})
    if request.purge:
        adopt(host, repository, place, {})
        _purge_remains(host, repository, rotation)
    if rotation.superseded:
        facts = {"repository": repository.label, "files": list(rotation.superseded)}
        audit(host, "tidy", place.path, "removing", facts)
        repository.discard(place, [file for name in rotation.superseded for file in (name, name + SIGNATURE)])
    if rotation.leftovers:
        audit(host, "tidy", place.path, "removing", {"repository": repository.label, "files": list(rotation.leftovers)})
        tidy(host, repository, place, dry_run=False)


def _files(repository: Repository, place: Place) -> Dict[str, List[str]]:
    """The names of the files of each backup but its manifest, by its id."""
    files: Dict[str, List[str]] = {}
    for entry in repository.entries(place):
        backup = id_of_file(entry.name)
        if backup and entry.name != backup + MANIFEST:
            files.setdefault(backup, []).append(entry.name)
    return files


def _still_there(repository: Repository, backup: Backup) -> bool:
    """Whether a backup that was decided on is still to be removed. Raises Locked where it is another one by now."""
    try:
        unchanged(repository, backup)
    except NotFound:
        # Another host was quicker; what it left of the backup is tidied away.
        return False
    return True


def _adopt(host: Host, repository: Repository, rotation: PlaceRotation) -> None:
    known = {
        decision.backup.id: decision.backup.remembered for decision in rotation.decisions if decision.backup.remembered
    }
    audit(host, "adopt", rotation.place.path, "adopting", {"repository": repository.label, "ids": sorted(known)})
    adopt(host, repository, rotation.place, known)


def _purge_remains(host: Host, repository: Repository, rotation: PlaceRotation) -> None:
    """Remove what belongs to a backup whose manifest cannot be read or is gone: all of the database goes."""
    place = rotation.place
    for backup_id in sorted({id_of_file(problem.name) or "" for problem in rotation.problems} - {""}):
        audit(host, "purge", place.path, "removing", {"id": backup_id, "repository": repository.label})
        repository.remove_backup(place, backup_id + MANIFEST, _files(repository, place).get(backup_id, []))
    left = [name for name in {problem.name: None for problem in rotation.problems} if repository.stat(place, name)]
    if left:
        raise PartlyDone(
            f"All backups in {repository.label}/{place.path} are gone, but not {', '.join(shortened(left))}, which is "
            "no file of a backup. Look at it, and remove it by hand."
        )


def _plan_place(
    request: RotateRequest, host: Host, repository: Repository, place: Place, now: datetime
) -> PlaceRotation:
    if request.purge:
        catalogue = scan(repository, place, now)
    else:
        catalogue = _adopted(host, repository, place) if request.adopt else read_place(host, repository, place)
    decisions = _purge(catalogue) if request.policy is None else _decide(catalogue, request.policy, now)
    leftovers, problems = [], catalogue.problems
    try:
        leftovers = tidy(host, repository, place, dry_run=True, everything=request.purge or request.adopt)
    except EngineError as error:
        # What is to be removed by policy does not wait for what a crash left.
        problems = (*problems, Problem(place, "", str(error)))
    if not (request.purge or request.trust_clock or all(decision.keep for decision in decisions)):
        known = [backup.time for backup in catalogue.known.good if not in_future(backup, now)]
        require_trustworthy(host, known, None)
    removed = {decision.backup.id for decision in decisions if not decision.keep}
    superseded = () if request.purge else tuple(_stale(catalogue.superseded, removed))
    return PlaceRotation(
        repository.label, place, tuple(decisions), tuple(leftovers), problems, request.purge, superseded
    )


def _stale(superseded: Sequence[str], removed: Collection[str]) -> Iterator[str]:
    """The proofs that no backup needs, and that do not go with their backup."""
    for name in superseded:
        found = parse_proof_name(name)
        if found and found[0] not in removed:
            yield name


def _adopted(host: Host, repository: Repository, place: Place) -> Catalogue:
    """What lies there, all of it as this host's own: how it remembered what is not the same any more is forgotten."""
    catalogue = scan(repository, place, host.now(), host.signing)
    memory = recall(host, repository, place)
    backups = []
    for backup in catalogue.backups:
        known = memory.get(backup.id)
        same = known and (known.digest, known.slots) == (backup.digest, backup.slots_digest)
        if known is None or not same or known.pending or not known.own:
            known = Remembered(
                backup.digest, backup.slots_digest, backup.manifest.safety, proofs=backup.proofs, adopted=True
            )
        backups.append(replace(backup, remembered=known))
    return replace(catalogue, backups=tuple(backups))


def _decide(catalogue: Catalogue, policy: Policy, now: datetime) -> List[Decision]:
    """Safety backups are planned by themselves: they must not take a regular one's place, nor outlive them all."""
    safety = [backup for backup in catalogue.backups if backup.manifest.safety]
    lenient = replace(policy, minimum_keep=0, max_age=None)
    decisions = plan_trusted(catalogue.regular, policy, now) + (plan_trusted(safety, lenient, now) if safety else [])
    return [_spare_unjudged(decision) for decision in decisions]


def _spare_unjudged(decision: Decision) -> Decision:
    """Whether a backup was proven or failed decides; where that cannot be read, nothing is decided against it."""
    unjudged = decision.backup.unjudged
    return (
        decision if decision.keep or not unjudged else Decision(decision.backup, True, (f"kept, because {unjudged}",))
    )


def _purge(catalogue: Catalogue) -> List[Decision]:
    return [
        Decision(backup, False, ("purged: all backups of this database go",)) for backup in reversed(catalogue.backups)
    ]


def _places(request: RotateRequest, apiece: Apiece) -> List[Tuple[Repository, Place]]:
    def is_wanted(place: Place) -> bool:
        return place.host == safe_name(request.source_host) and request.engine in (None, place.engine)

    known = place_of(request.source_host, request.database) if request.database else None
    return apiece.places(request.repositories, is_wanted, known)


def _check_request(request: RotateRequest) -> None:
    if not request.repositories:
        raise BadInput("There is no repository to rotate. Give at least one in repositories.")
    if request.purge and request.policy is not None and not request.policy.empty:
        raise BadInput("purge removes all backups, and a policy keeps some. Give one of them.")
    if request.purge and request.database is None:
        raise BadInput("purge needs engine and database: it removes all backups of one database, and of no other.")
    if not request.purge and (request.policy is None or request.policy.empty):
        raise BadInput(
            "The retention policy is empty, and would keep nothing. Set at least one of keep_last, keep_within, "
            "keep_hourly, keep_daily, keep_weekly, keep_monthly and keep_yearly."
        )
