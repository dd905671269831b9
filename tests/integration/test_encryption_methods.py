# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every method of encryption is undone by its stock tool, and every way to fail to decrypt is told from the others."""

from __future__ import annotations

import io
import os
import sqlite3
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Iterator

import pytest

from _engine import keys
from _engine.backup import BackupResult
from _engine.errors import BadInput, Damaged, NoKey, WrongKey
from _engine.model import Compression, Encryption, EncryptionSettings
from tink_library import reference
from world import World

PASSPHRASE = 'a "quoted" pässphrase $HOME'


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "world")
    made.make_shop()
    return made


@pytest.fixture
def gnupg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    home = Path("/tmp") / f"gnupg-{os.getpid()}-{tmp_path.name[:20]}"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    for name in ("ops@example.com", "other@example.com"):
        gpg("--passphrase", "", "--quick-gen-key", name, "default", "default", "never")
    yield home
    subprocess.run(["gpgconf", "--kill", "all"], check=True)
    subprocess.run(["rm", "-rf", str(home)], check=True)


def gpg(*arguments: str, feed: bytes = b"") -> bytes:
    command = ["gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", *arguments]
    return subprocess.run(command, input=feed, check=True, stdout=subprocess.PIPE).stdout


def settings(method: Encryption, **fields: object) -> EncryptionSettings:
    return EncryptionSettings(method=method, **fields)  # type: ignore[arg-type]


def unpacked(compressed: bytes, tmp_path: Path) -> int:
    """How many orders there are in what the stock tool made of an artefact."""
    plain = subprocess.run(["zstd", "-dc"], input=compressed, check=True, stdout=subprocess.PIPE).stdout
    path = tmp_path / "unpacked.db"
    path.write_bytes(plain)
    return int(sqlite3.connect(path).execute("SELECT count(*) FROM orders").fetchone()[0])


def restored(world: World, result: BackupResult, encryption: EncryptionSettings) -> int:
    target = replace(world.database, name=str(world.root / "data" / "restored.db"))
    world.restore(
        database=target,
        source_database=world.database.name,
        backup=result.manifest.id,
        encryption=encryption,
        safety_backup=False,
    )
    return len(world.orders(Path(target.name)))


def refused(world: World, result: BackupResult, encryption: EncryptionSettings) -> str:
    """The error class and message of a restore that must fail, which must leave nothing behind."""
    before = world.picture()
    target = replace(world.database, name=str(world.root / "data" / "restored.db"))
    try:
        world.restore(
            database=target,
            source_database=world.database.name,
            backup=result.manifest.id,
            encryption=encryption,
            safety_backup=False,
        )
    except (WrongKey, NoKey, Damaged, BadInput) as error:
        after = {name: what for name, what in world.picture().items() if not name.startswith("state")}
        assert after == {name: what for name, what in before.items() if not name.startswith("state")}
        return f"{type(error).__name__}: {error}"
    raise AssertionError("it was restored")


def test_gpg_to_recipients_is_undone_by_gpg(world: World, gnupg: Path, tmp_path: Path) -> None:
    public = gpg("--armor", "--export", "other@example.com").decode()
    encryption = settings(Encryption.GPG, recipients=("ops@example.com", public))
    result = world.backup(encryption=encryption)
    assert result.manifest.main.name.endswith(".db.zst.gpg")
    assert unpacked(gpg("--decrypt", str(world.artefact(result))), tmp_path) == 100
    assert restored(world, result, settings(Encryption.GPG)) == 100


def test_gpg_decrypts_with_private_keys_that_are_in_no_keyring(world: World, gnupg: Path, tmp_path: Path) -> None:
    private = gpg("--armor", "--export-secret-keys", "ops@example.com").decode()
    other = tmp_path / "other.asc"
    other.write_bytes(gpg("--armor", "--export-secret-keys", "other@example.com"))
    result = world.backup(encryption=settings(Encryption.GPG, recipients=("ops@example.com",)))
    subprocess.run(["gpgconf", "--kill", "all"], check=True)
    subprocess.run(["rm", "-rf", str(gnupg / "private-keys-v1.d")], check=True)
    assert "WrongKey" in refused(world, result, settings(Encryption.GPG))
    assert "WrongKey" in refused(world, result, settings(Encryption.GPG, identities=(str(other),)))
    assert "BadInput" in refused(world, result, settings(Encryption.GPG, identities=("/nonexistent.asc",)))
    assert restored(world, result, settings(Encryption.GPG, identities=(private,))) == 100
    assert not [path for path in Path("/dev/shm").iterdir() if path.name.startswith("fleet-backup-")]


def test_gpg_under_a_passphrase_is_undone_by_gpg(world: World, gnupg: Path, tmp_path: Path) -> None:
    result = world.backup(encryption=settings(Encryption.GPG, passphrase=PASSPHRASE))
    plain = gpg("--passphrase-fd", "0", "--decrypt", str(world.artefact(result)), feed=PASSPHRASE.encode() + b"\n")
    assert unpacked(plain, tmp_path) == 100
    assert restored(world, result, settings(Encryption.GPG, passphrase=PASSPHRASE)) == 100
    assert "WrongKey" in refused(world, result, settings(Encryption.GPG, passphrase="wrong"))
    assert "NoKey" in refused(world, result, settings(Encryption.GPG))


def test_gpg_to_a_recipient_it_does_not_know_is_refused_before_anything_is_written(world: World, gnupg: Path) -> None:
    with pytest.raises(BadInput, match='no public key for the recipient "nobody@example.com"'):
        world.backup(encryption=settings(Encryption.GPG, recipients=("nobody@example.com",)))
    assert world.files() == []


def age_key(tmp_path: Path, name: str) -> tuple[str, Path]:
    path = tmp_path / name
    subprocess.run(["age-keygen", "-o", str(path)], check=True, capture_output=True)
    return subprocess.run(
        ["age-keygen", "-y", str(path)], check=True, capture_output=True, text=True
    ).stdout.strip(), path


def test_age_to_recipients_is_undone_by_age(world: World, tmp_path: Path) -> None:
    ops, ops_key = age_key(tmp_path, "ops")
    other, other_key = age_key(tmp_path, "other")
    _third, third_key = age_key(tmp_path, "third")
    (tmp_path / "other.pub").write_text(other + "\n")
    result = world.backup(encryption=settings(Encryption.AGE, recipients=(ops, str(tmp_path / "other.pub"))))
    for key in (ops_key, other_key):
        command = ["age", "-d", "-i", str(key), str(world.artefact(result))]
        assert unpacked(subprocess.run(command, check=True, capture_output=True).stdout, tmp_path) == 100
        assert restored(world, result, settings(Encryption.AGE, identities=(key.read_text(),))) == 100
    assert "WrongKey" in refused(world, result, settings(Encryption.AGE, identities=(str(third_key),)))
    assert "NoKey" in refused(world, result, settings(Encryption.AGE))


def test_age_under_a_passphrase_comes_back(world: World) -> None:
    result = world.backup(encryption=settings(Encryption.AGE, passphrase=PASSPHRASE))
    assert world.artefact(result).read_bytes().startswith(b"age-encryption.org/v1\n-> scrypt ")
    assert restored(world, result, settings(Encryption.AGE, passphrase=PASSPHRASE)) == 100
    assert "WrongKey" in refused(world, result, settings(Encryption.AGE, passphrase="wrong"))
    assert "NoKey" in refused(world, result, settings(Encryption.AGE))


def test_age_to_no_recipient_is_refused(world: World) -> None:
    for recipients in (("age1nonsense",), ("/nonexistent.pub",)):
        with pytest.raises(BadInput, match="encryption.recipients"):
            world.backup(encryption=settings(Encryption.AGE, recipients=recipients))
    assert world.files() == []


def test_aes256_cbc_is_undone_by_openssl(world: World, tmp_path: Path) -> None:
    result = world.backup(encryption=settings(Encryption.AES256_CBC, passphrase=PASSPHRASE))
    command = [
        "openssl",
        "enc",
        "-d",
        "-aes-256-cbc",
        "-pbkdf2",
        "-iter",
        "600000",
        "-md",
        "sha256",
        "-pass",
        "stdin",
        "-in",
    ]
    done = subprocess.run(
        [*command, str(world.artefact(result))], input=PASSPHRASE.encode(), check=True, capture_output=True
    )
    assert unpacked(done.stdout, tmp_path) == 100
    assert restored(world, result, settings(Encryption.AES256_CBC, passphrase=PASSPHRASE)) == 100
    assert "NoKey" in refused(world, result, settings(Encryption.AES256_CBC))


@pytest.mark.parametrize("compression", list(Compression))
def test_aes256_cbc_with_a_wrong_passphrase_is_a_wrong_key_whatever_notices_first(
    world: World, compression: Compression
) -> None:
    encryption = settings(Encryption.AES256_CBC, passphrase=PASSPHRASE)
    result = world.backup(encryption=encryption, compression=compression)
    for attempt in range(3):
        assert "WrongKey" in refused(world, result, replace(encryption, passphrase=f"wrong {attempt}"))


def test_aes256_gcm_opens_for_each_recipient_alone_and_for_the_passphrase(world: World) -> None:
    second = keys.generate().decode()
    recipients = (world.public, keys.public_pem(second.encode()).decode())
    result = world.backup(encryption=settings(Encryption.AES256_GCM, recipients=recipients, passphrase=PASSPHRASE))
    for opens in ({"identities": (world.private,)}, {"identities": (second,)}, {"passphrase": PASSPHRASE}):
        assert restored(world, result, settings(Encryption.AES256_GCM, **opens)) == 100
    stranger = keys.generate().decode()
    assert "WrongKey" in refused(world, result, settings(Encryption.AES256_GCM, identities=(stranger,)))
    assert "WrongKey" in refused(world, result, settings(Encryption.AES256_GCM, passphrase="wrong"))
    assert "NoKey" in refused(world, result, settings(Encryption.AES256_GCM))


def test_aes256_gcm_opens_with_the_tink_library_and_the_unwrapped_key(world: World, tmp_path: Path) -> None:
    result = world.backup()
    name = result.manifest.main.name
    data_key = keys.unwrap(result.manifest.key_slots, name, keys.load_identities((world.private,)), None)
    stored = io.BytesIO(world.artefact(result).read_bytes())
    plain = reference(data_key).new_decrypting_stream(stored, name.encode()).read()
    assert unpacked(plain, tmp_path) == 100


def test_plain_backups_are_made_only_when_asked_for_by_name(world: World) -> None:
    with pytest.raises(BadInput, match="Only encryption.method none stores plain backups"):
        world.backup(encryption=EncryptionSettings())
    assert world.files() == []
    result = world.backup(encryption=settings(Encryption.NONE))
    assert result.manifest.main.name.endswith(".db.zst")
    assert restored(world, result, settings(Encryption.NONE)) == 100


@pytest.mark.parametrize(
    ("encryption", "message"),
    [
        (settings(Encryption.NONE, passphrase="x"), "method is none, but recipients or a passphrase are given"),
        (settings(Encryption.AES256_CBC, recipients=("x",)), "aes256-cbc knows no recipients"),
        (settings(Encryption.AES256_CBC), "aes256-cbc needs encryption.passphrase"),
        (settings(Encryption.AGE), "age needs encryption.recipients or encryption.passphrase"),
        (settings(Encryption.GPG), "gpg needs encryption.recipients or encryption.passphrase"),
        (settings(Encryption.AGE, recipients=("x",), passphrase="x"), "either recipients or a passphrase"),
        (settings(Encryption.AES256_CBC, passphrase="two\nlines"), "holds a line break"),
        (settings(Encryption.AGE, passphrase="Tr0ub\x15"), "control character"),
        (settings(Encryption.AGE, passphrase="x" * 1001), "longer than 1000 bytes"),
        (settings(Encryption.AES256_GCM, recipients=("/nonexistent.pub",)), "nonexistent.pub"),
    ],
)
def test_settings_that_cannot_encrypt_are_refused_before_anything_is_written(
    world: World, encryption: EncryptionSettings, message: str
) -> None:
    before = world.picture()
    with pytest.raises(Exception, match=message):
        world.backup(encryption=encryption)
    assert {n: w for n, w in world.picture().items() if not n.startswith("state")} == {
        n: w for n, w in before.items() if not n.startswith("state")
    }
