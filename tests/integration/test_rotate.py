# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rotating: only what the policy does not keep goes, in an order that a crash cannot turn into a lie."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path

import pytest

from _engine.errors import BadInput, PartlyDone, RepositoryUnusable
from _engine.model import Database, EngineName, Level, Policy
from _engine.names import make_proof_name
from _engine.repositories.local import LocalRepository
from _engine.rotate import RotateRequest, plan_rotation
from world import World

DELETING = ".deleting"


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "world")
    made.make_shop(10)
    return made


def ids(world: World) -> list[str]:
    return [backup.id for backup in world.catalogue().backups]


def take(world: World, count: int) -> list[str]:
    made = []
    for _number in range(count):
        made.append(world.backup().manifest.id)
        world.clock.moment += timedelta(hours=1)
    return made


def test_what_the_policy_does_not_keep_goes_with_all_its_files(world: World) -> None:
    made = take(world, 4)
    world.verify(backup="all")
    result = world.rotate(Policy(last=2))
    assert result.changed
    assert ids(world) == made[2:]
    assert len(world.files()) == 2 * len(["artefact", "slots", "manifest", "proof"])
    assert not world.rotate(Policy(last=2)).changed


def test_every_decision_has_its_reasons(world: World) -> None:
    take(world, 3)
    (rotation,) = world.rotate(Policy(last=1, daily=1)).rotations
    assert all(decision.reasons and all(decision.reasons) for decision in rotation.decisions)
    assert rotation.decisions[0].keep


def test_each_removal_is_in_the_audit_log(world: World) -> None:
    made = take(world, 3)
    world.rotate(Policy(last=1))
    lines = [json.loads(line) for line in (world.host.state / "audit.jsonl").read_text().splitlines()]
    removed = [line["id"] for line in lines if line["outcome"] == "removing"]
    assert removed == made[:2]


def test_check_mode_changes_no_byte_and_predicts_the_run(world: World) -> None:
    take(world, 4)
    before = world.picture()
    request = RotateRequest((world.repository,), "web1", Policy(last=1))
    planned = plan_rotation(request, world.host)
    assert world.picture() == before
    done = world.rotate(Policy(last=1))
    assert [d.backup.id for d in planned.rotations[0].removed] == [d.backup.id for d in done.rotations[0].removed]


def test_the_newest_backup_that_a_restore_proved_stays(world: World) -> None:
    made = take(world, 3)
    world.verify(backup=made[0], level=Level.RESTORE)
    world.rotate(Policy(last=1))
    assert ids(world) == [made[0], made[2]]


def test_a_bad_backup_does_not_take_the_place_of_a_good_one(world: World) -> None:
    made = take(world, 2)
    newest = world.directory / f"{made[1]}.db.zst.aes"
    newest.write_bytes(b"x" * newest.stat().st_size)
    world.verify()
    world.rotate(Policy(last=1))
    assert made[0] in ids(world)


def test_a_backup_whose_proofs_cannot_be_read_neither_counts_nor_goes(world: World) -> None:
    made = take(world, 3)
    world.verify(backup=made[0])
    (proof,) = world.proofs(made[0])
    os.truncate(proof, (64 << 20) + 1)
    catalogue = world.catalogue()
    assert "cannot be read" in (catalogue.backups[0].known_bad or "")
    assert [problem.name for problem in catalogue.problems] == [proof.name]
    (rotation,) = world.rotate(Policy(last=1)).rotations
    assert ids(world) == [made[0], made[2]]
    assert any("cannot be read" in reason for decision in rotation.decisions for reason in decision.reasons)


def test_safety_backups_take_the_place_of_no_regular_one(world: World) -> None:
    made = take(world, 2)
    safety = world.restore().safety_backup
    world.rotate(Policy(last=2))
    assert ids(world) == [*made, safety]


def test_nothing_goes_while_backups_are_stale(world: World) -> None:
    made = take(world, 3)
    world.clock.moment += timedelta(days=3)
    (rotation,) = world.rotate(Policy(last=1, max_age=timedelta(hours=26))).rotations
    assert ids(world) == made
    assert any("older than max_age" in reason for decision in rotation.decisions for reason in decision.reasons)


def test_all_databases_of_a_host_are_rotated_each_for_itself_and_no_other_hosts(world: World) -> None:
    made = take(world, 2)
    second = Database(EngineName.SQLITE, str(world.path.with_name("second.db")))
    world.path.with_name("second.db").write_bytes(world.path.read_bytes())
    others = [world.backup(database=second).manifest.id for _number in range(2)]
    foreign = [world.backup(source_host="web2").manifest.id for _number in range(2)]
    result = world.rotate(Policy(last=1))
    assert sorted(rotation.place.database for rotation in result.rotations) == sorted(
        backup_id.rsplit("-", 2)[0] for backup_id in (made[0], others[0])
    )
    names = world.files()
    for backup_id, there in ((made[0], False), (made[1], True), (others[0], False), (others[1], True)):
        assert (f"{backup_id}.manifest.json" in names) == there
    assert all(f"{backup_id}.manifest.json" in names for backup_id in foreign)


def test_an_engine_that_is_named_alone_leaves_the_others_alone(world: World) -> None:
    made = take(world, 3)
    assert world.rotate(Policy(last=1), engine="postgresql").rotations == ()
    assert ids(world) == made
    world.rotate(Policy(last=1), engine="sqlite")
    assert ids(world) == made[2:]


def test_a_purge_removes_all_backups_of_one_database_and_nothing_else(world: World) -> None:
    take(world, 2)
    world.verify(level=Level.RESTORE)
    second = Database(EngineName.SQLITE, str(world.path.with_name("second.db")))
    world.path.with_name("second.db").write_bytes(world.path.read_bytes())
    kept = world.backup(database=second).manifest.id
    result = world.rotate(None, database=world.database, purge=True)
    assert len(result.rotations[0].removed) == 2
    assert [name for name in world.files() if not name.startswith(kept)] == []


def test_a_purge_spares_no_backup_whose_manifest_is_broken_or_gone(world: World) -> None:
    made = take(world, 3)
    (world.directory / f"{made[0]}.manifest.json").write_text("{")
    (world.directory / f"{made[1]}.manifest.json").unlink()
    assert world.rotate(None, database=world.database, purge=True).changed
    assert world.files() == []
    assert not world.rotate(None, database=world.database, purge=True).changed


def test_leftovers_are_tidied_and_what_has_lost_its_manifest_is_left_alone_and_named(world: World) -> None:
    made = take(world, 2)
    (world.directory / ".x.partial").write_bytes(b"half")
    (world.directory / f"{made[0]}.manifest.json").unlink()
    (rotation,) = world.rotate(Policy(last=1)).rotations
    assert rotation.leftovers == (".x.partial",)
    assert [problem.name for problem in rotation.problems] == [f"{made[0]}.db.zst.aes"]
    assert f"{made[0]}.db.zst.aes" in world.files()


def test_each_repository_is_rotated_by_what_it_holds_itself(world: World) -> None:
    second = LocalRepository(world.root / "second")
    (world.root / "second").mkdir()
    take(world, 2)
    newest = world.backup(repositories=(second,)).manifest.id
    world.rotate(Policy(last=1), database=world.database)
    assert len(ids(world)) == 1
    assert [backup.id for backup in world.catalogue(second).backups] == [newest]


@pytest.mark.parametrize(
    ("policy", "changes", "message"),
    [
        (Policy(), {}, "policy is empty, and would keep nothing. Set at least one of keep_last"),
        (None, {}, "policy is empty"),
        (Policy(minimum_keep=5), {}, "policy is empty"),
        (Policy(last=1), {"purge": True}, "purge removes all backups, and a policy keeps some"),
        (None, {"purge": True}, "purge needs engine and database"),
        (Policy(last=1, timezone="Mars/Olympus"), {}, "Mars/Olympus"),
        (Policy(last=-2), {}, "last"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_and_removes_nothing(
    world: World, policy: Policy | None, changes: dict[str, object], message: str
) -> None:
    take(world, 2)
    before = world.files()
    with pytest.raises(BadInput, match=message):
        world.rotate(policy, **changes)
    assert world.files() == before


def second(world: World) -> LocalRepository:
    (world.root / "second").mkdir()
    return LocalRepository(world.root / "second")


def test_a_directory_that_poses_as_a_leftover_stops_neither_backups_nor_rotations(world: World) -> None:
    good = second(world)
    both = (world.repository, good)
    made = [world.backup(repositories=both).manifest.id for _number in range(3)]
    for name in (f".a{DELETING}", f".{made[0]}.manifest.json{DELETING}", f".{made[0]}.manifest.json.partial"):
        (world.directory / name).mkdir()
    # A mark as a crash leaves it, with what looks like one of its files.
    (world.directory / f".shop.db-20200101T000000Z-h3k7.manifest.json{DELETING}").touch()
    (world.directory / "shop.db-20200101T000000Z-h3k7.sqlite").mkdir()
    result = world.backup(repositories=both)
    assert set(result.repositories) == {world.repository.label, good.label}
    assert f".a{DELETING} is a link, directory or device" in " ".join(result.warnings)
    rotated = world.rotate(Policy(last=1), repositories=both)
    assert rotated.failures == ()
    assert [len(rotation.removed) for rotation in rotated.rotations] == [3, 3]
    assert f".a{DELETING}" in [problem.name for problem in rotated.rotations[0].problems]


def test_a_proof_that_is_a_directory_keeps_no_backup_from_being_removed(world: World) -> None:
    old, new = take(world, 2)
    name = make_proof_name(old, world.clock())
    (world.directory / name).mkdir()
    result = world.rotate(Policy(last=1), adopt=True)
    # Whether it is good is not known, so it stays; a purge removes it.
    assert ids(world) == [old, new]
    assert [problem.name for problem in result.rotations[0].problems] == [name] * 2
    with pytest.raises(PartlyDone, match=f"but not {name}"):
        world.rotate(None, purge=True, database=world.database)
    assert ids(world) == []
    assert world.files() == []


def test_a_place_or_repository_that_cannot_be_rotated_leaves_the_others_to_be_rotated(world: World) -> None:
    good = second(world)
    for _number in range(3):
        world.backup(repositories=(world.repository, good))
    world.directory.rename(world.root / "moved")
    world.directory.symlink_to(world.root / "moved")
    missing = LocalRepository(world.root / "missing")
    repositories = (world.repository, missing, good)
    planned = plan_rotation(RotateRequest(repositories, "web1", Policy(last=1), world.database), world.host)
    rotated = world.rotate(Policy(last=1), repositories=repositories, database=world.database)
    for result in (planned, rotated):
        assert [(one.repository, len(one.removed)) for one in result.rotations] == [(good.label, 2)]
        assert [type(failure) for failure in result.failures] == [RepositoryUnusable] * 2
    with pytest.raises(RepositoryUnusable, match="missing does not exist"):
        world.rotate(Policy(last=1), repositories=(missing,))
