# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Nothing weaker than asked for is restored, proven or counted, whatever a repository says of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from _engine.errors import WeakerEncryption
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
    mixed = replace(manifest, artefacts=(artefact, replace(artefact, encryption=Encryption.NONE)))
    assert not world.encryption.accepts(mixed)


def test_another_repository_that_holds_the_true_backup_of_that_id_is_used(world: World, tmp_path: Path) -> None:
    true, planted = ids(world)
    other = World(tmp_path / "other")
    (other.directory).mkdir(parents=True)
    first = LocalRepository(world.root / "first")
    place = world.root / "first" / world.place.path
    place.mkdir(parents=True)
    # The first repository has a plain backup under the id of the true one.
    for path in world.directory.glob(f"{planted}.*"):
        text = path.name.replace(planted, true)
        content = path.read_bytes()
        (place / text).write_bytes(content.replace(planted.encode(), true.encode()))
    result = world.restore(repositories=(first, world.repository), backup=true)
    assert result.plan.repository is world.repository
    assert any("is not encrypted" in warning for warning in result.plan.warnings)
