# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A disk that is full, wherever it is and however little is missing: nothing is lost, and the error says which disk."""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator

import pytest

from _engine.errors import EngineError
from _engine.model import Level, Outcome
from injection import full
from world import World

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system of its own")

#: A small file system's size, and by how much the free space of two tries differs.
SIZE = 1 << 20
STEP = (4 if full() else 128) << 10


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """A file system in memory, of a megabyte, in a directory that exists."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=755", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def levels(disk: Path) -> Iterator[int]:
    """Fill a disk so that always a step less is free; how many bytes are."""
    filler = disk / ".lost+found"
    state = os.statvfs(disk)
    free = state.f_bavail * state.f_frsize
    for left in [*range(free, 0, -STEP), 0]:
        filler.unlink(missing_ok=True)
        with filler.open("wb") as file:
            state = os.statvfs(disk)
            file.write(bytes(max(0, state.f_bavail * state.f_frsize - left)))
        yield left
    filler.unlink()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    from postgres import make_scratch_account

    make_scratch_account()
    with tempfile.TemporaryDirectory() as directory:
        # The account that verifies passes through.
        os.chmod(directory, 0o755)
        made = World(Path(directory) / "world")
        (made.root / "tmp").mkdir(mode=0o755)
        monkeypatch.setenv("TMPDIR", str(made.root / "tmp"))
        yield made


def _expect_sound(world: World, known: list[str]) -> None:
    catalogue = world.catalogue()
    assert set(known) <= {backup.id for backup in catalogue.backups}
    assert [backup.known_bad for backup in catalogue.backups] == [None] * len(catalogue.backups)


def _ends(act: Callable[[], object]) -> bool:
    """Whether something ended well; an error of the engine is the only other end."""
    try:
        act()
    except EngineError as error:
        assert str(error).endswith((".", ")")), error
        return False
    return True


@pytest.mark.parametrize("where", ["backups", "state", "data"])
def test_a_backup_on_a_full_disk_is_whole_or_not_there(world: World, where: str) -> None:
    with small_disk(world.root / where if where != "state" else _made(world.root / "state")) as disk:
        world.make_shop(800)
        world.backup()
        known = [world.catalogue().backups[0].id]
        before, ended = world.orders(), []
        for _free in levels(disk):
            ended.append(_ends(world.backup))
            _expect_sound(world, known)
            assert world.orders() == before
            for backup in world.catalogue().backups[1:]:
                known = [*known, backup.id] if where != "backups" else known
                if where == "backups":
                    world.repository.remove_backup(
                        world.place, f"{backup.id}.manifest.json", [one.name for one in backup.manifest.artefacts]
                    )
        assert ended[0]
        assert where == "state" or not ended[-1]
        assert _ends(world.backup)
        hidden = [*world.root.joinpath("backups").rglob(".*"), *world.root.joinpath("data").glob(".*")]
        assert [path.name for path in hidden if path.name != ".lost+found"] == []
        assert world.verify(level=Level.CONTENTS).passed


def _made(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    return path


def test_a_restore_to_a_full_disk_leaves_the_old_database(world: World) -> None:
    with small_disk(world.root / "data") as disk:
        world.make_shop(800)
        restored, wanted = world.orders(), world.backup().manifest.id
        ended = []
        for _free in levels(disk):
            world.path.unlink()
            world.make_shop(10)
            old = world.orders()
            ended.append(_ends(lambda: world.restore(backup=wanted, safety_backup=False)))
            assert world.orders() == (restored if ended[-1] else old)
            assert [path.name for path in disk.iterdir() if ".restoring" in path.name] == []
        assert ended[0]
        assert not ended[-1]


def test_a_verification_on_a_full_disk_condemns_no_backup(world: World) -> None:
    world.make_shop(800)
    world.backup()
    with small_disk(world.root / "tmp") as disk:
        outcomes = []
        for _free in levels(disk):
            try:
                (check,) = world.verify(level=Level.RESTORE).checks
            except EngineError as error:
                assert str(error)
                outcomes.append(Outcome.UNVERIFIABLE)
            else:
                outcomes.append(check.outcome)
            assert world.catalogue().backups[0].known_bad is None
            assert [path.name for path in disk.iterdir() if path.name != ".lost+found"] == []
        assert outcomes[0] is Outcome.PASSED
        assert Outcome.FAILED not in outcomes
        assert outcomes[-1] is Outcome.UNVERIFIABLE
