# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who can read existing backups is changed in their manifests; the artefacts keep every byte."""

from __future__ import annotations

import json
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from _engine import keyfile, keys
from _engine.backup import BackupResult
from _engine.errors import BadInput, BadManifest, Damaged, EngineError, NoKey, PartlyDone, Refused, WrongKey
from _engine.manifest import sealed
from _engine.model import Encryption, EncryptionSettings
from _engine.rekey import RekeyRequest, SlotChange, plan_rekeying, rekey
from _engine.repositories.local import LocalRepository
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

    world.rewrite(world.manifest(result), forge)


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


def test_what_the_manifest_does_not_know_is_kept_and_the_change_is_audited(world: World) -> None:
    result = world.backup()

    def change_it(document: dict[str, Any]) -> None:
        document["from_the_future"] = {"a": 1}
        document["artefacts"][0]["from_the_future"] = [2]

    world.rewrite(world.manifest(result), change_it, bind=True)
    document = json.loads(world.manifest(result).read_text())
    encryption = replace(world.encryption, recipients=(Person().public,))
    rekey(change(world, SlotChange.INCLUDE, encryption=encryption), world.host)
    after = json.loads(world.manifest(result).read_text())
    assert len(after.pop("key_slots")) == len(document.pop("key_slots")) + 1
    assert after.pop("sha256") != document.pop("sha256")
    assert after == document
    last = json.loads((world.host.state / "audit.jsonl").read_text().splitlines()[-1])
    assert (last["action"], len(last["before"]), len(last["after"])) == ("rekey", 1, 2)


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
        slots = [one.manifest.key_slots for one in world.catalogue(repository).backups if one.id != copy]
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
