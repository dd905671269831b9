# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an application commits while its database is replaced is in the safety backup or in the restored database."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Optional, Set

import psycopg2
import pytest

from _engine import safety
from _engine.errors import NoSpace, Refused
from world import World

if TYPE_CHECKING:
    from postgres import Cluster


@pytest.fixture
def world(tmp_path: Path, cluster: Cluster, database: str) -> World:
    made = World(tmp_path / "world")
    made.database = cluster.database(database)
    cluster.sql("CREATE TABLE log (n bigint); CREATE TABLE ballast AS SELECT generate_series(1, 50000) AS a", database)
    return made


class Application(threading.Thread):
    """Commits numbers one after the other, connects again when it is thrown out, and knows what was acknowledged."""

    def __init__(self, cluster: Cluster, database: str) -> None:
        super().__init__(daemon=True)
        self.acknowledged: Set[int] = set()
        self.over = threading.Event()
        self._cluster, self._database = cluster, database

    def run(self) -> None:
        number = 0
        while not self.over.is_set():
            try:
                connection = self._cluster.connect(self._database)
                with connection.cursor() as cursor:
                    while not self.over.is_set():
                        number += 1
                        cursor.execute("INSERT INTO log VALUES (%s)", [number])
                        self.acknowledged.add(number)
            except psycopg2.Error:
                continue


def numbers(cluster: Cluster, database: str) -> Set[int]:
    return {n for (n,) in cluster.sql("SELECT n FROM log", database)}


def test_no_acknowledged_commit_is_lost_between_the_safety_backup_and_the_swap(
    world: World, cluster: Cluster, database: str
) -> None:
    world.backup()
    applications = [Application(cluster, database) for _number in range(2)]
    for application in applications:
        application.start()
    try:
        result = world.restore()
        before_the_end = {n for application in applications for n in application.acknowledged}
    finally:
        for application in applications:
            application.over.set()
            application.join()
    assert result.safety_backup and result.failure is None and result.kept_as is None
    world.restore(database=cluster.database(f"{database}_saved"), source_database=database, backup=result.safety_backup)
    saved, served = numbers(cluster, f"{database}_saved"), numbers(cluster, database)
    assert len(saved) > 10 and before_the_end <= saved | served
    for application in applications:
        assert application.acknowledged <= saved | served
    assert [name for name in cluster.databases() if name.startswith(f"{database}__")] == []


def test_what_cannot_be_saved_is_kept_and_told(
    world: World, cluster: Cluster, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.backup()
    cluster.sql("INSERT INTO log VALUES (7)", database)

    def full(*_arguments: object) -> None:
        raise NoSpace("the repository is full.")

    monkeypatch.setattr(safety, "take_backup", full)
    result = world.restore()
    assert result.safety_backup is None and result.kept_as is not None
    assert result.failure is not None and result.failure.code == "partly_done"
    assert result.kept_as in str(result.failure) and "the repository is full." in str(result.failure)
    assert (numbers(cluster, database), numbers(cluster, result.kept_as)) == (set(), {7})


def test_what_shows_beforehand_that_it_cannot_be_saved_is_not_replaced(
    world: World, cluster: Cluster, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.backup()
    cluster.sql("INSERT INTO log VALUES (7)", database)

    def full(*_arguments: object) -> None:
        raise NoSpace("the repository is full.")

    monkeypatch.setattr(safety, "plan_backup", full)
    with pytest.raises(Refused, match="was not replaced, because the safety backup of it failed"):
        world.restore()
    assert numbers(cluster, database) == {7}


def test_a_replaced_database_survives_a_kill_before_it_was_saved(
    world: World, cluster: Cluster, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.backup()
    cluster.sql("INSERT INTO log VALUES (7)", database)
    found: Optional[str] = None

    def die(*_arguments: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(safety, "take_backup", die)
        with pytest.raises(SystemExit):
            world.restore()
    (found,) = [name for name in cluster.databases() if "__replaced_" in name and name.startswith(database)]
    # The next restore clears what killed ones left, and not this.
    world.restore()
    assert numbers(cluster, found) == {7}
