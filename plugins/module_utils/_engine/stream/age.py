# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""age v1 by age(1), to X25519 recipients or under a passphrase (C2SP age specification)."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import List, Optional, Sequence

from ..command import Argument, Command, Secret, find_program
from ..errors import BadInput, Damaged, EngineError, NoKey, ToolFailed, WrongKey
from ..host.private_file import read_private


def encrypting(recipients: Sequence[str], passphrase: Optional[str]) -> Command:
    """The age that encrypts. Recipients are ``age1…`` keys, or paths of files with one of them a line."""
    program = _age()
    if recipients:
        arguments: List[Argument] = [program, "--encrypt"]
        for number, recipient in enumerate(recipients, 1):
            arguments += _recipient(number, recipient)
        return Command("age", tuple(arguments))
    if not passphrase:
        raise BadInput("Encryption age needs encryption.recipients or encryption.passphrase. Give one of them.")
    # age asks twice, and only on a terminal.
    answer = Secret(passphrase.encode("utf-8"))
    return Command("age", (program, "--encrypt", "--passphrase"), terminal_answers=(answer, answer))


def decrypting(passphrase: Optional[str], identities: Sequence[str]) -> Command:
    """The age that decrypts with identities (``AGE-SECRET-KEY-…``, or paths of files of them), or with a passphrase."""
    program = _age()
    if identities:
        arguments: List[Argument] = [program, "--decrypt"]
        for identity in identities:
            arguments += ["--identity", Secret(_identity(identity))]
        return Command("age", tuple(arguments))
    if not passphrase:
        raise NoKey("The backup is encrypted with age. Give encryption.identities, or encryption.passphrase.")
    return Command("age", (program, "--decrypt"), terminal_answers=(Secret(passphrase.encode("utf-8")),))


def explain_encryption(failure: ToolFailed) -> EngineError:
    """Say what a failed encryption means."""
    if "recipient" in failure.output:
        return BadInput(
            f"age cannot encrypt for a recipient: {failure.output.splitlines()[0]}. Check encryption.recipients."
        )
    return failure


_CHANGED = (
    "failed to decrypt and authenticate|failed to read (header|nonce)|unexpected EOF|bad header MAC"
    "|failed to parse .* recipient"
)
#: What age writes, and what it means for an artefact whose stored bytes are known to be unchanged.
_MEANINGS = (
    (
        "no identity matched",
        WrongKey,
        "is encrypted for keys that are not among encryption.identities. Give the identity of a recipient.",
    ),
    ("incorrect passphrase", WrongKey, "does not open with this passphrase. Check encryption.passphrase."),
    (
        "file is passphrase-encrypted",
        WrongKey,
        "is encrypted with a passphrase. Give encryption.passphrase, and no identities.",
    ),
    (_CHANGED, Damaged, "is not what age wrote. Restore another backup."),
)


def explain_decryption(failure: ToolFailed, name: str) -> EngineError:
    """Say what a failed decryption of an artefact means, whose stored bytes are known to be unchanged."""
    for said, error, meaning in _MEANINGS:
        if re.search(said, failure.output):
            return error(f"{name} {meaning}")
    if "failed to decrypt identity file" in failure.output:
        return BadInput(
            "An item of encryption.identities is encrypted itself. Decrypt it with age --decrypt, and give the result."
        )
    # The descriptor is an identity's: nothing else is given to age in this way.
    if 'reading "/proc/self/fd/' in failure.output:
        return BadInput("An item of encryption.identities is no age identity. Give what age-keygen writes.")
    # An age that was killed says nothing about the backup.
    return failure


def _age() -> str:
    return find_program("age", "age", "Encryption age")


def _recipient(number: int, recipient: str) -> List[Argument]:
    if recipient.startswith(("age1", "ssh-")):
        return ["--recipient", recipient]
    path = os.path.expanduser(recipient)
    if not os.access(path, os.R_OK):
        # It is not repeated: a private key that was given by mistake would be.
        raise BadInput(
            f"encryption.recipients: item {number} is neither an age public key nor the path of a file that this "
            "account can read. Give what age-keygen -y writes, or the path of such a file."
        )
    return ["--recipients-file", path]


def _identity(identity: str) -> bytes:
    if "AGE-SECRET-KEY-" in identity or "-----BEGIN" in identity:
        return identity.encode("utf-8") + b"\n"
    path = Path(identity).expanduser()
    try:
        return read_private(str(path), f"The identity {path.name}")
    except OSError as error:
        raise BadInput(
            f"The identity {path.name} cannot be read: {error.strerror}. Check encryption.identities."
        ) from None
