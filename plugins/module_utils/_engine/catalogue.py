# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which backups a repository holds, and what of it is not as this host remembers it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Iterable, Iterator, List, Optional, Sequence, Tuple

from .crypto.signing import UNSIGNED, Signing
from .errors import Locked
from .listing_cache import ListingCache
from .manifest import MANIFEST_LIMIT, read_manifest
from .memory import Memory, expected, recall, writes
from .model import Backup, Database, Encryption, Place, Problem
from .names import MANIFEST, order_of, safe_name
from .repositories.base import Repository
from .scanning import CLOCKS, look
from .state import Host
from .timespan import format_time


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
    cache = ListingCache(host, repository.label, place)
    catalogue = scan(repository, place, host.now(), host.signing, recall(host, repository, place), cache)
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
    signing: Signing = UNSIGNED,
    memory: Optional[Memory] = None,
    cache: Optional[ListingCache] = None,
) -> Catalogue:
    """What one place holds (scanning.look), without a comparison with what this host remembers."""
    backups, problems, superseded = look(repository, place, now, signing, memory or {}, cache)
    return Catalogue(backups, problems, superseded=superseded)


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
    return backup.time - now > CLOCKS


def dated_in_future(backup: Backup, repository: Repository) -> str:
    """The sentence that says so."""
    return (
        f"The backup {backup.id} in {repository.label} is dated {format_time(backup.time)}, in the future: "
        "a clock was wrong when it was taken, or is wrong here."
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


def newest_good(catalogue: Catalogue, method: Optional[Encryption] = None) -> Optional[Backup]:
    """The newest backup that is complete and not known to be bad, of any method or of one."""
    good = [backup for backup in catalogue.good if method is None or backup.manifest.is_encrypted_with(method)]
    return good[-1] if good else None
