# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SQLite's files on disk: where they are, what a file is that should be a database, and what its header says.

Sources: the database file format, section 1.3, "The Database Header" (sqlite.org/fileformat2.html), and "How To Corrupt
An SQLite Database File", section 2.2, on descriptors closed while locks are held (sqlite.org/howtocorrupt.html).
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Dict, Iterator, List, NoReturn, Optional, Tuple, Union

from ...errors import BadInput, Damaged, EngineError, NoSpace, NotADatabase, NotFound, PermissionDenied
from ...timespan import format_size

MAGIC = b"SQLite format 3\0"
HEADER_SIZE = 100
WAL, SHM, JOURNAL = "-wal", "-shm", "-journal"

_SPACE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

#: Every page size is a multiple of this, and so is the size of every database.
_SMALLEST_PAGE = 512
_START = 4096

#: Above this chi-squared statistic against evenly spread bytes, a first page is not encrypted. Random bytes have a mean
#: of 255 (the degrees of freedom) and a standard deviation of 22.6, so they stay below by ten deviations, and still do
#: with the few zero bytes that SQLCipher 3 leaves at a page's end (320 was measured). Text in base64, the most evenly
#: spread thing that is not random, has 3 for each byte: 2772.
_EVENLY_SPREAD = 481.0
#: What is tested: one page of SQLCipher 3, less the header, which can be left in the clear.
_TESTED = slice(HEADER_SIZE, 1024)

#: Files that are as evenly spread as an encrypted database, and files that people mistake for a database.
_KNOWN_STARTS: Tuple[Tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "a gzip file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"\xfd7zXZ\x00", "an xz file"),
    (b"BZh", "a bzip2 file"),
    (b"\x04\x22\x4d\x18", "an lz4 file"),
    (b"PK\x03\x04", "a zip file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip file"),
    (b"Salted__", "a file encrypted by openssl"),
    (b"age-encryption.org/", "a file encrypted by age"),
    (b"-----BEGIN", "a PEM file"),
    (b"LUKS\xba\xbe", "a LUKS volume"),
    (b"PGDMP", "a PostgreSQL dump"),
    (b"\x7fELF", "a program"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"%PDF", "a PDF document"),
    (b"** This file contains an SQLite 2", "a database of SQLite 2"),
)


class Kind(Enum):
    """What can be known of a database without a key."""

    PLAIN = "plain"
    OPAQUE = "opaque"


@dataclass(frozen=True)
class Header:
    """The fields of a plain database's header that the manifest records."""

    page_size: int
    wal: bool
    encoding: str
    user_version: int
    application_id: int


def beside(path: Path, suffix: str) -> Path:
    """The file that SQLite keeps beside a database under its name and a suffix."""
    return path.with_name(path.name + suffix)


def resolve(name: str) -> Path:
    """The absolute path of a database, links followed. Raises BadInput for what cannot be a path of one."""
    if not os.path.isabs(name):
        raise BadInput(f'database: "{name}" is not an absolute path. Write the whole path of the SQLite file.')
    if "\0" in name or name.endswith("/"):
        raise BadInput(f"database: {name!r} cannot be the path of a file. Write the whole path of the SQLite file.")
    return Path(os.path.realpath(name))


def size_of(path: Path) -> int:
    """Bytes of a database with its write-ahead log."""
    total = 0
    for file in (path, beside(path, WAL)):
        with suppress(FileNotFoundError):
            total += os.stat(file).st_size
    return total


def empty(file: Union[Path, int]) -> None:
    """Make a file empty, given by its path or a descriptor, and leave one alone that is.

    What was made empty is written to the disk as soon as it is closed, even if it was empty before (ext4(5),
    auto_da_alloc): of a copy that is soon removed, all of it for nothing.
    """
    if os.stat(file).st_size:
        os.truncate(file, 0)


def classify(path: Path) -> Optional[Kind]:
    """What a database is, or None where nothing has its name. Changes nothing.

    Raises NotADatabase saying what the file looks like, and PermissionDenied.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise NotADatabase(f"{path} is {_kind_of_inode(status.st_mode)}, not an SQLite database. Name the file.")
        start = read_start(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise_os_error(error, f"Cannot read {path}")
    return kind_of(start, status.st_size, path)


def require_ordinary_logs(path: Path) -> None:
    """Raise NotADatabase where what SQLite would open beside a database is no file: a pipe is read for ever, and a link
    leads elsewhere."""
    for suffix in (WAL, SHM, JOURNAL):
        log = beside(path, suffix)
        try:
            mode = os.lstat(log).st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise_os_error(error, f"Cannot look at {log}")
        if not stat.S_ISREG(mode):
            raise NotADatabase(f"{log} is {_kind_of_inode(mode)}, where SQLite keeps a log. Remove it.")


def require(path: Path) -> Kind:
    """What a database is. Raises NotFound where there is none, and what ``classify`` raises."""
    kind = classify(path)
    if kind is None:
        raise NotFound(f"There is no database {path}. Check the path, or whether its file system is mounted.")
    return kind


def kind_of(start: bytes, size: int, path: Path) -> Kind:
    """Tell a plain database from an encrypted one by its first 4096 bytes; NotADatabase where it is neither.

    An encrypted database shows no header at all (or, in SQLCipher with a plaintext header, only the header). What
    remains to go by: its size is a whole number of pages, its bytes are evenly spread, and it is no known format.
    """
    if size == 0:
        raise NotADatabase(f"{path} is empty: it holds no database. Name the file that the application writes.")
    looks = _known_format(start)
    random = size % _SMALLEST_PAGE == 0 and looks is None and _chi_squared(start[_TESTED]) < _EVENLY_SPREAD
    if start.startswith(MAGIC):
        return Kind.PLAIN if _is_page_in_clear(start) or not random else Kind.OPAQUE
    if random:
        return Kind.OPAQUE
    raise NotADatabase(
        f"{path} is not an SQLite database: it {looks or 'begins like no SQLite file, and is not encrypted either'}. "
        "Name the file that the application writes."
    )


def _is_page_in_clear(start: bytes) -> bool:
    """Whether a first page is what SQLite writes: the header's reserved bytes are zero, and a table's root follows it.

    "Database File Format", 1.3 and 1.6 (sqlite.org/fileformat2.html). One encrypted page in 128 has the byte of a
    table's root by chance.
    """
    if len(start) < HEADER_SIZE + 8 or any(start[72:92]):
        return False
    page_size = struct.unpack_from(">H", start, 16)[0]
    kind, _free, cells, content, fragments = struct.unpack_from(">BHHHB", start, HEADER_SIZE)
    pointers = HEADER_SIZE + {5: 12, 13: 8}.get(kind, len(start)) + 2 * cells
    # A page of 65536 bytes has the size 1, and an empty one of them the content 0.
    return bool(pointers <= (content or 65536) <= (page_size if page_size > 1 else 65536) and fragments <= 60)


def parse_header(start: bytes, path: Path) -> Header:
    """Read a plain database's header. Raises Damaged where it holds what no header may hold."""
    page_size = struct.unpack_from(">H", start, 16)[0] if len(start) >= HEADER_SIZE else 0
    encoding = {0: "UTF-8", 1: "UTF-8", 2: "UTF-16le", 3: "UTF-16be"}.get(
        struct.unpack_from(">I", start, 56)[0] if len(start) >= HEADER_SIZE else -1
    )
    if page_size not in (1, 512, 1024, 2048, 4096, 8192, 16384, 32768) or encoding is None:
        raise Damaged(f"The header of {path} is damaged. Restore the database from a backup.")
    return Header(
        page_size=65536 if page_size == 1 else page_size,
        wal=start[18] == 2,
        encoding=encoding,
        user_version=struct.unpack_from(">i", start, 60)[0],
        application_id=struct.unpack_from(">i", start, 68)[0],
    )


# POSIX locks belong to the process: when any descriptor of a file is closed, the locks that SQLite in the same process
# holds on that file are gone. While a connection is open, its file is therefore not opened a second time.
_guard = threading.Lock()
_pinned: Dict[Tuple[int, int], List[bytes]] = {}


def read_start(path: Path) -> bytes:
    """The first 4096 bytes of a file, read without endangering the locks of this process. Raises OSError."""
    with _guard:
        status = os.stat(path)
        pins = _pinned.get((status.st_dev, status.st_ino))
        return pins[0] if pins else _read_start(path)


@contextmanager
def pinned(path: Path) -> Iterator[None]:
    """Keep ``read_start`` from opening a file, for as long as a connection of this process is open on it."""
    with _guard:
        status = os.stat(path)
        key = (status.st_dev, status.st_ino)
        pins = _pinned.setdefault(key, [])
        pins.append(pins[0] if pins else _read_start(path))
    try:
        yield
    finally:
        with _guard:
            pins.pop()
            if not pins:
                _pinned.pop(key, None)


def _read_start(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.pread(descriptor, _START, 0)
    finally:
        os.close(descriptor)


def _chi_squared(sample: bytes) -> float:
    expected = len(sample) / 256
    counts = Counter(sample)
    return sum((counts[byte] - expected) ** 2 / expected for byte in range(256)) if sample else float("inf")


def _known_format(start: bytes) -> Optional[str]:
    for magic, name in _KNOWN_STARTS:
        if start.startswith(magic):
            return f"looks like {name}"
    if not start.strip(b"\0"):
        return "begins with zeros"
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        # A character of several bytes can be cut off at the end of what was read.
        if len(start) < _START or error.start < len(start) - 3:
            return None
        text = start[: error.start].decode("utf-8")
    printable = sum(1 for character in text if character.isprintable() or character in "\r\n\t\f")
    return "looks like text" if text and printable == len(text) and not start.startswith(MAGIC) else None


def _kind_of_inode(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISLNK, "a link"),
    )
    return next((name for test, name in kinds if test(mode)), "a device")


def raise_os_error(error: OSError, attempt: str) -> NoReturn:
    """Turn an operating system's error into one of ours; ``attempt`` says what could not be done, to what."""
    reason = error.strerror or str(error)
    if isinstance(error, PermissionError):
        raise PermissionDenied(
            f"{attempt}: permission denied. Run this as the database's owner or as root, "
            "or give this account access to the file and its directory."
        ) from error
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise NotFound(f"{attempt}: {reason.lower()}. Check the path.") from error
    if error.errno in _SPACE_ERRORS:
        raise NoSpace(f"{attempt}: {reason.lower()}. Free some space, then run this again.") from error
    raise EngineError(f"{attempt}: {reason.lower()}. Check the file system and the kernel's log.") from error


def require_space(directory: Path, needed: int, purpose: str) -> None:
    """Raise NoSpace where a file system has fewer bytes free than are about to be written."""
    free = os.statvfs(directory)
    # A tmpfs without a limit says that it has no blocks at all.
    if free.f_blocks and free.f_bavail * free.f_frsize < needed:
        raise NoSpace(
            f"{purpose} needs {format_size(needed)} in {directory}, where {format_size(free.f_bavail * free.f_frsize)} "
            "are free. Free some space, then run this again."
        )
