# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A dump restored into a throwaway cluster, with the owners, privileges and policies that it names.

Who loads what decides whose rights the backup's own code has. pg_restore defines the database as the cluster's
superuser, as only that one can create extensions and give objects away; no function of the backup runs then. Rows, and
the check constraints that pg_dump keeps for later, are loaded by a plain role with the rights of all owners, since
loading them runs functions of the backup. The server itself runs functions of indexes and materialized views as their
owners, in a restricted session (PostgreSQL manual, CREATE INDEX and REFRESH MATERIALIZED VIEW). Everything afterwards
is read by the plain role. It logs in by itself: a session that had been a superuser's could become that again.

Roles that were superusers at the source are so here while objects are defined that only a superuser may own, and are
plain roles while the backup's functions run.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Iterator, List, Optional, Sequence, Tuple

from ...command import Argument, Command, Secret
from ...errors import EngineError
from ...model import Manifest, Scratch
from ..base import Save
from . import cluster, complaints, definition, staging, tools
from .cluster import Cluster, Needs
from .complaints import Complaint
from .connection import Access, Connection, quote_identifier

_SUFFIX = "_plain"
#: A line of pg_restore's list: the entry's number, and the kind of object.
_ENTRY = re.compile(r"(\d+); \d+ \d+ ")
_FOREIGN_KEY = re.compile(r"\d+; \d+ \d+ FK CONSTRAINT ")
_CHECK = re.compile(r"\d+; \d+ \d+ CHECK CONSTRAINT ")
#: Databases that a new cluster has, or cannot have: they are restored under another name.
_TAKEN = ("postgres", "template0", "template1")


class RehearsalStaging(staging.PostgresqlStaging):
    """See the module. Made by ``prepare``; it is never promoted, and gone with its cluster."""

    _patience = "1h"

    def __init__(self, place: Cluster, manifest: Manifest) -> None:
        super().__init__(place.superuser, _name(manifest), manifest, None, 1)
        self._properties = replace(self._properties, tablespace="pg_default")
        self._staged = self._target
        self._superuser, self._plain = place.superuser, place.access(place.superuser.user + _SUFFIX)
        self.label = f'database "{self._staged}" on {place.superuser.label}'

    def create(self) -> None:
        control = self._control()
        staging.require_extensions(control, self._properties)
        for statement in self._roles_created(control):
            control.run(statement)
        self._create_database(control)
        self.load = self._spooled()

    def loaded(self) -> None:
        try:
            self._load_all()
        except EngineError as failure:
            raise tools.explained(failure) from failure
        finally:
            self._remove_spool()
        self._settle()
        # Everything that follows only looks.
        self._access = self._plain

    def promote(self, replace: bool, keep_replaced: bool, save: Optional[Save] = None) -> Optional[str]:
        raise AssertionError("a rehearsal is not promoted")

    def leave(self) -> None:
        self._remove_spool()
        if self._session:
            self._session.close()

    def _load_all(self) -> None:
        data, later = (
            [line for line in self._listed(f"--section={section}") if _ENTRY.match(line)]
            for section in ("data", "post-data")
        )
        checks = [line for line in later if _CHECK.match(line)]
        failed = complaints.load(partial(self._restoring, self._superuser), ("--section=pre-data",))
        self._set_superusers(False)
        self._open_to_plain_role()
        failed += self._restore_listed(self._plain, [*data, *checks])
        self._set_superusers(True)
        defined = [line for line in later if not (_CHECK.match(line) or _FOREIGN_KEY.match(line))]
        failed += self._restore_listed(self._superuser, defined)
        self._set_superusers(False)
        # Comparing rows by a foreign key may call a cast of the owner's.
        failed += self._restore_listed(self._plain, [line for line in later if _FOREIGN_KEY.match(line)])
        complaints.refuse(complaints.located(failed, self._listed()) if failed else [], self.label)

    def _restore_listed(self, access: Access, lines: Sequence[str]) -> List[Complaint]:
        if not lines:
            return []
        content = "\n".join([*lines, ""]).encode("utf-8")
        return complaints.load(partial(self._restoring, access), (Secret(content, "--use-list={path}"),))

    def _restoring(self, access: Access, further: Tuple[Argument, ...]) -> Command:
        return self._restorer(("--no-tablespaces", *further, str(self._spool)), access)

    def _roles_created(self, control: Connection) -> Iterator[str]:
        """Statements that make the roles which the backup names, and the plain role with the rights of all of them."""
        plain = quote_identifier(self._plain.user)
        yield f"CREATE ROLE {plain} LOGIN BYPASSRLS"
        for name in self._named_roles():
            superuser = "SUPERUSER" if name in self._properties.superusers else "NOSUPERUSER"
            yield f"CREATE ROLE {quote_identifier(name)} NOLOGIN {superuser}"
        if control.version >= 14_00_00:
            yield f"GRANT pg_read_all_data, pg_write_all_data TO {plain}"

    def _named_roles(self) -> List[str]:
        """The roles to make. What begins with pg_ is the server's own (PostgreSQL manual, "Predefined Roles")."""
        properties = self._properties
        named = {*properties.needed_roles(None), *properties.policy_roles}
        return sorted(name for name in named if not name.startswith("pg_"))

    def _set_superusers(self, wanted: bool) -> None:
        """Make the source's superusers what they were, or plain ones that the plain role has the rights of."""
        control, plain = self._control(), quote_identifier(self._plain.user)
        for name in self._named_roles():
            role = quote_identifier(name)
            if name not in self._properties.superusers:
                control.run(f"GRANT {role} TO {plain}")
            elif wanted:
                control.run(f"REVOKE {role} FROM {plain}")
                control.run(f"ALTER ROLE {role} SUPERUSER")
            else:
                control.run(f"ALTER ROLE {role} NOSUPERUSER")
                control.run(f"GRANT {role} TO {plain}")

    def _open_to_plain_role(self) -> None:
        """Before PostgreSQL 14, no role reads and writes everything: what has no owner in the backup is granted."""
        if self._control().version >= 14_00_00:
            return
        plain = quote_identifier(self._plain.user)
        with self._superuser.connect(self._staged) as inside:
            for (schema,) in inside.rows("SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_'"):
                named = quote_identifier(schema)
                inside.run(f"GRANT USAGE ON SCHEMA {named} TO {plain}")
                for kind in ("TABLES", "SEQUENCES"):
                    inside.run(f"GRANT ALL ON ALL {kind} IN SCHEMA {named} TO {plain}")


@contextmanager
def prepare(manifest: Manifest, scratch: Scratch) -> Iterator[RehearsalStaging]:
    """An empty database in a cluster of its own, gone with it. Raises what ``cluster.running`` raises."""
    properties = definition.from_manifest(manifest.properties, manifest.id)
    needs = Needs(
        database=_name(manifest),
        major=max(tools.major_of(manifest.server_version), 10),
        bytes=manifest.main.plain_bytes,
        tables=len(manifest.fingerprint.tables) if manifest.fingerprint else 0,
        extensions=properties.extensions,
    )
    with cluster.running(needs, scratch) as place:
        rehearsal = RehearsalStaging(place, manifest)
        try:
            rehearsal.create()
            yield rehearsal
        finally:
            rehearsal.leave()


def _name(manifest: Manifest) -> str:
    return "restored" if manifest.database in _TAKEN else manifest.database
