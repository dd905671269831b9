# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""PostgreSQL: dumped with pg_dump from one exported snapshot, restored with pg_restore beside the target.

Connections go to the server itself: exported snapshots and session locks do not survive a pooler in between.

``owner`` makes a restore fit another server's roles: that role then owns the database and all in it, and the
privileges and per-role settings of the backup, which name roles of the old server, are left out.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar, Iterator, List, Optional

from ...command import Command
from ...errors import BadInput, EngineError, NotFound, Refused
from ...model import Database, Manifest, Scratch
from ..base import DumpOptions, Engine, Examination, Inspection, Loading, Snapshot, Staging, Stream
from . import (
    catalogue,
    definition,
    fingerprint,
    global_objects,
    preflight,
    promotion,
    rehearsal,
    snapshot,
    staging,
    tools,
)
from .connection import Access, Connection, access_to

#: The first server with parallel reading of exported snapshots on a standby, and the oldest that clients still dump.
_OLDEST_SERVER = 10
_NOT_FOR_RESTORES = ("template0", "template1")

_SIZE = """
SELECT CASE WHEN has_database_privilege(datname, 'CONNECT') THEN pg_database_size(oid) ELSE 0 END
  FROM pg_database WHERE datname = %s
"""


class PostgresqlEngine(Engine):
    """One database on one PostgreSQL server."""

    extension: ClassVar[str] = ".dump"

    def __init__(self, database: Database) -> None:
        self._access: Access = access_to(database)
        self._name = database.name

    def explain(self, failure: EngineError) -> EngineError:
        return tools.explained(failure)

    def heard(self, name: str, said: str) -> List[str]:
        return tools.warnings(name, said)

    def inspect(self) -> Inspection:
        try:
            with self._access.connect(self._name) as connection:
                return self._inspected(connection)
        except NotFound:
            with self._access.administer(self._name) as connection:
                return self._inspected(connection)

    def sweep(self, dry_run: bool) -> List[str]:
        with self._access.administer(self._name) as control:
            return promotion.sweep(self._access, control, self._name, dry_run)

    def check_dump(self, options: DumpOptions) -> Inspection:
        with self._access.connect(self._name) as connection:
            if connection.version < _OLDEST_SERVER * 10000:
                raise BadInput(f"{connection.label} is older than PostgreSQL {_OLDEST_SERVER}. Upgrade the server.")
            major = connection.version // 10000
            tools.dumper("pg_dump", major)
            if options.globals:
                tools.dumper("pg_dumpall", major)
            fingerprint.require_countable(connection, options.fingerprint)
            catalogue.require_sessions(connection)
            selection = catalogue.select(connection, options.exclude_tables)
            catalogue.require_whole(connection, selection)
            catalogue.require_readable(connection, selection)
            definition.read(connection)
            return self._inspected(connection)

    def snapshot(self, options: DumpOptions) -> AbstractContextManager[Snapshot]:
        return snapshot.hold(self._access, self._name, options)

    def check_restore(
        self,
        manifest: Manifest,
        replace: bool,
        owner: Optional[str],
        globals_first: bool = False,
        tolerant: bool = False,
    ) -> Inspection:
        if self._name in _NOT_FOR_RESTORES:
            raise BadInput(f"{self._name} is what PostgreSQL makes new databases from. Restore under another name.")
        return self._checked(manifest, replace, owner, globals_first, tolerant)

    def _checked(
        self,
        manifest: Manifest,
        replace: bool,
        owner: Optional[str],
        globals_first: bool = False,
        tolerant: bool = False,
        disposable: bool = False,
    ) -> Inspection:
        with self._access.administer(self._name) as control:
            made_on, here = tools.major_of(manifest.server_version), control.version // 10000
            if here < made_on:
                raise BadInput(
                    f"{manifest.id} was made on PostgreSQL {made_on}, and {self._access.label} is {here}: an older "
                    f"server does not understand a newer one's dump. Restore on PostgreSQL {made_on} or newer."
                )
            tools.restorer(staging.dumped_by(manifest), here)
            if manifest.fingerprint:
                fingerprint.require_countable(control, manifest.fingerprint.kind)
            preflight.check(control, self._name, manifest, replace, owner, globals_first, tolerant, disposable)
            return self._inspected(control)

    def stage(
        self, manifest: Manifest, owner: Optional[str], parallel: int, tolerant: bool = False
    ) -> AbstractContextManager[Staging]:
        return staging.prepare(self._access, self._name, manifest, owner, parallel, tolerant)

    def rehearse(self, manifest: Manifest, scratch: Scratch) -> AbstractContextManager[Staging]:
        if scratch.server is None:
            return rehearsal.prepare(manifest, scratch)
        # A server that is there for this alone need not know the roles of the backup.
        self._checked(manifest, False, self._access.user, disposable=True)
        return staging.prepare(self._access, self._name, manifest, self._access.user, 1, False, disposable=True)

    def check_scratch(self, allow_superuser: bool) -> None:
        with self._access.administer(self._name) as control:
            if control.value("SELECT current_setting('is_superuser') = 'on'") and not allow_superuser:
                raise Refused(
                    f'{self._access.label}: the scratch login "{self._access.user}" is a superuser, and restoring runs '
                    "the code of the backup's owner with its rights. Log in as a role with CREATEDB alone, leave out "
                    "scratch.login_*, or set scratch.allow_superuser (assertions are never run as one)."
                )

    def examine(self, manifest: Manifest) -> AbstractContextManager[Examination]:
        return _examination(manifest)

    def load_globals(self) -> AbstractContextManager[Loading]:
        """Bring roles and tablespaces back: write the globals artefact into ``load``, then call ``loaded``.

        What exists already stays as it is, passwords and rights included. Needs a superuser.
        """
        return global_objects.loading(self._access)

    def examine_globals(self) -> AbstractContextManager[Loading]:
        return global_objects.examining()

    def _inspected(self, connection: Connection) -> Inspection:
        size = connection.rows(_SIZE, [self._name])
        version = snapshot.server_version(connection)
        source = snapshot.system_identifier(connection)
        return Inspection(
            exists=bool(size), bytes=int(size[0][0]) if size else 0, server_version=version, source=source
        )


class _PostgresqlExamination(Examination):
    """The dump is turned into SQL that nobody reads, which takes pg_restore through all of it."""

    def __init__(self, load: Stream) -> None:
        self.load = load

    def conclude(self) -> None:
        # pg_restore has failed already when anything was wrong.
        return


@contextmanager
def _examination(manifest: Manifest) -> Iterator[Examination]:
    tool = tools.restorer(staging.dumped_by(manifest), 0)
    yield _PostgresqlExamination(Command("pg_restore", (tool.path, "--file=/dev/null")))
