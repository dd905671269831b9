# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Counting a table runs no function of its owner, and needs none that pg_dump does not need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg2.errors
import pytest

from _engine.databases.postgresql import catalogue, copying, fingerprint, planning, snapshot
from _engine.databases.postgresql.connection import access_to
from _engine.errors import EngineError
from _engine.model import Fingerprint, FingerprintKind, TableFingerprint
from postgres import Cluster, dump
from world import World

#: A function that calls another one without its schema: with an empty search path, it cannot be planned.
CALLS_WITHOUT_SCHEMA = """
CREATE FUNCTION inner_norm(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower($1)';
CREATE FUNCTION norm(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT inner_norm($1)';
CREATE TABLE place (name text, n int);
INSERT INTO place VALUES ('Oslo', 1), (E'Ber\\ngen', 2);
CREATE INDEX place_norm ON place (norm(name));
"""
#: What a planner evaluates once for all rows, in any session that queries the table; here it fails in ours.
RUN_BY_THE_PLANNER = """
CREATE FUNCTION gift(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  IF current_setting('application_name') = 'fleet-backup' THEN RAISE EXCEPTION 'run by the planner'; END IF;
  RETURN $1;
END $$;
CREATE TABLE place (name text, n int);
INSERT INTO place VALUES ('Oslo', 1), ('Bergen', 2);
CREATE TABLE other AS SELECT * FROM place;
"""


@pytest.fixture
def world(tmp_path: Path, cluster: Cluster, database: str) -> World:
    made = World(tmp_path / "world")
    made.database = cluster.database(database)
    return made


@pytest.mark.parametrize("kind", [FingerprintKind.COUNTS, FingerprintKind.DIGEST])
def test_a_function_that_only_a_planner_calls_fails_no_backup(
    world: World, cluster: Cluster, database: str, kind: FingerprintKind
) -> None:
    cluster.sql(CALLS_WITHOUT_SCHEMA, database)
    fingerprint = world.backup(fingerprint=kind).manifest.fingerprint
    assert fingerprint is not None and fingerprint.tables["public.place"].rows == 2


@pytest.mark.parametrize("place", ["INDEX one ON place ((gift(1)))", "STATISTICS one ON (gift(1) + n), n FROM place"])
@pytest.mark.parametrize("kind", [FingerprintKind.COUNTS, FingerprintKind.DIGEST])
def test_counting_runs_no_function_of_an_index_or_of_statistics(
    world: World, cluster: Cluster, database: str, kind: FingerprintKind, place: str
) -> None:
    cluster.sql(f"{RUN_BY_THE_PLANNER} CREATE {place}", database)
    fingerprint = world.backup(fingerprint=kind).manifest.fingerprint
    assert fingerprint is not None and fingerprint.tables["public.place"].rows == 2
    assert fingerprint.tables["public.other"].rows == 2


def test_the_digest_of_a_copied_table_notices_what_changed(world: World, cluster: Cluster, database: str) -> None:
    cluster.sql("CREATE FUNCTION same(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1'", database)
    cluster.sql("CREATE TABLE place AS SELECT 'Oslo' AS name, 1 AS n; CREATE INDEX ON place (same(n))", database)
    digests = []
    for change in (
        "SELECT 1",
        "UPDATE place SET name = 'Olso' WHERE n = 1",
        "UPDATE place SET name = 'Oslo' WHERE n = 1",
    ):
        cluster.sql(change, database)
        fingerprint = world.backup(fingerprint=FingerprintKind.DIGEST).manifest.fingerprint
        assert fingerprint is not None
        digests.append(fingerprint.tables["public.place"])
    assert digests[0] == digests[2] != digests[1]
    world.restore(database=cluster.database(f"{database}_copy"), source_database=database)


#: What runs the function where a planner sees it; the last one needs no change of the table that is locked.
LATE = (
    "CREATE INDEX late ON place ((gift(1)))",
    "CREATE STATISTICS late ON (gift(1) + n), n FROM place",
    """ALTER SCHEMA public RENAME TO away; CREATE SCHEMA public; CREATE TABLE public.place (name text, n int);
       CREATE TABLE public.other (LIKE away.other); CREATE INDEX ON public.place ((away.gift(1)))""",
)


@pytest.mark.parametrize("late", LATE)
def test_counting_runs_no_function_that_comes_after_the_snapshot(
    cluster: Cluster, database: str, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    cluster.sql(RUN_BY_THE_PLANNER, database)
    real = snapshot._dump

    def then(*arguments: Any) -> Any:
        cluster.sql(late, database)
        return real(*arguments)

    monkeypatch.setattr(snapshot, "_dump", then)
    with cluster.engine(database).snapshot(snapshot.DumpOptions(FingerprintKind.DIGEST, 5.0)) as held:
        counted = held.fingerprint()
    # By its name, another table is copied; pg_dump would dump that one too, and run nothing either.
    assert counted is not None and counted.tables["public.place"].rows == (0 if "SCHEMA" in late else 2)
    assert counted.tables["public.place"].digest.startswith("copy:")  # type: ignore[union-attr]


def test_nothing_that_a_plan_depends_on_changes_while_it_is_made(cluster: Cluster, database: str) -> None:
    cluster.sql(RUN_BY_THE_PLANNER, database)
    access = access_to(cluster.database(database))
    with access.connect(database) as counting, planning.beside(access, database, counting) as beside:
        (place,) = [one for one in catalogue.relations(counting) if one.name == "place"]
        assert beside is not None
        for change in (*LATE, "DROP TABLE place"):
            with beside.frozen(place) as safe, pytest.raises(psycopg2.errors.LockNotAvailable):
                assert safe
                cluster.sql(f"SET lock_timeout = 1; {change}", database)
        # The table itself is copied where another session changes it.
        with cluster.connect(database) as other, other.cursor() as cursor:
            other.autocommit = False
            cursor.execute("LOCK TABLE place IN SHARE MODE")
            with beside.frozen(place) as safe:
                assert not safe


def test_who_cannot_lock_copies_and_gets_the_same_counts(cluster: Cluster, database: str, tmp_path: Path) -> None:
    cluster.sql(
        f"{RUN_BY_THE_PLANNER} CREATE TABLE wide AS SELECT n, repeat('x', 100) FROM generate_series(1, 40000) n",
        database,
    )
    reader = f"reader_{database}"
    cluster.sql(f"CREATE ROLE {reader} LOGIN PASSWORD 'x' BYPASSRLS; GRANT pg_read_all_data TO {reader}")
    planned = dump(cluster.engine(database), tmp_path / "1", snapshot.DumpOptions(FingerprintKind.COUNTS, 5.0))
    cluster.sql("CREATE INDEX ON place ((gift(1)))", database)
    copied = dump(
        cluster.engine(database, user=reader, password="x"),
        tmp_path / "2",
        snapshot.DumpOptions(FingerprintKind.COUNTS, 5.0),
    )
    cluster.sql(f"DROP OWNED BY {reader}", database)
    cluster.sql(f"DROP ROLE {reader}")
    one, other = planned.manifest.fingerprint, copied.manifest.fingerprint
    assert (
        one
        and other
        and {name: table.rows for name, table in one.tables.items()}
        == {name: table.rows for name, table in other.tables.items()}
    )
    assert all(table.digest and table.digest.startswith("copy:") for table in other.tables.values())


#: What a table is replaced by whose reading runs the function; the second one reads from its own server.
SWAPPED = (
    "CREATE VIEW place AS SELECT name, gift(n) AS n FROM other",
    """CREATE EXTENSION postgres_fdw; CREATE SERVER near FOREIGN DATA WRAPPER postgres_fdw;
       CREATE FOREIGN TABLE place (name text, n int) SERVER near""",
)


@pytest.mark.parametrize("swapped", SWAPPED)
def test_what_was_put_in_the_place_of_a_table_is_not_read(cluster: Cluster, database: str, swapped: str) -> None:
    cluster.sql(RUN_BY_THE_PLANNER, database)
    access = access_to(cluster.database(database))
    copier = copying.Copier(access, database)
    with access.connect(database) as counting:
        tables = [one for one in catalogue.relations(counting) if one.name == "place"]
    cluster.sql(f"ALTER TABLE place RENAME TO away; {swapped}", database)
    with access.connect(database) as counting, pytest.raises(EngineError, match="restricted"):
        counting.run("BEGIN READ ONLY")
        like = Fingerprint(FingerprintKind.COUNTS, {"public.place": TableFingerprint(2)})
        fingerprint.count_like(counting, tables, like, copier)
    for kind in FingerprintKind.COUNTS, FingerprintKind.DIGEST:
        with access.connect(database) as counting, pytest.raises(EngineError, match="cannot copy from"):
            counting.run("BEGIN READ ONLY")
            fingerprint.count(counting, tables, kind, copier)


def test_pg_dump_reads_no_view_in_the_place_of_a_table_either(cluster: Cluster, database: str) -> None:
    with cluster.engine(database).snapshot(snapshot.DumpOptions(FingerprintKind.NONE, 5.0)) as held:
        assert any("restrict_nonsystem_relation_kind" in str(one) for one in held.dump.arguments)  # type: ignore[union-attr]
