# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a database holds and what of it this account may read, asked of its system catalogues."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Iterable, List, Optional, Sequence, Tuple

from ...errors import BadInput, PermissionDenied
from .connection import Connection, quote_identifier
from .encodings import readable

_RELATIONS = """
SELECT c.oid, n.nspname, c.relname, c.relkind::text, c.relpersistence::text,
       has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'),
       row_security_active(c.oid)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S') AND c.relpersistence <> 't'
   AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY 2, 3
"""

#: Tables whose rows can be in another partition once they are restored: the hash of an enum's value depends on its OID,
#: so pg_dump loads what is below such a partitioned table through the root. With the name of that partitioned table.
_REROUTED = """
WITH RECURSIVE below AS (
    SELECT p.partrelid AS top, p.partrelid AS oid FROM pg_partitioned_table p
     WHERE EXISTS (SELECT FROM pg_opclass o JOIN pg_am a ON a.oid = o.opcmethod
                    WHERE o.oid = ANY (p.partclass) AND o.opcname = 'enum_ops' AND a.amname = 'hash'
                      AND o.opcnamespace = 'pg_catalog'::regnamespace)
    UNION SELECT b.top, i.inhrelid FROM pg_inherits i JOIN below b ON i.inhparent = b.oid
)
SELECT b.oid, n.nspname, c.relname
  FROM below b JOIN pg_class c ON c.oid = b.top JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE NOT EXISTS (SELECT FROM below u WHERE u.oid = b.top AND u.top <> b.top)
"""

_DESCENDANTS = """
WITH RECURSIVE tree AS (
    SELECT unnest(%(parents)s::oid[]) AS oid
    UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid
) SELECT oid FROM tree
"""

#: What a restore would stumble over when these tables are missing: foreign keys to them, views on them, rules
#: that use them, and constraint triggers that name them, which the server drops with them.
_REFERRERS = """
SELECT 'table ' || o.conrelid::regclass, 'the foreign key ' || quote_ident(o.conname), o.confrelid::regclass::text
  FROM pg_constraint o
 WHERE o.contype = 'f' AND o.confrelid = ANY (%(left_out)s::oid[]) AND o.conrelid <> ALL (%(left_out)s::oid[])
UNION
SELECT CASE WHEN c.relkind IN ('v', 'm') THEN 'view ' ELSE 'table ' END || r.ev_class::regclass,
       CASE WHEN c.relkind IN ('v', 'm') THEN 'its query' ELSE 'the rule ' || quote_ident(r.rulename) END,
       d.refobjid::regclass::text
  FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class c ON c.oid = r.ev_class
 WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
   AND d.refobjid = ANY (%(left_out)s::oid[]) AND r.ev_class <> ALL (%(left_out)s::oid[])
UNION
SELECT 'table ' || t.tgrelid::regclass, 'the constraint trigger ' || quote_ident(t.tgname),
       t.tgconstrrelid::regclass::text
  FROM pg_trigger t
 WHERE NOT t.tgisinternal AND t.tgconstrrelid = ANY (%(left_out)s::oid[])
   AND t.tgrelid <> ALL (%(left_out)s::oid[])
 ORDER BY 1, 2, 3
"""

#: Whatever else depends on them, or on their row types: children, columns, functions and so on. What goes with a table
#: (its indexes, defaults, policies and sequences) depends on it automatically (PostgreSQL manual, pg_depend).
_DEPENDENTS = """
WITH RECURSIVE gone (class, object, root) AS (
    SELECT 'pg_class'::regclass::oid, oid, oid FROM unnest(%(left_out)s::oid[]) AS oid
    UNION SELECT d.classid, d.objid, g.root FROM pg_depend d
      JOIN gone g ON d.refclassid = g.class AND d.refobjid = g.object WHERE d.deptype IN ('i', 'a', 'P', 'S')
)
SELECT pg_describe_object(d.classid, d.objid, d.objsubid), 'its definition', g.root::regclass::text
  FROM pg_depend d JOIN gone g ON d.refclassid = g.class AND d.refobjid = g.object
 WHERE d.deptype = 'n' AND NOT EXISTS (SELECT FROM gone o WHERE o.class = d.classid AND o.object = d.objid)
 ORDER BY 1, 3
"""

_UNREADABLE_LARGE_OBJECTS = """
SELECT count(*) FROM pg_largeobject_metadata l
 WHERE NOT pg_has_role(l.lomowner, 'USAGE')
   AND NOT EXISTS (SELECT FROM aclexplode(l.lomacl) a WHERE a.privilege_type = 'SELECT'
                      AND (a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE')))
"""

#: What pg_dump leaves out of a dump by anybody but a superuser, with or without a word.
_HIDDEN = """
SELECT 'subscription ' || quote_ident(subname) FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
 WHERE d.datname = current_database()
UNION ALL
SELECT 'options of the user mapping for ' || quote_ident(usename) || ' on server ' || quote_ident(srvname)
  FROM pg_user_mappings WHERE umoptions IS NULL
 ORDER BY 1
"""

#: A failed CREATE INDEX CONCURRENTLY leaves one (PostgreSQL manual). No dump holds them.
_INVALID_INDEXES = """
SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 WHERE c.relkind = 'i' AND NOT (i.indisvalid AND i.indisready) ORDER BY 1
"""

_SESSIONS = """
SELECT least(nullif(datconnlimit, -1), nullif(rolconnlimit, -1)) FROM pg_database, pg_roles
 WHERE datname = current_database() AND rolname = session_user AND NOT rolsuper
"""
#: One that holds the snapshot, pg_dump's, and one that looks at what others change meanwhile.
_SESSIONS_NEEDED = 3

_PLAIN = re.compile(r"[a-z_][a-z0-9_$]*")
_TABLE, _PARTITIONED, _SEQUENCE = "r", "p", "S"
_UNLOGGED = "u"


@dataclass(frozen=True)
class Relation:
    """A table, view or sequence that a user made."""

    oid: int
    schema: str
    name: str
    kind: str
    persistence: str
    readable: bool
    filtered: bool
    #: The schema and name of the partitioned table as which its rows count, as they can come back in another partition.
    root: Optional[Tuple[str, str]] = None

    @property
    def holds_rows(self) -> bool:
        """Whether rows are stored in it; those of a partitioned table are in its partitions."""
        return self.kind == _TABLE

    @property
    def unlogged(self) -> bool:
        return self.persistence == _UNLOGGED

    @property
    def identifier(self) -> str:
        """Its name for SQL, and as a pattern that pg_dump takes for exactly this relation."""
        return f"{quote_identifier(self.schema)}.{quote_identifier(self.name)}"

    @property
    def label(self) -> str:
        """Its name for people and fingerprints: in quotes only where a part of it needs them, whatever the server."""
        return _label((self.schema, self.name))

    @property
    def counted_as(self) -> str:
        """The label under which a fingerprint has its rows."""
        return _label(self.root) if self.root else self.label


@dataclass(frozen=True)
class Selection:
    """What a dump holds, what it leaves out on request, and which requests named nothing."""

    included: Tuple[Relation, ...]
    left_out: Tuple[Relation, ...]
    unmatched: Tuple[str, ...]

    def counted(self, unlogged: bool) -> List[Relation]:
        """The tables that a fingerprint counts, with or without those whose rows no standby has."""
        return [one for one in self.included if one.holds_rows and (unlogged or not one.unlogged)]


def relations(connection: Connection) -> List[Relation]:
    """All relations outside the system's schemas that no extension brings."""
    roots = {oid: (schema, name) for oid, schema, name in connection.rows(_REROUTED)}
    found = [Relation(*row) for row in connection.rows(_RELATIONS)]
    return [replace(one, root=roots[one.oid]) if one.oid in roots else one for one in found]


def _label(parts: Sequence[str]) -> str:
    return readable(".".join(part if _PLAIN.fullmatch(part) else quote_identifier(part) for part in parts))


def select(connection: Connection, excluded: Sequence[str]) -> Selection:
    """Apply the patterns of tables to leave out; a partitioned table takes its partitions with it."""
    found = relations(connection)
    tables = [one for one in found if one.kind != _SEQUENCE]
    named = [(pattern, [one for one in tables if _matches(one, pattern)]) for pattern in excluded]
    oids = {one.oid for _pattern, matches in named for one in matches}
    parents = [one.oid for one in found if one.kind == _PARTITIONED and one.oid in oids]
    if parents:
        oids.update(row[0] for row in connection.rows(_DESCENDANTS, {"parents": parents}))
    return Selection(
        included=tuple(one for one in found if one.oid not in oids),
        left_out=tuple(one for one in found if one.oid in oids),
        unmatched=tuple(pattern for pattern, matches in named if not matches),
    )


def require_whole(connection: Connection, selection: Selection) -> None:
    """Raise BadInput when what is left out would make the rest impossible to restore."""
    if not selection.left_out:
        return
    oids = [one.oid for one in selection.left_out]
    parameters = {"left_out": oids}
    for referrer, by, table in [*connection.rows(_REFERRERS, parameters), *connection.rows(_DEPENDENTS, parameters)]:
        raise BadInput(
            f"exclude_tables: table {table} cannot be left out of {connection.label}, because {referrer} refers to it "
            f"by {by}, and a restore would fail there. Leave out {referrer} too, or keep both."
        )


def require_readable(connection: Connection, selection: Selection) -> None:
    """Raise PermissionDenied when pg_dump would be refused something that it has to read."""
    unreadable = [
        one for one in selection.included if one.kind in (_TABLE, _PARTITIONED, _SEQUENCE) and not one.readable
    ]
    if unreadable:
        raise PermissionDenied(
            f"{connection.label}: this user may not read {_named(unreadable)}. "
            "Grant it USAGE on the schema and SELECT on the table, leave the table out, or log in as the owner."
        )
    filtered = [one for one in selection.included if one.holds_rows and one.filtered]
    if filtered:
        raise PermissionDenied(
            f"{connection.label}: row security hides rows of {_named(filtered)} from this user, "
            "and a backup without them would be incomplete. Log in as a role with BYPASSRLS."
        )
    if connection.value("SELECT current_setting('is_superuser') = 'off'"):
        hidden = connection.value(_UNREADABLE_LARGE_OBJECTS)
        if hidden:
            raise PermissionDenied(
                f"{connection.label}: this user may not read {hidden} large objects. "
                "Log in as their owner or a superuser."
            )


def require_sessions(connection: Connection) -> None:
    """Raise BadInput where a connection limit leaves no room for the sessions of a backup. Superusers have none."""
    for (limit,) in connection.rows(_SESSIONS):
        if limit is not None and limit < _SESSIONS_NEEDED:
            raise BadInput(
                f"{connection.label}: a CONNECTION LIMIT of {limit} applies to this user, and a backup takes "
                f"{_SESSIONS_NEEDED} sessions. Raise the limit of the database or the role, or log in as a superuser."
            )


def hidden(connection: Connection) -> List[str]:
    """What is in the database and cannot be in a dump by this user: subscriptions, and secrets of foreign servers."""
    if connection.value("SELECT current_setting('is_superuser') = 'on'"):
        return []
    return [readable(name) for (name,) in connection.rows(_HIDDEN)]


def invalid_indexes(connection: Connection) -> List[str]:
    """Indexes that the server does not use."""
    return [readable(name) for (name,) in connection.rows(_INVALID_INDEXES)]


def _matches(relation: Relation, pattern: str) -> bool:
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    name = f"{relation.schema}.{relation.name}" if "." in pattern else relation.name
    return re.fullmatch(expression, name, re.DOTALL) is not None


def _named(found: Iterable[Relation], limit: int = 5) -> str:
    names = [("sequence " if one.kind == _SEQUENCE else "table ") + one.label for one in found]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
