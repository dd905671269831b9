# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Of what servers and programs say, objects are shown and rows never are."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from _engine.errors import ToolFailed
from _engine.messages import CUT, WITHHELD, of_program, of_server

COPY = """pg_restore: error: COPY failed for table "people": ERROR:  invalid input syntax for type integer: "Alice"
DETAIL:  Alice lives in Oslo.
CONTEXT:  COPY people, line 1, column age: "Alice"
"""
STATEMENT = """pg_restore: while PROCESSING TOC:
pg_restore: from TOC entry 3366; 1259 16392 INDEX place_norm postgres
pg_restore: error: could not execute query: ERROR:  function inner_norm(text) does not exist
LINE 1: select inner_norm('Alice')
               ^
HINT:  No function matches "Alice".
QUERY:  select inner_norm('Alice')
CONTEXT:  SQL function "norm" during startup
Command was: CREATE INDEX place_norm ON public.place USING btree (public.norm(name));

INSERT INTO people VALUES ('Alice');
"""
DUMP = """pg_dump: error: Dumping the contents of table "people" failed: PQgetResult() failed.
pg_dump: detail: Error message from server: ERROR:  missing chunk number 0 for toast value 16400 in pg_toast_16395
pg_dump: detail: Command was: COPY public.people (name) WHERE 'Alice' TO stdout;
"""


def test_a_programs_own_lines_are_kept_without_rows_or_statements() -> None:
    assert of_program("pg_restore", COPY) == (
        'pg_restore: error: COPY failed for table "people": invalid input syntax for type integer'
    )
    assert of_program("pg_restore", STATEMENT).splitlines() == [
        "pg_restore: while PROCESSING TOC:",
        "pg_restore: from TOC entry 3366; 1259 16392 INDEX place_norm postgres",
        "pg_restore: error: could not execute query: function inner_norm(text) does not exist",
    ]
    assert of_program("pg_dump", DUMP).endswith("missing chunk number 0 for toast value 16400 in pg_toast_16395")
    for output in (COPY, STATEMENT, DUMP):
        assert "Alice" not in str(ToolFailed("pg_restore", 1, output))


#: A function of a user that says what a server says, and with it a row.
RAISED = """pg_restore: error: could not execute query: ERROR:  permission denied for Alice of Oslo
CONTEXT:  PL/pgSQL function public.welcome(text) line 3 at RAISE
Command was: CREATE INDEX place_norm ON public.place USING btree (public.norm(name));
pg_restore: error: could not execute query: ERROR:  permission denied for table place
CONTEXT:  PL/pgSQL function public.welcome(text) line 3 at SQL statement
"""


def test_what_a_function_raises_in_a_servers_words_is_withheld() -> None:
    assert of_program("pg_restore", RAISED).splitlines() == [
        f"pg_restore: error: could not execute query: {WITHHELD}",
        "pg_restore: error: could not execute query: permission denied for table place",
    ]
    for context in ("PL/pgSQL-Funktion f() Zeile 3 bei RAISE", 'PL/Perl function "f"', 'PL/Python function "f"'):
        said = of_program(
            "pg_restore", RAISED.replace("PL/pgSQL function public.welcome(text) line 3 at RAISE", context)
        )
        assert "Alice" not in said
        assert of_server("permission denied for Alice", "42501", context=context).startswith("SQLSTATE 42501")
    # A text so long that its context was left out.
    assert "Alice" not in of_program("pg_restore", RAISED.splitlines()[0] + f"\n{'x' * 900}\n{CUT}\nxxx")
    for file in ("pl_exec.c", "plperl.c", "./build/../src/pl/plpython/plpy_elog.c", "plv8.cc"):
        assert of_server("permission denied for Alice", "42501", file).startswith("SQLSTATE 42501")
    assert of_server("permission denied for table place", "42501", "aclchk.c") == "permission denied for table place"


def test_a_loader_that_cannot_start_a_program_is_heard() -> None:
    line = "/usr/lib/postgresql/15/bin/pg_dump: error while loading shared libraries: libpq.so.5: cannot open"
    assert of_program("pg_dump", line) == line


def test_other_programs_are_shown_as_they_are() -> None:
    assert of_program("zstd", "zstd: anything") == "zstd: anything"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ('date/time field value out of range: "Alice"', "date/time field value out of range"),
        ('value "Alice" is out of range for type integer', "a value is out of range for type integer"),
        ('invalid byte sequence for encoding "UTF8": 0xe9', 'invalid byte sequence for encoding "UTF8"'),
        ('malformed array literal: "{Alice"', "malformed array literal"),
        ('invalid input value for enum mood: "Alice"', "invalid input value for enum mood"),
        ('duplicate key value violates unique constraint "people_pkey"', None),
        ('new row for relation "people" violates check constraint "people_check"', None),
        ('null value in column "name" of relation "people" violates not-null constraint', None),
        ('could not create unique index "people_pkey"', None),
        ('column "nome" of relation "people" does not exist', None),
        ('relation "people" does not exist', None),
        ("permission denied for table people", None),
        ("must be owner of database shop", None),
        ('role "clerk" does not exist', None),
        ('could not extend file "base/1/2": No space left on device', None),
        ('invalid value for parameter "lc_monetary": "es_AR.UTF-8"', 'invalid value for parameter "lc_monetary"'),
        ("canceling statement due to lock timeout", None),
        ("cannot execute CREATE TABLE in a read-only transaction", None),
    ],
)
def test_objects_are_named_and_values_are_not(said: str, shown: str) -> None:
    assert of_server(said, "XX000") == (shown or said)


@pytest.mark.parametrize(
    "said", ["Alice is not welcome", "user Alice does not exist", "row Alice", "", 'syntax error at or near "Alice"']
)
def test_what_a_function_of_a_user_may_have_said_is_withheld(said: str) -> None:
    assert of_server(said) == WITHHELD
    assert of_server(said, "22023") == f"SQLSTATE 22023; {WITHHELD}"
    assert of_server('role "Alice" does not exist', "P0001").startswith("SQLSTATE P0001")


ENGINE = Path(__file__).resolve().parents[2] / "plugins" / "module_utils" / "_engine"
OF_THE_SYSTEM = ("OSError", "PermissionError", "FileNotFoundError")


@pytest.mark.once
def test_errors_of_the_system_are_shown_without_their_number() -> None:
    """``str()`` of one is ``[Errno 5] Input/output error: '/path'``."""
    for path in sorted(ENGINE.rglob("*.py")):
        for handler in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(handler, ast.ExceptHandler) and handler.name and handler.type:
                kinds = [node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)]
                for part in ast.walk(handler):
                    if isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name):
                        shown = part.value.id == handler.name and set(kinds) & set(OF_THE_SYSTEM)
                        assert not shown, f"{path}:{part.lineno} shows it as it is"
