# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tink's streaming AEAD, wire format ``AES256_GCM_HKDF_1MB``.

Source: https://developers.google.com/tink/streaming-aead/aes_gcm_hkdf_streaming. Sizes are bytes:

```
header   40 (1) | salt (32) | nonce prefix (7)
key      HKDF-SHA256 (RFC 5869) of the main key, with the salt, and the associated data as info (32)
segment  AES-256-GCM ciphertext | tag (16): 1048576 each, the header counted to the first; the last may be shorter
nonce    nonce prefix (7) | number of the segment from 0, big-endian (4) | 1 for the last segment, else 0 (1)
```

The number of the segment and the mark of the last one are what makes a stream fail that was reordered, lengthened or
cut short. The format ends at 2^32 segments (4 PiB).
"""

from __future__ import annotations

import os
import struct
from collections import deque
from typing import Deque, List, Optional, Sequence

from ..errors import Damaged
from ..primitives import cryptography_needed, hkdf_expand, hkdf_extract
from .transform import Block, Transform

_KEY = 32
_SALT = 32
_PREFIX = 7
_HEADER = 1 + _SALT + _PREFIX
_SEGMENT = 1 << 20
_TAG = 16
#: update_into() asks for room for almost one block of the cipher more than it writes.
_SLACK = 16
#: More blocks than this do not wait one by one: views of very small ones would take more memory than the bytes.
_PIECES = 1024


class Encryptor(Transform):
    """Encrypts one stream under a main key of 32 bytes."""

    def __init__(self, key: bytes, associated_data: bytes) -> None:
        salt, prefix = os.urandom(_SALT), os.urandom(_PREFIX)
        self._segments = _Segments(key, salt, prefix, associated_data)
        self._header = bytes([_HEADER]) + salt + prefix
        self._waiting = _Waiting()
        self._room = _SEGMENT - _HEADER - _TAG
        self._finished = False

    def update(self, block: Block) -> bytes:
        """Encrypt the next bytes. A full segment waits until more comes: it might be the last."""
        self._require_unfinished()
        self._waiting.put(block)
        ready: List[bytes] = []
        while self._waiting.size > self._room:
            ready.append(self._next(self._room, last=False))
        return b"".join(ready)

    def finish(self) -> bytes:
        """Encrypt the last segment."""
        self._require_unfinished()
        self._finished = True
        return self._next(self._waiting.size, last=True)

    def _next(self, size: int, last: bool) -> bytes:
        sealed = self._segments.encrypt(self._waiting.take(size), last)
        header, self._header, self._room = self._header, b"", _SEGMENT - _TAG
        return header + sealed if header else sealed

    def _require_unfinished(self) -> None:
        if self._finished:
            raise RuntimeError("this stream is finished; another one needs another Encryptor")


class Decryptor(Transform):
    """Decrypts one stream, and gives out no byte that is not authentic and in its place.

    Raises Damaged, which calls the stream by ``name``, where it is not what was written under this key and these
    associated data; what came out before is a true beginning of it.
    """

    def __init__(self, key: bytes, associated_data: bytes, name: str = "The artefact") -> None:
        self._key, self._associated_data, self._name = _checked(key), associated_data, name
        self._segments: Optional[_Segments] = None
        self._waiting = _Waiting()
        self._size = _SEGMENT - _HEADER
        self._over = False

    def update(self, block: Block) -> bytes:
        """Decrypt the next bytes. A full segment waits until more comes: it might be the last."""
        self._require_open()
        self._waiting.put(block)
        if self._segments is None and self._waiting.size >= _HEADER:
            self._segments = self._begin()
        ready: List[bytes] = []
        while self._segments is not None and self._waiting.size > self._size:
            ready.append(self._next(self._segments, self._size, last=False))
        return b"".join(ready)

    def finish(self) -> bytes:
        """Decrypt the last segment."""
        self._require_open()
        if self._segments is None or self._waiting.size < _TAG:
            raise self._damaged("it ends too early")
        plain = self._next(self._segments, self._waiting.size, last=True)
        self._over = True
        return plain

    def _begin(self) -> _Segments:
        header = b"".join(self._waiting.take(_HEADER))
        if header[0] != _HEADER:
            raise self._damaged("its header is not that of this format")
        return _Segments(self._key, header[1 : 1 + _SALT], header[1 + _SALT :], self._associated_data)

    def _next(self, segments: _Segments, size: int, last: bool) -> bytes:
        pieces, tag = self._waiting.take(size - _TAG), b"".join(self._waiting.take(_TAG))
        plain = segments.decrypt(pieces, tag, last)
        if plain is None:
            where = "its end is missing or not authentic" if last else f"segment {segments.count} is not authentic"
            raise self._damaged(where)
        self._size = _SEGMENT
        return plain

    def _damaged(self, what: str) -> Damaged:
        self._over = True
        return Damaged(
            f"{self._name} was altered, cut short or swapped with another file: {what}. "
            "Use a copy from another repository, or another backup."
        )

    def _require_open(self) -> None:
        if self._over:
            raise RuntimeError("this stream is finished or damaged; another one needs another Decryptor")


class _Waiting:
    """The bytes that are not a segment yet, in the blocks in which they came."""

    def __init__(self) -> None:
        self._blocks: Deque[memoryview] = deque()
        self.size = 0

    def put(self, block: Block) -> None:
        kept = memoryview(block if isinstance(block, bytes) else bytes(block))
        if kept:
            self._blocks.append(kept)
            self.size += len(kept)
        if len(self._blocks) > _PIECES:
            self._blocks = deque([memoryview(b"".join(self._blocks))])

    def take(self, size: int) -> List[memoryview]:
        """The first ``size`` bytes, in pieces."""
        self.size -= size
        pieces: List[memoryview] = []
        while size:
            block = self._blocks.popleft()
            if len(block) > size:
                self._blocks.appendleft(block[size:])
                block = block[:size]
            pieces.append(block)
            size -= len(block)
        return pieces


class _Segments:
    """The segments of one stream, encrypted or decrypted in their order."""

    # Cipher contexts and not AESGCM: they take a segment in pieces, without joining them first, and older versions of
    # the library copy less in them. The output buffer is kept because fresh memory costs more than a copy.
    def __init__(self, key: bytes, salt: bytes, prefix: bytes, associated_data: bytes) -> None:
        with cryptography_needed():
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers import Cipher
            from cryptography.hazmat.primitives.ciphers.algorithms import AES
            from cryptography.hazmat.primitives.ciphers.modes import GCM
        self._cipher, self._gcm, self._invalid_tag = Cipher, GCM, InvalidTag
        self._aes = AES(hkdf_expand(hkdf_extract(salt, _checked(key)), associated_data, _KEY))
        self._prefix = prefix
        self._output = memoryview(bytearray(_SEGMENT + _SLACK))
        #: How many segments are done.
        self.count = 0

    def encrypt(self, pieces: Sequence[memoryview], last: bool) -> bytes:
        """Ciphertext and tag of the next segment."""
        context = self._cipher(self._aes, self._gcm(self._nonce(last))).encryptor()
        size = 0
        for piece in pieces:
            size += context.update_into(piece, self._output[size:])
        context.finalize()
        self._output[size : size + _TAG] = context.tag
        self.count += 1
        return bytes(self._output[: size + _TAG])

    def decrypt(self, pieces: Sequence[memoryview], tag: bytes, last: bool) -> Optional[bytes]:
        """The plain bytes of the next segment, or None where it is not authentic."""
        context = self._cipher(self._aes, self._gcm(self._nonce(last), tag)).decryptor()
        size = 0
        for piece in pieces:
            size += context.update_into(piece, self._output[size:])
        try:
            context.finalize()
        except self._invalid_tag:
            return None
        self.count += 1
        return bytes(self._output[:size])

    def _nonce(self, last: bool) -> bytes:
        return self._prefix + struct.pack(">IB", self.count, last)


def _checked(key: bytes) -> bytes:
    if len(key) != _KEY:
        raise ValueError(f"a main key has {_KEY} bytes, not {len(key)}")
    return key
