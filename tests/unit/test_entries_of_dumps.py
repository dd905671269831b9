# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who loads which entry of a dump: a superuser what cannot run code, and a plain role everything else."""

from __future__ import annotations

import pytest

from _engine.databases.postgresql import entries

ROLES = ("postgres", "app", "not postgres", "two\nlines")


def test_a_name_that_ends_like_a_superusers_is_no_superusers() -> None:
    assert entries.owner("1; 1255 2 FUNCTION public f(integer) postgres", ROLES) == "postgres"
    assert entries.owner("1; 1255 2 FUNCTION public f(integer) not postgres", ROLES) == "not postgres"
    assert entries.owner("1; 1255 2 FUNCTION public f(integer) two lines", ROLES) == "two\nlines"
    assert entries.owner("1; 1255 2 FUNCTION public f(integer) xpostgres", ROLES) is None


def test_a_superuser_defines_only_what_cannot_run_code_and_the_order_stays() -> None:
    lines = [
        "9; 2615 1 SCHEMA - shop app",
        "8; 3079 1 EXTENSION - ltree ",
        "7; 1247 1 TYPE shop mood app",
        "6; 1255 1 FUNCTION shop in_c(integer) postgres",
        "5; 1255 1 FUNCTION shop f(integer) app",
        "4; 1259 1 TABLE shop TYPE app",
        "3; 1259 1 TABLE shop t postgres",
        "2; 1247 1 DOMAIN shop d postgres",
        "1; 0 0 COMMENT shop TABLE t app",
        "0; 0 0 ACL shop TABLE t app",
    ]
    first, others = entries.definitions(lines, ROLES, ["postgres"])
    assert first == (True, lines[:2])
    assert list(others) == [(True, lines[2:3]), (None, lines[3:4]), (False, lines[4:8])]


@pytest.mark.parametrize(
    ("kind", "statement", "harmless"),
    [
        ("FUNCTION", "f(integer) RETURNS boolean\n    LANGUAGE c\n    AS '$libdir/x', 'DEFAULT';", True),
        ("FUNCTION", "f(\"DEFAULT\" integer) RETURNS boolean\n    LANGUAGE c\n    AS 'x';", True),
        ("FUNCTION", "f(x app.d[] DEFAULT '{1}') RETURNS integer\n    LANGUAGE sql LEAKPROOF\n    AS 'x';", False),
        ("FUNCTION", "f(\"a\n    AS '\" app.d[] DEFAULT '{1}') RETURNS integer\n    LANGUAGE c\n    AS 'x';", False),
        ("FUNCTION", "f() RETURNS app.d[]\n    LANGUAGE sql LEAKPROOF\n    RETURN '{1}'::app.d[];", False),
        ("PROCEDURE", "p()\n    LANGUAGE sql\n    BEGIN ATOMIC\n SELECT 1 x\n    AS y;\nEND;", False),
        ("AGGREGATE", "a(integer) (\n    SFUNC = app.s,\n    STYPE = internal\n);", True),
        ("AGGREGATE", "a(integer) (\n    SFUNC = app.s,\n    STYPE = app.d[],\n    INITCOND = '{1}'\n);", False),
        ("FOREIGN TABLE", "t (\n    a integer NOT NULL\n)\nSERVER s\nOPTIONS (\n    filename '/x'\n);", True),
        ("FOREIGN TABLE", "t (\n    a integer DEFAULT app.f()\n)\nSERVER s;", False),
    ],
)
def test_what_a_superuser_repeats_holds_no_expression(kind: str, statement: str, harmless: bool) -> None:
    # The comment has the name as it is.
    sql = (
        f'SET x = 1;\n\n--\n-- Name: o"dd; Type: {kind}; Owner: postgres\n--\n\nCREATE {kind} public.{statement}\n\n\n'
    )
    assert entries.is_harmless(f"1; 1255 1 {kind} public f postgres", sql) is harmless
    assert not entries.is_harmless(f"1; 1255 1 {kind} public f postgres", "")
    assert not entries.is_harmless("1; 1259 1 TABLE public t postgres", sql)


def test_every_entry_after_the_rows_is_loaded_once() -> None:
    lines = [
        f"{number}; 1 1 {kind} app"
        for number, kind in enumerate(
            (
                "CHECK CONSTRAINT public t c", "FK CONSTRAINT public t f", "INDEX public i", "TRIGGER public t x",
                "POLICY public t p", "RULE public t r", "MATERIALIZED VIEW DATA public m", "PUBLICATION - p",
                "PUBLICATION TABLE public p t", "SUBSCRIPTION - s", "EVENT TRIGGER - e", "COMMENT - EVENT TRIGGER e",
                "COMMENT public INDEX i", "DEFAULT ACL public DEFAULT PRIVILEGES FOR TABLES", "STATISTICS public s",
            )
        )
    ]  # fmt: skip
    finished = entries.finished(lines)
    loaded = [*entries.checks(lines), *entries.built(lines), *(line for _part, part in finished for line in part)]
    assert sorted(loaded) == sorted(lines)
    by_superuser = [line.split(" ", 3)[3] for superuser, part in finished if superuser for line in part]
    assert not [line for line in by_superuser if line.startswith(("FK", "MAT", "PUBLICATION TABLE", "INDEX"))]
