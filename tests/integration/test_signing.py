# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where signatures are required, nothing counts but what a signer of this host wrote, and only as long as it may."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Callable

import pytest

from _engine import keys
from _engine.catalogue import Catalogue, read_place
from _engine.crypto.signing import UNSIGNED, Signing
from _engine.errors import BadInput, BadManifest, EngineError, Refused
from _engine.generations import write_generation
from _engine.model import Level, Outcome, Policy, Proof
from _engine.names import stamp
from _engine.rekey import RekeyRequest, SlotChange, rekey
from _engine.repositories import local
from _engine.repositories.local import LocalRepository
from planting import take
from world import World


class Signer:
    """A key pair as ssh-keygen makes it."""

    def __init__(self, directory: Path, name: str) -> None:
        self.path = directory / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.path)], check=True)
        self.public = self.path.with_suffix(".pub").read_text().strip()

    def line(self, principals: str, namespaces: str = "fleet.backup*", more: str = "") -> str:
        return f'{principals} namespaces="{namespaces}"{more} {self.public}\n'


class Signed:
    """A world whose host signs, and believes signatures only."""

    def __init__(self, root: Path) -> None:
        self.world = World(root / "world")
        self.world.make_shop(10)
        self.root = root
        self.own, self.other = Signer(root, "web1"), Signer(root, "web2")
        self.signers = root / "allowed_signers"
        self.allow(self.own.line("web1") + self.other.line("web2"))

    def allow(self, lines: str) -> None:
        self.signers.write_text(lines)
        self.sign_with(self.own.path)

    def sign_with(self, key: Path | None, required: bool | None = None) -> None:
        """Let the host sign with a key, and read the file of allowed signers anew."""
        signing = Signing(str(key) if key else None, str(self.signers), required)
        self.world.host = replace(self.world.host, signing=signing)

    def catalogue(self) -> Catalogue:
        return read_place(self.world.host, self.world.repository, self.world.place)

    def file(self, backup: str, suffix: str = ".manifest.json") -> Path:
        return self.world.directory / f"{backup}{suffix}"

    def forge(self, signing: Signing = UNSIGNED) -> str:
        """Let somebody else who can write the repository take a backup as this host; its id."""
        before = self.world.host
        self.world.host = replace(before, state=self.root / "forger", signing=signing)
        made = self.world.backup(accept_source=True).manifest.id
        self.world.host = before
        return made


@pytest.fixture
def signed(tmp_path: Path) -> Signed:
    return Signed(tmp_path)


def test_the_stock_tool_says_who_signed_what(signed: Signed) -> None:
    backup = signed.world.backup().manifest.id
    signed.world.verify()
    (proof,) = signed.world.proofs(backup)
    names = {
        "fleet.backup": signed.file(backup),
        "fleet.backup/slots": signed.file(backup, ".slots.1.json"),
        "fleet.backup/proof": proof,
    }
    for namespace, path in names.items():
        for file, right in ((path, True), (signed.world.path, False)):
            command = ["ssh-keygen", "-Y", "verify", "-f", str(signed.signers), "-I", "web1", "-n", namespace]
            with file.open("rb") as content:
                done = subprocess.run([*command, "-s", f"{path}.sig"], stdin=content, check=False, capture_output=True)
            assert (done.returncode == 0) == right, done.stdout
    (listed,) = signed.catalogue().backups
    assert (listed.id, len(listed.proofs), len(listed.generations)) == (backup, 1, 1)
    assert signed.catalogue().problems == ()


#: What others can do with a signed backup, or beside it, by the file that is named for it.
FORGERIES: dict[str, Callable[[Signed, str], Path]] = {}


def forgery(act: Callable[[Signed, str], Path]) -> Callable[[Signed, str], Path]:
    FORGERIES[act.__name__] = act
    return act


@forgery
def unsigned(signed: Signed, backup: str) -> Path:
    signed.file(backup, ".manifest.json.sig").unlink()
    return signed.file(backup)


@forgery
def signed_by_another_host(signed: Signed, backup: str) -> Path:
    return signed.file(signed.forge(Signing(str(signed.other.path))))


@forgery
def signed_by_nobody_known(signed: Signed, backup: str) -> Path:
    return signed.file(signed.forge(Signing(str(Signer(signed.root, "stranger").path))))


@forgery
def edited(signed: Signed, backup: str) -> Path:
    signed.world.rewrite(signed.file(backup), lambda document: document.update(tier="x"), bind=True, forget=False)
    return signed.file(backup)


@forgery
def dated_anew(signed: Signed, backup: str) -> Path:
    later = backup.replace(backup[-21:-5], stamp(signed.world.clock() + timedelta(days=1)))
    for path in list(signed.world.directory.glob(f"{backup}.*")):
        shutil.copy(path, signed.world.directory / path.name.replace(backup, later))
    return signed.file(later)


@forgery
def signed_for_something_else(signed: Signed, backup: str) -> Path:
    shutil.copy(signed.file(backup, ".slots.1.json.sig"), signed.file(backup, ".manifest.json.sig"))
    return signed.file(backup)


@forgery
def a_signature_that_is_none(signed: Signed, backup: str) -> Path:
    signed.file(backup, ".manifest.json.sig").write_bytes(b"-----BEGIN SSH SIGNATURE-----\nAAAA\n")
    return signed.file(backup)


@forgery
def a_signature_without_end(signed: Signed, backup: str) -> Path:
    signed.file(backup, ".manifest.json.sig").write_bytes(b"A" * (1 << 20))
    return signed.file(backup)


@forgery
def of_a_key_that_expired_before(signed: Signed, backup: str) -> Path:
    signed.allow(signed.own.line("web1", more=',valid-before="20260101Z"'))
    return signed.file(backup)


@forgery
def of_a_key_that_was_revoked(signed: Signed, backup: str) -> Path:
    signed.allow(signed.other.line("web2"))
    return signed.file(backup)


@pytest.mark.parametrize("forget", [False, True], ids=["known", "unknown"])
@pytest.mark.parametrize("how", FORGERIES)
def test_a_manifest_that_does_not_count_is_named_and_never_used(
    signed: Signed, how: str, forget: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The listings before have cached what was right.
    monkeypatch.setattr(local, "_SETTLED", -1.0)
    backup = signed.world.backup().manifest.id
    assert [one.id for one in signed.catalogue().backups] == [backup]
    forged = FORGERIES[how](signed, backup)
    if forget:
        signed.world.forget()
    catalogue = signed.catalogue()
    assert forged.name in [problem.name for problem in catalogue.problems]
    wrong = forged.name[: -len(".manifest.json")]
    assert wrong not in [one.id for one in catalogue.backups]
    with suppress(BadInput):
        # It says so where this host's own key counts no more.
        assert not signed.world.verify(level=Level.CHECKSUM, backup="all").passed
    for wanted in ("latest", wrong):
        with pytest.raises(EngineError):
            signed.world.restore(backup=wanted, safety_backup=False)
    (rotation,) = signed.world.rotate(Policy(last=1)).rotations
    assert rotation.removed == ()


def test_slots_that_nobody_signed_are_named_and_not_used(signed: Signed) -> None:
    backup = signed.world.backup().manifest.id
    colleague = keys.generate().decode()
    settings = replace(signed.world.encryption, recipients=(keys.public_pem(colleague.encode()).decode(),))
    request = RekeyRequest((signed.world.repository,), SlotChange.INCLUDE, settings, "web1")
    rekey(request, replace(signed.world.host, signing=UNSIGNED))
    (problem, *_others) = signed.catalogue().problems
    assert problem.name == f"{backup}.slots.2.json" and "is not signed" in problem.reason
    # The ones that were signed are gone, so nothing opens it.
    assert signed.catalogue().backups[0].known_bad == "its key slots are missing"
    signed.sign_with(signed.own.path, required=False)
    assert signed.catalogue().problems == () and signed.catalogue().good


def test_slots_that_nobody_signed_keep_no_signed_ones_from_being_read(signed: Signed) -> None:
    backup = signed.world.backup().manifest.id
    for number in range(2, 60):
        content = write_generation(backup, number, signed.world.clock(), ())
        signed.file(backup, f".slots.{number}.json").write_bytes(content)
    assert len(signed.catalogue().problems) == 58
    assert signed.world.verify(level=Level.RESTORE, backup=backup).passed


def test_new_slots_are_signed(signed: Signed) -> None:
    backup = signed.world.backup().manifest.id
    colleague = keys.generate().decode()
    settings = replace(signed.world.encryption, recipients=(keys.public_pem(colleague.encode()).decode(),))
    rekey(RekeyRequest((signed.world.repository,), SlotChange.INCLUDE, settings, "web1"), signed.world.host)
    assert sorted(path.name for path in signed.world.directory.glob("*.slots.*")) == [
        f"{backup}.slots.2.json",
        f"{backup}.slots.2.json.sig",
    ]
    assert signed.catalogue().problems == () and len(signed.catalogue().backups[0].key_slots) == 2


@pytest.mark.parametrize("outcome", [Outcome.PASSED, Outcome.FAILED])
def test_proofs_that_nobody_signed_are_named_and_not_counted(signed: Signed, outcome: Outcome) -> None:
    backup = signed.world.backup().manifest.id
    planted = signed.world.prove(backup, Proof(Level.RESTORE, outcome, signed.world.clock(), "web1", "x"))
    (problem,) = signed.catalogue().problems
    assert problem.name == planted.name and "is not signed" in problem.reason
    (listed,) = signed.catalogue().backups
    assert (listed.proofs, listed.known_bad) == ((), None)


def test_a_drill_host_proves_backups_of_all_and_writes_none(signed: Signed) -> None:
    drill = Signer(signed.root, "drill")
    signed.allow(signed.own.line("web1") + drill.line("*", "fleet.backup/proof"))
    backup = signed.world.backup().manifest.id
    signed.sign_with(drill.path)
    assert signed.world.verify(level=Level.RESTORE).passed
    assert signed.catalogue().backups[0].proven(Level.RESTORE)
    with pytest.raises(BadInput, match="may not sign for fleet.backup. Correct"):
        signed.world.backup()
    assert [one.id for one in signed.catalogue().backups] == [backup]
    assert signed.file(signed.forge(Signing(str(drill.path)))).name in [
        problem.name for problem in signed.catalogue().problems
    ]


def test_what_a_host_writes_would_count_or_is_not_written(signed: Signed) -> None:
    signed.sign_with(None)
    for act in (signed.world.backup, signed.world.verify):
        with pytest.raises(BadInput, match="signing.key is missing"):
            act()
    signed.sign_with(signed.other.path)
    with pytest.raises(BadInput, match="the key of web2, not of web1"):
        signed.world.backup()
    assert signed.world.files() == []


def test_what_was_written_before_there_were_signatures_is_used_where_they_are_not_required(signed: Signed) -> None:
    before, signed.world.host = signed.world.host, replace(signed.world.host, signing=UNSIGNED)
    backup = signed.world.backup().manifest.id
    signed.world.host = before
    with pytest.raises(BadManifest, match="is not signed"):
        signed.world.restore(safety_backup=False)
    signed.sign_with(signed.own.path, required=False)
    assert signed.world.restore(safety_backup=False).plan.backup.id == backup
    # A signature that is wrong never counts.
    signed.file(backup, ".manifest.json.sig").write_text("x")
    with pytest.raises(BadManifest, match="is not a signature"):
        signed.world.restore(safety_backup=False)


def test_rotation_removes_signatures_with_what_they_sign(signed: Signed) -> None:
    made = take(signed.world, 3)
    for _time in range(3):
        signed.world.verify(backup="all")
    signed.world.rotate(Policy(last=1))
    left = signed.world.files()
    assert all(name.startswith(made[-1]) for name in left)
    kinds = sorted(name[len(made[-1]) :].partition(".proof")[0] or ".proof" for name in left)
    assert kinds == [
        ".db.zst.aes",
        ".manifest.json",
        ".manifest.json.sig",
        ".proof",
        ".proof",
        ".slots.1.json",
        ".slots.1.json.sig",
    ]


def test_a_listing_with_the_cache_believes_no_longer_who_is_believed_no_more(
    signed: Signed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_SETTLED", -1.0)
    signed.world.host = replace(signed.world.host, caches=True)
    signed.world.backup()
    signed.world.verify()
    first = signed.catalogue()
    with monkeypatch.context() as patch:
        patch.setattr(LocalRepository, "_read_small", lambda *_arguments: pytest.fail("it was read"))
        assert signed.catalogue() == first
        signed.allow(signed.other.line("web1"))
        signed.world.host = replace(signed.world.host, caches=True)
        found = signed.catalogue()
    assert (found.backups, len(found.problems)) == ((), 3)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another account")
@pytest.mark.parametrize("how", ["a mode", "an owner", "its directory"])
def test_a_file_of_allowed_signers_that_others_can_change_is_not_believed(signed: Signed, how: str) -> None:
    signed.world.backup()
    if how == "a mode":
        signed.signers.chmod(0o666)
    elif how == "an owner":
        os.chown(signed.signers, 65534, 65534)
    else:
        open_to_all = signed.root / "open"
        open_to_all.mkdir()
        open_to_all.chmod(0o777)
        signed.signers = signed.signers.rename(open_to_all / "allowed_signers")
    signed.sign_with(signed.own.path)
    for act in (signed.catalogue, signed.world.backup, signed.world.restore):
        with pytest.raises(Refused, match="who could decide by it whom this host believes"):
            act()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no private key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n", "is no private key"),
        ("public", "is a public key"),
        ("passphrase", "has a passphrase"),
        ("rsa", "is not an Ed25519 key"),
        ("x25519", "is not an Ed25519 key"),
    ],
)
def test_a_key_that_cannot_sign_is_told_before_anything_is_done(signed: Signed, content: str, message: str) -> None:
    path = signed.root / "key"
    if content in ("passphrase", "rsa"):
        kind = ["-t", "rsa", "-N", ""] if content == "rsa" else ["-t", "ed25519", "-N", "secret word"]
        subprocess.run(["ssh-keygen", "-q", *kind, "-f", str(path)], check=True)
    else:
        path.write_text({"public": signed.own.public, "x25519": keys.generate().decode()}.get(content, content))
    path.chmod(0o600)
    signed.sign_with(path)
    with pytest.raises(BadInput, match=message):
        signed.world.backup()
    assert signed.world.files() == []
