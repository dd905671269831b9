# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The entries of a dump, as ``pg_restore --list`` has them, and who loads them into a throwaway server. Pure functions.

Any expression in a definition runs code of its author while the definition is only read: a constant of a domain's
array is checked by the domain, a bound of a partition is computed. So a plain role defines everything, but for what
only a superuser may define. The statements of these kinds name objects, and hold no expression. Among functions, only
some take a superuser (in C, or leakproof): what belonged to one is tried as the plain role, and what then fails is
repeated as a superuser only where its statement holds no expression either.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import Callable, Iterator, List, Optional, Sequence, Tuple

#: An entry's number, and behind two other ones its kind, schema (or "-"), name and owner.
_ENTRY = re.compile(r"\d+; \d+ \d+ (.*)")

#: Kinds that precede everything else in a dump, and depend on nothing in it.
_FIRST = ("SCHEMA - ", "EXTENSION - ")
#: Kinds without an expression, that only a superuser may define.
_WITHOUT_EXPRESSION = (
    "ACCESS METHOD ",
    "CAST ",
    "FOREIGN DATA WRAPPER ",
    "OPERATOR CLASS ",
    "OPERATOR FAMILY ",
    "PROCEDURAL LANGUAGE ",
    "SERVER ",
    "SHELL TYPE ",
    "TEXT SEARCH PARSER ",
    "TEXT SEARCH TEMPLATE ",
    "TRANSFORM ",
    "TYPE ",
    "USER MAPPING ",
)
#: Kinds that can have expressions, and of which some take a superuser.
_BY_OWNER = ("AGGREGATE ", "FOREIGN TABLE ", "FUNCTION ", "PROCEDURE ")

_CHECK = ("CHECK CONSTRAINT ",)
_SHARED = ("ACL ", "DEFAULT ACL ", "PUBLICATION - ", "PUBLICATION TABLES IN SCHEMA ", "SUBSCRIPTION - ")
#: Loading these runs functions, or needs what ``_SHARED`` holds.
_FULFILLED = ("FK CONSTRAINT ", "MATERIALIZED VIEW DATA ", "PUBLICATION TABLE ")
_DESCRIBED = ("COMMENT ", "SECURITY LABEL ")
_WATCHING = ("EVENT TRIGGER ", "COMMENT - EVENT TRIGGER ", "SECURITY LABEL - EVENT TRIGGER ")

#: Whether a superuser loads these lines (None: where the plain role fails and ``is_harmless``), and the lines.
Part = Tuple[Optional[bool], List[str]]

_NAME = re.compile(r'"(?:[^"]|"")*"')
_BODY = "\n    AS "
_COMPUTED = {
    "AGGREGATE ": re.compile(r"INITCOND"),
    "FOREIGN TABLE ": re.compile(r"\b(?:DEFAULT|CHECK|GENERATED)\b"),
    # A body in SQL's own syntax is read as a definition, other than one in a string.
    "FUNCTION ": re.compile(r"\b(?:DEFAULT|ATOMIC|RETURN)\b"),
    "PROCEDURE ": re.compile(r"\b(?:DEFAULT|ATOMIC|RETURN)\b"),
}


def entries(listed: Sequence[str]) -> List[str]:
    """The lines of a list that are entries."""
    return [line for line in listed if _ENTRY.fullmatch(line)]


def definitions(before: Sequence[str], roles: Sequence[str], superusers: Sequence[str]) -> Tuple[Part, Iterator[Part]]:
    """The definitions that precede the rows, in their order: those to begin with, and then the others."""

    def by_superuser(line: str) -> Optional[bool]:
        if _is(line, _BY_OWNER) and owner(line, roles) in superusers:
            return None
        return _is(line, _WITHOUT_EXPRESSION)

    rest = [line for line in before if not _is(line, (*_FIRST, *_SHARED, *_DESCRIBED))]
    parts = ((superuser, list(lines)) for superuser, lines in groupby(rest, by_superuser))
    return (True, _of(before, _FIRST)), parts


def is_harmless(line: str, sql: str) -> bool:
    """Whether the statement that defines an entry of a superuser's, in pg_restore's words, holds no expression.

    Words in names and in strings do not count; where it is not understood, it may hold one.
    """
    kind = next((kind for kind in _BY_OWNER if _is(line, (kind,))), None)
    # Names in comments above it are not quoted.
    begun = re.search(r"^CREATE ", sql, re.MULTILINE)
    if kind is None or begun is None:
        return False
    statement = _NAME.sub("", sql[begun.start() :])
    if kind in ("FUNCTION ", "PROCEDURE "):
        statement, body, _rest = statement.partition(_BODY)
        if not body:
            return False
    return _COMPUTED[kind].search(statement) is None


def number(line: str) -> int:
    """The number of an entry in its dump."""
    return int(line.partition(";")[0])


def checks(after: Sequence[str]) -> List[str]:
    """The check constraints that pg_dump keeps for later, to be loaded with the rows."""
    return _of(after, _CHECK)


def built(after: Sequence[str]) -> List[str]:
    """What follows the rows and runs only what the server itself confines: indexes, triggers, rules, policies."""
    others = (*_CHECK, *_SHARED, *_FULFILLED, *_DESCRIBED, *_WATCHING)
    return [line for line in after if not _is(line, others)]


def finished(everything: Sequence[str]) -> List[Part]:
    """What comes last: grants, then what needs them, then comments, and at the very end what watches all else."""
    described = [line for line in _of(everything, _DESCRIBED) if not _is(line, _WATCHING)]
    return [
        (True, _of(everything, _SHARED)),
        (False, _of(everything, _FULFILLED)),
        (True, described),
        (True, _of(everything, _WATCHING)),
    ]


def owner(line: str, roles: Sequence[str]) -> Optional[str]:
    """The role among these that a line ends with. Where several may be meant, the longest: no name hides in it."""
    matches: Callable[[str], bool] = lambda role: line.endswith(" " + re.sub(r"[\r\n]", " ", role))  # noqa: E731
    return max(filter(matches, roles), key=len, default=None)


def _of(lines: Sequence[str], kinds: Tuple[str, ...]) -> List[str]:
    return [line for line in lines if _is(line, kinds)]


def _is(line: str, kinds: Tuple[str, ...]) -> bool:
    entry = _ENTRY.fullmatch(line)
    return entry is not None and entry.group(1).startswith(kinds)
