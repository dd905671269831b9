# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copying a table out to count and hash its rows, in constant memory of this process.

PostgreSQL's client library hands over whole rows, which can have 1 GB, and needs twice that for one. So where rows can
be long, psql takes them, and this process hashes what psql writes, piece by piece. psql needs the memory that pg_dump
needs for the same row. It reads the snapshot that the calling session has exported.
"""

from __future__ import annotations

import hashlib
import io
import os
import signal
from typing import IO, Any, Optional, Protocol, Tuple

from ...command import Command
from ...errors import Contended, EngineError, ToolFailed, Unreachable
from ...process import Process
from . import settings, tools
from .connection import Access, Connection
from .pulse import Pulse

#: Settings that change how values are written as text (PostgreSQL manual, "Client Connection Defaults").
TEXT_FORM = (
    "SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; SET extra_float_digits = 1;"
    " SET bytea_output = 'hex'; SET lc_monetary = 'C'; SET xmlbinary = 'base64'"
)
#: Of how many bytes at once a copy is counted and hashed.
_BLOCK = 1 << 20
#: A line break within a value is escaped (PostgreSQL manual, COPY, "Text Format").
_END = b"\n"
#: How long the other session waits for a table that this one has locked: who wants more of it stands in line before.
_IN_LINE = "3s"
_NO_MEMORY = b"out of memory"
#: The SQLSTATE of a lock that was not to be had in time, and psql's status where its session broke.
_LOCKED, _NO_SESSION = b"55P03", 2


class NotCopied(EngineError):
    """A table could not be copied: its values cannot be written as text, or not in the memory that there is."""


class Copier:
    """Copies tables of one database. ``snapshot`` is what the calling session has exported, where that matters."""

    def __init__(self, access: Access, database: str, snapshot: Optional[str] = None) -> None:
        self._access, self._database, self._snapshot = access, database, snapshot

    def digest(self, connection: Connection, copy: str, long: bool) -> Tuple[int, int]:
        """The rows of a COPY … TO STDOUT and the sum of their hashes; ``long`` says that a row may have any length.

        Raises NotCopied, and what ``Connection.copy_out`` raises.
        """
        hashed = HashedRows()
        self._copy(connection, copy, long, hashed)
        return hashed.rows, hashed.sum

    def count(self, connection: Connection, copy: str, long: bool) -> int:
        """The rows alone."""
        counted = _CountedRows()
        with io.BufferedWriter(counted, _BLOCK) as buffered:
            self._copy(connection, copy, long, buffered)
        return counted.rows

    def _copy(self, connection: Connection, copy: str, long: bool, sink: _Sink) -> None:
        if not long:
            connection.copy_out(copy, sink)
            return
        listener = _Listener()
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb", buffering=0) as output:
            try:
                process = Process(self._psql(connection, copy), stdout=writing, heard=listener.hear)
            finally:
                os.close(writing)
            listener.attend(process)
            # The calling session waits in its transaction as long as this takes.
            with connection.beside(process.interrupt), Pulse(connection):
                failure = _taken(process, output, sink)
        if failure is not None:
            raise listener.explained(failure, connection.label)

    def _psql(self, connection: Connection, copy: str) -> Command:
        """psql that runs one COPY in a session like the calling one's."""
        tool = tools.newest("psql")
        begin = ["BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"]
        begin += [f"SET TRANSACTION SNAPSHOT '{self._snapshot}'"] if self._snapshot else []
        begin += [f"SET {name} = 0" for name in settings.limits_since(connection.version)]
        begin += [f"SET lock_timeout = '{_IN_LINE}'", f"SET client_encoding = '{connection.encoding}'", TEXT_FORM]
        session = {**settings.for_own(True), **connection.further, **connection.restriction()}
        arguments = [tool.path, "--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1"]
        # With the SQLSTATE of an error.
        arguments.append("--set=VERBOSITY=verbose")
        arguments.append(f"--dbname={self._access.connection_string(self._database, session)}")
        # Names as the bytes that they have in the encoding of this session.
        statements = [os.fsdecode(one.encode("utf-8", "surrogateescape")) for one in (*begin, copy)]
        return self._access.command("psql", (*arguments, *(f"--command={one}" for one in statements)))


class _Listener:
    """Hears in what psql says why it fails; the words themselves can hold rows."""

    def __init__(self) -> None:
        self._process: Optional[Process] = None
        self._last = b""
        self._exhausted = self._in_line = False

    def attend(self, process: Process) -> None:
        """Be able to end psql. Without memory for a row, it tries for ever, and says so each time."""
        self._process = process
        if self._exhausted:
            process.interrupt()

    def hear(self, said: bytes) -> None:
        said, self._last = self._last + said, said[-len(_NO_MEMORY) :]
        self._in_line = self._in_line or _LOCKED in said
        if _NO_MEMORY in said and not self._exhausted:
            self._exhausted = True
            if self._process is not None:
                self._process.interrupt()

    def explained(self, failure: ToolFailed, label: str) -> EngineError:
        """What psql's failure means."""
        if self._in_line:
            return Contended(
                f"{label}: another session waits to change a table that is being counted, and would be kept waiting. "
                "Run this again, or at another time."
            )
        lost = failure.status == -signal.SIGTERM and not self._exhausted
        kind = Unreachable if lost or failure.status == _NO_SESSION else NotCopied
        return kind(f"{label}: psql ended with status {failure.status}. See the server's log.")


def _taken(process: Process, output: IO[bytes], sink: _Sink) -> Optional[ToolFailed]:
    """Pass on what a program writes, to its end; how it failed, if it did."""
    try:
        for block in iter(lambda: output.read(_BLOCK), b""):
            sink.write(block)
        return process.failure()
    except BaseException:
        process.stop()
        raise


class _Sink(Protocol):
    def write(self, block: bytes) -> Any: ...


class HashedRows:
    """Where the text of a COPY arrives, in pieces of any length, to be counted and hashed row by row."""

    def __init__(self) -> None:
        self.rows, self.sum = 0, 0
        self._row = hashlib.sha256()

    def write(self, block: bytes) -> int:
        *whole, begun = block.split(_END)
        for end in whole:
            self._row.update(end + _END)
            self.rows += 1
            self.sum += int.from_bytes(self._row.digest()[:8], "big")
            self._row = hashlib.sha256()
        self._row.update(begun)
        return len(block)


class _CountedRows(io.RawIOBase):
    """Where the text of a COPY arrives in large blocks, only to be counted."""

    rows = 0

    def writable(self) -> bool:
        return True

    def write(self, block: Any) -> int:
        self.rows += bytes(block).count(_END)
        return len(block)
