# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How much of a server's or a program's message may be shown. Pure functions; nothing else decides it.

What PostgreSQL says of an error can hold rows: DETAIL and CONTEXT quote them, the program adds the statement, and even
the primary message quotes a value that it could not read. Functions of users raise errors with any text and any
SQLSTATE. So only what has the shape of one of PostgreSQL's own messages is shown, and only as far as it names objects.
The server's log has the rest.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import List, Pattern, Tuple

#: What stands for a message that may not be shown.
WITHHELD = "the server's message may quote data, so that it is in the server's log only"

#: A line that stands for what was left out of a program's output.
CUT = "[...]"

#: PostgreSQL's programs, and the one that we start them through.
_PROGRAMS = ("pg_dump", "pg_dumpall", "pg_restore", "pg_basebackup", "initdb", "pg_ctl", "psql", "postgres", "stdbuf")
_OWN_LINE = re.compile(rf"(?:\S*/)?(?:{'|'.join(_PROGRAMS)})(?::[^\s:]+:[0-9]+)?: (.*)")
#: libpq puts the severity, in any language, a colon and two spaces before a server's primary message.
_SEVERITY = re.compile(r"(?:^|(?<=\s))\S+:  ")
#: A procedural language in a context. In PL/pgSQL, the author's own text comes from these statements alone, whose names
#: stand there in capitals whatever the server's language is.
_RAISED = re.compile(r"\bPL/(?:(?!pgSQL)|.*\b(?:RAISE|ASSERT)\b)", re.DOTALL)
#: Source files of procedural languages: pl_exec.c, plperl.c, plpy_elog.c, pltcl.c, plv8.cc and so on; the planner's are
#: the server's own.
_LANGUAGE_FILE = re.compile(r"(?:.*/)?pl(?!an(?:agg|cache|cat|main|ner)\.c$)[^/]*")
_STATEMENT = re.compile(r"(?:(?:detail|hint|error): )?(?:the )?(?:query|command|statement) was\b", re.IGNORECASE)
_SERVERS_WORDS = re.compile(r"(?:detail|error): Error message from server: ")

#: A name in quotes, and what stands for an object without them: no colon, after which PostgreSQL puts values.
_NAME = r'"[^"\n]*"'
_OBJECT = rf"(?:{_NAME}|[^:\"\n])*"
#: One object: its name in quotes, a function with the types of its arguments, or a number.
_NAMED = rf"(?:for )?(?:{_NAME}|[^\s:\"]+\([^:\"\n]*\)|[0-9]+)(?: [a-z ]+{_NAME})* "
_KINDS = (
    "access method|aggregate|attribute|cast|collation|column|configuration|constraint|conversion|cursor|database|domain"
    "|encoding|event trigger|extension|foreign-data wrapper|function|index|language|large object|locale"
    "|materialized view|operator|operator class|operator family|parameter|partition|policy|prepared statement"
    "|procedure|publication|relation|replication slot|role|routine|rule|savepoint|schema|sequence|server|source"
    "|statistics object|subscription|table|tablespace|text search \\w+|transform|trigger|type|user mapping|view"
)
_FORBIDDEN = (
    "execute|drop|alter|create|use|change|connect|refresh|set|run|perform|lock|open|truncate|rename|export|import"
    "|assign|acquire|copy|insert|attach|detach"
)
_FAILED = (
    "extend|open|read|write|access|create|fsync|stat|rename|remove|truncate|resize|load|find|connect|determine"
    "|identify|seek|map|allocate|fork|send|receive|establish"
)
_REASONS = "No space left on device|Permission denied|No such file or directory|Input/output error"
_SHAPES = (
    # Objects and rights.
    rf"(?:{_KINDS}) {_NAMED}(?:does not exist|already exists|is not unique|is ambiguous|has not been populated)\b",
    rf"(?:{_KINDS}) {_NAMED}(?:is not|cannot be|must be|is already|contains null values|is violated by)\b{_OBJECT}",
    rf"(?:permission denied|must be (?:owner|superuser|member|able)|only superusers?|operation not){_OBJECT}",
    rf"query would be affected by row-level security policy for {_OBJECT}",
    rf"access to non-system (?:view {_NAME}|foreign table) is restricted",
    rf"no schema has been selected to create in|unrecognized configuration parameter {_NAME}",
    rf"invalid (?:value for parameter|snapshot identifier|locale name|LC_\w+ locale name)(?: {_NAME})?",
    rf"security label provider {_NAME} is not loaded|could not import the requested snapshot",
    # Rows that constraints refuse: names of constraints and tables, never values.
    rf"(?:new row for relation|duplicate key value|null value in column|insert or update on table){_OBJECT}",
    rf"(?:update or delete on table|conflicting key value|value for domain|no partition of relation){_OBJECT}",
    rf"check constraint {_OBJECT}",
    rf"could not create (?:unique index|exclusion constraint) {_NAME}|column {_OBJECT} contains null values",
    # Values that could not be read: the type, not the value.
    r"invalid input (?:syntax for|value for enum)(?: type)? [\w .\[\]]+",
    r'value "[^"\n]*" is out of range for type (?P<type>[\w ]+)',
    r"date/time field value out of range|(?:smallint|integer|bigint|timestamp|date|interval) out of range",
    r"malformed (?:array|record|range|multirange) literal|numeric field overflow|division by zero",
    r'invalid byte sequence for encoding "\w+"|value too long for type [\w ]+\([0-9]+\)',
    rf"extra data after last expected column|missing data for column {_NAME}|unterminated [a-z ]+",
    # The server's state.
    rf"canceling {_OBJECT}|could not obtain lock on {_OBJECT}|deadlock detected|out of (?:shared )?memory",
    rf"terminating (?:connection|background worker|walsender|autovacuum){_OBJECT}|the database system is {_OBJECT}",
    rf"sorry, too many clients already|remaining connection slots{_OBJECT}|too many connections for {_OBJECT}",
    rf"cannot (?:{_FORBIDDEN}){_OBJECT}",
    rf"could not (?:{_FAILED}){_OBJECT}(?:: (?:{_REASONS}))?",
    r"missing chunk number [0-9]+ for toast value [0-9]+ in \w+|invalid page in block [0-9]+ of relation \S+",
    r"cache lookup failed for [a-z ]+ [0-9]+|invalid memory alloc request size [0-9]+|stack depth limit exceeded",
    rf"index row {_OBJECT}exceeds {_OBJECT}|index row requires [0-9]+ bytes, maximum size is [0-9]+",
    rf"replication slot {_OBJECT}|unsupported {_OBJECT}|there is no unique constraint matching {_OBJECT}",
    rf"{_NAME} is (?:not a|a|an) {_OBJECT}",
    # What stands before a session has begun, where no user's code runs.
    rf"no pg_hba\.conf entry for {_OBJECT}|pg_hba\.conf rejects {_OBJECT}",
    rf"\w+ authentication failed for user {_NAME}",
)
#: Longer than any message of PostgreSQL's that has one of these shapes, with two names of 63 bytes.
_LONGEST = 500


@lru_cache(maxsize=None)
def _shapes() -> Tuple[Pattern[str], ...]:
    """Compiled where a message is there to be looked at: that takes longer than most of a command's start."""
    return tuple(map(re.compile, _SHAPES))


def of_server(primary: str, sqlstate: str = "", source_file: str = "", context: str = "") -> str:
    """A server's primary message as far as it may be shown; ``sqlstate`` stands for one that may not.

    ``source_file`` and ``context`` are the server's, where they are known.
    """
    text = primary.strip()[:_LONGEST]
    raised = sqlstate.startswith("P0") or is_raised(context) or _LANGUAGE_FILE.fullmatch(source_file)
    for shape in () if raised else _shapes():
        match = shape.match(text)
        if match:
            said = match.group(0)
            if match.groupdict().get("type"):
                said = f"a value is out of range for type {match.group('type')}"
            return said.strip().rstrip(".")
    return f"SQLSTATE {sqlstate}; {WITHHELD}" if sqlstate else WITHHELD


def of_program(name: str, output: str) -> str:
    """What a program wrote on standard error, as far as it may be shown: several lines, or none at all.

    Of PostgreSQL's programs, that is their own lines, and what ``of_server`` leaves of a server's message in them.
    Other programs see no rows, or only as bytes.
    """
    if name not in _PROGRAMS:
        return output
    found = [said for said in (of_line(line) for line in settled(output).splitlines()) if said]
    return "\n".join(dict.fromkeys(found))


def settled(output: str) -> str:
    """The output of a PostgreSQL program, without the server's message where a user's function wrote that."""
    lines: List[str] = []
    last = None
    for line in output.splitlines():
        if _OWN_LINE.fullmatch(line.strip()):
            last = len(lines)
        elif last is not None and (line == CUT or is_raised(line)):
            # What was left out may be that context.
            lines[last] = withheld(lines[last])
        lines.append(line)
    return "\n".join(lines)


def holds_servers_words(output: str) -> bool:
    """Whether a program passed on what a server said, or may have: any other line can then be part of that too."""
    return any(line == CUT or _SEVERITY.search(line) for line in output.splitlines())


def is_raised(context: str) -> bool:
    """Whether a context, or a line of it, says that a user's function wrote the text of the error above it."""
    return _RAISED.search(context) is not None


def withheld(line: str) -> str:
    """A line of a PostgreSQL program without the server's message in it."""
    severity = _SEVERITY.search(line)
    return line[: severity.end()] + WITHHELD if severity else line


def of_line(line: str) -> str:
    """One line of a PostgreSQL program as it may be shown, with the program's name; empty where it may not be."""
    own = _OWN_LINE.fullmatch(line.strip())
    if own is None or _STATEMENT.match(own.group(1)):
        return ""
    said = own.group(1)
    head = line.strip()[: -len(said)]
    if said.startswith(("detail: ", "hint: ")) and not _SERVERS_WORDS.match(said):
        return ""
    severity = _SEVERITY.search(said)
    if severity is None:
        return head + said
    before = said[: severity.start()]
    # A session that could not be opened has seen no row, and no function of a user.
    refused = "connection to server" in before or "could not connect" in before
    return head + before + (said[severity.end() :] if refused else of_server(said[severity.end() :]))
