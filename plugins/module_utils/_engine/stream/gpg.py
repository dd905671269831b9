# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""OpenPGP by gpg(1): AES-256, to recipients or under a passphrase. Undone by any OpenPGP program.

Key ids are looked up in this account's keyring, where nothing is written. Everything else happens in a temporary home.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Iterator, List, Optional, Sequence

from ..command import Argument, Command, Secret, Status, find_program
from ..errors import BadInput, Damaged, EngineError, NoKey, NoSpace, PermissionDenied, ToolFailed, WrongKey
from ..host.private_file import read_private
from ..host.temporary import temporary_directory
from ..process import run
from ..scratch import MEMORY, Purpose, private_directory

_KEY_BLOCK = "-----BEGIN PGP"
#: How gpg says that it has decrypted one message, whose integrity it has checked (GnuPG, doc/DETAILS).
_DECRYPTED = Status(
    "--status-fd", "[GNUPG:] ", once=("BEGIN_DECRYPTION", "PLAINTEXT", "DECRYPTION_OKAY", "END_DECRYPTION")
)
#: Without these, gpg locks the account's keyring, keeps a pool of random numbers beside it, and looks in the network
#: for a key that has expired. The trust database is left alone by ``--trust-model always``.
_LEAVING_NO_TRACE = ("--lock-never", "--no-random-seed-file", "--no-auto-key-locate")


@contextmanager
def encrypting(recipients: Sequence[str], passphrase: Optional[str]) -> Iterator[Command]:
    """The gpg that encrypts. Recipients are key ids in this account's keyring, or public keys, inline or as paths."""
    if not recipients and not passphrase:
        raise BadInput("Encryption gpg needs encryption.recipients or encryption.passphrase. Give one of them.")
    key_ids = [recipient for recipient in recipients if _is_key_id(recipient)]
    if key_ids and not _account_home():
        raise _unknown(key_ids[0])
    with ExitStack() as stack:
        # Only key ids need the account's keyring. Without them none has to exist.
        home = None if key_ids else stack.enter_context(_temporary_home())
        # What arrives is compressed already, and gpg's own compression would only take time.
        arguments = [*_gpg(home), "--no-armor", "--compress-algo", "none", "--cipher-algo", "AES256"]
        if recipients:
            arguments += ["--status-fd", "2"]
            for recipient in recipients:
                arguments += _recipient(recipient)
            arguments.append("--encrypt")
        else:
            arguments += ["--s2k-digest-algo", "SHA512", "--s2k-count", "65011712"]
            arguments += [*_passphrase(passphrase or ""), "--symmetric"]
        yield Command("gpg", tuple(arguments))


@contextmanager
def decrypting(passphrase: Optional[str], identities: Sequence[str]) -> Iterator[Command]:
    """The gpg that decrypts: with what is given and nothing else, or with this account's keyring where nothing is.

    Otherwise an artefact for any key in the keyring would pass for one under the passphrase: who knows the public key
    can make it.
    """
    with ExitStack() as stack:
        home: Optional[str] = None
        if identities or passphrase or not _account_home():
            home = stack.enter_context(_keyring(identities, passphrase))
        options = _gpg(home)
        if passphrase:
            options += _passphrase(passphrase)
        # It ends well too when it has decrypted nothing: what was only stored or signed is printed all the same.
        yield Command("gpg", (*options, "--decrypt"), status=_DECRYPTED)


def check_recipients(recipients: Sequence[str]) -> None:
    """Raise unless gpg finds a key for every recipient that is a key id."""
    for recipient in filter(_is_key_id, recipients):
        if not _account_home():
            raise _unknown(recipient)
        try:
            run(Command("gpg", (*_gpg(), "--list-keys", "--", recipient)))
        except ToolFailed as failure:
            if re.search("No public key|Invalid user ID", failure.output):
                raise _unknown(recipient) from None
            raise


def _unknown(recipient: str) -> BadInput:
    return BadInput(
        f'gpg knows no public key for the recipient "{recipient}". '
        "Import it on this host for this account, or give the public key itself."
    )


def explain_encryption(failure: ToolFailed) -> EngineError:
    """Say what a failed encryption means."""
    if "INV_RECP" not in failure.output:
        return failure
    skipped = re.search("^gpg: (.* skipped: .*)$", failure.output, re.MULTILINE)
    return BadInput(
        f"gpg cannot encrypt for a recipient: {skipped.group(1) if skipped else failure.output}. "
        "Check encryption.recipients, and that the key is one for encryption that has not expired."
    )


def explain_decryption(failure: ToolFailed, name: str) -> EngineError:
    """Say what a failed decryption of an artefact means, whose stored bytes are known to be unchanged."""
    said = failure.keywords
    # Without its agent, gpg finds no secret key. That says nothing about which one it would have needed, and a gpg that
    # was killed or could not write says nothing either.
    if failure.status < 0 or re.search("connect to the agent|setting pinentry mode", failure.output):
        return failure
    if said & {"BADMDC", "NODATA", "UNEXPECTED"} or failure.status == 0:
        return Damaged(f"{name} is not what gpg wrote. Restore another backup.")
    if "NEED_PASSPHRASE_SYM" in said:
        if "BEGIN_DECRYPTION" not in said:
            return NoKey(f"{name} is encrypted with a passphrase. Give it in encryption.passphrase.")
        if "PLAINTEXT" not in said:
            return WrongKey(f"{name} does not open with this passphrase. Check encryption.passphrase.")
    if "NEED_PASSPHRASE" in said and "BEGIN_DECRYPTION" not in said:
        return NoKey(f"{name}: its private key is locked with a passphrase. Give it in encryption.passphrase.")
    if "ENC_TO" in said and "DECRYPTION_KEY" not in said:
        return WrongKey(
            f"{name} opens with none of the private keys that gpg has here, or not with their passphrase. "
            "Check the identities, and encryption.passphrase."
        )
    return failure


def _account_home() -> Optional[str]:
    """This account's gpg home (gpg(1), --homedir), or None when it has none: gpg would make one."""
    home = os.environ.get("GNUPGHOME") or os.path.expanduser("~/.gnupg")
    return home if os.path.isdir(home) else None


def _gpg(home: Optional[str] = None) -> List[Argument]:
    """How each gpg begins: in a temporary home, or in the account's, which it leaves as it is."""
    options: List[Argument] = ["--homedir", home, "--no-options"] if home else [*_LEAVING_NO_TRACE]
    account = _account_home() or ""
    if not home and not any(os.path.exists(os.path.join(account, name)) for name in ("pubring.kbx", "pubring.gpg")):
        # gpg would make its keyring. It does not where another one is named, and this one is empty (gpg(1),
        # --no-default-keyring). Those that gpg.conf names are read all the same.
        options += ["--no-default-keyring", "--keyring", os.devnull]
    # The caller names whom to trust; the web of trust of whoever runs this has no say.
    options += ["--trust-model", "always"]
    program = find_program("gpg", "gnupg", "Encryption gpg")
    return [program, *options, "--batch", "--no-tty", "--quiet", "--pinentry-mode", "loopback"]


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
    """A home for gpg in memory where the system has that; gone afterwards, with its agent."""
    base = MEMORY if os.access(MEMORY, os.W_OK | os.X_OK) else temporary_directory()
    with ExitStack() as stack:
        try:
            home = stack.enter_context(private_directory(Purpose.GPG_HOME, base, end_agent))
        except OSError as error:
            kind = NoSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else PermissionDenied
            raise kind(
                f"gpg's temporary home cannot be made in {base}: {error.strerror}. "
                f"See that there is room, and that user {os.geteuid()} may write there."
            ) from None
        yield str(home)


def end_agent(home: Path) -> None:
    """End the agent of a home. The directory of its sockets may be elsewhere, below /run/user (gpgconf(1))."""
    gpgconf = find_program("gpgconf", "gnupg", "Encryption gpg")
    for wish in (("--kill", "all"), ("--remove-socketdir",)):
        run(Command("gpgconf", (gpgconf, "--homedir", str(home), *wish)))


def _import(home: str, identity: str, passphrase: Optional[str]) -> None:
    content = identity.encode("utf-8") if _KEY_BLOCK in identity else _read(identity)
    unlock = _passphrase(passphrase) if passphrase else []
    try:
        run(Command("gpg", (*_gpg(home), *unlock, "--import", Secret(content))))
    except ToolFailed as failure:
        if "No space left on device" in failure.output:
            raise _no_room(os.path.dirname(home)) from None
        if "no valid OpenPGP data" not in failure.output:
            raise
        raise BadInput(
            "An item of encryption.identities is no private key that gpg reads. "
            "Give what gpg --export-secret-keys --armor writes, or the path of such a file."
        ) from None


def _no_room(base: str) -> NoSpace:
    return NoSpace(f"gpg's temporary home does not fit into {base}. Free space there, and run this again.")


def _read(identity: str) -> bytes:
    path = Path(identity).expanduser()
    try:
        return read_private(str(path), f"The identity {path.name}")
    except OSError as error:
        raise BadInput(
            f"The identity {path.name} cannot be read: {error.strerror}. Check encryption.identities."
        ) from None
