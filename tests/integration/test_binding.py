# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What belongs together is bound: no manifest of one backup serves another, and none is changed unnoticed."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import pytest

from _engine import keys
from _engine.catalogue import place_of
from _engine.errors import BadManifest, Damaged, EngineError, WrongKey
from _engine.manifest import read_manifest
from _engine.model import Encryption, EncryptionSettings, Level, Outcome
from _engine.rekey import RekeyRequest, SlotChange, rekey
from _engine.restore import plan_restore
from world import World

PASSPHRASE = "correct horse battery"
CBC = EncryptionSettings(method=Encryption.AES256_CBC, passphrase=PASSPHRASE)


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "world")
    made.make_shop()
    return made


def refused(world: World, kind: type[EngineError] | tuple[type[EngineError], ...], **changes: object) -> None:
    before = world.path.read_bytes()
    with pytest.raises(kind):
        plan_restore(world.restore_request(**changes), world.host)
    with pytest.raises(kind):
        world.restore(**changes)
    assert world.path.read_bytes() == before


def change(**fields: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: document.update(fields)


def first(part: str, **fields: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: document[part][0].update(fields)


#: What a forger may want a manifest to say, none of which shows by itself.
FORGERIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "another tier": change(tier="yearly"),
    "other labels": change(labels={"reason": "approved"}),
    "another time of its end": change(finished="2026-03-02T02:00:00Z"),
    "another version of the server": change(server_version="9.9"),
    "other tools": change(tool_versions={}),
    "no fingerprint": change(fingerprint=None),
    "fewer rows": lambda document: document["fingerprint"]["tables"]["orders"].update(rows=1),
    "other properties": change(properties={"mode": "0666"}),
    "marked as encrypted by itself": change(opaque=True),
    "other durations": change(durations={"dump": 1.0}),
    "another predecessor": change(previous={"id": "shop-20260228T020000Z-h3k7", "sha256": "d" * 64}),
    "a field that nobody knows": change(unknown=1),
    "more plain bytes": first("artefacts", plain_bytes=99_999),
    "another compression": first("artefacts", compression="none"),
    "no binding": change(binding=[]),
    "another binding": first("binding", hmac="0" * 64),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_no_field_of_a_manifest_changes_unnoticed(world: World, forgery: str) -> None:
    result = world.backup()
    world.rewrite(world.manifest(result), FORGERIES[forgery])
    refused(world, BadManifest)
    (check,) = world.verify(level=Level.CONTENTS).checks
    assert (check.outcome, check.code) == (Outcome.FAILED, "bad_manifest")


@pytest.mark.parametrize("forgery", FORGERIES)
def test_no_field_changes_unnoticed_under_a_passphrase(world: World, forgery: str) -> None:
    result = world.backup(encryption=CBC)
    world.rewrite(world.manifest(result), FORGERIES[forgery])
    refused(world, (WrongKey, BadManifest), encryption=CBC)
    (check,) = world.verify(level=Level.CONTENTS, encryption=CBC).checks
    assert check.outcome is not Outcome.PASSED


def test_an_artefact_of_cbc_that_was_changed_with_its_digest_is_refused(world: World) -> None:
    result = world.backup(encryption=CBC)
    content = bytearray(world.artefact(result).read_bytes())
    content[40] ^= 1
    world.artefact(result).write_bytes(bytes(content))
    refused_bytes = {"sha256": hashlib.sha256(content).hexdigest()}
    world.rewrite(world.manifest(result), lambda document: document["artefacts"][0].update(refused_bytes))
    refused(world, WrongKey, encryption=CBC)


def test_an_artefact_of_cbc_is_compared_with_its_digest_whatever_is_asked_for(world: World) -> None:
    result = world.backup(encryption=CBC)
    content = bytearray(world.artefact(result).read_bytes())
    content[40] ^= 1
    world.artefact(result).write_bytes(bytes(content))
    before = world.path.read_bytes()
    with pytest.raises(Damaged, match="its SHA-256 is"):
        world.restore(encryption=CBC, verify_checksum=False, safety_backup=False)
    assert world.path.read_bytes() == before


@pytest.mark.parametrize("bind", [False, True])
def test_a_backup_of_another_host_is_not_restored_as_one_of_this_host(world: World, bind: bool) -> None:
    """Not even by one who could bind the manifest: the slots and the stream are bound to the host too."""
    result = world.backup(source_host="web2")
    theirs = world.root / "backups" / place_of("web2", world.database).path
    shutil.move(str(theirs), str(world.directory))
    refused(world, EngineError)
    if bind:
        with pytest.raises(Damaged):
            world.rewrite(world.manifest(result), change(host="web1"), bind=True)
    world.rewrite(world.manifest(result), change(host="web1"))
    refused(world, Damaged)


def test_the_time_of_a_backup_is_the_one_in_its_id(world: World) -> None:
    """One flipped digit made a backup of ten years ago the newest, or the newest one the oldest."""
    result = world.backup()
    true = world.manifest(result).read_bytes()
    started = result.manifest.started
    for other in (started.replace(year=2016), started.replace(second=started.second + 1), started.replace(year=2036)):
        world.manifest(result).write_bytes(true)
        text = other.isoformat().replace("+00:00", "Z")
        world.rewrite(world.manifest(result), change(started=text))
        assert world.catalogue().backups == ()
        assert "started is not the time in the id" in world.catalogue().problems[0].reason
    world.manifest(result).write_bytes(true)
    moved = started.isoformat().replace("T02:", "T04:").replace("+00:00", "+02:00")
    world.rewrite(world.manifest(result), change(started=moved))
    assert len(world.catalogue().backups) == 1


def test_new_key_slots_leave_the_binding_true(world: World) -> None:
    result = world.backup()
    private = keys.generate().decode()
    recipient = keys.public_pem(private.encode()).decode()
    encryption = replace(world.encryption, recipients=(recipient,))
    rekey(RekeyRequest((world.repository,), SlotChange.EXACTLY, encryption, "web1"), world.host)
    successor = EncryptionSettings(recipients=(recipient,), identities=(private,))
    assert world.verify(level=Level.RESTORE, encryption=successor).passed
    manifest = read_manifest(world.manifest(result).read_bytes(), "m")
    assert manifest.binding == result.manifest.binding


@pytest.mark.parametrize("method", [Encryption.GPG, Encryption.NONE])
def test_a_method_without_a_secret_of_both_sides_binds_nothing(world: World, method: Encryption) -> None:
    passphrase = PASSPHRASE if method is Encryption.GPG else None
    result = world.backup(encryption=EncryptionSettings(method=method, passphrase=passphrase))
    assert result.manifest.binding == ()
