# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a PostgreSQL server's errors mean, as typed errors with a next step."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Iterator

from ...errors import BadInput, EngineError, Locked, NoSpace, NotFound, PermissionDenied, Unreachable

if TYPE_CHECKING:
    import psycopg2


def sqlstate(error: BaseException) -> str:
    """The SQLSTATE behind a typed error (PostgreSQL manual, appendix A), or an empty string."""
    return str(getattr(error.__cause__, "pgcode", None) or "")


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
    # The message alone: the full text of an error quotes the statement, and a statement may hold a password's hash.
    said = (error.diag.message_primary or str(error)).strip()
    state = error.pgcode or ""
    if state == "42501":
        return PermissionDenied(f"{label}: {said}. Grant what is missing, or log in as the owner or a superuser.")
    if state in ("55P03", "55006", "40P01"):
        return Locked(f"{label}: {said}. Find the session that holds it in pg_stat_activity, or try again later.")
    if state == "57014":
        return Unreachable(f"{label}: {said}. Something cancelled the statement; run this again.")
    if state in ("53100", "53200"):
        return NoSpace(f"{label}: {said}. Free space on the database server, or raise the limit that it names.")
    if state == "3D000":
        return NotFound(f"{label}: {said}. Check the name.")
    if not state or state.startswith(("08", "57P")):
        return Unreachable(f"{label}: the session broke ({said}). See the server's log, and run this again.")
    return EngineError(f"{label}: {said} (SQLSTATE {state}). See the server's log for more.")


def explained_refusal(said: str, database: str, user: str, where: str) -> EngineError:
    """Why a session could not be opened. Here libpq gives no SQLSTATE, only text."""
    # Behind a tab stands libpq's own advice, which ours replaces.
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("\t")]
    text = " ".join(lines).rstrip(".")
    low = text.lower()
    if f'database "{database}" does not exist'.lower() in low:
        return NotFound(
            f'database "{database}" does not exist on {where}. Check the name, and that this is the right server.'
        )
    if "permission denied for database" in low:
        return PermissionDenied(
            f'database "{database}" on {where} does not let user "{user}" connect. Grant it CONNECT on the database.'
        )
    if "peer authentication failed" in low:
        return Unreachable(
            f'{where} refused to log in user "{user}": {text}. '
            "It lets in who the operating system says: run as that account, or let become_user name it."
        )
    if "authentication failed" in low or "no password supplied" in low or "pg_hba.conf" in low or "role" in low:
        return Unreachable(
            f'{where} refused to log in user "{user}": {text}. '
            "Check login_user, login_password and the server's pg_hba.conf."
        )
    if "ssl" in low or "certificate" in low:
        return Unreachable(f"{where} cannot be reached over TLS: {text}. Check ssl_mode and ca_cert.")
    if "fatal:" in low:
        return Unreachable(f"{where} refused the session: {text}. See the server's log, and try again.")
    return Unreachable(
        f"{where} does not answer: {text}. Check login_host and login_port, and that PostgreSQL runs there."
    )
