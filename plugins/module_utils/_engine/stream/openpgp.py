# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The outside of an OpenPGP message (RFC 9580, sections 4.2, 10.3 and 10.6): whether all of it is encrypted.

gpg --decrypt also prints what was merely stored, compressed or signed, and ends well. So nothing reaches it but session
keys and, up to the end of the stream, one packet of encrypted and integrity-protected data.
"""

from __future__ import annotations

import struct
from typing import Optional, Tuple

from ..errors import Damaged
from .transform import Block, Transform

#: Packet types (RFC 9580, section 5): encrypted session keys, and encrypted data. 20 is GnuPG's own AEAD packet; 9 has
#: no protection of its integrity.
_SESSION_KEYS = frozenset({1, 3})
_ENCRYPTED_DATA = frozenset({18, 20})
#: A session key for an RSA key of 16384 bits has 2 KiB.
_LONGEST_KEY = 16 << 10
#: As many recipients as a backup can have; and passphrases, of which gpg writes one: to try each takes a second.
_MOST_KEYS, _PASSPHRASE, _MOST_PASSPHRASES = 64, 3, 2


class EncryptedMessage(Transform):
    """Passes a stream on unchanged while it is one encrypted message. Raises Damaged, which calls it by ``name``."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._header = b""
        #: How much of the packet, or of a part of it, is still to come.
        self._left = 0
        self._in_data = self._partial = self._complete = False
        self._keys = self._passphrases = 0

    def update(self, block: Block) -> bytes:
        position = 0
        while position < len(block):
            if self._left:
                passed = min(self._left, len(block) - position)
                self._left -= passed
                position += passed
                self._complete = self._in_data and not self._partial and not self._left
                continue
            if self._complete:
                raise self._refused("something follows the encrypted message")
            self._header += bytes(block[position : position + 1])
            position += 1
            self._read_header()
        return block if isinstance(block, bytes) else bytes(block)

    def finish(self) -> bytes:
        if not self._complete:
            raise self._refused("it ends too early")
        return b""

    def _read_header(self) -> None:
        """Begin the next packet, or the next part of one, once its header is complete."""
        header = self._header
        if self._partial:
            size, partial = _new_length(header)
        else:
            self._check_type(header[0])
            size, partial = _new_length(header[1:]) if header[0] & 0x40 else _old_length(header)
        if size is None:
            return
        if not self._in_data and (partial or size > _LONGEST_KEY):
            raise self._refused("a session key is too long")
        if not self._in_data:
            self._count(header[0])
        self._header, self._left, self._partial = b"", size, partial
        self._complete = self._in_data and not partial and not size

    def _check_type(self, first: int) -> None:
        kind = _kind(first)
        self._in_data = kind in _ENCRYPTED_DATA
        # Data of a length that is not known is older than integrity protection.
        endless = not first & 0x40 and first & 0x03 == 3
        if not first & 0x80 or endless or not (self._in_data or kind in _SESSION_KEYS):
            raise self._refused("it is not an encrypted message, or something precedes it")

    def _count(self, first: int) -> None:
        self._keys += 1
        self._passphrases += _kind(first) == _PASSPHRASE
        if self._keys > _MOST_KEYS or self._passphrases > _MOST_PASSPHRASES:
            raise self._refused("it has too many session keys")

    def _refused(self, why: str) -> Damaged:
        return Damaged(f"{self._name} is not what gpg wrote: {why}. Restore another backup.")


def _kind(first: int) -> int:
    """The type of a packet by its first octet (RFC 9580, section 4.2)."""
    return first & 0x3F if first & 0x40 else first >> 2 & 0x0F


def _new_length(length: bytes) -> Tuple[Optional[int], bool]:
    """A length and whether more parts follow (RFC 9580, section 4.2.1); None while it is not complete."""
    if not length:
        return None, False
    first = length[0]
    if first < 192:
        return first, False
    if first < 224:
        return ((first - 192) << 8) + length[1] + 192 if len(length) > 1 else None, False
    if first < 255:
        return 1 << (first & 0x1F), True
    return struct.unpack(">I", length[1:5])[0] if len(length) > 4 else None, False


def _old_length(header: bytes) -> Tuple[Optional[int], bool]:
    """The same for a packet with an old header (section 4.2.2)."""
    octets = 1 << (header[0] & 0x03)
    return int.from_bytes(header[1:], "big") if len(header) > octets else None, False
