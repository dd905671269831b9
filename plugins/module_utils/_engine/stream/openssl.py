# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""AES-256-CBC as ``openssl enc`` writes it (openssl-enc(1)): PBKDF2 with SHA-256, 600,000 iterations.

It is not authenticated by itself: whoever reads must have checked the artefact's SHA-256 before.
"""

from __future__ import annotations

from typing import Optional, Tuple

from ..command import Argument, Command, Secret, find_program
from ..errors import BadInput, EngineError, NoKey, ToolFailed, WrongKey


def encrypting(passphrase: Optional[str]) -> Command:
    """The openssl that encrypts under a passphrase."""
    if not passphrase:
        raise BadInput("Encryption aes256-cbc needs encryption.passphrase. Give one.")
    return _command(passphrase, ("-e",))


def decrypting(passphrase: Optional[str]) -> Command:
    """The openssl that decrypts with a passphrase."""
    if not passphrase:
        raise NoKey("The backup is encrypted with aes256-cbc. Give encryption.passphrase.")
    return _command(passphrase, ("-d",))


def explain_decryption(_failure: ToolFailed, name: str) -> EngineError:
    """Say what a failed decryption of an artefact means, whose stored bytes are known to be unchanged."""
    return WrongKey(f"{name} does not open with this passphrase. Check encryption.passphrase.")


def _command(passphrase: str, direction: Tuple[str, ...]) -> Command:
    if "\n" in passphrase:
        raise BadInput(
            "A passphrase for aes256-cbc cannot hold a line break: openssl reads one line. Choose another one."
        )
    program = find_program("openssl", "openssl", "Encryption aes256-cbc")
    secret = Secret(passphrase.encode("utf-8") + b"\n", "fd:{fd}")
    options: Tuple[Argument, ...] = ("-aes-256-cbc", "-pbkdf2", "-iter", "600000", "-md", "sha256", "-pass", secret)
    return Command("openssl", (program, "enc", *direction, *options))
