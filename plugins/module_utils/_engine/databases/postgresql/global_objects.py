# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bringing roles and tablespaces back from what ``pg_dumpall --globals-only`` wrote.

That script is made for an empty server, and even there fails at its first role, which initdb made already. Here roles
and tablespaces that exist already stay as they are, passwords included; those that are missing come back whole. The
roles come in one transaction, all or none. Tablespaces cannot be made in one, and come after.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List, Optional, Set, Tuple

from ...errors import Damaged, EngineError
from ...process import memory_file
from ..base import Loading, Stream
from .connection import Access, Connection

_NAME = r"(\"(?:[^\"]|\"\")+\"|[^\s;\"]+)"
#: What a statement is about, where it is about one role or tablespace alone.
_SUBJECT = re.compile(
    rf"(?:CREATE|ALTER|COMMENT ON|SECURITY LABEL .*? ON|(?:GRANT|REVOKE) .*? ON) (ROLE|TABLESPACE) {_NAME}", re.DOTALL
)
_MEMBERSHIP = re.compile(rf"GRANT {_NAME} TO {_NAME}")
_TOKENS = re.compile(r"--[^\n]*|\\[^\n]*|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|;|[^-\\'\";]+|[-\\'\"]")


class GlobalsLoading(Loading):
    """Where to write the script of roles and tablespaces, and what to call then."""

    #: A file in memory: the script holds the hashes of passwords.
    load: Stream

    def __init__(self, access: Access, descriptor: int) -> None:
        self.load = self._script = Path(f"/proc/self/fd/{descriptor}")
        self._access = access

    def loaded(self) -> None:
        """Run what was written. Raises a typed error that names the statement's kind and object, never its text."""
        try:
            text = self._script.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise Damaged(f"The globals are not valid UTF-8 ({error}). Restore them from another backup.") from None
        with self._access.administer("") as connection:
            _run_all(connection, statements(text))


@contextmanager
def loading(access: Access) -> Iterator[Loading]:
    """A place for the script, which is gone afterwards."""
    descriptor = memory_file(b"")
    try:
        yield GlobalsLoading(access, descriptor)
    finally:
        os.close(descriptor)


def statements(script: str) -> List[str]:
    """The statements of a script without comments, the client's settings and psql's own commands.

    Quotes are understood as pg_dumpall writes them: doubled within, and every backslash doubled in an E'' string.
    """
    found: List[str] = []
    current = ""
    for part in _TOKENS.findall(script):
        if part == ";":
            found.append(current.strip())
            current = ""
        elif part[:2] != "--" and part[0] != "\\":
            current += part
    if current.strip():
        raise Damaged("The globals end in the middle of a statement. Restore them from another backup.")
    return [one for one in found if one and not re.match(r"(SET|SELECT) ", one)]


def missing(script: List[str], roles: Set[str], tablespaces: Set[str]) -> List[str]:
    """The statements that are about what does not exist yet."""
    return [one for one in script if not _is_there(one, roles, tablespaces)]


def _is_there(statement: str, roles: Set[str], tablespaces: Set[str]) -> bool:
    membership = _MEMBERSHIP.match(statement)
    if membership:
        return {_unquoted(name) for name in membership.groups()} <= roles
    kind, name = _subject(statement)
    return name in (tablespaces if kind == "TABLESPACE" else roles)


def _run_all(connection: Connection, script: List[str]) -> None:
    roles = {name for (name,) in connection.rows("SELECT rolname FROM pg_roles")}
    tablespaces = {name for (name,) in connection.rows("SELECT spcname FROM pg_tablespace")}
    wanted = missing(script, roles, tablespaces)
    # The end of the session rolls a failed transaction back.
    connection.run("BEGIN")
    for statement in wanted:
        if _subject(statement)[0] != "TABLESPACE":
            _run(connection, statement)
    connection.run("COMMIT")
    for statement in wanted:
        if _subject(statement)[0] == "TABLESPACE":
            _run(connection, statement)


def _run(connection: Connection, statement: str) -> None:
    try:
        connection.run(statement)
    except EngineError as error:
        subject = " ".join(word for word in (statement.split()[0], *_subject(statement)) if word)
        raise type(error)(f"The globals cannot be restored ({subject}): {error}") from error


def _subject(statement: str) -> Tuple[Optional[str], Optional[str]]:
    match = _SUBJECT.match(statement)
    return (match.group(1), _unquoted(match.group(2))) if match else (None, None)


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
