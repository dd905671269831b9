# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a restore asks of the server before it changes anything: everything that would stop it in its middle.

Where the server alone knows the answer (whether it has a locale, whether it lets this user make a setting), it is asked
by trying, in a transaction that is rolled back.
"""

from __future__ import annotations

from typing import List, Optional, Sequence, Set, Tuple

from ...errors import EngineError, NotFound, PermissionDenied, TargetExists, Unreachable
from ...model import Manifest
from ..base import differing
from . import definition, promotion, shared_names
from .connection import Connection, quote_identifier
from .definition import Properties, Setting
from .failures import raised_in, sqlstate

_COLLATIONS = """
SELECT wanted FROM unnest(%s::text[]) AS wanted
 WHERE NOT EXISTS (SELECT FROM pg_collation WHERE collname = wanted AND collnamespace = 'pg_catalog'::regnamespace
                      AND collencoding IN (-1, pg_char_to_encoding(%s)))
"""
#: What CREATE COLLATION answers where the operating system lacks the locale.
_NO_LOCALE = ("22023", "58P01")
_DENIED = "42501"
#: A value that the encoding of the database which is asked does not have; that of the new one does.
_OTHER_ENCODING = ("22021", "22P05")


def check(
    control: Connection,
    target: str,
    manifest: Manifest,
    replace: bool,
    owner: Optional[str],
    globals_first: bool,
    tolerant: bool,
    disposable: bool = False,
) -> None:
    """Raise unless this server and this user can be expected to take the backup.

    For a ``disposable`` copy, a setting may be one of our sessions instead of one of the database.
    """
    properties = definition.from_manifest(manifest.properties, manifest.id)
    where = control.label
    if control.value("SELECT pg_is_in_recovery()"):
        raise PermissionDenied(f"{where} is a standby, which takes no changes. Restore on its primary.")
    if promotion.exists(control, target):
        if not replace:
            raise TargetExists(
                f'Cannot restore {target}: database "{target}" exists ({where}). '
                "Set replace to replace it, or restore under another name."
            )
        promotion.require_replaceable(control, target)
    if not control.value("SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user"):
        raise PermissionDenied(
            f"{where}: this user may not create databases. Give its role CREATEDB, or log in as another."
        )
    _require_locale(control, properties)
    _require_labels(control, properties)
    if not tolerant:
        require_extensions(control, properties)
        _require_schedule(control, properties, promotion.beside(target, promotion.RESTORING, manifest.id), target)
        _require_fitting_names(properties, owner, manifest)
    if not globals_first:
        _require_roles(control, properties, owner, manifest)
        _require_tablespaces(control, properties, owner, tolerant)
    if not tolerant:
        _require_objects(control, properties, owner)
        _require_settings(control, properties, owner, disposable)


def refused_settings(control: Connection, wanted: Sequence[Setting]) -> List[Tuple[Setting, EngineError]]:
    """Those that the server does not let this user make for a database, or not with this value; and its answers."""
    roles, found = _roles(control), []
    for one in wanted:
        # A role that comes with the globals is not there yet.
        if one.role is None or one.role in roles:
            whose = "CURRENT_USER" if one.role is None else quote_identifier(one.role)
            answer = _tried(control, f"ALTER ROLE {whose} {definition.assignment(one)}")
            if answer is not None and sqlstate(answer) not in _OTHER_ENCODING:
                found.append((one, answer))
    return found


def for_sessions(control: Connection, refused: Sequence[Tuple[Setting, EngineError]]) -> List[Setting]:
    """Those of them that this user can make in a session of its own."""
    return [one for one, _answer in refused if "." in one.name and not _tried(control, definition.assignment(one))]


def _tried(control: Connection, statement: str) -> Optional[EngineError]:
    """The server's answer to a statement that is taken back; None where it agrees. Raises Unreachable."""
    control.run("BEGIN")
    try:
        control.run(statement)
    except Unreachable:
        raise
    except EngineError as error:
        return error
    finally:
        if control.usable:
            control.run("ROLLBACK")
    return None


def _require_locale(control: Connection, properties: Properties) -> None:
    """Raise NotFound where the operating system lacks the database's locale."""
    if not _has_locale(control, properties.collate, properties.ctype):
        raise NotFound(
            f"{control.label} lacks the locale of the database, {properties.collate} (LC_CTYPE {properties.ctype}). "
            "Install it on the server (Debian: /etc/locale.gen and locale-gen), and restart PostgreSQL."
        )


def _require_labels(control: Connection, properties: Properties) -> None:
    """Raise NotFound where the server does not know the module that gives a label its meaning."""
    role = quote_identifier(control.value("SELECT current_user"))
    for one in properties.security_labels:
        answer = _tried(control, f"SECURITY LABEL FOR {quote_identifier(one.provider)} ON ROLE {role} IS NULL")
        if answer is not None and sqlstate(answer) == "22023":
            raise NotFound(
                f'{control.label}: the database has a security label of "{one.provider}", which is not loaded here. '
                "Add its module to shared_preload_libraries and restart PostgreSQL."
            )


def _has_locale(control: Connection, collate: str, ctype: str) -> bool:
    literals = f"LC_COLLATE = {definition.literal(collate)}, LC_CTYPE = {definition.literal(ctype)}"
    answer = _tried(control, f"CREATE COLLATION pg_temp.fleet_backup ({literals})")
    # Where this user may not make one there, the server does not say. Of one in another encoding than that of the
    # database that is asked, it says so only once it has found the locale.
    return answer is None or sqlstate(answer) not in _NO_LOCALE or raised_in(answer) == "check_encoding_locale_matches"


def _require_objects(control: Connection, properties: Properties, owner: Optional[str]) -> None:
    """Raise for the first kind of objects that could not be made."""
    where = control.label
    lacking = [name for (name,) in control.rows(_COLLATIONS, [list(properties.collations), properties.encoding])]
    if lacking:
        raise NotFound(
            f"{where} lacks the collation {', '.join(lacking)} of columns in the backup. Install the locale on the "
            "server and run pg_import_system_collations in template0, or set on_error to continue."
        )
    for one in properties.locales:
        if not _has_locale(control, one.collate, one.ctype):
            raise NotFound(
                f"{where} lacks the locale {one.collate} of a collation in the backup. Install it on the server and "
                "restart PostgreSQL, or set on_error to continue."
            )
    # pg_restore acts as the owner that was given, or as this user. A role that comes with the globals is not there yet.
    actor = control.rows("SELECT rolname, rolsuper FROM pg_roles WHERE rolname = coalesce(%s, current_user)", [owner])
    if not actor or actor[0][1]:
        return
    if properties.for_superusers:
        raise PermissionDenied(
            differing(properties.for_superusers, f'{where}: "{actor[0][0]}" is no superuser, and only one can restore')
            + ". Log in as a superuser and leave owner out, or set on_error to continue to restore everything else."
        )
    _require_extensions_for(control, properties, actor[0][0])


def _require_settings(control: Connection, properties: Properties, owner: Optional[str], disposable: bool) -> None:
    refused = refused_settings(control, definition.applicable(properties, owner))
    possible = for_sessions(control, refused) if disposable else []
    for one, answer in refused:
        if one in possible:
            continue
        of = "the database" if one.role is None else f"the role {one.role} in the database"
        if sqlstate(answer) == _DENIED:
            raise PermissionDenied(
                f"{control.label}: this user may not make the setting {one.name} of {of}. Log in as a superuser, let "
                f"one run GRANT SET ON PARAMETER {one.name} (PostgreSQL 15 and newer), or set on_error to continue."
            )
        raise NotFound(
            f"{control.label} does not accept the setting {one.name} of {of}: {answer} "
            "Make it valid on the server, or set on_error to continue."
        )


def require_extensions(control: Connection, properties: Properties) -> None:
    """Raise NotFound where the server lacks an extension that the database needs."""
    _require_names(
        control,
        "pg_available_extensions",
        "name",
        properties.extensions,
        "extension",
        "Install their packages on the server",
    )


def _require_schedule(control: Connection, properties: Properties, staged: str, target: str) -> None:
    """Raise NotFound where pg_cron cannot be created: that goes in the one database that its setting names."""
    if "pg_cron" not in properties.extensions:
        return
    configured = control.rows("SELECT setting FROM pg_settings WHERE name = 'cron.database_name'")
    if configured != [(staged,)]:
        raise NotFound(
            f"{control.label}: the backup holds the extension pg_cron, which exists only in the database that "
            f'cron.database_name names, and a restore first fills the database "{staged}". Set '
            f"shared_preload_libraries = 'pg_cron' and cron.database_name = '{staged}', restart the server, restore, "
            f"then set cron.database_name = '{target}' and restart it again."
        )


def _require_roles(control: Connection, properties: Properties, owner: Optional[str], manifest: Manifest) -> None:
    needed = properties.needed_roles(owner)
    there = _roles(control)
    missing = [name for name in needed if name not in there]
    if owner in missing:
        raise NotFound(f'owner: {control.label} has no role "{owner}". Create it, or name another.')
    if missing:
        raise NotFound(
            f"{control.label} lacks roles that {manifest.id} needs: {', '.join(missing)}. "
            "Restore the globals first, create the roles, or give owner to let one role own everything."
        )
    heir = owner or properties.owner
    # A member that does not inherit from the role could not rename its database in the end.
    if not control.value("SELECT pg_has_role(%s, 'USAGE')", [heir]):
        raise PermissionDenied(
            f'{control.label}: this user does not have the rights of the role "{heir}", which is to own the database. '
            "Grant it that role, with INHERIT."
        )


def _require_fitting_names(properties: Properties, owner: Optional[str], manifest: Manifest) -> None:
    """Raise NotFound where the dump names a role or tablespace in bytes that are nothing in the database's encoding."""
    needed = {*properties.needed_roles(owner), *properties.tablespaces}
    misfits = [name for name in properties.misfits if name in needed]
    if misfits:
        start = f"{manifest.id} has names of roles or tablespaces that are nothing in {properties.encoding}"
        raise NotFound(
            f"{differing(misfits, start)}, the encoding of its database: no server can read them. "
            "Give owner, or set on_error to continue."
        )


def _roles(control: Connection) -> Set[str]:
    """The names of all roles, also of those that a database of another encoding has made."""
    named = shared_names.Reader(control)
    return {named(name) for (name,) in control.rows(f"SELECT {shared_names.raw('rolname')} FROM pg_roles")}


def _require_tablespaces(control: Connection, properties: Properties, owner: Optional[str], tolerant: bool) -> None:
    """Raise where a tablespace is missing, or where who makes the database or its objects may not use it."""
    where = control.label
    needed = sorted({*properties.tablespaces, properties.tablespace} - {"pg_default"})
    _require_names(
        control, "pg_tablespace", "spcname", needed, "tablespace", "Restore the globals first, or create them"
    )
    made: List[Tuple[str, Optional[str]]] = [(properties.tablespace, None)]
    made += [] if tolerant else [(name, owner) for name in properties.tablespaces]
    for name, role in made:
        allowed = "SELECT has_tablespace_privilege(coalesce(%s, current_user), %s, 'CREATE')"
        if name in needed and not control.value(allowed, [role, name]):
            who = f'the role "{role}"' if role else "this user"
            raise PermissionDenied(
                f"{where}: {who} may not create anything in the tablespace {name}, which the backup uses. "
                f"GRANT CREATE ON TABLESPACE {quote_identifier(name)} to it."
            )


def _require_names(control: Connection, view: str, column: str, needed: Sequence[str], kind: str, advice: str) -> None:
    there = {name for (name,) in control.rows(f"SELECT {quote_identifier(column)} FROM {quote_identifier(view)}")}
    missing = [name for name in needed if name not in there]
    if missing:
        raise NotFound(f"{control.label} lacks what the backup needs: the {kind} {', '.join(missing)}. {advice}.")


def _require_extensions_for(control: Connection, properties: Properties, actor: str) -> None:
    """Raise PermissionDenied for an extension that is not trusted, which only a superuser may create."""
    if control.version < 13_00_00:
        return
    forbidden = control.rows(
        "SELECT e.name FROM pg_available_extensions e JOIN pg_available_extension_versions v"
        " ON v.name = e.name AND v.version = e.default_version"
        " WHERE e.name = ANY (%s) AND v.superuser AND NOT v.trusted ORDER BY 1",
        [list(properties.extensions)],
    )
    if forbidden:
        raise PermissionDenied(
            f'The role "{actor}" may not create the extension {", ".join(name for (name,) in forbidden)}, which only a '
            "superuser may. Log in as a superuser and leave owner out, restore as an owner with more rights, or set "
            "on_error to continue to have it tried: hosted servers can let other roles create it."
        )
