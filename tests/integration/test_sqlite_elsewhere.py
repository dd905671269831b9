# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A database that is open under another name: its commits lie in a log that is not beside the one backed up."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Iterator

import pytest

from _engine.databases import open_engine
from _engine.errors import Refused
from _engine.model import Database, EngineName
from _engine.restore import plan_restore
from sqlite_processes import engine_for, holding, manifest_of, options
from test_agent import Agent
from world import World

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file, which only root may")
COMMITS = ("PRAGMA journal_mode = WAL", "CREATE TABLE IF NOT EXISTS t (a)", "INSERT INTO t VALUES (1)")


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A database in WAL mode whose application is not running."""
    for name in ("host", "container"):
        (tmp_path / name).mkdir()
    path = tmp_path / "host" / "app.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (a)")
    return path


@contextmanager
def mounted(source: Path, target: Path) -> Iterator[Path]:
    target.touch()
    subprocess.run(["mount", "--bind", str(source), str(target)], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", "-l", str(target)], check=True)


def refused(path: Path, says: str) -> None:
    """As a verb has it, and in the process that works on it."""
    database = Database(EngineName.SQLITE, str(path))
    for engine in (open_engine(database), engine_for(path)):
        with pytest.raises(Refused, match=says):
            with engine.snapshot(options(lock_timeout=1)):
                pass


def test_a_database_with_a_second_hard_link_is_not_backed_up_and_not_replaced(host: Path, tmp_path: Path) -> None:
    other = tmp_path / "container" / "app.db"
    os.link(host, other)
    with holding(other, *COMMITS):
        refused(host, "has 2 hard links.*find -xdev -samefile")
        refused(other, "has 2 hard links")
    with pytest.raises(Refused, match="a restore would leave that one as it is"):
        open_engine(Database(EngineName.SQLITE, str(host))).check_restore(manifest_of(), True, None)
    with pytest.raises(Refused, match="has 2 hard links"):
        open_engine(Database(EngineName.SQLITE, str(host))).inspect()
    other.unlink()
    with engine_for(host).snapshot(options()) as snapshot:
        assert snapshot.fingerprint()


@as_root
def test_a_file_that_is_mounted_by_itself_is_not_backed_up_and_not_replaced(host: Path, tmp_path: Path) -> None:
    with mounted(host, tmp_path / "container" / "app with space.db") as target:
        with holding(host, *COMMITS):
            refused(target, "is a file that is mounted there by itself")
        with pytest.raises(Refused, match="cannot be replaced"):
            open_engine(Database(EngineName.SQLITE, str(target))).check_restore(manifest_of(), True, None)


@as_root
def test_a_dry_run_of_a_restore_says_what_would_keep_the_old_file(tmp_path: Path) -> None:
    world = World(tmp_path / "world")
    world.make_shop()
    world.backup()
    other = world.path.with_name("other.db")
    os.link(world.path, other)
    with pytest.raises(Refused, match="would leave that one as it is"):
        plan_restore(world.restore_request(), world.host)
    other.unlink()
    with mounted(world.path, world.path.with_name("mounted.db")) as target:
        request = world.restore_request(
            database=Database(EngineName.SQLITE, str(target)), source_database=str(world.path)
        )
        with pytest.raises(Refused, match="cannot be replaced"):
            plan_restore(request, world.host)


def test_a_deployment_is_told_what_its_backups_would_refuse(tmp_path: Path) -> None:
    """The playbook deploy ends with this command, and its ledger has what it says."""
    world = World(tmp_path / "world")
    world.make_shop()
    agent = Agent(world)
    agent.job("shop")
    agent.run("config", "check")
    os.link(world.path, world.path.with_name("other.db"))
    assert "shop.db has 2 hard links" in agent.run("config", "check", status=2)


def test_a_link_that_appears_while_a_restore_runs_stops_it_before_the_swap(host: Path, tmp_path: Path) -> None:
    before = host.read_bytes()
    with engine_for(host).stage(manifest_of(), None, 1) as staging:
        Path(str(staging.load)).write_bytes(before)
        os.link(host, tmp_path / "container" / "app.db")
        with pytest.raises(Refused, match="would leave that one as it is"):
            staging.promote(replace=True, keep_replaced=False)
    assert host.read_bytes() == before and host.stat().st_nlink == 2


#: What a container's runtime does with a file that is a volume: no other mount namespace sees it.
CONTAINED = """
import sqlite3, subprocess, sys
source, target = sys.argv[1:]
subprocess.run(["mount", "--bind", source, target], check=True)
connection = sqlite3.connect(target, isolation_level=None)
connection.execute("PRAGMA journal_mode = WAL")
connection.execute("INSERT INTO t VALUES (1)")
print("ready", flush=True)
sys.stdin.read()
"""


@as_root
def test_a_database_that_a_container_has_open_as_a_mounted_file_is_not_backed_up(host: Path, tmp_path: Path) -> None:
    target = tmp_path / "container" / "app.db"
    target.touch()
    command = ["unshare", "-m", sys.executable, "-c", CONTAINED, str(host), str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            assert sorted(os.listdir(host.parent)) == ["app.db"]
            refused(host, r"is open under another name, by python\S* \(process [0-9]+\)")
        finally:
            process.stdin.close()
            process.wait()


def test_who_opens_it_under_its_own_name_stands_in_no_way(host: Path) -> None:
    with holding(host, *COMMITS), engine_for(host).snapshot(options()) as snapshot:
        fingerprint = snapshot.fingerprint()
        assert fingerprint is not None
        assert fingerprint.tables["t"].rows == 1


def test_a_restore_that_was_killed_before_its_swap_left_no_other_name(tmp_path: Path) -> None:
    world = World(tmp_path / "world")
    world.make_shop()
    world.backup()
    os.link(world.path, world.path.with_name("shop.db.replaced-20260301T120000Z-abcd"))
    world.restore(safety_backup=False)
    assert sorted(os.listdir(world.path.parent)) == ["shop.db"]
