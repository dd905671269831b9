# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Emptying a directory in which another account may have made anything, and may still be at work.

Trees are taken apart level by level: a directory's own directories are moved up to the top before it is removed. So
depth costs neither stack nor descriptors, no path grows long, and nothing ever leads up again: ``..`` of a directory
that its owner moves elsewhere would. Everything is named by the descriptor of its directory, and no link is followed.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import deque
from contextlib import suppress
from typing import Collection, Deque, List, Optional

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HANDLE = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: How long to try, in seconds: a process that still makes files would be cleared up after for ever.
_PATIENCE = 120.0


def empty(directory: int, keep: Collection[str] = ()) -> None:
    """Remove all that is in a directory of this account's but ``keep``, as far as it can be removed.

    Raises the OSError of the first thing that stays, once everything else has been tried.
    """
    deadline = time.monotonic() + _PATIENCE
    waiting: Deque[str] = deque(name for name in os.listdir(directory) if name not in keep)
    problem: Optional[OSError] = None
    while waiting:
        name = waiting.popleft()
        try:
            if time.monotonic() > deadline:
                raise OSError(errno.ETIMEDOUT, f"Not removed within {_PATIENCE:g} s", name)
            waiting.extend(_remove(directory, name))
        except OSError as error:
            problem = problem or error
            if error.errno == errno.ETIMEDOUT:
                break
    if problem is not None:
        raise problem


def _remove(top: int, name: str) -> List[str]:
    """Remove a file, or a directory and the files in it; the new names of its directories, which are in ``top`` now."""
    if _unlinked(top, name):
        return []
    with suppress(FileNotFoundError):
        moved = _emptied(top, name)
        os.rmdir(name, dir_fd=top)
        return moved
    return []


def _unlinked(directory: int, name: str) -> bool:
    """Remove what is no directory; False for a directory."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return True
    except (IsADirectoryError, PermissionError):
        # EISDIR on Linux, EPERM by POSIX; EACCES of a file is its own, and raised again by what opens a directory.
        if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise
        return False
    return True


def _emptied(top: int, name: str) -> List[str]:
    moved = []
    descriptor = _opened(top, name)
    try:
        for entry in os.listdir(descriptor):
            if not _unlinked(descriptor, entry):
                moved.append(_moved_up(descriptor, entry, top))
    finally:
        os.close(descriptor)
    return moved


def _opened(top: int, name: str) -> int:
    _opened_up(top, name)
    return os.open(name, _DIRECTORY, dir_fd=top)


def _moved_up(directory: int, entry: str, top: int) -> str:
    """The new name of a directory: nothing can have it, as only this account makes names in ``top``."""
    fresh = os.urandom(16).hex()
    _opened_up(directory, entry)
    os.rename(entry, fresh, src_dir_fd=directory, dst_dir_fd=top)
    return fresh


def _opened_up(parent: int, name: str) -> None:
    """Give back the rights that an account took from itself: without them, it can neither empty nor move a directory.

    Root needs none. The handle is of this directory and no other one.
    """
    if os.geteuid() != 0:
        handle = os.open(name, _HANDLE, dir_fd=parent)
        try:
            os.chmod(f"/proc/self/fd/{handle}", stat.S_IRWXU)
        finally:
            os.close(handle)
