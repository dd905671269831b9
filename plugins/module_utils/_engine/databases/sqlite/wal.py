# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A write-ahead log, read without SQLite: which of its frames are committed, and what they make of the database file.

Encrypted databases have the same log with encrypted pages in it, so this works without a key, and on a damaged database
too. Sources: the database file format, section 4, "The Write-Ahead Log" (sqlite.org/fileformat2.html), and "WAL-mode
File Format", section 2.1, for the header of the wal-index (sqlite.org/walformat.html).
"""

from __future__ import annotations

import os
import struct
import sys
from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

from ...errors import Damaged

_MAGIC = 0x377F0682
_VERSION = 3007000
_HEADER_SIZE = 32
_FRAME_HEADER_SIZE = 24
_INDEX_HEADER_SIZE = 48
_MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class Log:
    """The committed part of a log. ``pages`` is the size of the database after its last commit."""

    page_size: int
    frames: int
    pages: int
    #: Whether the first frame belongs to this log and fails its checksum: a torn first transaction, or a log whose
    #: checksums are not over what is in the file, because something below SQLite encrypts it.
    unreadable: bool = False


@dataclass(frozen=True)
class Index:
    """What a wal-index says of its log: how many frames are committed, and to which log that applies."""

    frames: int
    page_size: int
    salt: bytes


def read_log(descriptor: int, limit: Optional[int] = None) -> Log:
    """Find the last commit of a log, within the first ``limit`` frames where given. A log can be empty or absent.

    The rules are those of SQLite's recovery: a frame counts when its salts are the header's and its checksum
    continues the one before it; frames behind the last commit do not count.
    """
    header = os.pread(descriptor, _HEADER_SIZE, 0)
    nothing = Log(page_size=0, frames=0, pages=0)
    if len(header) < _HEADER_SIZE:
        return nothing
    magic, version, page_size = struct.unpack_from(">III", header)
    if magic & ~1 != _MAGIC or not 512 <= page_size <= 65536 or page_size & (page_size - 1):
        return nothing
    order = ">" if magic & 1 else "<"
    sums = _checksum(header[:24], order, (0, 0))
    if sums != struct.unpack_from(">II", header, 24):
        return nothing
    if version != _VERSION:
        raise Damaged(f"The write-ahead log has version {version}, which is unknown. Close the database's application.")
    return _last_commit(descriptor, header[16:24], page_size, order, sums, limit)


def _last_commit(
    descriptor: int, salt: bytes, page_size: int, order: str, sums: Tuple[int, int], limit: Optional[int]
) -> Log:
    size = page_size + _FRAME_HEADER_SIZE
    present = (os.fstat(descriptor).st_size - _HEADER_SIZE) // size
    committed = pages = 0
    unreadable = False
    for number in range(1, min(present, limit if limit is not None else present) + 1):
        frame = os.pread(descriptor, size, _HEADER_SIZE + (number - 1) * size)
        if len(frame) < size or frame[8:16] != salt or frame[:4] == b"\0\0\0\0":
            break
        sums = _checksum(frame[_FRAME_HEADER_SIZE:], order, _checksum(frame[:8], order, sums))
        if sums != struct.unpack_from(">II", frame, 16):
            unreadable = number == 1
            break
        after = struct.unpack_from(">I", frame, 4)[0]
        if after:
            committed, pages = number, after
    return Log(page_size=page_size, frames=committed, pages=pages, unreadable=unreadable)


def apply_log(descriptor: int, log: Log, target: int) -> None:
    """Write a log's committed pages into a database file and give it its size; doing it twice changes nothing."""
    if not log.frames:
        return
    size = log.page_size + _FRAME_HEADER_SIZE
    for number in range(log.frames):
        frame = os.pread(descriptor, size, _HEADER_SIZE + number * size)
        page = struct.unpack_from(">I", frame)[0]
        # A later commit can have made the database smaller; SQLite's checkpoint leaves those pages out too.
        if page <= log.pages:
            write_all(target, frame[_FRAME_HEADER_SIZE:], (page - 1) * log.page_size)
    os.ftruncate(target, log.pages * log.page_size)


def read_index(descriptor: int) -> Optional[Index]:
    """The header of a wal-index, or None where it is being written at this moment or was never written."""
    both = os.pread(descriptor, 2 * _INDEX_HEADER_SIZE, 0)
    header = both[:_INDEX_HEADER_SIZE]
    if len(both) < 2 * _INDEX_HEADER_SIZE or header != both[_INDEX_HEADER_SIZE:] or not header[12]:
        return None
    # The wal-index is in the order of this machine's bytes, but for the salts, which are copied from the log.
    native = "<" if sys.byteorder == "little" else ">"
    if struct.unpack_from("=I", header)[0] != _VERSION:
        return None
    if _checksum(header[:40], native, (0, 0)) != struct.unpack_from("=II", header, 40):
        return None
    page_size = struct.unpack_from("=H", header, 14)[0]
    return Index(
        frames=struct.unpack_from("=I", header, 16)[0],
        page_size=65536 if page_size == 1 else page_size,
        salt=header[32:40],
    )


def salt_of(descriptor: int) -> bytes:
    """The eight bytes that tell a log from the one that was in the same file before."""
    return os.pread(descriptor, 8, 16)


def write_all(descriptor: int, content: bytes, offset: int) -> None:
    """Write at a position until all is written."""
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _checksum(content: bytes, order: str, sums: Tuple[int, int]) -> Tuple[int, int]:
    words: Sequence[int] = struct.unpack(f"{order}{len(content) // 4}I", content)
    first, second = sums
    for even, odd in zip(words[::2], words[1::2]):
        first = (first + even + second) & _MASK
        second = (second + odd + first) & _MASK
    return first, second
