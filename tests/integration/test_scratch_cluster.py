# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Verifying PostgreSQL in a throwaway cluster: what a database's owner can do there, and what is left afterwards."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterator, List

import pytest

from _engine import verify as verification
from _engine.databases.postgresql import cluster as throwaway
from _engine.databases.postgresql import flood as flooding
from _engine.databases.postgresql import rehearsal
from _engine.databases.postgresql.cluster import Needs
from _engine.errors import EngineError, MissingTool, NoSpace, Unverifiable
from _engine.host.confinement import Confinement, confined
from _engine.model import FingerprintKind, Level, Outcome, Scratch
from _engine.process import Process, output_of
from _engine.scratch import Purpose, scratch_account, unprivileged_directory
from _engine.verify import Assertion, Check
from world import World

if TYPE_CHECKING:
    from _engine.databases.postgresql.connection import Access
    from postgres import Cluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a cluster another account")

#: The code of a database's owner: it fails where it has a superuser's rights, gets them, or reaches another server.
GIFT = """
CREATE EXTENSION dblink;
SET ROLE "{owner}";
CREATE FUNCTION gift(int) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE step text;
BEGIN
  IF current_setting('port') = '{port}' THEN RETURN true; END IF;
  FOREACH step IN ARRAY ARRAY[
    'SELECT 1', 'SET SESSION AUTHORIZATION DEFAULT', 'RESET ROLE', 'SET ROLE "{owner}"', 'SET ROLE postgres',
    'ALTER ROLE CURRENT_USER SUPERUSER', $x$COPY (SELECT 1) TO '{file}'$x$,
    $x$COPY (SELECT 1) TO PROGRAM 'touch {file}'$x$,
    $x$SELECT public.dblink_exec('{login} host=127.0.0.1', 'CREATE TABLE reached ()')$x$,
    $x$SELECT public.dblink_exec('{login} host={socket}', 'CREATE TABLE reached ()')$x$, 'RESET ROLE'
  ] LOOP
    BEGIN
      EXECUTE step;
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
    IF current_setting('is_superuser') = 'on' THEN RAISE EXCEPTION 'superuser after %', step; END IF;
  END LOOP;
  RETURN true;
END $$;
CREATE TABLE opened (a int CHECK (public.gift(a)));
CREATE TABLE kept_for_later (a int);
INSERT INTO kept_for_later VALUES (1);
CREATE FUNCTION gift(kept_for_later) RETURNS boolean LANGUAGE sql AS 'SELECT public.gift($1.a)';
ALTER TABLE kept_for_later ADD CHECK (public.gift(kept_for_later));
-- The first check of a foreign key casts as its owner has defined it.
CREATE TYPE mood AS ENUM ('1');
CREATE FUNCTION as_number(mood) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM public.gift(1); RETURN 1; END';
CREATE CAST (mood AS int) WITH FUNCTION as_number(mood) AS IMPLICIT;
CREATE TABLE referred (a int PRIMARY KEY);
INSERT INTO referred VALUES (1);
CREATE TABLE referring (a mood REFERENCES referred);
INSERT INTO referring VALUES ('1');
-- Definitions run code where they are only read: constants of domains in arrays and rows, bounds of partitions.
CREATE DOMAIN checked AS int CHECK (public.gift(VALUE));
CREATE FUNCTION next_state(checked[], int) RETURNS checked[] LANGUAGE sql AS 'SELECT $1';
CREATE AGGREGATE begun(int) (SFUNC = next_state, STYPE = checked[], INITCOND = '{1}');
CREATE TABLE parts (a checked[], b int) PARTITION BY LIST (a);
CREATE TABLE part PARTITION OF parts FOR VALUES IN ('{1}');
CREATE TABLE whole (a checked) PARTITION BY LIST ((a + 1));
CREATE TABLE half PARTITION OF whole FOR VALUES IN (1 + public.as_number('1'::mood));
CREATE VIEW constant AS SELECT '{1}'::checked[] AS a;
CREATE FUNCTION one(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM public.gift(1); RETURN 1; END';
CREATE TABLE computed (a int, b int GENERATED ALWAYS AS (public.one(1)) STORED, c int DEFAULT public.one(1),
  d checked[] DEFAULT '{1}', e int GENERATED ALWAYS AS (cardinality('{1}'::checked[])) STORED);
INSERT INTO computed VALUES (1);
CREATE TABLE keyed (a int) PARTITION BY RANGE ((a + public.one(1)), (a + cardinality('{1}'::checked[])));
CREATE TABLE key PARTITION OF keyed FOR VALUES FROM (1, 1) TO (9, 9);
CREATE INDEX ON computed ((cardinality('{1}'::checked[])), (public.one(1))) WHERE a > public.one(1);
CREATE STATISTICS sized ON (a + cardinality('{1}'::checked[])), a FROM computed;
CREATE POLICY reads ON computed USING (cardinality('{1}'::checked[]) = public.one(1));
CREATE RULE reads AS ON UPDATE TO computed WHERE cardinality('{1}'::checked[]) = 1 DO INSTEAD NOTHING;
CREATE MATERIALIZED VIEW refreshed AS SELECT public.one(1) AS a, '{1}'::checked[] AS b;
-- What a superuser owns at the source is built and refreshed with its rights there.
RESET ROLE;
CREATE MATERIALIZED VIEW trusting AS SELECT public.one(1) AS a, '{1}'::checked[] AS b;
CREATE FUNCTION counted(x checked[] DEFAULT '{1}') RETURNS int LANGUAGE sql AS 'SELECT cardinality($1)';
CREATE FUNCTION built() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT cardinality('{1}'::checked[]); END;
CREATE AGGREGATE ended(int) (SFUNC = next_state, STYPE = checked[], INITCOND = '{1}');
CREATE TABLE trusted AS SELECT 1 AS a;
CREATE INDEX ON trusted (public.one(a));
"""

#: What only a superuser can own, and what only its owner's role or a grant can read.
DEMANDING = """
CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN NULL; END';
CREATE EVENT TRIGGER watcher ON ddl_command_end EXECUTE FUNCTION watch();
CREATE FUNCTION quick(int) RETURNS boolean LANGUAGE sql LEAKPROOF AS 'SELECT true';
CREATE EXTENSION postgres_fdw;
CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1');
CREATE USER MAPPING FOR "{owner}" SERVER far OPTIONS (password 'x');
CREATE PUBLICATION everything FOR ALL TABLES;
CREATE SUBSCRIPTION feed CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p
  WITH (connect = false, slot_name = 'feed_slot', enabled = false);
CREATE SCHEMA closed AUTHORIZATION "{owner}";
CREATE TABLE closed.secret (a serial PRIMARY KEY, b text);
INSERT INTO closed.secret (b) VALUES ('x');
ALTER TABLE closed.secret OWNER TO "{owner}";
ALTER TABLE closed.secret ENABLE ROW LEVEL SECURITY; ALTER TABLE closed.secret FORCE ROW LEVEL SECURITY;
CREATE POLICY none ON closed.secret TO "{owner}" USING (false);
CREATE FUNCTION closed.mine(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
REVOKE ALL ON FUNCTION closed.mine(int) FROM PUBLIC; ALTER FUNCTION closed.mine(int) OWNER TO "{owner}";
CREATE INDEX ON closed.secret (closed.mine(a));
CREATE MATERIALIZED VIEW closed.sums AS SELECT 1 AS n; ALTER MATERIALIZED VIEW closed.sums OWNER TO "{owner}";
SELECT lo_from_bytea(70001, 'large');
CREATE TYPE code;
CREATE FUNCTION code_in(cstring) RETURNS code LANGUAGE internal IMMUTABLE STRICT AS 'int4in';
CREATE FUNCTION code_out(code) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'int4out';
CREATE TYPE code (INPUT = code_in, OUTPUT = code_out, LIKE = int4);
CREATE CAST (code AS int) WITHOUT FUNCTION;
CREATE SCHEMA shut; CREATE TABLE shut.theirs (a code); INSERT INTO shut.theirs VALUES ('1');
ALTER TABLE shut.theirs OWNER TO "{owner}"; COMMENT ON TABLE shut.theirs IS 'in a schema where they may create none';
COMMENT ON EVENT TRIGGER watcher IS 'last'; CREATE PUBLICATION chosen FOR TABLE closed.secret WHERE (a > 0);
"""


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where this test's clusters are: other workers run some too. Their account must be able to enter it."""
    with tempfile.TemporaryDirectory(prefix="scratch-") as directory:
        os.chmod(directory, 0o755)
        monkeypatch.setenv("TMPDIR", directory)
        yield Path(directory)
        assert not list(Path(directory).iterdir())


@pytest.fixture
def world(tmp_path: Path, cluster: Cluster, database: str, temporary: Path) -> World:
    made = World(tmp_path / "world")
    made.database = cluster.database(database)
    return made


@pytest.fixture
def owner(cluster: Cluster, database: str) -> Iterator[str]:
    """A plain role of its own, whose objects go with the test's database."""
    name = f"{database}_owner"
    cluster.sql(f"CREATE ROLE {name} LOGIN PASSWORD 'simple'")
    cluster.sql(f"GRANT CREATE ON SCHEMA public TO {name}", database)
    yield name
    cluster.sql(f"DROP OWNED BY {name} CASCADE", database)
    cluster.sql(f"DROP ROLE {name}")


def restored(world: World, *assertions: Assertion, **changes: Any) -> Check:
    (check,) = world.verify(level=Level.RESTORE, assertions=assertions, **changes).checks
    return check


def passed(world: World, *assertions: Assertion, **changes: Any) -> None:
    check = restored(world, *assertions, **changes)
    assert (check.outcome, check.detail) == (Outcome.PASSED, "")


def servers_in(temporary: Path) -> List[int]:
    """The processes of clusters in a directory; a server's processes work in its data directory."""
    found = []
    for one in Path("/proc").iterdir():
        if one.name.isdigit():
            with suppress(OSError):
                if os.readlink(one / "cwd").startswith(f"{temporary}/"):
                    found.append(int(one.name))
    return found


def in_a_child(work: Callable[[], object]) -> str:
    """What a forked child says of its work: nothing, or the error that it met."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = b"something else went wrong"
        try:
            work()
            said = b""
        except EngineError as error:
            said = str(error).encode()
        finally:
            os.write(writing, said)
            # pytest's own cleaning up must not run twice.
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        text = answer.read().decode()
    os.waitpid(child, 0)
    return text


def started(**changes: Any) -> None:
    with throwaway.running(Needs("shop", 10, 0), Scratch(**changes)):
        pass


def connections(cluster: Cluster) -> int:
    return cluster.log().count("connection received")


def test_the_owners_code_gets_no_rights_and_reaches_no_server(
    world: World, cluster: Cluster, database: str, owner: str
) -> None:
    file = Path("/var/lib/postgresql/gift")
    login = f"port={cluster.port} dbname={database} user={owner} password=simple"
    words = {"file": file, "port": cluster.port, "socket": cluster.directory, "owner": owner, "login": login}
    script = GIFT
    for name, value in words.items():
        script = script.replace(f"{{{name}}}", str(value))
    cluster.sql(script, database)
    cluster.sql("INSERT INTO opened VALUES (1)", database)
    world.backup()
    passed(world)
    reached = "SELECT count(*) FROM pg_class WHERE relname = 'reached'"
    assert not file.exists() and cluster.sql(reached, database) == [(0,)]
    # The same from where the server can be reached.
    cluster.sql(f"SELECT dblink_exec('{login} host=127.0.0.1', 'CREATE TABLE reached ()')", database)
    assert cluster.sql(reached, database) == [(1,)]


def test_the_server_sees_no_connection_during_a_verification(
    tmp_path: Path, empty_cluster: Cluster, temporary: Path
) -> None:
    empty_cluster.sql("CREATE TABLE t (a int)")
    empty_cluster.sql("ALTER SYSTEM SET log_connections = on")
    empty_cluster.sql("SELECT pg_reload_conf()")
    while not connections(empty_cluster):
        empty_cluster.sql("SELECT 1")
    world = World(tmp_path / "world")
    world.database = empty_cluster.database("postgres")
    world.backup()
    before = connections(empty_cluster)
    passed(world, Assertion("SELECT count(*) FROM t", 0))
    assert connections(empty_cluster) == before


def test_assertions_are_read_only_and_no_superuser_can_be_become(world: World, cluster: Cluster, database: str) -> None:
    cluster.sql("CREATE TABLE t (a int)", database)
    world.backup()
    passed(world, Assertion("SELECT current_setting('is_superuser')", "off"), Assertion("SHOW statement_timeout", "1h"))
    for name in ("session_authorization", "role"):
        become = f"SELECT set_config('{name}', (SELECT rolname FROM pg_roles WHERE rolsuper), false)"
        assert "permission denied" in restored(world, Assertion(become, "")).detail
    assert "read-only" in restored(world, Assertion("INSERT INTO t VALUES (1) RETURNING a", 1)).detail
    rows = Assertion("SELECT repeat('x', 1000) FROM generate_series(1, 100000)", [])
    assert "returns more than 4 MiB" in restored(world, rows).detail


def test_a_backup_that_makes_a_superuser_of_its_reader_is_not_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.backup()

    def forged(staging: Any) -> None:
        staging._control().run(f"ALTER ROLE {staging._plain.user} SUPERUSER")

    monkeypatch.setattr(rehearsal.RehearsalStaging, "_settle", forged)
    check = restored(world)
    assert (check.outcome, check.code) == (Outcome.UNVERIFIABLE, "refused")


def test_owners_grants_and_what_only_superusers_may_own_come_back(
    world: World, cluster: Cluster, database: str, owner: str
) -> None:
    cluster.sql(DEMANDING.replace("{owner}", owner), database)
    world.backup(fingerprint=FingerprintKind.DIGEST)
    cluster.sql("DROP EVENT TRIGGER watcher; ALTER SUBSCRIPTION feed SET (slot_name = NONE)", database)
    cluster.sql("DROP SUBSCRIPTION feed", database)
    passed(
        world,
        Assertion("SELECT tableowner FROM pg_tables WHERE tablename = 'secret'", owner),
        Assertion("SELECT roles::text FROM pg_policies", f"{{{owner}}}"),
        Assertion("SELECT evtname FROM pg_event_trigger", "watcher"),
        Assertion("SELECT n FROM closed.sums", 1),
        Assertion("SELECT count(*) FROM closed.secret", 1),
        Assertion("SELECT tableowner FROM pg_tables WHERE tablename = 'theirs'", owner),
        Assertion(f"SELECT has_schema_privilege('{owner}', 'shut', 'CREATE')", False),
        Assertion("SELECT a::int FROM shut.theirs", 1),
        Assertion("SELECT count(*) FROM pg_description WHERE description ~ '^(last$|in a schema)'", 2),
        Assertion("SELECT count(*) FROM pg_publication_rel WHERE prqual IS NOT NULL", 1),
    )


def test_the_server_has_no_secret_and_leaves_no_core_file(
    world: World, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.backup()
    seen: List[int] = []

    def look(*_arguments: object) -> None:
        for pid in servers_in(temporary):
            # A session's process may have ended by now.
            with suppress(OSError):
                assert b"hush" not in Path(f"/proc/{pid}/environ").read_bytes()
                assert "Max core file size        0                    0" in Path(f"/proc/{pid}/limits").read_text()
                assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) == 1000
                seen.append(pid)

    monkeypatch.setenv("ORDERS_PASSWORD", "hush")
    monkeypatch.setattr(verification, "check_staged", look)
    passed(world)
    assert seen and not servers_in(temporary)


def test_a_killed_verification_leaves_no_server_and_the_next_one_clears_its_directory(
    world: World, temporary: Path
) -> None:
    world.backup()

    def die(*_arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verification, "check_staged", die)
        in_a_child(lambda: restored(world))
    while servers_in(temporary):
        # The kernel ends them one after the other.
        os.sched_yield()
    assert len(list(temporary.iterdir())) == 1
    passed(world)


def test_a_verification_that_cannot_be_confined_says_what_to_do(world: World) -> None:
    world.backup()
    check = restored(world, scratch=Scratch(become_user="no-such-account"))
    assert check.outcome is Outcome.UNVERIFIABLE and "useradd --system" in check.detail

    def plain() -> None:
        os.setuid(65534)
        started()

    assert "set scratch.become_user to nobody" in in_a_child(plain)

    def bounded() -> None:
        # PR_CAPBSET_DROP of CAP_SYS_ADMIN: what is executed from here on cannot make namespaces.
        ctypes.CDLL(None).prctl(24, 21, 0, 0, 0)
        started(isolated=False)
        started()

    assert "set scratch.isolated to false" in in_a_child(bounded)


def test_a_server_sees_no_other_one_in_the_directory_that_they_share() -> None:
    # Not below a directory that is hidden as a whole.
    with tempfile.TemporaryDirectory(prefix="scratch-", dir="/var/lib") as shared, ExitStack() as stack:
        os.chmod(shared, 0o755)
        for name in ("one", "two"):
            stack.enter_context(throwaway.running(Needs(name, 10, 0), Scratch(Path(shared))))
        assert len(os.listdir(shared)) == 2
        seen = set()
        for pid in servers_in(Path(shared)):
            # A server's workers come and go.
            with suppress(FileNotFoundError):
                seen.add(tuple(os.listdir(f"/proc/{pid}/root{shared}")))
        assert sorted(seen) == sorted((one,) for one in os.listdir(shared))


class Impostor:
    """A server that someone put in the place of the throwaway one; ``talk`` gets each session after its greeting."""

    def __init__(self, directory: Path, talk: Callable[[socket.socket], None]) -> None:
        self.heard: List[bytes] = []
        self._talk = talk
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(directory / ".s.PGSQL.5432"))
        os.chmod(directory / ".s.PGSQL.5432", 0o777)
        self._listening.listen(5)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            session = self._listening.accept()[0]
            with session, suppress(OSError):
                self.heard.append(session.recv(struct.unpack(">I", session.recv(4))[0] - 4))
                self._talk(session)


def message(kind: bytes, content: bytes) -> bytes:
    """PostgreSQL manual, "Message Formats"."""
    return kind + struct.pack(">I", len(content) + 4) + content


def reached(directory: Path) -> Access:
    return throwaway._access(directory, "superuser", None)


def test_a_server_that_asks_gets_no_password_or_variable_of_the_caller(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: List[bytes] = []

    def ask(session: socket.socket) -> None:
        # AuthenticationCleartextPassword
        session.sendall(message(b"R", struct.pack(">I", 3)))
        answers.append(session.recv(200))

    service, file = temporary / "service.conf", temporary / "pgpass"
    service.write_text("[theirs]\npassword=hush\noptions=-c search_path=hush\n")
    file.write_text("*:*:*:*:hush\n")
    file.chmod(0o600)
    said = {"PGPASSWORD": "hush", "PGPASSFILE": str(file), "PGSERVICE": "theirs", "PGSERVICEFILE": str(service)}
    for name, value in {**said, "PGOPTIONS": "-c role=hush", "PGTZ": "hush", "PGDATESTYLE": "hush"}.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    impostor = Impostor(temporary, ask)
    access = reached(temporary)
    with pytest.raises(EngineError):
        access.connect("postgres")
    process = Process(access.command("psql", ("psql", f"--dbname={access.connection_string('postgres')}", "-wc", "")))
    assert process.wait() != 0
    assert len(impostor.heard) >= 2 and not any(b"hush" in heard for heard in (*impostor.heard, *answers))
    assert dict(os.environ) == before
    for left in (service, file, temporary / ".s.PGSQL.5432"):
        left.unlink()


def row(content: bytes) -> bytes:
    return message(b"D", struct.pack(">HI", 1, len(content)) + content)


@pytest.mark.parametrize("flood", ["long rows", "short rows", "one row", "notices", "settings at the start"])
def test_a_server_that_sends_without_end_is_cut_off(
    temporary: Path, flood: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flooding, "MOST", 64 << 20)
    mebibyte = bytes(1 << 20)
    blocks = {
        "long rows": row(b"x" * len(mebibyte)),
        "short rows": row(b"x") * (1 << 16),
        "one row": mebibyte,
        "notices": message(b"N", b"SNOTICE\0C00000\0M" + b"x" * len(mebibyte) + b"\0\0"),
    }

    def talk(session: socket.socket) -> None:
        session.sendall(message(b"R", struct.pack(">I", 0)))
        for name, value in ((b"server_version", b"15.0"), (b"server_encoding", b"UTF8"), (b"client_encoding", b"UTF8")):
            session.sendall(message(b"S", name + b"\0" + value + b"\0"))
        session.sendall(message(b"S", b"standard_conforming_strings\0on\0") + message(b"S", b"DateStyle\0ISO, MDY\0"))
        if flood in blocks:
            session.sendall(message(b"K", struct.pack(">II", 1, 1)) + message(b"Z", b"I"))
            session.recv(4000)
            session.sendall(
                message(b"T", struct.pack(">H", 1) + b"x\0" + struct.pack(">IHIhIH", 0, 0, 25, -1, 0xFFFFFFFF, 0))
            )
        if flood == "one row":
            session.sendall(b"D" + struct.pack(">IHI", 0x3FFFFF00, 1, 0x3FFFF000))
        # Not without end, for where nothing cuts it off.
        for number in range(500):
            # Longer than 30,000 bytes it must not be (fe-connect.c and fe-protocol3.c).
            settings = b"".join(message(b"S", b"%d.%d\0" % (number, n) + b"x" * 29_000 + b"\0") for n in range(36))
            session.sendall(blocks.get(flood, settings))

    Impostor(temporary, talk)
    try:
        with pytest.raises(Unverifiable, match="the server sent more than 64.0 MiB as one answer, and was cut off"):
            reached(temporary).connect("postgres")
    finally:
        (temporary / ".s.PGSQL.5432").unlink()


def test_confined_programs_find_no_directory_of_other_verifications() -> None:
    """All of them have one account: that of another scratch directory is hidden by nothing but its name."""
    with ExitStack() as stack:
        # Not in /tmp, which is hidden as a whole.
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fleet-backup-test-", dir="/srv")))
        top.chmod(0o755)
        for name in ("one", "two"):
            (top / name).mkdir(mode=0o755)
        mine = stack.enter_context(unprivileged_directory(Purpose.VERIFICATION, top / "one"))
        other = stack.enter_context(unprivileged_directory(Purpose.VERIFICATION, top / "two"))
        (account, file) = scratch_account(), other / "scratch.db"
        file.write_text("plain")
        os.chown(file, account.uid, account.gid)
        with throwaway.running(Needs("shop", 10, 0), Scratch(path=top / "two")) as cluster:
            search = f"find {top} 2>/dev/null; ls {other.parent} {cluster.directory.parent} 2>&1; echo done"
            found = output_of(confined("sh", ["/bin/sh", "-c", search], Confinement(account, mine)))
        assert str(top / "two") in found and "done" in found
        assert other.name not in found and cluster.directory.name not in found
        assert found.count("Permission denied") == 2


#: Runs a confined program where the launcher cannot say that it is to end first where memory is short.
READ_ONLY_PROC = """
import sys
from pathlib import Path
sys.path[:] = {path!r}
from _engine.host.confinement import Confinement, confined
from _engine.process import output_of
print(output_of(confined("sh", ["/bin/sh", "-c", "echo confined"], Confinement(None, Path({directory!r})))))
"""


def test_a_launcher_that_may_not_say_what_ends_first_confines_all_the_same(tmp_path: Path) -> None:
    directory = tmp_path / "of-many" / "own" / "data"
    directory.mkdir(parents=True)
    program = READ_ONLY_PROC.format(path=sys.path, directory=str(directory))
    steps = 'mount --bind /proc /proc && mount -o remount,bind,ro /proc && exec "$0" -c "$1"'
    command = ["unshare", "-m", "sh", "-c", steps, sys.executable, program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("confined", "")


def test_what_the_host_lacks_for_a_scratch_server_is_told() -> None:
    with pytest.raises(Unverifiable, match="own programs are in /"), ExitStack() as stack:
        stack.enter_context(throwaway.running(Needs("shop", 10, 0), Scratch(Path("/"))))
    with pytest.raises(MissingTool, match="postgresql-99 .*scratch.login_host"), ExitStack() as stack:
        stack.enter_context(throwaway.running(Needs("shop", 99, 0), Scratch()))
    with pytest.raises(NoSpace, match="scratch.path"), ExitStack() as stack:
        stack.enter_context(throwaway.running(Needs("shop", 10, 1 << 60), Scratch()))
    with pytest.raises(Unverifiable, match="scratch.path"), ExitStack() as stack:
        stack.enter_context(throwaway.running(Needs("shop", 10, 0), Scratch(Path("/nowhere"))))


def test_a_superuser_on_a_named_server_is_refused_unless_asked_for(world: World, cluster: Cluster) -> None:
    world.backup()
    check = restored(world, scratch=Scratch(server=cluster.server))
    assert (check.outcome, check.code) == (Outcome.UNVERIFIABLE, "refused")
    passed(world, scratch=cluster.as_scratch)
    check = restored(world, Assertion("SELECT 1", 1), scratch=cluster.as_scratch)
    assert check.outcome is Outcome.UNVERIFIABLE and "assertions are never run as one" in check.detail


def test_a_database_of_any_name_is_verified(tmp_path: Path, cluster: Cluster, database: str, temporary: Path) -> None:
    name = database + "x" * (63 - len(database))
    cluster.sql(f'CREATE DATABASE "{name}"')
    world = World(tmp_path / "world")
    world.database = cluster.database(name)
    world.backup()
    passed(world, Assertion("SELECT current_database()", name))
