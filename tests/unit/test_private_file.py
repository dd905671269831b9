# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A private key that others can read is used nowhere: not by a method, a module, the command line or the controller."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable

import pytest

from _engine import keys
from _engine.agent.config.given import identity_at
from _engine.errors import BadInput, PermissionDenied
from _engine.host.private_file import LONGEST, read_private
from _engine.stream import age, gpg

#: Every way in which a private key's file is read.
READERS: dict[str, Callable[[str], object]] = {
    "aes256-gcm": lambda path: keys.load_identities([path]),
    "age": lambda path: age.decrypting(None, [path]),
    "gpg": gpg._read,
    "command line and menu": identity_at,
}


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "ops.pem"
    path.write_bytes(keys.generate())
    return path


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o601])
def test_a_private_key_that_others_can_read_is_refused(key: Path, reader: str, mode: int) -> None:
    key.chmod(mode)
    with pytest.raises(PermissionDenied, match=f"others than its owner \\(mode {mode:04o}\\). It was not used"):
        READERS[reader](str(key))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_private_key_of_its_owner_alone_is_read(key: Path, reader: str, mode: int) -> None:
    key.chmod(mode)
    assert READERS[reader](str(key))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_public_key_is_called_one_and_not_a_betrayed_private_one(key: Path, reader: str, mode: int) -> None:
    key.write_bytes(keys.public_pem(key.read_bytes()))
    key.chmod(mode)
    with pytest.raises(BadInput, match=r"ops.pem\)? is a public key. Give the private key that belongs to it"):
        READERS[reader](str(key))


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path: Path, reader: str) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    with pytest.raises(BadInput, match="is not a regular file"):
        READERS[reader](str(fifo))


def test_a_link_is_judged_by_what_it_leads_to(key: Path, tmp_path: Path) -> None:
    key.chmod(0o644)
    link = tmp_path / "link.pem"
    link.symlink_to(key)
    with pytest.raises(PermissionDenied):
        read_private(str(link), "The key")


def test_a_file_that_is_too_long_is_not_read(key: Path) -> None:
    key.chmod(0o600)
    with key.open("wb") as file:
        file.truncate(LONGEST + 1)
    with pytest.raises(BadInput, match="far too long"):
        read_private(str(key), "The key")
