# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a database's objects demand of the server that takes them, besides roles that the server tracks.

pg_dump writes them down without asking whether another server has them, so that a restore would fail in its middle. The
manifest names them, and a restore asks for them before it changes anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Tuple

from . import shared_names
from .connection import Connection
from .encodings import readable

#: Objects that a server lets only superusers make (PostgreSQL manual, the CREATE commands): functions in languages that
#: are not trusted and those that are called leakproof among them. What an extension brings is the extension's business.
_FOR_SUPERUSERS = """
SELECT pg_describe_object(made.class, made.object, 0) FROM (
    SELECT 'pg_event_trigger'::regclass::oid AS class, oid AS object FROM pg_event_trigger
    UNION ALL SELECT 'pg_publication'::regclass, oid FROM pg_publication WHERE puballtables
    UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, oid FROM pg_foreign_data_wrapper
    UNION ALL SELECT 'pg_opclass'::regclass, oid FROM pg_opclass
    UNION ALL SELECT 'pg_am'::regclass, oid FROM pg_am
    UNION ALL SELECT 'pg_ts_parser'::regclass, oid FROM pg_ts_parser
    UNION ALL SELECT 'pg_ts_template'::regclass, oid FROM pg_ts_template
    UNION ALL SELECT 'pg_proc'::regclass, p.oid FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
               WHERE NOT l.lanpltrusted OR p.proleakproof
    {since_15}
) AS made
 WHERE made.object >= 16384
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = made.class AND d.objid = made.object AND d.deptype = 'e')
   AND (made.class <> 'pg_proc'::regclass OR NOT EXISTS (SELECT FROM pg_proc p WHERE p.oid = made.object
                                                           AND p.pronamespace = 'pg_catalog'::regnamespace))
 ORDER BY 1
"""
_SCHEMAS_PUBLISHED = "UNION ALL SELECT 'pg_publication'::regclass, pnpubid FROM pg_publication_namespace"

#: Only a superuser's dump holds subscriptions.
_SUBSCRIPTIONS = """
SELECT 'subscription ' || quote_ident(subname) FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
 WHERE d.datname = current_database() AND current_setting('is_superuser') = 'on' ORDER BY 1
"""

_MAPPED_ROLES = f"SELECT DISTINCT {shared_names.raw('usename')} FROM pg_user_mappings WHERE umuser <> 0 ORDER BY 1"

#: Roles that were dropped while privileges named them: pg_dump grants to a role whose name is the number.
_DANGLING = """
SELECT DISTINCT grant_.grantee::text FROM (
    SELECT relacl AS acl FROM pg_class UNION ALL SELECT attacl FROM pg_attribute WHERE attacl IS NOT NULL
    UNION ALL SELECT proacl FROM pg_proc UNION ALL SELECT nspacl FROM pg_namespace UNION ALL SELECT typacl FROM pg_type
    UNION ALL SELECT lanacl FROM pg_language UNION ALL SELECT fdwacl FROM pg_foreign_data_wrapper
    UNION ALL SELECT srvacl FROM pg_foreign_server UNION ALL SELECT lomacl FROM pg_largeobject_metadata
    UNION ALL SELECT defaclacl FROM pg_default_acl
) AS listed, aclexplode(listed.acl) AS grant_
 WHERE grant_.grantee <> 0 AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = grant_.grantee) ORDER BY 1
"""

#: Collations that initdb made: of the operating system's locales, and of ICU's. What uses one depends on it, be it a
#: column, an index, a type or any expression, as these are not pinned (PostgreSQL's catalogs.sgml, "pg_depend").
_COLLATIONS = """
SELECT DISTINCT collname FROM pg_collation
 WHERE collnamespace = 'pg_catalog'::regnamespace AND collprovider <> 'd' AND collname NOT IN ('C', 'POSIX')
   AND oid IN (SELECT attcollation FROM pg_attribute WHERE attrelid >= 16384
               UNION SELECT typcollation FROM pg_type WHERE oid >= 16384
               UNION SELECT rngcollation FROM pg_range WHERE rngtypid >= 16384
               UNION SELECT unnest(indcollation) FROM pg_index WHERE indexrelid >= 16384
               UNION SELECT unnest(partcollation) FROM pg_partitioned_table
               UNION SELECT refobjid FROM pg_depend WHERE refclassid = 'pg_collation'::regclass AND objid >= 16384)
 ORDER BY 1
"""

#: Locales of the operating system that collations of the user's name.
_LOCALES = """
SELECT DISTINCT collcollate, collctype FROM pg_collation WHERE oid >= 16384 AND collprovider = 'c' ORDER BY 1, 2
"""

#: A single one stops a restore; more are named for the user's sake.
_NAMED = 100


@dataclass(frozen=True)
class Locale:
    """A locale of the operating system's, as CREATE COLLATION names it."""

    collate: str
    ctype: str


@dataclass(frozen=True)
class Demands:
    """``for_superusers`` are descriptions of objects, ``dangling_roles`` numbers of roles, ``collations`` names."""

    for_superusers: Tuple[str, ...] = ()
    mapped_roles: Tuple[str, ...] = ()
    dangling_roles: Tuple[str, ...] = ()
    collations: Tuple[str, ...] = ()
    locales: Tuple[Locale, ...] = ()


def read(connection: Connection, named: shared_names.Reader) -> Demands:
    """Ask for the demands of the database that the session is in."""
    since_15 = _SCHEMAS_PUBLISHED if connection.version >= 15_00_00 else ""
    made = connection.rows(_FOR_SUPERUSERS.format(since_15=since_15)) + connection.rows(_SUBSCRIPTIONS)
    return Demands(
        # Without a description, the object was dropped since the snapshot.
        for_superusers=tuple(dict.fromkeys(readable(name) for (name,) in made if name))[:_NAMED],
        mapped_roles=tuple(map(named, _column(connection, _MAPPED_ROLES))),
        dangling_roles=_column(connection, _DANGLING),
        collations=_column(connection, _COLLATIONS),
        locales=tuple(Locale(*row) for row in connection.rows(_LOCALES)),
    )


def _column(connection: Connection, query: str) -> Tuple[Any, ...]:
    return tuple(value for (value,) in connection.rows(query))
