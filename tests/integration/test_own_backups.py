# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host wrote is its own, and nothing that it only read: by the bytes of each manifest, and at every moment."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Callable, Iterator, Sequence

import pytest

from _engine import keys
from _engine.agent.console.facts import proof_of
from _engine.catalogue import read_place
from _engine.documents import repository_document
from _engine.errors import BadManifest, Locked, PartlyDone, Refused
from _engine.info import InfoRequest, inform
from _engine.model import Level, Place, Policy
from _engine.rekey import RekeyRequest, SlotChange, rekey
from _engine.repositories.base import Content
from _engine.repositories.local import LocalRepository
from _engine.rotate import RotateRequest, rotate
from planting import forge, ids, take
from world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path / "world")
    world.make_shop()
    return world


def test_to_read_a_backup_does_not_make_it_this_hosts_own(world: World) -> None:
    """Whoever has the public key writes backups that this host reads well."""
    true = take(world, 2)
    forged = forge(world, 2)
    assert world.verify(backup="all", level=Level.RESTORE).passed is False
    (rotation,) = world.rotate(Policy(last=1)).rotations
    assert [decision.backup.id for decision in rotation.removed] == true[:1]
    assert set(rotation.unknown) == set(forged)
    assert world.backup(max_age=timedelta(days=2)).changed


def test_a_host_that_only_reads_removes_nothing_until_it_adopts_what_is_there(world: World) -> None:
    made = take(world, 3)
    world.forget()
    assert world.verify(backup="all", level=Level.CONTENTS).passed
    assert world.rotate(Policy(last=1)).rotations[0].unknown == tuple(reversed(made))
    assert ids(world) == made
    world.restore(safety_backup=False)
    world.rotate(Policy(last=1), adopt=True)
    assert ids(world) == made[-1:]


def test_latest_is_never_silently_a_planted_backup(world: World) -> None:
    true = take(world, 2)
    forged = forge(world, 2)
    world.verify(backup=forged[1], level=Level.RESTORE)
    catalogue = read_place(world.host, world.repository, world.place)
    assert ([one.id for one in catalogue.good], [one.name for one in catalogue.problems]) == (
        true,
        [f"{forged[1]}.manifest.json"],
    )
    (info,) = inform(InfoRequest((world.repository,)), world.host).repositories
    told = {one["id"]: one["foreign"] for one in repository_document(info)["backups"]}
    assert told == {**dict.fromkeys(true, False), **dict.fromkeys(forged, True)}
    assert [proof_of(one).split(":")[0] for one in catalogue.backups] == ["unproven"] * 2 + ["FOREIGN"] * 2
    for before in (None, world.clock.moment):
        with pytest.raises(BadManifest, match=f"{forged[1]}.*was not written by this host.*{true[1]}"):
            world.restore(before=before)
    checks = world.verify(max_age=timedelta(days=3)).checks
    assert {(check.backup, check.code) for check in checks} == {("", "bad_manifest"), ("", "stale"), (true[1], None)}
    world.restore(backup=true[1], safety_backup=False)
    world.restore(backup=forged[1], safety_backup=False)


def test_a_repository_that_this_host_never_wrote_to_does_not_outdo_its_own(world: World) -> None:
    (true,) = take(world, 1)
    other = world.root / "other"
    other.mkdir()
    mine, world.repository = world.repository, LocalRepository(other)
    (forged,) = forge(world, 1)
    both = (mine, world.repository)
    with pytest.raises(Refused, match=f"{forged}.*was not written by this host.*{true}"):
        world.restore(repositories=both)
    assert world.restore(repositories=both, backup=true, safety_backup=False).plan.backup.own


def test_a_backup_whose_slots_were_changed_elsewhere_displaces_none(world: World) -> None:
    made = take(world, 3)
    for one in made[1:]:
        path = world.slots(one)
        world.rewrite(path, lambda document: document["key_slots"][0].update(ciphertext="AAAA"), forget=False)
    (rotation,) = world.rotate(Policy(last=1)).rotations
    assert (rotation.removed, set(rotation.unknown)) == ((), set(made[1:]))


def test_rekeying_makes_no_exchanged_manifest_this_hosts_own(world: World) -> None:
    made = take(world, 2)
    path = world.directory / f"{made[1]}.manifest.json"
    world.rewrite(path, lambda document: document.update(server_version="forged"), bind=True, forget=False)
    other = keys.public_pem(keys.generate()).decode()
    settings = replace(world.encryption, recipients=(other,))
    # The others get their slots; this one is not touched, and named: the key that was withdrawn may still open it.
    with pytest.raises(PartlyDone, match=f"slots of 1 backups are changed.*{made[1]}.manifest.json is not the one"):
        rekey(RekeyRequest((world.repository,), SlotChange.INCLUDE, settings, "web1"), world.host)
    catalogue = read_place(world.host, world.repository, world.place)
    assert [one.id for one in catalogue.backups] == made[:1]
    assert "changed or replaced" in catalogue.problems[0].reason


class Exchanging(LocalRepository):
    """A repository whose manifest another program exchanges after it was read so many times."""

    def __init__(self, world: World, backup: str, reads: int) -> None:
        super().__init__(world.root / "backups")
        self._world, self._name, self._reads = world, f"{backup}.manifest.json", reads

    def read_all(self, place: Place, names: Sequence[str], limit: int) -> Iterator[tuple[str, Content]]:
        listed = list(super().read_all(place, names, limit))
        self._reads -= self._name in names
        if not self._reads:
            change = {"server_version": "forged"}
            self._world.rewrite(self._world.directory / self._name, lambda it: it.update(change), forget=False)
        return iter(listed)


def test_what_was_exchanged_after_it_was_listed_is_neither_adopted_removed_nor_rekeyed(world: World) -> None:
    made = take(world, 2)
    files = {path: path.read_bytes() for path in world.directory.iterdir()}
    known = world.host.state / "known"
    settings = replace(world.encryption, recipients=(keys.public_pem(keys.generate()).decode(),))
    # The last reading of each is for what it is about to do.
    acts: list[tuple[int, Callable[[LocalRepository], object]]] = [
        (1, lambda there: rotate(RotateRequest((there,), "web1", Policy(last=1)), world.host)),
        (2, lambda there: rekey(RekeyRequest((there,), SlotChange.INCLUDE, settings, "web1"), world.host)),
        (1, lambda there: rotate(RotateRequest((there,), "web1", Policy(last=1), adopt=True), world.host)),
    ]
    for reads, act in acts:
        for path in world.directory.iterdir():
            path.unlink()
        for path, content in files.items():
            path.write_bytes(content)
        if act is acts[-1][1]:
            shutil.rmtree(known)
        rekeys = act is acts[1][1]
        with pytest.raises(PartlyDone if rekeys else Locked, match="was changed while this worked on it"):
            act(Exchanging(world, made[0], reads))
        assert '"server_version": "forged"' in (world.directory / f"{made[0]}.manifest.json").read_text()
        # Each backup is rekeyed for itself.
        assert world.slots(made[1]).name.endswith(".2.json") == rekeys
    # What was adopted is what was listed.
    (problem,) = read_place(world.host, world.repository, world.place).problems
    assert problem.name == f"{made[0]}.manifest.json" and "changed or replaced" in problem.reason
