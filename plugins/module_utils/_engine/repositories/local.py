# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A repository in a directory: a local disk, or a mounted NFS or SMB share.

A file is written under a hidden name (``.<name>.partial``), under a lock that dies with its writer (flock(2)), and
renamed when it is whole. A backup is removed by first renaming its manifest to ``.<name>.deleting``. So whatever a
crash leaves over can be told from everything else, and only that is ever tidied away: an artefact whose manifest is
gone for any other reason is left alone and reported.

Every path is walked from the repository's own directory, one component at a time, and no link is followed
(openat(2), O_NOFOLLOW).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Iterator, List, Optional, Sequence, Tuple

from ..errors import Damaged, EngineError, Locked, NoSpace, NotFound, PermissionDenied, RepositoryUnusable, TargetExists
from ..model import Place
from ..names import MANIFEST, id_of_file, is_component
from .base import Content, Entry, Reader, Repository, Writer

_PARTIAL = ".partial"
_DELETING = ".deleting"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Most small files are read at once with this many bytes.
_SMALL = 64 << 10
# A pipe or device planted under an artefact's name must not block the reader.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class LocalRepository(Repository):
    """A directory. It must exist: a missing one may be a share that is not mounted, and is never created."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.label = str(path)

    def check(self, writing: bool) -> None:
        with self._root():
            if not writing:
                return
            if os.statvfs(self._path).f_flag & os.ST_RDONLY:
                raise RepositoryUnusable(
                    f"Repository {self.label} is on a file system that is mounted read-only. Mount it writable."
                )
            if not os.access(self._path, os.W_OK | os.X_OK):
                raise self._denied("written")

    def places(self) -> Iterator[Place]:
        with self._root() as root:
            for host in _directories(root):
                with _inside(root, host) as host_fd:
                    for engine in _directories(host_fd):
                        with _inside(host_fd, engine) as engine_fd:
                            for database in _directories(engine_fd):
                                yield Place(host, engine, database)

    def entries(self, place: Place) -> List[Entry]:
        with self._existing(place) as directory:
            return [] if directory is None else _visible(directory)

    @contextmanager
    def create(self, place: Place, name: str) -> Iterator[Writer]:
        with self._made(place) as directory, self._explained(name):
            writer = _LocalWriter(self, directory, name)
        try:
            yield writer
        finally:
            writer.close()

    @contextmanager
    def open(self, place: Place, name: str) -> Iterator[Reader]:
        with self._existing(place) as directory:
            reader = self._reader(directory, place, name)
        try:
            yield reader
        finally:
            reader.close()

    def read_all(self, place: Place, names: Sequence[str], limit: int) -> Iterator[Tuple[str, Content]]:
        with self._existing(place) as directory:
            for name in names:
                try:
                    yield name, self._read_small(directory, place, name, limit)
                except EngineError as error:
                    yield name, error

    def replace(self, place: Place, name: str, content: bytes) -> None:
        with self._made(place) as directory, self._explained(name):
            writer = _LocalWriter(self, directory, name, replacing=True)
            try:
                writer.write(content)
                writer.finish()
                writer.commit()
            finally:
                writer.close()

    def append(self, place: Place, name: str, line: bytes) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._made(place) as directory, self._explained(name):
            descriptor = os.open(name, flags, 0o600, dir_fd=directory)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                size = os.fstat(descriptor).st_size
                # A line that a crash cut short must not swallow the one after it.
                torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
                _write_all(descriptor, (b"\n" if torn else b"") + line + b"\n")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.fsync(directory)

    def remove_backup(self, place: Place, manifest: str, others: List[str]) -> None:
        with self._existing(place) as directory, self._explained(manifest):
            if directory is None:
                return
            tombstone = f".{manifest}{_DELETING}"
            with suppress(FileNotFoundError):
                os.rename(manifest, tombstone, src_dir_fd=directory, dst_dir_fd=directory)
                os.fsync(directory)
            for name in [*others, tombstone]:
                _unlink(directory, name)
            os.fsync(directory)

    def tidy(self, place: Place, dry_run: bool) -> List[str]:
        with self._existing(place) as directory, self._explained("what a crash left over"):
            if directory is None:
                return []
            doomed = _leftovers(directory)
            if not dry_run:
                # Artefacts first and marks last: a crash in here leaves the marks for the next time.
                for name in doomed:
                    _unlink(directory, name)
                os.fsync(directory)
            return doomed

    def free(self) -> Optional[int]:
        with self._root():
            state = os.statvfs(self._path)
            return state.f_bavail * state.f_frsize

    @contextmanager
    def _root(self) -> Iterator[int]:
        try:
            descriptor = os.open(self._path, _DIRECTORY)
        except OSError as error:
            raise self._unusable(error) from None
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _existing(self, place: Place) -> Iterator[Optional[int]]:
        """The open directory of a place, or None where it does not exist."""
        with self._root() as root, ExitStack() as stack:
            directory: Optional[int] = None
            with suppress(NotFound), self._explained(place.path):
                directory = _descend(stack, root, place, make=False)
            yield directory

    @contextmanager
    def _made(self, place: Place) -> Iterator[int]:
        """The open directory of a place, which is made where it does not exist."""
        with self._root() as root, ExitStack() as stack:
            with self._explained(place.path):
                directory = _descend(stack, root, place, make=True)
            yield directory

    def _read_small(self, directory: Optional[int], place: Place, name: str, limit: int) -> bytes:
        reader = self._reader(directory, place, name)
        content = b""
        try:
            while len(content) <= limit:
                block = reader.read(_SMALL)
                content += block
                if len(block) < _SMALL:
                    break
        finally:
            reader.close()
        if len(content) > limit:
            raise Damaged(
                f"{self.label}/{place.path}/{name} is larger than {limit} bytes, which no such file is. "
                "It was not read; see what wrote it."
            )
        return content

    def _reader(self, directory: Optional[int], place: Place, name: str) -> _LocalReader:
        if directory is None:
            raise NotFound(
                f"{self.label}/{place.path} does not exist. List what the repository holds with backup_info."
            )
        label = f"{self.label}/{place.path}/{name}"
        with self._explained(f"{place.path}/{name}"):
            descriptor = os.open(name, _FILE, dir_fd=directory)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise RepositoryUnusable(f"{label} is not a regular file. It was not read; see what put it there.")
        return _LocalReader(descriptor, label)

    def _unusable(self, error: OSError) -> EngineError:
        if os.path.islink(self._path):
            return RepositoryUnusable(
                f"Repository {self.label} is a symbolic link to {os.readlink(self._path)}. "
                "Links are not followed here; give the path that it leads to."
            )
        if error.errno == errno.ENOENT:
            return RepositoryUnusable(
                f"Repository {self.label} does not exist. "
                "Mount the share that should be there, or create the directory."
            )
        if error.errno == errno.ENOTDIR:
            return RepositoryUnusable(f"Repository {self.label} is not a directory. Give a directory as its path.")
        if error.errno == errno.EACCES:
            return self._denied("read")
        return RepositoryUnusable(
            f"Repository {self.label} cannot be used: {error.strerror}. Mend that, and run this again."
        )

    def _denied(self, what: str) -> PermissionDenied:
        return PermissionDenied(
            f"Repository {self.label} cannot be {what} by user {os.geteuid()}. "
            "Give this account access, or run as one that has it."
        )

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """Turn what the operating system says into what the user needs to know."""
        try:
            yield
        except OSError as error:
            raise explain(error, self.label, name) from None


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


class _LocalWriter(Writer):
    def __init__(self, repository: LocalRepository, directory: int, name: str, replacing: bool = False) -> None:
        self._label, self._name = repository.label, name
        self._partial = f".{name}{_PARTIAL}"
        self._committed = False
        if not replacing and _exists(directory, name):
            raise TargetExists(f"{self._label} already has {name}. Nothing was written.")
        self._directory = os.dup(directory)
        try:
            self._file = self._take_name()
        except BaseException:
            os.close(self._directory)
            raise

    def _take_name(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        for _attempt in range(10):
            try:
                descriptor = os.open(self._partial, flags, 0o600, dir_fd=self._directory)
            except FileExistsError:
                if not _abandoned(self._directory, self._partial):
                    raise Locked(
                        f"{self._label}: another process is writing {self._name}. "
                        "Wait for it to end, and run this again."
                    ) from None
                _unlink(self._directory, self._partial)
                continue
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Between its creation and its lock, somebody who tidies may have taken the file for abandoned.
            if os.fstat(descriptor).st_nlink:
                return descriptor
            os.close(descriptor)
        raise Locked(f"{self._label}: {self._partial} disappears as soon as it is made. See what removes it.")

    def write(self, block: bytes) -> None:
        try:
            _write_all(self._file, block)
        except OSError as error:
            raise explain(error, self._label, self._name) from None

    def finish(self) -> None:
        try:
            os.fsync(self._file)
        except OSError as error:
            raise explain(error, self._label, self._name) from None

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
        if not self._committed:
            _unlink(self._directory, self._partial)
        os.close(self._file)
        os.close(self._directory)
        self._directory = -1


class _LocalReader(Reader):
    def __init__(self, descriptor: int, label: str) -> None:
        self._descriptor, self._label = descriptor, label

    def read(self, size: int) -> bytes:
        try:
            return os.read(self._descriptor, size)
        except OSError as error:
            raise Damaged(
                f"{self._label} cannot be read: {error.strerror}. "
                "The disk may be failing; restore from another repository."
            ) from None

    def close(self) -> None:
        os.close(self._descriptor)


@contextmanager
def _inside(parent: int, name: str) -> Iterator[int]:
    descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _descend(stack: ExitStack, root: int, place: Place, make: bool) -> int:
    """The open directory of a place below ``root``, which is closed with the stack, as are those on the way."""
    current = root
    for component in (place.host, place.engine, place.database):
        if make:
            _make_directory(current, component)
        current = stack.enter_context(_inside(current, component))
    return current


def _directories(descriptor: int) -> List[str]:
    with os.scandir(descriptor) as found:
        return sorted(e.name for e in found if is_component(e.name) and e.is_dir(follow_symlinks=False))


def _visible(descriptor: int) -> List[Entry]:
    with os.scandir(descriptor) as found:
        entries = [
            Entry(e.name, e.stat(follow_symlinks=False).st_size)
            for e in found
            if is_component(e.name) and e.is_file(follow_symlinks=False)
        ]
    return sorted(entries, key=lambda entry: entry.name)


def _make_directory(parent: int, name: str) -> None:
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
        os.fsync(parent)


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _unlink(directory: int, name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _abandoned(directory: int, name: str) -> bool:
    """Whether the process that wrote a file is gone: its lock is free."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _leftovers(directory: int) -> List[str]:
    """What crashes left in a place, in the order in which it is safe to remove it."""
    names = sorted(os.listdir(directory))
    marks, partials, halves = [], [], []
    for name in names:
        if name.startswith(".") and name.endswith(_DELETING):
            marks.append(name)
            halves += _files_of(name[1 : -len(_DELETING)], names)
        elif name.startswith(".") and name.endswith(_PARTIAL) and _abandoned(directory, name):
            if name.endswith(MANIFEST + _PARTIAL):
                # Its manifest was ready and never published: its artefacts may be visible already.
                marks.append(name)
                halves += _files_of(name[1 : -len(_PARTIAL)], names)
            else:
                partials.append(name)
    return partials + halves + marks


def _files_of(manifest: str, names: List[str]) -> List[str]:
    """The visible files of a manifest's backup; none while the manifest itself is visible."""
    backup = id_of_file(manifest)
    if backup is None or manifest in names:
        return []
    return [name for name in names if id_of_file(name) == backup]
