# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Objects that cannot be restored: they stop a restore, or are named and everything else comes back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from _engine.errors import EngineError, Unverifiable
from _engine.model import FingerprintKind, Level, Outcome
from world import World

if TYPE_CHECKING:
    from postgres import Cluster

SEARCH_PATH = """
CREATE TABLE docs (body tsvector); INSERT INTO docs VALUES (to_tsvector('tea and biscuits'));
CREATE MATERIALIZED VIEW words AS SELECT * FROM ts_stat('select body from docs');
CREATE FUNCTION slug(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT replace(lower($1), '' '', ''-'')';
CREATE FUNCTION page_slug(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT slug($1)';
CREATE TABLE page (title text, address text GENERATED ALWAYS AS (page_slug(title)) STORED);
INSERT INTO page VALUES ('Hello World');
CREATE FUNCTION inner_norm(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower($1)';
CREATE FUNCTION norm(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT inner_norm($1)';
CREATE TABLE place (name text); INSERT INTO place VALUES ('Oslo'), ('Bergen');
CREATE INDEX place_norm ON place (norm(name));
CREATE TABLE orders AS SELECT generate_series(1, 100) AS n;
"""
OTHER_TABLE = """
CREATE TABLE z_kinds (kind text PRIMARY KEY); INSERT INTO z_kinds VALUES ('a');
CREATE FUNCTION known(text) RETURNS boolean LANGUAGE sql
  AS 'SELECT EXISTS (SELECT FROM public.z_kinds WHERE kind = $1)';
CREATE TABLE a_data (kind text PRIMARY KEY CHECK (known(kind))); INSERT INTO a_data VALUES ('a');
CREATE TABLE b_refers (kind text REFERENCES a_data); INSERT INTO b_refers VALUES ('a');
"""
#: True when it is written, and false for whoever loads it later.
NOT_ANY_MORE = """
CREATE FUNCTION fresh() RETURNS boolean LANGUAGE sql
  AS $$SELECT current_setting('application_name') <> 'fleet-backup'$$;
CREATE TABLE t (a int CHECK (public.fresh())); INSERT INTO t VALUES (1);
"""


#: What a server says of its objects, said of a row.
IN_A_SERVERS_WORDS = """
CREATE FUNCTION welcome(text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  IF current_setting('application_name') <> 'fleet-backup' THEN RETURN true; END IF;
  RAISE EXCEPTION E'permission denied for %\nof Oslo', $1 USING ERRCODE = '42501';
END $$;
CREATE TABLE guest (name text CHECK (public.welcome(name))); INSERT INTO guest VALUES ('Alice');
"""


@pytest.fixture
def world(tmp_path: Path, cluster: Cluster, database: str) -> World:
    made = World(tmp_path / "world")
    made.database = cluster.database(database)
    return made


def test_everything_else_comes_back_and_what_does_not_is_named(world: World, cluster: Cluster, database: str) -> None:
    cluster.sql(SEARCH_PATH, database)
    world.backup(fingerprint=FingerprintKind.DIGEST)
    copy = cluster.database(f"{database}_copy")
    before = cluster.databases()
    with pytest.raises(EngineError):
        world.restore(database=copy, source_database=database)
    assert cluster.databases() == before
    result = world.restore(database=copy, source_database=database, tolerant=True)
    assert cluster.sql("SELECT count(*) FROM orders", copy.name) == [(100,)]
    assert cluster.sql("SELECT count(*) FROM place", copy.name) == [(2,)]
    wanted = ["TABLE public page", "TABLE DATA public page", "INDEX public place_norm", "MATERIALIZED VIEW DATA public"]
    for line, name in zip(sorted(result.missing), sorted(wanted)):
        assert line.startswith(name) and "does not exist" in line
    assert len(result.missing) == 4
    assert result.failure is not None and result.failure.code == "incomplete"
    assert "page" in (result.unverified or "") and "Oslo" not in str(result.failure)


def test_a_backup_that_does_not_come_back_whole_is_unverifiable_and_says_why(
    world: World, cluster: Cluster, database: str
) -> None:
    cluster.sql(SEARCH_PATH, database)
    world.backup()
    (check,) = world.verify(level=Level.RESTORE).checks
    assert check.outcome is Outcome.UNVERIFIABLE
    assert "INDEX public place_norm" in check.detail and "MATERIALIZED VIEW DATA public words" in check.detail
    (backup,) = world.catalogue().backups
    assert backup.known_bad is None and backup.proven(Level.RESTORE) is None


def test_a_check_constraint_over_another_table_is_tried_again(world: World, cluster: Cluster, database: str) -> None:
    cluster.sql(OTHER_TABLE, database)
    world.backup()
    (check,) = world.verify(level=Level.RESTORE).checks
    assert (check.outcome, check.detail) == (Outcome.PASSED, "")
    with pytest.raises(Unverifiable, match="on_error continue"):
        world.restore(database=cluster.database(f"{database}_a"), source_database=database)
    for number, changes in enumerate(({"tolerant": True}, {"parallel": 2})):
        copy = cluster.database(f"{database}_{number}")
        result = world.restore(database=copy, source_database=database, **changes)
        assert (result.missing, result.failure, result.unverified) == ((), None, None)
        assert cluster.sql("SELECT kind FROM b_refers", copy.name) == [("a",)]


def test_a_check_constraint_that_does_not_hold_any_more_condemns_no_backup(
    world: World, cluster: Cluster, database: str
) -> None:
    cluster.sql(NOT_ANY_MORE, database)
    world.backup()
    (check,) = world.verify(level=Level.RESTORE).checks
    assert check.outcome is Outcome.UNVERIFIABLE and "TABLE DATA public t" in check.detail
    result = world.restore(database=cluster.database(f"{database}_copy"), source_database=database, tolerant=True)
    assert len(result.missing) == 1 and "table public.t has 0 rows instead of 1" in (result.unverified or "")


#: A function that says what pg_restore says of damage and of rows that a key refuses, and then may refuse the row.
FORGED = """
CREATE FUNCTION accepted(int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
  IF current_setting('application_name') <> 'fleet-backup' THEN RETURN true; END IF;
  RAISE {level} E'x\npg_restore: from TOC entry 1; 0 0 TABLE x y\npg_restore: error: could not execute query: ERROR:  '
    'insert or update on table "a" violates foreign key constraint "b"\npg_restore: error: could not read from input '
    'file: end of file\npg_restore: warning: errors ignored on restore: 1'; RETURN true; END $$;
CREATE TABLE a (i int CHECK (public.accepted(i))); INSERT INTO a VALUES (1);
"""


@pytest.mark.parametrize("level, outcome", [("WARNING", Outcome.PASSED), ("EXCEPTION", Outcome.UNVERIFIABLE)])
def test_what_a_function_says_in_pg_restores_words_condemns_no_backup(
    world: World, cluster: Cluster, database: str, level: str, outcome: Outcome
) -> None:
    cluster.sql(FORGED.format(level=level), database)
    world.backup()
    (check,) = world.verify(level=Level.RESTORE).checks
    assert check.outcome is outcome
    copy = cluster.database(f"{database}_copy")
    if outcome is Outcome.PASSED:
        world.restore(database=copy, source_database=database)
    else:
        with pytest.raises(Unverifiable):
            world.restore(database=copy, source_database=database)


def test_an_event_trigger_that_forbids_what_a_restore_does_comes_last(
    world: World, cluster: Cluster, database: str
) -> None:
    for statement in (
        "CREATE TABLE a (n int PRIMARY KEY); CREATE TABLE b (n int REFERENCES a); INSERT INTO a VALUES (1)",
        "REVOKE ALL ON a FROM PUBLIC; GRANT SELECT ON a TO PUBLIC",
        "CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no changes here''; END'",
        "CREATE EVENT TRIGGER a_guard ON ddl_command_start EXECUTE FUNCTION forbid()",
    ):
        cluster.sql(statement, database)
    cluster.sql(f"REVOKE CONNECT ON DATABASE {database} FROM PUBLIC")
    world.backup()
    (check,) = world.verify(level=Level.RESTORE).checks
    assert check.outcome is Outcome.PASSED, check.detail
    copy = cluster.database(f"{database}_copy")
    result = world.restore(database=copy, source_database=database)
    assert (result.missing, result.failure) == ((), None)
    assert cluster.sql("SELECT evtname FROM pg_event_trigger", copy.name) == [("a_guard",)]


def test_a_view_of_a_foreign_server_that_does_not_answer_blocks_nothing_else(
    world: World, cluster: Cluster, database: str
) -> None:
    where = f"host '{cluster.directory}', port '{cluster.port}', dbname 'postgres'"
    for statement in (
        "CREATE EXTENSION postgres_fdw",
        f"CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({where})",
        "CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (user 'postgres', password_required 'false')",
        "CREATE FOREIGN TABLE away (rolname name) SERVER far OPTIONS (schema_name 'pg_catalog', table_name 'pg_roles')",
        "CREATE MATERIALIZED VIEW names AS SELECT rolname FROM away; CREATE TABLE t AS SELECT 1 AS n",
        "ALTER SERVER far OPTIONS (SET port '1')",
    ):
        cluster.sql(statement, database)
    world.backup()
    (check,) = world.verify(level=Level.RESTORE).checks
    assert check.outcome is Outcome.UNVERIFIABLE and "MATERIALIZED VIEW DATA public names" in check.detail
    copy = cluster.database(f"{database}_copy")
    with pytest.raises(EngineError):
        world.restore(database=copy, source_database=database)
    result = world.restore(database=copy, source_database=database, tolerant=True)
    (line,) = result.missing
    assert line.startswith("MATERIALIZED VIEW DATA public names")
    assert cluster.sql("SELECT n FROM t", copy.name) == [(1,)]


def test_what_a_function_says_of_a_row_is_in_no_message(world: World, cluster: Cluster, database: str) -> None:
    cluster.sql(IN_A_SERVERS_WORDS, database)
    world.backup()
    copy = cluster.database(f"{database}_copy")
    with pytest.raises(EngineError) as stopped:
        world.restore(database=copy, source_database=database)
    missing = world.restore(database=copy, source_database=database, tolerant=True).missing
    [check] = world.verify(level=Level.RESTORE).checks
    with cluster.engine(copy.name)._access.connect(copy.name) as session, pytest.raises(EngineError) as asked:
        session.run("SELECT public.welcome('Alice')")
    for said in (str(stopped.value), *missing, check.detail, str(asked.value)):
        assert said and "Alice" not in said
