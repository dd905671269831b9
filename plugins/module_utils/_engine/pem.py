# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""X25519 key pairs as PEM: PKCS#8 and SubjectPublicKeyInfo (RFC 7468, RFC 8410), as openssl-genpkey(1) writes them.

What users give as keys is PEM text or the path of a file with it. Messages name a file, or the number of the item in
its option; never what it holds, as that may be a private key in the wrong place.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Sequence, Tuple, TypeVar

from .errors import BadInput, NotFound, PermissionDenied
from .host.private_file import read_private
from .primitives import cryptography_needed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

_Key = TypeVar("_Key")

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)
_BEGIN = "-----BEGIN "
#: No file of keys is longer, in bytes.
_FILE_LIMIT = 1 << 20
_GENERATE = "openssl genpkey -algorithm X25519 writes a private key, and openssl pkey -pubout its public one."


class Recipient(NamedTuple):
    """Whom a data key is wrapped for. ``public`` is the raw key of 32 bytes, ``id`` see ``recipient_id``."""

    id: str
    name: str
    public: bytes


@dataclass(frozen=True)
class Identity:
    """Who can unwrap. ``private`` is the raw key of 32 bytes, ``id`` is its public key's."""

    id: str
    name: str
    private: bytes = field(repr=False)


class _Role(Enum):
    """What a key is given for."""

    RECIPIENT = "recipient"
    IDENTITY = "identity"

    @property
    def option(self) -> str:
        return {"recipient": "encryption.recipients", "identity": "encryption.identities"}[self.value]


@dataclass(frozen=True)
class _Item:
    """One item of an option: how messages call it, and what it holds."""

    role: _Role
    name: str
    content: bytes = field(repr=False)
    #: Which one of the option's items it is, from 1 on.
    number: int = 1

    @property
    def label(self) -> str:
        return f"The {_called(self.role, self.name, self.number)}"


def generate() -> bytes:
    """A new private key as PEM."""
    with cryptography_needed():
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    return X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(private_pem: bytes) -> bytes:
    """The public key of a private one, both as PEM. Raises BadInput."""
    with cryptography_needed():
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    private = _only(_private_keys(_Item(_Role.IDENTITY, "that was given", private_pem)))
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def recipient_id(public: bytes) -> str:
    """The id of a public key given as PEM: the SHA-256 of its SubjectPublicKeyInfo in DER, in hexadecimal.

    Raises BadInput.
    """
    return _key_id(_only(_public_keys(_Item(_Role.RECIPIENT, "that was given", public))))


def public_of(identity: Identity) -> str:
    """The public key of an identity, as PEM."""
    with cryptography_needed():
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    public = X25519PrivateKey.from_private_bytes(identity.private).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def load_recipients(items: Sequence[str]) -> Tuple[Recipient, ...]:
    """Public keys from PEM texts and paths of PEM files, which may hold several; each key once.

    Raises BadInput, NotFound and PermissionDenied, for a private key too: it has no business where backups are made.
    """
    found: Dict[str, Recipient] = {}
    for item in _read_all(items, _Role.RECIPIENT):
        for key in _public_keys(item):
            recipient = Recipient(_key_id(key), item.name, _raw_public(key))
            found.setdefault(recipient.id, recipient)
    return tuple(found.values())


def load_identities(items: Sequence[str]) -> Tuple[Identity, ...]:
    """Private keys from PEM texts and paths of PEM files, which may hold several; each key once.

    Raises BadInput, NotFound and PermissionDenied.
    """
    found: Dict[str, Identity] = {}
    for item in _read_all(items, _Role.IDENTITY):
        for key in _private_keys(item):
            identity = Identity(_key_id(key.public_key()), os.path.basename(item.name), _raw_private(key))
            found.setdefault(identity.id, identity)
    return tuple(found.values())


def _read_all(items: Sequence[str], role: _Role) -> List[_Item]:
    return [_read(text, role, number) for number, text in enumerate(items, 1)]


def _read(text: str, role: _Role, number: int) -> _Item:
    if _BEGIN in text:
        return _Item(role, f"number {number}", text.encode("ascii", "replace"), number)
    path = os.path.expanduser(text.strip())
    if not _is_path(path):
        raise BadInput(
            f"{role.option}: item {number} is neither a PEM key nor the path of an existing file. "
            f"Give one of them. {_GENERATE}"
        )
    return _Item(role, path, _read_file(path, role, _called(role, path, number)), number)


def _called(role: _Role, name: str, number: int) -> str:
    """How messages call an item: an identity's whole path is masked in Ansible's output, as all of that option is."""
    if role is _Role.RECIPIENT or "/" not in name:
        return f"{role.value} {name}"
    return f"{role.value} number {number} ({os.path.basename(name)})"


def _is_path(text: str) -> bool:
    # What only might be a path is not repeated in a message: it might also be a bare private key.
    if "\n" in text or "\0" in text or len(text) > 4096:
        return False
    return text.startswith(("/", "./", "../")) or os.path.isfile(text)


def _read_file(path: str, role: _Role, called: str) -> bytes:
    try:
        if role is _Role.IDENTITY:
            return read_private(path, f"The {called}")
        with open(path, "rb") as file:
            content = file.read(_FILE_LIMIT + 1)
    except FileNotFoundError:
        raise NotFound(f"Cannot read the {called}: there is no such file. Check {role.option}.") from None
    except PermissionError:
        raise PermissionDenied(
            f"Cannot read the {called}: this account may not. Change the file's owner or mode, or check {role.option}."
        ) from None
    except OSError as error:
        raise BadInput(f"Cannot read the {called}: {error.strerror}. Check {role.option}.") from error
    if len(content) > _FILE_LIMIT:
        raise BadInput(f"The {called} is far too long for a key. Check {role.option}.")
    return content


def _public_keys(item: _Item) -> List[X25519PublicKey]:
    with cryptography_needed():
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_der_public_key
    keys: List[X25519PublicKey] = []
    for label, body in _blocks(item):
        if label.endswith("PRIVATE KEY"):
            raise BadInput(
                f"{item.label} is a private key. Give the public one, which openssl pkey -pubout writes, "
                "and keep the private key away from hosts that only make backups."
            )
        key = _parsed(item, label, body, "PUBLIC KEY", load_der_public_key)
        if not isinstance(key, X25519PublicKey):
            raise _other_algorithm(item, key)
        keys.append(key)
    return keys


def _private_keys(item: _Item) -> List[X25519PrivateKey]:
    with cryptography_needed():
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_der_private_key
    keys: List[X25519PrivateKey] = []
    for label, body in _blocks(item):
        if label == "PUBLIC KEY":
            raise BadInput(f"{item.label} is a public key. Give the private key that belongs to it.")
        if label == "ENCRYPTED PRIVATE KEY":
            raise BadInput(
                f"{item.label} is encrypted itself, and nobody is there to type its passphrase. "
                "Give it as openssl pkey writes it, and protect it with Ansible Vault or the file's mode."
            )
        key = _parsed(item, label, body, "PRIVATE KEY", lambda der: load_der_private_key(der, None))
        if not isinstance(key, X25519PrivateKey):
            raise _other_algorithm(item, key)
        keys.append(key)
    return keys


def _only(keys: Sequence[_Key]) -> _Key:
    if len(keys) != 1:
        raise BadInput(f"One PEM key is expected here, and {len(keys)} were given. Give just one.")
    return keys[0]


def _blocks(item: _Item) -> List[Tuple[str, bytes]]:
    """The label and the text of each PEM block; what stands around them is explanation (RFC 7468, section 2)."""
    found = _BLOCK.findall(item.content)
    if not found or len(found) != item.content.count(_BEGIN.encode("ascii")):
        raise BadInput(f"{item.label} holds no PEM key, or one that is cut short. {_GENERATE}")
    return [(label.decode("ascii"), body) for label, body in found]


def _parsed(item: _Item, label: str, body: bytes, expected: str, load: Any) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm

    if label != expected:
        raise BadInput(f"{item.label} holds a {label}, and aes256-gcm needs an X25519 {expected}. {_GENERATE}")
    try:
        # Without its line breaks: YAML folds them into spaces easily.
        return load(base64.b64decode(b"".join(body.split()), validate=True))
    except UnsupportedAlgorithm:
        raise BadInput(f"{item.label} is a key of an unknown algorithm instead of X25519. {_GENERATE}") from None
    except (ValueError, TypeError):
        raise BadInput(f"{item.label} is not a valid PEM key; it was altered or cut short. {_GENERATE}") from None


def _other_algorithm(item: _Item, key: Any) -> BadInput:
    # The library calls its classes RSAPublicKey, _RSAPublicKey, EllipticCurvePrivateKey, Ed25519PrivateKey ...
    algorithm = re.split("Public|Private", type(key).__name__.lstrip("_"))[0]
    return BadInput(f"{item.label} is a key for {algorithm}, and aes256-gcm needs one for X25519. {_GENERATE}")


def _key_id(key: X25519PublicKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _raw_public(key: X25519PublicKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def _raw_private(key: X25519PrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
