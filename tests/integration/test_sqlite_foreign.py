# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SQLite files that their applications read and the SQLite of this host does not: backed up, said, and brought back."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from _engine.model import FingerprintKind, Level, Outcome
from sqlite_processes import engine_for, manifest_of, options
from world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world")


def write(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.create_function("twice", 1, lambda value: value * 2, deterministic=True)
        for statement in ("CREATE TABLE t (abcd, v)", "INSERT INTO t VALUES (NULL, 1), (2, 2), (3, 3)", *statements):
            connection.execute(statement)


SCHEMA = "PRAGMA writable_schema = ON"
CASES = {
    "newer view": (
        SCHEMA,
        "INSERT INTO sqlite_master VALUES ('view', 'v', 'v', 0, 'CREATE VIEW v AS SELECT string_agg(v, 1 ORDER BY v)')",
    ),
    "newer table": (SCHEMA, "UPDATE sqlite_master SET sql = sql || ' FUTURISTIC'"),
    "null": (SCHEMA, "UPDATE sqlite_master SET sql = 'CREATE TABLE t (abcd NOT NULL, v)'"),
    "function": ("CREATE TABLE f (a, b AS (twice(a)))", "CREATE INDEX i ON f (twice(a))", "INSERT INTO f VALUES (1)"),
    "index": (
        "CREATE INDEX i ON t (v) WHERE v < 2",
        SCHEMA,
        "UPDATE sqlite_master SET sql = 'CREATE INDEX i ON t (v)' WHERE name = 'i'",
    ),
    "odd column": (),
    "odd table": ("CREATE TABLE tables (a)",),
}
#: Where this host cannot say that a restored copy is good, and what it cannot read of it.
UNKNOWN = {
    "newer view": "does not understand all of the schema",
    "newer table": "no fingerprint|newer SQLite",
    "function": "only the application knows",
    "index": "REINDEX",
    "odd table": "no fingerprint|not UTF-8",
}


@pytest.mark.parametrize("kind", [FingerprintKind.COUNTS, FingerprintKind.DIGEST])
@pytest.mark.parametrize("case", CASES)
def test_what_its_application_reads_is_backed_up_and_comes_back(world: World, case: str, kind: FingerprintKind) -> None:
    write(world.path, *CASES[case])
    if case.startswith("odd"):
        name = b"abcd" if case == "odd column" else b"tables"
        world.path.write_bytes(world.path.read_bytes().replace(name, b"a\xff\xfe" + name[3:]))
    content = world.path.read_bytes()
    result = world.backup(fingerprint=kind)
    assert result.changed
    if case in ("newer view", "newer table", "odd table"):
        assert result.warnings, "what was not counted or understood is said"
    (check,) = world.verify(level=Level.RESTORE).checks
    expected = Outcome.UNVERIFIABLE if case in UNKNOWN else Outcome.PASSED
    assert check.outcome is expected, check.detail
    assert any(part in check.detail for part in UNKNOWN.get(case, "").split("|")), check.detail
    world.path.unlink()
    assert bool(world.restore().unverified) == (case in UNKNOWN)
    assert world.path.read_bytes()[100:] == content[100:]


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_a_restore_that_goes_on_rebuilds_the_indexes_that_do_not_fit(world: World, mode: str) -> None:
    write(world.path, "CREATE INDEX u ON t (abcd, v) WHERE v < 2", *CASES["index"])
    write_more = "UPDATE sqlite_master SET sql = 'CREATE UNIQUE INDEX u ON t (abcd)' WHERE name = 'u'"
    with closing(sqlite3.connect(world.path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO t VALUES (2, 9)")
        for statement in (SCHEMA, write_more, f"PRAGMA journal_mode = {mode}"):
            connection.execute(statement)
    world.backup()
    world.path.unlink()
    result = world.restore(tolerant=True)
    assert "Index i did not fit its table, and was rebuilt." in result.warnings
    # Two rows are the same to the other one.
    assert result.unverified and "index u" in result.unverified and "index i" not in result.unverified
    assert [path.name for path in world.path.parent.iterdir()] == ["shop.db"]
    with closing(sqlite3.connect(world.path)) as connection:
        assert connection.execute("SELECT count(*) FROM t INDEXED BY i WHERE v > 0").fetchone() == (4,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == (mode.lower(),)
    assert world.backup().changed


@pytest.mark.parametrize("length", [487, 488, 500, 504])
def test_a_path_as_long_as_sqlite_opens_is_backed_up_and_restored(tmp_path: Path, length: int) -> None:
    directory = Path(tempfile.mkdtemp(prefix="sqlite-long-", dir="/tmp"))
    try:
        while len(str(directory)) < 300:
            directory = directory / ("d" * 100)
        directory.mkdir(parents=True)
        path = directory / ("n" * (length - len(str(directory)) - 1))
        write(path)
        with engine_for(path).snapshot(options()) as snapshot:
            assert snapshot.fingerprint()
            copy = shutil.copy(snapshot.dump, tmp_path / "copy.db")
        with engine_for(path).stage(manifest_of(), None, 1) as staging:
            shutil.copyfile(copy, staging.load)
            staging.check_integrity()
            staging.promote(replace=True, keep_replaced=False)
        assert os.listdir(directory) == [path.name]
    finally:
        shutil.rmtree(f"/tmp/{directory.parts[2]}")


LATIN = """
import sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from _engine.databases import open_engine
from _engine.model import Database, EngineName
from _engine.restore import check_outside
from sqlite_processes import options
database = Database(EngineName.SQLITE, sys.argv[3].encode("latin-1").decode("utf-8"))
check_outside(database, ())
engine = open_engine(database)
assert engine.inspect().exists
with engine.snapshot(options()) as snapshot:
    print(ascii(snapshot.fingerprint().tables["t"].rows), sys.getfilesystemencoding())
"""


def test_names_of_files_mean_the_same_in_every_locale(tmp_path: Path) -> None:
    subprocess.run(["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(tmp_path / "de_DE.ISO-8859-1")], check=False)
    path = tmp_path / "Größe 你好 …"
    write(path)
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", LATIN, str(root / "plugins" / "module_utils"), str(Path(__file__).parent)]
    environment = {**os.environ, "LOCPATH": str(tmp_path), "LC_ALL": "de_DE.ISO-8859-1", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [*command, os.fsencode(path)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if b"utf-8" in done.stdout:
        pytest.skip("there is no such locale here")
    assert done.stdout == b"3 iso8859-1\n", done.stdout
