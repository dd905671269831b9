# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which backup a user means by ``latest``, an id or a file's name. Nothing is chosen silently."""

from __future__ import annotations

from datetime import datetime
from typing import Iterator, Optional, Sequence, Tuple

from .catalogue import Catalogue, dated_in_future, gone, in_future, newest_good, planted
from .errors import BadManifest, Damaged, NotFound, Refused
from .model import Backup, Place
from .names import MANIFEST, id_of_file, is_id, order_of, stamp, stamp_of
from .repositories.base import Repository
from .timespan import format_time


def choose(
    catalogue: Catalogue, repository: Repository, place: Place, wanted: str, before: Optional[datetime], now: datetime
) -> Backup:
    """The backup that a user means by ``latest``, an id or a file's name, and by ``before``.

    Nothing is chosen silently: where the newest one is known to be bad or dated in the future, that is an error, which
    names the one before.
    """
    if wanted != "latest":
        return _by_name(catalogue, repository, place, wanted)
    candidates = [backup for backup in catalogue.eligible if before is None or backup.time <= before]
    if not candidates:
        _raise_passed_over(catalogue, repository, place, None, before)
        _raise_unread(catalogue)
        raise NotFound(_nothing(catalogue, repository, place, before))
    newest = candidates[-1]
    if in_future(newest, now):
        raise _newest_in_future(candidates, repository, now)
    if newest.known_bad:
        good = [backup for backup in candidates if backup.known_bad is None]
        hint = (
            f"The newest good one is {good[-1].id}; name it in backup." if good else "There is no good one before it."
        )
        raise Damaged(
            f"The newest backup {newest.id} in {repository.label} is known to be bad: {newest.known_bad}. {hint}"
        )
    _raise_passed_over(catalogue, repository, place, newest, before)
    return newest


def _newest_in_future(candidates: Sequence[Backup], repository: Repository, now: datetime) -> Refused:
    past = [backup for backup in candidates if not in_future(backup, now) and backup.known_bad is None]
    hint = (
        f"The newest good one that is not is {past[-1].id}; name the one that you want in backup, or use before."
        if past
        else "There is no good one that is not; name it in backup if it is the one that you want."
    )
    return Refused(f"{dated_in_future(candidates[-1], repository)} {hint}")


def _by_name(catalogue: Catalogue, repository: Repository, place: Place, wanted: str) -> Backup:
    backup_id = wanted if is_id(wanted) else id_of_file(wanted)
    for backup in catalogue.backups:
        if backup.id == backup_id:
            return backup
    for problem in catalogue.problems:
        if backup_id is not None and id_of_file(problem.name) == backup_id:
            raise BadManifest(problem.reason)
    _raise_unread(catalogue)
    good = newest_good(catalogue)
    newest = f"The newest good one is {good.id}." if good else "It holds no good one of this database."
    where = f"{repository.label}/{place.path}"
    raise NotFound(f'There is no backup "{wanted}" in {where}. {newest} Check the id, source_host and source_database.')


def _raise_unread(catalogue: Catalogue) -> None:
    """Raise BadManifest where not all of a place was read: what was not found may be there."""
    for problem in catalogue.problems:
        if not problem.name:
            raise BadManifest(problem.reason)


def _nothing(catalogue: Catalogue, repository: Repository, place: Place, before: Optional[datetime]) -> str:
    where = f"{repository.label}/{place.path}"
    if before is None or not catalogue.eligible:
        return f"There is no backup in {where}. Check source_host and source_database; backup_info lists what there is."
    oldest = catalogue.eligible[0]
    return (
        f"There is no backup in {where} from before {format_time(before)}. "
        f"The oldest is {oldest.id} of {format_time(oldest.time)}: choose a later time."
    )


def _raise_passed_over(
    catalogue: Catalogue, repository: Repository, place: Place, chosen: Optional[Backup], before: Optional[datetime]
) -> None:
    """Raise BadManifest where there is, or was, a newer one than was chosen that is unreadable, foreign or gone."""
    last = None if before is None else stamp(before)
    for backup, reason in _passed_over(catalogue, repository, place, before):
        if (chosen is None or order_of(backup) > order_of(chosen.id)) and (last is None or stamp_of(backup) <= last):
            hint = f" The newest backup that can be read is {chosen.id}; name it in backup." if chosen else ""
            raise BadManifest(f"{reason}{hint}")


def _passed_over(
    catalogue: Catalogue, repository: Repository, place: Place, before: Optional[datetime]
) -> Iterator[Tuple[str, str]]:
    """What may stand in for no other one: the ids of backups that cannot be chosen, each with why."""
    for problem in catalogue.problems:
        if problem.name.endswith(MANIFEST):
            yield id_of_file(problem.name) or "", problem.reason
    if before is None:
        return
    for backup in catalogue.regular:
        if backup.foreign:
            yield backup.id, planted(repository, backup)
    for absent in reversed(catalogue.absent):
        if stamp_of(absent) <= stamp(before) and repository.stat(place, absent + MANIFEST) is None:
            yield absent, gone(repository, place, absent)
