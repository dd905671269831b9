# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Roles and tablespaces come back on an empty server, and change nothing that another server has already."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from _engine.databases.postgresql import global_objects
from _engine.errors import Damaged, EngineError, PermissionDenied
from postgres import Cluster, dump, options, restore, running_cluster, transfer

_ROLES = r'''
CREATE ROLE "odd ""group""" NOLOGIN; COMMENT ON ROLE "odd ""group""" IS 'it''s; a \ comment -- not one';
CREATE ROLE app LOGIN PASSWORD 'a secret' CONNECTION LIMIT 7 VALID UNTIL '2030-01-01 00:00+00';
CREATE ROLE "Größe;" CREATEDB CREATEROLE; GRANT "odd ""group""" TO app WITH ADMIN OPTION; GRANT app TO "Größe;";
ALTER ROLE app SET search_path = 'a b', public; ALTER ROLE app SET work_mem = '9MB';
  ALTER ROLE app SET DateStyle = 'German';
'''


def script_of(cluster: Cluster) -> str:
    """What pg_dumpall says, without the initial superuser and what differs from call to call."""
    lines = cluster.program("pg_dumpall", "--globals-only").splitlines()
    return "\n".join(line for line in lines if not re.match(r"\\(un)?restrict|ALTER ROLE postgres ", line))


def test_globals_and_a_database_come_back_on_an_empty_server(empty_cluster: Cluster, tmp_path: Path) -> None:
    with running_cluster() as origin:
        origin.sql(_ROLES)
        origin.sql("CREATE DATABASE shop OWNER app")
        origin.sql('CREATE TABLE t AS SELECT 1 AS n; ALTER TABLE t OWNER TO "Größe;"', "shop")
        before = script_of(origin)
        backup = dump(origin.engine("shop"), tmp_path, options(globals=True))
    assert "SCRAM-SHA-256" in backup.globals.read_text()
    engine = empty_cluster.engine("shop")
    with pytest.raises(EngineError, match="Restore the globals first"):
        engine.check_restore(backup.manifest, False, None)
    for _again in range(2):
        with engine.load_globals() as loading:
            transfer(backup.globals, loading.load, engine)
            loading.loaded()
        assert script_of(empty_cluster) == before
    restore(engine, backup)
    with empty_cluster.engine("shop", user="app", password="a secret")._access.connect("shop") as connection:
        assert connection.value("SELECT 1") == 1


def test_roles_that_exist_stay_as_they_are(cluster: Cluster, tmp_path: Path, database: str) -> None:
    cluster.sql(f"CREATE ROLE {database}_old PASSWORD 'old'; CREATE ROLE {database}_gone IN ROLE {database}_old")
    engine = cluster.engine(database)
    backup = dump(engine, tmp_path, options(globals=True))
    cluster.sql(f"DROP ROLE {database}_gone; ALTER ROLE {database}_old PASSWORD 'new' LOGIN")
    before = cluster.value(f"SELECT rolpassword FROM pg_authid WHERE rolname = '{database}_old'")
    with engine.load_globals() as loading:
        transfer(backup.globals, loading.load, engine)
        loading.loaded()
    after = cluster.sql(f"SELECT rolpassword, rolcanlogin FROM pg_authid WHERE rolname = '{database}_old'")
    assert after == [(before, True)]
    assert cluster.value(f"SELECT pg_has_role('{database}_gone', '{database}_old', 'MEMBER')")
    cluster.sql(f"DROP ROLE {database}_gone; DROP ROLE {database}_old")


def test_roles_come_back_all_or_none_and_no_hash_is_in_the_message(cluster: Cluster, database: str) -> None:
    engine = cluster.engine(database)
    script = f"CREATE ROLE {database}_1;\nALTER ROLE {database}_1 WITH PASSWORD 'SCRAM-SHA-256$hash' NONSENSE;\n"
    with pytest.raises(EngineError) as caught, engine.load_globals() as loading:
        loading.load.write_bytes(script.encode())
        loading.loaded()
    assert f"ALTER ROLE {database}_1" in str(caught.value) and "hash" not in str(caught.value)
    assert cluster.sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{database}_1'") == []
    for damaged in (b"CREATE ROLE half", b"CREATE ROLE \xff;"):
        with pytest.raises(Damaged), engine.load_globals() as loading:
            loading.load.write_bytes(damaged)
            loading.loaded()


def test_a_user_without_the_right_gets_it_said(cluster: Cluster, database: str) -> None:
    cluster.sql(f"CREATE ROLE {database}_modest LOGIN PASSWORD 'x'")
    engine = cluster.engine(database, user=f"{database}_modest", password="x")
    with pytest.raises(PermissionDenied, match="CREATE ROLE new"), engine.load_globals() as loading:
        loading.load.write_bytes(b"CREATE ROLE new;")
        loading.loaded()
    cluster.sql(f"DROP ROLE {database}_modest")


def test_a_script_is_taken_apart_at_its_semicolons_only() -> None:
    script = (
        "-- a; comment\n\\restrict token;x\nSET client_encoding = 'UTF8';\n"
        "CREATE ROLE \"a;\"\"b\";\nCOMMENT ON ROLE x IS E'it''s \\\\; -- \\\\';\n\n"
        "ALTER ROLE x SET y TO 'a', 'b-c';\n-- end"
    )
    assert global_objects.statements(script) == [
        'CREATE ROLE "a;""b"',
        "COMMENT ON ROLE x IS E'it''s \\\\; -- \\\\'",
        "ALTER ROLE x SET y TO 'a', 'b-c'",
    ]


def test_only_what_is_missing_is_made() -> None:
    script = [
        "CREATE ROLE old", "ALTER ROLE old WITH LOGIN", "CREATE ROLE \"n;ew\"", "ALTER ROLE \"n;ew\" SET a TO 'b'",
        "GRANT old TO older GRANTED BY postgres", "GRANT old TO \"n;ew\" GRANTED BY postgres",
        "COMMENT ON ROLE old IS 'ROLE new'",
        "CREATE TABLESPACE fast OWNER old LOCATION '/x'", "GRANT ALL ON TABLESPACE fast TO old",
        "CREATE TABLESPACE slow OWNER old LOCATION '/y'",
        "REVOKE ALL ON TABLESPACE slow FROM PUBLIC", "GRANT SET ON PARAMETER x TO old",
    ]  # fmt: skip
    left = [2, 3, 5, 9, 10, 11]
    assert global_objects.missing(script, {"old", "older"}, {"fast"}) == [script[number] for number in left]


def test_tablespaces_come_back(cluster: Cluster, database: str, tmp_path: Path) -> None:
    directory = cluster.directory / "space of tables"
    cluster.make_directory(directory)
    location = str(directory).replace("'", "''")
    cluster.sql(f"CREATE TABLESPACE \"fast ü\" LOCATION '{location}'")
    cluster.sql('COMMENT ON TABLESPACE "fast ü" IS \'quick\'; ALTER TABLESPACE "fast ü" SET (random_page_cost = 1.5)')
    cluster.sql('CREATE TABLE t TABLESPACE "fast ü" AS SELECT 1 AS n', database)
    engine = cluster.engine(database)
    backup = dump(engine, tmp_path, options(globals=True))
    assert backup.manifest.properties["tablespaces"] == ["fast ü"]
    before = script_of(cluster)
    cluster.sql("DROP TABLE t", database)
    cluster.sql('DROP TABLESPACE "fast ü"')
    with pytest.raises(EngineError, match="the tablespace fast ü"):
        engine.check_restore(backup.manifest, True, None)
    with engine.load_globals() as loading:
        transfer(backup.globals, loading.load, engine)
        loading.loaded()
    assert script_of(cluster) == before
    restore(engine, backup, replace=True)
    cluster.sql(f"DROP DATABASE {database}")
    cluster.sql('DROP TABLESPACE "fast ü"')
