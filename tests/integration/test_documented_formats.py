# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The commands in docs/formats.md undo what is stored, word for word."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from _engine.backup import BackupResult
from _engine.crypto.signing import Signing
from _engine.model import Encryption, EncryptionSettings
from world import World

DOCUMENT = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
BLOCKS = dict(re.findall(r"```sh\n# ([a-z0-9-]+)\n(.*?)```", DOCUMENT, re.DOTALL))
BINDING = re.findall(r"```python\n# binding\n(.*?)```", DOCUMENT, re.DOTALL)[0]
SCRIPT = re.findall(r"```python\n# aes256-gcm\n(.*?)```", DOCUMENT, re.DOTALL)[0]
PASSPHRASE = "correct horse battery"


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "world")
    made.make_shop(1000)
    return made


def follow(world: World, block: str, result: BackupResult, **environment: Any) -> Path:
    """Run one block of commands as a reader would; the plain file that it makes."""
    out = world.root / "out.db"
    passphrase_file = world.root / "passphrase"
    passphrase_file.write_text(PASSPHRASE)
    variables = {
        "ARTEFACT": world.artefact(result),
        "MANIFEST": world.manifest(result),
        "OUT": out,
        "PASSPHRASE_FILE": passphrase_file,
        **environment,
    }
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", BLOCKS[block]],
        env={**os.environ, **{name: str(value) for name, value in variables.items()}},
        cwd=world.root,
        check=True,
        capture_output=True,
    )
    return out


def holds_the_orders(world: World, path: Path) -> bool:
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    return connection.execute("SELECT id, item FROM orders ORDER BY id").fetchall() == world.orders()


def test_every_block_is_tried() -> None:
    assert sorted(BLOCKS) == [
        "aes256-cbc",
        "aes256-gcm",
        "age",
        "binding",
        "checksum",
        "gpg",
        "gpg-passphrase",
        "postgresql",
        "signature",
        "sqlite",
    ]


def test_aes256_gcm_is_undone_without_this_project(world: World) -> None:
    result = world.backup()
    (world.root / "open.py").write_text(SCRIPT)
    (world.root / "key.pem").write_text(world.private)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    assert holds_the_orders(world, follow(world, "aes256-gcm", result, KEY=world.root / "key.pem", PATH=path))


def test_several_segments_of_aes256_gcm_are_undone_without_this_project(world: World) -> None:
    world.make_shop(40_000)
    result = world.backup()
    assert result.manifest.main.bytes > 2 << 20
    (world.root / "open.py").write_text(SCRIPT)
    (world.root / "key.pem").write_text(world.private)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    assert holds_the_orders(world, follow(world, "aes256-gcm", result, KEY=world.root / "key.pem", PATH=path))


def test_a_signature_is_checked_without_this_project(world: World) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(world.root / "key")], check=True)
    signers = world.root / "allowed_signers"
    signers.write_text(f'web1 namespaces="fleet.backup*" {(world.root / "key.pub").read_text()}')
    world.host = replace(world.host, signing=Signing(str(world.root / "key"), str(signers)))
    result = world.backup()
    follow(world, "signature", result, ALLOWED_SIGNERS=signers, HOST="web1")
    with pytest.raises(subprocess.CalledProcessError):
        follow(world, "signature", result, ALLOWED_SIGNERS=signers, HOST="web2")


def test_gpg_is_undone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Path(f"/tmp/gnupg-formats-{os.getpid()}")
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    try:
        make = ["gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "", "--quick-gen-key"]
        subprocess.run([*make, "ops@example.com", "default", "default", "never"], check=True)
        settings = EncryptionSettings(method=Encryption.GPG, recipients=("ops@example.com",))
        assert holds_the_orders(world, follow(world, "gpg", world.backup(encryption=settings)))
        (world.root / "out.db").unlink()
        settings = EncryptionSettings(method=Encryption.GPG, passphrase=PASSPHRASE)
        assert holds_the_orders(world, follow(world, "gpg-passphrase", world.backup(encryption=settings)))
    finally:
        subprocess.run(["gpgconf", "--kill", "all"], check=True)
        subprocess.run(["rm", "-rf", str(home)], check=True)


def test_age_is_undone(world: World) -> None:
    identity = world.root / "identity"
    subprocess.run(["age-keygen", "-o", str(identity)], check=True, capture_output=True)
    public = subprocess.run(["age-keygen", "-y", str(identity)], check=True, capture_output=True, text=True)
    settings = EncryptionSettings(method=Encryption.AGE, recipients=(public.stdout.strip(),))
    assert holds_the_orders(world, follow(world, "age", world.backup(encryption=settings), IDENTITY=identity))


def test_aes256_cbc_is_undone(world: World) -> None:
    settings = EncryptionSettings(method=Encryption.AES256_CBC, passphrase=PASSPHRASE)
    assert holds_the_orders(world, follow(world, "aes256-cbc", world.backup(encryption=settings)))


def test_the_binding_of_aes256_cbc_is_checked_and_finds_every_change(world: World) -> None:
    (world.root / "bound.py").write_text(BINDING)
    result = world.backup(encryption=EncryptionSettings(method=Encryption.AES256_CBC, passphrase=PASSPHRASE))
    follow(world, "binding", result)
    manifest, artefact = world.manifest(result).read_bytes(), world.artefact(result).read_bytes()
    world.manifest(result).write_bytes(manifest.replace(b'"host": "web1"', b'"host": "web2"'))
    with pytest.raises(subprocess.CalledProcessError):
        follow(world, "binding", result)
    world.manifest(result).write_bytes(manifest)
    world.artefact(result).write_bytes(artefact[:-1] + bytes([artefact[-1] ^ 1]))
    with pytest.raises(subprocess.CalledProcessError):
        follow(world, "binding", result)


def test_the_binding_of_aes256_gcm_is_checked_by_the_script_that_decrypts(world: World) -> None:
    result = world.backup()
    (world.root / "open.py").write_text(SCRIPT)
    (world.root / "key.pem").write_text(world.private)
    manifest = world.manifest(result).read_bytes()
    world.manifest(result).write_bytes(manifest.replace(b'"tier": null', b'"tier": "other"'))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with pytest.raises(subprocess.CalledProcessError):
        follow(world, "aes256-gcm", result, KEY=world.root / "key.pem", PATH=path)


def test_the_checksum_and_the_integrity_are_looked_at(world: World) -> None:
    result = world.backup(encryption=EncryptionSettings(method=Encryption.NONE))
    follow(world, "checksum", result)
    (world.root / "out.db").write_bytes(world.path.read_bytes())
    follow(world, "sqlite", result)
