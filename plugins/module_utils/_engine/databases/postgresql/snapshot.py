# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A PostgreSQL database held still: one exported snapshot that pg_dump reads and that the fingerprint is counted on.

The tables are locked (ACCESS SHARE, as a SELECT does) before the snapshot is taken, and stay locked until the dump
ended. TRUNCATE and some forms of ALTER TABLE ignore snapshots (PostgreSQL manual, "Caveats" of concurrency control): a
table emptied between the snapshot and pg_dump's own lock would be empty in the dump. The fingerprint is counted in the
session that holds the locks, as any other session could get in line behind somebody who waits for this one to end.

A server has room for a limited number of locks, and two sessions' need more of it than pg_dump's alone. Where that
would be short, nothing is locked beforehand; TRUNCATE and ALTER TABLE give a table new files, so that in the end these
are compared with those that it had in the snapshot.
"""

from __future__ import annotations

import os
import shutil
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from ...command import Command
from ...errors import Contended, EngineError, Locked, ToolFailed
from ...model import Fingerprint, FingerprintKind
from ...process import run
from ..base import DumpFacts, DumpOptions, Snapshot, differing
from . import catalogue, definition, fingerprint, planning, settings
from .catalogue import Relation, Selection
from .connection import Access, Connection
from .copying import Copier
from .encodings import readable
from .failures import sqlstate
from .pulse import Pulse
from .tools import Tool, dumper

_LOCKED_AT_ONCE = 500
_ATTEMPTS = 5
#: Seconds that pg_dump waits for a table. It only waits for who waits for our own lock on it, and applications with it.
_IN_LINE = 3.0
_UNDEFINED = ("42P01", "3F000")

#: Locks that a server certainly has room for (PostgreSQL manual, max_locks_per_transaction).
_ROOM = """
SELECT current_setting('max_locks_per_transaction')::bigint
       * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint)
"""
_FILES = "SELECT oid, relfilenode::bigint FROM pg_class WHERE oid = ANY (%s::oid[])"
_CHANGED = """
SELECT f.oid::regclass::text FROM unnest(%s::oid[], %s::bigint[]) AS f (oid, file) LEFT JOIN pg_class c USING (oid)
 WHERE c.relfilenode::bigint IS DISTINCT FROM f.file
"""

_COLUMN_VERSIONS = """
SELECT EXISTS (SELECT FROM pg_attribute WHERE attoptions::text LIKE '%pg_attver=%' AND attrelid >= 16384)
"""

_NO_PASSWORDS = (
    "The roles are backed up without their passwords: only a superuser may read them. "
    "Log in as a superuser for a backup that brings them back."
)


class PostgresqlSnapshot(Snapshot):
    """See the module. Made by ``hold``."""

    def __init__(
        self,
        held: Connection,
        access: Access,
        database: str,
        options: DumpOptions,
        beside: Optional[planning.Planning],
    ) -> None:
        self._held, self._options, self._planning = held, options, beside
        self._unwanted = False
        self._idle = threading.Event()
        self._idle.set()
        standby = bool(held.value("SELECT pg_is_in_recovery()"))
        selection, self._files = _lock_and_freeze(held, options)
        self._access, self._database = access, database
        self._copier = Copier(access, database, str(held.value("SELECT pg_export_snapshot()")))
        self._tables = selection.counted(unlogged=not standby)
        major = held.version // 10000
        tool = dumper("pg_dump", major)
        tools = {"pg_dump": tool.version}
        warnings = [f'exclude_tables: "{one}" matches no table of {held.label}.' for one in selection.unmatched]
        self.dump = _dump(tool, held, access, database, options, selection, standby)
        if options.globals:
            dump_all = dumper("pg_dumpall", major)
            passwords = held.value("SELECT has_table_privilege('pg_authid', 'SELECT')")
            self.globals = _globals(dump_all, held, access, database, passwords)
            tools["pg_dumpall"] = dump_all.version
            warnings += [] if passwords else [_NO_PASSWORDS]
        if tool.writes_column_versions and held.value(_COLUMN_VERSIONS):
            warnings.append(_outdated(tool))
        empty = [one.label for one in selection.included if standby and one.holds_rows and one.unlogged]
        warnings += [_without_rows(empty)] if empty else []
        invalid = catalogue.invalid_indexes(held)
        warnings += [_invalid(invalid)] if invalid else []
        hidden = catalogue.hidden(held)
        warnings += [_hidden(hidden)] if hidden else []
        properties = replace(definition.read(held), not_dumped=tuple(hidden))
        warnings += [_dangling(properties.dangling_roles)] if properties.dangling_roles else []
        warnings += [_misfitting(properties)] if properties.misfits else []
        self.facts = DumpFacts(
            server_version=server_version(held),
            tool_versions=tools,
            properties=properties.written(),
            warnings=tuple(warnings),
            source=system_identifier(held),
        )

    def fingerprint(self) -> Optional[Fingerprint]:
        if self._options.fingerprint is FingerprintKind.NONE:
            return None
        self._idle.clear()
        try:
            return None if self._unwanted else self._count()
        finally:
            self._idle.set()

    def conclude(self) -> None:
        if not self._files:
            return
        with self._access.connect(self._database) as now:
            changed = [
                readable(name) for (name,) in now.rows(_CHANGED, [list(self._files), list(self._files.values())])
            ]
        if changed:
            raise Contended(
                f"{differing(changed, f'{self._held.label}: emptied or rewritten during the backup')}. "
                "Back up at another time, or raise max_locks_per_transaction on the server so that it can be prevented."
            )

    def cancel_fingerprint(self) -> None:
        self._unwanted = True
        # A request that comes between two statements has no effect, and is made again.
        while not self._idle.wait(0.05):
            self._held.cancel()

    def _count(self) -> Fingerprint:
        # Without it, an error here would end the transaction, and with it the snapshot that pg_dump reads.
        self._held.run("SAVEPOINT fingerprint")
        if self._options.fingerprint is FingerprintKind.COUNTS:
            self._held.run("SET LOCAL jit = off")
        kind = self._options.fingerprint
        counted = fingerprint.count(self._held, self._tables, kind, self._copier, self._planning)
        if counted.undigested:
            self.facts = replace(self.facts, warnings=(*self.facts.warnings, _undigested(counted.undigested)))
        return counted


@contextmanager
def hold(access: Access, database: str, options: DumpOptions) -> Iterator[PostgresqlSnapshot]:
    """Lock, freeze and describe a database. Raises Locked when a table's lock is not free within the timeout."""
    with access.connect(database) as held, planning.beside(access, database, held) as beside:
        snapshot = PostgresqlSnapshot(held, access, database, options, beside)
        try:
            with Pulse(held):
                yield snapshot
        finally:
            # psycopg2 closes a session only after its running statement.
            snapshot.cancel_fingerprint()


def _without_rows(tables: Sequence[str]) -> str:
    return f"{differing(tables, 'A standby has no rows of unlogged tables, and the backup neither')}. Use the primary."


def _outdated(tool: Tool) -> str:
    return (
        f"pg_dump {tool.version} is older than the server's minor release of November 2026, and only servers with that "
        f"release or newer can load its dump. Update the package postgresql-client-{tool.major} on this host."
    )


def _invalid(names: Sequence[str]) -> str:
    return f"{differing(names, 'Not in the backup, as these indexes are not valid')}. REINDEX or drop them."


def _hidden(names: Sequence[str]) -> str:
    return f"{differing(names, 'Not in the backup, as only a superuser may read them')}. Log in as a superuser."


def _dangling(roles: Sequence[str]) -> str:
    return (
        f"{differing(roles, 'Privileges name roles that were dropped')}. A restore needs roles with these names, or "
        "owner. Revoke these privileges."
    )


def _misfitting(properties: definition.Properties) -> str:
    start = f"Names of roles or tablespaces that are nothing in {properties.encoding}, the encoding of the database"
    return f"{differing(properties.misfits, start)}. A restore takes owner. Rename them to be independent of encodings."


def _undigested(tables: Sequence[str]) -> str:
    return (
        f"{differing(tables, 'No digest could be made of')}: the server or psql cannot write these values as "
        "text. Their rows are counted, and a verification calls their contents unverifiable."
    )


def system_identifier(connection: Connection) -> str:
    """The number that tells this cluster, and its standbys, from all others; empty where the login may not ask.

    PostgreSQL manual, "Control Data Functions".
    """
    if not connection.value("SELECT has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')"):
        return ""
    return str(connection.value("SELECT system_identifier FROM pg_catalog.pg_control_system()"))


def server_version(connection: Connection) -> str:
    """The server's version without its packager's name: ``15.18``."""
    return str(connection.value("SHOW server_version")).split()[0]


def _lock_and_freeze(held: Connection, options: DumpOptions) -> Tuple[Selection, Dict[int, int]]:
    """Lock every table that will be dumped, then take the transaction's snapshot. A table may vanish in between.

    Where there are too many, none is locked, and the files that they have in the snapshot are returned.
    """
    held.run(f"SET lock_timeout = {_milliseconds(options.lock_timeout)}")
    for attempt in range(1, _ATTEMPTS + 1):
        selection = catalogue.select(held, options.exclude_tables)
        held.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        if sum(one.holds_rows for one in selection.included) * 2 > held.value(_ROOM):
            selection = catalogue.select(held, options.exclude_tables)
            tables = [one.oid for one in selection.included if one.holds_rows]
            return selection, dict(held.rows(_FILES, [tables]))
        try:
            # A snapshot is taken by the first statement that needs one, and LOCK TABLE does not.
            _lock(held, [one for one in selection.included if one.holds_rows])
        except EngineError as error:
            held.run("ROLLBACK")
            if sqlstate(error) in _UNDEFINED and attempt < _ATTEMPTS:
                continue
            if sqlstate(error) == "55P03":
                raise Locked(
                    f"{held.label}: a table stayed locked for {options.lock_timeout:g} s ({error}) "
                    "Raise lock_timeout, or back up at another time."
                ) from error
            raise
        return catalogue.select(held, options.exclude_tables), {}
    raise AssertionError("unreachable")


def _lock(held: Connection, tables: Sequence[Relation]) -> None:
    for start in range(0, len(tables), _LOCKED_AT_ONCE):
        names = ", ".join(f"ONLY {table.identifier}" for table in tables[start : start + _LOCKED_AT_ONCE])
        held.run(f"LOCK TABLE {names} IN ACCESS SHARE MODE")


def _dump(
    tool: Tool,
    held: Connection,
    access: Access,
    database: str,
    options: DumpOptions,
    selection: Selection,
    standby: bool,
) -> Command:
    arguments: List[str] = [
        *_well_buffered(tool.path),
        "--format=custom",
        "--compress=0",
        "--no-password",
        f"--snapshot={held.value('SELECT pg_export_snapshot()')}",
        # Otherwise a client encoding that the database has as a setting would be the dump's.
        f"--encoding={held.value('SELECT getdatabaseencoding()')}",
        f"--lock-wait-timeout={_milliseconds(min(options.lock_timeout, _IN_LINE))}",
    ]
    if standby:
        arguments.append("--no-unlogged-table-data")
    arguments += ["--exclude-table=" + as_argument(held, one.identifier) for one in selection.left_out]
    session = {**settings.for_dump(), **held.further, **held.restriction()}
    arguments.append(f"--dbname={access.connection_string(database, session)}")
    return access.command("pg_dump", tuple(arguments))


def as_argument(held: Connection, name: str) -> str:
    """A name as pg_dump reads it: in the bytes of the encoding that it was given, which are the database's own."""
    if name.isascii():
        return name
    return os.fsdecode(bytes(held.value("SELECT convert_to(%s, getdatabaseencoding())", [name])))


def _well_buffered(program: str) -> Tuple[str, ...]:
    """A program whose standard output gets a larger buffer than the 4 KiB of the C library, where that can be had.

    pg_dump then makes a sixteenth of the system calls, which saves 0.2 s of CPU a GB.
    """
    path = shutil.which("stdbuf")
    if path is None:
        return (program,)
    buffered = (path, "--output=64K")
    try:
        # It fails where the library that it loads into programs is missing, and would take the dump with it.
        run(Command("stdbuf", (*buffered, "true")))
    except ToolFailed:
        return (program,)
    return (*buffered, program)


def _globals(tool: Tool, held: Connection, access: Access, database: str, passwords: bool) -> Command:
    arguments: Tuple[str, ...] = (tool.path, "--globals-only", "--no-password", "--encoding=UTF8")
    if not passwords:
        arguments += ("--no-role-passwords",)
    # Of --dbname, pg_dumpall drops the empty parts; of --database it takes a connection string as it is.
    arguments += (f"--database={access.connection_string(database, {**settings.for_dump(), **held.further})}",)
    return access.command("pg_dumpall", arguments)


def _milliseconds(seconds: float) -> int:
    # Zero would mean to wait for ever.
    return max(1, round(seconds * 1000))
