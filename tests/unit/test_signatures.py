# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Signatures and allowed signers: what ssh-keygen signs is checked here, the other way round, and both say the same."""

from __future__ import annotations

import base64
import shutil
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from _engine.crypto.signers import objection, read_signers
from _engine.crypto.sshsig import key_blob, sign, signer_of
from _engine.errors import BadInput, BadSignature

SPACE = "fleet.backup"
AT = datetime(2026, 6, 1, 12, tzinfo=timezone.utc)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
LINE = "ssh-ed25519 " + base64.b64encode(key_blob(PUBLIC)).decode()

needs_keygen = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="ssh-keygen is not installed")


def keygen(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["ssh-keygen", *arguments], check=False, input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def key_file(directory: Path) -> Path:
    path = directory / "key"
    path.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.chmod(0o600)
    return path


@pytest.mark.reference
@needs_keygen
@pytest.mark.parametrize("message", [b"", b"{}\n", bytes(range(256)) * 1000])
def test_ssh_keygen_checks_what_is_signed_here_and_signs_what_is_checked_here(tmp_path: Path, message: bytes) -> None:
    (tmp_path / "allowed").write_text(f'web1 namespaces="{SPACE}*" {LINE}\n')
    (tmp_path / "sig").write_bytes(sign(KEY, SPACE, message))
    names = ("-f", str(tmp_path / "allowed"), "-I", "web1", "-n", SPACE, "-s", str(tmp_path / "sig"))
    assert keygen("-Y", "verify", *names, given=message).returncode == 0
    assert keygen("-Y", "verify", *names, given=message + b".").returncode != 0
    (tmp_path / "message").write_bytes(message)
    keygen("-Y", "sign", "-f", str(key_file(tmp_path)), "-n", SPACE, str(tmp_path / "message"))
    made = (tmp_path / "message.sig").read_bytes()
    assert made == sign(KEY, SPACE, message)
    assert signer_of(made, SPACE, message) == PUBLIC


def test_a_signature_is_of_its_bytes_and_its_namespace_alone() -> None:
    made = sign(KEY, SPACE, b"message")
    with pytest.raises(BadSignature, match="changed after they were signed"):
        signer_of(made, SPACE, b"messagf")
    with pytest.raises(BadSignature, match="'fleet.backup', not for fleet.backup/proof"):
        signer_of(made, SPACE + "/proof", b"message")


@given(st.data())
def test_a_damaged_signature_is_bad_and_nothing_else(data: st.DataObject) -> None:
    made = bytearray(sign(KEY, SPACE, b"message"))
    for _damage in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(made) - 1))
        made[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        made = made[: data.draw(st.integers(0, len(made)))]
    try:
        assert signer_of(bytes(made), SPACE, b"message") == PUBLIC
    except BadSignature:
        return
    blob = b"".join(bytes(made).split()[3:-3])
    assert blob == b"".join(sign(KEY, SPACE, b"message").split()[3:-3])


@pytest.mark.reference
@needs_keygen
@pytest.mark.parametrize(
    "options",
    [
        "",
        f'namespaces="{SPACE}"',
        f"namespaces={SPACE}",
        'namespaces="git,file"',
        'valid-after="20260601Z"',
        'valid-after="20260602Z"',
        'valid-before="202606011200Z"',
        'valid-before="20260601115959Z"',
        'VALID-BEFORE="20270101Z",namespaces="fleet.*"',
        f'namespaces="{SPACE},!fleet.*"',
        "cert-authority",
        'namespaces=""',
        "touch",
        'namespaces="x',
    ],
)
@pytest.mark.parametrize(
    "principals", ["web1", "web*", "web?", "web2,web1", "*,!web1", '"web1"', "*", "!web1", "web", "WEB1"]
)
def test_a_line_allows_what_ssh_keygen_takes_it_to_allow(tmp_path: Path, principals: str, options: str) -> None:
    content = f"# signers\n\n{principals} {options} {LINE} a comment\n".encode()
    (tmp_path / "allowed").write_bytes(content)
    (tmp_path / "sig").write_bytes(sign(KEY, SPACE, b"message"))
    names = ("-f", str(tmp_path / "allowed"), "-I", "web1", "-n", SPACE, "-s", str(tmp_path / "sig"))
    theirs = keygen("-Y", "verify", "-Overify-time=20260601120000Z", *names, given=b"message").returncode == 0
    try:
        ours = objection(read_signers(content, "allowed"), PUBLIC, "web1", SPACE, AT) is None
    except BadInput:
        ours = False
    assert ours is theirs


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("web1", "not principals"),
        (f"web1 touch {LINE}", "'touch' twice, or no such option"),
        (f'web1 namespaces="a",namespaces="b" {LINE}', "twice"),
        (f'web1 valid-after="tomorrow" {LINE}', "not a time"),
        (f'web1 valid-after="20261332Z" {LINE}', "line 2"),
        ("web1 ssh-ed25519 ????", "not base64"),
        ("web1 ssh-ed25519 AAAA", "cut short"),
        (f'web1 namespaces="a {LINE}', "no second one"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_and_none_is_left_out(line: str, says: str) -> None:
    with pytest.raises(BadInput, match=rf"^allowed, line 2: .*{says}|{says}") as caught:
        read_signers(f"# signers\n{line}\n".encode(), "allowed")
    assert str(caught.value).startswith("allowed, line 2: ")


def test_who_may_not_sign_is_told_why() -> None:
    signers = read_signers(f'web1 namespaces="{SPACE}",valid-before="20260701Z" {LINE}\n'.encode(), "allowed")

    def said(**changed: Any) -> str:
        asked = {"key": PUBLIC, "principal": "web1", "namespace": SPACE, "at": AT, **changed}
        return objection(signers, **asked) or ""

    assert said() == ""
    assert "no allowed signer" in said(key=bytes(32))
    assert "the key of web1, not of web2" in said(principal="web2")
    assert "may not sign for fleet.backup/proof" in said(namespace=SPACE + "/proof")
    assert "not valid at its time" in said(at=datetime(2026, 8, 1, tzinfo=timezone.utc))
