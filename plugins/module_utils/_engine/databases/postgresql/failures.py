# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a PostgreSQL server's errors mean, as typed errors with a next step."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Iterator, Optional

from ...errors import BadInput, EngineError, Locked, NoSpace, NotFound, PermissionDenied, Unreachable
from ...messages import of_server

if TYPE_CHECKING:
    import psycopg2


_MEMORY = (
    "Where it ran out of shared memory, raise max_locks_per_transaction on the server and restart it: there are more "
    "tables than it has room for locks; otherwise, free memory there."
)
#: A server writes what it likes, at any length.
_LONGEST = 500
#: A server's answer: libpq writes its severity, in any language, a colon and two spaces before it.
_ANSWER = re.compile(r"\S:  \S")


def sqlstate(error: BaseException) -> str:
    """The SQLSTATE behind a typed error (PostgreSQL manual, appendix A), or an empty string."""
    return str(getattr(error.__cause__, "pgcode", None) or "")


def raised_in(error: BaseException) -> str:
    """The server's own function that raised the error behind a typed one, whatever its language, or an empty string."""
    return str(getattr(getattr(error.__cause__, "diag", None), "source_function", None) or "")


@contextmanager
def translated(label: str) -> Iterator[None]:
    """Turn the driver's errors into typed ones, with the driver's as their cause."""
    import psycopg2

    try:
        yield
    except psycopg2.Error as error:
        raise _explained(error, label) from error
    except UnicodeError as error:
        raise BadInput(
            f"{label}: a name there is not valid in the database's encoding ({error}). Rename the object."
        ) from error


def _explained(error: psycopg2.Error, label: str) -> EngineError:
    state = error.pgcode or ""
    # Without a SQLSTATE, the client library says what became of the connection.
    primary = error.diag.message_primary
    if primary:
        said = of_server(primary, state, error.diag.source_file or "", error.diag.context or "")
    else:
        said = (str(error).strip().splitlines() or ["no reason given"])[0][:_LONGEST]
    if state == "42501":
        return PermissionDenied(f"{label}: {said}. Grant what is missing, or log in as the owner or a superuser.")
    if state in ("55P03", "55006", "40P01"):
        return Locked(f"{label}: {said}. Find the session that holds it in pg_stat_activity, or try again later.")
    if state == "57014":
        return Unreachable(f"{label}: {said}. Something cancelled the statement; run this again.")
    if state == "53200":
        return NoSpace(f"{label}: {said}. {_MEMORY}")
    if state == "53100":
        return NoSpace(f"{label}: {said}. Free space on the database server, or raise the limit that it names.")
    if state == "3D000":
        return NotFound(f"{label}: {said}. Check the name.")
    if not state or state.startswith(("08", "57P")):
        return Unreachable(f"{label}: the session broke ({said}). See the server's log, and run this again.")
    return EngineError(f"{label}: {said} (SQLSTATE {state}). See the server's log for more.")


def known_refusal(said: str, database: str, user: str, where: str) -> Optional[EngineError]:
    """Why a session could not be opened, or None where a server gave a reason in words that are not known.

    libpq gives no SQLSTATE here, only text.
    """
    text = _in_one_line(said)
    low = text.lower()
    if f'database "{database}" does not exist'.lower() in low:
        return no_database(database, where)
    if "permission denied for database" in low:
        return may_not_connect(database, user, where)
    if "unsupported startup parameter" in low:
        return pooled(where)
    if "peer authentication failed" in low:
        return Unreachable(
            f'{where} refused to log in user "{user}": {text}. '
            "It lets in who the operating system says: run as that account, or let become_user name it."
        )
    if f'role "{user}" does not exist'.lower() in low:
        return Unreachable(
            f'{where} has no role "{user}". Name a role of the server in login_user, or in become_user the account '
            "that the server runs as, whose name is its role."
        )
    if "authentication failed" in low or "no password supplied" in low or "pg_hba.conf" in low or 'role "' in low:
        return Unreachable(
            f'{where} refused to log in user "{user}": {text}. '
            "Check login_user, login_password and the server's pg_hba.conf."
        )
    if _ANSWER.search(text):
        return None
    if "ssl" in low or "certificate" in low:
        return Unreachable(f"{where} cannot be reached over TLS: {text}. Check ssl_mode and ca_cert.")
    return Unreachable(
        f"{where} does not answer: {text}. Check login_host and login_port, and that PostgreSQL runs there."
    )


def other_refusal(said: str, user: str, where: str) -> EngineError:
    """What is left when a server gave a reason that is not known."""
    return Unreachable(
        f'{where} refused a session of user "{user}": {_in_one_line(said)}. See the server\'s log, and try again.'
    )


def no_database(database: str, where: str) -> EngineError:
    return NotFound(
        f'database "{database}" does not exist on {where}. Check the name, and that this is the right server.'
    )


def may_not_connect(database: str, user: str, where: str) -> EngineError:
    return PermissionDenied(
        f'database "{database}" on {where} does not let user "{user}" connect. Grant it CONNECT on the database.'
    )


def pooled(where: str) -> EngineError:
    """What is said of a connection pooler; nothing was set in the session that it lent."""
    return BadInput(
        f"{where} is reached through a connection pooler, which snapshots and locks of a session do not survive. "
        "Let login_host and login_port name the server itself."
    )


def _in_one_line(said: str) -> str:
    # Behind a tab stands libpq's own advice, which ours replaces.
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("\t")]
    return " ".join(lines)[:_LONGEST].rstrip(".")
