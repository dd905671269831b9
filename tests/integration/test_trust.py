# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host relies on what it knows: nobody who can write to its repository has backups removed, or hides one."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from _engine.catalogue import read_place
from _engine.clock import odd_pause
from _engine.errors import (
    BadManifest,
    EngineError,
    NoSpace,
    PermissionDenied,
    Refused,
    Shrunk,
    TimedOut,
    Unverifiable,
)
from _engine.manifest import sealed
from _engine.memory import recall
from _engine.model import Level, Outcome, Policy, Proof
from _engine.repositories.local import LocalRepository
from _engine.rotate import RotateRequest, plan_rotation, rotate
from _engine.state import Host
from planting import forge, ids, take
from world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path / "world")
    world.make_shop()
    return world


def prove(world: World, backup: str, outcome: Outcome) -> None:
    """Write a proof beside a backup that nobody made."""
    world.prove(backup, Proof(Level.RESTORE, outcome, world.clock(), "web1", "said so"))


# Retention.


def test_forged_backups_with_forged_proofs_displace_no_true_one(world: World) -> None:
    true = take(world, 3)
    forged = forge(world, 2)
    for one in forged:
        prove(world, one, Outcome.PASSED)
    (rotation,) = world.rotate(Policy(last=2)).rotations
    assert [decision.backup.id for decision in rotation.removed] == true[:1]
    assert set(rotation.unknown) == set(forged)
    assert ids(world) == [*true[1:], *forged]


def test_a_forged_failure_has_no_good_backup_removed(world: World) -> None:
    true = take(world, 3)
    world.verify(backup=true[1], level=Level.RESTORE)
    for one in true:
        prove(world, one, Outcome.FAILED)
    world.rotate(Policy(last=1))
    assert ids(world) == true


def test_a_host_that_lost_its_memory_removes_nothing_until_it_adopts_what_is_there(world: World) -> None:
    made = take(world, 4)
    world.forget()
    (rotation,) = world.rotate(Policy(last=1)).rotations
    assert (rotation.removed, set(rotation.unknown)) == ((), set(made))
    before = world.picture()
    planned = plan_rotation(RotateRequest((world.repository,), "web1", Policy(last=1), adopt=True), world.host)
    assert world.picture() == before
    done = world.rotate(Policy(last=1), adopt=True)
    assert [one.backup.id for one in planned.rotations[0].removed] == [
        one.backup.id for one in done.rotations[0].removed
    ]
    assert ids(world) == made[-1:]
    take(world, 1)
    assert len(world.rotate(Policy(last=1)).rotations[0].removed) == 1


def test_a_backup_that_was_killed_after_it_appeared_is_known(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = take(world, 1)

    def killed(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("_engine.backup.audit", killed)
        with pytest.raises(KeyboardInterrupt):
            world.backup()
    world.rotate(Policy(last=1))
    assert len(ids(world)) == 1
    assert ids(world) != [first]


# One poisoned repository.


def test_a_forged_backup_stops_no_other_one(world: World) -> None:
    other = world.root / "other"
    other.mkdir()
    both = (world.repository, LocalRepository(other))
    forge(world, 1, lambda document: document["artefacts"][0].update(plain_bytes=60_000_000))
    result = world.backup(repositories=both, max_age=timedelta(days=30))
    assert result.changed
    assert len(result.repositories) == 2
    assert any("shrank" in warning for warning in result.warnings)
    assert world.backup(repositories=both).warnings == ()


def test_a_backup_much_smaller_than_one_that_the_host_knows_is_still_refused(world: World) -> None:
    world.make_shop(5000)
    take(world, 1)
    world.path.unlink()
    world.make_shop(1)
    with pytest.raises(Shrunk):
        world.backup()


def test_a_backup_is_taken_and_says_what_cannot_be_read_of_earlier_ones(world: World) -> None:
    first, _second = take(world, 2)
    (world.directory / f"{first}.manifest.json").write_bytes(b"{}")
    for max_age in (None, timedelta(days=30)):
        result = world.backup(max_age=max_age)
        assert (result.changed, any(first in warning for warning in result.warnings)) == (max_age is None, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs two accounts")
def test_a_link_in_the_path_of_one_repository_rotates_no_other_one(world: World) -> None:
    app, nas = world.root / "app", world.root / "nas"
    for path in (app / "data" / "backups", nas / "backups"):
        path.mkdir(parents=True)
    one, other = LocalRepository(app / "data" / "backups"), LocalRepository(nas / "backups")
    for _number in range(3):
        world.backup(repositories=(one, other))
    for path in (app, app / "data"):
        os.chown(path, 1, 1)
    # As the owner of app/ does it.
    (app / "data").rename(app / "was")
    (app / "data").symlink_to(nas)
    os.chown(app / "data", 1, 1, follow_symlinks=False)
    before = sorted(nas.rglob("*"))
    with pytest.raises(EngineError, match="a symbolic link that user 1 made"):
        rotate(RotateRequest((one,), "web1", Policy(last=1), database=world.database), world.host)
    assert sorted(nas.rglob("*")) == before


# What the host remembers.


def gone(path: Path) -> None:
    path.unlink()


def linked(path: Path) -> None:
    path.rename(path.with_suffix(".old"))
    path.symlink_to(path.with_suffix(".old"))


def replaced(path: Path) -> None:
    document = json.loads(path.read_text())
    del document["sha256"]
    path.write_bytes(sealed({**document, "labels": {"changed": "yes"}}))


def marked(path: Path) -> None:
    """Rename it as a removal does."""
    path.rename(path.with_name(f".{path.name}.deleting"))


def begun(path: Path) -> None:
    """Rename it as if it were being written."""
    path.rename(path.with_name(f".{path.name}.partial"))


@pytest.mark.parametrize("attack", [gone, marked, begun, linked, replaced])
def test_latest_is_not_silently_the_one_before(world: World, attack: Callable[[Path], None]) -> None:
    first, second = take(world, 2)
    path = world.directory / f"{second}.manifest.json"
    attack(path)
    catalogue = read_place(world.host, world.repository, world.place)
    assert path.name in [problem.name for problem in catalogue.problems]
    for before in (None, world.clock.moment):
        with pytest.raises(BadManifest, match=f"{second}.*{first}"):
            world.restore(before=before)
    assert not world.verify().passed
    world.restore(backup=first, safety_backup=False)


@pytest.mark.parametrize("attack", [marked, begun])
def test_what_another_program_marked_as_left_over_is_not_removed_by_this_host(
    world: World, attack: Callable[[Path], None]
) -> None:
    (first,) = take(world, 1)
    path = world.directory / f"{first}.manifest.json"
    before = sorted(world.directory.glob(f"*{first}*"))
    attack(path)
    take(world, 1)
    assert world.rotate(Policy(last=1)).rotations[0].leftovers == ()
    (mark,) = world.directory.glob(f".{first}*")
    mark.rename(path)
    assert sorted(world.directory.glob(f"*{first}*")) == before
    assert read_place(world.host, world.repository, world.place).problems == ()
    attack(path)
    world.rotate(Policy(last=1), adopt=True)
    assert list(world.directory.glob(f"*{first}*")) == []


def test_a_backup_that_vanished_from_the_middle_is_not_passed_over_by_before(world: World) -> None:
    first, second, third = take(world, 3)
    moment = world.clock.moment - timedelta(days=1, hours=1)
    gone(world.directory / f"{second}.manifest.json")
    with pytest.raises(BadManifest, match=f"{second}.*is gone.*{first}"):
        world.restore(before=moment)
    assert world.restore(safety_backup=False).plan.backup.id == third
    world.restore(before=moment - timedelta(days=1), safety_backup=False)


def test_a_newest_backup_that_this_host_removed_itself_is_not_missed(world: World) -> None:
    take(world, 2)
    world.rotate(None, database=world.database, purge=True)
    catalogue = read_place(world.host, world.repository, world.place)
    assert (catalogue.backups, catalogue.problems) == ((), ())


def test_going_on_without_a_backup_that_vanished_is_said_once(world: World) -> None:
    first, second = take(world, 2)
    for path in world.directory.glob(f"{second}*"):
        path.unlink()
    assert len(read_place(world.host, world.repository, world.place).problems) == 1
    world.rotate(Policy(last=5), adopt=True)
    assert read_place(world.host, world.repository, world.place).problems == ()
    assert ids(world) == [first]


def test_a_slot_that_was_changed_elsewhere_is_unverifiable_without_a_key(world: World) -> None:
    (made,) = take(world, 1)
    path = world.slots(made)
    world.rewrite(path, lambda document: document["key_slots"][0].update(ciphertext="AAAA"), forget=False)
    (check,) = world.verify().checks
    assert (check.outcome, check.code) == (Outcome.UNVERIFIABLE, "unverifiable")
    assert "key slots" in check.detail


def test_a_host_without_memory_compares_a_manifest_with_what_the_next_one_says_of_it(world: World) -> None:
    first, second = take(world, 2)
    world.forget()
    assert world.verify(backup="all").passed
    path = world.directory / f"{first}.manifest.json"
    world.rewrite(path, lambda document: document.update(server_version="forged"))
    (check,) = world.verify(backup=first).checks
    assert (check.outcome, check.code) == (Outcome.UNVERIFIABLE, "unverifiable")
    assert world.verify(backup=second).passed


def test_what_this_host_found_bad_stays_so_whatever_proofs_say(world: World) -> None:
    made = take(world, 2)
    artefact = next(world.directory.glob(f"{made[0]}.db*"))
    content = artefact.read_bytes()
    artefact.write_bytes(b"x" * len(content))
    assert not world.verify(backup=made[0]).passed
    for proof in world.proofs(made[0]):
        proof.unlink()
    assert read_place(world.host, world.repository, world.place).backups[0].known_bad
    prove(world, made[0], Outcome.PASSED)
    assert read_place(world.host, world.repository, world.place).backups[0].known_bad
    artefact.write_bytes(content)
    assert world.verify(backup=made[0]).passed
    assert read_place(world.host, world.repository, world.place).backups[0].known_bad is None


def test_samples_reach_each_of_the_hosts_own_backups_whatever_lies_in_the_repository(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [world.backup().manifest.id for _number in range(3)]
    # Proofs that seem to spare two of them until 2099, and a backup that another planted, older than all.
    proof = Proof(Level.RESTORE, Outcome.PASSED, datetime(2099, 1, 1, tzinfo=timezone.utc), "web1")
    for backup in made[1:]:
        world.prove(backup, proof)
    copy = f"{made[0][:-21]}20010101T000000Z-h3k7"
    document = json.loads((world.directory / f"{made[0]}.manifest.json").read_text().replace(made[0], copy))
    del document["sha256"]
    (world.directory / f"{copy}.manifest.json").write_bytes(sealed({**document, "started": "2001-01-01T00:00:00Z"}))
    with monkeypatch.context() as patched:
        # One that takes all the time that there is comes no sooner again than the others.
        patched.setattr("_engine.verify._verify_one", raise_timeout)
        with pytest.raises(TimedOut):
            world.verify(backup="all", sample=1)
    with monkeypatch.context() as patched:
        # One that cannot be noted is not verified, and costs the others nothing.
        patched.setattr("_engine.verify.remember_proof", raise_full)
        checks = world.verify(backup="all", sample=2).checks
        assert [check.code for check in checks if check.backup] == [Unverifiable.code] * 2
    sampled = [check.backup for _run in range(3) for check in world.verify(backup="all", sample=1).checks]
    assert sampled == [made[1], made[2], made[0]]
    for what in recall(world.host, world.repository, world.place).values():
        assert [proof.outcome for proof in what.proofs] == [Outcome.PASSED], "that it was begun is past"
    assert [check.backup for check in world.verify(backup="all").checks if check.backup] == [*made, copy]


def raise_full(*_arguments: object) -> None:
    raise NoSpace("The disk is full.")


def raise_timeout(*_arguments: object) -> None:
    raise TimedOut("The time is up.")


@pytest.mark.parametrize("content", [b"", b"\n", b'{"level": "restore", "outco', b"\xff" * 50 + b"\n"])
def test_a_proof_that_was_damaged_does_not_absolve(world: World, content: bytes) -> None:
    made = take(world, 3)
    world.verify(backup=made[0])
    world.proofs(made[0])[0].write_bytes(content)
    catalogue = read_place(world.host, world.repository, world.place)
    assert "proof" in (catalogue.backups[0].known_bad or "")
    assert len(catalogue.problems) == 1
    world.rotate(Policy(last=1))
    assert ids(world) == [made[0], made[2]]
    assert world.verify(backup=made[0], level=Level.RESTORE).passed
    assert read_place(world.host, world.repository, world.place).problems == ()


@pytest.mark.parametrize("make", ["link", "directory"])
def test_what_lies_in_the_place_of_proofs_does_not_absolve(world: World, make: str) -> None:
    made = take(world, 3)
    world.verify(backup=made[0])
    (proof,) = world.proofs(made[0])
    proof.unlink()
    proof.symlink_to("/dev/null") if make == "link" else proof.mkdir()
    catalogue = read_place(world.host, world.repository, world.place)
    assert f"its proof {proof.name} cannot be read" in (catalogue.backups[0].known_bad or "")
    world.rotate(Policy(last=1))
    assert ids(world) == [made[0], made[2]]


# The clock.


def test_a_clock_that_goes_forward_removes_nothing_until_somebody_says_that_it_is_right(world: World) -> None:
    take(world, 10)
    policy = Policy(within=timedelta(days=30))
    assert not world.rotate(policy).changed
    world.clock.jump += timedelta(days=5000)
    world.clock.moment += timedelta(days=5000)
    world.backup()
    with pytest.raises(Refused, match="clock of this host went forward by [0-9]+d.*trust_clock"):
        world.rotate(policy)
    assert len(ids(world)) == 11
    assert len(world.rotate(policy, trust_clock=True).rotations[0].removed) == 10
    world.clock.moment += timedelta(days=1)
    world.backup()
    assert len(world.rotate(Policy(last=1)).rotations[0].removed) == 1


def test_a_clock_that_was_wrong_when_the_machine_was_started_is_seen_by_the_pause(world: World) -> None:
    take(world, 10)
    world.clock.moment += timedelta(days=5000)
    world.backup()
    with pytest.raises(Refused, match="No backup was taken for the 5001d.*trust_clock"):
        world.rotate(Policy(within=timedelta(days=30)))
    assert len(ids(world)) == 11


def test_a_clock_ahead_of_the_store_removes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.host = Host("web1", world.host.state)
    for _number in range(2):
        world.backup()
    behind = datetime.now(timezone.utc) - timedelta(hours=2)
    with monkeypatch.context() as patch:
        patch.setattr(LocalRepository, "clock", lambda _self, _place: behind)
        with pytest.raises(Refused, match="ahead of the repository's own"):
            world.rotate(Policy(last=1))
    assert len(world.rotate(Policy(last=1)).rotations[0].removed) == 1


@pytest.mark.parametrize("content", ["", "[]", '{"boot": 1}'])
def test_a_damaged_note_of_the_clock_stops_rotation_and_no_backup(world: World, content: str) -> None:
    take(world, 2)
    (world.host.state / "clock.json").write_text(content)
    world.backup()
    with pytest.raises(PermissionDenied, match="clock.json cannot be read.*trust_clock"):
        world.rotate(Policy(last=1))
    assert len(ids(world)) == 3
    world.rotate(Policy(last=2), trust_clock=True)
    assert len(world.rotate(Policy(last=1)).rotations[0].removed) == 1


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(st.integers(1, 48), min_size=3, max_size=30), st.integers(1, 10_000))
def test_a_pause_is_odd_only_where_it_is_out_of_all_proportion(hours: list[int], leap: int) -> None:
    moment = datetime(2026, 1, 1, tzinfo=timezone.utc)
    times = [moment]
    for gap in hours:
        times.append(times[-1] + timedelta(hours=gap))
    regular = odd_pause(times, None)
    assert regular is None or regular > timedelta(days=2)
    after = [*times, times[-1] + timedelta(hours=leap)]
    if leap > 20 * max(hours) and leap > 48:
        assert odd_pause(after, None)
        assert odd_pause(after, after[-1]) is None
