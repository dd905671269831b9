# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Connections to SQLite databases, and what SQLite's errors mean to us.

Sources: "Uniform Resource Identifiers" (sqlite.org/uri.html) for the parameters of a connection; "Result and Error
Codes" (sqlite.org/rescode.html). Errors are told apart by SQLite's fixed texts, because Python has their codes only
since 3.11.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Iterator, NoReturn, Optional
from urllib.parse import quote

from ...errors import Damaged, EngineError, Locked, NoSpace, NotADatabase, PermissionDenied
from .lock import Deadline

_LOCKED = ("locked", "locking protocol")
READ_ONLY = "readonly database"
CANNOT_OPEN = "unable to open database file"
_DAMAGED = ("malformed", "not a database")

#: Between two tries of a locked database Python runs, so that a signal ends the wait.
_TRY = 0.2


def uri(path: Path, parameters: str) -> str:
    """The URI of a database file; every byte that has a meaning in a URI is quoted."""
    return f"file://{quote(os.fsencode(path))}?{parameters}"


def connect(path: Path, parameters: str) -> sqlite3.Connection:
    """Open a database in autocommit mode. ``parameters`` are those of the URI, such as ``mode=ro``."""
    return sqlite3.connect(uri(path, parameters), uri=True, isolation_level=None, timeout=_TRY, check_same_thread=False)


class Cancellation:
    """Ends the reading of a file from another thread: what runs, or is about to, raises sqlite3.OperationalError."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._cancelled = False
        self._running: Optional[sqlite3.Connection] = None

    def cancel(self) -> None:
        with self._guard:
            self._cancelled = True
            if self._running is not None:
                self._running.interrupt()

    @contextmanager
    def watching(self, connection: sqlite3.Connection) -> Iterator[None]:
        with self._guard:
            if self._cancelled:
                raise sqlite3.OperationalError("interrupted")
            self._running = connection
        try:
            yield
        finally:
            with self._guard:
                self._running = None


@contextmanager
def private(path: Path, cancellation: Optional[Cancellation] = None) -> Iterator[sqlite3.Connection]:
    """Read a file that nobody else uses: without locks, and without a ``-wal`` or ``-shm`` beside it."""
    with closing(connect(path, "mode=ro&immutable=1")) as connection:
        with (cancellation or Cancellation()).watching(connection):
            yield connection


def is_locked(error: sqlite3.Error) -> bool:
    """Whether another connection stands in the way, so that a later try can succeed."""
    return isinstance(error, sqlite3.OperationalError) and any(word in str(error) for word in _LOCKED)


def is_damage(error: sqlite3.Error) -> bool:
    """Whether SQLite found the bytes of the file wrong."""
    return any(word in str(error) for word in _DAMAGED) and not is_schema_error(error)


def is_schema_error(error: sqlite3.Error) -> bool:
    """Whether SQLite cannot make sense of a definition: it may be damaged, or need a newer SQLite."""
    return str(error).startswith(("malformed database schema", "unsupported file format"))


def still_locked(path: Path, deadline: Deadline, users: str = "") -> Locked:
    """The error for a database that stayed locked."""
    return Locked(
        f"{path} stayed locked for {deadline.seconds:g} seconds{users}. "
        "Wait until its application has ended the transaction, or raise lock_timeout."
    )


def raise_sqlite_error(error: sqlite3.Error, path: Path, attempt: str) -> NoReturn:
    """Turn an error of SQLite on a live database into one of ours; ``attempt`` is what could not be done."""
    text = str(error)
    if is_schema_error(error):
        raise Damaged(
            f"{attempt}: SQLite {sqlite3.sqlite_version} does not understand the schema of {path} ({text}). "
            "It is damaged, or it needs a newer SQLite on this host."
        ) from error
    if "not a database" in text:
        raise NotADatabase(
            f"{attempt}: SQLite says of {path}: {text}. It is damaged or encrypted; restore it from a backup."
        ) from error
    if is_damage(error):
        raise Damaged(f"{attempt}: SQLite says of {path}: {text}. Restore it from an older backup.") from error
    if "disk is full" in text:
        raise NoSpace(f"{attempt}: the disk is full. Free some space, then run this again.") from error
    if READ_ONLY in text or CANNOT_OPEN in text:
        raise PermissionDenied(
            f"{attempt}: SQLite says of {path}: {text}. To read a database in WAL mode, or after a crash, SQLite must "
            "write beside it. Run this as the database's owner or as root."
        ) from error
    raise EngineError(
        f"{attempt}: SQLite says of {path}: {text}. Check the file system and the kernel's log."
    ) from error
