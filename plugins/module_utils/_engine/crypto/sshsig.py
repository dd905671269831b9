# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Detached signatures as ``ssh-keygen -Y sign`` makes them (OpenSSH, PROTOCOL.sshsig), with Ed25519 keys (RFC 8709).

``ssh-keygen -Y verify`` checks what is signed here, and what it signs is checked here. Pure functions.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from typing import TYPE_CHECKING, Tuple

from ..errors import BadSignature
from ..primitives import cryptography_needed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_TYPE = b"ssh-ed25519"
#: No armoured signature of an Ed25519 key is longer, in bytes: a namespace has at most _LONGEST.
SIGNATURE_LIMIT = 2_000
_LONGEST = 200
_MAGIC, _VERSION = b"SSHSIG", 1
_BEGIN, _END = b"-----BEGIN SSH SIGNATURE-----", b"-----END SSH SIGNATURE-----"
#: How many characters ssh-keygen(1) writes in a line.
_WIDTH = 70
_HASHES = {b"sha512": hashlib.sha512, b"sha256": hashlib.sha256}
_KEY, _SIGNATURE = 32, 64


def sign(private: Ed25519PrivateKey, namespace: str, message: bytes) -> bytes:
    """Sign a message for a namespace; the armoured signature."""
    with cryptography_needed():
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    algorithm = b"sha512"
    signature = private.sign(_signed(namespace.encode("ascii"), algorithm, message))
    blob = _MAGIC + struct.pack(">I", _VERSION)
    blob += b"".join(
        map(
            _string,
            (key_blob(public), namespace.encode("ascii"), b"", algorithm, _string(KEY_TYPE) + _string(signature)),
        )
    )
    return _armoured(blob)


def signer_of(armoured: bytes, namespace: str, message: bytes) -> bytes:
    """The public key (32 bytes) whose owner signed this message for this namespace.

    Whether that owner may sign it is another question (signers.py). Raises BadSignature.
    """
    public, of_namespace, algorithm, signature = _parsed(armoured)
    if of_namespace != namespace.encode("ascii"):
        raise BadSignature(f"was made for {of_namespace.decode('ascii', 'replace')[:_LONGEST]!r}, not for {namespace}")
    with cryptography_needed():
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _signed(of_namespace, algorithm, message))
    except (InvalidSignature, ValueError):
        raise BadSignature("is not of these bytes: they were changed after they were signed") from None
    return public


def key_blob(public: bytes) -> bytes:
    """A public key of 32 bytes as OpenSSH writes it, before base64 (RFC 8709, section 4)."""
    return _string(KEY_TYPE) + _string(public)


def key_of_blob(blob: bytes) -> bytes:
    """The 32 bytes of an Ed25519 key. Raises BadSignature for any other kind."""
    kind, rest = _take(blob)
    public, rest = _take(rest) if kind == KEY_TYPE else (b"", b"")
    if len(public) != _KEY or rest:
        raise BadSignature("is not of an Ed25519 key")
    return public


def _signed(namespace: bytes, algorithm: bytes, message: bytes) -> bytes:
    """What the key itself signs."""
    return _MAGIC + b"".join(map(_string, (namespace, b"", algorithm, _HASHES[algorithm](message).digest())))


def _parsed(armoured: bytes) -> Tuple[bytes, bytes, bytes, bytes]:
    """The public key, the namespace, the name of the hash and the signature in an armoured one."""
    blob = _unarmoured(armoured)
    head = len(_MAGIC) + 4
    if blob[: len(_MAGIC)] != _MAGIC or len(blob) < head:
        raise BadSignature("is not a signature of OpenSSH")
    (version,) = struct.unpack(">I", blob[len(_MAGIC) : head])
    if version != _VERSION:
        raise BadSignature(f"has version {version}, and this reads version {_VERSION}")
    public, rest = _take(blob[head:])
    namespace, rest = _take(rest)
    _reserved, rest = _take(rest)
    algorithm, rest = _take(rest)
    signature, rest = _take(rest)
    if algorithm not in _HASHES:
        raise BadSignature("was made with a hash other than SHA-512 and SHA-256")
    kind, inner = _take(signature)
    raw, left = _take(inner) if kind == KEY_TYPE else (b"", b"")
    if len(raw) != _SIGNATURE or left or rest:
        raise BadSignature("is not of an Ed25519 key")
    return key_of_blob(public), namespace, algorithm, raw


def _armoured(blob: bytes) -> bytes:
    text = base64.b64encode(blob)
    lines = [text[start : start + _WIDTH] for start in range(0, len(text), _WIDTH)]
    return b"\n".join((_BEGIN, *lines, _END, b""))


def _unarmoured(armoured: bytes) -> bytes:
    text = armoured[: SIGNATURE_LIMIT + 1].strip()
    if len(armoured) > SIGNATURE_LIMIT or not (text.startswith(_BEGIN) and text.endswith(_END)):
        raise BadSignature("is not a signature of OpenSSH")
    try:
        return base64.b64decode(b"".join(text[len(_BEGIN) : -len(_END)].split()), validate=True)
    except (binascii.Error, ValueError):
        raise BadSignature("is not a signature of OpenSSH") from None


def _string(content: bytes) -> bytes:
    """A string of the SSH protocol (RFC 4251, section 5)."""
    return struct.pack(">I", len(content)) + content


def _take(content: bytes) -> Tuple[bytes, bytes]:
    """The first string of the SSH protocol in some bytes, and what follows it."""
    if len(content) < 4:
        raise BadSignature("is cut short")
    (size,) = struct.unpack(">I", content[:4])
    if size > len(content) - 4:
        raise BadSignature("is cut short")
    return content[4 : 4 + size], content[4 + size :]
