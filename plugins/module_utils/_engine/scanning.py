# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading one place of a repository: its backups with their proofs and key slots, and what is not in order."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import (
    Any,
    Callable,
    Collection,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
    Union,
)

from .crypto.signing import Signing
from .errors import BadManifest, BadSignature, EngineError
from .listing_cache import ListingCache
from .manifest import MANIFEST_LIMIT
from .memory import Memory
from .model import Artefact, Backup, Encryption, Generation, Outcome, Place, Problem, Proof
from .names import MANIFEST, id_of_file, order_of, parse_proof_name, parse_slots_name, safe_name, slots_name
from .proofs import Judgement
from .repositories.base import Repository
from .shapes import Misshapen
from .small_files import PROOFS, SLOTS, Kind, Skimmed, SmallFiles, manifests

_T = TypeVar("_T")
#: How far the clocks of hosts may lie apart.
CLOCKS = timedelta(minutes=5)
#: How much is read of one place: ten backups a day for a hundred years would have fewer manifests, and those of 100,000
#: usual backups, with their proofs, take about 0.6 GB.
_MOST_BACKUPS, _MOST_BYTES = 400_000, 2 << 30
#: What the reading of a small file costs at least, in bytes.
_LEAST = 4 << 10
#: How many generations of key slots are read of a backup, where any may be tried with a passphrase, and where only
#: those are tried that are signed. Usually there is one, and two where one is being replaced.
_GENERATIONS, _SIGNED_GENERATIONS = 8, 200


class Found(NamedTuple):
    """The backups of one place, oldest first; what is not in order; the names of proofs that newer ones supersede."""

    backups: Tuple[Backup, ...]
    problems: Tuple[Problem, ...]
    superseded: Tuple[str, ...]


def look(
    repository: Repository,
    place: Place,
    now: datetime,
    signing: Signing,
    memory: Memory,
    cache: Optional[ListingCache] = None,
) -> Found:
    """Read what one place holds. A manifest that cannot be read becomes a problem, and hides no other backup.

    So does one that is not as this host remembers it.

    Backups may be published and removed meanwhile. What the list lacks is asked for by name before it counts as
    missing, and a backup that is being written or removed is neither a backup nor a problem.
    """
    with _collector_paused():
        return _Look(repository, place, now, signing, memory, cache).found()


class _Look:
    """One look at a place, and what it has found so far."""

    def __init__(
        self,
        repository: Repository,
        place: Place,
        now: datetime,
        signing: Signing,
        memory: Memory,
        cache: Optional[ListingCache],
    ) -> None:
        self._repository, self._place, self._now = repository, place, now
        self._memory, self._signing = memory, signing
        self._where = f"{repository.label}/{place.path}"
        self._problems: List[Problem] = []
        entries = repository.entries(place)
        self._files = SmallFiles(repository, place, entries, signing, cache)
        self._sizes = {entry.name: entry.bytes for entry in entries if entry.regular}
        for entry in entries:
            if not entry.regular:
                self._tell(
                    entry.name,
                    "is a link, directory or device. It was not opened; remove it, and find out who put it there.",
                )
        everything = [name for name in self._sizes if name.endswith(MANIFEST)]
        # What lies there instead of a proof hides it: that is not the same as none.
        proofs = _by_backup((entry.name for entry in entries), parse_proof_name)
        slots = _by_backup(self._sizes, parse_slots_name)
        self._manifests = _affordable(everything, [(proofs, PROOFS.limit), (slots, SLOTS.limit)], self._sizes, memory)
        self._unread(set(everything) - set(self._manifests))
        read = [name[: -len(MANIFEST)] for name in self._manifests]
        self._owned = {name[: -len(MANIFEST)] for name in everything}
        self._judgements = self._read_proofs({backup: proofs[backup] for backup in read if backup in proofs})
        self._generations = self._read_slots({backup: slots[backup] for backup in read if backup in slots})

    def found(self) -> Found:
        """The rest of it: the manifests, and what belongs to none."""
        backups: List[Backup] = []
        for name, found in self._files.read(self._manifests, manifests(self._where)):
            try:
                backup = self._backup(name, found)
            except EngineError as error:
                if self._repository.stat(self._place, name):
                    self._problems.append(Problem(self._place, name, str(error)))
            else:
                backups += [backup] if backup else []
        self._find_strays()
        backups = sorted(self._with_slots(backups), key=lambda backup: (backup.time, backup.id))
        superseded = (name for judgement in self._judgements.values() for name in judgement.superseded)
        return Found(tuple(_chained(backups)), tuple(self._problems), tuple(superseded))

    def _tell(self, name: str, what: str) -> None:
        self._problems.append(Problem(self._place, name, f"{self._where}/{name} {what}"))

    def _unread(self, unread: Collection[str]) -> None:
        """Tell what is left out: this host's own backups each by its name, and all others in one sentence."""
        hint = "Find out who wrote there, and remove the files that are not backups."
        own = sorted(name for name in unread if name[: -len(MANIFEST)] in self._memory)
        for name in own:
            self._tell(name, f"was not read: there is too much to read beside it. {hint}")
        if len(own) < len(unread):
            more = f"{self._where} holds more manifests and proofs than {_MOST_BACKUPS} backups have"
            others = f"{len(unread) - len(own)} manifests of other hosts were not read"
            self._problems.append(Problem(self._place, "", f"{more}: {others}. {hint}"))

    def _find_strays(self) -> None:
        """Tell what belongs to no backup; of the files of a backup that has no manifest, the first one."""
        told = set(self._owned)
        for name in self._sizes:
            backup = id_of_file(name)
            if backup not in told and is_stray(self._repository, self._place, name):
                self._tell(name, _stray(name))
                told |= {backup} if backup else set()

    def _backup(self, name: str, found: Union[Skimmed, Exception]) -> Optional[Backup]:
        """A backup as its manifest and the list have it; None where it is gone by now."""
        if isinstance(found, Exception):
            raise found
        where, (digest, manifest) = f"Manifest {self._where}/{name}", found
        if manifest.id + MANIFEST != name:
            raise BadManifest(f"{where} is that of another backup, {manifest.id}. Find out who renamed it.")
        if Place(safe_name(manifest.host), manifest.engine, safe_name(manifest.database)) != self._place:
            raise BadManifest(f"{where} is that of another database or host. Find out who moved it here.")
        remembered = self._memory.get(manifest.id)
        if remembered and remembered.digest != digest:
            raise BadManifest(
                f"{where} is not the one that this host wrote or read: it was changed or replaced. Find out by whom; "
                "restore from another repository."
            )
        judgement = self._judgements.get(manifest.id) or Judgement()
        generations = tuple(self._generations.get(manifest.id, ()))
        backup = Backup(
            self._place,
            manifest,
            judgement.proofs,
            None,
            judgement.unjudged,
            digest,
            remembered,
            generations=generations,
        )
        if all(self._sizes.get(artefact.name) == artefact.bytes for artefact in manifest.artefacts):
            return backup
        return _with_defect(self._repository, backup, _artefacts_defect(self._repository, backup))

    def _read_proofs(self, proofs: Mapping[str, Sequence[str]]) -> Dict[str, Judgement]:
        """How each backup was judged, by its id. What cannot be read is a problem too."""
        judgements: Dict[str, Judgement] = {}
        for backup, name, found in self._owned_by(proofs, PROOFS):
            if not isinstance(found, str) and found.outcome is Outcome.PASSED and found.time - self._now > CLOCKS:
                # It would take back whatever is found until then.
                self._tell(
                    name,
                    "is dated in the future, and passes nothing: a clock was wrong, or it is forged. Remove it, and "
                    "verify that backup again.",
                )
                continue
            told: Union[Proof, str] = f"its proof {name} cannot be read{found}" if isinstance(found, str) else found
            judgements.setdefault(backup, Judgement()).tell(name, told)
        for judgement in judgements.values():
            if judgement.unjudged:
                reason = (
                    f"{self._where}: {judgement.unjudged}. Whether that backup is good is not known: verify it at "
                    "level restore, which settles it."
                )
                self._problems.append(Problem(self._place, judgement.unread, reason))
        return judgements

    def _read_slots(self, slots: Mapping[str, Sequence[str]]) -> Dict[str, List[Generation]]:
        """The generations of each backup's key slots, by its id. What cannot be read is a problem."""
        generations: Dict[str, List[Generation]] = {}
        most = _SIGNED_GENERATIONS if self._signing.required else _GENERATIONS
        for names in slots.values():
            if len(names) > most:
                others = f"{len(names)} generations of key slots, of which {most} were read"
                self._tell(names[most], f"was not read: the backup has {others}. Find out who wrote them.")
        slots = {backup: names[:most] for backup, names in slots.items()}
        for backup, name, found in self._owned_by(slots, SLOTS):
            if isinstance(found, str):
                self._tell(name, f"cannot be read{found}. Its key slots are not used; find out who wrote it.")
            else:
                generations.setdefault(backup, []).append(found)
        return generations

    def _owned_by(
        self, names: Mapping[str, Sequence[str]], kind: Kind[_T]
    ) -> Iterator[Tuple[str, str, Union[_T, str]]]:
        """Each of these files that is there: its backup, its name, and what it holds, or why that is not known."""
        owners = {name: backup for backup, owned in names.items() for name in owned}
        for name, found in self._files.read(list(owners), kind):
            if not isinstance(found, Exception):
                yield owners[name], name, found
            elif isinstance(found, Misshapen):
                yield owners[name], name, f" ({found})"
            elif isinstance(found, BadSignature):
                # It counts for nothing, whatever it says: neither does it hide what is signed.
                self._problems.append(Problem(self._place, name, str(found)))
            elif self._repository.stat(self._place, name):
                # Otherwise it is gone: with its backup, or because a newer one took its place.
                yield owners[name], name, ""

    def _with_slots(self, backups: Sequence[Backup]) -> Iterator[Backup]:
        """The same backups; those whose key slots were not listed, with the ones that there are by now."""
        found: Dict[str, List[Generation]] = {}
        lacking = {backup.id for backup in backups if _needs_slots(backup) and not backup.generations}
        if lacking:
            # They appear before their manifest, and newer ones before the older ones go: so another list has them.
            names = (entry.name for entry in self._repository.entries(self._place))
            there = _by_backup(names, parse_slots_name)
            problems, self._problems = self._problems, []
            found = self._read_slots({backup: there[backup] for backup in lacking if backup in there})
            told = {problem.name for problem in problems}
            self._problems = problems + [problem for problem in self._problems if problem.name not in told]
        for backup in backups:
            if backup.id not in lacking:
                yield backup
            elif found.get(backup.id):
                yield replace(backup, generations=tuple(found[backup.id]))
            elif self._repository.stat(self._place, backup.id + MANIFEST):
                yield replace(backup, defect=backup.defect or _NO_SLOTS)


_NO_SLOTS = "its key slots are missing"


def _needs_slots(backup: Backup) -> bool:
    return backup.manifest.main.encryption is Encryption.AES256_GCM


def _by_backup(names: Iterable[str], parse: Callable[[str], Optional[Tuple[str, Any]]]) -> Dict[str, List[str]]:
    """The names of files by the id of their backup, the newest first. Pure."""
    found: Dict[str, List[Tuple[Any, str]]] = {}
    for name in names:
        parsed = parse(name)
        if parsed:
            found.setdefault(parsed[0], []).append((parsed[1], name))
    return {backup: [name for _order, name in sorted(owned, reverse=True)] for backup, owned in found.items()}


def _affordable(
    manifests: Sequence[str],
    others: Sequence[Tuple[Mapping[str, Sequence[str]], int]],
    sizes: Mapping[str, int],
    memory: Memory,
) -> List[str]:
    """The manifests that are read of a place: those of this host's own backups before others, newer before older. Pure.

    Files can have many names (link(2)), and be larger than their disk (lseek(2)), so that the space that they take
    bounds no listing. Of what is too long to be read, no more is counted than would be read. ``others`` are the names
    of the other small files of each backup, with the limit that they are read with.
    """

    def rank(name: str) -> Tuple[bool, Tuple[str, str]]:
        backup = name[: -len(MANIFEST)]
        return backup in memory, order_of(backup)

    chosen, left = set(), _MOST_BYTES
    for name in sorted(manifests, key=rank, reverse=True)[:_MOST_BACKUPS]:
        size = min(sizes[name], MANIFEST_LIMIT)
        for files, limit in others:
            size += sum(_LEAST + min(sizes.get(other, 0), limit) for other in files.get(name[: -len(MANIFEST)], ()))
        if size <= left:
            left -= size
            chosen.add(name)
    # In the order of the list, in which the cache of manifests takes them to be older and newer.
    return [name for name in manifests if name in chosen]


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


def confirmed(repository: Repository, backup: Backup) -> Optional[Backup]:
    """The same backup with the defect that its files have at this moment; None where it was removed."""
    return _with_defect(repository, backup, _artefacts_defect(repository, backup) or _slots_defect(repository, backup))


def _with_defect(repository: Repository, backup: Backup, defect: Optional[str]) -> Optional[Backup]:
    # A manifest is removed before its other files. So where it is there after one was missed, that one is missing.
    return replace(backup, defect=defect) if repository.stat(backup.place, backup.id + MANIFEST) else None


def _artefacts_defect(repository: Repository, backup: Backup) -> Optional[str]:
    return next(filter(None, (_defect(repository, backup.place, one) for one in backup.manifest.artefacts)), None)


def _slots_defect(repository: Repository, backup: Backup) -> Optional[str]:
    if not _needs_slots(backup):
        return None
    if any(repository.stat(backup.place, slots_name(backup.id, one.number)) for one in backup.generations):
        return None
    # Newer ones may have taken their place.
    names = (entry.name for entry in repository.entries(backup.place))
    return None if backup.generations and backup.id in _by_backup(names, parse_slots_name) else _NO_SLOTS


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


def _stray(name: str) -> str:
    if id_of_file(name) is None:
        return "is not a file of a backup. Move it elsewhere."
    return "has no manifest, so it is no backup. Put its manifest back, or remove the file."
