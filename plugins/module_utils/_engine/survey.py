# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""What there is before a backup: which repositories can take it, and what they hold of the database already."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import List, Optional, Sequence, Tuple

from .apiece import Apiece
from .catalogue import Catalogue, newest_good, read_place
from .errors import EngineError, NoSpace
from .model import Backup, Encryption, EngineName, Place, Previous
from .repositories.base import Repository
from .retention import as_judged_here
from .state import Host
from .text import shortened
from .timespan import format_size


@dataclass(frozen=True)
class Survey:
    """The repositories that can be written, with what they hold, and why the others cannot."""

    repositories: Tuple[Repository, ...]
    catalogues: Tuple[Catalogue, ...]
    failures: Tuple[EngineError, ...]
    #: Why leftovers of killed runs were not removed.
    untidy: Tuple[str, ...] = ()

    @property
    def last(self) -> Optional[Backup]:
        """The newest good backup of any repository, this host's own or not."""
        found = [backup for backup in map(newest_good, self.catalogues) if backup]
        return max(found, key=lambda backup: backup.time) if found else None

    @property
    def last_known(self) -> Optional[Backup]:
        """The newest good backup that this host itself wrote, by its own proofs: no forged one may stop the next, or
        let it pass.
        """
        own = [as_judged_here(backup) for catalogue in self.catalogues for backup in catalogue.known.regular]
        return max((backup for backup in own if not backup.known_bad), key=lambda one: one.time, default=None)

    @property
    def disorder(self) -> Tuple[str, ...]:
        """What cannot be read of earlier backups, in sentences: it keeps no new one from being taken, and is told."""
        reasons = [problem.reason for catalogue in self.catalogues for problem in catalogue.problems]
        return (*shortened(reasons), *self.untidy)

    def fresh(self, max_age: Optional[timedelta], now: datetime, method: Encryption) -> Optional[Backup]:
        """The newest good backup of a method that this host wrote, where every repository has one young enough."""
        if max_age is None:
            return None
        newest = [newest_good(catalogue.known, method) for catalogue in self.catalogues]
        fresh = [backup for backup in newest if backup and timedelta(0) <= now - backup.time <= max_age]
        return min(fresh, key=lambda backup: backup.time) if len(fresh) == len(newest) else None

    def of_another(self, source: str, place: Place) -> Optional[Backup]:
        """The newest backup that says which server or file it was taken of, where that is another than this one.

        Of what this host itself took, that of a file says nothing: whenever it is replaced, it is another file. What
        another planted counts only where this host has taken none.
        """
        own = [backup for catalogue in self.catalogues for backup in catalogue.known.regular]
        if own and place.engine == EngineName.SQLITE.value:
            return None
        told = own or [backup for catalogue in self.catalogues for backup in catalogue.eligible]
        newest = max((backup for backup in told if backup.manifest.source), key=lambda one: one.time, default=None)
        return newest if newest and source and newest.manifest.source != source else None

    def previous(self, last: Optional[Backup]) -> Optional[Previous]:
        """The backup before the next one, with the digest of its manifest."""
        return Previous(last.id, last.digest) if last else None


def survey(repositories: Sequence[Repository], place: Place, host: Host) -> Survey:
    """Look at each repository. One that cannot take the backup stops no other one; if none can, that is raised."""
    usable: List[Repository] = []
    catalogues: List[Catalogue] = []
    apiece = Apiece()
    for repository in repositories:
        with apiece.trying():
            repository.check(writing=True)
            catalogue = read_place(host, repository, place)
            _check_space(repository, catalogue)
            usable.append(repository)
            catalogues.append(catalogue)
    if not usable:
        raise apiece.failures[0]
    return Survey(tuple(usable), tuple(catalogues), tuple(apiece.failures))


def _check_space(repository: Repository, catalogue: Catalogue) -> None:
    last = newest_good(catalogue.known)
    needed, space = last.manifest.bytes if last else 1, repository.space()
    if space is not None and space.free < needed:
        raise NoSpace(
            f"Repository {repository.label} has {format_size(space.free)} free, and the last backup took "
            f"{format_size(needed)}. Free space or rotate backups, and run this again."
        )
