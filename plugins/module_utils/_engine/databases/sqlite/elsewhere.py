# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One database under several names. SQLite keeps its logs beside the name by which it was opened.

So what is committed through a hard link, or through a file that is mounted into a container, lies in a log that nobody
sees from here (sqlite.org/howtocorrupt.html, 2.5 and 2.6); and a file that is put in the place of one name leaves the
others as they were.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List

from ...errors import Refused
from .file import SHM, Kind, beside, raise_os_error, read_start
from .lock import CONNECTED, RESERVED, Deadline, locked_by_other, read_by_other, reads_without_log, users_of

#: How long a program may take from its lock on the database to its lock on the wal-index, in seconds.
_OPENING = 1.0
_WAL_VERSION = 2
_REPLACED = ".replaced-"
_NAME_BYTES = 200


def replaced_prefix(name: str) -> str:
    """How the name begins under which the database of a file is kept that a restore has replaced."""
    return os.fsdecode(os.fsencode(name)[:_NAME_BYTES]) + _REPLACED


def second_names(target: Path) -> List[Path]:
    """The names beside a database that a restore gave it which was killed before it replaced it."""
    prefix = replaced_prefix(target.name)
    return [
        target.with_name(name)
        for name in os.listdir(target.parent)
        if name.startswith(prefix) and _is_same(target.with_name(name), target)
    ]


def refuse_other_names(path: Path) -> None:
    """Raise Refused where a database has another name, whose log and whose file would be left out."""
    try:
        links = os.stat(path).st_nlink
        if links > 1:
            links -= len(second_names(path))
    except FileNotFoundError:
        return
    except OSError as error:
        raise_os_error(error, f"Cannot look at {path}")
    if links > 1:
        raise Refused(
            f"{path} has {links} hard links: what is committed under another name is in a log beside that one, and a "
            f"restore would leave that one as it is. Find them with find -xdev -samefile {path}, and leave one."
        )
    if _is_mount_point(path):
        raise Refused(
            f"{path} is a file that is mounted there by itself: its logs may lie beside the file that it comes from, "
            "and it cannot be replaced. Give the path that it comes from, or mount its whole directory."
        )


def refuse_opened_elsewhere(path: Path, kind: Kind, lock_timeout: float) -> None:
    """Raise Refused where a program has a database in WAL mode open whose log is not beside it.

    A connection in WAL mode holds the lock of a reader all the time, and another one on the wal-index beside the name
    by which it was opened (sqlite.org/walformat.html, 2.3). Of an encrypted database the mode is not known: a reader
    that has no log open shows that it is a rollback mode, and any other one is waited for.
    """
    if kind is Kind.PLAIN and read_start(path)[18:19] != bytes([_WAL_VERSION]):
        return
    deadline = Deadline(max(_OPENING, lock_timeout) if kind is Kind.OPAQUE else _OPENING)
    while True:
        users = _users_elsewhere(path, kind)
        if not users:
            return
        if not deadline.pause():
            raise Refused(
                f"{path} is open under another name, by {', '.join(users)}: its log is not beside this one, and what "
                "is committed there would be missing. Give the path by which that program opens it; for a container, "
                "mount the directory and not the file."
            )


def _users_elsewhere(path: Path, kind: Kind) -> List[str]:
    try:
        with _opened(path) as database:
            # A writer in the rollback modes, which writes into the file itself; in WAL mode nobody takes that lock.
            if not read_by_other(database) or locked_by_other(database, RESERVED):
                return []
            try:
                with _opened(beside(path, SHM)) as shm:
                    if locked_by_other(shm, CONNECTED):
                        return []
            except FileNotFoundError:
                pass
            if kind is Kind.OPAQUE and reads_without_log(database):
                return []
            return users_of(database) or ["a program that cannot be seen from here"]
    except FileNotFoundError:
        return []


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_mount_point(path: Path) -> bool:
    """Whether the file itself is mounted (proc(5), mountinfo)."""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            points = [line.split(b" ")[4] for line in file if line.count(b" ") > 4]
    except FileNotFoundError:
        return False
    return os.fsencode(path) in (re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m.group(1), 8)]), p) for p in points)


def _is_same(other: Path, target: Path) -> bool:
    try:
        return os.path.samestat(os.lstat(other), os.stat(target))
    except FileNotFoundError:
        return False
