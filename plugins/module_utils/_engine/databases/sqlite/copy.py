# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A consistent copy of a plain database, by SQLite itself, while others go on writing it.

The connection that is copied holds a read transaction, so every step of the copy reads the same snapshot: SQLite's
backup starts again only when its source opens a new read transaction and finds it changed (``sqlite3_backup_step``,
sqlite.org/c3ref/backup_finish.html). In WAL mode writers go on meanwhile; in the rollback modes they wait to commit.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Iterator, List

from ...errors import Locked
from .connect import CANNOT_OPEN, READ_ONLY, connect, is_locked, raise_sqlite_error, still_locked
from .file import SHM, WAL, Header, beside, parse_header, pinned, raise_os_error, read_start
from .lock import Deadline, own_database

#: 4 MiB with the usual page size: often enough for signals, and not a measurable cost.
_PAGES_PER_STEP = 1024


def copy_plain(source: Path, copy: Path, lock_timeout: float) -> Header:
    """Copy a database into an existing empty file and return the copy's header.

    Raises Locked when no read transaction could begin in time, Damaged, NotADatabase, PermissionDenied and NoSpace.
    """
    deadline = Deadline(lock_timeout)
    before = _sidecars(source)
    try:
        with pinned(source), _reading(source, deadline) as connection:
            _copy(connection, copy)
    except sqlite3.Error as error:
        raise_sqlite_error(error, source, f"Cannot back up {source}")
    except OSError as error:
        raise_os_error(error, f"Cannot back up {source}")
    finally:
        _remove_own_sidecars(source, before)
    return parse_header(read_start(copy), source)


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


def _copy(connection: sqlite3.Connection, copy: Path) -> None:
    left: List[int] = []

    def watch(status: int, remaining: int, total: int) -> None:
        if left and remaining >= left[-1] > 0:
            raise Locked(
                f"SQLite began the copy again at {remaining} of {total} pages (status {status}), which it must not do "
                "inside a transaction. Run the backup again."
            )
        left[:] = [remaining]

    # The copy is private and worthless until it is whole: no locks, no journal, no flushing.
    with closing(connect(copy, "mode=rw&nolock=1")) as target:
        target.execute("PRAGMA journal_mode = OFF")
        target.execute("PRAGMA synchronous = OFF")
        connection.backup(target, pages=_PAGES_PER_STEP, progress=watch)


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
