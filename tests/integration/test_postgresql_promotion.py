# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A restored PostgreSQL database takes the old one's place at once and wholly, or not at all."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Iterator, List

import psycopg2
import pytest

from _engine.databases.postgresql import promotion
from _engine.databases.postgresql.connection import Connection
from _engine.errors import Locked, Mismatch, PermissionDenied, Refused, TargetExists, Unreachable
from _engine.model import FingerprintKind
from postgres import Cluster, Dump, dump, options, restore, transfer


@pytest.fixture
def backup(cluster: Cluster, database: str, tmp_path: Path) -> Dump:
    """A backup of the database in which its only row says "backup", while the database now says "live"."""
    cluster.sql("CREATE TABLE state AS SELECT 'backup'::text AS says", database)
    taken = dump(cluster.engine(database), tmp_path, options(FingerprintKind.COUNTS))
    cluster.sql("UPDATE state SET says = 'live'", database)
    return taken


def says(cluster: Cluster, name: str) -> str:
    return str(cluster.value("SELECT says FROM state", name))


def beside(cluster: Cluster, name: str) -> List[str]:
    return [one for one in cluster.databases() if one.startswith(name + "__")]


def test_a_replaced_database_is_kept_under_its_own_name_when_asked_for(
    cluster: Cluster, database: str, backup: Dump
) -> None:
    first = restore(cluster.engine(database), backup, replace=True, keep_replaced=True)
    second = restore(cluster.engine(database), backup, replace=True, keep_replaced=True)
    assert first == f"{database}__replaced_{backup.manifest.id}"
    assert second == f"{first}-2"
    assert [says(cluster, name) for name in (database, first, second)] == ["backup", "live", "backup"]


def test_an_existing_target_is_an_error_unless_replace_is_set(cluster: Cluster, database: str, backup: Dump) -> None:
    engine = cluster.engine(database)
    with pytest.raises(TargetExists, match=f'database "{database}" exists'):
        engine.check_restore(backup.manifest, False, None)
    with pytest.raises(TargetExists), engine.stage(backup.manifest, None, 1) as staging:
        transfer(backup.path, staging.load, engine)
        staging.loaded()
        staging.promote(False, False)
    assert says(cluster, database) == "live"
    assert beside(cluster, database) == []


def test_a_target_that_appears_during_the_restore_is_left_alone(cluster: Cluster, database: str, backup: Dump) -> None:
    engine = cluster.engine(database + "_new")
    with pytest.raises(TargetExists), engine.stage(backup.manifest, None, 1) as staging:
        transfer(backup.path, staging.load, engine)
        staging.loaded()
        with engine._access.administer("") as control:
            cluster.sql(f"CREATE DATABASE {database}_new")
            promotion.swap(engine._access, control, staging._staged, f"{database}_new", None, [])
    assert beside(cluster, database + "_new") == []


def test_an_abandoned_restore_leaves_nothing_behind_even_when_its_sessions_were_ended(
    cluster: Cluster, database: str, backup: Dump
) -> None:
    engine = cluster.engine(database)
    with pytest.raises(ValueError, match="enough"), engine.stage(backup.manifest, None, 1) as staging:
        assert beside(cluster, database) != []
        cluster.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fleet-backup'")
        raise ValueError("enough")
    assert staging.label
    assert beside(cluster, database) == []
    assert says(cluster, database) == "live"


def test_a_restore_goes_on_when_its_idle_session_was_ended(cluster: Cluster, database: str, backup: Dump) -> None:
    engine = cluster.engine(database)
    with engine.stage(backup.manifest, None, 1) as staging:
        transfer(backup.path, staging.load, engine)
        cluster.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fleet-backup'")
        staging.loaded()
        staging.promote(True, False)
    assert says(cluster, database) == "backup"


@pytest.fixture
def reconnecting(cluster: Cluster, database: str) -> Iterator[List[str]]:
    """Clients that connect again at once whenever they are thrown out, two of them to stay; what they saw go wrong."""
    over, wrong = threading.Event(), []
    seen = threading.Event()

    def client(turns: int) -> None:
        while not over.is_set():
            try:
                connection = cluster.connect(database)
                with connection.cursor() as cursor:
                    for _turn in range(turns):
                        if over.is_set():
                            break
                        cursor.execute("SELECT says, pg_sleep(0.01) FROM state")
                        seen.set()
                connection.close()
            except psycopg2.Error as error:
                expected = (
                    "terminating connection",
                    "closed the connection",
                    "does not exist",
                    "connection already closed",
                )
                if not any(text in str(error) for text in expected):
                    wrong.append(str(error))

    threads = [threading.Thread(target=client, args=(turns,)) for turns in (20, 20, 1 << 20, 1 << 20)]
    for thread in threads:
        thread.start()
    seen.wait()
    yield wrong
    over.set()
    for thread in threads:
        thread.join()


def test_clients_that_reconnect_all_the_time_do_not_prevent_the_swap(
    cluster: Cluster, database: str, backup: Dump, reconnecting: List[str]
) -> None:
    for number in range(5):
        cluster.sql("UPDATE state SET says = 'live'", database)
        kept = restore(cluster.engine(database), backup, replace=True, keep_replaced=number == 0)
        assert (kept is not None) == (number == 0)
        assert says(cluster, database) == "backup"
    assert reconnecting == []


#: A restore that tells on its standard output where it is, so that it can be killed there.
_RESTORER = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
from pathlib import Path
import pickle
from postgres import restore
engine, backup = pickle.loads(bytes.fromhex(sys.argv[2]))
from _engine.databases.postgresql import connection
plain = connection.Connection.run
def told(self, sql, parameters=None):
    swap = sql.startswith(("BEGIN; SET LOCAL", "ALTER DATABASE", "COMMIT", "DROP DATABASE"))
    if swap: print("before " + sql, flush=True); sys.stdin.readline()
    plain(self, sql, parameters)
    if swap: print("after " + sql, flush=True); sys.stdin.readline()
connection.Connection.run = told
restore(engine, backup, replace=True)
"""


def _run_until(point: int, engine: object, backup: Dump) -> bool:
    """Run a restore up to its point-th pause and kill it there. False when it ended before."""
    import json
    import pickle
    import subprocess

    process = subprocess.Popen(
        [sys.executable, "-c", _RESTORER, json.dumps(sys.path), pickle.dumps((engine, backup)).hex()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        for _number in range(point):
            if not process.stdout.readline():
                assert process.wait() == 0
                return False
            process.stdin.write(b"\n")
            process.stdin.flush()
        return bool(process.stdout.readline())
    finally:
        os.kill(process.pid, signal.SIGKILL) if process.poll() is None else None
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_a_restore_killed_at_any_point_of_the_swap_leaves_the_old_or_the_new_database_serving(
    cluster: Cluster, database: str, backup: Dump
) -> None:
    engine, seen, point = cluster.engine(database), [], 0
    while _run_until(point, engine, backup):
        # The server needs a moment to notice that the killed session is gone; until then, its locks make us wait.
        seen.append(says(cluster, database))
        assert cluster.value(f"SELECT datallowconn AND datconnlimit = -1 FROM pg_database WHERE datname = '{database}'")
        point += 1
    assert seen == sorted(seen, reverse=True)
    assert set(seen) == {"live", "backup"}
    assert point >= 8
    # The last run was not killed: it also removed what all others left.
    assert says(cluster, database) == "backup"
    assert beside(cluster, database) == []


def test_the_next_restore_removes_what_a_killed_one_left_and_nothing_else(
    cluster: Cluster, database: str, backup: Dump
) -> None:
    engine = cluster.engine(database)
    leftovers = [
        f"{database}__restoring_shop-20260101T000000Z-h3k7",
        f"{database}__discarded_shop-20260101T000000Z-h3k7-2",
    ]
    others = [
        f"{database}__restoring_mine",
        f"{database}__replaced_shop-20260101T000000Z-h3k7",
        f"{database}2__restoring_shop-20260101T000000Z-h3k7",
    ]
    for name in leftovers + others:
        cluster.sql(f'CREATE DATABASE "{name}"')
    with engine.stage(backup.manifest, None, 1):
        staged = promotion.beside(database, promotion.RESTORING, backup.manifest.id)
        assert sorted(beside(cluster, database)) == sorted([*others[:2], staged])
        assert others[2] in cluster.databases()
        # A second restore of the same backup finds the first one alive; one of another backup lets it live.
        with pytest.raises(Locked, match="already"), engine.stage(backup.manifest, None, 1):
            pass
        from dataclasses import replace

        with engine.stage(replace(backup.manifest, id="shop-20260102T000000Z-h3k7"), None, 1):
            assert staged in cluster.databases()


def test_a_session_that_cannot_be_ended_makes_the_swap_fail_with_its_name(
    cluster: Cluster, database: str, backup: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promotion, "_PATIENCE", 0.0)
    cluster.sql(
        "DO $$ BEGIN CREATE ROLE modest LOGIN CREATEDB PASSWORD 'x'; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    )
    cluster.sql(f"ALTER DATABASE {database} OWNER TO modest")
    cluster.sql("ALTER TABLE state OWNER TO modest", database)
    from dataclasses import replace

    engine = cluster.engine(database, user="modest", password="x")
    properties = {**backup.manifest.properties, "owner": "modest", "roles": ["modest"]}
    modest = replace(backup, manifest=replace(backup.manifest, properties=properties))
    stranger = cluster.connect(database)
    try:
        with pytest.raises(Locked, match=r"postgres \(no application name\)"):
            restore(engine, modest, replace=True, owner="modest")
        assert says(cluster, database) == "live"
    finally:
        stranger.close()
    restore(engine, modest, replace=True, owner="modest")
    assert says(cluster, database) == "backup"
    assert beside(cluster, database) == []


@pytest.mark.parametrize(
    ("make", "remove", "named"),
    [
        (
            "SELECT pg_create_logical_replication_slot('slot_of_test', 'pgoutput')",
            "SELECT pg_drop_replication_slot('slot_of_test')",
            "logical replication slot",
        ),
        (
            "CREATE SUBSCRIPTION sub_of_test CONNECTION 'host=nowhere.invalid' PUBLICATION p WITH (connect = false)",
            "ALTER SUBSCRIPTION sub_of_test SET (slot_name = NONE); DROP SUBSCRIPTION sub_of_test",
            "subscription",
        ),
        (
            "BEGIN; SELECT 1; PREPARE TRANSACTION 'gid_of_test'",
            "ROLLBACK PREPARED 'gid_of_test'",
            "prepared transaction",
        ),
    ],
)
def test_what_would_be_cut_off_by_a_swap_prevents_it(
    cluster: Cluster, database: str, backup: Dump, make: str, remove: str, named: str
) -> None:
    def each(statements: str) -> None:
        connection = cluster.connect(database)
        with connection.cursor() as cursor:
            for statement in statements.split("; "):
                cursor.execute(statement)
        connection.close()

    each(make)
    try:
        with pytest.raises(Refused, match=named):
            cluster.engine(database).check_restore(backup.manifest, True, None)
        with pytest.raises(Refused, match=named), cluster.engine(database).stage(backup.manifest, None, 1) as staging:
            staging.promote(True, False)
        assert says(cluster, database) == "live"
    finally:
        each(remove)


def test_the_contents_of_the_copy_can_be_asked_and_a_failing_question_is_a_mismatch(
    cluster: Cluster, database: str, backup: Dump
) -> None:
    engine = cluster.engine(database)
    with engine.stage(backup.manifest, None, 1) as staging:
        transfer(backup.path, staging.load, engine)
        staging.loaded()
        assert staging.query("SELECT says, 1 FROM state") == [("backup", 1)]
        for broken in ("SELECT absent FROM state", "DELETE FROM state", "SET work_mem = '5MB'"):
            with pytest.raises(Mismatch):
                staging.query(broken)
        assert staging.query("SELECT count(*) FROM state") == [(1,)]


@pytest.mark.parametrize("committed", [True, False])
def test_a_swap_whose_answer_is_lost_is_looked_up(
    cluster: Cluster, database: str, backup: Dump, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    plain = Connection.run

    def losing(self: Connection, sql: str, parameters: object = None) -> None:
        if sql == "COMMIT":
            if committed:
                plain(self, sql)
            cluster.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fleet-backup'"
            )
        plain(self, sql, parameters)  # type: ignore[arg-type]

    monkeypatch.setattr(Connection, "run", losing)
    if committed:
        assert restore(cluster.engine(database), backup, replace=True) is None
    else:
        with pytest.raises(Unreachable, match="session broke"):
            restore(cluster.engine(database), backup, replace=True)
    assert says(cluster, database) == ("backup" if committed else "live")
    assert beside(cluster, database) == []


def test_a_replaced_database_that_cannot_be_dropped_is_named_and_dropped_by_the_next_restore(
    cluster: Cluster, database: str, backup: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(_control: Connection, name: str) -> None:
        raise Locked(f"{name} is held")

    engine = cluster.engine(database)
    with monkeypatch.context() as patched:
        patched.setattr(promotion, "drop", refusing)
        with engine.stage(backup.manifest, None, 1) as staging:
            transfer(backup.path, staging.load, engine)
            staging.loaded()
            assert staging.promote(True, False) is None, "it is not kept"
        assert f'is left as "{database}__discarded_{backup.manifest.id}"' in staging.notes[-1]
        assert "The next restore drops it" in staging.notes[-1]
    assert says(cluster, database) == "backup"
    restore(engine, backup, replace=True)
    assert beside(cluster, database) == []


def test_the_database_from_which_others_are_managed_can_be_replaced_too(empty_cluster: Cluster, tmp_path: Path) -> None:
    empty_cluster.sql("CREATE TABLE state AS SELECT 'backup'::text AS says")
    engine = empty_cluster.engine("postgres")
    taken = dump(engine, tmp_path)
    empty_cluster.sql("UPDATE state SET says = 'live'")
    restore(engine, taken, replace=True)
    assert says(empty_cluster, "postgres") == "backup"


def test_a_signal_ends_a_long_question_at_once(cluster: Cluster, database: str, backup: Dump) -> None:
    with cluster.engine(database).stage(backup.manifest, None, 1) as staging:

        def interrupt() -> None:
            while not cluster.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"):
                pass
            os.kill(os.getpid(), signal.SIGINT)

        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        with pytest.raises(KeyboardInterrupt):
            staging.query("SELECT pg_sleep(600)")
        interrupting.join()
        assert staging.query("SELECT 1") == [(1,)]


def test_an_invalid_index_in_the_copy_is_a_mismatch(cluster: Cluster, database: str, backup: Dump) -> None:
    engine = cluster.engine(database)
    with engine.stage(backup.manifest, None, 1) as staging:
        transfer(backup.path, staging.load, engine)
        staging.loaded()
        staging.check_integrity()
        cluster.sql("INSERT INTO state VALUES ('backup')", staging._staged)
        with pytest.raises(psycopg2.Error):
            cluster.sql("CREATE UNIQUE INDEX CONCURRENTLY broken ON state (says)", staging._staged)
        with pytest.raises(Mismatch, match="broken"):
            staging.check_integrity()


def test_a_user_who_does_not_own_the_target_may_not_replace_it(cluster: Cluster, database: str, backup: Dump) -> None:
    cluster.sql(
        "DO $$ BEGIN CREATE ROLE nobody_much LOGIN PASSWORD 'x'; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    )
    engine = cluster.engine(database, user="nobody_much", password="x")
    with pytest.raises(PermissionDenied, match="may not replace"):
        engine.check_restore(backup.manifest, True, None)
    with pytest.raises(PermissionDenied, match="may not create databases"):
        cluster.engine(database + "_new", user="nobody_much", password="x").check_restore(backup.manifest, False, None)


def test_names_beside_a_database_fit_whatever_its_name_and_are_recognised(cluster: Cluster) -> None:
    backup = "shop-20260101T000000Z-h3k7"
    for name in ("shop", "x" * 63, "ü" * 31, "日" * 21, "a__restoring_b"):
        for purpose in (promotion.RESTORING, promotion.REPLACED, promotion.DISCARDED):
            made = promotion.beside(name, purpose, backup)
            assert len(made.encode()) <= 63
            assert promotion.is_beside(made, name, purpose)
            assert not promotion.is_beside(made, name + "y", purpose)
            assert not promotion.is_beside(name, name, purpose)
            assert made != promotion.beside(name, purpose, backup + "-2")
