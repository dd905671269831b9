# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files that exist only while somebody works on them, and that a later run removes when their maker was killed.

Each is locked with flock(2) by its maker. That lock dies with the process, so a file that can be locked is abandoned.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import stat
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, List

from ...host.temporary import temporary_directory
from ...leftovers import lock_of_the_dead
from ...scratch import Purpose, private_directory
from .file import raise_os_error

BACKUP = "backup"
RESTORING = "restoring"
_RANDOM_BYTES = 4
#: 255 bytes is the limit of a name on Linux; the longest purpose, the random part and a ``-journal`` must fit in.
_NAME_BYTES = 200
#: SQLite opens no longer path: 512 bytes with a ``-journal`` (pager.c, sqlite3PagerOpen).
_PATH_BYTES = 504


@dataclass(frozen=True)
class ScratchFile:
    """A private file, and its descriptor, which holds its lock."""

    path: Path
    descriptor: int


def scratch_prefix(directory: Path, name: str, purpose: str) -> str:
    """How the hidden files of a database begin: ``.<name>.<purpose>-``, with as much of the name as SQLite has room."""
    room = _PATH_BYTES - len(os.fsencode(directory)) - len(f"/..{purpose}-") - 2 * _RANDOM_BYTES
    return os.fsdecode(b"." + os.fsencode(name)[: max(1, min(_NAME_BYTES, room))]) + f".{purpose}-"


@contextmanager
def scratch_file(directory: Path, name: str, purpose: str) -> Iterator[ScratchFile]:
    """A new empty file ``.<name>.<purpose>-<random>`` of mode 0600; leaving the context removes it,
    unless it got another name."""
    try:
        file = _create(directory, scratch_prefix(directory, name, purpose))
    except OSError as error:
        raise_os_error(error, f"Cannot write a private copy of {name} into {directory}")
    try:
        yield file
    except BaseException:
        # Why the work failed matters more than that its file stays, which the next run and ``unlock`` remove.
        with suppress(OSError):
            os.unlink(file.path)
        raise
    else:
        _discard(file.path)
    finally:
        os.close(file.descriptor)


def _discard(path: Path) -> None:
    try:
        with suppress(FileNotFoundError):
            os.unlink(path)
    except OSError as error:
        raise_os_error(error, f"Cannot remove {path}, a private copy")


@contextmanager
def examination_file() -> Iterator[ScratchFile]:
    """A new empty file in a directory of its own, of mode 0700, in the place for temporary files (TMPDIR)."""
    with ExitStack() as stack:
        try:
            directory = stack.enter_context(private_directory(Purpose.EXAMINATION))
        except OSError as error:
            raise_os_error(error, f"Cannot make a temporary directory in {temporary_directory()}")
        yield stack.enter_context(scratch_file(directory, "dump", "examined"))


def sweep(directory: Path, name: str, purpose: str, dry_run: bool = False) -> List[str]:
    """Remove the files that killed runs left behind, and none that a living process holds; the names removed."""
    pattern = re.compile(re.escape(scratch_prefix(directory, name, purpose)) + f"[0-9a-f]{{{2 * _RANDOM_BYTES}}}")
    try:
        names = [entry for entry in os.listdir(directory) if pattern.fullmatch(entry)]
    except OSError as error:
        raise_os_error(error, f"Cannot list {directory}")
    return [entry for entry in names if _remove_abandoned(directory / entry, dry_run)]


def _create(directory: Path, prefix: str) -> ScratchFile:
    while True:
        path = directory / f"{prefix}{secrets.token_hex(_RANDOM_BYTES)}"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileExistsError:
            continue
        try:
            os.fchmod(descriptor, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Between its creation and its lock, another run could take the file for abandoned.
            if os.fstat(descriptor).st_nlink:
                return ScratchFile(path, descriptor)
        except BaseException:
            os.unlink(path)
            os.close(descriptor)
            raise
        os.close(descriptor)


def _remove_abandoned(path: Path, dry_run: bool) -> bool:
    # In a shared directory, others can have made something of that name; and it may be gone by now.
    with suppress(FileNotFoundError):
        status = os.lstat(path)
        if stat.S_ISREG(status.st_mode) and os.geteuid() in (0, status.st_uid):
            with lock_of_the_dead(path) as abandoned:
                if abandoned and not dry_run:
                    os.unlink(path)
                return abandoned
    return False
