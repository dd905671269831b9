# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Backups take no more locks than pg_dump does, give way to others, and say what they could not read or digest."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from _engine.databases.postgresql import fingerprint, snapshot
from _engine.errors import NoSpace
from _engine.model import FingerprintKind, Level, Outcome
from postgres import Cluster, dump, options, running_cluster
from world import World


def make_tables(cluster: Cluster, count: int, first: int = 0) -> None:
    for start in range(first, count, 100):
        cluster.sql(
            f"DO $$ BEGIN FOR n IN {start}..{start + 99} LOOP"
            " EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, name text UNIQUE)', n); END LOOP; END $$"
        )


def test_as_many_tables_as_pg_dump_can_lock_are_backed_up_and_more_are_refused_with_the_limits_name(
    tmp_path: Path,
) -> None:
    with running_cluster("max_locks_per_transaction=10", "max_connections=20") as small:
        make_tables(small, 400)
        small.program("pg_dump", "--file=/dev/null", name="postgres")
        made = dump(small.engine("postgres"), tmp_path, options(FingerprintKind.DIGEST))
        assert made.manifest.fingerprint and len(made.manifest.fingerprint.tables) == 400
        emptying = iter(["TRUNCATE t7", "ALTER TABLE t8 ALTER id TYPE bigint", ""])
        real = snapshot._dump

        def while_somebody_empties(*arguments: Any) -> Any:
            small.sql(next(emptying) or "SELECT 1")
            return real(*arguments)

        world = World(tmp_path / "world")
        world.database = small.database("postgres")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(snapshot, "_dump", while_somebody_empties)
            assert world.backup().changed
        assert list(emptying) == []
        make_tables(small, 1600, 400)
        with pytest.raises(NoSpace, match="max_locks_per_transaction"):
            dump(small.engine("postgres"), tmp_path / "more")


def test_a_change_of_a_table_that_comes_between_is_let_through_and_the_backup_succeeds(
    cluster: Cluster, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.sql("CREATE TABLE t (a int); INSERT INTO t VALUES (1)", database)
    world = World(tmp_path / "world")
    world.database = cluster.database(database)
    changing = threading.Thread(target=lambda: cluster.sql("ALTER TABLE t ADD b int", database))
    real = snapshot._dump

    def while_somebody_waits(*arguments: Any) -> Any:
        if not changing.ident:
            changing.start()
            while not cluster.value("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)", database):
                pass
        return real(*arguments)

    monkeypatch.setattr(snapshot, "_dump", while_somebody_waits)
    result = world.backup(fingerprint=FingerprintKind.DIGEST)
    changing.join()
    assert result.changed
    world.restore(database=cluster.database(f"{database}_2"), source_database=database)
    assert cluster.sql("SELECT a, b FROM t", f"{database}_2") == [(1, None)]


def test_what_cannot_be_digested_is_counted_and_called_unverifiable(
    cluster: Cluster, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.sql("CREATE TABLE t AS SELECT 1 AS a", database)
    world = World(tmp_path / "world")
    world.database = cluster.database(database)
    # What a value of more than 1 GB in text does, in less time.
    monkeypatch.setattr(
        fingerprint, "_TABLE_DIGEST", "SELECT count(*), sum(1 / (1 - count(*))) OVER () FROM ONLY %.0s%s"
    )
    result = world.backup(fingerprint=FingerprintKind.DIGEST)
    assert any("No digest could be made of: public.t" in warning for warning in result.warnings)
    [check] = world.verify(level=Level.RESTORE).checks
    assert (check.outcome, check.code) == (Outcome.UNVERIFIABLE, "unverifiable")
    assert "public.t" in check.detail


def test_rows_and_values_of_any_length_are_digested(cluster: Cluster, database: str) -> None:
    cluster.sql("CREATE TABLE t AS SELECT repeat('a', 280000000) AS a, repeat('b', 280000000) AS b", database)
    cluster.sql("ALTER TABLE t ADD c text, ADD d bytea", database)
    cluster.sql("UPDATE t SET c = b", database)
    cluster.sql("UPDATE t SET d = convert_to(repeat('d', 280000000), 'UTF8')", database)
    with cluster.engine(database).snapshot(options(FingerprintKind.DIGEST)) as held:
        counted = held.fingerprint()
    assert counted and counted.undigested == []


def test_what_only_a_superuser_could_dump_is_named(cluster: Cluster, database: str, tmp_path: Path) -> None:
    reader = f"reader_{database}"
    cluster.sql(f"CREATE ROLE {reader} LOGIN PASSWORD 'x' BYPASSRLS; GRANT pg_read_all_data TO {reader}")
    cluster.sql(
        "CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'nowhere');"
        "CREATE USER MAPPING FOR postgres SERVER far OPTIONS (password 'secret');"
        "CREATE SUBSCRIPTION feed CONNECTION 'host=127.0.0.1 port=1 dbname=nowhere' PUBLICATION p"
        " WITH (connect = false, slot_name = 'feed_slot', enabled = false)",
        database,
    )
    expected = ["options of the user mapping for postgres on server far", "subscription feed"]
    try:
        world = World(tmp_path / "world")
        world.database = cluster.database(database, user=reader, password="x")
        result = world.backup()
        assert result.manifest.properties["not_dumped"] == tuple(expected)
        assert any("Not in the backup" in one and "subscription feed" in one for one in result.warnings)
        assert any(one.startswith("pg_dump: subscriptions not dumped") for one in result.warnings)
        as_superuser = dump(cluster.engine(database), tmp_path)
        assert as_superuser.manifest.properties["not_dumped"] == []
    finally:
        cluster.sql("ALTER SUBSCRIPTION feed SET (slot_name = NONE); DROP SUBSCRIPTION feed", database)
        cluster.sql(f"DROP OWNED BY {reader}", database)
        cluster.sql(f"DROP ROLE {reader}")
