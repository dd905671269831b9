# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A consistent copy of an encrypted database, without its key, while others go on using it.

Nobody can ask SQLite for such a copy without the key. What SQLite's readers rely on can be relied on from outside too:

- In the rollback modes nobody writes the database file while a reader's lock is on it.
- In WAL mode nobody writes the database file while the first read mark is shared, and nobody begins the log anew while
  another one is. Up to the frame that the wal-index names, the log holds what is committed, and it only grows. So
  writers go on meanwhile.
- Where nobody is connected, nothing changes. Somebody who connects in the middle shows afterwards, and the copy is made
  again.

The log's frames hold the pages as encrypted as the database file does; written into the copy they make it whole.
Sources: as for ``sqlite_lock`` and ``sqlite_wal``.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Iterator, List, Optional, Tuple

from ...errors import Damaged, Locked
from .connect import still_locked
from .file import JOURNAL, SHM, WAL, beside, empty, raise_os_error
from .lock import (
    CONNECTED,
    READ_MARKS,
    RESERVED,
    Deadline,
    locked_by_other,
    share_database,
    try_lock,
    users_of,
)
from .wal import Index, Log, apply_log, read_index, read_log, salt_of, write_all

_BLOCK = 1 << 20
#: Times of files are as coarse as the kernel's clock tick; a change that is this old shows when it happens again.
_SETTLED_NS = 50_000_000


def copy_opaque(source: Path, copy: int, lock_timeout: float) -> None:
    """Copy an encrypted database, with what its log has committed, into an empty file open for writing.

    Raises Locked when it stayed locked or in motion for ``lock_timeout`` seconds, or when a crash left a rollback
    journal that only the application can roll back, and Damaged when its log is not readable from outside.
    """
    deadline = Deadline(lock_timeout)
    try:
        while not _try_copy(source, copy, deadline):
            if not deadline.pause():
                raise Locked(
                    f"{source} was opened and closed all the time for {deadline.seconds:g} seconds, so that no "
                    "consistent copy could be made. Raise lock_timeout, or back up while its application is quiet."
                )
    except OSError as error:
        raise_os_error(error, f"Cannot back up {source}")


def _try_copy(source: Path, copy: int, deadline: Deadline) -> bool:
    """One attempt; False when somebody connected in the middle."""
    with ExitStack() as stack:
        database = stack.enter_context(_opened(source))
        while not share_database(database):
            if not deadline.pause():
                raise still_locked(source, deadline, _by(database))
        _refuse_hot_journal(source, database)
        shm = _open_existing(stack, beside(source, SHM))
        if shm is not None and locked_by_other(shm, CONNECTED):
            return _copy_connected(source, database, shm, copy, deadline)
        return _copy_idle(source, database, copy, deadline)


def _copy_connected(source: Path, database: int, shm: int, copy: int, deadline: Deadline) -> bool:
    """Copy a database in WAL mode that others are connected to, as one more reader."""
    if not try_lock(shm, CONNECTED, exclusive=False):
        return False
    while not _share_marks(shm):
        if not deadline.pause():
            raise still_locked(source, deadline, _by(database))
    index = read_index(shm)
    while index is None:
        if not deadline.pause(0.01):
            raise Locked(f"The wal-index of {source} stayed unreadable. Restart its application, then run this again.")
        index = read_index(shm)
    _copy_file(database, copy)
    if index.frames:
        with _opened(beside(source, WAL)) as wal:
            apply_log(wal, _log_of(source, wal, index), copy)
    return True


def _copy_idle(source: Path, database: int, copy: int, deadline: Deadline) -> bool:
    """Copy a database that nobody has open in WAL mode, and make sure that this stayed so."""
    before = _state(source)
    while not _settled(before):
        if not deadline.pause():
            return False
        before = _state(source)
    _copy_file(database, copy)
    with ExitStack() as stack:
        wal = _open_existing(stack, beside(source, WAL))
        if wal is not None:
            log = read_log(wal)
            if log.unreadable:
                raise _unreadable(source)
            apply_log(wal, log, copy)
        shm = _open_existing(stack, beside(source, SHM))
        return (shm is None or not locked_by_other(shm, CONNECTED)) and _state(source) == before


def _share_marks(shm: int) -> bool:
    """Become a reader of the database file and of the log, in any of the places for readers of the log."""
    return try_lock(shm, READ_MARKS[0], exclusive=False) and any(
        try_lock(shm, mark, exclusive=False) for mark in reversed(READ_MARKS[1:])
    )


def _log_of(source: Path, wal: int, index: Index) -> Log:
    log = read_log(wal, limit=index.frames)
    if log.frames != index.frames or log.page_size != index.page_size or salt_of(wal) != index.salt:
        raise _unreadable(source)
    return log


def _unreadable(source: Path) -> Damaged:
    return Damaged(
        f"The write-ahead log of {source} cannot be read without its key: its checksums are not those of SQLite. "
        "Close the database with its application, which empties the log, then run this again."
    )


def _refuse_hot_journal(source: Path, database: int) -> None:
    if has_journal(source) and not locked_by_other(database, RESERVED) and has_journal(source):
        raise Locked(
            f"{source} was left in the middle of a transaction by a crash: {beside(source, JOURNAL).name} has to be "
            "rolled back first, which needs the key. Open the database once with its application, then run this again."
        )


def has_journal(source: Path) -> bool:
    """Whether a rollback journal is there that is not finished; it is hot where no writer holds RESERVED."""
    try:
        with open(beside(source, JOURNAL), "rb") as file:
            return file.read(1) not in (b"", b"\0")
    except FileNotFoundError:
        return False


def _copy_file(database: int, copy: int) -> None:
    empty(copy)
    offset = 0
    while True:
        block = os.pread(database, _BLOCK, offset)
        if not block:
            return
        write_all(copy, block, offset)
        offset += len(block)


_FileState = Optional[Tuple[int, int, int, int]]


def _state(source: Path) -> Tuple[_FileState, ...]:
    """What shows that one of a database's files has changed: inode, size and times of each, None for a missing one."""
    found: List[_FileState] = []
    for path in (source, beside(source, WAL), beside(source, SHM)):
        try:
            status = os.stat(path)
        except FileNotFoundError:
            found.append(None)
        else:
            found.append((status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(found)


def _settled(state: Tuple[_FileState, ...]) -> bool:
    """Whether the last change is so old that another one would show in the times."""
    now = time.time_ns()
    return all(file is None or not 0 <= now - file[3] < _SETTLED_NS for file in state)


def _by(database: int) -> str:
    users = users_of(database)
    return f" by {', '.join(users)}" if users else ""


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open_existing(stack: ExitStack, path: Path) -> Optional[int]:
    try:
        return stack.enter_context(_opened(path))
    except FileNotFoundError:
        return None
