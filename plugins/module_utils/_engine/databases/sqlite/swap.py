# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Putting a restored SQLite file in its database's place, so that a crash leaves the old or the new one whole.

A database is its file and the logs beside it, and no call replaces three files at once. So first, while nobody has the
old database open, its logs are brought home: SQLite rolls back a journal that a crash left, and the committed pages of
the write-ahead log are written into the file, as SQLite's own checkpoint does. From then on the old database is one
file, and rename(2) puts the other in its place. Killed before the rename, the old database is whole (half-done, the
checkpoint is done again by whoever opens it next, from the log that is still there); killed after it, the new one is.
"""

from __future__ import annotations

import errno
import os
import secrets
import sqlite3
import stat
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Callable, Iterator, List, Optional

from ...errors import Locked, NotADatabase, Refused, TargetExists
from ...interrupts import finish
from .access import Owner, access_of_new, access_of_replaced, grant
from .copy import recover
from .elsewhere import refuse_other_names, replaced_prefix, second_names
from .file import JOURNAL, SHM, WAL, Kind, beside, kind_of, pinned, raise_os_error, read_start, require_ordinary_logs
from .lock import Deadline, own_database, users_of
from .opaque import has_journal
from .wal import apply_log, read_log

#: How long to wait for everybody to let go of a database that is to be replaced, in seconds.
LOCK_WAIT = 10.0

_BLOCK = 1 << 20
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK)


@dataclass(frozen=True)
class Swap:
    """A staged file, open for writing, and how it is to take its database's place.

    ``owner`` is who was asked to own it, ``mode`` its permission bits where there is nothing to replace.
    """

    staged: Path
    descriptor: int
    target: Path
    owner: Optional[Owner]
    mode: int


def promote(swap: Swap, replace: bool, keep_replaced: bool, begin: Callable[[], object] = finish) -> Optional[Path]:
    """Put a staged file in its database's place, with the access of the database that it replaces.

    ``begin`` is called once no other program has the target, before anything is changed. Returns
    where the replaced database is kept. Raises TargetExists, Locked naming who has the database open, PermissionDenied
    and Refused; the target then holds what it held.
    """
    target = swap.target
    try:
        if not target.exists():
            begin()
            grant(swap.descriptor, access_of_new(swap.descriptor, target.parent, swap.owner, swap.mode))
            _appear(swap.staged, target)
            return None
        if not replace:
            raise target_exists(target)
        refuse_other_names(target)
        with _owned(target) as old:
            begin()
            _bring_log_home(target, old)
            grant(swap.descriptor, access_of_replaced(old, swap.owner))
            return _replace(swap.staged, target, old, keep_replaced)
    except OSError as error:
        raise_os_error(error, f"Cannot put the restored database in the place of {target}")


def drop_half_done(target: Path) -> None:
    """Remove the second name of a database whose replacement was killed before it began."""
    for other in second_names(target):
        with suppress(FileNotFoundError):
            other.unlink()


def _appear(staged: Path, target: Path) -> None:
    """Give a file a name that nobody has, where logs of a lost database can be lying about."""
    _remove_logs(target)
    try:
        # Unlike rename(2), this does not replace what somebody else has just put there.
        os.link(staged, target)
    except FileExistsError as error:
        raise target_exists(target) from error
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.rename(staged, target)
    with suppress(FileNotFoundError):
        os.unlink(staged)
    _sync_directory(target.parent)


def _replace(staged: Path, target: Path, old: int, keep: bool) -> Optional[Path]:
    kept = _keep(target, old) if keep else None
    try:
        _refuse_users(target, old)
        os.rename(staged, target)
    except BaseException:
        if kept is not None:
            os.unlink(kept)
        raise
    _sync_directory(target.parent)
    _wait_for_latecomers(old)
    return kept


def _keep(target: Path, old: int) -> Path:
    """Give the old database another name, or where there are no hard links a copy of it; that name."""
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    kept = target.with_name(f"{replaced_prefix(target.name)}{stamp}-{secrets.token_hex(2)}")
    try:
        os.link(target, kept)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _copy_aside(old, kept)
    return kept


def _copy_aside(old: int, kept: Path) -> None:
    """Copy a database that is one file, and locked, durably to a name that nobody has."""
    copy = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        offset, size = 0, os.fstat(old).st_size
        while offset < size:
            sent = os.sendfile(copy, old, offset, min(_BLOCK, size - offset))
            if not sent:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            offset += sent
        grant(copy, access_of_replaced(old, None))
    except BaseException:
        os.unlink(kept)
        raise
    finally:
        os.close(copy)


@contextmanager
def _owned(target: Path) -> Iterator[int]:
    """The target's descriptor while nobody else has it open and no crashed transaction is left in it."""
    deadline = Deadline(LOCK_WAIT)
    while True:
        require_ordinary_logs(target)
        _roll_back(target, deadline)
        with ExitStack() as stack:
            descriptor = os.open(target, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            stack.callback(os.close, descriptor)
            users = _own(target, descriptor)
            if not users and not has_journal(target) and os.path.samestat(os.fstat(descriptor), os.stat(target)):
                yield descriptor
                return
        if not deadline.pause():
            raise _in_use(target, users)


def _own(target: Path, descriptor: int) -> List[str]:
    """Lock the target; returns who has it open instead, where somebody has."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise NotADatabase(f"{target} is not a file. Remove it, or restore to another path.")
    if not own_database(descriptor):
        return users_of(descriptor) or ["another program"]
    return users_of(descriptor)


def _refuse_users(target: Path, old: int) -> None:
    users = users_of(old)
    if users:
        raise _in_use(target, users)


def _in_use(target: Path, users: List[str]) -> Locked:
    return Locked(
        f"{target} is in use by {', '.join(users) or 'another program'}, and was for {LOCK_WAIT:g} seconds. "
        "Stop the application, then restore again; the database is as it was."
    )


def _wait_for_latecomers(old: int) -> None:
    """Keep the old file locked while somebody is opening it who looked up its name just before the rename.

    Let in, such a program would read the old file and write the logs of the new one.
    """
    deadline = Deadline(LOCK_WAIT)
    while users_of(old) and deadline.pause():
        pass


def _roll_back(target: Path, deadline: Deadline) -> None:
    """Let SQLite roll back a journal that a crash left; it does so before it looks at the rest of the file."""
    if not has_journal(target):
        return
    if _is_opaque(target):
        raise Refused(
            f"{target} was left in the middle of a transaction by a crash, and is encrypted: only its application can "
            f"roll back {beside(target, JOURNAL).name}. Open it once with the application, or move both files away, "
            "then restore again."
        )
    with pinned(target):
        try:
            recover(target, deadline)
        except sqlite3.Error as error:
            if has_journal(target):
                raise Refused(
                    f"SQLite cannot roll back {beside(target, JOURNAL)}, which a crash left: {error}. Move {target} "
                    "and its journal away, then restore again."
                ) from error


def _is_opaque(target: Path) -> bool:
    try:
        return kind_of(read_start(target), os.stat(target).st_size, target) is Kind.OPAQUE
    except NotADatabase:
        return False


def _bring_log_home(target: Path, old: int) -> None:
    """Write the log's commits into the database file, then remove the logs: the database is one file from here on."""
    try:
        wal = os.open(beside(target, WAL), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        _remove_logs(target)
        return
    try:
        log = read_log(wal)
        if log.unreadable and _is_opaque(target):
            raise Refused(
                f"The write-ahead log of {target} cannot be read without its key. Close the database with its "
                f"application, or move it and {beside(target, WAL).name} away, then restore again."
            )
        apply_log(wal, log, old)
        os.fsync(old)
    finally:
        os.close(wal)
    _remove_logs(target)


def _remove_logs(target: Path) -> None:
    for suffix in (WAL, SHM, JOURNAL):
        with suppress(FileNotFoundError):
            os.unlink(beside(target, suffix))
    # The name of the new file must not reach the disk before the old logs are off it.
    _sync_directory(target.parent)


def target_exists(target: Path) -> TargetExists:
    return TargetExists(
        f"Cannot restore to {target}: it exists. Set replace to replace it, or restore to another path."
    )


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
