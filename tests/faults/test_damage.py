# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whatever happens to the bytes of a repository: what comes back is what was backed up, or an error that says why."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Callable

import pytest

from _engine.errors import EngineError
from _engine.model import Level, Outcome
from injection import full
from world import World

#: How many damages of each kind of each file.
ROUNDS = 200 if full() else 4


def _flip(content: bytes, chances: random.Random) -> bytes:
    at = chances.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << chances.randrange(8)]) + content[at + 1 :]


def _cut(content: bytes, chances: random.Random) -> bytes:
    return content[: chances.randrange(len(content))]


def _extend(content: bytes, chances: random.Random) -> bytes:
    return content + chances.randbytes(chances.choice((1, 16, 4096)))


def _overwrite(content: bytes, chances: random.Random) -> bytes:
    at, size = chances.randrange(len(content)), chances.choice((1, 16, 512))
    return content[:at] + chances.randbytes(size) + content[at + size :]


def _repeat(content: bytes, chances: random.Random) -> bytes:
    at = chances.randrange(len(content))
    return content[:at] + content[at // 2 :]


DAMAGES = (_flip, _cut, _extend, _overwrite, _repeat)
#: Which file of a backup is damaged, by the end of its name.
PARTS = (".aes", ".manifest.json", ".proof.*.json")


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "world")
    made.make_shop(200)
    made.backup()
    made.verify(level=Level.RESTORE)
    return made


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
@pytest.mark.parametrize("part", PARTS)
def test_damage_is_told_and_never_restored(
    world: World, part: str, damage: Callable[[bytes, random.Random], bytes], tmp_path: Path
) -> None:
    chances = random.Random(f"{part} {damage.__name__}")
    before, known = world.orders(), world.catalogue().backups[0].id
    sound = tmp_path / "sound"
    shutil.copytree(world.directory, sound)
    for _round in range(ROUNDS):
        shutil.rmtree(world.directory)
        shutil.copytree(sound, world.directory)
        (path,) = world.directory.glob(f"*{part}")
        path.write_bytes(damage(path.read_bytes(), chances))
        # Nothing of this may end in anything but an answer or an error of the engine.
        catalogue = world.catalogue()
        assert catalogue.backups or catalogue.problems
        checked = _outcomes(world, known)
        try:
            world.restore(backup=known, safety_backup=False)
        except EngineError as error:
            assert str(error)
            assert Outcome.PASSED not in checked
        assert world.orders() == before


def _outcomes(world: World, backup: str) -> set[Outcome]:
    """How verifications of the backup end, to the bytes and to the end of the stream."""
    found = set()
    for level in (Level.CHECKSUM, Level.CONTENTS):
        try:
            found |= {check.outcome for check in world.verify(backup=backup, level=level).checks}
        except EngineError as error:
            assert str(error)
    return found
