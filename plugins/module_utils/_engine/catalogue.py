# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which backups a repository holds, and what of it is not as this host remembers it."""

from __future__ import annotations

import gc
import hashlib
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Collection, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

from .databases import check_properties
from .errors import BadManifest, EngineError, Locked
from .manifest import MANIFEST_LIMIT, facts_digest, read_manifest, skim_manifest
from .manifest_cache import ManifestCache
from .memory import Memory, expected, recall, writes
from .model import Artefact, Backup, Database, Encryption, Outcome, Place, Problem, Proof
from .names import MANIFEST, id_of_file, order_of, parse_proof_name, safe_name
from .proofs import PROOF_LIMIT, Judgement, read_stored
from .repositories.base import Content, Repository
from .shapes import Misshapen
from .state import Host
from .timespan import format_time

#: How far the clocks of hosts may lie apart.
_CLOCKS = timedelta(minutes=5)
#: How much is read of one place: ten backups a day for a hundred years would have fewer manifests, and those of 100,000
#: usual backups, with their proofs, take about 0.6 GB.
_MOST_BACKUPS, _MOST_BYTES = 400_000, 2 << 30
#: What the reading of a small file costs at least, in bytes.
_LEAST = 4 << 10


@dataclass(frozen=True)
class Catalogue:
    """The backups of one or more places, oldest first, and what is not in order there."""

    backups: Tuple[Backup, ...]
    problems: Tuple[Problem, ...]
    #: The ids of backups that this host counts on (memory.expected) and that cannot be read here, oldest first.
    absent: Tuple[str, ...] = ()
    #: The names of proofs that newer ones make irrelevant.
    superseded: Tuple[str, ...] = ()

    @property
    def good(self) -> Tuple[Backup, ...]:
        """The eligible backups that are complete and not known to be bad, oldest first."""
        return tuple(backup for backup in self.eligible if backup.known_bad is None)

    @property
    def known(self) -> Catalogue:
        """The same without the backups that are not this host's own, or were changed."""
        return replace(self, backups=tuple(backup for backup in self.backups if backup.known))

    @property
    def eligible(self) -> Tuple[Backup, ...]:
        """The backups that "latest" can mean, oldest first: no safety backups, and none that another planted."""
        return tuple(backup for backup in self.regular if not backup.foreign)

    @property
    def regular(self) -> Tuple[Backup, ...]:
        """All but the safety backups, which hold what somebody wanted to be rid of, oldest first."""
        return tuple(backup for backup in self.backups if not backup.manifest.safety)


def place_of(source_host: str, database: Database) -> Place:
    """Where the backups of a database of a host are."""
    return Place(safe_name(source_host), database.engine.value, safe_name(database.name))


def read_place(host: Host, repository: Repository, place: Place) -> Catalogue:
    """Read what one place holds, and compare it with what this host remembers of it.

    A host that writes here expects no backups but its own: others are foreign, and a foreign newest one is a problem.
    So is the newest backup that a host counts on, where it is gone.
    """
    cache = ManifestCache(host, repository.label, place)
    catalogue = scan(repository, place, host.now(), recall(host, repository, place), cache)
    cache.store()
    # Asked for once more: what this host itself took or removed in between was neither planted nor lost.
    memory = recall(host, repository, place)
    if writes(memory):
        catalogue = replace(catalogue, backups=tuple(_attributed(backup, memory) for backup in catalogue.backups))
    here = {backup.id for backup in catalogue.backups}
    absent = tuple(backup for backup in expected(memory) if backup not in here)
    problems = (*_vanished(repository, place, memory, absent), *_planted(repository, place, catalogue))
    return replace(catalogue, absent=absent, problems=(*problems, *catalogue.problems))


def tidy(host: Host, repository: Repository, place: Place, dry_run: bool, everything: bool = False) -> List[str]:
    """Remove what crashes left over in a place; the names.

    What is marked as if it were being removed is spared where this host counts on it: another program marked it, and
    this one would make that final. With ``everything``, the host no longer counts on what is not there.
    """
    spared = () if everything else expected(recall(host, repository, place))
    return repository.tidy(place, dry_run, spared)


def _attributed(backup: Backup, memory: Memory) -> Backup:
    """A backup of a place where this host writes: its own, or foreign."""
    known = memory.get(backup.id)
    if not backup.own and known and known.digest == backup.digest:
        backup = replace(backup, remembered=known)
    return backup if backup.own else replace(backup, foreign=True)


def scan(
    repository: Repository,
    place: Place,
    now: datetime,
    memory: Optional[Memory] = None,
    cache: Optional[ManifestCache] = None,
) -> Catalogue:
    """Read what one place holds. A manifest that cannot be read becomes a problem, and hides no other backup.

    So does one that is not as this host remembers it.

    Backups may be published and removed meanwhile. What the list lacks is asked for by name before it counts as
    missing, and a backup that is being written or removed is neither a backup nor a problem.
    """
    entries = repository.entries(place)
    sizes = {entry.name: entry.bytes for entry in entries if entry.regular}
    everything = [name for name in sizes if name.endswith(MANIFEST)]
    proofs = _proofs_by_backup(entry.name for entry in entries)
    manifests = _affordable(everything, proofs, sizes, memory or {})
    backups: List[Backup] = []
    odd = (entry.name for entry in entries if not entry.regular)
    problems = [Problem(place, name, _irregular(repository, place, name)) for name in odd]
    problems += _unread(repository, place, set(everything) - set(manifests), memory or {})
    read = [name[: -len(MANIFEST)] for name in manifests]
    judged = {backup: proofs[backup] for backup in read if backup in proofs}
    judgements = _read_proofs(repository, place, judged, problems, now)
    with _collector_paused():
        for name, content in repository.read_all(place, manifests, MANIFEST_LIMIT):
            try:
                backup = _read_backup(repository, place, name, content, judgements, sizes, memory or {}, cache)
            except EngineError as error:
                if repository.stat(place, name):
                    problems.append(Problem(place, name, str(error)))
            else:
                backups += [backup] if backup else []
    owned = {name[: -len(MANIFEST)] for name in everything}
    for name in sizes:
        if id_of_file(name) not in owned and is_stray(repository, place, name):
            problems.append(Problem(place, name, _stray(repository, place, name)))
    backups.sort(key=lambda backup: (backup.time, backup.id))
    superseded = tuple(name for judgement in judgements.values() for name in judgement.superseded)
    return Catalogue(tuple(_chained(backups)), tuple(problems), superseded=superseded)


def _proofs_by_backup(names: Iterable[str]) -> Dict[str, List[str]]:
    """The names of all proofs by the id of their backup, the newest first. Pure."""
    proofs: Dict[str, List[str]] = {}
    for name in sorted(names, reverse=True):
        found = parse_proof_name(name)
        if found:
            proofs.setdefault(found[0], []).append(name)
    return proofs


def _affordable(
    manifests: Sequence[str], proofs: Mapping[str, Sequence[str]], sizes: Mapping[str, int], memory: Memory
) -> List[str]:
    """The manifests that are read of a place: those of this host's own backups before others, newer before older. Pure.

    Files can have many names (link(2)), and be larger than their disk (lseek(2)), so that the space that they take
    bounds no listing. Of what is too long to be read, no more is counted than would be read.
    """

    def rank(name: str) -> Tuple[bool, Tuple[str, str]]:
        backup = name[: -len(MANIFEST)]
        return backup in memory, order_of(backup)

    chosen, left = set(), _MOST_BYTES
    for name in sorted(manifests, key=rank, reverse=True)[:_MOST_BACKUPS]:
        size = min(sizes[name], MANIFEST_LIMIT)
        size += sum(_LEAST + min(sizes.get(proof, 0), PROOF_LIMIT) for proof in proofs.get(name[: -len(MANIFEST)], ()))
        if size <= left:
            left -= size
            chosen.add(name)
    # In the order of the list, in which the cache of manifests takes them to be older and newer.
    return [name for name in manifests if name in chosen]


def _unread(repository: Repository, place: Place, unread: Collection[str], memory: Memory) -> Iterator[Problem]:
    """What was left out of a listing: this host's own backups each by its name, and all others in one sentence."""
    if not unread:
        return
    where = f"{repository.label}/{place.path}"
    hint = "Find out who wrote there, and remove the files that are not backups."
    own = sorted(name for name in unread if name[: -len(MANIFEST)] in memory)
    for name in own:
        yield Problem(place, name, f"{where}/{name} was not read: there is too much to read beside it. {hint}")
    if len(own) < len(unread):
        others = len(unread) - len(own)
        more = f"{where} holds more manifests and proofs than {_MOST_BACKUPS} backups have"
        yield Problem(place, "", f"{more}: {others} manifests of other hosts were not read. {hint}")


def _chained(backups: Sequence[Backup]) -> Iterator[Backup]:
    """The same backups, each with what those after it say of it."""
    claims: Dict[str, List[str]] = {}
    for backup in backups:
        if backup.manifest.previous:
            claims.setdefault(backup.manifest.previous.id, []).append(backup.manifest.previous.sha256)
    for backup in backups:
        yield replace(backup, claimed=tuple(claims[backup.id])) if backup.id in claims else backup


@contextmanager
def _collector_paused() -> Iterator[None]:
    """All that is read of a place stays: looking through it for garbage again and again takes a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def whole(repository: Repository, backup: Backup) -> Backup:
    """The same backup with all of its manifest, tables too. Raises Locked where that changed since it was listed."""
    where = f"Manifest {repository.label}/{backup.place.path}/{backup.id}{MANIFEST}"
    return replace(backup, manifest=read_manifest(unchanged(repository, backup), where))


def unchanged(repository: Repository, backup: Backup) -> bytes:
    """The bytes of a backup's manifest, as they were when it was listed. Raises Locked where they are others by now.

    Whoever decided on a listed backup and is about to write or remove something acts on these bytes, and no others.
    """
    content = repository.read(backup.place, backup.id + MANIFEST, MANIFEST_LIMIT)
    if hashlib.sha256(content).hexdigest() != backup.digest:
        where = f"{repository.label}/{backup.place.path}/{backup.id}{MANIFEST}"
        raise Locked(f"Manifest {where} was changed while this worked on it. Run this again.")
    return content


def read_places(host: Host, repository: Repository, places: Iterable[Place]) -> Catalogue:
    """Read what several places hold."""
    found = [read_place(host, repository, place) for place in places]
    return Catalogue(
        tuple(backup for catalogue in found for backup in catalogue.backups),
        tuple(problem for catalogue in found for problem in catalogue.problems),
    )


def in_future(backup: Backup, now: datetime) -> bool:
    """Whether a backup is dated by a clock that was wrong, so that nobody knows which one is the newest."""
    return backup.time - now > _CLOCKS


def dated_in_future(backup: Backup, repository: Repository) -> str:
    """The sentence that says so."""
    return (
        f"The backup {backup.id} in {repository.label} is dated {format_time(backup.time)}, in the future: "
        "a clock was wrong when it was taken, or is wrong here."
    )


def _read_backup(
    repository: Repository,
    place: Place,
    name: str,
    content: Content,
    judgements: Mapping[str, Judgement],
    sizes: Mapping[str, int],
    memory: Memory,
    cache: Optional[ManifestCache],
) -> Optional[Backup]:
    """A backup as its manifest and the list have it; None where it is gone by now."""
    if isinstance(content, EngineError):
        raise content
    where = f"Manifest {repository.label}/{place.path}/{name}"
    digest = hashlib.sha256(content).hexdigest()
    cached = cache.get(digest) if cache else None
    manifest = cached or skim_manifest(content, where, check_properties)
    if manifest.id + MANIFEST != name:
        raise BadManifest(f"{where} is that of another backup, {manifest.id}. Find out who renamed it.")
    if Place(safe_name(manifest.host), manifest.engine, safe_name(manifest.database)) != place:
        raise BadManifest(f"{where} is that of another database or host. Find out who moved it here.")
    judgement = judgements.get(manifest.id) or Judgement()
    remembered = memory.get(manifest.id)
    if remembered and remembered.digest != digest and remembered.facts != facts_digest(content, where):
        raise BadManifest(
            f"{where} is not the one that this host wrote or read: it was changed or replaced. Find out by whom; "
            "restore from another repository."
        )
    if cache and not cached:
        cache.put(digest, manifest)
    backup = Backup(place, manifest, judgement.proofs, None, judgement.unjudged, digest, remembered)
    if all(sizes.get(artefact.name) == artefact.bytes for artefact in manifest.artefacts):
        return backup
    return confirmed(repository, backup)


def confirmed(repository: Repository, backup: Backup) -> Optional[Backup]:
    """The same backup with the defect that its files have at this moment; None where it was removed."""
    defect = next(filter(None, (_defect(repository, backup.place, one) for one in backup.manifest.artefacts)), None)
    # A manifest is removed before its artefacts. So where it is still there after one was missed, that one is missing.
    return replace(backup, defect=defect) if repository.stat(backup.place, backup.id + MANIFEST) else None


def _read_proofs(
    repository: Repository, place: Place, proofs: Mapping[str, Sequence[str]], problems: List[Problem], now: datetime
) -> Dict[str, Judgement]:
    """How each backup was judged, by its id. ``proofs`` names the newest of each first.

    What cannot be read is a problem too.
    """
    owners = {name: backup for backup, names in proofs.items() for name in names}
    judgements: Dict[str, Judgement] = {}
    for name, content in repository.read_all(place, list(owners), PROOF_LIMIT):
        found = _read_proof(name, content)
        if isinstance(found, str):
            if repository.stat(place, name) is None:
                # It was removed: with its backup, or because a newer one took its place.
                continue
        elif found.outcome is Outcome.PASSED and found.time - now > _CLOCKS:
            # It would take back whatever is found until then.
            problems.append(Problem(place, name, _early(repository, place, name)))
            continue
        judgements.setdefault(owners[name], Judgement()).tell(name, found)
    for judgement in judgements.values():
        if judgement.unjudged:
            problems.append(Problem(place, judgement.unread, _unjudged(repository, place, judgement.unjudged)))
    return judgements


def _read_proof(name: str, content: Content) -> Union[Proof, str]:
    """A proof, or why it cannot be read."""
    if isinstance(content, EngineError):
        return f"its proof {name} cannot be read"
    try:
        return read_stored(name, content)
    except Misshapen as error:
        return f"its proof {name} cannot be read ({error})"


def _early(repository: Repository, place: Place, name: str) -> str:
    return (
        f"{repository.label}/{place.path}/{name} is dated in the future, and passes nothing: a clock was wrong, or it "
        "is forged. Remove it, and verify that backup again."
    )


def _unjudged(repository: Repository, place: Place, why: str) -> str:
    return (
        f"{repository.label}/{place.path}: {why}. Whether that backup is good is not known: verify it at "
        "level restore, which settles it."
    )


def _vanished(repository: Repository, place: Place, memory: Memory, absent: Sequence[str]) -> Iterator[Problem]:
    """The newest backup that this host counts on, where it is gone. Others may have been rotated by another host.

    That its manifest is named as if it were being removed excuses nothing: whoever can write here can do that, and this
    host notes beforehand what it removes.
    """
    newest = max(expected(memory), key=order_of, default=None)
    if newest in absent and newest and repository.stat(place, newest + MANIFEST) is None:
        yield Problem(place, newest + MANIFEST, gone(repository, place, newest))


def gone(repository: Repository, place: Place, backup: str) -> str:
    """The sentence for a backup that this host counts on and that is not there."""
    return (
        f"{repository.label}/{place.path}/{backup}{MANIFEST} is gone, and this host, which wrote or read it, did not "
        "remove it. Find out who did. To go on without it, rotate once with adopt."
    )


def _planted(repository: Repository, place: Place, catalogue: Catalogue) -> Iterator[Problem]:
    """The newest foreign backup, where it is newer than all of this host's own."""
    newest = catalogue.regular[-1] if catalogue.regular else None
    if newest and newest.foreign:
        yield Problem(place, newest.id + MANIFEST, planted(repository, newest))


def planted(repository: Repository, backup: Backup) -> str:
    """The sentence for a foreign backup."""
    return (
        f"{repository.label}/{backup.place.path}/{backup.id}{MANIFEST} was not written by this host, which writes the "
        "backups here. Find out who wrote it. If it is this host's own, rotate once with adopt."
    )


def _defect(repository: Repository, place: Place, artefact: Artefact) -> Optional[str]:
    entry = repository.stat(place, artefact.name)
    if entry is None:
        return f"its artefact {artefact.name} is missing"
    if not entry.regular:
        return f"its artefact {artefact.name} is not a regular file"
    if entry.bytes != artefact.bytes:
        return f"its artefact {artefact.name} has {entry.bytes} bytes instead of {artefact.bytes}"
    return None


def is_stray(repository: Repository, place: Place, name: str) -> bool:
    """Whether a file that was listed belongs to no backup: neither to one, nor to one that comes or goes."""
    backup = id_of_file(name)
    if backup is None:
        return repository.stat(place, name) is not None
    # In this order: what is published loses its mark when its manifest appears, and what is removed gets one when its
    # manifest disappears, and loses it after its last file.
    return not (
        repository.in_motion(place, backup)
        or repository.stat(place, backup + MANIFEST)
        or repository.in_motion(place, backup)
        or repository.stat(place, name) is None
    )


def _irregular(repository: Repository, place: Place, name: str) -> str:
    return (
        f"{repository.label}/{place.path}/{name} is a link, directory or device. It was not opened; remove it, and "
        "find out who put it there."
    )


def _stray(repository: Repository, place: Place, name: str) -> str:
    where = f"{repository.label}/{place.path}/{name}"
    if id_of_file(name) is None:
        return f"{where} is not a file of a backup. Move it elsewhere."
    return f"{where} has no manifest, so it is no backup. Put its manifest back, or remove the file."


def newest_good(catalogue: Catalogue, method: Optional[Encryption] = None) -> Optional[Backup]:
    """The newest backup that is complete and not known to be bad, of any method or of one."""
    good = [backup for backup in catalogue.good if method is None or backup.manifest.is_encrypted_with(method)]
    return good[-1] if good else None
