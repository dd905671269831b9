# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A consistent copy of a plain database, by SQLite itself, while others go on writing it.

In WAL mode the connection that is copied holds a read transaction, so every step of the copy reads the same snapshot,
and writers go on. In the rollback modes a writer could not commit until that transaction ends. So a large database is
copied without one: each step takes the reader's lock for itself, a writer comes in between two steps, and SQLite then
begins the copy again (``sqlite3_backup_step``, sqlite.org/c3ref/backup_finish.html). A database that is written more
often than it can be copied is copied under one lock at last.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator, List, Optional, Tuple

from ...errors import Locked
from .connect import CANNOT_OPEN, READ_ONLY, connect, is_locked, raise_sqlite_error, still_locked
from .file import SHM, WAL, Header, beside, empty, parse_header, pinned, raise_os_error, read_start
from .lock import Deadline, own_database

#: 4 MiB with the usual page size: often enough for signals, and not a measurable cost.
_PAGES_PER_STEP = 1024
#: What is copied in a fraction of the second for which any application waits, in bytes.
_BRIEF = 64 << 20
#: How often a copy may begin again before writers have to wait for it.
_MOST_RESTARTS = 3
#: How often to ask for a lock that a writer has, in seconds.
_RETRY = 0.05


@dataclass(frozen=True)
class Copied:
    """The header of a copy, and what its maker has to say."""

    header: Header
    warnings: Tuple[str, ...] = ()


#: SQLITE_BUSY and SQLITE_LOCKED (sqlite.org/rescode.html), and how the header says that a database is in WAL mode.
_BUSY = (5, 6)
_WAL_VERSION = b"\x02"


class _Overtaken(Exception):
    """Writers were faster than the copy."""


def copy_plain(source: Path, copy: Path, lock_timeout: float) -> Copied:
    """Copy a database into an existing empty file.

    Raises Locked when no read transaction could begin in time, Damaged, NotADatabase, PermissionDenied and NoSpace.
    """
    deadline = Deadline(lock_timeout)
    before = _sidecars(source)
    warnings: Tuple[str, ...] = ()
    try:
        with pinned(source):
            if not _copied_between_writers(source, copy, deadline):
                empty(copy)
                began = time.monotonic()
                with _reading(source, deadline) as connection:
                    _copy(connection, copy, _RestartRefused())
                warnings = _told(source, time.monotonic() - began)
    except sqlite3.Error as error:
        raise_sqlite_error(error, source, f"Cannot back up {source}")
    except OSError as error:
        raise_os_error(error, f"Cannot back up {source}")
    finally:
        _remove_own_sidecars(source, before)
    return Copied(parse_header(read_start(copy), source), warnings)


def _has_waiting_writers(source: Path) -> bool:
    """Whether writers wait for a reader of the database, and for longer than any application's patience."""
    return os.stat(source).st_size > _BRIEF and read_start(source)[18:19] != _WAL_VERSION


def _told(source: Path, seconds: float) -> Tuple[str, ...]:
    if not _has_waiting_writers(source):
        return ()
    warning = (
        f"{source} was written faster than it could be copied between two transactions, so that its writers had to "
        f"wait for {seconds:.1f} s. Switch it to WAL mode (PRAGMA journal_mode = WAL), or back up while it is quiet."
    )
    return (warning,)


def _copied_between_writers(source: Path, copy: Path, deadline: Deadline) -> bool:
    """Copy step by step, and let writers in between two steps; False where that is not needed, or did not succeed."""
    if not _has_waiting_writers(source):
        return False
    try:
        with _reading(source, deadline) as connection:
            connection.execute("ROLLBACK")
            _copy(connection, copy, _Watch(source, deadline.seconds))
    except _Overtaken:
        return False
    except sqlite3.OperationalError as error:
        # A writer crashed in between: its journal is rolled back first.
        if READ_ONLY not in str(error) and CANNOT_OPEN not in str(error):
            raise
        return False
    return True


class _RestartRefused:
    """Looks at each step of a copy in one transaction, in which SQLite must not begin again."""

    def __init__(self) -> None:
        self._left: Optional[int] = None

    def __call__(self, status: int, remaining: int, total: int) -> None:
        if self._left is not None and remaining >= self._left > 0:
            raise Locked(
                f"SQLite began the copy again at {remaining} of {total} pages (status {status}), which it must not do "
                "inside a transaction. Run the backup again."
            )
        self._left = remaining


class _Watch:
    """Looks at each step of a copy that has no transaction. Raises _Overtaken, and Locked for a lock that stays."""

    def __init__(self, source: Path, seconds: float) -> None:
        self._source, self._seconds = source, seconds
        self._left: Optional[int] = None
        self._restarts = 0
        self._waiting: Optional[Deadline] = None

    def __call__(self, status: int, remaining: int, _total: int) -> None:
        if status & 0xFF in _BUSY:
            self._waiting = self._waiting or Deadline(self._seconds)
            if not self._waiting.left:
                raise still_locked(self._source, self._waiting)
            return
        self._waiting = None
        if self._left is not None and remaining >= self._left > 0:
            self._restarts += 1
            if self._restarts > _MOST_RESTARTS:
                raise _Overtaken
        self._left = remaining


@contextmanager
def _reading(source: Path, deadline: Deadline) -> Iterator[sqlite3.Connection]:
    """A connection with a read transaction."""
    recovered = False
    while True:
        with closing(connect(source, "mode=ro")) as connection:
            try:
                connection.execute("BEGIN")
                # Reading a field of the header begins the transaction; it needs no schema, which may be damaged.
                connection.execute("PRAGMA user_version").fetchone()
            except sqlite3.OperationalError as error:
                recoverable = READ_ONLY in str(error) or CANNOT_OPEN in str(error)
                if not is_locked(error) and (recovered or not recoverable):
                    raise
                failure = error
            else:
                yield connection
                return
        if is_locked(failure):
            if not deadline.pause():
                raise still_locked(source, deadline) from failure
        else:
            # A rollback journal or a log that a crash left can only be recovered by a connection that may write.
            recovered = recover(source, deadline)


def recover(source: Path, deadline: Deadline) -> bool:
    """Let SQLite finish what a crashed application began: roll back its journal, read in its log."""
    while True:
        with closing(connect(source, "mode=rw")) as connection:
            try:
                connection.execute("PRAGMA user_version").fetchone()
                return True
            except sqlite3.OperationalError as error:
                if not is_locked(error):
                    raise
                failure = error
        if not deadline.pause():
            raise still_locked(source, deadline) from failure


def _copy(connection: sqlite3.Connection, copy: Path, watch: Callable[[int, int, int], None]) -> None:
    # The copy is private and worthless until it is whole: no locks, no journal, no flushing.
    with closing(connect(copy, "mode=rw&nolock=1")) as target:
        target.execute("PRAGMA journal_mode = OFF")
        target.execute("PRAGMA synchronous = OFF")
        connection.backup(target, pages=_PAGES_PER_STEP, progress=watch, sleep=_RETRY)


def _sidecars(source: Path) -> List[Path]:
    return [path for path in (beside(source, WAL), beside(source, SHM)) if path.exists()]


def _remove_own_sidecars(source: Path, before: List[Path]) -> None:
    """Remove the ``-wal`` and ``-shm`` that reading an idle database has made, unless somebody uses it by now.

    A read-only connection makes them and cannot remove them when it closes.
    """
    made = [path for path in _sidecars(source) if path not in before]
    if not made:
        return
    try:
        descriptor = os.open(source, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # only a reader could have come here, and readers cannot make them
        return
    try:
        # Everybody who is connected in WAL mode holds a lock that stands against this one.
        if own_database(descriptor) and not (beside(source, WAL) in made and _has_content(beside(source, WAL))):
            for path in made:
                with suppress(FileNotFoundError):
                    os.unlink(path)
    finally:
        os.close(descriptor)


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
