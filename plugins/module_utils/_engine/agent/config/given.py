# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keys that somebody brings to this host for one command. They open what is read, and nothing is encrypted for them."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import List, Optional, Tuple

from ...errors import BadInput
from ...host.private_file import read_private
from ...model import Encryption, EncryptionSettings
from .secrets import SecretKind, SecretSource

_LIMIT = 1 << 20
#: How a private key says that it is one: PEM and OpenPGP armour (RFC 7468, RFC 9580), and age's own.
_MARKS = ("-----BEGIN ", "AGE-SECRET-KEY-")


@dataclass(frozen=True)
class GivenKeys:
    """Private keys, as text or as absolute paths, and a passphrase."""

    identities: Tuple[str, ...] = field(default=(), repr=False)
    passphrase: Optional[str] = field(default=None, repr=False)

    def __bool__(self) -> bool:
        return bool(self.identities) or self.passphrase is not None

    def over(self, own: EncryptionSettings) -> EncryptionSettings:
        """What opens backups now: a key that was given stands in for the host's own one of its kind.

        Pure. A passphrase alone stands in for identities too, since whoever brings it means it: age(1) would not ask
        for it while there is an identity. Only gpg's private keys have passphrases themselves.
        """
        if not self:
            return own
        passphrase = own.passphrase if self.passphrase is None else self.passphrase
        if self.identities:
            return replace(own, identities=self.identities, passphrase=passphrase)
        kept = own.identities if own.method is Encryption.GPG else ()
        return replace(own, identities=kept, passphrase=passphrase)


def add_keys(parser: argparse.ArgumentParser) -> None:
    """Take keys on the command line, by the files that they are in."""
    parser.add_argument(
        "--identity",
        action="append",
        default=[],
        metavar="FILE",
        help="a private key that opens the backups, for this command only; - reads it from standard input",
    )
    parser.add_argument(
        "--passphrase-file",
        metavar="FILE",
        help="a passphrase that opens them, for this command only; - reads it from standard input",
    )


def add_accepted(parser: argparse._ActionsContainer) -> None:
    """Take encryption methods that backups may have besides the job's own."""
    parser.add_argument(
        "--accept-encryption",
        action="append",
        default=[],
        choices=[method.value for method in Encryption],
        metavar="METHOD",
        help="read backups of this encryption method too, besides the job's own; none accepts plain ones",
    )


def accepted_methods(parsed: argparse.Namespace) -> Tuple[Encryption, ...]:
    """The encryption methods that the command line names."""
    return tuple(Encryption(method) for method in parsed.accept_encryption)


def given_keys(parsed: argparse.Namespace) -> GivenKeys:
    """The keys that the command line names. Raises BadInput, and what ``SecretSource.read`` raises."""
    files: List[str] = parsed.identity
    if [*files, parsed.passphrase_file].count("-") > 1:
        raise BadInput("Standard input is to hold two keys, and can hold one. Put the other one into a file.")
    identities = tuple(_from_standard_input() if file == "-" else identity_at(file) for file in files)
    return GivenKeys(identities, _passphrase(parsed.passphrase_file))


def identity_at(file: str) -> str:
    """The absolute path of a private key's file. Raises BadInput where it cannot be read, and PermissionDenied."""
    path = Path(os.path.abspath(os.path.expanduser(file)))
    try:
        read_private(str(path), f"The private key {path}")
        return str(path)
    except OSError as error:
        raise BadInput(f"The private key {path} cannot be read: {error.strerror}. Give another path.") from None


def _from_standard_input() -> str:
    content = _standard_input("--identity")
    if not any(mark in content for mark in _MARKS):
        raise BadInput("--identity -: standard input holds no private key. Give the text of one, as its file has it.")
    return content


def _passphrase(file: Optional[str]) -> Optional[str]:
    if file is None:
        return None
    if file != "-":
        return SecretSource(SecretKind.FILE, os.path.expanduser(file), "--passphrase-file").read()
    content = _standard_input("--passphrase-file")
    passphrase = content[:-1] if content.endswith("\n") else content
    if not passphrase:
        raise BadInput("--passphrase-file -: standard input is empty. Write the passphrase to it.")
    return passphrase


def _standard_input(option: str) -> str:
    content = sys.stdin.buffer.read(_LIMIT + 1)
    if len(content) > _LIMIT:
        raise BadInput(
            f"{option} -: standard input holds more than {_LIMIT} bytes, which no key has. Check what it is."
        )
    return content.decode("utf-8", "surrogateescape")
