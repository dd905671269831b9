# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reaching a PostgreSQL server: the same way for our own sessions and for PostgreSQL's programs.

Everything that decides which database is reached is said in one connection string (PostgreSQL manual, "Connection
Strings"), and what is left out is said as empty. A service file or variables like PGHOSTADDR in the caller's
environment therefore cannot lead anywhere else. The password is the exception: programs read it from a password file in
memory.
"""

from __future__ import annotations

import os
import pwd
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
    Union,
)

from ...command import Account, Argument, Command, Secret, find_account
from ...errors import (
    BadInput,
    EngineError,
    MissingTool,
    NotFound,
    PermissionDenied,
)
from ...model import Database, Server
from . import settings
from .failures import explained_refusal, translated

if TYPE_CHECKING:
    import psycopg2

Result = TypeVar("Result")
Parameters = Union[Sequence[Any], Mapping[str, Any], None]

#: NAMEDATALEN - 1: the server cuts a longer name, and would then connect to another database.
LONGEST_NAME = 63
_CONNECT_TIMEOUT = 15

#: What a session of ours needs, whatever the server, the database or the role has as a default: no time limit on the
#: long statements of a backup, a failure instead of rows that row security left out, and no function of a user's
#: schema in the place of a built-in one (CVE-2018-1058).
_SESSION = (
    "SET search_path = ''; SET statement_timeout = 0; SET lock_timeout = 0;"
    " SET idle_in_transaction_session_timeout = 0; SET row_security = off;"
    " SET quote_all_identifiers = off"
)
_SESSION_SINCE = {14_00_00: "SET idle_session_timeout = 0", 17_00_00: "SET transaction_timeout = 0"}


def _as_bytes(value: Any) -> Any:
    """Text, or a parameter with text in it, as the driver must get it so that a server sees the bytes of UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("latin-1")
    if isinstance(value, Mapping):
        return {key: _as_bytes(one) for key, one in value.items()}
    return [_as_bytes(one) for one in value] if isinstance(value, (list, tuple)) else value


def _as_text(value: Any) -> Any:
    """The reverse of ``_as_bytes``; a byte that is not valid UTF-8 becomes a lone surrogate (PEP 383)."""
    return value.encode("latin-1").decode("utf-8", "surrogateescape") if isinstance(value, str) else value


def readable(text: str) -> str:
    """Text without lone surrogates, which no manifest and no terminal can hold: ``\\xe4`` instead."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def quote_identifier(name: str) -> str:
    """A name as SQL writes it, always in quotes."""
    return '"' + name.replace('"', '""') + '"'


class Connection:
    """One session on a server. Every statement stands alone unless it is put between BEGIN and COMMIT."""

    def __init__(self, raw: psycopg2.extensions.connection, label: str) -> None:
        self._raw, self.label = raw, label
        self._raw.autocommit = True
        # Such a server hands out bytes as they are, whatever they mean. In LATIN1 every byte is a letter.
        self._bytes_as_text = raw.get_parameter_status("server_encoding") == "SQL_ASCII"
        if self._bytes_as_text:
            raw.set_client_encoding("LATIN1")

    @property
    def version(self) -> int:
        """The server's version as PostgreSQL numbers it: 150018 is 15.18."""
        return self._raw.server_version

    @property
    def alive(self) -> bool:
        """Whether the server still answers in this session."""
        if self._raw.closed:
            return False
        try:
            self.rows("SELECT 1")
        except EngineError:
            return False
        return True

    def run(self, sql: str, parameters: Parameters = None) -> None:
        """Run a statement without a result. Raises a typed error."""
        with translated(self.label), self._raw.cursor() as cursor:
            cursor.execute(self._sent(sql), self._sent(parameters))

    def rows(self, sql: str, parameters: Parameters = None) -> List[Tuple[Any, ...]]:
        """All rows of a query. Raises a typed error."""
        with translated(self.label), self._raw.cursor() as cursor:
            cursor.execute(self._sent(sql), self._sent(parameters))
            return self._received(cursor.fetchall()) if cursor.description else []

    def value(self, sql: str, parameters: Parameters = None) -> Any:
        """The only column of a query's only row."""
        return self.rows(sql, parameters)[0][0]

    def rows_or_none(self, sql: str) -> Optional[List[Tuple[Any, ...]]]:
        """All rows of a statement, or None when it is one that returns no rows at all."""
        with translated(self.label), self._raw.cursor() as cursor:
            cursor.execute(self._sent(sql))
            return self._received(cursor.fetchall()) if cursor.description else None

    def _sent(self, value: Any) -> Any:
        return _as_bytes(value) if self._bytes_as_text else value

    def _received(self, rows: List[Tuple[Any, ...]]) -> List[Tuple[Any, ...]]:
        if not self._bytes_as_text:
            return rows
        return [tuple(_as_text(value) for value in row) for row in rows]

    def cancel(self) -> None:
        """Make the running statement fail, from any thread. A server that is gone has nothing to cancel."""
        import psycopg2

        try:
            self._raw.cancel()
        except psycopg2.Error:
            self._raw.close()

    def interruptibly(self, work: Callable[[], Result]) -> Result:
        """Do long work in this session so that a signal's exception ends it at once.

        The driver returns to Python, where signals are handled, only after a statement. So another thread waits for it.
        """
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(work)
            try:
                return future.result()
            finally:
                # A request that comes between two statements has no effect, and is made again.
                while not future.done():
                    self.cancel()
                    wait((future,), timeout=0.05)

    def close(self) -> None:
        """End the session; an open transaction is rolled back."""
        self._raw.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_unused: object) -> None:
        self.close()


@dataclass(frozen=True)
class Access:
    """How a server is reached, and as whom."""

    host: str
    port: str
    user: str
    label: str
    ssl: Tuple[Tuple[str, str], ...]
    password: Optional[Secret]
    become_user: Optional[str] = None

    @property
    def account(self) -> Optional[Account]:
        """The account that connects, where it is another than this process's. Raises what ``find_account`` raises."""
        return find_account(self.become_user) if self.become_user else None

    def connection_string(self, database: str, options: Optional[Mapping[str, str]] = None) -> str:
        """What a program's ``--dbname`` gets: its session begins with ``options``. Holds no password."""
        said = {
            "host": self.host,
            "hostaddr": "",
            "port": self.port,
            "user": self.user,
            "dbname": database,
            "options": settings.written(options or {}),
            "target_session_attrs": "any",
            "application_name": "fleet-backup",
            "connect_timeout": str(_CONNECT_TIMEOUT),
            "keepalives_idle": "60",
            "client_encoding": "",
            **dict(self.ssl),
        }
        if self.password:
            # An empty one hides the caller's PGPASSWORD, and makes libpq look into the password file.
            said["password"] = ""
        return _written(said)

    def command(self, name: str, arguments: Tuple[Argument, ...]) -> Command:
        """One of PostgreSQL's programs that connects as this does."""
        return Command(name, arguments, self._environment(), account=self.account)

    def _environment(self) -> Dict[str, Argument]:
        environment: Dict[str, Argument] = {"PGCLIENTENCODING": ""}
        if self.password:
            environment["PGPASSFILE"] = _password_file(self.password.content.decode("utf-8"))
        return environment

    def connect(self, database: str, own_path: bool = True) -> Connection:
        """Open a session. Without ``own_path`` it keeps the search path that applications see.

        Raises Unreachable, PermissionDenied, or NotFound when there is no such database.
        """
        psycopg2 = _driver()
        # Of a keyword that is said twice, the last one counts.
        string = self.connection_string(database) + " client_encoding='UTF8'"
        if self.password:
            string += " " + _written({"password": self.password.content.decode("utf-8")})
        try:
            with _acting_as(self.account):
                raw = psycopg2.connect(string)
        except psycopg2.OperationalError as error:
            raise explained_refusal(str(error), database, self.user, self.label) from None
        connection = Connection(raw, f'database "{database}" on {self.label}')
        try:
            connection.run(_SESSION)
            for version, setting in _SESSION_SINCE.items():
                if connection.version >= version:
                    connection.run(setting)
            if not own_path:
                connection.run("RESET search_path")
        except BaseException:
            connection.close()
            raise
        return connection

    def administer(self, database: str) -> Connection:
        """Open a session in another database than this one, from which it can be renamed and dropped."""
        places = [name for name in ("postgres", "template1") if name != database]
        try:
            return self.connect(places[0])
        except (NotFound, PermissionDenied):
            if len(places) == 1:
                raise
            return self.connect(places[1])


def access_to(database: Database) -> Access:
    """Read the user's login options. Raises BadInput for what cannot be meant."""
    server = database.server
    require_name(database.name)
    if server.unix_socket and server.host not in (None, "", "localhost"):
        raise BadInput("login_host and login_unix_socket name two ways to the server. Give one of them.")
    if server.password and ("\n" in server.password or "\r" in server.password or "\0" in server.password):
        raise BadInput("login_password holds a line break, which no PostgreSQL password file can. Change the password.")
    host = server.unix_socket or server.host or ""
    port = str(server.port or 5432)
    return Access(
        host=host,
        port=port,
        user=server.user or server.become_user or pwd.getpwuid(os.geteuid()).pw_name,
        label=f"{host}:{port}" if host else f"the local server (port {port})",
        ssl=_ssl(server),
        password=Secret(server.password.encode("utf-8")) if server.password else None,
        become_user=server.become_user,
    )


def require_name(name: str) -> str:
    """A database's name that PostgreSQL takes as it is. Raises BadInput."""
    if not name or "\0" in name:
        raise BadInput("database: a PostgreSQL database needs a name. Write its name, without a path.")
    if len(name.encode("utf-8")) > LONGEST_NAME:
        raise BadInput(
            f'database: "{name}" is longer than {LONGEST_NAME} bytes, and PostgreSQL would cut it to another name. '
            "Write the name as the server shows it."
        )
    return name


_acting = threading.Lock()


@contextmanager
def _acting_as(account: Optional[Account]) -> Iterator[None]:
    """Be another account for as long as it takes to connect: the server sees who calls connect(2) (unix(7)).

    Linux keeps an account for each thread, but the C library changes it for all of them. So this is kept short.
    """
    if account is None or account.uid == os.geteuid():
        yield
        return
    with _acting:
        user, group = os.geteuid(), os.getegid()
        os.setegid(account.gid)
        try:
            os.seteuid(account.uid)
            yield
        finally:
            os.seteuid(user)
            os.setegid(group)


def _driver() -> Any:
    try:
        import psycopg2
        import psycopg2.extensions
    except ImportError:
        raise MissingTool(
            "PostgreSQL databases need the Python library psycopg2, which is not installed. "
            "Install the package python3-psycopg2."
        ) from None
    return psycopg2


def _ssl(server: Server) -> Tuple[Tuple[str, str], ...]:
    said = {"sslmode": server.ssl_mode, "sslrootcert": server.ca_cert}
    return tuple((key, value) for key, value in said.items() if value)


def _written(parameters: Dict[str, str]) -> str:
    """A connection string; PostgreSQL manual, "Keyword/Value Connection Strings"."""
    quoted = {key: value.replace("\\", "\\\\").replace("'", "\\'") for key, value in parameters.items()}
    return " ".join(f"{key}='{value}'" for key, value in quoted.items())


def _password_file(password: str) -> Secret:
    """A password file; PostgreSQL manual, "The Password File"."""
    escaped = password.replace("\\", "\\\\").replace(":", "\\:")
    return Secret(f"*:*:*:*:{escaped}\n".encode())
