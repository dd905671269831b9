# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an application commits while its database is replaced is in the safety backup or in the restored database."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Set

import pytest

from _engine import safety
from _engine.databases.sqlite.answers import read_kept
from _engine.errors import NoSpace
from _engine.host.child import ChildFailed
from world import World


class Application(threading.Thread):
    """Opens the database, commits a number and closes it, again and again; knows what was acknowledged."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.acknowledged: Set[int] = set()
        self.over = threading.Event()
        self._path = path

    def run(self) -> None:
        number = 0
        while not self.over.is_set():
            number += 1
            # A restore replaces only what nobody has open: there are moments between two of these.
            self.over.wait(0.02)
            try:
                connection = sqlite3.connect(f"file:{self._path}?mode=rw", uri=True, timeout=5)
                try:
                    connection.execute("INSERT INTO log VALUES (?)", (number,))
                    connection.commit()
                    self.acknowledged.add(number)
                finally:
                    connection.close()
            except sqlite3.Error:
                continue


def numbers(path: Path) -> Set[int]:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return {number for (number,) in connection.execute("SELECT n FROM log")}
    finally:
        connection.close()


@pytest.fixture(params=["DELETE", "WAL"])
def world(tmp_path: Path, request: pytest.FixtureRequest) -> World:
    made = World(tmp_path)
    made.make_shop()
    connection = sqlite3.connect(made.path)
    connection.execute(f"PRAGMA journal_mode={request.param}")
    connection.execute("CREATE TABLE log (n INTEGER)")
    connection.commit()
    connection.close()
    return made


def test_no_acknowledged_commit_is_lost_between_the_safety_backup_and_the_swap(world: World) -> None:
    world.backup()
    application = Application(world.path)
    application.start()
    try:
        result = world.restore()
    finally:
        application.over.set()
        application.join()
    assert result.safety_backup and result.failure is None and result.kept_as is None
    served = numbers(world.path)
    world.path.unlink()
    world.restore(backup=result.safety_backup, safety_backup=False)
    saved = numbers(world.path)
    assert saved and application.acknowledged <= saved | served
    assert [name for name in world.path.parent.iterdir() if ".replaced-" in name.name] == []


def test_what_cannot_be_saved_is_kept_and_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.backup()
    connection = sqlite3.connect(world.path)
    connection.execute("INSERT INTO log VALUES (7)")
    connection.commit()
    connection.close()

    def full(*_arguments: object) -> None:
        raise NoSpace("the repository is full.")

    monkeypatch.setattr(safety, "take_backup", full)
    result = world.restore()
    assert result.failure is not None and "the repository is full" in str(result.failure)
    assert result.kept_as is not None and result.kept_as in str(result.failure)
    assert numbers(Path(result.kept_as)) == {7} and numbers(world.path) == set()


@pytest.mark.parametrize("said", ["../other.db", "/root/secret.db", "other.db", "shop.db.replaced-1/../x", 7, ["x"]])
def test_a_child_names_no_other_file_than_the_replaced_one(said: object) -> None:
    with pytest.raises(ChildFailed):
        read_kept(said, "shop.db")
    assert read_kept("shop.db.replaced-20260301T120000Z-ab12", "shop.db")
