# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""One file of a local repository: written so that it appears whole, read so that no link or pipe can deceive."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from contextlib import suppress
from typing import Tuple, Type

from ..errors import EngineError, Locked, NoSpace, NotFound, PermissionDenied, RepositoryUnusable, TargetExists
from ..leftovers import lock_of_the_dead
from .base import Reader, Writer

#: What a file is called while it is written: its name between a dot and this.
PARTIAL = ".partial"
#: After how many bytes the pages of a file that is written are let go.
_LET_GO_AFTER = 4 << 20
# A pipe or device planted under an artefact's name must not block the reader.
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: How long to wait for the lock of a file that a process holds for a moment, in seconds.
_PATIENCE = 10.0


class LocalWriter(Writer):
    """A file that is written under a hidden name and a lock. ``directory`` is open, and stays the caller's."""

    def __init__(self, label: str, directory: int, name: str, replacing: bool = False) -> None:
        self._label, self._name = label, name
        self._partial = f".{name}{PARTIAL}"
        self._committed = False
        self._cached = 0
        self._directory = os.dup(directory)
        try:
            self._file = self._take_name(Locked if replacing else TargetExists)
        except BaseException:
            os.close(self._directory)
            raise
        # Looked at under the lock: whoever had the hidden name until just now may have published meanwhile.
        if not replacing and exists(directory, name):
            self.close()
            raise TargetExists(f"{self._label} already has {name}. Nothing was written.")

    def _take_name(self, taken: Type[EngineError]) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        for _attempt in range(10):
            try:
                descriptor = os.open(self._partial, flags, 0o600, dir_fd=self._directory)
            except FileExistsError:
                if not remove_abandoned(self._directory, self._partial):
                    raise taken(
                        f"{self._label}: another process is writing {self._name}. "
                        "Wait for it to end, and run this again."
                    ) from None
                continue
            try:
                lock(descriptor, f"{self._label}/{self._partial}")
            except BaseException:
                os.close(descriptor)
                unlink(self._directory, self._partial)
                raise
            # Between its creation and its lock, somebody who tidies may have taken the file for abandoned.
            if os.fstat(descriptor).st_nlink:
                return descriptor
            os.close(descriptor)
        raise Locked(f"{self._label}: {self._partial} disappears as soon as it is made. See what removes it.")

    def write(self, block: bytes) -> None:
        try:
            write_all(self._file, block)
            self._let_go(len(block))
        except OSError as error:
            raise explain(error, self._label, self._name) from None

    def _let_go(self, written: int) -> None:
        """Let the system write out what is new, and forget what is on the disk (posix_fadvise(2)); waits for neither.

        A backup then pushes nothing out of the page cache, leaves little to the fsync at its end, and writes into the
        same few pages again and again: fresh ones cost a virtual machine 0.2 s of CPU a GB of dump.
        """
        self._cached += written
        if self._cached >= _LET_GO_AFTER:
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)
            self._cached = 0

    def finish(self) -> None:
        try:
            os.fsync(self._file)
        except OSError as error:
            raise explain(error, self._label, self._name) from None

    def modified(self) -> float:
        """When the store says that it was written, in seconds of the epoch."""
        return os.fstat(self._file).st_mtime

    def commit(self) -> None:
        try:
            os.rename(self._partial, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            self._committed = True
            os.fsync(self._directory)
        except OSError as error:
            raise explain(error, self._label, self._name) from None

    def close(self) -> None:
        if self._directory < 0:
            return
        directory, self._directory = self._directory, -1
        try:
            if not self._committed:
                unlink(directory, self._partial)
        except OSError as error:
            raise explain(error, self._label, self._partial) from None
        finally:
            for descriptor in (self._file, directory):
                # What was kept is on the disk (fsync(2)): closing it has no news.
                with suppress(OSError):
                    os.close(descriptor)


class LocalReader(Reader):
    """An open file of so many bytes; reading it raises RepositoryUnusable where the disk or share fails."""

    def __init__(self, descriptor: int, size: int, label: str) -> None:
        self._descriptor, self.size, self._label = descriptor, size, label

    def read(self, size: int) -> bytes:
        try:
            return os.read(self._descriptor, size)
        except OSError as error:
            raise RepositoryUnusable(
                f"{self._label} cannot be read: {error.strerror}. "
                "The disk or share may be failing; check it, or restore from another repository."
            ) from None

    def close(self) -> None:
        os.close(self._descriptor)


def open_file(directory: int, name: str, label: str) -> LocalReader:
    """Begin to read a regular file. Raises OSError, and RepositoryUnusable for anything else than a file."""
    descriptor, status = _open_regular(directory, name, os.O_RDONLY, label)
    return LocalReader(descriptor, status.st_size, label)


def open_regular(directory: int, name: str, access: int, label: str) -> int:
    """Open a regular file that is there; to open a device would do something, and to open a pipe waits.

    Raises OSError, and RepositoryUnusable for anything else.
    """
    return _open_regular(directory, name, access, label)[0]


def _open_regular(directory: int, name: str, access: int, label: str) -> Tuple[int, os.stat_result]:
    if stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        descriptor = os.open(name, access | _FILE, dir_fd=directory)
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            return descriptor, status
        os.close(descriptor)
    raise RepositoryUnusable(
        f"{label} is not a regular file. Links are not followed, and it was not opened; see what put it there."
    )


def lock(descriptor: int, label: str) -> None:
    """Take the lock of a file. Raises Locked where another process keeps it."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise Locked(f"{label} stayed locked for {_PATIENCE:g} s. See which process holds it.") from None
            time.sleep(0.02)
        else:
            return


def explain(error: OSError, label: str, name: str) -> EngineError:
    """The typed error for an operating system's error on a file of a repository."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(
            f"Repository {label} is full: {name} could not be written. Nothing of it was published; "
            "free space or rotate backups, and run this again."
        )
    if error.errno == errno.ENOENT:
        return NotFound(f"{label}/{name} does not exist. List what the repository holds with backup_info.")
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return RepositoryUnusable(
            f"{label}/{name} is a link or not a directory. Links are not followed; put the real thing there."
        )
    if error.errno == errno.EROFS:
        return RepositoryUnusable(
            f"Repository {label} is mounted read-only, so {name} cannot be written. Mount it writable."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionDenied(
            f"{label}/{name} may not be used by user {os.geteuid()}. "
            "Give this account access, or run as one that has it."
        )
    return RepositoryUnusable(
        f"{label}/{name} cannot be used: {error.strerror}. Check the disk or share, and run this again."
    )


def abandoned(directory: int, name: str) -> bool:
    """Whether the process that wrote a file is gone: its lock is free. What is no file is nobody's leftover."""
    if not stat.S_ISREG(_mode(directory, name)):
        return False
    with lock_of_the_dead(name, directory=directory) as locked:
        return locked


def remove_abandoned(directory: int, name: str) -> bool:
    """Remove a file whose writer is gone; whether there was one."""
    if not stat.S_ISREG(_mode(directory, name)):
        return False
    with lock_of_the_dead(name, directory=directory) as locked:
        if locked:
            unlink(directory, name)
        return locked


def _mode(directory: int, name: str) -> int:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return 0


def unlink(directory: int, name: str) -> bool:
    """Remove a file, which may be gone already; False where it is a directory, which stays.

    A directory under the name of a file was put there to stop this; the listing of the place names it.
    """
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return True
    except OSError:
        # EISDIR on Linux, EPERM by POSIX (unlink(2)).
        if is_directory(directory, name):
            return False
        raise
    return True


def is_directory(directory: int, name: str) -> bool:
    """Whether a name is that of a directory; a link to one is none."""
    return stat.S_ISDIR(_mode(directory, name))


def write_all(descriptor: int, content: bytes) -> None:
    """Write every byte: write(2) may take fewer."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def exists(directory: int, name: str) -> bool:
    """Whether a name is taken, by whatever."""
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
