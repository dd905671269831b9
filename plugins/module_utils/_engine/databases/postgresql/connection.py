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
from ...errors import BadInput, EngineError, MissingTool, NotFound, PermissionDenied
from ...model import Database
from . import settings
from .acting import acting_as, without_variables
from .conninfo import WITHOUT_SECRETS, only_without_login, password_file, tls, written
from .encodings import as_bytes, as_text
from .failures import known_refusal, may_not_connect, no_database, other_refusal, pooled, sqlstate, translated
from .flood import Answer, bounded, fetched, sever_descriptor, sever_path

if TYPE_CHECKING:
    import psycopg2

Result = TypeVar("Result")
Parameters = Union[Sequence[Any], Mapping[str, Any], None]

#: NAMEDATALEN - 1: the server cuts a longer name, and would then connect to another database.
LONGEST_NAME = 63
_CONNECT_TIMEOUT = 15
#: From these, other databases are looked at, renamed and dropped.
_MAINTENANCE = ("postgres", "template1")
_MAY_CONNECT = "SELECT has_database_privilege(oid, 'CONNECT') FROM pg_database WHERE datname = %s"

#: Messages that can be understood, where this user may choose: from 15 on, the right to set one can be granted.
_LANGUAGE = (
    "SELECT pg_catalog.set_config('lc_messages', 'C', false)"
    " WHERE pg_catalog.current_setting('is_superuser') OPERATOR(pg_catalog.=) 'on'"
)
_LANGUAGE_SINCE_15 = f"{_LANGUAGE} OR pg_catalog.has_parameter_privilege('lc_messages', 'SET')"


def quote_identifier(name: str) -> str:
    """A name as SQL writes it, always in quotes."""
    return '"' + name.replace('"', '""') + '"'


class Connection:
    """One session on a server. Every statement stands alone unless it is put between BEGIN and COMMIT."""

    def __init__(self, raw: psycopg2.extensions.connection, label: str, trusted: bool = True) -> None:
        self._raw, self.label, self._trusted = raw, label, trusted
        self._raw.autocommit = True
        #: What programs' sessions can begin with on this server, as this user.
        self.further: Dict[str, str] = {}
        self._stops: List[Callable[[], None]] = []
        # Such a server hands out bytes as they are, whatever they mean. In LATIN1 every byte is a letter.
        self._bytes_as_text = raw.get_parameter_status("server_encoding") == "SQL_ASCII"
        if self._bytes_as_text:
            raw.set_client_encoding("LATIN1")

    def begin(self) -> None:
        """Make a session fit for our work, once it is known to be one of the server itself."""
        # A pooler has told a number of its own, and what is set in a session that it lends is left to an application.
        # In one statement, as an idle session may have few moments until its limits are set.
        ours = f"pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) {int(self._raw.get_backend_pid())}"
        limits = [f"pg_catalog.set_config('{name}', '0', false)" for name in settings.limits_since(self.version)]
        found = self.rows(f"SELECT {', '.join([*limits, settings.FORCED_ROLE])} WHERE {ours}")
        if not found:
            raise pooled(self.label)
        if found[0][-1]:
            self.run("SET ROLE NONE")
            self.further["role"] = "none"
        for name, value in settings.attention_since(self.version):
            self._attend(name, value)
        if self.rows(_LANGUAGE_SINCE_15 if self.version >= 15_00_00 else _LANGUAGE):
            self.further["lc_messages"] = "C"

    def _attend(self, name: str, value: str) -> None:
        try:
            self.run(f"SET {name} = '{value}'")
        except EngineError as error:
            # The server's system cannot tell.
            if sqlstate(error) != "22023":
                raise
        else:
            self.further[name] = value

    def restriction(self) -> Dict[str, str]:
        """The setting that keeps a session from reading what is no table; empty where the server does not know it."""
        name, kinds = settings.RESTRICTION
        return {name: kinds} if self.rows("SELECT 1 FROM pg_catalog.pg_settings WHERE name = %s", [name]) else {}

    @property
    def encoding(self) -> str:
        """In which encoding the server sends to this session and takes what it gets."""
        return "LATIN1" if self._bytes_as_text else "UTF8"

    @contextmanager
    def beside(self, stop: Callable[[], None]) -> Iterator[None]:
        """Do with another session what belongs to this one: ``cancel`` also calls ``stop``, from another thread."""
        self._stops.append(stop)
        try:
            yield
        finally:
            self._stops.remove(stop)

    @property
    def version(self) -> int:
        """The server's version as PostgreSQL numbers it: 150018 is 15.18."""
        return self._raw.server_version

    @property
    def usable(self) -> bool:
        """Whether the session is open, as far as this side knows."""
        return not self._raw.closed

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
        with self._asking() as (cursor, _answer):
            cursor.execute(self._sent(sql), self._sent(parameters))

    def rows(self, sql: str, parameters: Parameters = None) -> List[Tuple[Any, ...]]:
        """All rows of a query. Raises a typed error."""
        return self.rows_or_none(sql, parameters) or []

    def value(self, sql: str, parameters: Parameters = None) -> Any:
        """The only column of a query's only row."""
        return self.rows(sql, parameters)[0][0]

    def copy_out(self, sql: str, sink: Any) -> None:
        """Run a COPY … TO STDOUT; ``sink.write`` gets one row of bytes at a time. Raises a typed error."""
        with self._asking() as (cursor, _answer):
            cursor.copy_expert(self._sent(sql), sink)

    def rows_or_none(self, sql: str, parameters: Parameters = None) -> Optional[List[Tuple[Any, ...]]]:
        """All rows of a statement, or None when it is one that returns no rows at all."""
        with self._asking() as (cursor, answer):
            cursor.execute(self._sent(sql), self._sent(parameters))
            return self._received(fetched(cursor, answer)) if cursor.description else None

    @contextmanager
    def _asking(self) -> Iterator[Tuple[Any, Answer]]:
        with translated(self.label), self._raw.cursor() as cursor:
            descriptor = self._raw.fileno()
            with bounded(lambda: sever_descriptor(descriptor), self.label, self._trusted) as answer:
                yield cursor, answer

    def _sent(self, value: Any) -> Any:
        return as_bytes(value) if self._bytes_as_text else value

    def _received(self, rows: List[Tuple[Any, ...]]) -> List[Tuple[Any, ...]]:
        if not self._bytes_as_text:
            return rows
        return [tuple(as_text(value) for value in row) for row in rows]

    def cancel(self) -> None:
        """Make the running statement fail, from any thread. A server that is gone has nothing to cancel."""
        import psycopg2

        for stop in list(self._stops):
            stop()
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
    #: Whether the server may get what this process has to log in: a password, a certificate, a ticket.
    trusted: bool = True
    #: Settings of every session, unless it begins with others of these names.
    session: Tuple[Tuple[str, str], ...] = ()

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
            "options": settings.written({**dict(self.session), **(options or {})}),
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
        return written(said if self.trusted else {**said, **WITHOUT_SECRETS})

    def command(self, name: str, arguments: Tuple[Argument, ...]) -> Command:
        """One of PostgreSQL's programs that connects as this does."""
        return Command(name, arguments, self._environment(), account=self.account)

    def _environment(self) -> Dict[str, Argument]:
        environment: Dict[str, Argument] = {}
        password = self.password.content.decode("utf-8") if self.password else None
        if self.trusted and (self.account is None or self.account.uid == os.geteuid()):
            # As libpq sees them in this process: a password file, certificates.
            environment.update({name: value for name, value in os.environ.items() if name.startswith("PG")})
            # Others can see what a program is given, for as long as it runs.
            password = password or os.environ.get("PGPASSWORD")
            environment.pop("PGPASSWORD", None)
        environment["PGCLIENTENCODING"] = ""
        if password:
            environment["PGPASSFILE"] = password_file(password)
        return environment

    def connect(self, database: str, own_path: bool = True) -> Connection:
        """Open a session. Without ``own_path`` it keeps the search path that applications see.

        Raises Unreachable, PermissionDenied, or NotFound when there is no such database.
        """
        psycopg2 = _driver()
        try:
            raw = self._opened(psycopg2, database, own_path)
        except psycopg2.OperationalError as error:
            raise self._refused(psycopg2, str(error), database) from None
        connection = Connection(raw, f'database "{database}" on {self.label}', self.trusted)
        try:
            connection.begin()
        except BaseException:
            connection.close()
            raise
        return connection

    def _opened(self, psycopg2: Any, database: str, own_path: bool = True) -> Any:
        # Of a keyword that is said twice, the last one counts.
        string = self.connection_string(database, settings.for_own(own_path)) + " client_encoding='UTF8'"
        if self.password:
            string += " " + written({"password": self.password.content.decode("utf-8")})
        if self.trusted:
            with acting_as(self.account):
                return psycopg2.connect(string)
        string += only_without_login(psycopg2.extensions.libpq_version())
        path = f"{self.host}/.s.PGSQL.{self.port}"
        with bounded(lambda: sever_path(path), self.label, self.trusted):
            with acting_as(self.account), without_variables("PG"):
                return psycopg2.connect(string)

    def _refused(self, psycopg2: Any, said: str, database: str) -> EngineError:
        """Why a session could not be opened. Where the server said it in another language, its catalogue says it."""
        known = known_refusal(said, database, self.user, self.label)
        if known is not None:
            return known
        for other in _MAINTENANCE:
            if other == database:
                continue
            try:
                raw = self._opened(psycopg2, other)
            except psycopg2.OperationalError:
                continue
            with Connection(raw, self.label, self.trusted) as connection:
                connection.begin()
                found = connection.rows(_MAY_CONNECT, [database])
            if not found:
                return no_database(database, self.label)
            if not found[0][0]:
                return may_not_connect(database, self.user, self.label)
        return other_refusal(said, self.user, self.label)

    def administer(self, database: str) -> Connection:
        """Open a session in another database than this one, from which it can be renamed and dropped."""
        places = [name for name in _MAINTENANCE if name != database]
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
        ssl=tls(server),
        password=Secret(server.password.encode("utf-8")) if server.password else None,
        become_user=server.become_user,
    )


def require_name(name: str) -> str:
    """A database's name that PostgreSQL takes as it is. Raises BadInput."""
    if not name or "\0" in name:
        raise BadInput("database: a PostgreSQL database needs a name. Write its name, without a path.")
    # Half a character is refused where a name is written down (backup.py), and no server has such a one.
    if len(name.encode("utf-8", "surrogatepass")) > LONGEST_NAME:
        raise BadInput(
            f'database: "{name}" is longer than {LONGEST_NAME} bytes, and PostgreSQL would cut it to another name. '
            "Write the name as the server shows it."
        )
    return name


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
