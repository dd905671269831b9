# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A throwaway PostgreSQL server for tests, made with initdb and stopped at the end."""

from __future__ import annotations

import json
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Iterator, List, Optional, Tuple

import psycopg2

from _engine.command import find_program
from _engine.databases.base import DumpOptions, Stream
from _engine.databases.postgresql.engine import PostgresqlEngine
from _engine.errors import EngineError
from _engine.model import Database, EngineName, FingerprintKind, Manifest, Scratch, Server
from _engine.names import make_id
from _engine.stream.pipe import Pipe

#: What breaks careless quoting in password files, connection strings and SQL.
PASSWORD = 'it\'s a:b\\c "quoted" pass=word {0} %s'
SUPERUSER = "postgres"


@dataclass(frozen=True)
class Cluster:
    """A running server. Its superuser logs in over TCP with the password, and over the socket without."""

    directory: Path
    programs: Path
    port: int

    @property
    def server(self) -> Server:
        return Server(host="127.0.0.1", port=self.port, user=SUPERUSER, password=PASSWORD)

    @property
    def socket_server(self) -> Server:
        return Server(unix_socket=str(self.directory), port=self.port, user=SUPERUSER)

    @property
    def as_scratch(self) -> Scratch:
        """This server to restore to for a verification, as its superuser."""
        return Scratch(server=self.server, allow_superuser=True)

    def database(self, name: str, **login: Any) -> Database:
        server = {**self.server.__dict__, **login}
        return Database(EngineName.POSTGRESQL, name, Server(**server))

    def engine(self, name: str, **login: Any) -> PostgresqlEngine:
        return PostgresqlEngine(self.database(name, **login))

    def connect(self, name: str = "postgres", user: str = SUPERUSER, **more: str) -> Any:
        connection = psycopg2.connect(dbname=name, user=user, host=str(self.directory), port=self.port, **more)
        connection.autocommit = True
        return connection

    def sql(self, statement: str, name: str = "postgres", user: str = SUPERUSER) -> List[Tuple[Any, ...]]:
        connection = self.connect(name, user)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def value(self, statement: str, name: str = "postgres") -> Any:
        return self.sql(statement, name)[0][0]

    def databases(self) -> List[str]:
        return [name for (name,) in self.sql("SELECT datname FROM pg_database ORDER BY 1")]

    def program(self, *arguments: str, name: Optional[str] = None) -> str:
        """What one of PostgreSQL's programs prints, called on this cluster as its superuser."""
        environment = {
            **os.environ,
            "PGHOST": str(self.directory),
            "PGPORT": str(self.port),
            "PGUSER": SUPERUSER,
            **({"PGDATABASE": name} if name else {}),
        }
        done = subprocess.run(
            [str(self.programs / arguments[0]), *arguments[1:]],
            env=environment,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def make_directory(self, path: Path) -> None:
        """A directory that the server may write to."""
        path.mkdir()
        if os.geteuid() == 0:
            os.chown(path, _owner().pw_uid, _owner().pw_gid)

    def log(self) -> str:
        return (self.directory / "log").read_text("utf-8", "replace")


@contextmanager
def running_cluster(
    *settings: str, standby_of: Optional[Cluster] = None, programs: Optional[Path] = None
) -> Iterator[Cluster]:
    """Start a server on a free loopback port with a private socket directory, for as long as the context lasts.

    ``programs`` is the directory of PostgreSQL's programs, the newest packaged ones where it is not given.
    """
    programs = programs or _programs()
    directory = Path(tempfile.mkdtemp(prefix="pg-"))
    if os.geteuid() == 0:
        os.chown(directory, _owner().pw_uid, _owner().pw_gid)
    cluster = Cluster(directory, programs, _free_port())
    server = None
    try:
        _initialise(cluster, standby_of)
        options = [
            "fsync=off", "full_page_writes=off", "synchronous_commit=off", "listen_addresses=127.0.0.1",
            f"port={cluster.port}", f"unix_socket_directories={directory}", "wal_level=logical",
            "max_prepared_transactions=5", "shared_buffers=64MB", "max_connections=60", "timezone=UTC", *settings,
        ]  # fmt: skip
        with (directory / "data" / "postgresql.auto.conf").open("a") as configuration:
            configuration.writelines(f"{name} = '{value}'\n" for name, value in (one.split("=", 1) for one in options))
        server = _start(cluster)
        yield cluster
    finally:
        if server:
            server.send_signal(signal.SIGQUIT)
            server.wait()
        shutil.rmtree(directory)


def make_scratch_account() -> None:
    """The account of throwaway servers, which the role agent makes on a host. It stays: other workers use it too."""
    if os.geteuid() == 0:
        options = ("--system", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin")
        done = subprocess.run(["useradd", *options, "fleet-backup-scratch"], stderr=subprocess.DEVNULL, check=False)
        # 9: it is there (useradd(8)).
        assert done.returncode in (0, 9)


def _initialise(cluster: Cluster, standby_of: Optional[Cluster]) -> None:
    data = str(cluster.directory / "data")
    if standby_of:
        _as_owner(
            str(cluster.programs / "pg_basebackup"),
            "--no-sync",
            "--checkpoint=fast",
            "--write-recovery-conf",
            f"--pgdata={data}",
            f"--host={standby_of.directory}",
            f"--port={standby_of.port}",
            f"--username={SUPERUSER}",
        )
        return
    secret = cluster.directory / "password"
    secret.write_text(PASSWORD)
    if os.geteuid() == 0:
        os.chown(secret, _owner().pw_uid, _owner().pw_gid)
    _as_owner(
        str(cluster.programs / "initdb"), "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", f"--username={SUPERUSER}",
        "--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={secret}", f"--pgdata={data}",
    )  # fmt: skip


def _start(cluster: Cluster) -> subprocess.Popen[bytes]:
    # Should the tests be killed, the kernel ends the server with them.
    arguments = [
        *_prefix("--pdeathsig=QUIT"),
        str(cluster.programs / "postgres"),
        "-D",
        str(cluster.directory / "data"),
    ]
    with (cluster.directory / "log").open("wb") as log:
        server = subprocess.Popen(arguments, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    while server.poll() is None:
        try:
            cluster.connect().close()
        except psycopg2.OperationalError:
            time.sleep(0.05)
        else:
            return server
    raise AssertionError(cluster.log())


def _programs() -> Path:
    packaged = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    return packaged[-1] if packaged else Path(find_program("initdb", "postgresql", "A test")).parent


def _owner() -> pwd.struct_passwd:
    """PostgreSQL refuses to run as root; Debian's package brings the account for it."""
    return pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


def _prefix(*options: str) -> List[str]:
    owner = _owner()
    user = [f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"] if os.geteuid() == 0 else []
    return ["setpriv", *user, *options, "--"] if user or options else []


def as_owner(*arguments: str) -> Tuple[int, str]:
    """Run a program as the server's account; its exit status, and what it said."""
    done = subprocess.run(
        [*_prefix(), *arguments],
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, done.stdout.decode("utf-8", "replace")


def _as_owner(*arguments: str) -> None:
    status, said = as_owner(*arguments)
    assert status == 0, said


def _free_port() -> int:
    # The kernel gives higher ports to programs that connect (ip(7), ip_local_port_range), and could give this one away
    # before the server starts.
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def options(kind: FingerprintKind = FingerprintKind.DIGEST, **fields: Any) -> DumpOptions:
    return DumpOptions(kind, **{"lock_timeout": 5.0, **fields})


@dataclass(frozen=True)
class Dump:
    """A dump in files, and the manifest that a backup of it would have."""

    path: Path
    manifest: Manifest
    globals: Path
    warnings: Tuple[str, ...]


def dump(engine: PostgresqlEngine, directory: Path, wanted: Optional[DumpOptions] = None) -> Dump:
    """Dump a database into files, as a backup does."""
    wanted = wanted or options()
    directory.mkdir(parents=True, exist_ok=True)
    path, script = directory / "database.dump", directory / "globals.sql"
    path.touch()
    script.touch()
    with engine.snapshot(wanted) as snapshot, ThreadPoolExecutor(1) as pool:
        counting = pool.submit(snapshot.fingerprint)
        transfer(snapshot.dump, path, engine)
        if snapshot.globals:
            transfer(snapshot.globals, script, engine)
        fingerprint = counting.result()
        snapshot.conclude()
        facts = snapshot.facts
    now = datetime.now(timezone.utc)
    manifest = Manifest(
        id=make_id("shop", now),
        host="here",
        engine="postgresql",
        database="shop",
        started=now,
        finished=now,
        artefacts=(),
        server_version=facts.server_version,
        tool_versions=facts.tool_versions,
        fingerprint=fingerprint,
        properties=json.loads(json.dumps(facts.properties)),
    )
    return Dump(path, manifest, script, facts.warnings)


def transfer(source: Stream, target: Stream, engine: PostgresqlEngine) -> None:
    """Let the bytes of a dump flow, with failures explained, as the verbs do."""
    try:
        with Pipe() as pipe:
            pipe.into(target, pipe.source(source))
            pipe.wait()
    except EngineError as failure:
        raise engine.explain(failure) from failure


def restore(
    engine: PostgresqlEngine,
    backup: Dump,
    replace: bool = False,
    keep_replaced: bool = False,
    owner: Optional[str] = None,
    parallel: int = 1,
) -> Optional[str]:
    """Restore a dump with every check, as a restore does; the name of the kept database."""
    engine.check_restore(backup.manifest, replace, owner)
    with engine.stage(backup.manifest, owner, parallel) as staging:
        transfer(backup.path, staging.load, engine)
        staging.loaded()
        staging.check_integrity()
        assert backup.manifest.fingerprint is not None
        assert backup.manifest.fingerprint.differences(staging.fingerprint(backup.manifest.fingerprint)) == []
        return staging.promote(replace, keep_replaced)
