# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bringing roles and tablespaces back from what ``pg_dumpall --globals-only`` wrote.

That script is made for an empty server, and even there fails at its first role, which initdb made already. Here roles
and tablespaces that exist already stay as they are, passwords and rights included: otherwise a forged script could make
a role of this server a member of a powerful new one. Those that are missing come back whole. The
roles come in one transaction, all or none. Tablespaces cannot be made in one, and come after.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Set

from ...errors import Damaged, EngineError, Refused
from ...process import memory_file
from ...timespan import format_size
from ..base import Loading, Stream
from .connection import Access, Connection
from .global_statements import PUBLIC, Statement, statements

#: Ten thousand roles take about 3 MB.
_LONGEST = 64 << 20


class GlobalsLoading(Loading):
    """Where to write the script of roles and tablespaces, and what to call then."""

    #: A file in memory: the script holds the hashes of passwords.
    load: Stream

    def __init__(self, access: Access, descriptor: int) -> None:
        self.load = self._script = Path(f"/proc/self/fd/{descriptor}")
        self._access = access

    def loaded(self) -> None:
        """Run what was written, once all of it is known to be pg_dumpall's.

        Raises a typed error that names the statement's kind and object, never its text.
        """
        text = _checked(self._script)
        with self._access.administer("") as connection:
            _run_all(connection, text)


class GlobalsExamination(Loading):
    """Where to write the script to have it checked, and nothing of it run."""

    load: Stream

    def __init__(self, descriptor: int) -> None:
        self.load = self._script = Path(f"/proc/self/fd/{descriptor}")

    def loaded(self) -> None:
        """Raise Refused or Damaged for what a restore would not run."""
        _checked(self._script)


@contextmanager
def loading(access: Access) -> Iterator[Loading]:
    """A place for the script, which is gone afterwards."""
    with _memory() as descriptor:
        yield GlobalsLoading(access, descriptor)


@contextmanager
def examining() -> Iterator[Loading]:
    """The same for a script that is only checked."""
    with _memory() as descriptor:
        yield GlobalsExamination(descriptor)


@contextmanager
def _memory() -> Iterator[int]:
    descriptor = memory_file(b"")
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _checked(script: Path) -> str:
    """The script as text, all of whose statements are known."""
    if script.stat().st_size > _LONGEST:
        raise Refused(f"The globals are longer than {format_size(_LONGEST)}. Find out who wrote this backup.")
    try:
        text = script.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise Damaged(f"The globals are not valid UTF-8 ({error}). Restore them from another backup.") from None
    for _statement in statements(text):
        pass
    return text


@dataclass(frozen=True)
class Present:
    """The roles and tablespaces of a server, and which of its roles can be given something: a superuser has it all.

    Roles that the server brings can be given something where they have members.
    """

    roles: Set[str]
    tablespaces: Set[str]
    receptive: Set[str]

    def covers(self, statement: Statement) -> bool:
        """Whether a statement changes what exists already, and so is left out."""
        if statement.receiver in self.receptive or (statement.receiver == PUBLIC and self.receptive):
            return True
        if statement.membership:
            return set(statement.membership) <= self.roles
        return statement.role in self.roles or statement.tablespace in self.tablespaces


_ROLES = """
SELECT r.rolname, NOT r.rolsuper AND (r.rolname !~ '^pg_' OR EXISTS (
    SELECT FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member WHERE a.roleid = r.oid AND m.rolname !~ '^pg_'))
  FROM pg_roles r
"""


def _present(connection: Connection) -> Present:
    roles = connection.rows(_ROLES)
    tablespaces = {name for (name,) in connection.rows("SELECT spcname FROM pg_tablespace")}
    return Present({name for name, _receptive in roles}, tablespaces, {name for name, receptive in roles if receptive})


def _run_all(connection: Connection, text: str) -> None:
    present = _present(connection)
    # The end of the session rolls a failed transaction back.
    connection.run("BEGIN")
    for statement in statements(text):
        if statement.tablespace is None and not present.covers(statement):
            _run(connection, statement)
    connection.run("COMMIT")
    for statement in statements(text):
        if statement.tablespace is not None and not present.covers(statement):
            _run(connection, statement)


def _run(connection: Connection, statement: Statement) -> None:
    try:
        connection.run(statement.sql)
    except EngineError as error:
        raise type(error)(f"The globals cannot be restored ({statement.label}): {error}") from error
