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
import os
import stat
import time
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Collection, ContextManager, Iterator, List, Optional, Sequence, Tuple

from ..errors import Damaged, EngineError, NotFound, RepositoryUnusable
from ..model import Place, Space
from ..names import MANIFEST, id_of_file, is_component
from .base import Content, Entry, Reader, Repository, Writer
from .local_files import (
    PARTIAL,
    LocalReader,
    LocalWriter,
    abandoned,
    exists,
    explain,
    is_directory,
    open_file,
    remove_abandoned,
    unlink,
)
from .local_root import denied, opened_root

_DELETING = ".deleting"
#: How long ago a file must have changed, in seconds: file systems' clocks have steps of up to two (FAT).
_SETTLED = 2.5
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class LocalRepository(Repository):
    """A directory. It must exist: a missing one may be a share that is not mounted, and is never created."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.label = str(path)

    def check(self, writing: bool) -> None:
        with self._root(writing) as root:
            if not writing:
                return
            if os.statvfs(root).f_flag & os.ST_RDONLY:
                raise RepositoryUnusable(
                    f"Repository {self.label} is on a file system that is mounted read-only. Mount it writable."
                )
            if not os.access(".", os.W_OK | os.X_OK, dir_fd=root):
                raise denied(self.label, "written")

    def places(self) -> Iterator[Place]:
        with self._root() as root, self._explained("one of its directories"):
            for host in _directories(root):
                with _inside(root, host) as host_fd:
                    for engine in _directories(host_fd):
                        with _inside(host_fd, engine) as engine_fd:
                            yield from [Place(host, engine, database) for database in _directories(engine_fd)]

    def entries(self, place: Place) -> List[Entry]:
        with self._existing(place) as directory, self._explained(place.path):
            return [] if directory is None else _visible(directory)

    def stat(self, place: Place, name: str) -> Optional[Entry]:
        with self._existing(place) as directory, self._explained(f"{place.path}/{name}"):
            return None if directory is None else _entry(directory, name)

    def in_motion(self, place: Place, backup: str) -> bool:
        # A manifest has its hidden name before the first artefact is visible, and its mark until the last one is gone.
        marks = (f".{backup}{MANIFEST}{PARTIAL}", f".{backup}{MANIFEST}{_DELETING}")
        with self._existing(place) as directory, self._explained(place.path):
            return directory is not None and any(exists(directory, mark) for mark in marks)

    def clock(self, place: Place) -> Optional[datetime]:
        with self._existing(place, writing=True) as directory, self._explained(place.path):
            if directory is None:
                return None
            # The server of a share sets the time of what is written there.
            writer = LocalWriter(self.label, directory, f"clock-{os.getpid()}", replacing=True)
            try:
                writer.write(b"\n")
                writer.finish()
                return datetime.fromtimestamp(writer.modified(), timezone.utc)
            finally:
                writer.close()

    @contextmanager
    def create(self, place: Place, name: str) -> Iterator[Writer]:
        with self._made(place) as directory, self._explained(name):
            writer = LocalWriter(self.label, directory, name)
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

    def discard(self, place: Place, names: Sequence[str]) -> None:
        with self._existing(place, writing=True) as directory, self._explained(f"superseded files in {place.path}"):
            if directory is not None:
                for name in names:
                    unlink(directory, name)
                os.fsync(directory)

    def remove_backup(self, place: Place, manifest: str, others: List[str]) -> None:
        with self._existing(place, writing=True) as directory, self._explained(manifest):
            if directory is None:
                return
            tombstone = f".{manifest}{_DELETING}"
            _hide(directory, manifest, tombstone)
            for name in [*others, tombstone]:
                unlink(directory, name)
            os.fsync(directory)

    def tidy(self, place: Place, dry_run: bool, spared: Collection[str] = ()) -> List[str]:
        with self._existing(place, writing=True) as directory, self._explained("what a crash left over"):
            if directory is None:
                return []
            doomed = _leftovers(directory, spared)
            if not dry_run:
                # Artefacts first and marks last: a crash in here leaves the marks for the next time.
                doomed = [name for name in doomed if _remove_leftover(directory, name)]
                os.fsync(directory)
            return doomed

    def space(self) -> Optional[Space]:
        with self._root() as root:
            state = os.statvfs(root)
            # Without what the file system keeps for root (f_bfree - f_bavail): no backup shall live on it.
            kept = state.f_bfree - state.f_bavail
            return Space(state.f_bavail * state.f_frsize, (state.f_blocks - kept) * state.f_frsize)

    def _root(self, writing: bool = False) -> ContextManager[int]:
        return opened_root(self._path, writing)

    @contextmanager
    def _existing(self, place: Place, writing: bool = False) -> Iterator[Optional[int]]:
        """The open directory of a place, or None where it does not exist."""
        with self._root(writing) as root, ExitStack() as stack:
            directory: Optional[int] = None
            with suppress(NotFound), self._explained(place.path):
                directory = _descend(stack, root, place, make=False)
            yield directory

    @contextmanager
    def _made(self, place: Place) -> Iterator[int]:
        """The open directory of a place, which is made where it does not exist."""
        with self._root(writing=True) as root, ExitStack() as stack:
            with self._explained(place.path):
                directory = _descend(stack, root, place, make=True)
            yield directory

    def _read_small(self, directory: Optional[int], place: Place, name: str, limit: int) -> bytes:
        reader = self._reader(directory, place, name)
        try:
            if reader.size > limit:
                raise Damaged(
                    f"{self.label}/{place.path}/{name} is larger than {limit} bytes, which no such file is. "
                    "It was not read; see what wrote it."
                )
            content = reader.read(reader.size)
            while len(content) < reader.size:
                block = reader.read(reader.size - len(content))
                if not block:
                    break
                content += block
            return content
        finally:
            reader.close()

    def _reader(self, directory: Optional[int], place: Place, name: str) -> LocalReader:
        if directory is None:
            raise NotFound(
                f"{self.label}/{place.path} does not exist. List what the repository holds with backup_info."
            )
        # Without a context manager: a listing opens thousands of files.
        try:
            return open_file(directory, name, f"{self.label}/{place.path}/{name}")
        except OSError as error:
            raise explain(error, self.label, f"{place.path}/{name}") from None

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """Turn what the operating system says into what the user needs to know."""
        try:
            yield
        except OSError as error:
            raise explain(error, self.label, name) from None


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
        # What is removed between its listing and this look at it was removed.
        names = [item.name for item in found if is_component(item.name) or _is_false_mark(item)]
    entries = [_entry(descriptor, name) for name in names]
    return sorted(filter(None, entries), key=lambda entry: entry.name)


def _is_false_mark(item: os.DirEntry[str]) -> bool:
    """Whether it has the name of what is hidden here, and is no file: no writer of backups made it."""
    hidden = item.name.startswith(".") and item.name.endswith((PARTIAL, _DELETING))
    return hidden and not item.is_file(follow_symlinks=False)


def _entry(directory: int, name: str) -> Optional[Entry]:
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    # A file that changes twice within a moment of the file system's clock would have one version for both.
    settled = abs(time.time() - status.st_ctime) > _SETTLED
    version = f"{status.st_ino:x}.{status.st_ctime_ns:x}" if settled else ""
    return Entry(name, status.st_size, stat.S_ISREG(status.st_mode), version)


def _make_directory(parent: int, name: str) -> None:
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
        os.fsync(parent)


def _leftovers(directory: int, spared: Collection[str]) -> List[str]:
    """What crashes left in a place, in the order in which it is safe to remove it.

    Marks of the backups that are ``spared`` stay. What was to replace a manifest that is there is no such mark. What is
    no file was made by no writer of backups: it is neither a mark nor a leftover, and a listing names it.
    """
    with os.scandir(directory) as found:
        regular = {item.name: item.is_file(follow_symlinks=False) for item in found}
    names = sorted(regular)
    marks, partials, halves = [], [], []
    for name in filter(regular.get, names):
        if name.startswith(".") and name.endswith(_DELETING):
            if id_of_file(name[1:]) in spared:
                continue
            marks.append(name)
            halves += _files_of(name[1 : -len(_DELETING)], names)
        elif name.startswith(".") and name.endswith(PARTIAL) and abandoned(directory, name):
            if name.endswith(MANIFEST + PARTIAL) and name[1 : -len(PARTIAL)] not in names:
                if id_of_file(name[1:]) in spared:
                    continue
                # Its manifest was ready and never published: its artefacts may be visible already.
                marks.append(name)
                halves += _files_of(name[1 : -len(PARTIAL)], names)
            else:
                partials.append(name)
    return partials + [name for name in halves if regular[name]] + marks


def _remove_leftover(directory: int, name: str) -> bool:
    """Remove what a crash left, unless it is a writer's again by now; whether it was removed."""
    if name.endswith(PARTIAL):
        return remove_abandoned(directory, name)
    return unlink(directory, name)


def _hide(directory: int, manifest: str, tombstone: str) -> None:
    """Turn a manifest into the mark of a removal, durably; one that was never published stays missing."""
    if is_directory(directory, manifest):
        return
    try:
        os.rename(manifest, tombstone, src_dir_fd=directory, dst_dir_fd=directory)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EISDIR):
            raise
        # A mark needs room that a full disk may not have, and removing is what makes some; and a directory may have its
        # name. Should the manifest come back after a crash, its backup is listed as not whole.
        unlink(directory, manifest)
    else:
        os.fsync(directory)


def _files_of(manifest: str, names: List[str]) -> List[str]:
    """The visible files of a manifest's backup; none while the manifest itself is visible."""
    backup = id_of_file(manifest)
    if backup is None or manifest in names:
        return []
    return [name for name in names if id_of_file(name) == backup]
