# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What sessions say and how they end: no row in a message, no language mistaken, no lock of a lost host, no pooler."""

from __future__ import annotations

import pwd
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Iterator, Type

import psycopg2
import pytest

from _engine.command import Command
from _engine.errors import BadInput, EngineError, NotFound, PermissionDenied, Unreachable
from _engine.model import Server
from postgres import PASSWORD, SUPERUSER, Cluster, _free_port, dump, options, running_cluster, transfer
from world import World

ROWS = """
CREATE FUNCTION pick(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT substr($1, 1, 3)';
CREATE FUNCTION initials(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN {body} END $$;
CREATE TABLE patients (name text, diagnosis text, short text GENERATED ALWAYS AS (initials(name)) STORED);
INSERT INTO patients VALUES ('MARKER-NAME', 'MARKER-DIAGNOSIS');
"""


BODIES = (
    "RETURN upper($1 || pick($1));",
    "IF current_setting('search_path') = '' THEN RAISE EXCEPTION 'no % here', $1; END IF; RETURN $1;",
    "IF current_setting('search_path') = '' THEN RETURN $1::int; END IF; RETURN $1;",
    "IF current_setting('search_path') = '' THEN EXECUTE 'SELECT ' || $1; END IF; RETURN $1;",
)


@pytest.mark.parametrize("body", BODIES)
def test_no_row_is_in_the_message_or_the_audit_log_of_a_restore_that_fails_at_it(
    tmp_path: Path, cluster: Cluster, database: str, body: str
) -> None:
    cluster.sql(ROWS.format(body=body), database)
    world = World(tmp_path / "world")
    world.database = cluster.database(database)
    world.backup()
    for parallel in (1, 2):
        with pytest.raises(EngineError) as caught:
            world.restore(database=cluster.database(f"{database}_2"), source_database=database, parallel=parallel)
        assert 'COPY failed for table "patients"' in str(caught.value)
        assert "MARKER" not in str(caught.value)
    written = [path for path in (tmp_path / "world").rglob("*") if path.is_file()]
    assert any("audit" in path.name for path in written), written
    assert [path for path in written if b"MARKER" in path.read_bytes()] == []


def test_no_row_is_in_the_message_of_an_assertion_that_fails_at_it(
    cluster: Cluster, database: str, tmp_path: Path
) -> None:
    cluster.sql("CREATE TABLE people (name text); INSERT INTO people VALUES ('MARKER-NAME')", database)
    engine = cluster.engine(f"{database}_2")
    backup = dump(cluster.engine(database), tmp_path)
    with engine.stage(backup.manifest, None, 1) as staging:
        transfer(backup.path, staging.load, engine)
        staging.loaded()
        with pytest.raises(EngineError, match="invalid input syntax for type integer") as caught:
            staging.query("SELECT name::int FROM people")
    assert "MARKER" not in str(caught.value)


@pytest.fixture(scope="module")
def german() -> Iterator[Cluster]:
    """A server that answers in German."""
    locales = Path(tempfile.mkdtemp(prefix="locales-"))
    locales.chmod(0o755)
    subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", str(locales / "de_DE.UTF-8")], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCPATH", str(locales))
        with running_cluster("lc_messages=de_DE.UTF-8") as running:
            if "existiert nicht" not in _said(running):
                pytest.skip("this host's PostgreSQL has no translations")
            yield running
    shutil.rmtree(locales)


def _said(cluster: Cluster) -> str:
    with pytest.raises(psycopg2.OperationalError) as caught:
        cluster.connect("nowhere")
    return str(caught.value)


def test_a_server_that_speaks_another_language_is_understood(german: Cluster, tmp_path: Path) -> None:
    german.sql("CREATE ROLE clerk LOGIN PASSWORD 'x'")
    german.sql("CREATE DATABASE closed")
    german.sql("REVOKE CONNECT ON DATABASE closed FROM PUBLIC")
    clerk = {"user": "clerk", "password": "x"}
    expected: list[tuple[Any, Type[EngineError], str]] = [
        (german.engine("nowhere"), NotFound, "does not exist"),
        (german.engine("closed", **clerk), PermissionDenied, "Grant it CONNECT"),
        (german.engine("closed", **{**clerk, "password": "y"}), Unreachable, 'refused a session of user "clerk"'),
    ]
    for engine, kind, words in expected:
        with pytest.raises(kind, match=words):
            engine.check_dump(options())
    assert not german.engine("nowhere").inspect().exists


def test_the_programs_of_a_superuser_are_understood_in_any_language(german: Cluster, tmp_path: Path) -> None:
    german.sql("CREATE DATABASE shop")
    german.sql("CREATE TABLE t (a int)", "shop")
    engine = german.engine("shop")
    path = tmp_path / "dump"
    path.touch()
    with engine.snapshot(options(lock_timeout=0.2)) as snapshot:
        german.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'")
        with pytest.raises(Unreachable, match="snapshot"):
            transfer(snapshot.dump, path, engine)


@pytest.fixture(params=["", "ignore_startup_parameters = options, extra_float_digits"])
def pooler(request: pytest.FixtureRequest, cluster: Cluster, database: str, tmp_path: Path) -> Iterator[Server]:
    """pgbouncer in front of the server, which lends a session for a transaction."""
    directory = Path(tempfile.mkdtemp(prefix="pooler-"))
    port = _free_port()
    (directory / "users").write_text(f'"{SUPERUSER}" "x"\n')
    (directory / "pooler.ini").write_text(
        f"[databases]\n* = host={cluster.directory} port={cluster.port} user={SUPERUSER}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = trust\nunix_socket_dir =\n"
        f"auth_file = {directory / 'users'}\npool_mode = transaction\ndefault_pool_size = 1\n{request.param}\n"
    )
    account = pwd.getpwnam("postgres")
    for path in (directory, *directory.iterdir()):
        shutil.chown(path, account.pw_uid, account.pw_gid)
    running = subprocess.Popen(
        ["/usr/sbin/pgbouncer", str(directory / "pooler.ini")],
        user="postgres", group="postgres", extra_groups=[], stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while running.poll() is None:
            try:
                psycopg2.connect(host="127.0.0.1", port=port, user=SUPERUSER, dbname=database).close()
                break
            except psycopg2.OperationalError:
                continue
        yield Server(host="127.0.0.1", port=port, user=SUPERUSER)
    finally:
        running.kill()
        running.wait()
        shutil.rmtree(directory)


def test_a_pooler_is_refused_before_anything_is_set_in_an_applications_session(
    cluster: Cluster, database: str, pooler: Server
) -> None:
    application = psycopg2.connect(host=pooler.host, port=pooler.port, user=SUPERUSER, dbname=database)
    application.autocommit = True

    def asked(question: str) -> str:
        with application.cursor() as cursor:
            cursor.execute(question)
            return str(cursor.fetchall()[0][0])

    names = ("search_path", "row_security", "statement_timeout", "lc_messages", "DateStyle", "client_encoding")
    before = [asked(f"SHOW {name}") for name in names]
    engine = cluster.engine(database, host=pooler.host, port=pooler.port, password=None)
    for attempt in (engine.inspect, lambda: engine.check_dump(options())):
        with pytest.raises(BadInput, match="connection pooler.*Let login_host and login_port name the server itself"):
            attempt()
    assert [asked(f"SHOW {name}") for name in names] == before
    application.close()


def test_the_server_asks_after_clients_that_fell_silent(cluster: Cluster, database: str) -> None:
    engine = cluster.engine(database)
    cluster.sql("CREATE TABLE t (a int)", database)
    with engine.snapshot(options()) as snapshot:
        held = snapshot._held
        assert held.value("SHOW idle_in_transaction_session_timeout") == "10min"
        assert isinstance(snapshot.dump, Command)
        [string] = [str(one)[9:] for one in snapshot.dump.arguments if str(one).startswith("--dbname=")]
        program = psycopg2.connect(re.sub(r" password='[^']*'", "", string), password=PASSWORD)
        for ask in (held.value, lambda question: _first(program, question)):
            assert ask("SHOW tcp_keepalives_idle") == "60"
            assert ask("SHOW tcp_keepalives_interval") == "15"
            assert ask("SHOW tcp_keepalives_count") == "8"
            assert ask("SHOW client_connection_check_interval") == "30s"
        program.close()


def _first(session: Any, question: str) -> Any:
    with session.cursor() as cursor:
        cursor.execute(question)
        return cursor.fetchall()[0][0]
