# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real writers of SQLite databases, in processes of their own, for the integration tests."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import traceback
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, List, Tuple

from _engine.databases.base import DumpOptions
from _engine.databases.sqlite.engine import SqliteEngine
from _engine.model import (
    Artefact,
    Compression,
    Database,
    Encryption,
    EngineName,
    FingerprintKind,
    Manifest,
)
from _engine.timespan import parse_time

#: Commits numbers 1, 2, 3 … each with its twin in another table, until it is killed. Says so once it has begun.
WRITER = """
import sqlite3, sys, time
path, mode = sys.argv[1:]
connection = sqlite3.connect(path, isolation_level=None, timeout=60)
connection.execute("PRAGMA journal_mode = " + mode)
connection.execute("PRAGMA synchronous = OFF")
connection.execute("CREATE TABLE IF NOT EXISTS numbers (n INTEGER PRIMARY KEY, filler)")
connection.execute("CREATE TABLE IF NOT EXISTS twins (n INTEGER PRIMARY KEY)")
(n,) = connection.execute("SELECT coalesce(max(n), 0) FROM numbers").fetchone()
while True:
    n += 1
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO numbers VALUES (?, ?)", (n, "x" * (n * 37 % 900)))
    connection.execute("INSERT INTO twins VALUES (?)", (n,))
    connection.execute("COMMIT")
    if n == 50:
        print("writing", flush=True)
    # Else the database grows so fast that reading the backups takes minutes.
    time.sleep(0.0005)
"""


def engine_for(path: Path) -> SqliteEngine:
    return SqliteEngine(Database(EngineName.SQLITE, str(path)))


def options(lock_timeout: float = 10.0, kind: FingerprintKind = FingerprintKind.COUNTS) -> DumpOptions:
    return DumpOptions(kind, lock_timeout=lock_timeout)


def manifest_of(path: str = "/srv/shop.db", size: int = 4096, opaque: bool = False, **properties: Any) -> Manifest:
    moment = parse_time("2026-03-01T12:00:00Z", "time")
    artefact = Artefact("shop.db", size, "0" * 64, size, Compression.NONE, Encryption.NONE)
    return Manifest(
        id="shop-20260301T120000Z-h3k7",
        host="db1",
        engine="sqlite",
        database=path,
        started=moment,
        finished=moment,
        artefacts=(artefact,),
        opaque=opaque,
        properties=properties,
    )


@contextmanager
def writing(path: Path, mode: str) -> Iterator[subprocess.Popen]:
    """A process that commits all the time; it is killed at the end, and says nothing of errors but to fail."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path), mode], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        yield process
        assert process.poll() is None, "the writer failed"
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@contextmanager
def holding(path: Path, *statements: str) -> Iterator[subprocess.Popen]:
    """A process that has executed statements and then keeps its connection open."""
    script = (
        "import sqlite3, sys\nconnection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "for statement in sys.argv[2:]:\n    connection.execute(statement).fetchall()\n"
        "print('ready', flush=True)\nsys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path), *statements], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()


def in_child(work: Callable[[], None]) -> int:
    """Run something in a child process: 0 when it returned, 1 when it failed, minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def crash_after(path: Path, *statements: str) -> None:
    """Leave a database as a crash does: execute statements, then die without closing anything."""

    def work() -> None:
        connection = sqlite3.connect(str(path), isolation_level=None)
        for statement in statements:
            connection.execute(statement).fetchall()
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(work) == -signal.SIGKILL


def as_nobody(work: Callable[[], None]) -> None:
    """Run something as an account without rights; it must succeed."""

    def drop() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        work()

    assert in_child(drop) == 0


def rows(path: Path, sql: str) -> List[Tuple[Any, ...]]:
    """What a query returns on a file that must be sound."""
    with closing(sqlite3.connect(str(path))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return connection.execute(sql).fetchall()


def listing(directory: Path) -> List[str]:
    return sorted(os.listdir(directory))
