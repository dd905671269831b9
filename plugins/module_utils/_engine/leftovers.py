# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lock of what a killed process left: flock(2) dies with its holder, so what can be locked is nobody's any more."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Iterator, Optional, Union

#: It is gone, or a link that somebody else put there, or locked.
_NOT_OURS = (errno.ENOENT, errno.ELOOP, errno.EWOULDBLOCK)


def take_lock(
    path: Union[str, Path], access: int = os.O_RDWR, directory: Optional[int] = None, wait: bool = False
) -> Optional[int]:
    """The descriptor that holds the lock of a file or directory; None where it is gone, or locked by somebody else.

    With ``wait`` it is waited for. ``directory`` is a descriptor that a relative path begins at. Over NFS, only a file
    that is open for writing can be locked exclusively, hence the default ``access``. Raises OSError.
    """
    with ExitStack() as stack:
        try:
            flags = access | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(path, flags, dir_fd=directory)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Before it was locked, somebody else may have removed it, and a third one have made a new one.
            if os.path.samestat(os.stat(path, dir_fd=directory, follow_symlinks=False), os.fstat(descriptor)):
                stack.pop_all()
                return descriptor
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise
    return None


@contextmanager
def lock_of_the_dead(
    path: Union[str, Path], access: int = os.O_RDWR, directory: Optional[int] = None
) -> Iterator[bool]:
    """Hold the lock of what a dead process left; False where it is gone, or where a living one has the lock.

    Remove it under this lock: a maker that has created it and is about to lock it finds it gone then, and begins anew.
    """
    descriptor = take_lock(path, access, directory)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)
