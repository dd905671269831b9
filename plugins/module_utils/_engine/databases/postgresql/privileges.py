# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who may connect to a database that a restore fills: its login alone, until it has the target's place.

CREATE DATABASE lets every role connect. A stranger could read what is loaded, or add a function that the owner's own
expressions then call with the login's rights. So a database is created closed to every session, and its privileges
become the backup's in the transaction that gives it the target's name. A superuser can always connect, and the role
that owns the database can give itself the right again.

Privileges belong to whom they were granted by. So each statement is run as that role, which the login then is until the
statement's end. All of them run in another database, and find a role by the bytes of its name (shared_names.py).
"""

from __future__ import annotations

from typing import List, Optional, Sequence, Set, Tuple

from . import shared_names
from .connection import Connection
from .definition import PRIVILEGES, Grant, Properties, literal

#: What a database has of which nobody changed the privileges (PostgreSQL manual, "Privileges"); the owner has the rest.
_DEFAULT = (Grant(None, "CONNECT", False), Grant(None, "TEMPORARY", False))
#: Roles that a session may not become; on servers before 16, "SET" is part of "MEMBER".
_FOREIGN = """
SELECT wanted FROM unnest(%s::text[]) AS wanted JOIN pg_catalog.pg_roles r ON r.rolname = wanted
 WHERE NOT pg_catalog.pg_has_role(session_user, r.oid, %s)
"""


def closed(name: str, owner: str, entering: Sequence[str] = ()) -> str:
    """Open a new database, which takes no sessions yet, to this session's login and ``entering``, and to no other."""
    grants = "".join(_run("GRANT CONNECT ON DATABASE %I TO %I", name, shared_names.written(one)) for one in entering)
    return _as(
        shared_names.written(owner),
        _run("REVOKE CONNECT ON DATABASE %I FROM PUBLIC", name)
        + "IF mine <> session_user THEN "
        + _run("REVOKE CONNECT ON DATABASE %I FROM %I", name, "mine")
        # A superuser needs none, and its members would get it.
        + "IF NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = session_user) THEN "
        + _run("GRANT CONNECT ON DATABASE %I TO %I", name, "session_user")
        + "END IF; END IF; "
        + grants
        + _run("ALTER DATABASE %I ALLOW_CONNECTIONS true", name),
    )


def settled(properties: Properties, name: str, owner: Optional[str]) -> List[str]:
    """Statements that give a database the privileges of the backup; with ``owner``, the default ones.

    The roles of the backup belong to another server then.
    """
    mine = owner or properties.owner
    heir = shared_names.written(mine)
    cleared = "".join(
        _run("REVOKE ALL ON DATABASE %I FROM %I", name, role) for role in ("session_user", "mine")
    ) + _run("REVOKE ALL ON DATABASE %I FROM PUBLIC", name)
    if properties.grants is None or owner is not None:
        grants: Sequence[Grant] = (*_DEFAULT, *(Grant(mine, privilege, False) for privilege in PRIVILEGES))
    else:
        grants = _in_order(properties.grants)
    return [_as(heir, cleared), *(_granted(grant, name, heir) for grant in grants)]


def unkept(control: Connection, properties: Properties, owner: Optional[str]) -> Tuple[str, ...]:
    """A sentence where this login cannot grant as the roles that did, so that the database's owner does."""
    grantors = sorted({one.grantor for one in properties.grants or () if one.grantor is not None})
    if owner is not None or not grantors:
        return ()
    kind = "SET" if control.version >= 16_00_00 else "MEMBER"
    foreign = [name for (name,) in control.rows(_FOREIGN, [grantors, kind])]
    if not foreign:
        return ()
    said = f"The database's owner granted the privileges on it that {', '.join(foreign)} had granted"
    return (f"{said}: this login may not become these roles. Where it matters, restore as a superuser.",)


def _in_order(grants: Sequence[Grant]) -> List[Grant]:
    """The same, so that each role has been given the right to grant before it does."""
    ordered: List[Grant] = []
    able: Set[Tuple[Optional[str], str]] = set()
    left = list(grants)
    while left:
        ready = [one for one in left if one.grantor is None or (one.grantor, one.privilege) in able]
        # No server has such: the manifest was made by hand, and the server answers.
        ready = ready or left
        ordered += ready
        able |= {(one.role, one.privilege) for one in ready if one.grantable}
        left = [one for one in left if one not in ready]
    return ordered


def _granted(grant: Grant, name: str, heir: str) -> str:
    # The privilege is a keyword and cannot be quoted; a manifest with any other was refused (definition.PRIVILEGES).
    grantor = heir if grant.grantor is None else shared_names.written(grant.grantor)
    to = "PUBLIC" if grant.role is None else "%I"
    option = " WITH GRANT OPTION" if grant.grantable else ""
    role = () if grant.role is None else (shared_names.written(grant.role),)
    return _as(grantor, _run(f"GRANT {grant.privilege} ON DATABASE %I TO {to}{option}", name, *role), heir)


def _as(role: str, statements: str, otherwise: Optional[str] = None) -> str:
    """Statements that run as a role (SQL for its name), or as another one where the login may not become it."""
    become = "PERFORM pg_catalog.set_config('role', mine, true); "
    if otherwise not in (None, role):
        instead = f"PERFORM pg_catalog.set_config('role', {otherwise}, true); "
        become = f"BEGIN {become}EXCEPTION WHEN insufficient_privilege THEN {instead}END; "
    return "DO " + literal(
        f"DECLARE before text := pg_catalog.current_setting('role'); mine text := {role}; "
        f"BEGIN {become}{statements}PERFORM pg_catalog.set_config('role', before, true); END"
    )


def _run(statement: str, name: str, *roles: str) -> str:
    arguments = ", ".join((literal(name), *roles))
    return f"EXECUTE pg_catalog.format({literal(statement)}, {arguments}); "
