# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""PostgreSQL through the whole path: from the dump to the manifest, and back into a database that serves."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from _engine.backup import plan_backup
from _engine.errors import (
    BadInput,
    EngineError,
    MissingTool,
    NotFound,
    PermissionDenied,
    Shrunk,
    TargetExists,
    Unreachable,
)
from _engine.model import Encryption, EncryptionSettings, FingerprintKind, Level, Outcome, Scratch, Server
from _engine.restore import plan_restore
from _engine.verify import Assertion
from world import World

if TYPE_CHECKING:
    from postgres import Cluster


@pytest.fixture
def world(tmp_path: Path, cluster: Cluster, database: str) -> World:
    made = World(tmp_path / "world")
    made.database = cluster.database(database)
    cluster.sql(
        "CREATE TABLE orders AS SELECT n AS id, md5(n::text) AS item FROM generate_series(1, 1000) AS n", database
    )
    return made


def orders(cluster: Cluster, name: str) -> int:
    return int(cluster.sql("SELECT count(*) FROM orders", name)[0][0])


def test_a_backup_is_restored_under_another_name_and_over_the_original(
    world: World, cluster: Cluster, database: str
) -> None:
    result = world.backup(fingerprint=FingerprintKind.DIGEST)
    assert result.manifest.main.name.endswith(".dump.zst.aes")
    assert result.manifest.main.plain_bytes > 30_000
    copy = cluster.database(f"{database}_copy")
    world.restore(database=copy, source_database=database)
    assert orders(cluster, copy.name) == 1000
    cluster.sql("DELETE FROM orders WHERE id > 10", database)
    with pytest.raises(TargetExists, match=f"{database}.*replace"):
        world.restore(replace=False)
    restored = world.restore(keep_replaced=True)
    assert orders(cluster, database) == 1000
    assert restored.kept_as is not None
    assert orders(cluster, restored.kept_as) == 10
    assert restored.safety_backup is not None
    world.restore(database=copy, source_database=database, source_host="web1", backup=restored.safety_backup)
    assert orders(cluster, copy.name) == 10
    assert [name for name in cluster.databases() if "restoring" in name] == []


def test_parallel_jobs_restore_the_same_and_leave_no_plain_dump(
    world: World, cluster: Cluster, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    monkeypatch.setenv("TMPDIR", str(spool))
    world.backup(fingerprint=FingerprintKind.DIGEST)
    world.restore(database=cluster.database(f"{database}_copy"), source_database=database, parallel=3)
    assert orders(cluster, f"{database}_copy") == 1000
    assert list(spool.iterdir()) == []


@pytest.mark.parametrize("level", list(Level))
def test_each_level_of_verification_passes_and_leaves_no_database(
    world: World, cluster: Cluster, database: str, level: Level
) -> None:
    world.backup()
    before = cluster.databases()
    assertions = (Assertion("SELECT count(*) = 1000 FROM orders", True),) if level is Level.RESTORE else ()
    (check,) = world.verify(level=level, assertions=assertions).checks
    assert (check.outcome, check.detail) == (Outcome.PASSED, "")
    assert cluster.databases() == before


def test_a_verification_can_restore_on_another_server(world: World, empty_cluster: Cluster) -> None:
    world.backup()
    (check,) = world.verify(level=Level.RESTORE, scratch=empty_cluster.as_scratch).checks
    assert (check.outcome, check.detail) == (Outcome.PASSED, "")


def test_a_scratch_server_that_cannot_be_reached_says_nothing_about_the_backup(world: World) -> None:
    world.backup()
    (check,) = world.verify(level=Level.RESTORE, scratch=Scratch(server=Server(host="127.0.0.1", port=1))).checks
    assert (check.outcome, check.code) == (Outcome.UNVERIFIABLE, "unreachable")
    assert len(world.catalogue().good) == 1


def test_globals_ride_along_and_come_back_on_an_empty_cluster(
    world: World, cluster: Cluster, database: str, empty_cluster: Cluster
) -> None:
    cluster.sql(f"CREATE ROLE \"{database} Owner\" LOGIN PASSWORD 's3cret'")
    cluster.sql(f'ALTER TABLE orders OWNER TO "{database} Owner"', database)
    try:
        result = world.backup(globals=True)
        assert result.manifest.globals is not None
        assert result.manifest.globals.name.endswith(".globals.sql.zst.aes")
        target = empty_cluster.database(database)
        with pytest.raises(NotFound, match="Restore the globals first"):
            world.restore(database=target)
        (check,) = world.verify(level=Level.RESTORE, scratch=empty_cluster.as_scratch).checks
        assert (check.outcome, check.detail) == (Outcome.PASSED, "")
        world.restore(database=target, globals=True)
        owner = empty_cluster.sql("SELECT tableowner FROM pg_tables WHERE tablename = 'orders'", database)[0][0]
        assert owner == f"{database} Owner"
    finally:
        cluster.sql(f'ALTER TABLE orders OWNER TO postgres; DROP ROLE "{database} Owner"', database)


def test_owner_makes_a_backup_fit_a_server_that_has_other_roles(
    world: World, database: str, empty_cluster: Cluster
) -> None:
    world.backup()
    empty_cluster.sql("CREATE ROLE keeper")
    world.restore(database=empty_cluster.database(database), owner="keeper")
    owners = {
        name for (name,) in empty_cluster.sql("SELECT tableowner FROM pg_tables WHERE tablename = 'orders'", database)
    }
    assert owners == {"keeper"}


def test_during_writes_the_fingerprint_is_that_of_the_dump(world: World, cluster: Cluster, database: str) -> None:
    stop = threading.Event()

    def write() -> None:
        connection = cluster.connect(database)
        with connection.cursor() as cursor:
            while not stop.is_set():
                cursor.execute("INSERT INTO orders SELECT 0, md5(random()::text)")
                cursor.execute("DELETE FROM orders WHERE ctid = (SELECT min(ctid) FROM orders)")
        connection.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _number in range(3):
            world.backup(fingerprint=FingerprintKind.DIGEST)
    finally:
        stop.set()
        writer.join()
    for check in world.verify(backup="all", level=Level.RESTORE).checks:
        assert (check.outcome, check.detail) == (Outcome.PASSED, "")


def refused(world: World, kind: type[EngineError], message: str, **changes: Any) -> None:
    before = world.files()
    with pytest.raises(kind, match=message):
        plan_backup(world.backup_request(**changes), world.host)
    with pytest.raises(kind, match=message):
        world.backup(**changes)
    assert world.files() == before


def test_a_server_that_does_not_answer_or_let_in_is_named(world: World, cluster: Cluster, database: str) -> None:
    down = replace(world.database, server=Server(host="127.0.0.1", port=1, user="postgres"))
    refused(world, Unreachable, "127.0.0.1:1", database=down)
    wrong = cluster.database(database, password="wrong")
    refused(world, EngineError, "postgres", database=wrong)
    refused(world, NotFound, "nonesuch", database=cluster.database("nonesuch"))


def test_a_table_that_may_not_be_read_is_named_before_anything_is_dumped(
    world: World, cluster: Cluster, database: str
) -> None:
    role = f"{database}_reader"
    cluster.sql(
        f"CREATE ROLE {role} LOGIN PASSWORD 'x'; CREATE TABLE hidden (a int); GRANT SELECT ON orders TO {role}",
        database,
    )
    try:
        limited = cluster.database(database, user=role, password="x")
        refused(world, PermissionDenied, "hidden", database=limited)
    finally:
        cluster.sql(f"DROP OWNED BY {role}; DROP ROLE {role}", database)


def test_a_text_that_fits_no_manifest_is_named_before_anything_is_dumped(
    world: World, cluster: Cluster, database: str
) -> None:
    for statement, what in (
        (f"COMMENT ON DATABASE {database} IS ", "its comment is longer than the 1048576 characters"),
        (f"ALTER DATABASE {database} SET app.x TO ", "its setting app.x is longer than the 1048576 characters"),
    ):
        cluster.sql(f"{statement} '{'x' * ((1 << 20) + 1)}'")
        refused(world, BadInput, what)
        cluster.sql(f"{statement} '{'x' * 10}'")
    assert world.backup().changed


def test_a_dump_that_lost_its_table_is_refused(world: World, cluster: Cluster, database: str) -> None:
    world.backup()
    cluster.sql("TRUNCATE orders", database)
    refused_files = world.files()
    with pytest.raises(Shrunk, match="shrank from"):
        world.backup()
    assert world.files() == refused_files


def test_excluded_tables_are_left_out_and_a_pattern_that_fits_none_is_told(
    world: World, cluster: Cluster, database: str
) -> None:
    cluster.sql("CREATE TABLE log_2026 (a int)", database)
    result = world.backup(exclude_tables=("log_*", "nonesuch"))
    assert result.manifest.fingerprint is not None
    assert list(result.manifest.fingerprint.tables) == ["public.orders"]
    assert any("nonesuch" in warning for warning in result.warnings)
    assert world.verify(level=Level.RESTORE).passed


def test_check_mode_changes_nothing_and_predicts(world: World, cluster: Cluster, database: str) -> None:
    assert plan_backup(world.backup_request(), world.host).fresh is None
    assert world.files() == []
    world.backup()
    before, files = cluster.databases(), world.files()
    plan = plan_restore(world.restore_request(), world.host)
    assert plan.replaces
    assert (cluster.databases(), world.files()) == (before, files)


def test_without_psycopg2_or_pg_dump_the_package_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "psycopg2", None)
        refused(world, MissingTool, "python3-psycopg2")


@pytest.mark.parametrize("script", ["exit 1", None])
def test_a_host_without_a_working_stdbuf_backs_up_all_the_same(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for directory in os.environ["PATH"].split(os.pathsep):
        for path in Path(directory).glob("*"):
            if path.name != "stdbuf" and not (programs / path.name).is_symlink():
                (programs / path.name).symlink_to(path)
    if script:
        (programs / "stdbuf").write_text(f"#!/bin/sh\n{script}\n")
        (programs / "stdbuf").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    world.backup()
    assert world.verify(level=Level.RESTORE).passed


def test_a_dump_that_dies_in_the_middle_is_a_failure_and_leaves_nothing(
    world: World, cluster: Cluster, database: str
) -> None:
    cluster.sql("INSERT INTO orders SELECT n, repeat(md5(n::text), 30) FROM generate_series(1, 300000) AS n", database)

    def end_the_session() -> None:
        for _attempt in range(400):
            ended = cluster.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                f"WHERE datname = '{database}' AND query LIKE 'COPY%' AND query_start < now() - interval '0.1 s'"
            )
            if ended:
                return
            time.sleep(0.01)

    ender = threading.Thread(target=end_the_session)
    ender.start()
    with pytest.raises(EngineError, match="pg_dump|terminat"):
        world.backup()
    ender.join()
    assert world.files() == []
    assert world.backup().changed


def test_a_backup_that_is_killed_costs_nothing_and_a_restore_neither(
    world: World, cluster: Cluster, database: str
) -> None:
    world.backup()
    wanted = world.catalogue().backups[0].id
    chances = random.Random(20260301)
    for attempt in range(16):
        verb = (world.backup, lambda: world.restore(backup=wanted, safety_backup=False))[attempt % 2]
        child = os.fork()
        if child == 0:
            # Measuring coverage, the tests have a handler of their own, which must not be what is tested.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            try:
                verb()
            finally:
                os._exit(0)
        time.sleep(chances.uniform(0, 0.6))
        os.kill(child, (signal.SIGKILL, signal.SIGTERM)[attempt // 2 % 2])
        os.waitpid(child, 0)
        assert orders(cluster, database) == 1000
        assert [backup.known_bad for backup in world.catalogue().backups].count(None) >= 1
        assert world.verify(backup="all").passed
        world.clock.moment = max(backup.time for backup in world.catalogue().backups)
    world.backup()
    world.restore(safety_backup=False)
    assert [name for name in world.files() if name.startswith(".")] == []
    assert [n for n in cluster.databases() if n.startswith(database)] == [database]


def test_the_password_is_in_no_process_list_message_or_file(world: World, cluster: Cluster, database: str) -> None:
    from postgres import PASSWORD

    found, programs, stop = [], set(), threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for process in filter(str.isdigit, os.listdir("/proc")):
                for name in ("cmdline", "environ"):
                    try:
                        content = (Path("/proc") / process / name).read_bytes()
                    except OSError:
                        break
                    if name == "cmdline":
                        programs.add(os.path.basename(content.split(b"\0")[0]).decode(errors="replace"))
                    if PASSWORD.encode() in content:
                        found.append(content)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        world.backup(globals=True)
        world.restore(globals=True)
        world.verify(level=Level.RESTORE)
        with pytest.raises(EngineError) as caught:
            world.backup(database=cluster.database(database, user="nobody-here"))
    finally:
        stop.set()
        watcher.join()
    assert found == []
    assert programs >= {"pg_dump", "pg_restore"}
    assert PASSWORD not in str(caught.value)
    assert not [path for path in world.root.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]


def test_the_documented_commands_restore_a_dump(world: World, cluster: Cluster, database: str) -> None:

    document = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    block = re.findall(r"```sh\n# postgresql\n(.*?)```", document, re.DOTALL)[0]
    plain = EncryptionSettings(method=Encryption.NONE)
    result = world.backup(encryption=plain, compression=world.backup_request().compression.NONE)
    environment = {
        **os.environ,
        "PATH": f"{cluster.programs}:{os.environ['PATH']}",
        "PGHOST": str(cluster.directory),
        "PGPORT": str(cluster.port),
        "PGUSER": "postgres",
        "DATABASE": f"{database}_copy",
        "OUT": str(world.artefact(result)),
    }
    subprocess.run(["bash", "-euo", "pipefail", "-c", block], env=environment, check=True, capture_output=True)
    assert orders(cluster, f"{database}_copy") == 1000


def test_options_that_make_no_sense_are_refused(world: World, cluster: Cluster) -> None:
    refused(world, EngineError, "template0", database=cluster.database("template0"))
    world.backup()
    with pytest.raises(BadInput, match="template1"):
        world.restore(database=cluster.database("template1"), source_database=world.database.name)
