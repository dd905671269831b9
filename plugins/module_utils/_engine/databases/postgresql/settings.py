# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which settings are in force while a database is dumped and loaded.

A dump is text, and settings decide how a server reads it. So both ends fix those that change the meaning of values, and
a restored database gets its own settings before its data, as ``pg_restore --create`` does it: what is computed while
loading (materialized views, generated columns, indexes) then sees what applications see. Those settings that can only
hinder a load, and none of its results, come after it.
"""

from __future__ import annotations

from typing import Dict, List, Mapping, Tuple

#: The text of money depends on this one alone. "C" is on every host and never changes, unlike any other locale.
_MEANING = {"lc_monetary": "C"}

#: With array_nulls off, the NULL elements that pg_dump writes would become words.
_LOADING = {**_MEANING, "array_nulls": "on", "default_transaction_read_only": "off"}

#: The server asks after a silent client, and lets go of what it held within three minutes of losing it; by itself it
#: asks after two hours. No tcp_user_timeout: that would end a dump which waits for a slow repository (tcp(7)).
_VIGILANCE = {"tcp_keepalives_idle": "60", "tcp_keepalives_interval": "15", "tcp_keepalives_count": "8"}

#: A session of ours that holds a snapshot says something every minute.
_SILENCE = "600s"

#: What every session of ours begins with, whatever the server, the database or the role has as a default: a failure
#: instead of rows that row security left out, and no function of a user's schema in the place of a built-in one
#: (CVE-2018-1058). The driver would set another DateStyle by itself. Until a session is open, libpq writes a server's
#: warnings to the standard error as they are, and the settings of a database can hold any text.
_OWN = {
    "client_min_messages": "error",
    "row_security": "off",
    "quote_all_identifiers": "off",
    "default_transaction_read_only": "off",
    "idle_in_transaction_session_timeout": _SILENCE,
    "DateStyle": "ISO",
}
_OWN_SINCE = {14_00_00: "idle_session_timeout", 17_00_00: "transaction_timeout"}

#: A server without POLLRDHUP has it, and accepts no other value than 0 (PostgreSQL manual, "TCP Settings").
_ATTENTION = {14_00_00: ("client_connection_check_interval", "30s")}

#: A view or foreign table in the place of a table is refused instead of read, which would run its owner's code with our
#: rights (CVE-2024-7348). Servers know it since the minor releases of August 2024; pg_dump sets the same.
RESTRICTION = ("restrict_nonsystem_relation_kind", "view, foreign-table")

#: No time limit on the long statements of a backup. Programs of PostgreSQL's set the same, once they have connected.
_PATIENCE = {"statement_timeout": "0", "lock_timeout": "0"}

#: Settings of a database that are made after it is loaded. They stop a session, keep it from beginning, make it another
#: role, or are replaced by pg_restore for its own session in any case.
_AFTER_LOADING = frozenset(
    (
        "client_encoding",
        "default_transaction_deferrable",
        "default_transaction_isolation",
        "default_transaction_read_only",
        "event_triggers",
        "idle_in_transaction_session_timeout",
        "idle_session_timeout",
        "local_preload_libraries",
        "lock_timeout",
        "role",
        "row_security",
        "search_path",
        "session_authorization",
        "session_preload_libraries",
        "session_replication_role",
        "statement_timeout",
        "transaction_timeout",
    )
)


#: Whether the database, and no setting of the login's own, has made the session another role, and that role is one
#: whose rights the login has in any case. Its owner could otherwise take a superuser's rights from a backup.
FORCED_ROLE = """
pg_catalog.current_setting('role') OPERATOR(pg_catalog.<>) 'none'
 AND pg_catalog.pg_has_role(session_user, current_user, 'USAGE')
 AND NOT EXISTS (
  SELECT FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) c
   WHERE pg_catalog.pg_get_userbyid(s.setrole) OPERATOR(pg_catalog.=) session_user
     AND pg_catalog.split_part(c, '=', 1) OPERATOR(pg_catalog.=) 'role'
     AND (s.setdatabase OPERATOR(pg_catalog.=) 0::pg_catalog.oid OR EXISTS (
       SELECT FROM pg_catalog.pg_database d WHERE d.oid OPERATOR(pg_catalog.=) s.setdatabase
          AND d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())))
"""


def is_for_loading(name: str) -> bool:
    """Whether a database's setting of this name must be in force before its data is loaded."""
    return name.lower() not in _AFTER_LOADING


def for_own(own_path: bool) -> Dict[str, str]:
    """What a session of ours begins with. Without ``own_path`` it has the search path that applications see."""
    path = {"search_path": ""} if own_path else {}
    return {**_PATIENCE, **_VIGILANCE, **_OWN, **path}


def limits_since(version: int) -> List[str]:
    """Further limits on the time of a session that a server of this version knows."""
    return [name for since, name in _OWN_SINCE.items() if version >= since]


def attention_since(version: int) -> List[Tuple[str, str]]:
    """What makes a server of this version notice during a statement that its client is gone."""
    return [setting for since, setting in _ATTENTION.items() if version >= since]


def for_dump() -> Dict[str, str]:
    """What pg_dump's session begins with."""
    return {**_PATIENCE, **_VIGILANCE, **_MEANING}


def for_load() -> Dict[str, str]:
    """What pg_restore's session begins with."""
    return {**_PATIENCE, **_VIGILANCE, **_LOADING}


def written(settings: Mapping[str, str]) -> str:
    """Settings as libpq's ``options`` takes them (PostgreSQL manual, "Database Connection Control Functions")."""

    def escaped(text: str) -> str:
        return "".join("\\" + letter if letter.isspace() or letter == "\\" else letter for letter in text)

    return " ".join(f"-c {escaped(name)}={escaped(value)}" for name, value in settings.items())
