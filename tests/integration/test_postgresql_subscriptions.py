# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Databases that a copy could harm: subscriptions, whose slot is the original's, and pg_cron, which exists once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Iterator

import pytest

from _engine import restore as restoring
from _engine.errors import Mismatch, NotFound
from _engine.model import Level, Outcome
from _engine.verify import Assertion
from postgres import running_cluster
from world import World

if TYPE_CHECKING:
    from postgres import Cluster

#: As the original has it: the slot is on a server that nothing here reaches.
FEED = """
CREATE TABLE t AS SELECT generate_series(1, 100) AS a;
CREATE SUBSCRIPTION "the feed" CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p
  WITH (connect = false, slot_name = 'feed_slot', enabled = false)
"""
SUBSCRIPTIONS = "SELECT subenabled, subslotname FROM pg_subscription JOIN pg_database d ON d.oid = subdbid"


@pytest.fixture
def world(tmp_path: Path, cluster: Cluster, database: str) -> Iterator[World]:
    made = World(tmp_path / "world")
    made.database = cluster.database(database)
    cluster.sql(FEED.partition(";")[0], database)
    cluster.sql(FEED.partition(";")[2], database)
    yield made
    for name in [name for name in cluster.databases() if name.startswith(database)]:
        if cluster.sql(f"{SUBSCRIPTIONS} WHERE datname = '{name}'"):
            cluster.sql('ALTER SUBSCRIPTION "the feed" SET (slot_name = NONE)', name)
            cluster.sql('DROP SUBSCRIPTION "the feed"', name)


def test_a_restored_subscription_is_disabled_and_detached_and_says_how_to_attach_it(
    world: World, cluster: Cluster, database: str
) -> None:
    world.backup()
    result = world.restore(database=cluster.database(f"{database}_copy"), source_database=database)
    assert cluster.sql(f"{SUBSCRIPTIONS} WHERE datname = '{database}_copy'") == [(False, None)]
    assert cluster.sql(f"{SUBSCRIPTIONS} WHERE datname = '{database}'") == [(False, "feed_slot")]
    (note,) = result.notes
    assert "SET (slot_name = 'feed_slot')" in note and note in result.warnings


def test_a_failed_restore_and_a_verification_leave_no_copy_with_a_subscription(
    world: World, cluster: Cluster, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.backup()
    before = cluster.databases()
    for scratch in ({}, {"scratch": cluster.as_scratch}):
        (check,) = world.verify(level=Level.RESTORE, **scratch).checks
        assert (check.outcome, check.detail) == (Outcome.PASSED, "")
        assert cluster.databases() == before

    def fail(*_arguments: object) -> None:
        raise Mismatch("it came back as something else")

    monkeypatch.setattr(restoring, "check_staged", fail)
    with pytest.raises(Mismatch):
        world.restore(database=cluster.database(f"{database}_copy"), source_database=database)
    assert cluster.databases() == before


def test_a_database_with_pg_cron_is_verified_and_its_restore_says_what_to_set(tmp_path: Path) -> None:
    with running_cluster("shared_preload_libraries=pg_cron", "cron.database_name=shop") as server:
        server.sql("CREATE DATABASE shop")
        server.sql("CREATE EXTENSION pg_cron", "shop")
        server.sql("CREATE TABLE ticks (a int)", "shop")
        server.sql("SELECT cron.schedule('* * * * *', 'INSERT INTO ticks VALUES (1)')", "shop")
        world = World(tmp_path / "world")
        world.database = server.database("shop")
        world.backup()
        (check,) = world.verify(level=Level.RESTORE, assertions=[Assertion("SELECT count(*) FROM cron.job", 1)]).checks
        assert (check.outcome, check.detail) == (Outcome.PASSED, "")
        with pytest.raises(
            NotFound, match="Set shared_preload_libraries = 'pg_cron' and cron.database_name = 'copy__r"
        ):
            world.restore(database=server.database("copy"), source_database="shop")
