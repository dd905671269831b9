# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who can read existing backups is changed by new key slots; artefacts and manifests keep every byte."""

from __future__ import annotations

import json
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Sequence

import pytest

from _engine import keyfile, keys
from _engine.backup import BackupResult
from _engine.errors import (
    BadInput,
    BadManifest,
    Damaged,
    EngineError,
    Locked,
    NoKey,
    PartlyDone,
    Refused,
    TargetExists,
    WrongKey,
)
from _engine.generations import read_generation, write_generation
from _engine.model import Encryption, EncryptionSettings, KeySlot, Level, Outcome, Place
from _engine.rekey import RekeyRequest, SlotChange, plan_rekeying, rekey
from _engine.repositories.local import LocalRepository
from _engine.sealed import sealed
from world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "world")
    made.make_shop(10)
    return made


class Person:
    def __init__(self) -> None:
        self.private = keys.generate().decode()
        self.public = keys.public_pem(self.private.encode()).decode()
        self.id = keys.recipient_id(self.public.encode())


def change(world: World, kind: SlotChange, **fields: object) -> RekeyRequest:
    request = RekeyRequest((world.repository,), kind, replace(world.encryption, recipients=()), "web1")
    return replace(request, **fields)


def can_read(world: World, person: str) -> bool:
    target = replace(world.database, name=str(world.path.with_name("copy.db")))
    encryption = EncryptionSettings(identities=(person,))
    try:
        world.restore(database=target, source_database=world.database.name, encryption=encryption, safety_backup=False)
    except (WrongKey, NoKey):
        return False
    return True


def artefacts(world: World) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in world.directory.glob("*.aes")}


def test_a_recipient_who_is_added_can_read_the_backups_that_exist(world: World) -> None:
    world.backup()
    before, colleague = artefacts(world), Person()
    assert not can_read(world, colleague.private)
    wanted = change(world, SlotChange.INCLUDE, encryption=replace(world.encryption, recipients=(colleague.public,)))
    (item,) = rekey(wanted, world.host)
    assert item.changed
    assert can_read(world, colleague.private)
    assert can_read(world, world.private)
    assert artefacts(world) == before
    assert not rekey(wanted, world.host)[0].changed


def test_a_rotation_leaves_slots_for_exactly_the_new_recipients(world: World) -> None:
    world.backup()
    before, successor = artefacts(world), Person()
    encryption = replace(world.encryption, recipients=(successor.public,))
    rekey(change(world, SlotChange.EXACTLY, encryption=encryption), world.host)
    assert (can_read(world, successor.private), can_read(world, world.private)) == (True, False)
    assert artefacts(world) == before


def test_a_slot_that_is_removed_opens_no_more_and_the_last_one_only_goes_when_asked(world: World) -> None:
    colleague = Person()
    world.backup(encryption=replace(world.encryption, recipients=(world.public, colleague.public)))
    rekey(change(world, SlotChange.EXCLUDE, slots=(colleague.id,)), world.host)
    assert (can_read(world, colleague.private), can_read(world, world.private)) == (False, True)
    own = keys.recipient_id(world.public.encode())
    with pytest.raises(Refused, match="nobody could ever read it again"):
        rekey(change(world, SlotChange.EXCLUDE, slots=(own,)), world.host)
    assert can_read(world, world.private)
    rekey(change(world, SlotChange.EXCLUDE, slots=(own,), destroy=True), world.host)
    assert not can_read(world, world.private)


def test_removing_a_slot_takes_a_key_that_shows_who_can_still_read(world: World) -> None:
    colleague = Person()
    world.backup(encryption=replace(world.encryption, recipients=(world.public, colleague.public)))
    before = {path: path.read_bytes() for path in world.directory.iterdir()}
    with pytest.raises(NoKey):
        rekey(change(world, SlotChange.EXCLUDE, slots=(colleague.id,), encryption=EncryptionSettings()), world.host)
    assert {path: path.read_bytes() for path in world.directory.iterdir()} == before


def plant_garbage(world: World, result: BackupResult, person: str) -> None:
    """Let the slot of a recipient open with nothing, as anyone can who can write to the repository."""

    def forge(document: dict[str, Any]) -> None:
        slots = [slot for slot in document["key_slots"] if slot["recipient"] != person]
        slots.append({**document["key_slots"][0], "recipient": person, "ciphertext": "A" * 64})
        document["key_slots"] = slots

    world.rewrite(world.slots(result.manifest.id), forge)


@pytest.mark.parametrize("kind", [SlotChange.EXACTLY, SlotChange.INCLUDE])
def test_garbage_under_the_id_of_a_recipient_is_replaced_by_a_slot_that_opens(world: World, kind: SlotChange) -> None:
    successor, before = Person(), artefacts(world)
    plant_garbage(world, world.backup(), successor.id)
    assert not before and not can_read_any(world, successor.private)
    encryption = replace(world.encryption, recipients=(successor.public,))
    (item,) = rekey(change(world, kind, encryption=encryption), world.host)
    assert item.changed
    assert can_read(world, successor.private)
    assert can_read(world, world.private) == (kind is SlotChange.INCLUDE)
    # Now with the successor's own key: what is there is known to open, and stays.
    encryption = EncryptionSettings(recipients=(successor.public,), identities=(successor.private,))
    assert not rekey(change(world, kind, encryption=encryption), world.host)[0].changed


def can_read_any(world: World, person: str) -> bool:
    try:
        return can_read(world, person)
    except Damaged:
        return False


def test_garbage_is_never_all_that_a_removal_leaves(world: World) -> None:
    own, colleague = keys.recipient_id(world.public.encode()), Person()
    plant_garbage(world, world.backup(), colleague.id)
    with pytest.raises(Refused, match="none of the others opens it"):
        rekey(change(world, SlotChange.EXCLUDE, slots=(own,)), world.host)
    assert can_read(world, world.private)


def test_a_changed_manifest_gets_no_new_slots(world: World) -> None:
    result = world.backup()
    world.rewrite(world.manifest(result), lambda document: document.update(tier="forged"))
    encryption = replace(world.encryption, recipients=(Person().public,))
    with pytest.raises(BadManifest, match="was altered"):
        rekey(change(world, SlotChange.INCLUDE, encryption=encryption), world.host)


def test_removing_a_slot_that_a_backup_does_not_have_changes_nothing_and_says_so(world: World) -> None:
    world.backup()
    stranger = Person().id
    (item,) = rekey(change(world, SlotChange.EXCLUDE, slots=(stranger, "")), world.host)
    assert not item.changed
    assert item.reason.startswith(f"It has no slot for {stranger}, passphrase; it is for ")


@pytest.mark.parametrize("slot", ["zzz", "9466f0dc", "/srv/keys/colleague.pem.pub", "9466F0DCE8F5EB1E", "a" * 65])
def test_what_is_no_id_withdraws_nothing_in_silence(world: World, slot: str) -> None:
    world.backup()
    with pytest.raises(BadInput, match="is neither a recipient's id"):
        plan_rekeying(change(world, SlotChange.EXCLUDE, slots=(slot,)), world.host)


def test_without_the_key_nobody_can_be_added_and_nothing_changes(world: World) -> None:
    world.backup()
    before = world.picture()
    stranger = Person()
    encryption = EncryptionSettings(recipients=(stranger.public,), identities=(stranger.private,))
    with pytest.raises(WrongKey):
        plan_rekeying(change(world, SlotChange.INCLUDE, encryption=encryption), world.host)
    assert world.picture() == before


def test_check_mode_changes_no_byte_and_predicts_the_run(world: World) -> None:
    world.backup()
    before = world.picture()
    encryption = replace(world.encryption, recipients=(Person().public,))
    (item,) = plan_rekeying(change(world, SlotChange.INCLUDE, encryption=encryption), world.host)
    assert item.changed
    assert world.picture() == before


def test_new_slots_leave_the_manifest_alone_and_take_the_place_of_the_old_ones(world: World) -> None:
    result = world.backup()
    manifest, before = world.manifest(result).read_bytes(), world.slots(result.manifest.id)
    encryption = replace(world.encryption, recipients=(Person().public,))
    rekey(change(world, SlotChange.INCLUDE, encryption=encryption), world.host)
    assert world.manifest(result).read_bytes() == manifest
    assert not before.exists() and world.slots(result.manifest.id).name == f"{result.manifest.id}.slots.2.json"
    last = json.loads((world.host.state / "audit.jsonl").read_text().splitlines()[-1])
    assert (last["action"], len(last["before"]), len(last["after"])) == ("rekey", 1, 2)
    assert world.verify().passed and world.catalogue().problems == ()


WRITTEN = datetime(2026, 3, 2, tzinfo=timezone.utc)


def plant(world: World, backup: str, number: int, slots: Sequence[KeySlot]) -> Path:
    """Put key slots beside a backup, as anyone can who can write to the repository."""
    path = world.directory / f"{backup}.slots.{number}.json"
    path.write_bytes(write_generation(backup, number, WRITTEN, slots))
    return path


def newest_slots(world: World, backup: str) -> tuple[KeySlot, ...]:
    path = world.slots(backup)
    return read_generation(path.name, path.read_bytes()).slots


@pytest.mark.parametrize("number", [2, 999_999_999])
@pytest.mark.parametrize("garbage", ["nothing", "garbage", "another key"])
def test_newer_slots_that_open_nothing_hide_none_that_do(world: World, garbage: str, number: int) -> None:
    backup = world.backup().manifest
    slots, origin = newest_slots(world, backup.id), backup.origin(backup.main.name)
    planted = plant(
        world,
        backup.id,
        number,
        {
            "nothing": (),
            "garbage": tuple(slot._replace(parameters={**slot.parameters, "ciphertext": "A" * 64}) for slot in slots),
            # Its data key is the forger's own: it takes a public key only.
            "another key": keys.wrap(bytes(32), origin, keys.load_recipients((world.public,)), None),
        }[garbage],
    )
    assert world.verify(level=Level.RESTORE).passed
    # Read with a key, and still not this host's: what opened it were the older ones.
    assert world.verify().checks[0].code == "unverifiable"
    successor = Person()
    wanted = change(world, SlotChange.INCLUDE, encryption=replace(world.encryption, recipients=(successor.public,)))
    assert rekey(wanted, world.host)[0].changed
    assert not planted.exists() and [path.name for path in world.directory.glob("*.slots.*")] == [
        f"{backup.id}.slots.{3 if number == 2 else 2}.json"
    ]
    assert can_read(world, successor.private) and can_read(world, world.private)


@pytest.mark.parametrize("kind", SlotChange)
def test_a_key_whose_withdrawal_was_cut_off_is_withdrawn_by_the_next_run(world: World, kind: SlotChange) -> None:
    colleague = Person()
    both = replace(world.encryption, recipients=(world.public, colleague.public))
    backup = world.backup(encryption=both).manifest
    older = newest_slots(world, backup.id)
    own = keys.recipient_id(world.public.encode())
    # The new slots were written, and then it was killed.
    plant(world, backup.id, 2, [slot for slot in older if slot.recipient == own])
    assert can_read(world, colleague.private)
    slots = (colleague.id,) if kind is SlotChange.EXCLUDE else ()
    wanted = change(world, kind, slots=slots, encryption=world.encryption)
    (item,) = rekey(wanted, world.host)
    assert item.changed and (can_read(world, colleague.private), can_read(world, world.private)) == (False, True)
    assert not rekey(wanted, world.host)[0].changed


def test_slots_that_are_planted_cannot_make_a_removal_the_end_of_a_backup(world: World) -> None:
    colleague = Person()
    both = replace(world.encryption, recipients=(world.public, colleague.public))
    backup = world.backup(encryption=both).manifest
    older = newest_slots(world, backup.id)
    plant(world, backup.id, 2, [slot._replace(parameters={}) for slot in older])
    rekey(change(world, SlotChange.EXCLUDE, slots=(colleague.id,)), world.host)
    assert (can_read(world, colleague.private), can_read(world, world.private)) == (False, True)


def test_every_slot_is_destroyed_without_a_key(world: World) -> None:
    backup = world.backup().manifest
    plant(world, backup.id, 2, newest_slots(world, backup.id))
    own = keys.recipient_id(world.public.encode())
    wanted = change(world, SlotChange.EXCLUDE, slots=(own,), destroy=True, encryption=EncryptionSettings())
    rekey(wanted, world.host)
    assert newest_slots(world, backup.id) == () and len(list(world.directory.glob("*.slots.*"))) == 1
    assert not can_read(world, world.private)
    assert rekey(replace(wanted, slots=(own,)), world.host)[0].reason.startswith("It has no slot for")


def test_more_generations_than_a_backup_can_have_are_named_and_the_newest_are_read(world: World) -> None:
    backup = world.backup().manifest.id
    slots = newest_slots(world, backup)
    for number in range(2, 9):
        plant(world, backup, number, ())
    assert world.catalogue().problems == () and can_read(world, world.private)
    plant(world, backup, 10, slots)
    (problem,) = world.catalogue().problems
    assert problem.name == f"{backup}.slots.1.json" and "has 9 generations of key slots" in problem.reason
    assert can_read(world, world.private)
    wanted = change(world, SlotChange.INCLUDE, encryption=replace(world.encryption, recipients=(Person().public,)))
    assert rekey(wanted, world.host)[0].changed
    assert [path.name for path in world.directory.glob("*.slots.*")] == [f"{backup}.slots.11.json"]
    assert world.catalogue().problems == ()


class Meanwhile(LocalRepository):
    """A repository in which somebody else gives a backup new slots, and removes the old ones or is about to."""

    def __init__(self, world: World, backup: str, removed: bool) -> None:
        super().__init__(world.root / "backups")
        self._world, self._backup, self._removed = world, backup, removed
        self._reads = 0

    def read(self, place: Place, name: str, limit: int) -> bytes:
        self._reads += 1
        if self._reads == 2 and self._removed:
            self._give()
            (self._world.directory / f"{self._backup}.slots.1.json").unlink()
        return super().read(place, name, limit)

    def store(self, place: Place, name: str, content: bytes) -> None:
        if not self._removed:
            self._give()
        super().store(place, name, content)

    def _give(self) -> None:
        plant(self._world, self._backup, 2, newest_slots(self._world, self._backup))


@pytest.mark.parametrize(("removed", "error"), [(True, Locked), (False, TargetExists)])
def test_two_that_change_the_same_slots_do_not_mix(world: World, removed: bool, error: type[EngineError]) -> None:
    backup = world.backup().manifest.id
    encryption = replace(world.encryption, recipients=(Person().public,))
    wanted = change(world, SlotChange.INCLUDE, encryption=encryption)
    with pytest.raises(error):
        rekey(replace(wanted, repositories=(Meanwhile(world, backup, removed),)), world.host)
    assert world.slots(backup).name == f"{backup}.slots.2.json" and can_read(world, world.private)
    assert {slot.recipient for slot in newest_slots(world, backup)} == {keys.recipient_id(world.public.encode())}
    assert rekey(wanted, world.host)[0].changed


@pytest.mark.parametrize("damage", ["missing", "cut", "a link", "another backup's"])
def test_a_backup_whose_slots_cannot_be_read_is_no_good_one_and_is_named(world: World, damage: str) -> None:
    other, backup = world.backup().manifest, world.backup().manifest
    path = world.slots(backup.id)
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[:-20])
    elif damage == "a link":
        path.symlink_to(world.slots(other.id))
    elif damage == "another backup's":
        shutil.copy(world.slots(other.id), path)
    catalogue = world.catalogue()
    assert [one.id for one in catalogue.good] == [other.id]
    assert catalogue.backups[-1].known_bad == "its key slots are missing"
    assert [problem.name for problem in catalogue.problems] == ([] if damage == "missing" else [path.name])
    (check,) = world.verify(backup=backup.id).checks
    assert check.outcome is Outcome.FAILED and "key slots are missing" in check.detail


def test_a_backup_without_slots_is_named_and_one_that_cannot_be_read_is_an_error(world: World) -> None:
    world.backup(encryption=EncryptionSettings(method=Encryption.AES256_CBC, passphrase="x"))
    wanted = change(world, SlotChange.INCLUDE, encryption=replace(world.encryption, recipients=(Person().public,)))
    assert "no key slots" in rekey(wanted, world.host)[0].reason
    result = world.backup()
    world.manifest(result).write_text("{")
    with pytest.raises(PartlyDone, match="key slots cannot be changed"):
        rekey(wanted, world.host)


def test_a_planted_or_damaged_backup_keeps_no_withdrawn_key_in_any_other_one(world: World) -> None:
    (world.root / "second").mkdir()
    second = LocalRepository(world.root / "second")
    both = (world.repository, second)
    made, damaged = world.backup(repositories=both), world.backup(repositories=both)
    # A copy under another id, as anyone can make who can write to the repository, and a manifest that is cut short.
    copy = f"{made.manifest.id[:-21]}20010101T000000Z-h3k7"
    document = json.loads(world.manifest(made).read_text().replace(made.manifest.id, copy))
    del document["sha256"]
    (world.directory / f"{copy}.manifest.json").write_bytes(sealed({**document, "started": "2001-01-01T00:00:00Z"}))
    shutil.copy(world.artefact(made), world.directory / document["artefacts"][0]["name"])
    world.manifest(damaged).write_text("{")
    successor = Person()
    wanted = replace(
        change(world, SlotChange.EXACTLY, encryption=replace(world.encryption, recipients=(successor.public,))),
        repositories=(LocalRepository(world.root / "missing"), *both),
    )
    for act, how in ((plan_rekeying, "would be"), (rekey, "are")):
        with pytest.raises(PartlyDone, match=f"The key slots of 3 backups {how} changed") as caught:
            act(wanted, world.host)
        assert f"{copy}, which was not written by this host:" in str(caught.value)
        assert f"{damaged.manifest.id}.manifest.json" in str(caught.value)
        assert f"{world.root}/missing does not exist" in str(caught.value)
    for repository, count in ((world.repository, 1), (second, 2)):
        slots = [one.key_slots for one in world.catalogue(repository).backups if one.id != copy]
        assert [{slot.recipient for slot in one} for one in slots] == [{successor.id}] * count


def test_options_that_make_no_sense_are_refused(world: World) -> None:
    with pytest.raises(BadInput, match="no slot to remove"):
        plan_rekeying(change(world, SlotChange.EXCLUDE), world.host)
    with pytest.raises(BadInput, match="no recipient"):
        plan_rekeying(change(world, SlotChange.EXACTLY), world.host)


def test_a_key_pair_is_made_once_and_nobody_else_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "ops.pem"
    assert keyfile.ensure(path, dry_run=True).changed
    assert not path.exists()
    made = keyfile.ensure(path, dry_run=False)
    assert (made.changed, stat.S_IMODE(path.stat().st_mode)) == (True, 0o600)
    assert made.public_path.read_text() == made.public
    again = keyfile.ensure(path, dry_run=False)
    assert (again.changed, again.recipient_id) == (False, made.recipient_id)


def test_a_key_that_others_can_read_or_whose_public_half_is_gone_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "ops.pem"
    made = keyfile.ensure(path, dry_run=False)
    path.chmod(0o644)
    made.public_path.unlink()
    assert keyfile.ensure(path, dry_run=True).changed
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert keyfile.ensure(path, dry_run=False).changed
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made.public_path.read_text() == made.public


def test_a_key_is_rotated_when_it_is_old_and_the_old_one_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "ops.pem"
    made = keyfile.ensure(path, dry_run=False)
    now = datetime.now(timezone.utc)
    assert not keyfile.rotate(path, timedelta(days=365), now, dry_run=False).changed
    later = now + timedelta(days=366)
    assert keyfile.rotate(path, timedelta(days=365), later, dry_run=True).changed
    assert path.read_text()
    rotated = keyfile.rotate(path, timedelta(days=365), later, dry_run=False)
    assert rotated.recipient_id != made.recipient_id
    assert rotated.previous is not None
    assert keys.public_pem(rotated.previous.read_bytes()).decode() == made.public
    assert keyfile.public_path(rotated.previous).read_text() == made.public


def test_of_many_that_make_a_key_pair_at_once_all_get_the_one_that_stays(tmp_path: Path) -> None:
    for attempt in range(20):
        path = tmp_path / f"{attempt}.pem"
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(keyfile.ensure, [path] * 4, [False] * 4))
        public = keys.public_pem(path.read_bytes()).decode()
        assert [pair.public for pair in made] == [public] * 4
        assert keyfile.public_path(path).read_text() == public
    assert [found.name for found in tmp_path.iterdir() if found.name.startswith(".")] == []


def test_a_key_is_destroyed_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "ops.pem"
    keyfile.ensure(path, dry_run=False)
    with pytest.raises(Refused, match="destroy"):
        keyfile.remove(path, destroy=False, dry_run=False)
    assert keyfile.remove(path, destroy=True, dry_run=True).changed
    assert path.exists()
    assert keyfile.remove(path, destroy=True, dry_run=False).changed
    assert list(tmp_path.iterdir()) == []
    assert not keyfile.remove(path, destroy=False, dry_run=False).changed


def test_a_place_for_a_key_that_is_none_is_explained(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="directory .* does not exist"):
        keyfile.ensure(tmp_path / "missing" / "ops.pem", dry_run=False)
    (tmp_path / "garbage.pem").write_text("garbage")
    with pytest.raises(EngineError):
        keyfile.ensure(tmp_path / "garbage.pem", dry_run=False)
    assert (tmp_path / "garbage.pem").read_text() == "garbage"
