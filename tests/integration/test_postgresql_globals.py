# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Roles and tablespaces come back on an empty server, and change nothing that another server has already."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from _engine.databases.postgresql.global_statements import statements
from _engine.errors import Damaged, EngineError, PermissionDenied, Refused
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
    cluster.sql(f"CREATE ROLE {database}_power SUPERUSER ROLE {database}_old")
    cluster.sql(f"GRANT ALTER SYSTEM ON PARAMETER archive_command TO {database}_old")
    engine = cluster.engine(database)
    backup = dump(engine, tmp_path, options(globals=True))
    cluster.sql(f"DROP ROLE {database}_gone, {database}_power; ALTER ROLE {database}_old PASSWORD 'new' LOGIN")
    cluster.sql(f"REVOKE ALTER SYSTEM ON PARAMETER archive_command FROM {database}_old")
    before = cluster.value(f"SELECT rolpassword FROM pg_authid WHERE rolname = '{database}_old'")
    with engine.load_globals() as loading:
        transfer(backup.globals, loading.load, engine)
        loading.loaded()
    after = cluster.sql(f"SELECT rolpassword, rolcanlogin FROM pg_authid WHERE rolname = '{database}_old'")
    assert after == [(before, True)]
    assert cluster.value(f"SELECT pg_has_role('{database}_gone', '{database}_old', 'MEMBER')")
    # It gets no right of what comes back, as such a script can be forged.
    assert cluster.value(f"SELECT rolsuper FROM pg_roles WHERE rolname = '{database}_power'")
    assert not cluster.value(f"SELECT pg_has_role('{database}_old', '{database}_power', 'MEMBER')")
    changes = f"has_parameter_privilege('{database}_old', 'archive_command', 'ALTER SYSTEM')"
    assert not cluster.value(f"SELECT {changes}")
    cluster.sql(f"DROP ROLE {database}_gone, {database}_power, {database}_old")


def test_roles_come_back_all_or_none_and_no_hash_is_in_the_message(cluster: Cluster, database: str) -> None:
    engine = cluster.engine(database)
    script = (
        f"CREATE ROLE {database}_1;\nALTER ROLE {database}_1 WITH LOGIN PASSWORD 'a$hash' VALID UNTIL 'nonsense';\n"
    )
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


def test_planted_globals_run_nothing_at_all(cluster: Cluster, database: str) -> None:
    """Not even what precedes a statement that pg_dumpall does not write."""
    engine = cluster.engine(database)
    script = f"CREATE ROLE {database}_1;\nALTER SYSTEM SET archive_command TO 'id > /tmp/{database}';\n"
    for context in (engine.load_globals, engine.examine_globals):
        with pytest.raises(
            Refused, match='does not write \\("ALTER SYSTEM …"\\). Nothing of them was run'
        ), context() as loading:
            loading.load.write_bytes(script.encode())
            loading.loaded()
    assert cluster.sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{database}_1'") == []


def test_globals_far_longer_than_any_are_refused_unread(cluster: Cluster, database: str) -> None:
    with pytest.raises(Refused, match="longer than 64"), cluster.engine(database).load_globals() as loading:
        with loading.load.open("wb") as file:
            file.truncate((64 << 20) + 1)
        loading.loaded()


_ODD = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="\0", max_codepoint=0x2FF), min_size=1, max_size=12
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_ODD.map(lambda name: f"odd {name}"), min_size=1, max_size=8, unique=True), _ODD, _ODD)
def test_whatever_pg_dumpall_writes_of_odd_names_is_known(
    cluster: Cluster, names: list[str], comment: str, value: str
) -> None:
    """Names, comments and settings with quotes, backslashes, semicolons and line breaks come through as they are."""
    quoted = [name.replace('"', '""') for name in names]
    literal = "E'" + comment.replace("\\", "\\\\").replace("'", "\\'") + "'"
    setting = "E'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    try:
        for name in quoted:
            cluster.sql(f"CREATE ROLE \"{name}\" VALID UNTIL '2030-01-01' CONNECTION LIMIT 3")
            cluster.sql(f'COMMENT ON ROLE "{name}" IS {literal}; ALTER ROLE "{name}" SET app.x TO {setting}')
            cluster.sql(f'ALTER ROLE "{name}" SET search_path = {setting}, public')
        script = cluster.program("pg_dumpall", "--globals-only")
        found = list(statements(script))
    finally:
        for name in quoted:
            cluster.sql(f'DROP ROLE IF EXISTS "{name}"')
    assert {item.role for item in found if item.label.startswith("COMMENT")} >= set(names)
    # What is run says the same: taken apart again, it is unchanged.
    again = list(statements(";\n".join(item.sql for item in found) + ";"))
    assert again == found


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
