# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A key pair in files: the private key at a path, 0600, and the public one beside it with ``.pub`` appended.

Every file is written under a hidden name, ``.<name>.<process>.<thread>.partial``, and under a lock (flock(2)) that dies
with its writer: what has that name and no lock is a killed process's, and goes with the next run.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import re
import stat
import threading
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Dict, Iterator, List, Optional

from . import keys
from .errors import BadInput, EngineError, NoSpace, NotFound, PermissionDenied, Refused
from .leftovers import lock_of_the_dead

#: What stands behind the name of a key that was rotated.
_ROTATED = r"\.[0-9]{8}T[0-9]{6}Z(-[0-9]+)?"

_HINT = "Check the disk or share, and run this again."
_HINTS: Dict[Optional[int], str] = {
    errno.EISDIR: "Give the path of a file.",
    errno.EROFS: "Mount it writable, or give another path.",
}


@dataclass(frozen=True)
class KeyFile:
    """A key pair as it is or will be. ``public`` is PEM, and both are None for a pair that is still to be made."""

    path: Path
    public: Optional[str]
    recipient_id: Optional[str]
    changed: bool
    #: Where the key before it is kept, when it was rotated.
    previous: Optional[Path] = None

    @property
    def public_path(self) -> Path:
        return public_path(self.path)


def public_path(path: Path) -> Path:
    """Where the public key of a private key's file is."""
    return path.with_name(path.name + ".pub")


def ensure(path: Path, dry_run: bool) -> KeyFile:
    """Make the pair where it is missing; mend a missing public key and a mode that lets others read the private one.

    Of several that make it at once, one wins, and all return the winner's.
    """
    with _explaining(path):
        made = False
        if not dry_run:
            _sweep(path)
        if _read(path) is None:
            if dry_run:
                return KeyFile(path, None, None, True)
            made = _create(path)
        with _held(path) as private:
            public = keys.public_pem(private)
            wrong_mode = stat.S_IMODE(os.stat(path).st_mode) != 0o600
            wrong_public = _read(public_path(path)) != public
            if wrong_mode and not dry_run:
                _narrow(path)
            if wrong_public and not dry_run:
                _write(public_path(path), public, 0o644)
    changed = made or wrong_mode or wrong_public
    return KeyFile(path, public.decode("ascii"), keys.recipient_id(public), changed)


def _narrow(path: Path) -> None:
    """Take a private key's file away from the eyes of others: this very file, and none that a link leads to."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def rotate(path: Path, max_age: Optional[timedelta], now: datetime, dry_run: bool) -> KeyFile:
    """Put a new pair in place of one that is older than ``max_age``; the old one is kept under the time of its end.

    Killed at any moment, it leaves a private key at ``path``, and the next rotation completes it.
    """
    previous: Optional[Path] = None
    with _explaining(path):
        if _read(path) is None:
            return ensure(path, dry_run)
        with _held(path) as private:
            public = keys.public_pem(private)
            made = datetime.fromtimestamp(os.stat(path).st_mtime, timezone.utc)
            if max_age is None or now - made > max_age:
                previous = _previous(path, now)
                if dry_run:
                    return KeyFile(path, None, None, True, previous)
                _replace(path, public, previous)
    pair = ensure(path, dry_run)
    return replace(pair, changed=True, previous=previous) if previous else pair


def _previous(path: Path, now: datetime) -> Path:
    """Where the present key will be kept: ``<name>.<time>``, with ``-2``, ``-3`` … where that is taken."""
    pattern = re.compile(re.escape(path.name) + _ROTATED)
    for name in filter(pattern.fullmatch, _names(path.parent)):
        # A rotation that was killed had come this far.
        if os.path.samestat(os.lstat(path.with_name(name)), os.lstat(path)):
            return path.with_name(name)
    first = f"{path.name}.{now.strftime('%Y%m%dT%H%M%SZ')}"
    names = itertools.chain([first], (f"{first}-{number}" for number in itertools.count(2)))
    return next(path.with_name(name) for name in names if not _exists(path.with_name(name)))


def _replace(path: Path, public: bytes, previous: Path) -> None:
    """Keep the pair, whose public key is ``public``, at ``previous``, and put a new one in its place."""
    private = keys.generate()
    # What needs room on the disk comes first: without it, nothing has changed.
    with ExitStack() as stack:
        new = stack.enter_context(_written(path, private, 0o600))
        new_public = stack.enter_context(_written(public_path(path), keys.public_pem(private), 0o644))
        old_public = stack.enter_context(_written(public_path(previous), public, 0o644))
        if not _exists(previous):
            # A link, so that the path has a key at every moment: the old one until the new one is renamed over it.
            os.link(path, previous)
        os.replace(old_public, public_path(previous))
        _make_durable(path.parent)
        # The private key before the public one: nothing may be encrypted for a key that is not kept.
        os.replace(new, path)
        _make_durable(path.parent)
        os.replace(new_public, public_path(path))
        _make_durable(path.parent)


def remove(path: Path, destroy: bool, dry_run: bool) -> KeyFile:
    """Destroy a pair. What was encrypted for it alone can then never be read again, so that must be asked for."""
    with _explaining(path):
        files = [file for file in (path, public_path(path)) if _exists(file)]
        if files and not destroy:
            raise Refused(
                f"The key {path} was not removed: what is encrypted for it alone could never be read again. "
                "Set destroy to true if that is meant."
            )
        if not dry_run:
            # A killed process can have left the same key under a hidden name.
            _sweep(path)
            for file in files:
                os.unlink(file)
                _make_durable(path.parent)
    return KeyFile(path, None, None, bool(files))


def _create(path: Path) -> bool:
    """Make a private key where there is none; False when somebody else was faster."""
    with _written(path, keys.generate(), 0o600) as new:
        try:
            # A link, and no renaming: what is there already stays.
            os.link(new, path)
        except FileExistsError:
            return False
        _make_durable(path.parent)
    return True


@contextmanager
def _held(path: Path) -> Iterator[bytes]:
    """Hold the lock on a private key's file (flock(2)), which dies with its holder; the key that it guards."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            status = os.fstat(descriptor)
            # While this waited, the key may have been rotated: then the lock is on the old one.
            if os.path.samestat(status, os.stat(path)):
                yield os.pread(descriptor, status.st_size, 0)
                return
        finally:
            os.close(descriptor)


def _read(path: Path) -> Optional[bytes]:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _exists(path: Path) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write a file so that it is there whole or not at all, and never readable by more than ``mode`` says."""
    with _written(path, content, mode) as new:
        os.replace(new, path)
        _make_durable(path.parent)


@contextmanager
def _written(path: Path, content: bytes, mode: int) -> Iterator[Path]:
    """A hidden file that is to become ``path`` and has its content; what still has that name afterwards is removed."""
    hidden = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    with _explaining(path):
        descriptor = _open_locked(hidden, mode)
        try:
            os.fchmod(descriptor, mode)
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
            yield hidden
        finally:
            with suppress(FileNotFoundError):
                os.unlink(hidden)
            os.close(descriptor)


def _open_locked(hidden: Path, mode: int) -> int:
    while True:
        descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Between its creation and its lock, another process may have taken the file for a leftover.
            if os.fstat(descriptor).st_nlink:
                return descriptor
        except BaseException:
            os.unlink(hidden)
            os.close(descriptor)
            raise
        os.close(descriptor)


def _make_durable(directory: Path) -> None:
    """Have the names in a directory survive a loss of power (fsync(2))."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(path: Path) -> None:
    """Remove what killed processes left of a pair, and nothing that a living one writes."""
    pattern = re.compile(rf"\.{re.escape(path.name)}({_ROTATED})?(\.pub)?\.[0-9]+\.[0-9]+\.partial")
    for name in filter(pattern.fullmatch, _names(path.parent)):
        leftover = path.with_name(name)
        # It may be gone already.
        with suppress(FileNotFoundError):
            status = os.lstat(leftover)
            if stat.S_ISREG(status.st_mode) and os.geteuid() in (0, status.st_uid):
                with lock_of_the_dead(leftover) as abandoned:
                    if abandoned:
                        os.unlink(leftover)


def _names(directory: Path) -> List[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    """Raise the typed error for what the operating system refuses about a key file."""
    try:
        yield
    except OSError as error:
        raise _explained(path, error) from None


def _explained(path: Path, error: OSError) -> EngineError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(
            f"There is no room for the key file {path}. Nothing of it was written; "
            f"free space for {path.parent}, and run this again."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionDenied(
            f"The key file {path} may not be used by user {os.geteuid()}. Run as an account that may."
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        if path.parent.is_dir():
            return NotFound(f"The key file {path} disappeared meanwhile. See who removes it, and run this again.")
        return BadInput(f"The directory {path.parent} for the key does not exist. Create it, readable for nobody else.")
    return BadInput(f"The key file {path} cannot be used: {error.strerror}. {_HINTS.get(error.errno, _HINT)}")
