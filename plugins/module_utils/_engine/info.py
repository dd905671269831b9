# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a repository holds, and how healthy that is: lists, totals, the oldest and newest, and what is wrong."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from .catalogue import Catalogue, dated_in_future, in_future, read_places
from .model import Backup, Level, Place, Problem, Space
from .names import MANIFEST, safe_name
from .repositories.base import Repository
from .state import Host, running


class InfoRequest(NamedTuple):
    """Which repositories to list, and of which host, engine or database only."""

    repositories: Tuple[Repository, ...]
    source_host: Optional[str] = None
    engine: Optional[str] = None
    database: Optional[str] = None


class DatabaseHealth(NamedTuple):
    """The backups of one database in one repository, in numbers. Safety backups and foreign ones count only in the
    sizes.

    One that is dated in the future never is the newest: nobody knows how old it is.
    """

    place: Place
    database: str
    backups: int
    bytes: int
    oldest: Optional[Backup]
    newest: Optional[Backup]
    bad: int
    unproven: int
    age: Optional[timedelta]
    #: The newest backup's plain size as a share of the one before it.
    size_change: Optional[float]
    restore_proven: Optional[datetime]


class RepositoryInfo(NamedTuple):
    """One repository: its backups, oldest first in each place, their health, its free space, what is not in order."""

    repository: str
    catalogue: Catalogue
    health: Tuple[DatabaseHealth, ...]
    space: Optional[Space]
    problems: Tuple[Problem, ...]


class InfoResult(NamedTuple):
    """All repositories, and the work that is going on on this host."""

    repositories: Tuple[RepositoryInfo, ...]
    running: Tuple[Mapping[str, Any], ...]


def inform(request: InfoRequest, host: Host) -> InfoResult:
    """List what there is. Changes nothing."""
    listed = []
    for repository in request.repositories:
        repository.check(writing=False)
        catalogue, now = read_places(host, repository, _places(request, repository)), host.now()
        health = tuple(judge(catalogue.backups, now))
        problems = (*catalogue.problems, *_future(catalogue, repository, now))
        listed.append(RepositoryInfo(repository.label, catalogue, health, repository.space(), problems))
    return InfoResult(tuple(listed), tuple(running(host)))


def judge(backups: Sequence[Backup], now: datetime) -> Iterator[DatabaseHealth]:
    """The health of each database among backups that are sorted by place and time. Pure."""
    for place, group in groupby(backups, key=lambda backup: backup.place):
        everything = list(group)
        regular = [backup for backup in everything if not (backup.manifest.safety or backup.foreign)]
        good = [backup for backup in regular if backup.known_bad is None]
        newest = next((backup for backup in reversed(good) if not in_future(backup, now)), None)
        proofs = [proof for proof in (backup.proven(Level.RESTORE) for backup in regular) if proof]
        yield DatabaseHealth(
            place=place,
            database=everything[-1].manifest.database,
            backups=len(regular),
            bytes=sum(backup.manifest.bytes for backup in everything),
            oldest=regular[0] if regular else None,
            newest=newest,
            bad=len(regular) - len(good),
            unproven=len(regular) - len(proofs),
            age=now - newest.time if newest else None,
            size_change=_size_change(good),
            restore_proven=max((proof.time for proof in proofs), default=None),
        )


def _future(catalogue: Catalogue, repository: Repository, now: datetime) -> Iterator[Problem]:
    for backup in catalogue.backups:
        if in_future(backup, now):
            reason = f"{dated_in_future(backup, repository)} Until then, latest is refused. Move its files elsewhere."
            yield Problem(backup.place, backup.id + MANIFEST, reason)


def _size_change(good: Sequence[Backup]) -> Optional[float]:
    if len(good) < 2 or not good[-2].manifest.main.plain_bytes:
        return None
    return round(good[-1].manifest.main.plain_bytes / good[-2].manifest.main.plain_bytes, 3)


def _places(request: InfoRequest, repository: Repository) -> List[Place]:
    return [
        place
        for place in repository.places()
        if request.source_host in (None, place.host) or place.host == safe_name(request.source_host or "")
        if request.engine in (None, place.engine)
        if request.database is None or place.database == safe_name(request.database)
    ]
