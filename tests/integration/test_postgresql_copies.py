# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A table that may not be queried is copied out to be counted: in constant memory, whatever a row holds."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Iterator

import pytest

from _engine.databases.postgresql import catalogue, copying, pulse
from _engine.databases.postgresql.connection import access_to
from _engine.errors import Contended, Unreachable
from _engine.model import FingerprintKind, Level, Outcome
from postgres import Cluster, options, running_cluster
from world import World

#: A row of this many bytes, on which a copy of it in memory shows.
LONG = 30_000_000
#: What a process may need more for it.
ROOM = 15 << 20


@pytest.fixture
def reader(cluster: Cluster, database: str) -> Iterator[str]:
    """A role that may read everything and lock nothing, so that its backups copy all tables."""
    role = f"reader_{database}"
    cluster.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'x' BYPASSRLS; GRANT pg_read_all_data TO {role}")
    yield role
    cluster.sql(f"DROP OWNED BY {role}", database)
    cluster.sql(f"DROP ROLE {role}")


def peak() -> int:
    """The most memory that this process had since ``forget_peak``, in bytes (proc_pid_status(5))."""
    (line,) = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM")]
    return int(line.split()[1]) << 10


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def test_a_row_of_any_length_is_digested_in_little_memory(cluster: Cluster, database: str, reader: str) -> None:
    cluster.sql(f"CREATE TABLE long AS SELECT 1 AS n, repeat('x', {LONG}) AS body", database)
    cluster.sql(f"CREATE TABLE alone AS SELECT repeat(E'a\\n', {LONG // 2}) AS body", database)
    with cluster.engine(database, user=reader, password="x").snapshot(options(FingerprintKind.DIGEST)) as held:
        forget_peak()
        before = peak()
        counted = held.fingerprint()
        assert peak() - before < ROOM
    assert counted is not None and counted.undigested == []
    assert {name: one.rows for name, one in counted.tables.items()} == {"public.long": 1, "public.alone": 1}
    with cluster.engine(database, user=reader, password="x").snapshot(options(FingerprintKind.COUNTS)) as held:
        forget_peak()
        before = peak()
        assert held.fingerprint() is not None
        assert peak() - before < ROOM


def test_backups_of_copied_tables_are_proven_and_what_changes_in_a_long_value_shows(
    cluster: Cluster, database: str, reader: str, tmp_path: Path
) -> None:
    values = "SELECT n, string_agg(md5((n * i)::text), E'\\n\\\\') AS body FROM generate_series(1, 3) n"
    cluster.sql(f"CREATE TABLE t AS {values}, generate_series(1, 3000) i GROUP BY n", database)
    world = World(tmp_path / "world")
    world.database = cluster.database(database, user=reader, password="x")
    result = world.backup(fingerprint=FingerprintKind.DIGEST)
    assert result.warnings == ()
    (check,) = world.verify(level=Level.RESTORE).checks
    assert check.outcome is Outcome.PASSED, check.detail
    cluster.sql("UPDATE t SET body = overlay(body placing 'X' from 70000) WHERE n = 2", database)
    other = world.backup(fingerprint=FingerprintKind.DIGEST).manifest.fingerprint
    assert result.manifest.fingerprint is not None and other is not None
    assert result.manifest.fingerprint.differences(other) == ["table public.t has other contents"]


@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1", "SQL_ASCII"])
def test_psql_and_the_driver_copy_the_same_bytes(cluster: Cluster, database: str, encoding: str) -> None:
    name = f"{database}_{encoding.lower()}"
    cluster.sql(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    access = access_to(cluster.database(name))
    with access.connect(name) as connection:
        connection.run(
            "CREATE TABLE public.\"größe :x\" AS SELECT n, E'é \\n \\t \\\\ ' || n AS a, NULL::text AS b,"
            " '\\x00ff'::bytea AS c, 0.1::float8 + n AS d, timestamptz '2026-01-01' AS e FROM generate_series(1, 9) n"
        )
        (table,) = catalogue.relations(connection)
        connection.run(copying.TEXT_FORM)
        copier, copy = copying.Copier(access, name), f"COPY {table.identifier} TO STDOUT"
        assert copier.digest(connection, copy, True) == copier.digest(connection, copy, False)
        assert copier.count(connection, copy, True) == 9


def test_pieces_of_a_copy_are_hashed_as_rows_wherever_they_end() -> None:
    text = b"".join(b"%d\trow\\n\n" % number for number in range(50))
    sums = set()
    for size in (1, 2, 7, 64, len(text)):
        hashed = copying.HashedRows()
        for start in range(0, len(text), size):
            hashed.write(text[start : start + size])
        sums.add((hashed.rows, hashed.sum))
    assert len(sums) == 1 and sums.pop()[0] == 50


def test_the_calling_session_outlives_a_long_copy(
    cluster: Cluster, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.sql("CREATE TABLE t AS SELECT 1 AS n", database)
    access, real = access_to(cluster.database(database)), copying.HashedRows.write

    def write(rows: copying.HashedRows, block: bytes) -> int:
        # As long as the server suffers a silent session, and longer.
        threading.Event().wait(1.0)
        return real(rows, block)

    monkeypatch.setattr(copying.HashedRows, "write", write)
    monkeypatch.setattr(pulse, "_PULSE", 0.05)
    with access.connect(database) as connection:
        connection.run("BEGIN; SET idle_in_transaction_session_timeout = '500ms'")
        assert copying.Copier(access, database).digest(connection, "COPY public.t TO STDOUT", True)[0] == 1
        assert connection.value("SELECT n FROM public.t") == 1


def test_a_change_that_waits_for_a_copied_table_goes_first(cluster: Cluster, database: str, reader: str) -> None:
    cluster.sql(f"CREATE TABLE long AS SELECT repeat('x', {LONG // 10}) AS body", database)
    with ThreadPoolExecutor(1) as pool:
        with cluster.engine(database, user=reader, password="x").snapshot(options(FingerprintKind.DIGEST)) as held:
            change = pool.submit(cluster.sql, "ALTER TABLE long ADD n int", database)
            while not cluster.value("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                pass
            with pytest.raises(Contended):
                held.fingerprint()
        change.result()


def test_what_psql_has_no_memory_for_is_counted_and_told(
    cluster: Cluster, database: str, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.sql(f"CREATE TABLE long AS SELECT 1 AS n, repeat('x', {LONG}) AS body", database)
    real = copying.Copier._psql

    def confined(*arguments: Any) -> Any:
        return replace(real(*arguments), memory=64 << 20)

    monkeypatch.setattr(copying.Copier, "_psql", confined)
    with cluster.engine(database, user=reader, password="x").snapshot(options(FingerprintKind.DIGEST)) as held:
        counted = held.fingerprint()
        assert any("No digest could be made of: public.long" in one for one in held.facts.warnings)
    assert counted is not None and counted.tables["public.long"].rows == 1


def test_a_copy_by_psql_ends_with_the_fingerprint_that_is_not_wanted_any_more(
    cluster: Cluster, database: str, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.sql(f"CREATE TABLE long AS SELECT 1 AS n, repeat('x', {LONG}) AS body", database)
    begun, cancelled = threading.Event(), threading.Event()
    real = copying.HashedRows.write

    def write(rows: copying.HashedRows, block: bytes) -> int:
        begun.set()
        cancelled.wait()
        return real(rows, block)

    monkeypatch.setattr(copying.HashedRows, "write", write)
    with cluster.engine(database, user=reader, password="x").snapshot(options(FingerprintKind.DIGEST)) as held:
        counting = ThreadPoolExecutor(1).submit(held.fingerprint)
        begun.wait()
        stopping = ThreadPoolExecutor(1).submit(held.cancel_fingerprint)
        while not cluster.value("SELECT count(*) = 0 FROM pg_stat_activity WHERE query LIKE 'COPY%'"):
            pass
        cancelled.set()
        stopping.result()
        with pytest.raises(Unreachable):
            counting.result()


def test_a_standby_digests_what_it_copies_and_names_unlogged_tables(tmp_path: Path) -> None:
    with running_cluster() as primary:
        primary.sql("CREATE TABLE t AS SELECT 1 AS n, repeat('x', 3000000) AS body")
        primary.sql("CREATE UNLOGGED TABLE passing (n int); INSERT INTO passing VALUES (1)")
        with running_cluster(standby_of=primary) as standby:
            world = World(tmp_path / "world")
            world.database = standby.database("postgres")
            result = world.backup(fingerprint=FingerprintKind.DIGEST)
            assert result.manifest.fingerprint is not None
            assert set(result.manifest.fingerprint.tables) == {"public.t"}
            assert result.manifest.fingerprint.undigested == []
            assert any("unlogged tables" in one and "public.passing" in one for one in result.warnings)
            (check,) = world.verify(level=Level.RESTORE).checks
            assert check.outcome is Outcome.PASSED, check.detail
