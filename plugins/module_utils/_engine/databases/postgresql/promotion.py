# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names of databases beside a target, and the swap that puts a staged one in its place.

The swap is one transaction with two renames. ALTER DATABASE … RENAME locks the database against new sessions, and then
waits up to five seconds for the present ones to go (CountOtherDBBackends() in the server's procarray.c); a thread ends
them meanwhile. A client that reconnects all the time waits at the lock, and after the commit finds the new database
under the name. Killed at any moment, the server rolls back or has committed: one database has the name, always.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from types import TracebackType
from typing import List, Optional, Sequence, Type

from ...errors import EngineError, Locked, PermissionDenied, Refused, TargetExists, Unreachable
from ...names import is_id
from . import claims, subscriptions
from .connection import LONGEST_NAME, Access, Connection, quote_identifier
from .failures import sqlstate

RESTORING = "restoring"
REPLACED = "replaced"
#: A replaced database that nobody asked to keep; one that is still there was left by a kill between swap and drop.
DISCARDED = "discarded"

_PATIENCE = 60.0
#: What ``free_name`` appends.
_NUMBER = re.compile(r"-[1-9][0-9]*$")
_BUSY = ("55006", "55P03", "40P01")

#: The server ends the workers left out here by itself. It hides the kind of other users' sessions from a plain user.
_SESSIONS = """
SELECT pid, coalesce(usename, backend_type, 'a background process'), coalesce(application_name, '')
  FROM pg_stat_activity
 WHERE datname = ANY (%s) AND pid <> pg_backend_pid()
   AND coalesce(backend_type, '') NOT IN ('autovacuum worker', 'parallel worker')
"""

_OBSTACLES = (
    (
        "SELECT slot_name FROM pg_replication_slots WHERE database = %s",
        "logical replication slot",
        "its subscribers would lose it",
    ),
    (
        "SELECT subname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = %s",
        "subscription",
        "it would go on in the replaced database",
    ),
    (
        "SELECT gid FROM pg_prepared_xacts WHERE database = %s",
        "prepared transaction",
        "PostgreSQL allows no rename then",
    ),
)


def beside(database: str, purpose: str, backup: str) -> str:
    """The name ``<database>__<purpose>_<backup>``; where that is too long, a hash stands for the rest."""
    name = f"{database}__{purpose}_{backup}"
    if len(name.encode("utf-8")) <= LONGEST_NAME:
        return name
    return _shortened(database, purpose) + hashlib.sha256(backup.encode("utf-8")).hexdigest()[:12]


def is_beside(name: str, database: str, purpose: str) -> bool:
    """Whether ``beside`` made this name for this database and purpose, from whatever backup."""
    plain, short = f"{database}__{purpose}_", _shortened(database, purpose)
    if name.startswith(plain):
        backup = name[len(plain) :]
        return is_id(backup) or is_id(_NUMBER.sub("", backup))
    rest = name[len(short) :]
    return name.startswith(short) and len(rest) == 12 and set(rest) <= set("0123456789abcdef")


def sweep(access: Access, control: Connection, database: str, dry_run: bool = False) -> List[str]:
    """Drop what killed restores of this database left behind, and nothing that lives; the names dropped."""
    dropped = []
    for (name,) in control.rows("SELECT datname FROM pg_database"):
        ours = is_beside(name, database, RESTORING) or is_beside(name, database, DISCARDED)
        if not ours or not claims.claim(control, name):
            continue
        try:
            # A killed restore's last session can outlive it by a moment; a living one has the claim.
            if not control.rows(_SESSIONS, [[name]]):
                if not dry_run:
                    if is_beside(name, database, RESTORING):
                        subscriptions.drop(access, control, name)
                    drop(control, name)
                dropped.append(name)
        except (PermissionDenied, Locked):
            # It belongs to another user, whose next restore drops it, or somebody is looking at it.
            continue
        finally:
            claims.release(control, name)
    return dropped


def exists(control: Connection, name: str) -> bool:
    """Whether the server has a database of this name."""
    return bool(control.value("SELECT EXISTS (SELECT FROM pg_database WHERE datname = %s)", [name]))


def drop(control: Connection, name: str) -> None:
    """Drop a database where it exists, and end the sessions in it. Raises Locked when they cannot be ended.

    A database with a subscription is not dropped: dropping that would drop the replication slot of the publisher.
    """
    if control.value("SELECT EXISTS (SELECT FROM pg_database WHERE datname = %s AND datistemplate)", [name]):
        control.run(f"ALTER DATABASE {quote_identifier(name)} IS_TEMPLATE false")
    if control.version >= 13_00_00:
        control.run(f"DROP DATABASE IF EXISTS {quote_identifier(name)} WITH (FORCE)")
    else:
        end_sessions(control, [name])
        control.run(f"DROP DATABASE IF EXISTS {quote_identifier(name)}")


def free_name(control: Connection, database: str, purpose: str, backup: str) -> str:
    """A name that ``beside`` makes and no database has."""
    number = 1
    while True:
        name = beside(database, purpose, backup if number == 1 else f"{backup}-{number}")
        if not exists(control, name):
            return name
        number += 1


def condemn(control: Connection, name: str, database: str, backup: str) -> str:
    """Give a replaced database a name that the next restore drops; that name."""
    if is_beside(name, database, DISCARDED):
        return name
    discarded = free_name(control, database, DISCARDED, backup)
    control.run(_rename(name, discarded))
    return discarded


def require_replaceable(control: Connection, name: str) -> None:
    """Raise when this user may not replace a database, or when it has what a restore must not end."""
    mine = control.value(
        "SELECT pg_has_role(datdba, 'USAGE') AND (current_setting('is_superuser') = 'on'"
        " OR (SELECT rolcreatedb FROM pg_roles WHERE rolname = current_user)) FROM pg_database WHERE datname = %s",
        [name],
    )
    if not mine:
        raise PermissionDenied(
            f'{control.label}: this user may not replace database "{name}". '
            "Log in as a superuser, or as its owner with the right to create databases."
        )
    for question, kind, consequence in _OBSTACLES:
        found = [row[0] for row in control.rows(question, [name])]
        if found:
            raise Refused(
                f'Database "{name}" has the {kind} "{found[0]}", and when it is replaced, {consequence}. '
                f"Remove the {kind} first, or restore under another name."
            )


def swap(
    access: Access, control: Connection, staged: str, target: str, aside: Optional[str], finishing: Sequence[str]
) -> None:
    """Rename ``target`` to ``aside`` (unless None) and ``staged`` to ``target``, at once.

    ``finishing`` are further statements for the same transaction. Raises Locked when sessions stay, TargetExists when
    somebody made the target meanwhile, and then nothing has changed.
    """
    renames = [] if aside is None else [_rename(target, aside)]
    statements = [*renames, *finishing, _rename(staged, target)]
    names = [staged] if aside is None else [target, staged]
    deadline = time.monotonic() + _PATIENCE
    with _Usher(access, target, names):
        while True:
            try:
                _in_one_transaction(control, statements)
                return
            except Unreachable:
                if _has_happened(access, staged, target):
                    return
                raise
            except EngineError as error:
                if sqlstate(error) == "42P04":
                    raise TargetExists(
                        f'Database "{target}" was created on {access.label} meanwhile. '
                        "Nothing was changed; restore again."
                    ) from error
                if sqlstate(error) not in _BUSY:
                    raise
                if time.monotonic() > deadline:
                    raise Locked(_who_stays(control, names, access)) from error


def end_sessions(control: Connection, names: Sequence[str]) -> None:
    """Ask every session in these databases to end; those of users that we have no power over go on."""
    for pid, _user, _application in control.rows(_SESSIONS, [list(names)]):
        try:
            control.run("SELECT pg_terminate_backend(%s)", [pid])
        except PermissionDenied:
            # The swap then says who stayed.
            continue


class _Usher(threading.Thread):
    """Ends sessions again and again, in a session of its own, as long as the context lasts."""

    def __init__(self, access: Access, target: str, names: Sequence[str]) -> None:
        super().__init__(daemon=True)
        self._control = access.administer(target)
        self._names, self._over = names, threading.Event()

    def run(self) -> None:
        try:
            while not self._over.is_set():
                end_sessions(self._control, self._names)
                self._over.wait(0.05)
        except Unreachable:
            # The swap is then refused by the server, or has lost its own session too, and says so.
            return

    def __enter__(self) -> _Usher:
        self.start()
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._over.set()
        self.join()
        self._control.close()


def _in_one_transaction(control: Connection, statements: Sequence[str]) -> None:
    control.run("BEGIN; SET LOCAL lock_timeout = '10s'")
    try:
        for statement in statements:
            control.run(statement)
        control.run("COMMIT")
    except Unreachable:
        raise
    except BaseException:
        control.run("ROLLBACK")
        raise


def _has_happened(access: Access, staged: str, target: str) -> bool:
    """Whether a swap whose answer was lost was committed."""
    with access.administer(target) as control:
        return exists(control, target) and not exists(control, staged)


def _who_stays(control: Connection, names: Sequence[str], access: Access) -> str:
    staying = sorted(
        {
            f"{user} ({application or 'no application name'})"
            for _pid, user, application in control.rows(_SESSIONS, [list(names)])
        }
    )
    whom = ", ".join(staying[:5]) or "a session that came and went"
    return (
        f'Database "{names[0]}" on {access.label} cannot be renamed: in it stays {whom}. '
        "Stop that client, or grant pg_signal_backend, and restore again. Nothing was changed."
    )


def _rename(old: str, new: str) -> str:
    return f"ALTER DATABASE {quote_identifier(old)} RENAME TO {quote_identifier(new)}"


def _shortened(database: str, purpose: str) -> str:
    mark = f"-{hashlib.sha256(database.encode('utf-8')).hexdigest()[:8]}__{purpose}_"
    room = LONGEST_NAME - 12 - len(mark)
    return database.encode("utf-8")[:room].decode("utf-8", "ignore") + mark
