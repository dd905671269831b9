# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Only what is one encrypted OpenPGP message, and nothing else, ever reaches gpg."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _engine.errors import Damaged
from _engine.stream.openpgp import EncryptedMessage

NAME = "shop.db.gpg"


def new(kind: int, body: bytes) -> bytes:
    return bytes([0xC0 | kind, 255]) + struct.pack(">I", len(body)) + body


def old(kind: int, body: bytes) -> bytes:
    return bytes([0x80 | kind << 2 | 1]) + struct.pack(">H", len(body)) + body


def in_parts(kind: int, body: bytes) -> bytes:
    """A body in parts of 512 bytes, as gpg writes what it does not know the length of."""
    packet = bytes([0xC0 | kind])
    while len(body) >= 512:
        packet += bytes([224 | 9]) + body[:512]
        body = body[512:]
    return (
        packet
        + (bytes([len(body)]) if len(body) < 192 else bytes([192 + (len(body) - 192 >> 8), len(body) - 192 & 255]))
        + body
    )


KEY, DATA = old(1, b"k" * 300), in_parts(18, b"\x01" + b"d" * 2000)


def passed(message: bytes, step: int = 1 << 20) -> bytes:
    transform = EncryptedMessage(NAME)
    blocks = [transform.update(message[start : start + step]) for start in range(0, len(message), step)]
    return b"".join(blocks) + transform.finish()


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    "message",
    [
        KEY + DATA,
        KEY * 64 + DATA,
        new(3, b"s" * 20) + new(18, b"\x01x"),
        DATA,
        KEY + new(20, b"aead"),
        in_parts(18, b"d" * 1024),
    ],
)
def test_an_encrypted_message_passes_unchanged(message: bytes, step: int) -> None:
    assert passed(message, step) == message


@pytest.mark.parametrize("step", [1, 1 << 20])
@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"plain text",
        new(11, b"b\x00\x00\x00\x00\x00literal"),
        old(11, b"b\x00\x00\x00\x00\x00literal"),
        b"\xaf" + b"b literal of a length that is not known",
        new(8, b"compressed"),
        new(4, b"signature") + new(11, b"literal"),
        new(9, b"encrypted without protection of its integrity"),
        KEY,
        KEY + new(11, b"literal"),
        KEY + DATA + new(11, b"literal"),
        new(11, b"literal") + KEY + DATA,
        KEY + DATA + KEY + DATA,
        KEY + DATA[:-1],
        KEY + DATA + b"\0",
        b"-----BEGIN PGP MESSAGE-----\n",
        new(1, b"k" * 20_000) + DATA,
        KEY * 65 + DATA,
        new(3, b"s" * 20) * 3 + DATA,
    ],
)
def test_anything_else_is_refused(message: bytes, step: int) -> None:
    with pytest.raises(Damaged, match=f"{NAME} is not what gpg wrote"):
        passed(message, step)


@given(st.binary(max_size=64))
def test_any_bytes_pass_unchanged_or_are_refused(message: bytes) -> None:
    try:
        assert passed(message) == message
    except Damaged:
        pass
    else:
        assert message[0] & 0xC0 == 0xC0 or message[0] & 0x80


@pytest.mark.once
@pytest.mark.parametrize("size", [0, 100, 191, 8192, 100_000, 3 << 20])
def test_what_gpg_writes_of_any_size_passes(tmp_path: Path, size: int) -> None:
    command = ["gpg", "--homedir", str(tmp_path), "--batch", "--quiet", "--pinentry-mode", "loopback"]
    command += ["--passphrase", "x", "--s2k-count", "1024", "--compress-algo", "none", "--symmetric"]
    done = subprocess.run(command, input=os.urandom(size), capture_output=True, check=True)
    subprocess.run(["gpgconf", "--homedir", str(tmp_path), "--kill", "all"], check=True)
    assert passed(done.stdout, 4099) == done.stdout
