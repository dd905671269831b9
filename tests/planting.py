# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Backups that a host takes, and those that an attacker plants beside them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, Callable

from _engine.catalogue import read_place
from _engine.state import Host
from world import World


def take(world: World, count: int, **changes: Any) -> list[str]:
    """Take backups, one a day; their ids."""
    made = []
    for _number in range(count):
        made.append(world.backup(**changes).manifest.id)
        world.clock.moment += timedelta(days=1)
    return made


def ids(world: World) -> list[str]:
    """The ids of all backups that are there, oldest first."""
    return [backup.id for backup in read_place(world.host, world.repository, world.place).backups]


def forge(world: World, count: int, change: Callable[[dict[str, Any]], Any] = lambda document: None) -> list[str]:
    """Let another host, which knows the public key, write backups, the way an attacker would."""
    own = world.host
    world.host = Host("attacker", world.root / "attacker", world.clock, world.clock.running)
    made = take(world, count)
    for one in made:
        world.rewrite(Path(world.repository.label) / world.place.path / f"{one}.manifest.json", change)
    world.host = own
    return made
