# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Directories by descriptor instead of by path: what another account renames on the way leads nowhere else.

Root that looks at a path and then opens, changes or gives it away by its name does that to whatever has the name by
then. So each component is opened in the one before, and of links only those that root or this account made are
followed (openat(2), O_PATH). Where Ansible needs a path, it gets one through the descriptor (proc(5), /proc/pid/fd).
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import ExitStack, contextmanager, suppress
from typing import Iterator, Optional

_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_LINKS = 40


class ForeignLink(OSError):
    """A link on the way that another account made. It was not followed."""

    def __init__(self, path: str, user: int) -> None:
        super().__init__(errno.ELOOP, f"It is a link that user {user} made", path)
        self.user = user


@contextmanager
def pinned(path: str) -> Iterator[int]:
    """The directory of an absolute path, open. Raises OSError, with the component that cannot be passed."""
    with ExitStack() as stack:
        yield _walk(stack, path)


def path_of(directory: int, name: str = ".") -> str:
    """A path of what is in an open directory, or of itself, that leads there whatever becomes of its name."""
    return f"/proc/self/fd/{directory}/{name}"


@contextmanager
def private_place(directory: int) -> Iterator[int]:
    """A directory of this account alone in another one, open, to make things in and rename them out of; then gone."""
    name = f".{secrets.token_hex(8)}.tmp"
    os.mkdir(name, 0o700, dir_fd=directory)
    descriptor = -1
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise OSError(errno.EPERM, "Another account exchanges what is made here", path_of(directory, name))
        if os.listdir(descriptor):
            # Another one of this account's, which the owner of the directory around put here.
            raise OSError(errno.ENOTEMPTY, "Another account exchanges what is made here", path_of(directory, name))
        yield descriptor
        for left in os.listdir(descriptor):
            os.unlink(left, dir_fd=descriptor)
    finally:
        if descriptor >= 0:
            os.close(descriptor)
        with suppress(OSError):
            os.rmdir(name, dir_fd=directory)


def _walk(stack: ExitStack, path: str) -> int:
    # The directories from the root on, so that ".." in a link is the one before.
    passed, links = [stack.enter_context(_opened("/", None))], 0
    left = path.split("/")[::-1]
    while left:
        name = left.pop()
        if name in ("", "."):
            continue
        if name == "..":
            passed = passed[:-1] or passed
            continue
        found = stack.enter_context(_opened(name, passed[-1], path))
        status = os.fstat(found)
        if not stat.S_ISLNK(status.st_mode):
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, "It is no directory", path)
            passed.append(found)
            continue
        links += 1
        if status.st_uid not in (0, os.geteuid()):
            raise ForeignLink(path, status.st_uid)
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        target = os.readlink("", dir_fd=found)
        passed = passed[:1] if target.startswith("/") else passed
        left += target.split("/")[::-1]
    return passed[-1]


@contextmanager
def _opened(name: str, directory: Optional[int], path: str = "/") -> Iterator[int]:
    try:
        descriptor = os.open(name, _LOOK, dir_fd=directory)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, path) from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)
