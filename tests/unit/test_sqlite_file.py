# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a file is that should be an SQLite database."""

from __future__ import annotations

import gzip
import os
import random
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _engine.databases import open_engine
from _engine.databases.base import DumpOptions
from _engine.databases.sqlite.copy import copy_plain
from _engine.databases.sqlite.engine import SqliteEngine
from _engine.databases.sqlite.file import Kind, classify, kind_of, parse_header, pinned, read_start, resolve
from _engine.databases.sqlite.opaque import copy_opaque
from _engine.errors import BadInput, Damaged, EngineError, NotADatabase, NotFound
from _engine.model import Database, EngineName, FingerprintKind

#: The same at every run: its parameters name a test.
NOISE = bytes(random.Random(2).choices(range(256), k=5000))
OPTIONS = DumpOptions(FingerprintKind.COUNTS)


def engine_for(path: Path) -> SqliteEngine:
    return SqliteEngine(Database(EngineName.SQLITE, str(path)))


def make_database(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(str(path))) as connection:
        for statement in statements or ("CREATE TABLE t (a)",):
            connection.execute(statement)
        connection.commit()
    return path


def snapshot_of(directory: Path):
    return {
        path.name: (path.lstat().st_mtime_ns, path.lstat().st_ino, path.read_bytes() if path.is_file() else None)
        for path in directory.iterdir()
    }


def test_a_database_is_recognised_by_its_header(tmp_path: Path) -> None:
    assert classify(make_database(tmp_path / "shop.db")) is Kind.PLAIN


def test_a_missing_database_is_told_from_an_unusable_one(tmp_path: Path) -> None:
    engine = engine_for(tmp_path / "shop.db")
    assert engine.inspect().exists is False
    with pytest.raises(NotFound, match=r"no database .*shop\.db"):
        engine.check_dump(OPTIONS)


@pytest.mark.parametrize("name", ["shop.db", "./shop.db", "", "~/shop.db"])
def test_a_relative_path_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="not an absolute path"):
        open_engine(Database(EngineName.SQLITE, name))


@pytest.mark.parametrize("name", ["/srv/shop.db\0", "/srv/"])
def test_what_cannot_be_a_file_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="cannot be the path of a file"):
        resolve(name)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"Dear customer,\nhere is your invoice.\n" * 100, "looks like text"),
        ("Grüße, 你好\n".encode() * 600, "looks like text"),
        (gzip.compress(NOISE, mtime=0), "looks like a gzip file"),
        (b"\x28\xb5\x2f\xfd" + NOISE[:4092], "looks like a zstd file"),
        (b"PGDMP" + NOISE[:4091], "looks like a PostgreSQL dump"),
        (b"Salted__" + NOISE[:4088], "looks like a file encrypted by openssl"),
        (bytes(8192), "begins with zeros"),
        (NOISE[:4097], "begins like no SQLite file"),
        (bytes(random.Random(1).choices(range(64), k=4096)), "begins like no SQLite file"),
        (b"\xff\xfe" + bytes(range(256)) * 3, "begins like no SQLite file"),
    ],
)
def test_another_file_is_named_for_what_it_looks_like(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "shop.db"
    path.write_bytes(content)
    for attempt in (engine_for(path).inspect, lambda: engine_for(path).check_dump(OPTIONS)):
        with pytest.raises(NotADatabase, match=says):
            attempt()
    with pytest.raises(NotADatabase, match=says), engine_for(path).snapshot(OPTIONS):
        pass
    assert os.listdir(tmp_path) == ["shop.db"]


def test_a_directory_a_pipe_and_a_device_are_no_databases(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, says in ((tmp_path, "a directory"), (tmp_path / "pipe", "a pipe"), (Path("/dev/null"), "a device")):
        with pytest.raises(NotADatabase, match=says):
            engine_for(path).inspect()


def test_a_link_leads_to_its_database(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    make_database(tmp_path / "data" / "shop.db")
    (tmp_path / "link.db").symlink_to("data/shop.db")
    with engine_for(tmp_path / "link.db").snapshot(OPTIONS) as snapshot:
        assert snapshot.dump.parent == tmp_path / "data"
    (tmp_path / "loop.db").symlink_to("loop.db")
    with pytest.raises(EngineError, match="loop"):
        engine_for(tmp_path / "loop.db").inspect()


@given(
    st.integers(min_value=1, max_value=64),
    st.integers(min_value=0),
    st.sampled_from([0, 32, 100]),
    st.sampled_from([b"", b"\x05", b"\x0d"]),
)
def test_random_pages_are_taken_for_an_encrypted_database(pages: int, seed: int, clear: int, root: bytes) -> None:
    start = random.Random(seed).getrandbits(8 * 4096).to_bytes(4096, "big")
    if clear:  # SQLCipher with a plaintext header, and in 100 an encrypted byte that looks like the root of a table
        header = b"SQLite format 3\0\x10\x00" + bytes(82)
        rest = header[:clear] + start[clear:]
        start = rest[:100] + root + b"\xa7" * (clear == 100) + rest[100 + len(root) + (clear == 100) :]
    assert kind_of(start[: pages * 512], pages * 512, Path("x")) is Kind.OPAQUE


@given(st.binary(max_size=4096), st.integers(min_value=1, max_value=100))
def test_any_first_bytes_get_an_answer(start: bytes, pages: int) -> None:
    try:
        assert kind_of(start, pages * 512, Path("x")) in Kind
    except NotADatabase as error:
        assert str(error).endswith(".")


def test_looking_at_a_database_changes_no_byte_and_leaves_no_file(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db", "PRAGMA journal_mode = WAL", "CREATE TABLE t (a)")
    before = snapshot_of(tmp_path)
    for _number in range(2):
        inspection = engine_for(path).inspect()
        engine_for(path).check_dump(OPTIONS)
    assert snapshot_of(tmp_path) == before
    assert inspection.bytes == path.stat().st_size
    assert inspection.server_version == sqlite3.sqlite_version


def test_the_size_counts_the_write_ahead_log(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db", "PRAGMA journal_mode = WAL")
    with closing(sqlite3.connect(str(path))) as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.commit()
        log = (tmp_path / "shop.db-wal").stat().st_size
        assert log > 0
        assert engine_for(path).inspect().bytes == path.stat().st_size + log


def test_a_file_is_not_opened_while_a_connection_of_this_process_has_locks_on_it(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db")
    with pinned(path), closing(sqlite3.connect(str(path), isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        assert read_start(path).startswith(b"SQLite format 3")
        assert classify(path) is Kind.PLAIN
        script = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
        other = subprocess.run([sys.executable, "-c", script, str(path)], stderr=subprocess.PIPE, check=False)
        assert b"database is locked" in other.stderr


def test_the_header_is_read_as_sqlite_wrote_it(tmp_path: Path) -> None:
    path = make_database(
        tmp_path / "shop.db",
        "PRAGMA page_size = 65536",
        "PRAGMA encoding = 'UTF-16le'",
        "PRAGMA user_version = -7",
        "PRAGMA application_id = 252006674",
        "CREATE TABLE t (a)",
    )
    header = parse_header(read_start(path), path)
    assert (header.page_size, header.encoding, header.user_version) == (65536, "UTF-16le", -7)
    assert (header.application_id, header.wal) == (252006674, False)


@pytest.mark.parametrize("start", [b"", b"SQLite format 3\0" + bytes(84), b"SQLite format 3\0\x10\x00" + b"\xff" * 82])
def test_an_impossible_header_is_damage(start: bytes) -> None:
    with pytest.raises(Damaged, match="header"):
        parse_header(start, Path("/srv/shop.db"))


def test_globals_and_excluded_tables_mean_nothing_for_a_file(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db")
    for options in (
        DumpOptions(FingerprintKind.NONE, globals=True),
        DumpOptions(FingerprintKind.NONE, exclude_tables=("t",)),
    ):
        with pytest.raises(BadInput, match="globals|exclude_tables"):
            engine_for(path).check_dump(options)


def test_the_manifest_learns_the_permission_bits(tmp_path: Path) -> None:
    path = make_database(tmp_path / "shop.db", "PRAGMA journal_mode = WAL", "PRAGMA user_version = 3")
    path.chmod(0o640)
    with engine_for(path).snapshot(OPTIONS) as snapshot:
        assert stat.S_IMODE(snapshot.dump.stat().st_mode) == 0o600
        assert snapshot.facts.properties == {
            "mode": "0640",
            "page_size": 4096,
            "encoding": "UTF-8",
            "journal_mode": "wal",
            "user_version": 3,
            "application_id": 0,
        }
        assert snapshot.facts.tool_versions == {"sqlite": sqlite3.sqlite_version}
        assert snapshot.facts.opaque is False
        assert snapshot.globals is None


@pytest.mark.parametrize("kind", [Kind.PLAIN, Kind.OPAQUE])
def test_an_empty_copy_is_not_made_empty_which_would_write_all_of_it_to_the_disk(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emptied = []
    for name in ("truncate", "ftruncate"):
        monkeypatch.setattr(os, name, lambda file, size: emptied.append((file, size)))
    source = make_database(tmp_path / "shop.db", "CREATE TABLE items (name)", "INSERT INTO items VALUES ('tea')")
    with open(tmp_path / "copy", "wb") as copy:
        if kind is Kind.PLAIN:
            copy_plain(source, tmp_path / "copy", 5.0)
        else:
            copy_opaque(source, copy.fileno(), 5.0)

    assert emptied == []
    assert (tmp_path / "copy").read_bytes()[100:] == source.read_bytes()[100:]
