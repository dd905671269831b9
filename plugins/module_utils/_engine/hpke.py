# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hybrid Public Key Encryption (RFC 9180): base mode, one message, DHKEM(X25519, HKDF-SHA256) and HKDF-SHA256.

Keys are raw: 32 bytes each, private and public (RFC 7748, section 5).
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import TYPE_CHECKING, Tuple

from .primitives import cryptography_needed, hkdf_expand, hkdf_extract

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

#: Section 7.1, table 2 and section 7.2, table 3.
_KEM_X25519_HKDF_SHA256 = 0x0020
_KDF_HKDF_SHA256 = 0x0001
#: Section 5, table 1.
_MODE_BASE = b"\x00"

_KEM_SUITE = b"KEM" + struct.pack(">H", _KEM_X25519_HKDF_SHA256)
_SECRET = 32
_NONCE = 12


class Aead(Enum):
    """Section 7.3, table 5."""

    AES_128_GCM = 0x0001
    AES_256_GCM = 0x0002

    @property
    def key_size(self) -> int:
        return {0x0001: 16, 0x0002: 32}[self.value]


class BadPublicKey(ValueError):
    """A public key, or what stands for one in a message, is not usable: its shared secret would be known to all."""


class CannotOpen(ValueError):
    """The message is not for this private key, or it, its info or its associated data were altered."""


def seal(
    public_key: bytes, info: bytes, associated_data: bytes, plaintext: bytes, aead: Aead = Aead.AES_256_GCM
) -> Tuple[bytes, bytes]:
    """Encrypt one message for a public key (section 6.1, SealBase): the encapsulated key, and the ciphertext.

    Raises BadPublicKey.
    """
    with cryptography_needed():
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    return _seal(X25519PrivateKey.generate(), public_key, info, associated_data, plaintext, aead)


def open_sealed(
    private_key: bytes,
    encapsulated: bytes,
    info: bytes,
    associated_data: bytes,
    ciphertext: bytes,
    aead: Aead = Aead.AES_256_GCM,
) -> bytes:
    """Decrypt one message with a private key (section 6.1, OpenBase). Raises CannotOpen."""
    with cryptography_needed():
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    try:
        secret = _decapsulate(X25519PrivateKey.from_private_bytes(private_key), encapsulated)
    except BadPublicKey as error:
        raise CannotOpen("the encapsulated key is not usable") from error
    key, nonce = _key_schedule(secret, info, aead)
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, associated_data)
    except InvalidTag as error:
        raise CannotOpen("the message is not authentic") from error


def _seal(
    ephemeral: X25519PrivateKey, public_key: bytes, info: bytes, associated_data: bytes, plaintext: bytes, aead: Aead
) -> Tuple[bytes, bytes]:
    with cryptography_needed():
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    secret, encapsulated = _encapsulate(ephemeral, public_key)
    key, nonce = _key_schedule(secret, info, aead)
    return encapsulated, AESGCM(key).encrypt(nonce, plaintext, associated_data)


def _encapsulate(ephemeral: X25519PrivateKey, public_key: bytes) -> Tuple[bytes, bytes]:
    """Section 4.1, Encap: the shared secret, and the encapsulated key."""
    encapsulated = _public_bytes(ephemeral)
    return _shared_secret(_exchange(ephemeral, public_key), encapsulated + public_key), encapsulated


def _decapsulate(private: X25519PrivateKey, encapsulated: bytes) -> bytes:
    """Section 4.1, Decap: the shared secret."""
    return _shared_secret(_exchange(private, encapsulated), encapsulated + _public_bytes(private))


def _shared_secret(exchanged: bytes, context: bytes) -> bytes:
    """Section 4.1, ExtractAndExpand."""
    pseudorandom_key = _labeled_extract(_KEM_SUITE, b"", b"eae_prk", exchanged)
    return _labeled_expand(_KEM_SUITE, pseudorandom_key, b"shared_secret", context, _SECRET)


def _key_schedule(shared_secret: bytes, info: bytes, aead: Aead) -> Tuple[bytes, bytes]:
    """Section 5.1, KeySchedule without a pre-shared key: the key, and the nonce of the first message (section 5.2)."""
    suite = b"HPKE" + struct.pack(">HHH", _KEM_X25519_HKDF_SHA256, _KDF_HKDF_SHA256, aead.value)
    psk_id_hash = _labeled_extract(suite, b"", b"psk_id_hash", b"")
    info_hash = _labeled_extract(suite, b"", b"info_hash", info)
    context = _MODE_BASE + psk_id_hash + info_hash
    secret = _labeled_extract(suite, shared_secret, b"secret", b"")
    key = _labeled_expand(suite, secret, b"key", context, aead.key_size)
    return key, _labeled_expand(suite, secret, b"base_nonce", context, _NONCE)


def _labeled_extract(suite: bytes, salt: bytes, label: bytes, input_key: bytes) -> bytes:
    """Section 4, LabeledExtract."""
    return hkdf_extract(salt, b"HPKE-v1" + suite + label + input_key)


def _labeled_expand(suite: bytes, pseudorandom_key: bytes, label: bytes, info: bytes, size: int) -> bytes:
    """Section 4, LabeledExpand."""
    return hkdf_expand(pseudorandom_key, struct.pack(">H", size) + b"HPKE-v1" + suite + label + info, size)


def _exchange(private: X25519PrivateKey, public_key: bytes) -> bytes:
    """X25519 (RFC 7748, section 5), which must not yield all zeros (RFC 9180, section 7.1.4)."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    try:
        exchanged = private.exchange(X25519PublicKey.from_public_bytes(public_key))
    except ValueError as error:
        # OpenSSL refuses an all-zero result by itself, and the library a key of another length.
        raise BadPublicKey("the public key is not usable for X25519") from error
    if not any(exchanged):
        raise BadPublicKey("the public key has a small order")
    return exchanged


def _public_bytes(private: X25519PrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
