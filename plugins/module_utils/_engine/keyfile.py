# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A key pair in files: the private key at a path, 0600, and the public one beside it with ``.pub`` appended."""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Iterator, Optional

from . import keys
from .errors import BadInput, EngineError, PermissionDenied, Refused


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
    if _read(path) is None:
        if dry_run:
            return KeyFile(path, None, None, True)
        made = _create(path)
    else:
        made = False
    with _held(path) as private:
        public = keys.public_pem(private)
        wrong_mode = stat.S_IMODE(path.stat().st_mode) != 0o600
        wrong_public = _read(public_path(path)) != public
        if not dry_run:
            if wrong_mode:
                path.chmod(0o600)
            if wrong_public:
                _write(public_path(path), public, 0o644)
    changed = made or wrong_mode or wrong_public
    return KeyFile(path, public.decode("ascii"), keys.recipient_id(public), changed)


def rotate(path: Path, max_age: Optional[timedelta], now: datetime, dry_run: bool) -> KeyFile:
    """Put a new pair in place of one that is older than ``max_age``; the old one is kept under the time of its end."""
    if _read(path) is None:
        return ensure(path, dry_run)
    with _held(path):
        made = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
        previous = path.with_name(f"{path.name}.{now.strftime('%Y%m%dT%H%M%SZ')}")
        young = max_age is not None and now - made <= max_age
        if not young and dry_run:
            return KeyFile(path, None, None, True, previous)
        if not young:
            _replace(path, previous)
    pair = ensure(path, dry_run)
    return pair if young else KeyFile(path, pair.public, pair.recipient_id, True, previous)


def _replace(path: Path, previous: Path) -> None:
    try:
        # A link, so that the path has a key at every moment: the old one until the new one is renamed over it.
        os.link(path, previous)
    except OSError as error:
        raise _explained(previous, error) from None
    if public_path(path).exists():
        os.replace(str(public_path(path)), str(public_path(previous)))
    _write(path, keys.generate(), 0o600)


def remove(path: Path, destroy: bool, dry_run: bool) -> KeyFile:
    """Destroy a pair. What was encrypted for it alone can then never be read again, so that must be asked for."""
    files = [file for file in (path, public_path(path)) if file.exists()]
    if files and not destroy:
        raise Refused(
            f"The key {path} was not removed: what is encrypted for it alone could never be read again. "
            "Set destroy to true if that is meant."
        )
    if not dry_run:
        for file in files:
            file.unlink()
    return KeyFile(path, None, None, bool(files))


def _create(path: Path) -> bool:
    """Make a private key where there is none; False when somebody else was faster."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    _write(temporary, keys.generate(), 0o600)
    try:
        # A link, and no renaming: what is there already stays.
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        raise _explained(path, error) from None
    finally:
        temporary.unlink()
    return True


@contextmanager
def _held(path: Path) -> Iterator[bytes]:
    """Hold the lock on a private key's file (flock(2)), which dies with its holder; the key that it guards."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise _explained(path, error) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            status = os.fstat(descriptor)
            # While this waited, the key may have been rotated: then the lock is on the old one.
            if path.exists() and path.stat().st_ino == status.st_ino:
                yield os.pread(descriptor, status.st_size, 0)
                return
        finally:
            os.close(descriptor)


def _read(path: Path) -> Optional[bytes]:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _explained(path, error) from None


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write a file so that it is there whole or not at all, and never readable by more than ``mode`` says."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.writing")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            os.fchmod(descriptor, mode)
            os.write(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(str(temporary), str(path))
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise _explained(path, error) from None


def _explained(path: Path, error: OSError) -> EngineError:
    if isinstance(error, PermissionError):
        return PermissionDenied(
            f"The key file {path} may not be used by user {os.geteuid()}. Run as an account that may."
        )
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return BadInput(f"The directory {path.parent} for the key does not exist. Create it, readable for nobody else.")
    return BadInput(f"The key file {path} cannot be used: {error.strerror}. Give the path of a file.")
