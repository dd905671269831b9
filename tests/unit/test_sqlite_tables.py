# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Is an SQLite file sound, and what is in its tables."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any, Iterable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from _engine.databases.sqlite.connect import Cancellation
from _engine.databases.sqlite.tables import count_tables, problems
from _engine.errors import Damaged, Unverifiable
from _engine.model import FingerprintKind, TableFingerprint

COUNTS, DIGEST = FingerprintKind.COUNTS, FingerprintKind.DIGEST

VALUES = st.one_of(
    st.none(),
    st.integers(min_value=-(2**63), max_value=2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(blacklist_categories=["Cs"]), max_size=8),
    st.binary(max_size=8),
)


def make(path: Path, script: str) -> Path:
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(str(path))) as connection:
        connection.executescript(script)
    return path


def digest_of(path: Path, rows: Iterable[Any]) -> str:
    make(path, "CREATE TABLE t (a, b)")
    with closing(sqlite3.connect(str(path))) as connection:
        connection.executemany("INSERT INTO t VALUES (?, ?)", list(rows))
        connection.commit()
    digest = count_tables(path, DIGEST).tables["t"].digest
    assert digest is not None
    return digest


def test_every_table_is_counted_under_its_true_name(tmp_path: Path) -> None:
    path = make(
        tmp_path / "shop.db",
        """
        CREATE TABLE "a""b" (x); INSERT INTO "a""b" VALUES (1);
        CREATE TABLE "with space" (x);
        CREATE TABLE "Größe 你好" (x); INSERT INTO "Größe 你好" VALUES (1), (2);
        CREATE TABLE "[odd]'; DROP TABLE x --" (x); INSERT INTO "[odd]'; DROP TABLE x --" VALUES (1);
        CREATE TABLE "select" (x INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO "select" VALUES (1), (2), (3);
        CREATE TABLE keyed (k TEXT PRIMARY KEY, v) WITHOUT ROWID; INSERT INTO keyed VALUES ('a', 1), ('b', 2);
        CREATE TABLE computed (a INT, b INT AS (a * 2), c INT AS (a * 3) STORED); INSERT INTO computed (a) VALUES (4);
        CREATE TABLE exact (a INT, b ANY) STRICT; INSERT INTO exact VALUES (1, '1');
        CREATE VIEW seen AS SELECT * FROM keyed;
        CREATE INDEX by_v ON keyed (v);
        CREATE VIRTUAL TABLE notes USING fts5(body); INSERT INTO notes VALUES ('hello world'), ('again');
        ANALYZE;
        """,
    )
    counted = {name: table.rows for name, table in count_tables(path, COUNTS).tables.items()}
    shadows = {name: counted.pop(name) for name in list(counted) if name.startswith("notes")}
    assert counted == {
        'a"b': 1,
        "with space": 0,
        "Größe 你好": 2,
        "[odd]'; DROP TABLE x --": 1,
        "select": 3,
        "keyed": 2,
        "computed": 1,
        "exact": 1,
    }
    assert "notes" not in shadows
    assert shadows["notes_content"] == 2
    assert set(count_tables(path, DIGEST).tables) == set(count_tables(path, COUNTS).tables)


def test_a_digest_sees_stored_columns_and_keyed_tables(tmp_path: Path) -> None:
    script = "CREATE TABLE c (a INT, b AS (a {0}) STORED); INSERT INTO c (a) VALUES (3);"
    keyed = "CREATE TABLE k (a PRIMARY KEY, b) WITHOUT ROWID; INSERT INTO k VALUES (1, {0});"
    digests = set()
    for change in ("+ 1", "+ 2"):
        path = make(tmp_path / "x.db", script.format(change) + keyed.format(change))
        tables = count_tables(path, DIGEST).tables
        digests.update((tables["c"].digest, tables["k"].digest))
    assert len(digests) == 4


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(VALUES, VALUES), max_size=6), st.randoms(use_true_random=False))
def test_a_digest_does_not_depend_on_the_order_of_rows(tmp_path: Path, rows: Any, dice: random.Random) -> None:
    shuffled = list(rows)
    dice.shuffle(shuffled)
    assert digest_of(tmp_path / "a.db", rows) == digest_of(tmp_path / "a.db", shuffled)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(VALUES, VALUES)
def test_a_digest_tells_any_two_values_apart(tmp_path: Path, one: Any, other: Any) -> None:
    same = type(one) is type(other) and repr(one) == repr(other)
    digests = {digest_of(tmp_path / "a.db", [(value, 0)]) for value in (one, other)}
    assert len(digests) == (1 if same else 2)


def test_a_digest_is_exact_about_types_and_borders(tmp_path: Path) -> None:
    contents = [
        [(1, None)],
        [("1", None)],
        [(1.0, None)],
        [(b"1", None)],
        [(None, 1)],
        [("", None)],
        [(b"", None)],
        [(0.0, None)],
        [(0, None)],
        [("ab", "c")],
        [("a", "bc")],
        [(1, None), (1, None)],
        [(1, None), (1, None), (1, None)],
        [(2, None), (1, None), (1, None)],
        [(2, None), (2, None), (2, None)],
        [],
        [("a\0b", None)],
        [("a", None)],
    ]
    digests = [digest_of(tmp_path / "a.db", rows) for rows in contents]
    assert len(set(digests)) == len(contents)


def test_text_that_is_not_utf8_is_digested_too(tmp_path: Path) -> None:
    digests = set()
    for byte in ("ff", "fe"):
        path = make(tmp_path / "a.db", f"CREATE TABLE t (a); INSERT INTO t VALUES (CAST(x'61{byte}' AS TEXT));")
        digests.add(count_tables(path, DIGEST).tables["t"].digest)
    assert len(digests) == 2


def test_a_digest_is_the_same_after_a_vacuum_and_on_another_page_size(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db", "CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'x'), (2.5, x'00ff'), (3, NULL);")
    before = count_tables(path, DIGEST)
    make_again = "DELETE FROM t WHERE a = 99; PRAGMA page_size = 8192; VACUUM;"
    with closing(sqlite3.connect(str(path))) as connection:
        connection.executescript(make_again)
    assert count_tables(path, DIGEST).differences(before) == []


def with_own_collation(path: Path) -> Path:
    with closing(sqlite3.connect(str(path))) as connection:
        connection.create_collation(
            "icu_root", lambda one, other: (one[::-1] > other[::-1]) - (one[::-1] < other[::-1])
        )
        connection.executescript(
            "CREATE TABLE t (a TEXT COLLATE icu_root, b); CREATE INDEX i ON t (a);"
            "CREATE TABLE w (a TEXT COLLATE icu_root PRIMARY KEY, b) WITHOUT ROWID;"
        )
        connection.executemany("INSERT INTO t VALUES (?, 1)", ((str(number),) for number in range(300)))
        connection.executemany("INSERT INTO w VALUES (?, 1)", ((str(number),) for number in range(300)))
        connection.commit()
    return path


def test_a_database_with_a_collation_of_its_application_is_counted(tmp_path: Path) -> None:
    path = with_own_collation(tmp_path / "media.db")
    assert problems(path, complete=False) == []
    for kind in (COUNTS, DIGEST):
        assert {name: table.rows for name, table in count_tables(path, kind).tables.items()} == {"t": 300, "w": 300}


def test_an_index_sorted_by_an_unknown_collation_is_unverifiable_and_not_sound(tmp_path: Path) -> None:
    with pytest.raises(Unverifiable, match="icu_root"):
        problems(with_own_collation(tmp_path / "media.db"), complete=True)


def test_a_virtual_table_whose_module_is_missing_does_not_hide_the_others(tmp_path: Path) -> None:
    path = make(
        tmp_path / "map.db",
        """
        CREATE TABLE t (a); INSERT INTO t VALUES (1);
        PRAGMA writable_schema = ON;
        INSERT INTO sqlite_master VALUES ('table', 'map', 'map', 0, 'CREATE VIRTUAL TABLE map USING nosuch(a)');
        """,
    )
    assert count_tables(path, COUNTS).tables == {"t": TableFingerprint(1)}
    assert problems(path, complete=True) == []


def with_own_function(path: Path) -> Path:
    with closing(sqlite3.connect(str(path))) as connection:
        connection.create_function("own", 1, lambda value: value * 2, deterministic=True)
        connection.executescript(
            "CREATE TABLE t (a, b AS (own(a)), c); CREATE INDEX i ON t (own(a));"
            "INSERT INTO t (a, c) VALUES (1, 'x'), (2, 'y');"
        )
    return path


def test_functions_of_the_application_hide_no_row(tmp_path: Path) -> None:
    path = with_own_function(tmp_path / "a.db")
    assert problems(path, complete=False) == []
    assert count_tables(path, COUNTS).tables["t"].rows == 2
    digest = count_tables(path, DIGEST)
    with closing(sqlite3.connect(str(path))) as connection:
        connection.create_function("own", 1, lambda value: value * 2, deterministic=True)
        connection.execute("UPDATE t SET c = 'z' WHERE a = 2")
        connection.commit()
    assert digest.differences(count_tables(path, DIGEST)) == ["table t has other contents"]
    with pytest.raises(Unverifiable, match=r"own\(\), which only the application knows"):
        problems(path, complete=True)


def test_a_view_of_a_newer_sqlite_hides_no_row_and_is_told(tmp_path: Path) -> None:
    path = make(
        tmp_path / "a.db",
        "CREATE TABLE t (a); INSERT INTO t VALUES (1); PRAGMA writable_schema = ON;"
        "INSERT INTO sqlite_master VALUES ('view', 'v', 'v', 0, 'CREATE VIEW v AS SELECT ORDER BY');",
    )
    for kind in (COUNTS, DIGEST):
        assert count_tables(path, kind).tables["t"].rows == 1
    with pytest.raises(Unverifiable, match="does not understand all of the schema"):
        problems(path, complete=False)


def test_what_breaks_a_definition_was_stored_like_that(tmp_path: Path) -> None:
    path = make(
        tmp_path / "a.db",
        "CREATE TABLE t (a); INSERT INTO t VALUES (NULL), (NULL), (NULL), (NULL), (NULL), (NULL);"
        "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = 'CREATE TABLE t (a NOT NULL)';",
    )
    assert problems(path, complete=True) == problems(path, complete=False) == []


def test_an_index_out_of_step_is_told_and_condemns_nothing(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v); CREATE INDEX i ON t (v) WHERE id < 16;")
    with closing(sqlite3.connect(str(path))) as connection:
        connection.executemany("INSERT INTO t (v) VALUES (?)", ((n,) for n in range(20)))
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = 'CREATE INDEX i ON t (v)' WHERE name = 'i'")
        connection.commit()
    assert problems(path, complete=False) == []
    with pytest.raises(Unverifiable, match="indexes are not.*row 16 missing from index i.*REINDEX"):
        problems(path, complete=True)


def test_names_that_are_not_utf8_are_counted_or_told(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db", "CREATE TABLE t (abcd); INSERT INTO t VALUES (1), ('x');")
    path.write_bytes(path.read_bytes().replace(b"abcd", b"a\xff\xfed"))
    for kind in (COUNTS, DIGEST):
        assert count_tables(path, kind).tables["t"].rows == 2
    path = make(tmp_path / "b.db", "CREATE TABLE tables (a);")
    path.write_bytes(path.read_bytes().replace(b"tables", b"ta\xff\xfees"))
    with pytest.raises(Unverifiable, match="not UTF-8"):
        count_tables(path, COUNTS)


def test_a_long_value_is_digested_in_pieces_and_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = {}
    for encoding in ("UTF-8", "UTF-16le"):
        path = make(
            tmp_path / f"{encoding}.db",
            f"PRAGMA encoding = '{encoding}'; CREATE TABLE t (a, b, d);"
            "CREATE TABLE r (rowid, _rowid_, x); INSERT INTO r VALUES (1, 2, 3);"
            "CREATE TABLE k (a, b, d, PRIMARY KEY (d, b)) WITHOUT ROWID;"
            "CREATE TABLE c (a, b AS (1), d);",
        )
        with closing(sqlite3.connect(str(path))) as connection:
            rows = [("ü" * 3_000_000, b"\xff" * 5_000_000, None), ("a", b"b", 1.5), (7, "é" * 600_000, "z" * 4_500_000)]
            connection.executemany("INSERT INTO t (a, b, d) VALUES (?, ?, ?)", rows)
            connection.executemany("INSERT INTO c (a, d) VALUES (?, ?)", [(row[0], row[2]) for row in rows])
            keys = [(b"k", 1), ("kü", b"2"), (1.5, "2")]
            connection.executemany("INSERT INTO k VALUES (?, ?, ?)", [(row[0], *key) for row, key in zip(rows, keys)])
            connection.commit()
        whole = []
        monkeypatch.setattr("_engine.databases.sqlite.digest._LARGE_PIECE", 1_000_001)
        # As Python does it since 3.11, as before, and at once.
        for incremental, limit in ((True, 1 << 20), (False, 1 << 20), (False, 1 << 30)):
            with monkeypatch.context() as patch:
                patch.setattr("_engine.databases.sqlite.digest._WHOLE", limit)
                if not incremental:
                    patch.setattr("_engine.databases.sqlite.digest._has_incremental_io", lambda _connection: False)
                whole.append(count_tables(path, DIGEST))
        assert whole[0] == whole[1] == whole[2]
        digests[encoding] = whole[0]
    assert digests["UTF-8"] == digests["UTF-16le"]


#: How much a value of 200 MB takes at the most, in KiB: nothing of it where incremental I/O reads it, and else itself.
LITTLE, ITSELF = 150_000, 330_000


@pytest.mark.parametrize(
    ("definition", "most"),
    [("(a, b)", LITTLE if sys.version_info >= (3, 11) else ITSELF), ("(a, b PRIMARY KEY) WITHOUT ROWID", ITSELF)],
    ids=["rowid", "without rowid"],
)
def test_a_huge_value_takes_little_memory(tmp_path: Path, definition: str, most: int) -> None:
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(str(path))) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute(f"CREATE TABLE t {definition}")
        connection.execute("INSERT INTO t VALUES (zeroblob(200000000), 'x')")
        connection.commit()
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from _engine.databases.sqlite.tables import count_tables, problems\n"
        "from _engine.model import FingerprintKind\n"
        "assert problems(Path(sys.argv[2]), complete=False) == []\n"
        "assert count_tables(Path(sys.argv[2]), FingerprintKind.DIGEST).tables['t'].rows == 1\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
    )
    engine = str(Path(__file__).resolve().parents[2] / "plugins" / "module_utils")
    done = subprocess.run([sys.executable, "-c", code, engine, str(path)], stdout=subprocess.PIPE, check=True)
    assert int(done.stdout) < most, "KiB"


def test_a_schema_of_a_newer_sqlite_is_unverifiable(tmp_path: Path) -> None:
    path = make(
        tmp_path / "a.db",
        "CREATE TABLE t (a); PRAGMA writable_schema = ON;"
        "UPDATE sqlite_master SET sql = 'CREATE TABLE t (a) FUTURISTIC';",
    )
    with pytest.raises(Unverifiable, match="newer SQLite"):
        count_tables(path, COUNTS)


def test_a_row_that_breaks_a_check_constraint_was_stored_like_that(tmp_path: Path) -> None:
    path = make(
        tmp_path / "a.db",
        "CREATE TABLE t (a CHECK (a > 0)); PRAGMA ignore_check_constraints = ON; INSERT INTO t VALUES (-1);",
    )
    assert problems(path, complete=True) == []


def test_a_damaged_page_is_found(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db", "CREATE TABLE t (a); CREATE INDEX i ON t (a);")
    with closing(sqlite3.connect(str(path))) as connection:
        connection.executemany("INSERT INTO t VALUES (?)", (("x" * 200,) for _number in range(500)))
        connection.commit()
    content = bytearray(path.read_bytes())
    content[4096 * 5 : 4096 * 6] = bytes(range(256)) * 16
    path.write_bytes(bytes(content))
    assert problems(path, complete=False)
    assert problems(path, complete=True)
    with pytest.raises(Damaged, match="cannot read a.db"):
        count_tables(path, DIGEST)


def test_an_index_that_lost_a_row_is_found_by_the_complete_check_alone(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db", "CREATE TABLE t (a); CREATE TABLE u (a); CREATE INDEX i ON t (a);")
    with closing(sqlite3.connect(str(path))) as connection:
        connection.execute("INSERT INTO t VALUES (1), (2), (3)")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE name = 't') WHERE name = 'u'"
        )
        connection.commit()
    assert problems(path, complete=True)


def test_reading_leaves_no_file_behind_and_changes_no_byte(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db", "PRAGMA journal_mode = WAL; CREATE TABLE t (a); INSERT INTO t VALUES (1);")
    before = path.read_bytes()
    problems(path, complete=True)
    count_tables(path, DIGEST)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.db"]
    assert path.read_bytes() == before


def test_counting_can_be_cancelled_before_and_while_it_runs(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db", "CREATE TABLE t (a);")
    with closing(sqlite3.connect(str(path))) as connection:
        connection.executemany("INSERT INTO t VALUES (?)", ((number,) for number in range(300_000)))
        connection.commit()
    early, late = Cancellation(), Cancellation()
    early.cancel()
    with pytest.raises(Unverifiable, match="interrupted"):
        count_tables(path, DIGEST, early)
    failures = []

    def count() -> None:
        try:
            while True:
                count_tables(path, DIGEST, late)
        except Unverifiable as error:
            failures.append(str(error))

    thread = threading.Thread(target=count)
    thread.start()
    late.cancel()
    thread.join(30)
    assert not thread.is_alive()
    assert "interrupted" in failures[0]
