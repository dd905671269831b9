# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What goes wrong with PostgreSQL is said in one clear sentence, before anything is touched where that can be."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Iterator

import psycopg2
import pytest

from _engine.databases.postgresql import fingerprint, tools
from _engine.errors import (
    BadInput,
    BadManifest,
    Damaged,
    EngineError,
    Locked,
    MissingTool,
    NotFound,
    PermissionDenied,
    TargetExists,
    ToolFailed,
    Unreachable,
)
from postgres import PASSWORD, Cluster, dump, options, restore, running_cluster, transfer


@pytest.fixture
def reader(cluster: Cluster, database: str) -> Iterator[str]:
    """A user who may read nothing yet."""
    name = f"reader_{database}"
    cluster.sql(f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
    yield name
    cluster.sql(f"DROP OWNED BY {name}", database)
    cluster.sql(f"DROP ROLE {name}")


def test_a_server_that_is_down_is_unreachable(cluster: Cluster) -> None:
    engine = cluster.engine("any", port=1)
    for attempt in (engine.inspect, lambda: engine.check_dump(options())):
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1 does not answer.*Check login_host"):
            attempt()
    with pytest.raises(Unreachable, match=r"/nowhere:5432 does not answer: .*No such file or directory\. Check"):
        cluster.engine("any", host=None, unix_socket="/nowhere", port=None).inspect()
    with pytest.raises(Unreachable, match="does not answer"):
        cluster.engine("any", host="nowhere.invalid").inspect()


def test_a_wrong_or_missing_password_is_a_refused_login_of_the_user_and_is_not_shown(cluster: Cluster) -> None:
    for login in ({"password": "not-the-one"}, {"password": None}, {"user": "stranger"}):
        with pytest.raises(Unreachable) as caught:
            cluster.engine("postgres", **login).inspect()
        assert f'refused to log in user "{login.get("user", "postgres")}"' in str(caught.value)
        assert "not-the-one" not in str(caught.value) and PASSWORD not in str(caught.value)


def test_an_unknown_database_is_not_found_and_inspection_says_so(cluster: Cluster) -> None:
    engine = cluster.engine("absent")
    inspection = engine.inspect()
    assert (inspection.exists, inspection.bytes) == (False, 0)
    assert inspection.server_version.split(".")[0] == str(cluster.programs.parent.name)
    with pytest.raises(NotFound, match=r'database "absent" does not exist on 127\.0\.0\.1'):
        engine.check_dump(options())
    with pytest.raises(NotFound), engine.snapshot(options()):
        pass


def test_a_socket_directory_is_a_way_to_the_server(cluster: Cluster, database: str, tmp_path: Path) -> None:
    engine = cluster.engine(database, host=None, unix_socket=str(cluster.directory), password=None)
    restore(engine, dump(engine, tmp_path), replace=True)
    with pytest.raises(BadInput, match="two ways"):
        cluster.engine(database, unix_socket=str(cluster.directory))


@pytest.mark.parametrize(
    ("login", "named"),
    [({"password": "two\nlines"}, "line break"), ({"ssl_mode": "verify-full", "ca_cert": "/nowhere.crt"}, "ca_cert"),
     ({"ssl_mode": "require"}, "TLS")],
)  # fmt: skip
def test_login_options_that_cannot_work_are_named(cluster: Cluster, login: Any, named: str) -> None:
    with pytest.raises(EngineError, match=named):
        cluster.engine("postgres", **login).inspect()


@pytest.mark.parametrize("name", ["", "x" * 64, "ü" * 32, "nul\0"])
def test_a_name_that_the_server_would_change_is_refused(cluster: Cluster, name: str) -> None:
    with pytest.raises(BadInput):
        cluster.engine(name)


def test_a_table_that_may_not_be_read_is_named_before_anything_is_dumped(
    cluster: Cluster, database: str, reader: str, tmp_path: Path
) -> None:
    cluster.sql(
        'CREATE TABLE open (); CREATE TABLE "Closed" (); CREATE SCHEMA shut; CREATE TABLE shut.inside ();'
        f"GRANT SELECT ON open, shut.inside TO {reader}",
        database,
    )
    engine = cluster.engine(database, user=reader, password="x")
    with pytest.raises(PermissionDenied, match=r'may not read table public\."Closed", table shut\.inside\. Grant'):
        engine.check_dump(options())
    with pytest.raises(PermissionDenied, match='Closed|"Closed"'):
        dump(engine, tmp_path)
    engine.check_dump(options(exclude_tables=("Closed", "shut.*")))
    cluster.sql(f'GRANT SELECT ON "Closed" TO {reader}; GRANT USAGE ON SCHEMA shut TO {reader}', database)
    engine.check_dump(options())
    dump(engine, tmp_path)
    cluster.sql("CREATE SEQUENCE numbers", database)
    with pytest.raises(PermissionDenied, match="sequence public.numbers"):
        engine.check_dump(options())


def test_rows_hidden_by_row_security_are_an_error_and_not_a_smaller_backup(
    cluster: Cluster, database: str, reader: str, tmp_path: Path
) -> None:
    cluster.sql(
        "CREATE TABLE secret AS SELECT 1 AS n; ALTER TABLE secret ENABLE ROW LEVEL SECURITY;"
        f"CREATE POLICY none ON secret USING (false); GRANT SELECT ON secret TO {reader}",
        database,
    )
    engine = cluster.engine(database, user=reader, password="x")
    with pytest.raises(PermissionDenied, match=r"row security hides rows of table public\.secret"):
        engine.check_dump(options())
    with pytest.raises(PermissionDenied, match="row-level security|row security"):
        dump(engine, tmp_path)
    cluster.sql(f"ALTER ROLE {reader} BYPASSRLS")
    engine.check_dump(options())
    dump(engine, tmp_path)


def test_large_objects_of_others_are_an_error(cluster: Cluster, database: str, reader: str) -> None:
    cluster.sql("SELECT lo_from_bytea(1, 'a'), lo_from_bytea(2, 'b')", database)
    cluster.sql(f"GRANT SELECT ON LARGE OBJECT 1 TO {reader}", database)
    with pytest.raises(PermissionDenied, match="1 large objects"):
        cluster.engine(database, user=reader, password="x").check_dump(options())


def test_a_table_locked_past_the_timeout_is_an_error_that_says_so(
    cluster: Cluster, database: str, tmp_path: Path
) -> None:
    cluster.sql("CREATE TABLE held ()", database)
    holder = cluster.connect(database)
    with holder.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE held")
    with pytest.raises(Locked, match="stayed locked for 0.2 s"):
        dump(cluster.engine(database), tmp_path, options(lock_timeout=0.2))
    holder.close()
    dump(cluster.engine(database), tmp_path)


def test_a_table_emptied_right_after_the_snapshot_is_in_the_dump(
    cluster: Cluster, database: str, tmp_path: Path
) -> None:
    cluster.sql("CREATE TABLE full_of AS SELECT generate_series(1, 100) AS n", database)
    engine, path = cluster.engine(database), tmp_path / "dump"
    path.touch()
    with engine.snapshot(options()) as snapshot:
        emptying = threading.Thread(target=cluster.sql, args=("TRUNCATE full_of", database))
        emptying.start()
        emptying.join(0.2)
        fingerprint = snapshot.fingerprint()
        assert fingerprint is not None and fingerprint.tables["public.full_of"].rows == 100
    emptying.join()
    assert cluster.value("SELECT count(*) FROM full_of", database) == 0


def test_a_fingerprint_that_is_no_longer_wanted_ends_at_once(
    cluster: Cluster, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.sql("CREATE TABLE counted AS SELECT 1 AS n", database)
    monkeypatch.setattr(fingerprint, "TEXT_FORM", "SELECT pg_sleep(600)")
    with pytest.raises(EngineError), cluster.engine(database).snapshot(options()) as snapshot:
        outcome = []

        def count() -> None:
            try:
                snapshot.fingerprint()
            except EngineError as error:
                outcome.append(error)

        counting = threading.Thread(target=count)
        counting.start()
        while not cluster.sql("SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)'"):
            pass
        snapshot.cancel_fingerprint()
        counting.join()
        raise outcome[0]


def test_a_lost_session_of_the_snapshot_fails_the_dump(cluster: Cluster, database: str, tmp_path: Path) -> None:
    engine = cluster.engine(database)
    path = tmp_path / "dump"
    path.touch()
    with engine.snapshot(options()) as snapshot:
        cluster.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'")
        with pytest.raises(Unreachable, match="snapshot"):
            transfer(snapshot.dump, path, engine)
        with pytest.raises(Unreachable):
            snapshot.fingerprint()


def test_the_snapshot_outlives_every_time_limit_of_the_server(cluster: Cluster, database: str, tmp_path: Path) -> None:
    cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 300000) AS n", database)
    for limit in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout"):
        cluster.sql(f"ALTER DATABASE {database} SET {limit} = 50")
    engine = cluster.engine(database)
    with engine.snapshot(options()) as snapshot:
        with pytest.raises(psycopg2.Error, match="timeout"):
            cluster.sql("SELECT pg_sleep(1)", database)
        assert snapshot.fingerprint() is not None
    restore(engine, dump(engine, tmp_path), replace=True)


def test_tables_that_others_refer_to_cannot_be_left_out_alone(cluster: Cluster, database: str) -> None:
    cluster.sql(
        "CREATE TABLE customers (id int PRIMARY KEY); CREATE TABLE orders (customer int REFERENCES customers);"
        "CREATE TABLE logs (n int); CREATE VIEW recent AS SELECT * FROM logs",
        database,
    )
    engine = cluster.engine(database)
    with pytest.raises(BadInput, match="table public.customers cannot be left out.*table public.orders refers to it"):
        engine.check_dump(options(exclude_tables=("customers",)))
    with pytest.raises(BadInput, match="view public.recent refers"):
        engine.check_dump(options(exclude_tables=("logs",)))
    engine.check_dump(options(exclude_tables=("customers", "orders", "logs", "recent")))


def test_tables_that_anything_else_depends_on_cannot_be_left_out_alone(cluster: Cluster, database: str) -> None:
    cluster.sql(
        "CREATE TABLE parent_of (a int); CREATE TABLE child_of (b int) INHERITS (parent_of);"
        "CREATE TABLE used_as_type (a serial PRIMARY KEY, b text DEFAULT 'x' CHECK (b <> ''));"
        "CREATE TABLE keeps (x used_as_type, y used_as_type[]);"
        "CREATE TABLE asked (n int); CREATE FUNCTION ask(asked) RETURNS int LANGUAGE sql AS 'SELECT 1';"
        "CREATE TABLE free (n serial PRIMARY KEY, m int UNIQUE); CREATE PUBLICATION p FOR TABLE free",
        database,
    )
    engine = cluster.engine(database)
    for table, dependent in {"parent_of": "child_of", "used_as_type": "keeps", "asked": "ask"}.items():
        with pytest.raises(BadInput, match=f"table public.{table} cannot be left out.*{dependent}"):
            engine.check_dump(options(exclude_tables=(table,)))
    engine.check_dump(options(exclude_tables=("free",)))
    engine.check_dump(options(exclude_tables=("parent_of", "child_of", "used_as_type", "keeps")))


def _tools(directory: Path, name: str, version: str) -> None:
    directory.mkdir()
    (directory / name).write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")
    (directory / name).chmod(0o755)


def test_the_right_program_is_chosen_among_the_installed_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "_PACKAGE_DIRECTORIES", ((str(tmp_path), "*/bin"),))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    with pytest.raises(MissingTool, match="none is installed. Install postgresql-client-15 .* or postgresql15"):
        tools.dumper("pg_dump", 15)
    for version in ("13.4", "14.2", "16.1", "17rc1"):
        (tmp_path / version).mkdir()
        _tools(tmp_path / version / "bin", "pg_dump", version)
    _tools(tmp_path / "path", "pg_dump", "16.9")
    chosen = {major: tools.dumper("pg_dump", major).version for major in (12, 13, 14, 15, 16)}
    assert chosen == {12: "13.4", 13: "13.4", 14: "14.2", 15: "16.9", 16: "16.9"}
    (tmp_path / "16.1" / "bin" / "pg_dump").unlink()
    (tmp_path / "path" / "pg_dump").unlink()
    (tmp_path / "17.1").mkdir()
    _tools(tmp_path / "17.1" / "bin", "pg_dump", "17.1")
    with pytest.raises(MissingTool, match=r"only servers from 17 on can load. Install postgresql-client-15"):
        tools.dumper("pg_dump", 15)
    assert tools.dumper("pg_dump", 17).version == "17.1"
    with pytest.raises(MissingTool, match=r"PostgreSQL 18.*only 13\.4 and 14\.2 and 17\.1"):
        tools.dumper("pg_dump", 18)


def test_a_dump_is_restored_by_a_program_no_older_than_the_one_that_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "_PACKAGE_DIRECTORIES", ((str(tmp_path), "*/bin"),))
    monkeypatch.setenv("PATH", "")
    for version in ("13.4", "15.2", "17.1"):
        (tmp_path / version).mkdir()
        _tools(tmp_path / version / "bin", "pg_restore", version)
    chosen = [
        tools.restorer(made, server).version
        for made, server in (("13.1", 13), ("13.1", 15), ("14.2", 14), ("16.0", 17), ("16.0", 0))
    ]
    assert chosen == ["13.4", "15.2", "15.2", "17.1", "17.1"]
    with pytest.raises(MissingTool, match=r"PostgreSQL 15, which does not understand pg_restore 17.*client-16"):
        tools.restorer("16.0", 15)
    with pytest.raises(MissingTool, match="from 17 on understand its pg_restore.*Restore on PostgreSQL 17"):
        tools.restorer("17.0", 15)
    with pytest.raises(MissingTool, match=r"pg_dump 18\.1.*postgresql-client-18"):
        tools.restorer("18.1", 18)


def test_debians_wrapper_script_is_never_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tools, "_PACKAGE_DIRECTORIES", ())
    (tmp_path / "pg_wrapper").write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 99.1'\n")
    (tmp_path / "pg_wrapper").chmod(0o755)
    (tmp_path / "pg_dump").symlink_to("pg_wrapper")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tools.installed("pg_dump") == []


def test_what_a_restore_lacks_on_the_server_is_said_before_it_begins(
    cluster: Cluster, database: str, tmp_path: Path
) -> None:
    engine = cluster.engine(database)
    manifest = dump(engine, tmp_path).manifest
    target = cluster.engine(database + "_new")

    def check(owner: Any = None, **properties: Any) -> None:
        target.check_restore(replace(manifest, properties={**manifest.properties, **properties}), False, owner)

    check()
    with pytest.raises(NotFound, match="lacks roles that .* needs: absent_1, absent_2. Restore the globals first"):
        check(roles=["absent_2"], settings=[{"role": "absent_1", "name": "work_mem", "value": "1MB"}])
    check(owner="postgres", roles=["absent_2"])
    with pytest.raises(NotFound, match="absent_3"):
        check(owner="postgres", policy_roles=["absent_3"])
    with pytest.raises(NotFound, match='no role "absent_4"'):
        check(owner="absent_4")
    with pytest.raises(NotFound, match="the extension no_such_one"):
        check(extensions=["plpgsql", "no_such_one"])
    with pytest.raises(NotFound, match="the tablespace fast"):
        check(tablespaces=["fast"])
    with pytest.raises(BadInput, match="was made on PostgreSQL 99"):
        target.check_restore(replace(manifest, server_version="99.1", tool_versions={}), False, None)
    with pytest.raises(MissingTool, match="made by pg_dump 99.1"):
        target.check_restore(replace(manifest, tool_versions={"pg_dump": "99.1"}), False, None)
    with pytest.raises(TargetExists):
        engine.check_restore(manifest, False, None)
    for name in ("template0", "template1"):
        with pytest.raises(BadInput, match="another name"):
            cluster.engine(name).check_restore(manifest, True, None)
    for damage in (
        {},
        {"encoding": 7},
        {**manifest.properties, "settings": ["x"]},
        {**manifest.properties, "grants": [{"a": 1}]},
    ):
        with pytest.raises(BadManifest):
            target.check_restore(replace(manifest, properties=damage), False, None)


def test_with_an_owner_everything_belongs_to_it_and_other_roles_need_not_exist(
    cluster: Cluster, database: str, reader: str, tmp_path: Path
) -> None:
    cluster.sql(f"CREATE ROLE {database}_gone; CREATE ROLE {database}_heir")
    cluster.sql(
        f"CREATE EXTENSION hstore; CREATE SCHEMA s; CREATE TABLE s.t (); ALTER SCHEMA s OWNER TO {database}_gone;"
        f"ALTER TABLE s.t OWNER TO {database}_gone; GRANT SELECT ON s.t TO {database}_gone;"
        f"CREATE VIEW v AS SELECT 1 AS n;"
        f"ALTER ROLE {database}_gone IN DATABASE {database} SET work_mem = '9MB';"
        f"GRANT CONNECT ON DATABASE {database} TO {database}_gone",
        database,
    )
    backup = dump(cluster.engine(database), tmp_path)
    cluster.sql(f"DROP OWNED BY {database}_gone CASCADE", database)
    cluster.sql(f"DROP ROLE {database}_gone")
    target = cluster.engine(database + "_new")
    with pytest.raises(NotFound, match=f"{database}_gone"):
        restore(target, backup)
    restore(target, backup, owner=f"{database}_heir")
    owners = cluster.sql(
        "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
        " WHERE nspname IN ('s', 'public') UNION SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 's'"
        " UNION SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()",
        database + "_new",
    )
    assert owners == [(f"{database}_heir",)]
    with pytest.raises(PermissionDenied, match=r"may not create the extension pg_buffercache"):
        properties = {**backup.manifest.properties, "extensions": ["hstore", "pg_buffercache"]}
        cluster.engine(database + "_3").check_restore(
            replace(backup.manifest, properties=properties), False, f"{database}_heir"
        )
    cluster.sql(f"DROP DATABASE {database}_new")
    cluster.sql(f"DROP ROLE {database}_heir")


def test_a_damaged_dump_fails_and_leaves_the_target_as_it_was(cluster: Cluster, database: str, tmp_path: Path) -> None:
    cluster.sql("CREATE TABLE t AS SELECT repeat('x', 100) || n AS line FROM generate_series(1, 20000) n", database)
    engine = cluster.engine(database)
    backup = dump(engine, tmp_path)
    content = backup.path.read_bytes()
    for parallel in (1, 2):
        backup.path.write_bytes(content[: len(content) // 2])
        with pytest.raises(Damaged):
            restore(engine, backup, replace=True, parallel=parallel)
        backup.path.write_bytes(b"nonsense" * 1000)
        with pytest.raises(Damaged):
            restore(engine, backup, replace=True, parallel=parallel)
    assert cluster.value("SELECT count(*) FROM t", database) == 20000
    assert [name for name in cluster.databases() if name.startswith(database)] == [database]


def test_the_spool_of_a_parallel_restore_is_private_and_gone_afterwards(
    cluster: Cluster, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = cluster.engine(database)
    backup = dump(engine, tmp_path)
    spools = tmp_path / "spools"
    spools.mkdir()
    monkeypatch.setenv("TMPDIR", str(spools))
    with engine.stage(backup.manifest, None, 2) as staging:
        spool = staging.load
        assert isinstance(spool, Path) and spools in spool.parents
        assert (spool.stat().st_mode & 0o777, spool.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        transfer(backup.path, spool, engine)
        staging.loaded()
        assert list(spools.iterdir()) == []
    with engine.stage(backup.manifest, None, 2):
        pass
    assert list(spools.iterdir()) == []


def test_failures_of_other_programs_are_left_as_they_are() -> None:
    for failure in (ToolFailed("zstd", 1, "permission denied for table x"), ToolFailed("pg_dump", 1, "strange")):
        assert tools.explained(failure) is failure
    disk = ToolFailed("pg_restore", 1, 'pg_restore: error: could not extend file "base/1": No space left on device')
    assert tools.explained(disk).code == "no_space"


def test_without_the_driver_the_package_to_install_is_named(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from _engine.databases import open_engine\nfrom _engine.model import Database, EngineName\n"
        "from _engine.errors import MissingTool\n"
        "try: open_engine(Database(EngineName.POSTGRESQL, 'shop')).inspect()\n"
        "except MissingTool as error: print(error)\n"
    )
    engine = next(path for path in sys.path if path.endswith("module_utils"))
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script, engine], stdout=subprocess.PIPE, check=True)
    assert "Install the package python3-psycopg2" in done.stdout.decode()


def test_globals_without_superuser_come_without_passwords_and_say_so(
    cluster: Cluster, database: str, reader: str, tmp_path: Path
) -> None:
    backup = dump(cluster.engine(database, user=reader, password="x"), tmp_path, options(globals=True))
    assert [warning for warning in backup.warnings if "without their passwords" in warning]
    script = backup.globals.read_text()
    assert f"CREATE ROLE {reader}" in script and "SCRAM-SHA-256" not in script


def test_a_standby_is_backed_up_but_not_restored_to(tmp_path: Path) -> None:
    with running_cluster() as primary:
        primary.sql("CREATE UNLOGGED TABLE u AS SELECT 1 AS n; CREATE TABLE t AS SELECT 1 AS n")
        primary.sql("SELECT lo_from_bytea(5, 'large')")
        with running_cluster(standby_of=primary) as standby:
            engine = standby.engine("postgres")
            engine.check_dump(options())
            backup = dump(engine, tmp_path, options(globals=True))
            assert backup.manifest.fingerprint is not None
            assert sorted(backup.manifest.fingerprint.tables) == ["pg_largeobject", "public.t"]
            with pytest.raises(PermissionDenied, match="standby"):
                standby.engine("new").check_restore(backup.manifest, False, None)
            restore(primary.engine("copy"), backup)
            assert primary.value("SELECT count(*) FROM u", "copy") == 0
