# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A write-ahead log read without SQLite says what SQLite says."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import List, Tuple

import pytest

from _engine.databases.sqlite.wal import apply_log, read_index, read_log
from _engine.errors import Damaged


def logged_database(directory: Path, page_size: int = 1024, commits: int = 12) -> Path:
    """A database whose commits are all in its log: grown, shrunk and written over."""
    path = directory / "shop.db"
    connection = sqlite3.connect(str(path), isolation_level=None)
    connection.execute(f"PRAGMA page_size = {page_size}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, text)")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for number in range(commits):
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO t (text) VALUES (?)", ((f"{number} " * 100,) for _number in range(8)))
        if number % 5 == 4:
            connection.execute("DELETE FROM t WHERE n % 3 = 0")
        connection.execute("COMMIT")
    connection.execute("VACUUM")
    (directory / "crashed").mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(str(path) + suffix, directory / "crashed" / ("shop.db" + suffix))
    shutil.copy(str(path) + "-shm", directory / "shm")
    connection.close()
    return directory / "crashed" / "shop.db"


def rows(path: Path) -> List[Tuple[int, str]]:
    with closing(sqlite3.connect(str(path))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return connection.execute("SELECT n, text FROM t ORDER BY n").fetchall()


def brought_home(path: Path, into: Path) -> Path:
    """A copy of the file alone, with the log's commits written into it by us."""
    shutil.copy(path, into)
    wal, target = os.open(f"{path}-wal", os.O_RDONLY), os.open(into, os.O_RDWR)
    try:
        for _number in range(2):
            apply_log(wal, read_log(wal), target)
    finally:
        os.close(wal)
        os.close(target)
    return into


def recovered(path: Path, into: Path) -> Path:
    """A copy of the file and its log, recovered by SQLite."""
    for suffix in ("", "-wal"):
        shutil.copy(str(path) + suffix, str(into) + suffix)
    with closing(sqlite3.connect(str(into))) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return into


@pytest.mark.parametrize("page_size", [512, 1024, 4096, 65536])
def test_a_log_brought_home_gives_the_file_that_sqlite_makes(tmp_path: Path, page_size: int) -> None:
    path = logged_database(tmp_path, page_size)
    ours, theirs = brought_home(path, tmp_path / "ours.db"), recovered(path, tmp_path / "theirs.db")
    assert ours.read_bytes() == theirs.read_bytes()
    assert len(rows(ours)) > 50


def test_a_log_that_makes_the_database_smaller_cuts_the_file(tmp_path: Path) -> None:
    path = logged_database(tmp_path)
    grown = recovered(path, tmp_path / "grown.db")
    connection = sqlite3.connect(str(grown), isolation_level=None)
    connection.execute("UPDATE t SET text = text || 'longer' ")
    connection.execute("DELETE FROM t WHERE n > 4")
    connection.execute("VACUUM")
    ours, theirs = brought_home(grown, tmp_path / "ours.db"), recovered(grown, tmp_path / "theirs.db")
    connection.close()
    assert ours.stat().st_size < path.stat().st_size + Path(f"{path}-wal").stat().st_size
    assert ours.read_bytes() == theirs.read_bytes()
    assert len(rows(ours)) == 3


def test_a_log_cut_anywhere_or_with_a_flipped_bit_gives_what_sqlite_gives(tmp_path: Path) -> None:
    path = logged_database(tmp_path, 512, commits=4)
    log = Path(f"{path}-wal")
    whole = log.read_bytes()
    dice = random.Random(4)
    seen = set()
    for case in range(60):
        changed = bytearray(whole)
        if case % 2:
            del changed[dice.randrange(len(changed)) :]
        else:
            changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
        log.write_bytes(bytes(changed))
        ours, theirs = brought_home(path, tmp_path / "ours.db"), recovered(path, tmp_path / "theirs.db")
        assert ours.read_bytes() == theirs.read_bytes()
        seen.add(ours.read_bytes())
    assert len(seen) > 3


def test_the_index_names_the_last_commit(tmp_path: Path) -> None:
    path = logged_database(tmp_path)
    wal, shm = os.open(f"{path}-wal", os.O_RDONLY), os.open(tmp_path / "shm", os.O_RDONLY)
    try:
        index, log = read_index(shm), read_log(wal)
        assert index is not None
        assert (index.frames, index.page_size) == (log.frames, log.page_size)
        assert index.salt == os.pread(wal, 8, 16)
        assert read_log(wal, limit=log.frames - 1).frames < log.frames
    finally:
        os.close(wal)
        os.close(shm)


@pytest.mark.parametrize("position", [0, 16, 41, 70])
def test_a_torn_index_is_not_believed(tmp_path: Path, position: int) -> None:
    logged_database(tmp_path)
    torn = bytearray((tmp_path / "shm").read_bytes())
    torn[position] ^= 1
    (tmp_path / "shm").write_bytes(bytes(torn))
    shm = os.open(tmp_path / "shm", os.O_RDONLY)
    try:
        assert read_index(shm) is None
    finally:
        os.close(shm)


def test_a_first_frame_with_a_wrong_checksum_is_told_from_an_empty_log(tmp_path: Path) -> None:
    path = logged_database(tmp_path)
    log = bytearray(Path(f"{path}-wal").read_bytes())
    log[32 + 24 + 5] ^= 1
    for content, unreadable in ((bytes(log), True), (bytes(log[:32]), False), (b"", False), (b"x" * 5000, False)):
        Path(f"{path}-wal").write_bytes(content)
        wal = os.open(f"{path}-wal", os.O_RDONLY)
        try:
            read = read_log(wal)
        finally:
            os.close(wal)
        assert (read.frames, read.unreadable) == (0, unreadable)


def test_a_log_of_another_version_is_refused(tmp_path: Path) -> None:
    header = struct.pack(">IIIIII", 0x377F0682, 3008000, 1024, 0, 1, 2)
    first = second = 0
    words = struct.unpack("<6I", header)
    for even, odd in zip(words[::2], words[1::2]):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    (tmp_path / "wal").write_bytes(header + struct.pack(">II", first, second))
    wal = os.open(tmp_path / "wal", os.O_RDONLY)
    try:
        with pytest.raises(Damaged, match="version 3008000"):
            read_log(wal)
    finally:
        os.close(wal)
