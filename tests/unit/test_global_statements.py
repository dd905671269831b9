# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Of roles and tablespaces, only what pg_dumpall writes is ever run, and it is written anew from its parts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _engine.databases.postgresql.global_objects import Present
from _engine.databases.postgresql.global_statements import Statement, statements
from _engine.errors import Damaged, Refused


def run(script: str) -> list[str]:
    return [statement.sql for statement in statements(script)]


def only(script: str) -> Statement:
    (statement,) = statements(script)
    return statement


#: As PostgreSQL 13 to 18 write them, and what becomes of them.
KNOWN = {
    "CREATE ROLE app;": 'CREATE ROLE "app"',
    'CREATE ROLE "a;""b";': 'CREATE ROLE "a;""b"',
    "ALTER ROLE app WITH NOSUPERUSER INHERIT NOCREATEROLE CREATEDB LOGIN NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 7 "
    "PASSWORD 'SCRAM-SHA-256$4096:a/b+c==$d:e=' VALID UNTIL '2030-01-01 00:00:00+00';": None,
    "ALTER ROLE app SET \"DateStyle\" TO 'ISO, DMY';": 'ALTER ROLE "app" SET "DateStyle" TO \'ISO, DMY\'',
    "ALTER ROLE app SET search_path TO 'a b', 'public';": None,
    "ALTER ROLE app SET \"app.x\" TO E'it''s a \\\\';": None,
    "COMMENT ON ROLE app IS 'it''s; -- not a comment';": None,
    "SECURITY LABEL FOR selinux ON ROLE app IS 'x';": None,
    "SECURITY LABEL FOR selinux ON TABLESPACE fast IS 'x';": None,
    "GRANT app TO web WITH ADMIN OPTION GRANTED BY postgres;": None,
    "GRANT app TO web WITH ADMIN OPTION, INHERIT FALSE, SET FALSE GRANTED BY postgres;": None,
    "GRANT app TO web WITH INHERIT TRUE GRANTED BY postgres;": None,
    "GRANT app TO web;": None,
    "CREATE TABLESPACE fast OWNER app LOCATION '/srv/fast';": None,
    "ALTER TABLESPACE fast SET (random_page_cost=1.5, seq_page_cost=1e-05);": None,
    "COMMENT ON TABLESPACE fast IS 'quick';": None,
    "REVOKE ALL ON TABLESPACE fast FROM PUBLIC;": None,
    "GRANT ALL ON TABLESPACE fast TO PUBLIC;": None,
    "GRANT CREATE ON TABLESPACE fast TO app WITH GRANT OPTION;": None,
    "REVOKE GRANT OPTION FOR CREATE ON TABLESPACE fast FROM app;": None,
    "GRANT SET, ALTER SYSTEM ON PARAMETER work_mem TO app;": None,
    "REVOKE SET ON PARAMETER work_mem FROM PUBLIC;": None,
}


@pytest.mark.parametrize("script", KNOWN)
def test_what_pg_dumpall_writes_is_run(script: str) -> None:
    (written,) = run(script)
    assert run(written + ";") == [written]
    if KNOWN[script]:
        assert written == KNOWN[script]


def test_what_belongs_to_the_script_alone_is_not_run() -> None:
    script = (
        "--\n-- a; comment\n--\n\n\\restrict ab12\n\nSET default_transaction_read_only = off;\n"
        "SET client_encoding = 'UTF8';\nSET standard_conforming_strings = on;\n"
        "SET SESSION AUTHORIZATION app;\nGRANT CREATE ON TABLESPACE fast TO web;\nRESET SESSION AUTHORIZATION;\n"
        "\\unrestrict ab12\n\n-- end"
    )
    assert run(script) == ['GRANT CREATE ON TABLESPACE "fast" TO "web"']


def test_backslashes_are_read_as_the_script_says() -> None:
    off = "SET standard_conforming_strings = off;\nSET escape_string_warning = off;\n"
    assert run(off + "COMMENT ON ROLE app IS 'a \\\\ b';") == ["COMMENT ON ROLE \"app\" IS E'a \\\\ b'"]
    assert run("COMMENT ON ROLE app IS 'a \\ b';") == ["COMMENT ON ROLE \"app\" IS E'a \\\\ b'"]


@pytest.mark.parametrize(
    "script",
    [
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';",
        "DO 'BEGIN END';",
        "DO $$BEGIN END$$;",
        "\\! id",
        "\\copy t TO PROGRAM 'id'",
        "\\connect shop",
        "\\i /etc/passwd",
        "\\restrict a\\! id",
        "CREATE ROLE app; \\restrict ab12",
        "COPY t TO PROGRAM 'id';",
        "ALTER SYSTEM SET archive_command TO 'id';",
        "SELECT pg_catalog.set_config('search_path', '', false);",
        "SELECT 1;",
        "SET search_path = evil;",
        "SET role = postgres;",
        "SET client_encoding = 'LATIN1';",
        "SET SESSION AUTHORIZATION DEFAULT;",
        "SET LOCAL SESSION AUTHORIZATION app;",
        "CREATE DATABASE shop;",
        "DROP ROLE app;",
        "ALTER ROLE app RENAME TO web;",
        "ALTER ROLE app RESET ALL;",
        "ALTER ROLE ALL SET search_path TO 'evil';",
        "ALTER ROLE CURRENT_USER WITH SUPERUSER;",
        "ALTER ROLE app IN DATABASE shop SET x TO 'y';",
        "ALTER ROLE app WITH LOGIN IN ROLE postgres;",
        "ALTER ROLE app WITH PASSWORD NULL;",
        "ALTER ROLE app SET x FROM CURRENT;",
        "ALTER ROLE app SET x TO DEFAULT;",
        "CREATE ROLE app SUPERUSER;",
        "CREATE USER app;",
        "COMMENT ON DATABASE shop IS 'x';",
        "COMMENT ON ROLE app IS NULL;",
        "COMMENT ON ROLE app IS 'a' 'b';",
        "COMMENT ON ROLE app IS $$x$$;",
        "COMMENT ON ROLE app IS U&'x';",
        "COMMENT ON ROLE app IS E'\\x41';",
        "COMMENT ON ROLE app IS E'a\\'; DROP ROLE x; --';",
        "COMMENT ON /* a comment */ ROLE app IS 'x';",
        "GRANT ALL ON DATABASE shop TO app;",
        "GRANT pg_read_file TO app, web;",
        "GRANT SELECT ON TABLE t TO app;",
        "GRANT app TO CURRENT_USER;",
        "REVOKE app FROM web;",
        "CREATE TABLESPACE fast LOCATION '/srv/fast';",
        "CREATE TABLESPACE fast OWNER app LOCATION '/srv/fast' WITH (x=1);",
        "ALTER TABLESPACE fast RENAME TO slow;",
        "create role app;",
        "CREATE ROLE app\0;",
        "CREATE ROLE App;",
    ],
)
def test_anything_else_is_refused(script: str) -> None:
    with pytest.raises((Refused, Damaged)) as caught:
        run("CREATE ROLE before;\n" + script)
    assert str(caught.value).endswith("Find out who wrote this backup.")


@pytest.mark.parametrize("start", ["COMMENT ON ROLE x IS '", "COMMENT ON ROLE x IS E'", 'CREATE ROLE "'])
def test_what_is_never_closed_is_refused_at_once(start: str) -> None:
    with pytest.raises((Damaged, Refused)):
        list(statements(start + "n" * 1_000_000))


@pytest.mark.parametrize("script", ["CREATE ROLE half", "COMMENT ON ROLE app IS 'open", 'CREATE ROLE "open'])
def test_a_script_that_ends_early_is_refused(script: str) -> None:
    with pytest.raises((Refused, Damaged)):
        run(script)


def test_no_part_of_a_secret_is_in_the_refusal() -> None:
    with pytest.raises(Refused) as caught:
        run("ALTER ROLE app WITH PASSWORD 'SCRAM-SHA-256$hash' NONSENSE;")
    assert "hash" not in str(caught.value) and '"ALTER ROLE …"' in str(caught.value)


@given(st.text(max_size=200))
def test_any_text_is_known_or_refused(script: str) -> None:
    try:
        written = run(script)
    except (Refused, Damaged):
        return
    assert run("".join(f"{sql};" for sql in written)) == written


@given(st.text(min_size=1).filter(lambda text: "\0" not in text), st.text().filter(lambda text: "\0" not in text))
def test_names_and_values_come_through_as_they_are(name: str, value: str) -> None:
    quoted = value.replace("'", "''")
    literal = "E'" + quoted.replace("\\", "\\\\") + "'" if "\\" in value else f"'{quoted}'"
    quoted_name = '"' + name.replace('"', '""') + '"'
    statement = only(f"COMMENT ON ROLE {quoted_name} IS {literal};")
    assert statement.role == name
    assert statement.sql == f"COMMENT ON ROLE {quoted_name} IS {literal}"


def left_of(script: list[str], present: Present) -> list[str]:
    """The statements of a script that are run on a server."""
    return [given for given in script if not present.covers(only(f"{given};"))]


def test_only_what_is_missing_is_made() -> None:
    missing = [
        'CREATE ROLE "n;ew"', "ALTER ROLE \"n;ew\" SET a TO 'b'", 'GRANT old TO "n;ew" GRANTED BY postgres',
        "CREATE TABLESPACE slow OWNER old LOCATION '/y'", "REVOKE ALL ON TABLESPACE slow FROM PUBLIC",
        "GRANT ALL ON TABLESPACE slow TO old", "GRANT SET ON PARAMETER x TO new", "GRANT new TO postgres",
    ]  # fmt: skip
    there = [
        "CREATE ROLE old", "ALTER ROLE old WITH LOGIN", "GRANT old TO older GRANTED BY postgres",
        "COMMENT ON ROLE old IS 'ROLE new'",
        "CREATE TABLESPACE fast OWNER old LOCATION '/x'", "GRANT ALL ON TABLESPACE fast TO new",
    ]  # fmt: skip
    present = Present({"postgres", "old", "older"}, {"fast"}, {"old", "older"})
    assert left_of([*there, *missing], present) == missing


def test_a_role_that_exists_gets_no_right_of_a_new_one() -> None:
    script = [
        "GRANT new TO old", "GRANT new TO old WITH ADMIN OPTION GRANTED BY postgres", "GRANT pg_read_all_data TO old",
        "GRANT SET, ALTER SYSTEM ON PARAMETER work_mem TO old", "REVOKE SET ON PARAMETER work_mem FROM old",
        "GRANT SET ON PARAMETER work_mem TO PUBLIC",
    ]  # fmt: skip
    assert left_of(script, Present({"postgres", "old"}, set(), {"old"})) == []
    # A lost host's new server has its first superuser only.
    assert left_of(script, Present({"postgres", "pg_read_all_data"}, set(), set())) == script


def test_a_long_setting_is_read_and_a_far_longer_one_named() -> None:
    schemas = ", ".join(f"'tenant_{number:08}'" for number in range(10_000))
    assert only(f"ALTER ROLE app SET search_path TO {schemas};").role == "app"
    with pytest.raises(Refused, match=r'more than 512.*"ALTER ROLE …".*psql'):
        run(f"ALTER ROLE app SET search_path TO {schemas * 5};")
