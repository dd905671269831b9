# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a PostgreSQL database is besides its contents: encoding, locale, owner, privileges, settings.

A dump without ``--create`` holds none of that, so the manifest does, and a restore makes the database anew with it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Callable, List, Mapping, Optional, Tuple

from ...errors import BadInput, BadManifest
from ...shapes import Misshapen, known
from . import demands, settings, shared_names
from .connection import Connection, quote_identifier
from .demands import Locale
from .encodings import readable
from .shared_names import raw

#: The longest text of a property, in characters. Of a longer one, no more is asked for: it may be a gigabyte.
_LONGEST = 1 << 20
_ASKED = _LONGEST + 1
#: Whether the privileges are others than those of a new database.
_GRANTED = """d.datacl IS NOT NULL
       AND (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(d.datacl) a) IS DISTINCT FROM
           (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(acldefault('d', d.datdba)) a)"""
_DATABASE = f"""
SELECT pg_encoding_to_char(d.encoding), d.datcollate, d.datctype,
       {raw("pg_get_userbyid(d.datdba)")}, {raw("t.spcname")}, d.datconnlimit, d.datallowconn, d.datistemplate,
       left(shobj_description(d.oid, 'pg_database'), {_ASKED}), {_GRANTED},
       EXISTS (SELECT FROM pg_namespace WHERE nspname = 'public'), {{locale}}
  FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace
 WHERE d.datname = current_database()
"""
#: Locale provider, locale of the provider, ICU rules and version of the collation, by the server that has them first.
_LOCALE_SINCE = (
    (17_00_00, "d.datlocprovider::text, d.datlocale, d.daticurules, d.datcollversion"),
    (16_00_00, "d.datlocprovider::text, d.daticulocale, d.daticurules, d.datcollversion"),
    (15_00_00, "d.datlocprovider::text, d.daticulocale, NULL, d.datcollversion"),
    (0, "'c', NULL, NULL, NULL"),
)

_GRANTS = f"""
SELECT CASE WHEN a.grantee <> 0 THEN {raw("coalesce(r.rolname, a.grantee::text)")} END, a.privilege_type,
       a.is_grantable, CASE WHEN a.grantor <> d.datdba THEN {raw("pg_get_userbyid(a.grantor)")} END
  FROM pg_database d CROSS JOIN aclexplode(d.datacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
 WHERE d.datname = current_database() ORDER BY 1 NULLS FIRST, 2, 4 NULLS FIRST
"""

_SETTINGS = f"""
SELECT CASE WHEN s.setrole <> 0 THEN {raw("pg_get_userbyid(s.setrole)")} END, split_part(c.line, '=', 1),
       substr(c.line, strpos(c.line, '=') + 1, {_ASKED})
  FROM pg_db_role_setting s, unnest(s.setconfig) WITH ORDINALITY AS c (line, place)
 WHERE s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
 ORDER BY 1 NULLS FIRST, c.place
"""

#: Roles that objects belong to, are granted to, or that policies are for. The server does not track dependencies on
#: the role that initdb made, so that objects of this one are looked for by themselves.
_ROLES = f"""
SELECT {raw("r.rolname")}, bool_or(s.deptype = 'r') FROM pg_shdepend s JOIN pg_roles r ON r.oid = s.refobjid
 WHERE s.refclassid = 'pg_authid'::regclass
   AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) GROUP BY 1
UNION ALL
SELECT {raw("pg_get_userbyid(10)")}, false WHERE EXISTS (
    SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relowner = 10 AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
     UNION ALL SELECT FROM pg_namespace WHERE nspowner = 10 AND nspname !~ '^(pg_|information_schema$|public$)'
     UNION ALL SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
     WHERE p.proowner = 10 AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')
ORDER BY 1
"""

_SUPERUSERS = f"SELECT {raw('rolname')} FROM pg_roles WHERE rolsuper ORDER BY 1"
_LABELS = f"""
SELECT provider, left(label, {_ASKED}) FROM pg_shseclabel l JOIN pg_database d ON d.oid = l.objoid
 WHERE l.classoid = 'pg_database'::regclass AND d.datname = current_database() ORDER BY 1
"""

_TABLESPACES = f"""
SELECT DISTINCT {raw("t.spcname")} FROM pg_class c JOIN pg_tablespace t ON t.oid = c.reltablespace
 WHERE t.spcname NOT LIKE 'pg\\_%' ORDER BY 1
"""

_PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}

#: Settings whose value is a list of quoted names: each name is a literal of its own in SET (GUC_LIST_QUOTE in the
#: server's guc_tables.c; pg_dump keeps the same list in variable_is_guc_list_quote()).
_LISTS_OF_NAMES = frozenset(
    (
        "local_preload_libraries",
        "search_path",
        "session_preload_libraries",
        "shared_preload_libraries",
        "temp_tablespaces",
        "unix_socket_directories",
    )
)


@dataclass(frozen=True)
class Grant:
    """One privilege on the database; the role is None for PUBLIC, and the grantor for the database's owner."""

    role: Optional[str]
    privilege: str
    grantable: bool
    grantor: Optional[str] = None


@dataclass(frozen=True)
class Setting:
    """A configuration parameter's default in the database; the role is None where it is for all of them."""

    role: Optional[str]
    name: str
    value: str


@dataclass(frozen=True)
class SecurityLabel:
    """A label of the database, and the module that gives it a meaning."""

    provider: str
    label: str


@dataclass(frozen=True)
class Properties:
    """What CREATE DATABASE and ALTER DATABASE need to make the database the same again.

    ``grants`` is None where the privileges are those of a new database. ``roles`` and ``policy_roles`` (those that row
    security policies name), ``tablespaces`` and ``extensions`` are what its objects need on the server; ``superusers``
    are those of all roles in here that were one; ``misfits`` are names of roles and tablespaces that the dump cannot
    hold. What ``Demands`` has is here under the same names.
    """

    encoding: str
    collate: str
    ctype: str
    owner: str
    tablespace: str
    connection_limit: int = -1
    allow_connections: bool = True
    is_template: bool = False
    comment: Optional[str] = None
    public_schema: bool = True
    locale_provider: str = "c"
    locale: Optional[str] = None
    icu_rules: Optional[str] = None
    collation_version: Optional[str] = None
    grants: Optional[Tuple[Grant, ...]] = None
    settings: Tuple[Setting, ...] = ()
    security_labels: Tuple[SecurityLabel, ...] = ()
    roles: Tuple[str, ...] = ()
    policy_roles: Tuple[str, ...] = ()
    superusers: Tuple[str, ...] = ()
    tablespaces: Tuple[str, ...] = ()
    extensions: Tuple[str, ...] = ()
    for_superusers: Tuple[str, ...] = ()
    mapped_roles: Tuple[str, ...] = ()
    dangling_roles: Tuple[str, ...] = ()
    collations: Tuple[str, ...] = ()
    locales: Tuple[Locale, ...] = ()
    not_dumped: Tuple[str, ...] = ()
    misfits: Tuple[str, ...] = ()

    def written(self) -> Mapping[str, Any]:
        """As the manifest has it."""
        return asdict(self)

    def needed_roles(self, owner: Optional[str]) -> List[str]:
        """Roles that must exist where this is restored; ``owner`` stands for all but those of policies and mappings."""
        if owner is not None:
            return sorted({owner, *self.policy_roles, *self.mapped_roles})
        named = {name for one in self.grants or () for name in (one.role, one.grantor)}
        named |= {one.role for one in self.settings}
        tracked = {self.owner, *self.roles, *self.mapped_roles, *self.dangling_roles}
        return sorted({*tracked, *(role for role in named if role is not None)})


#: All that there are on databases (PostgreSQL manual, "Privileges").
PRIVILEGES = ("CONNECT", "CREATE", "TEMPORARY")
_PROPERTIES = known(Properties, texts=_LONGEST)


def read(connection: Connection) -> Properties:
    """Ask for the properties of the database that the session is in. Raises BadInput where one fits no manifest."""
    locale = next(columns for since, columns in _LOCALE_SINCE if connection.version >= since)
    row = connection.rows(_DATABASE.format(locale=locale))[0]
    encoding, collate, ctype, owner, tablespace, limit, allow, template, comment, granted, public = row[:11]
    provider, provider_locale, icu_rules, collation_version = row[11:]
    named = shared_names.Reader(connection)
    maybe = shared_names.optional(named)
    roles = [(named(role), policy) for role, policy in connection.rows(_ROLES)]
    properties = Properties(
        encoding=encoding,
        collate=collate,
        ctype=ctype,
        owner=named(owner),
        tablespace=named(tablespace),
        connection_limit=limit,
        allow_connections=allow,
        is_template=template,
        comment=None if comment is None else readable(comment),
        public_schema=public,
        locale_provider=provider,
        locale=provider_locale,
        icu_rules=icu_rules,
        collation_version=collation_version,
        grants=_grants(connection, maybe) if granted else None,
        settings=tuple(Setting(maybe(role), *rest) for role, *rest in connection.rows(_SETTINGS)),
        security_labels=tuple(SecurityLabel(*label) for label in connection.rows(_LABELS)),
        roles=tuple(sorted({role for role, _policy in roles})),
        policy_roles=tuple(role for role, policy in roles if policy),
        tablespaces=tuple(named(name) for (name,) in connection.rows(_TABLESPACES)),
        extensions=tuple(name for (name,) in connection.rows("SELECT extname FROM pg_extension ORDER BY 1")),
        **vars(demands.read(connection, named)),
    )
    superusers = sorted(named(name) for (name,) in connection.rows(_SUPERUSERS))
    here = {*properties.needed_roles(None), *properties.policy_roles}
    _require_fitting(properties, connection.label)
    needed = {*here, *properties.tablespaces, properties.tablespace}
    return replace(
        properties,
        superusers=tuple(name for name in superusers if name in here),
        misfits=tuple(sorted(name for name in named.misfits if name in needed)),
    )


def _grants(connection: Connection, maybe: Callable[[Any], Optional[str]]) -> Tuple[Grant, ...]:
    found = connection.rows(_GRANTS)
    return tuple(Grant(maybe(role), privilege, option, maybe(by)) for role, privilege, option, by in found)


def _require_fitting(properties: Properties, label: str) -> None:
    texts = [("comment", properties.comment or "")]
    texts += [(f"setting {one.name}", one.value) for one in properties.settings]
    texts += [(f"security label of {one.provider}", one.label) for one in properties.security_labels]
    for what, value in texts:
        if len(value) > _LONGEST:
            raise BadInput(
                f"{label}: its {what} is longer than the {_LONGEST} characters that a backup holds. Shorten it."
            )


def from_manifest(written: Mapping[str, Any], backup: str) -> Properties:
    """Read what ``Properties.written`` made. Raises BadManifest."""
    try:
        properties = _PROPERTIES(dict(written))
        for one in properties.grants or ():
            if one.privilege not in PRIVILEGES:
                raise Misshapen(f'names "{one.privilege[:40]}", which is no privilege on a database', "grants")
        return properties
    except Misshapen as error:
        raise BadManifest(
            f"The manifest of {backup} does not say how to create its database: {error.inside('properties')}. "
            "Restore another backup, or create the database by hand and use pg_restore (docs/formats.md)."
        ) from None


def creation(properties: Properties, name: str, owner: Optional[str], version: int) -> str:
    """CREATE DATABASE for an empty database, which takes no sessions yet, on a server of this version number."""
    clauses = [
        f"CREATE DATABASE {quote_identifier(name)} TEMPLATE template0",
        f"OWNER {quote_identifier(owner or properties.owner)} ALLOW_CONNECTIONS false",
        f"ENCODING {literal(properties.encoding)}",
        f"LC_COLLATE {literal(properties.collate)} LC_CTYPE {literal(properties.ctype)}",
    ]
    if version >= 15_00_00:
        clauses.append(f"LOCALE_PROVIDER {_PROVIDERS.get(properties.locale_provider, 'libc')}")
    if properties.locale is not None:
        keyword = "BUILTIN_LOCALE" if properties.locale_provider == "b" else "ICU_LOCALE"
        clauses.append(f"{keyword} {literal(properties.locale)}")
    if properties.icu_rules is not None:
        clauses.append(f"ICU_RULES {literal(properties.icu_rules)}")
    if properties.tablespace != "pg_default":
        clauses.append(f"TABLESPACE {quote_identifier(properties.tablespace)}")
    return " ".join(clauses)


def preparation(properties: Properties, owner: Optional[str]) -> List[str]:
    """What to run in the new database before its contents are loaded: comment, labels, settings that matter to it."""
    statements = []
    if properties.comment is not None:
        statements.append(_here("COMMENT ON DATABASE %1$I ", f"IS {literal(properties.comment)}"))
    for one in properties.security_labels:
        head = f"SECURITY LABEL FOR {_in_format(quote_identifier(one.provider))} ON DATABASE %1$I "
        statements.append(_here(head, f"IS {literal(one.label)}"))
    return statements + [made(one) for one in applicable(properties, owner) if settings.is_for_loading(one.name)]


def settlement(properties: Properties, owner: Optional[str]) -> List[str]:
    """What to run in the new database once its contents are there: the other settings."""
    wanted = applicable(properties, owner)
    if all(settings.is_for_loading(one.name) for one in wanted):
        wanted = []
    # All of them again, so that they are in the order that they had.
    return [_unmade(role) for role in dict.fromkeys(one.role for one in wanted)] + [made(one) for one in wanted]


def applicable(properties: Properties, owner: Optional[str]) -> List[Setting]:
    """The settings that a restore makes; with ``owner``, those of roles are left out, which another server has."""
    return [one for one in properties.settings if one.role is None or owner is None]


def opening(properties: Properties, name: str) -> List[str]:
    """What to run at the very end, in the transaction that puts the database in its place: who may connect."""
    database = quote_identifier(name)
    statements = []
    if properties.connection_limit != -1:
        statements.append(f"ALTER DATABASE {database} CONNECTION LIMIT {int(properties.connection_limit)}")
    if properties.is_template:
        statements.append(f"ALTER DATABASE {database} IS_TEMPLATE true")
    if not properties.allow_connections:
        statements.append(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
    return statements


def literal(text: str) -> str:
    """A string constant for SQL, whatever ``standard_conforming_strings`` says."""
    quoted = "'" + text.replace("'", "''").replace("\\", "\\\\") + "'"
    return "E" + quoted if "\\" in text else quoted


def split_names(value: str) -> List[str]:
    """The names in a list like ``"$user", public``; a quote in a name is doubled."""
    names, current, quoted, place = [], "", False, 0
    while place < len(value):
        letter = value[place]
        if letter == '"' and quoted and value[place + 1 : place + 2] == '"':
            current += letter
            place += 1
        elif letter == '"':
            quoted = not quoted
        elif letter == "," and not quoted:
            names.append(current)
            current = ""
        elif quoted or not letter.isspace():
            current += letter
        place += 1
    return [*names, current]


def _here(head: str, tail: str = "", role: Optional[str] = None) -> str:
    """A statement about the database that it runs in: %1$I stands for its name, and %2$I for the role's.

    Comments, labels and settings are stored in the encoding of the session's database, so that they are right in
    sessions of that database only. There, its own name need not be valid text, and the server alone can write it.
    """
    names = "pg_catalog.current_database()" + ("" if role is None else f", {shared_names.written(role)}")
    return "DO " + literal(f"BEGIN EXECUTE format({literal(head)}, {names}) || {literal(tail)}; END")


def _in_format(text: str) -> str:
    return text.replace("%", "%%")


def made(setting: Setting) -> str:
    """The statement that makes a setting a default of the database that it runs in."""
    return _here(_of(setting.role), assignment(setting), setting.role)


def _unmade(role: Optional[str]) -> str:
    return _here(_of(role), "RESET ALL", role)


def _of(role: Optional[str]) -> str:
    return "ALTER DATABASE %1$I " if role is None else "ALTER ROLE %2$I IN DATABASE %1$I "


def assignment(setting: Setting) -> str:
    """SET and the rest of the clause that makes a setting."""
    values = split_names(setting.value) if setting.name.lower() in _LISTS_OF_NAMES else [setting.value]
    return f"SET {quote_identifier(setting.name)} TO " + ", ".join(literal(value) for value in values)
