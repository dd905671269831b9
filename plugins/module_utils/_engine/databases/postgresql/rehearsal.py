# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A dump restored into a throwaway cluster, with the owners, privileges and policies that it names.

Who loads what decides whose rights the backup's own code has: entries.py. A plain role with the rights of all owners
loads everything that can run it. It logs in by itself: a session that had been a superuser's could become that again.
The cluster's superuser defines what only a superuser may. Roles that were superusers at the source are so here only as
long as that takes. Everything afterwards is read by the plain role.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Iterator, List, Optional, Sequence, Tuple

from ...command import Argument, Command, Secret
from ...errors import EngineError, Refused, Unverifiable
from ...model import Manifest, Scratch
from ..base import Save, differing
from . import cluster, complaints, definition, entries, preflight, staging, tools
from .cluster import Cluster, Needs
from .complaints import Complaint
from .connection import Access, Connection, quote_identifier

_SUFFIX = "_plain"
#: How many entries are loaded at once of which each failure counts; complaints.py names some more than these.
_AT_ONCE = 500
#: A role with whose rights the owners of objects may have them in any schema, until the grants are loaded.
_PLACING = "_placing"
#: A superuser that makes extensions, and is none afterwards: objects of a backup can need an owner's rights on theirs.
_EXTENDING = "_extending"
_SCHEMAS = "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
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
        self._extending = place.access(place.superuser.user + _EXTENDING)
        self._entering = (self._plain.user, self._extending.user)
        self.label = f'database "{self._staged}" on {place.superuser.label}'
        #: Whether the source's superusers are so here at the moment; None where no role exists yet.
        self._promoted: Optional[bool] = None

    def create(self) -> None:
        control = self._control()
        preflight.require_extensions(control, self._properties)
        misfits = [name for name in self._properties.misfits if name in self._named_roles()]
        if misfits:
            raise Unverifiable(
                f"{differing(misfits, f'{self.label}: no server can read these names of roles')}. "
                "Restore with owner into a database of your own to see what is in the backup."
            )
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
        if self._control().value("SELECT rolsuper FROM pg_roles WHERE rolname = %s", [self._plain.user]):
            raise Refused(
                f"{self.label}: the backup made a superuser of the role that reads it. Find out who wrote it."
            )
        # Everything that follows only looks.
        self._access = self._plain

    def promote(self, replace: bool, keep_replaced: bool, save: Optional[Save] = None) -> Optional[str]:
        raise AssertionError("a rehearsal is not promoted")

    def leave(self) -> None:
        self._remove_spool()
        if self._session:
            self._session.close()

    def _load_all(self) -> None:
        before, data, after = (
            entries.entries(self._listed(f"--section={section}")) for section in ("pre-data", "data", "post-data")
        )
        first, others = entries.definitions(before, self._named_roles(), self._properties.superusers)
        failed = self._load_part(True, first[1], self._extending)
        self._give_up_extensions()
        self._let_owners_place()
        for superuser, lines in others:
            failed += self._load_superusers_own(lines) if superuser is None else self._load_part(superuser, lines)
        self._open_to_plain_role()
        failed += self._load_part(False, [*data, *entries.checks(after)])
        failed += self._load_part(False, entries.built(after))
        self._let_owners_place(False)
        for superuser, lines in entries.finished([*before, *after]):
            failed += self._load_part(bool(superuser), lines)
        self._set_superusers(False)
        complaints.refuse(complaints.located(failed, self._listed()) if failed else [], self.label)

    def _load_part(self, superuser: bool, lines: Sequence[str], by: Optional[Access] = None) -> List[Complaint]:
        """Load these entries as a superuser or as the plain role, which then has all owners' rights."""
        if not lines:
            return []
        self._set_superusers(superuser)
        content = "\n".join([*lines, ""]).encode("utf-8")
        access = by or (self._superuser if superuser else self._plain)
        return complaints.load(partial(self._restoring, access), (Secret(content, "--use-list={path}"),))

    def _load_superusers_own(self, lines: Sequence[str]) -> List[Complaint]:
        """Load what belonged to a superuser as the plain role, and as a superuser what takes one and runs no code."""
        if len(lines) > _AT_ONCE:
            # Only so many failures are told one by one.
            return self._load_superusers_own(lines[:_AT_ONCE]) + self._load_superusers_own(lines[_AT_ONCE:])
        failed = self._load_part(False, lines)
        numbers = {one.number for one in failed}
        left = [line for line in lines if entries.number(line) in numbers]
        harmless = [line for line in left if entries.is_harmless(line, self._statement(line))]
        rest = [line for line in left if line not in harmless]
        unknown = [one for one in failed if one.number is None]
        return [*unknown, *self._load_part(True, harmless), *self._load_part(False, rest)]

    def _statement(self, line: str) -> str:
        return self._read(Secret(f"{line}\n".encode(), "--use-list={path}"))

    def _give_up_extensions(self) -> None:
        """Let the owner of the extensions be a plain one: nothing in them runs with a superuser's rights any more."""
        control, extending = self._control(), quote_identifier(self._extending.user)
        with self._superuser.connect(self._staged) as inside:
            # Their event triggers look into catalogues; here these hold no secret.
            inside.run(f"GRANT SELECT ON ALL TABLES IN SCHEMA pg_catalog TO {extending}")
        control.run(f"ALTER ROLE {extending} NOSUPERUSER NOLOGIN")
        control.run(f"GRANT {extending} TO {quote_identifier(self._plain.user)}")

    def _let_owners_place(self, wanted: bool = True) -> None:
        """Let every role own objects in any schema: at the source, one may have lost the right since it got them."""
        placing = quote_identifier(self._superuser.user + _PLACING)
        control = self._control()
        with self._superuser.connect(self._staged) as inside:
            if not wanted:
                inside.run(f"DROP OWNED BY {placing}; DROP ROLE {placing}")
                return
            control.run(f"CREATE ROLE {placing}")
            # In here, the database's encoding may not have the letters of their names.
            for role in (self._plain.user, *self._named_roles()):
                control.run(f"GRANT {placing} TO {quote_identifier(role)}")
            for (schema,) in inside.rows(_SCHEMAS):
                inside.run(f"GRANT CREATE, USAGE ON SCHEMA {quote_identifier(schema)} TO {placing}")

    def _restoring(self, access: Access, further: Tuple[Argument, ...]) -> Command:
        return self._restorer(("--no-tablespaces", *further, str(self._spool)), access)

    def _roles_created(self, control: Connection) -> Iterator[str]:
        """Statements that make the roles which the backup names, and the plain role with the rights of all of them."""
        plain = quote_identifier(self._plain.user)
        yield f"CREATE ROLE {plain} LOGIN BYPASSRLS"
        yield f"CREATE ROLE {quote_identifier(self._extending.user)} LOGIN SUPERUSER"
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
        if self._promoted is wanted:
            return
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
        self._promoted = wanted

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
