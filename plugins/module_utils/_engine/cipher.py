# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Encrypts and decrypts artefacts with the user's keys: joins the methods of stream/ with the slots of keys."""

from __future__ import annotations

import re
import unicodedata
from contextlib import contextmanager
from dataclasses import replace
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from . import binding, keys
from .command import Command
from .errors import BadInput, BadManifest, Damaged, EngineError, NoKey, ToolFailed, WeakerEncryption, WrongKey
from .model import Artefact, Backup, Encryption, EncryptionSettings, Generation, KeySlot, Manifest, Origin
from .process import run
from .stream import age, gpg, openssl
from .stream.age_header import AgeHeader
from .stream.openpgp import EncryptedMessage
from .stream.tink import Decryptor, Encryptor
from .stream.transform import Transform


class Stage(NamedTuple):
    """One artefact's encryption or decryption: a program, or a transform in this process, or neither.

    Of both, the transform comes first when an artefact is read.
    """

    command: Optional[Command] = None
    transform: Optional[Transform] = None
    slots: Tuple[KeySlot, ...] = ()


class Sealer:
    """Encrypts artefacts. Raises BadInput at once when the settings cannot encrypt, and never encrypts less."""

    def __init__(self, settings: EncryptionSettings) -> None:
        self._settings = settings
        self.method = settings.method
        self._data_keys: Dict[str, bytes] = {}
        _check_settings(settings)
        if self.method is Encryption.AES256_GCM:
            self._recipients = keys.load_recipients(settings.recipients)
            if not self._recipients and not settings.passphrase:
                raise BadInput(
                    "Encryption aes256-gcm needs encryption.recipients or encryption.passphrase. "
                    "Give one of them; backup_key makes a key pair. Only encryption.method none stores plain backups."
                )
        elif self.method is Encryption.GPG:
            gpg.check_recipients(settings.recipients)
        if self.method in (Encryption.GPG, Encryption.AGE, Encryption.AES256_CBC):
            self._try()

    @contextmanager
    def seal(self, origin: Origin) -> Iterator[Stage]:
        """The stage that encrypts one artefact, under a fresh key."""
        settings = self._settings
        if self.method is Encryption.AES256_GCM:
            data_key = self._data_keys[origin.artefact] = keys.new_data_key()
            slots = keys.wrap(data_key, origin, self._recipients, settings.passphrase)
            yield Stage(transform=Encryptor(data_key, origin.associated_data), slots=slots)
        elif self.method is Encryption.GPG:
            with gpg.encrypting(settings.recipients, settings.passphrase) as command:
                yield Stage(command)
        elif self.method is Encryption.AGE:
            yield Stage(age.encrypting(settings.recipients, settings.passphrase))
        elif self.method is Encryption.AES256_CBC:
            yield Stage(openssl.encrypting(settings.passphrase))
        else:
            yield Stage()

    def bind(self, manifest: Manifest) -> Manifest:
        """The manifest of what was sealed, bound to it where there is a secret for it. It must not change then."""
        names = [artefact.name for artefact in manifest.artefacts]
        if self.method is Encryption.AES256_GCM:
            bindings = [binding.bind_by_key(manifest, name, self._data_keys[name]) for name in names]
        elif self.method is Encryption.AES256_CBC:
            passphrase = self._settings.passphrase or ""
            bindings = [binding.bind_by_passphrase(manifest, name, passphrase) for name in names]
        else:
            bindings = []
        return replace(manifest, binding=tuple(bindings))

    def _try(self) -> None:
        """Encrypt nothing to see whether it can be done: what a program refuses, it refuses before the dump begins."""
        with self.seal(Origin("", "", "", "nothing")) as stage:
            # A passphrase is always accepted, and is made slow to try.
            if stage.command and self._settings.recipients:
                try:
                    run(stage.command)
                except ToolFailed as failure:
                    raise self.explain(failure) from None

    def explain(self, failure: ToolFailed) -> EngineError:
        """What a program's failure means, where it was the one that encrypts."""
        if failure.name == "gpg":
            return gpg.explain_encryption(failure)
        if failure.name == "age":
            return age.explain_encryption(failure)
        return failure


#: How zstd and gzip say that what they read is not what they wrote. Anything else, such as too little memory, says
#: nothing about the backup.
_UNPACKING = (
    "unsupported format|[Cc]orrupt|checksum|[Pp]remature end|unexpected end|Decoding error|not in gzip format|crc error"
    "|length error|invalid compressed data"
)


def check_accepted(settings: EncryptionSettings, manifest: Manifest) -> None:
    """Raise WeakerEncryption unless every artefact of a backup has a method that was asked for.

    The manifest alone says which method it is, and anyone who can write the repository can write a manifest.
    """
    for artefact in manifest.artefacts:
        method = artefact.encryption
        if method not in (settings.method, *settings.accepted):
            state = "is not encrypted" if method is Encryption.NONE else f"is encrypted with {method.value}"
            raise WeakerEncryption(
                f"{artefact.name} {state}, and encryption.method asks for {settings.method.value}. If you stored this "
                f"backup like that, add {method.value} to accept_encryption; otherwise find out who wrote it."
            )


@contextmanager
def opening(settings: EncryptionSettings, backup: Backup, artefact: Artefact) -> Iterator[Stage]:
    """The stage that decrypts an artefact; the right key is found among those given.

    Before anything is read, all of the manifest is known to be of the one who encrypted the artefact, where the method
    can tell. Raises WeakerEncryption, NoKey, WrongKey and BadManifest.
    """
    manifest = backup.manifest
    check_accepted(settings, manifest)
    method = artefact.encryption
    _check_passphrase(settings.passphrase)
    if method is Encryption.AES256_GCM:
        data_key, _generation = opened(settings, backup, artefact)
        associated_data = manifest.origin(artefact.name).associated_data
        yield Stage(transform=Decryptor(data_key, associated_data, artefact.name))
    elif method is Encryption.GPG:
        with gpg.decrypting(settings.passphrase, settings.identities) as command:
            yield Stage(command, EncryptedMessage(artefact.name))
    elif method is Encryption.AGE:
        yield Stage(age.decrypting(settings.passphrase, settings.identities), AgeHeader(artefact.name))
    elif method is Encryption.AES256_CBC:
        command = openssl.decrypting(settings.passphrase)
        binding.check_by_passphrase(manifest, artefact, settings.passphrase or "")
        yield Stage(command)
    else:
        yield Stage()


def opened(settings: EncryptionSettings, backup: Backup, artefact: Artefact) -> Tuple[bytes, Generation]:
    """An artefact's data key, to which its manifest is bound, and the newest key slots that give it.

    Anybody who can write the repository can put newer slots there that open nothing, or open a key of their own. Raises
    NoKey, WrongKey, Damaged and BadManifest, of the newest.
    """
    manifest, identities = backup.manifest, keys.load_identities(settings.identities)
    origin, failures = manifest.origin(artefact.name), []
    for generation in backup.generations or (Generation(0, manifest.finished, (), ""),):
        try:
            data_key = keys.unwrap(generation.slots, origin, identities, settings.passphrase)
            binding.check_by_key(manifest, artefact, data_key)
        except (NoKey, WrongKey, Damaged, BadManifest) as error:
            failures.append(error)
        else:
            return data_key, generation
    raise failures[0]


def sealed_for(settings: EncryptionSettings, slots: Sequence[KeySlot]) -> List[str]:
    """Who can read what was encrypted, for the audit log: recipients by id or as named, "passphrase"."""
    if slots:
        return sorted({slot.recipient or slot.kind.value for slot in slots})
    if settings.method in (Encryption.GPG, Encryption.AGE) and settings.recipients:
        return sorted(settings.recipients)
    return ["passphrase"] if settings.passphrase else []


def opened_with(settings: EncryptionSettings, backup: Backup) -> List[str]:
    """Which of the keys that were given open a backup, for the audit log: ids, paths, "passphrase". No private key."""
    method = backup.manifest.main.encryption
    if method is Encryption.NONE:
        return []
    if method is Encryption.AES256_GCM:
        wanted = {slot.recipient for slot in backup.key_slots}
        try:
            identities = keys.load_identities(settings.identities)
        except EngineError as error:
            return [f"not known: {error}"]
        found = sorted({identity.id for identity in identities} & wanted)
    else:
        found = [item if item.startswith("/") else "an inline identity" for item in settings.identities]
        if method is Encryption.GPG and not found and not settings.passphrase:
            found = ["the keyring of gpg"]
    return found or (["passphrase"] if settings.passphrase else [])


def explain_opening(failure: ToolFailed, artefact: Artefact) -> EngineError:
    """What a failure between the stored bytes and the plain ones means."""
    explain: Optional[Callable[[ToolFailed, str], EngineError]] = None
    if artefact.encryption is Encryption.GPG and failure.name == "gpg":
        explain = gpg.explain_decryption
    elif artefact.encryption is Encryption.AGE and failure.name == "age":
        explain = age.explain_decryption
    elif artefact.encryption is Encryption.AES256_CBC and failure.name in ("openssl", "zstd", "gzip"):
        # A wrong key makes noise, and it is often the decompressor that notices first.
        explain = openssl.explain_decryption
    if explain:
        return explain(failure, artefact.name)
    if failure.name in ("zstd", "gzip") and re.search(_UNPACKING, failure.output):
        return Damaged(
            f"{artefact.name} cannot be decompressed, although its stored bytes are those that were written "
            f"({failure.output or 'no reason given'}). Restore another backup."
        )
    return failure


def _check_settings(settings: EncryptionSettings) -> None:
    method = settings.method
    given = settings.recipients or settings.passphrase
    if method is Encryption.NONE and given:
        raise BadInput(
            "encryption.method is none, but recipients or a passphrase are given. Choose a method, or leave them out."
        )
    if method is Encryption.AES256_CBC and settings.recipients:
        raise BadInput("Encryption aes256-cbc knows no recipients. Give a passphrase, or choose another method.")
    if method in (Encryption.GPG, Encryption.AGE) and settings.recipients and settings.passphrase:
        raise BadInput(
            f"Encryption {method.value} takes either recipients or a passphrase when it encrypts. Give one of them."
        )
    _check_passphrase(settings.passphrase)


def _check_passphrase(passphrase: Optional[str]) -> None:
    """Raise BadInput for what a program would take for the end of the passphrase, or for a key that edits it."""
    if passphrase is None:
        return
    if any(unicodedata.category(letter) == "Cc" for letter in passphrase):
        raise BadInput("encryption.passphrase holds a line break or another control character. Choose one without.")
    if len(passphrase.encode("utf-8", "surrogateescape")) > 1000:
        raise BadInput(
            "encryption.passphrase is longer than 1000 bytes, which not every program reads. Choose a shorter one."
        )
