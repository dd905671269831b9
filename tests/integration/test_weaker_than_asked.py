# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Nothing weaker than asked for is restored, proven or counted, whatever a repository says of it."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from _engine.backup import BackupResult
from _engine.errors import Damaged, EngineError, WeakerEncryption, WrongKey
from _engine.model import Encryption, EncryptionSettings, Level, Outcome
from _engine.repositories.local import LocalRepository
from _engine.restore import plan_restore
from world import World

PLAIN = EncryptionSettings(method=Encryption.NONE)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A shop with a true backup, and a newer plain one that someone planted who can write to the repository."""
    made = World(tmp_path / "world")
    made.make_shop()
    made.backup()
    made.make_shop(7)
    made.backup(encryption=PLAIN)
    return made


def ids(world: World) -> list[str]:
    return [backup.id for backup in world.catalogue().backups]


def accepting(world: World, *methods: Encryption) -> EncryptionSettings:
    return replace(world.encryption, accepted=methods)


@pytest.mark.parametrize("wanted", ["latest", 1])
def test_a_planted_plain_backup_is_not_restored(world: World, wanted: str | int) -> None:
    name = wanted if isinstance(wanted, str) else ids(world)[wanted]
    before = world.path.read_bytes()
    for act in (world.restore, lambda **changes: plan_restore(world.restore_request(**changes), world.host)):
        with pytest.raises(WeakerEncryption, match=r"is not encrypted, and encryption.method asks for aes256-gcm"):
            act(backup=name)
    assert world.path.read_bytes() == before


def test_the_refusal_of_latest_names_the_option_and_the_newest_true_backup(world: World) -> None:
    with pytest.raises(WeakerEncryption) as caught:
        world.restore()
    assert "add none to accept_encryption" in str(caught.value)
    assert f"{ids(world)[0]}; name it in backup" in str(caught.value)
    world.restore(backup=ids(world)[0])
    assert len(world.orders()) == 100


@pytest.mark.parametrize("level", list(Level))
def test_a_planted_plain_backup_is_proven_at_no_level_and_not_condemned_either(world: World, level: Level) -> None:
    planted = ids(world)[1]
    (check,) = world.verify(backup=planted, level=level).checks
    assert (check.outcome, check.code) == (Outcome.UNVERIFIABLE, "weaker_encryption")
    (backup,) = (backup for backup in world.catalogue().backups if backup.id == planted)
    assert backup.proven(Level.CHECKSUM) is None
    assert backup.known_bad is None


def test_verifying_latest_fails_for_the_planted_one_and_still_verifies_the_true_one(world: World) -> None:
    result = world.verify(level=Level.CONTENTS)
    assert [(check.backup, check.code) for check in result.checks] == [
        ("", "weaker_encryption"),
        (ids(world)[0], None),
    ]
    assert not result.passed


def test_a_planted_backup_is_not_the_newest_one_for_max_age(world: World) -> None:
    world.clock.moment += timedelta(days=2)
    world.backup(encryption=PLAIN)
    codes = [check.code for check in world.verify(max_age=timedelta(hours=26)).checks]
    assert "stale" in codes


def test_a_planted_fresh_backup_does_not_make_a_new_one_needless(world: World) -> None:
    world.clock.moment += timedelta(days=2)
    world.backup(encryption=PLAIN)
    assert world.backup(max_age=timedelta(hours=24)).changed
    assert not world.backup(max_age=timedelta(hours=24)).changed


def test_a_method_that_is_accepted_is_restored_and_proven(world: World) -> None:
    accepted = accepting(world, Encryption.NONE)
    assert world.verify(encryption=accepted, level=Level.RESTORE).passed
    world.restore(encryption=accepted)
    assert len(world.orders()) == 107


def test_what_is_accepted_is_read_and_never_written(world: World) -> None:
    result = world.restore(encryption=accepting(world, Encryption.NONE))
    assert result.safety_backup
    (safety,) = (backup for backup in world.catalogue().backups if backup.id == result.safety_backup)
    assert safety.manifest.is_encrypted_with(Encryption.AES256_GCM)


def test_an_encrypted_backup_is_not_what_asks_for_a_plain_one(world: World) -> None:
    with pytest.raises(WeakerEncryption, match="is encrypted with aes256-gcm, and encryption.method asks for none"):
        world.restore(backup=ids(world)[0], encryption=PLAIN)


def test_a_weaker_artefact_beside_a_strong_one_is_refused(world: World) -> None:
    """Planted plain globals ran as superuser: the method of every artefact counts, not that of the database alone."""
    manifest = world.catalogue().backups[0].manifest
    (artefact,) = manifest.artefacts
    mixed = replace(manifest, artefacts=(artefact, artefact._replace(encryption=Encryption.NONE)))
    assert not world.encryption.accepts(mixed)


def test_another_repository_that_holds_the_true_backup_of_that_id_is_used(world: World) -> None:
    true, _planted = ids(world)
    first = LocalRepository(world.root / "first")
    place = world.root / "first" / world.place.path
    place.mkdir(parents=True)
    # The first repository has a plain backup under the id of the true one.
    for path in world.directory.glob(f"{true}.*"):
        (place / path.name).write_bytes(path.read_bytes())
    world.rewrite(place / f"{true}.manifest.json", lambda document: document["artefacts"][0].update(encryption="none"))
    result = world.restore(repositories=(first, world.repository), backup=true)
    assert result.plan.repository is world.repository
    assert any("is not encrypted" in warning for warning in result.plan.warnings)


# An artefact that is not what its manifest says.

PASSPHRASE = "correct horse battery"
GPG = EncryptionSettings(method=Encryption.GPG, passphrase=PASSPHRASE)


def gpg(*arguments: str, home: Path, content: bytes) -> bytes:
    command = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--pinentry-mode", "loopback"]
    try:
        done = subprocess.run([*command, *arguments], input=content, capture_output=True, check=True)
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)
    return done.stdout


def put_in_place(world: World, result: BackupResult, content: bytes) -> None:
    """Replace a backup's artefact, and let its manifest describe the new one."""
    world.artefact(result).write_bytes(content)
    facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    bound = result.manifest.is_encrypted_with(Encryption.AES256_GCM)
    world.rewrite(world.manifest(result), lambda document: document["artefacts"][0].update(facts), bind=bound)


@pytest.mark.parametrize("form", ["stored", "compressed", "stored before it", "stored behind it", "twice"])
def test_gpg_input_that_is_not_one_encrypted_message_is_refused(world: World, tmp_path: Path, form: str) -> None:
    result = world.backup(encryption=GPG)
    home = tmp_path / "gpg"
    home.mkdir(mode=0o700)
    plain = subprocess.run(["zstd", "-c", str(world.path)], capture_output=True, check=True).stdout
    level = "9" if form == "compressed" else "0"
    stored = gpg("--compress-algo", "zip", "--compress-level", level, "--store", home=home, content=plain)
    sealed = world.artefact(result).read_bytes()
    forms = {
        "stored": stored,
        "compressed": stored,
        "stored before it": stored + sealed,
        "stored behind it": sealed + stored,
        "twice": sealed * 2,
    }
    put_in_place(world, result, forms[form])
    with pytest.raises(Damaged, match="is not what gpg wrote"):
        world.restore(encryption=GPG, backup=result.manifest.id)
    (check,) = world.verify(encryption=GPG, backup=result.manifest.id, level=Level.CONTENTS).checks
    assert check.outcome is Outcome.FAILED


def test_gpg_must_say_that_it_has_decrypted_whatever_its_exit_status(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the check of the packets, which no message that was only stored passes, the status lines decide."""
    monkeypatch.setattr("_engine.cipher.EncryptedMessage", lambda _name: None)
    result = world.backup(encryption=GPG)
    home = tmp_path / "gpg"
    home.mkdir(mode=0o700)
    plain = subprocess.run(["zstd", "-c", str(world.path)], capture_output=True, check=True).stdout
    put_in_place(world, result, gpg("--store", home=home, content=plain))
    with pytest.raises(Damaged, match="is not what gpg wrote"):
        world.restore(encryption=GPG, backup=result.manifest.id)


@pytest.mark.parametrize("method", [Encryption.AGE, Encryption.AES256_CBC, Encryption.AES256_GCM])
def test_plain_bytes_under_the_name_of_a_method_are_refused(world: World, method: Encryption) -> None:
    encryption = EncryptionSettings(method=method, passphrase=PASSPHRASE)
    if method is Encryption.AES256_GCM:
        encryption = world.encryption
    result = world.backup(encryption=encryption)
    plain = subprocess.run(["zstd", "-c", str(world.path)], capture_output=True, check=True).stdout
    put_in_place(world, result, plain)
    before = world.path.read_bytes()
    with pytest.raises(EngineError) as caught:
        world.restore(encryption=encryption, backup=result.manifest.id)
    assert isinstance(caught.value, (Damaged, WrongKey)), caught.value
    assert world.path.read_bytes() == before
