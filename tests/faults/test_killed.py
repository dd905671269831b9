# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Killed at any moment, a run leaves every earlier backup whole and lists no half one; the next run cleans up."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Callable, Iterator

import pytest

from _engine.model import Level, Policy
from _engine.state import running
from injection import full
from world import World

#: What changes the file system or makes a change durable, each a point at which to die.
CALLS = ("open", "fsync", "rename", "replace", "unlink", "link", "mkdir")


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "world")
    made.make_shop(5000)
    made.backup()
    return made


def in_a_child(act: Callable[[], object], until: Callable[[int], None]) -> int:
    """Run something in a process of its own, and see to its end; its wait status."""
    child = os.fork()
    if child == 0:
        # Whatever happens in here, pytest's own cleaning up must not run twice.
        try:
            # Measuring coverage, the tests have a handler of their own, which must not be what is tested.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.setpgid(0, 0)
            act()
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
    until(child)
    return os.waitpid(child, 0)[1]


def killed_at(number: int, name: str, act: Callable[[], object]) -> bool:
    """Run something that kills itself at the given call of a function of os; False when it ended before."""
    calls = 0

    def run() -> None:
        real = getattr(os, name)

        def counted(*arguments: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        setattr(os, name, counted)
        act()

    return os.WIFSIGNALED(in_a_child(run, lambda child: None))


def moments() -> Iterator[int]:
    """The calls at which to die: each of the first ones, and then some of the many that only read."""
    number = 1
    while number < 2000:
        yield number
        # In between, the other tests kill at the calls of all processes of a run.
        number += 1 + (number // 20 if full() else number)


def expect_whole(world: World, least: int) -> None:
    """Every backup that is listed is whole, and those that were there before still are."""
    catalogue = world.catalogue()
    assert [backup.known_bad for backup in catalogue.backups] == [None] * len(catalogue.backups)
    assert len(catalogue.backups) >= least
    assert world.verify(backup="all", level=Level.CHECKSUM).passed


def expect_clean(world: World) -> None:
    """After the next run nothing tells of the one that was killed."""
    assert world.catalogue().problems == ()
    assert [name for name in world.files() if name.startswith(".")] == []
    assert [path.name for path in world.path.parent.iterdir() if "backup" in path.name or "restor" in path.name] == []
    assert running(world.host) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_backup_that_is_killed_at_any_moment_costs_nothing(world: World, number: signal.Signals) -> None:
    chances = random.Random(20260301 + number)
    began = time.monotonic()
    world.backup()
    takes = time.monotonic() - began
    least = len(world.catalogue().backups)
    ended = []
    for _attempt in range(100 if full() else 16):
        delay = chances.uniform(0, takes * 1.3)

        def kill(child: int, delay: float = delay) -> None:
            time.sleep(delay)
            os.kill(child, number)

        ended.append(in_a_child(world.backup, kill))
        expect_whole(world, least)
        least = len(world.catalogue().backups)
        world.clock.moment = max(backup.time for backup in world.catalogue().backups)
    assert any(os.WIFSIGNALED(status) or os.WEXITSTATUS(status) for status in ended)
    world.backup()
    expect_clean(world)


def test_a_backup_that_is_asked_to_stop_leaves_nothing_behind_or_is_finished(world: World) -> None:
    data = settled(world)
    for attempt in range(12):
        before, known = world.files(), len(world.catalogue().backups)

        def stop(child: int, attempt: int = attempt) -> None:
            time.sleep(0.01 * attempt)
            os.kill(child, signal.SIGTERM)

        in_a_child(world.backup, stop)
        made = len(world.catalogue().backups) - known
        assert len(world.files()) == len(before) + 2 * made
        assert settled(world) == data
        world.clock.moment = max(backup.time for backup in world.catalogue().backups)


def settled(world: World) -> list[str]:
    """The files beside the database, without those that SQLite itself makes and removes."""
    return [name for name in sorted(p.name for p in world.path.parent.iterdir()) if not name.endswith(("-shm", "-wal"))]


@pytest.mark.parametrize("name", CALLS)
def test_a_backup_that_is_killed_at_each_step_costs_nothing(world: World, name: str) -> None:
    least = len(world.catalogue().backups)
    for number in moments():
        if not killed_at(number, name, world.backup):
            break
        expect_whole(world, least)
        least = len(world.catalogue().backups)
        world.clock.moment = max(backup.time for backup in world.catalogue().backups)
    else:
        pytest.fail("it never came to its end")
    world.backup()
    expect_clean(world)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("keep", [True, False])
def test_a_restore_that_is_killed_at_each_step_leaves_the_old_or_the_new_database(
    world: World, name: str, keep: bool
) -> None:
    restored, wanted = world.orders(), world.catalogue().backups[-1].id
    world.make_shop(10)
    old = world.orders()

    def restore() -> None:
        world.restore(backup=wanted, safety_backup=False, keep_replaced=keep)

    for number in moments():
        if not killed_at(number, name, restore):
            break
        # Whatever an interrupted swap left is put right before anything else is done with the database.
        world.backup(min_size_ratio=0.0)
        assert world.orders() in (old, restored)
    else:
        pytest.fail("it never came to its end")
    assert world.orders() == restored


@pytest.mark.parametrize("name", CALLS)
def test_a_rotation_that_is_killed_at_each_step_leaves_no_lie(world: World, name: str) -> None:
    for _number in range(3):
        world.backup()
    newest = world.catalogue().backups[-1].id
    for number in moments():
        if not killed_at(number, name, lambda: world.rotate(Policy(last=1))):
            break
        expect_whole(world, 1)
        assert world.catalogue().backups[-1].id == newest
    else:
        pytest.fail("it never came to its end")
    world.rotate(Policy(last=1))
    assert [backup.id for backup in world.catalogue().backups] == [newest]
    expect_clean(world)
