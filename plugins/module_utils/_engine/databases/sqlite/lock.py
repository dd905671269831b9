# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The byte-range locks with which SQLite's connections keep out of each other's way, taken from outside of SQLite.

Sources: "File Locking And Concurrency In SQLite Version 3" (sqlite.org/lockingv3.html) for the database file; "WAL-mode
File Format", section 2.3 (sqlite.org/walformat.html), for the wal-index, the ``-shm`` file; fcntl(2) for open file
description locks. These conflict with the locks of processes that SQLite takes, and unlike those they are held by one
descriptor: another descriptor of the file can be closed without losing them, also by SQLite in the same process.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from contextlib import suppress
from typing import Callable, Dict, List, NamedTuple, Optional

from ...errors import Locked, Refused

# In module fcntl since Python 3.9; the numbers are Linux's.
_OFD_GETLK = 36
_OFD_SETLK = 37
#: struct flock: l_type, l_whence, l_start, l_len, l_pid.
_FLOCK = "@hhqqi0q"

_STEP = 0.05


class Range(NamedTuple):
    """A range of bytes that stands for a lock."""

    start: int
    length: int


#: Of the database file. Readers share SHARED, a writer about to write the file holds all three alone.
PENDING = Range(0x40000000, 1)
RESERVED = Range(PENDING.start + 1, 1)
SHARED = Range(PENDING.start + 2, 510)

#: Of the wal-index. A checkpoint writes the database file only with READ_MARKS[0] alone, and a writer begins the log
#: anew only with all the other marks alone. Every connection shares CONNECTED ("dead man's switch") while it lives.
READ_MARKS = tuple(Range(123 + number, 1) for number in range(5))
CONNECTED = Range(128, 1)


class Deadline:
    """How long to go on waiting. ``seconds`` may be zero: then everything is tried once."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    def pause(self, seconds: float = _STEP) -> bool:
        """Sleep for a moment; False when the time is up. Signals are handled between two such moments."""
        if self.left <= 0:
            return False
        time.sleep(min(seconds, self.left))
        return True


def try_lock(descriptor: int, area: Range, exclusive: bool) -> bool:
    """Lock a range, or return False because somebody else has it. Exclusive needs a descriptor open for writing.

    Raises Locked where the file system has no locks.
    """
    kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
    try:
        fcntl.fcntl(descriptor, _OFD_SETLK, _request(kind, area))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise Locked(
            f"The file system refuses a byte-range lock ({(error.strerror or str(error)).lower()}), without which a "
            "database in use cannot be protected. Keep the database on a file system with POSIX locks."
        ) from error
    return True


def unlock(descriptor: int, area: Range) -> None:
    """Let go of a range."""
    fcntl.fcntl(descriptor, _OFD_SETLK, _request(fcntl.F_UNLCK, area))


def locked_by_other(descriptor: int, area: Range) -> bool:
    """Whether anybody else holds any lock on a range."""
    return _conflict(descriptor, area) is not None


def read_by_other(descriptor: int) -> bool:
    """Whether anybody else holds the lock of a reader on a database file."""
    answer = fcntl.fcntl(descriptor, _OFD_GETLK, _request(fcntl.F_WRLCK, SHARED))
    return bool(struct.unpack(_FLOCK, answer)[0] == fcntl.F_RDLCK)


def share_database(descriptor: int) -> bool:
    """Take the lock of a reader on a database file, in SQLite's own steps, or return False."""
    # Who holds PENDING waits for readers to leave; passing it by would starve that writer.
    if not try_lock(descriptor, PENDING, exclusive=False):
        return False
    try:
        return try_lock(descriptor, SHARED, exclusive=False)
    finally:
        unlock(descriptor, PENDING)


def own_database(descriptor: int) -> bool:
    """Take the lock of a writer on a database file, so that no connection reads or writes it, or return False."""
    taken: List[Range] = []
    for area in (PENDING, RESERVED, SHARED):
        if not try_lock(descriptor, area, exclusive=True):
            for mine in taken:
                unlock(descriptor, mine)
            return False
        taken.append(area)
    return True


#: Looks for who has a file open, by its device and inode, with the eyes of an account that may see more than this one.
_look: Optional[Callable[[int, int], List[str]]] = None


def look_further(look: Callable[[int, int], List[str]]) -> None:
    """Let ``users_of`` look with somebody else's eyes from here on."""
    global _look
    _look = look


def users_of(descriptor: int) -> List[str]:
    """Who else has a file open or locked, as ``program (process 4711)``. This process itself is left out.

    Seen are the holder of a lock, and of the open files those that this account, or who looks for it, may look into: as
    root, all of this host. Raises Refused where that cannot be seen.
    """
    status = os.fstat(descriptor)
    found = (_look or users_by_inode)(status.st_dev, status.st_ino)
    holder = _conflict(descriptor, SHARED)
    if holder is not None and holder not in (0, -1, os.getpid()):
        known = f"(process {holder})"
        found += [] if any(user.endswith(known) for user in found) else [f"{_program(holder)} {known}"]
    return found


def users_by_inode(device: int, inode: int, *left_out: int) -> List[str]:
    """Who has a file open that this account may look into. This process is left out, and those that are named.

    Raises Refused where no process can be seen.
    """
    processes = _processes()
    if os.getpid() not in processes:
        raise Refused(
            "Nothing shows which programs have the database open: /proc is not mounted here, or shows other processes. "
            "Mount it, then run this again."
        )
    users = sorted(
        pid for pid in processes if pid not in (os.getpid(), *left_out) and _has_open(pid, int(device), int(inode))
    )
    return [f"{_program(pid)} (process {pid})" for pid in users]


def reads_without_log(descriptor: int) -> bool:
    """Whether a process that has the lock of a reader on a database file has no log of it open, under any name.

    A connection in WAL mode has its log open as long as that lock (sqlite.org/walformat.html, 2.3), and others are in
    the mode that the header says. False where that process cannot be seen.
    """
    holder, status = _conflict(descriptor, SHARED), os.fstat(descriptor)
    links = _links(holder) if holder not in (None, 0, -1) else {}
    names = [link for path, link in links.items() if _is_same(path, status.st_dev, status.st_ino)]
    return bool(names) and not any(f"{name}{end}" in links.values() for name in names for end in ("-wal", "-shm"))


def _links(pid: Optional[int]) -> Dict[str, str]:
    """What a process has open: each link below /proc, and the path that it shows."""
    directory, found = f"/proc/{pid}/fd", {}
    with suppress(OSError):
        for name in os.listdir(directory):
            with suppress(OSError):
                found[f"{directory}/{name}"] = os.readlink(f"{directory}/{name}")
    return found


def _request(kind: int, area: Range) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, area.start, area.length, 0)


def _conflict(descriptor: int, area: Range) -> Optional[int]:
    """The process whose lock stands against an exclusive one; -1 for a lock that belongs to no process."""
    answer = fcntl.fcntl(descriptor, _OFD_GETLK, _request(fcntl.F_WRLCK, area))
    kind, _whence, _start, _length, pid = struct.unpack(_FLOCK, answer)
    return None if kind == fcntl.F_UNLCK else pid


def _processes() -> List[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def _has_open(pid: int, device: int, inode: int) -> bool:
    directory = f"/proc/{pid}/fd"
    try:
        names = os.listdir(directory)
    except OSError:  # it has ended, or belongs to somebody else
        return False
    return any(_is_same(f"{directory}/{name}", device, inode) for name in names)


def _is_same(path: str, device: int, inode: int) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (device, inode)


def _program(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip() or "a program"
    except OSError:
        return "a program"
