# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""OpenPGP by gpg(1): AES-256, to recipients or under a passphrase. Undone by any OpenPGP program."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Iterator, List, Optional, Sequence, Tuple

from ..command import Argument, Command, Secret, find_program
from ..errors import BadInput, Damaged, EngineError, NoKey, ToolFailed, WrongKey
from ..process import run

_KEY_BLOCK = "-----BEGIN PGP"


@contextmanager
def encrypting(recipients: Sequence[str], passphrase: Optional[str]) -> Iterator[Command]:
    """The gpg that encrypts. Recipients are key ids in this account's keyring, or public keys, inline or as paths."""
    if not recipients and not passphrase:
        raise BadInput("Encryption gpg needs encryption.recipients or encryption.passphrase. Give one of them.")
    with ExitStack() as stack:
        # Only key ids need the account's keyring. Without them none has to exist, and none is made.
        needs_keyring = any(map(_is_key_id, recipients))
        home = None if needs_keyring else stack.enter_context(_temporary_home())
        # What arrives is compressed already, and gpg's own compression would only take time.
        arguments = [*_gpg(home), "--no-armor", "--compress-algo", "none", "--cipher-algo", "AES256"]
        if recipients:
            # The caller names whom to trust; the web of trust of whoever runs this has no say.
            arguments += ["--trust-model", "always"]
            for recipient in recipients:
                arguments += _recipient(recipient)
            arguments.append("--encrypt")
        else:
            arguments += ["--s2k-digest-algo", "SHA512", "--s2k-count", "65011712"]
            arguments += [*_passphrase(passphrase or ""), "--symmetric"]
        yield Command("gpg", tuple(arguments))


@contextmanager
def decrypting(passphrase: Optional[str], identities: Sequence[str]) -> Iterator[Command]:
    """The gpg that decrypts, with this account's keyring, or with the given private keys and nothing else."""
    with ExitStack() as stack:
        home = stack.enter_context(_keyring(identities, passphrase)) if identities else None
        options: List[Argument] = [*_gpg(home), "--status-fd", "2"]
        if passphrase:
            options += _passphrase(passphrase)
        yield Command("gpg", (*options, "--decrypt"))


def check_recipients(recipients: Sequence[str]) -> None:
    """Raise unless gpg finds a key for every recipient that is a key id."""
    for recipient in recipients:
        if _is_key_id(recipient):
            try:
                run(Command("gpg", (*_gpg(), "--list-keys", "--", recipient)))
            except ToolFailed:
                raise BadInput(
                    f'gpg knows no public key for the recipient "{recipient}". '
                    "Import it on this host, or give the public key itself."
                ) from None


def explain_encryption(failure: ToolFailed) -> EngineError:
    """Say what a failed encryption means."""
    if "No public key" in failure.output or "Unusable public key" in failure.output or "No data" in failure.output:
        return BadInput(
            f"gpg cannot encrypt for a recipient: {failure.output.splitlines()[0]}. Check encryption.recipients."
        )
    return failure


def explain_decryption(failure: ToolFailed, name: str) -> EngineError:
    """Say what a failed decryption of an artefact means, whose stored bytes are known to be unchanged."""
    output = failure.output
    if "NO_SECKEY" in output or "No secret key" in output:
        return WrongKey(f"{name} is encrypted for other keys than those that gpg has here. Give encryption.identities.")
    if "Bad session key" in output or "Bad passphrase" in output or "BAD_PASSPHRASE" in output:
        return WrongKey(f"{name} does not open with this passphrase. Check encryption.passphrase.")
    if "No passphrase" in output or "NEED_PASSPHRASE_SYM" in output or "Inappropriate ioctl" in output:
        return NoKey(f"{name} is encrypted with a passphrase. Give it in encryption.passphrase.")
    if "DECRYPTION_FAILED" in output or "BADMDC" in output or "decryption failed" in output:
        return WrongKey(f"{name} cannot be decrypted by gpg with what was given. Check the encryption options.")
    if any(sign in output for sign in ("no valid OpenPGP data", "NODATA", "CRC error", "invalid packet", "BADARMOR")):
        return Damaged(f"{name} is not what gpg wrote. Restore another backup.")
    # A gpg that was killed, or that has no home to work in, says nothing about the backup.
    return failure


def _gpg(home: Optional[str] = None) -> List[Argument]:
    program = find_program("gpg", "gnupg", "Encryption gpg")
    where = ["--homedir", home, "--no-options"] if home else []
    return [program, *where, "--batch", "--no-tty", "--quiet", "--pinentry-mode", "loopback"]


def _passphrase(passphrase: str) -> List[Argument]:
    return ["--passphrase-fd", Secret(passphrase.encode("utf-8") + b"\n", "{fd}")]


def _is_key_id(recipient: str) -> bool:
    return _KEY_BLOCK not in recipient and not recipient.startswith(("/", "~", "./"))


def _recipient(recipient: str) -> List[Argument]:
    if _KEY_BLOCK in recipient:
        return ["--recipient-file", Secret(recipient.encode("utf-8"))]
    if _is_key_id(recipient):
        return ["--recipient", recipient]
    path = os.path.expanduser(recipient)
    if not os.access(path, os.R_OK):
        raise BadInput(f"The recipient {recipient} cannot be read. Give the path of a public key, or the key itself.")
    return ["--recipient-file", path]


@contextmanager
def _keyring(identities: Sequence[str], passphrase: Optional[str]) -> Iterator[str]:
    """A home whose keyring has just these private keys: gpg reads them from nowhere else."""
    with _temporary_home() as home:
        for identity in identities:
            _import(home, identity, passphrase)
        yield home


@contextmanager
def _temporary_home() -> Iterator[str]:
    """A home for gpg in memory (/dev/shm, tmpfs(5)) where the system has that; gone afterwards, with its agent."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None
    home = tempfile.mkdtemp(prefix="fleet-backup-", dir=memory)
    try:
        yield home
    finally:
        try:
            stop = (find_program("gpgconf", "gnupg", "Encryption gpg"), "--homedir", home, "--kill", "all")
            run(Command("gpgconf", stop))
        finally:
            shutil.rmtree(home, onerror=_unless_gone)


def _unless_gone(_function: object, _path: str, failure: Tuple[object, BaseException, object]) -> None:
    """Let pass that the ending agent removed its own sockets first; a key that stays behind is an error."""
    if not isinstance(failure[1], FileNotFoundError):
        raise failure[1]


def _import(home: str, identity: str, passphrase: Optional[str]) -> None:
    content = identity.encode("utf-8") if _KEY_BLOCK in identity else _read(identity)
    unlock = _passphrase(passphrase) if passphrase else []
    try:
        run(Command("gpg", (*_gpg(home), *unlock, "--import", Secret(content))))
    except ToolFailed:
        raise BadInput(
            "An item of encryption.identities is no private key that gpg reads. "
            "Give what gpg --export-secret-keys --armor writes, or the path of such a file."
        ) from None


def _read(identity: str) -> bytes:
    path = Path(identity).expanduser()
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"The identity {path.name} cannot be read: {error.strerror}. Check encryption.identities."
        ) from None
