# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A key pair in files: the private key at a path, 0600, and the public one beside it with ``.pub`` appended."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Optional

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
    """Make the pair where it is missing; mend a missing public key and a mode that lets others read the private one."""
    private = _read(path)
    if private is None:
        return KeyFile(path, None, None, True) if dry_run else _make(path)
    public = keys.public_pem(private)
    wrong_mode = stat.S_IMODE(path.stat().st_mode) != 0o600
    wrong_public = _read(public_path(path)) != public
    if not dry_run:
        if wrong_mode:
            path.chmod(0o600)
        if wrong_public:
            _write(public_path(path), public, 0o644)
    return KeyFile(path, public.decode("ascii"), keys.recipient_id(public), wrong_mode or wrong_public)


def rotate(path: Path, max_age: Optional[timedelta], now: datetime, dry_run: bool) -> KeyFile:
    """Put a new pair in the place of one older than ``max_age``; the old one is kept under the time of its end."""
    if _read(path) is None:
        return ensure(path, dry_run)
    made = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
    if max_age is not None and now - made <= max_age:
        return ensure(path, dry_run)
    previous = path.with_name(f"{path.name}.{now.strftime('%Y%m%dT%H%M%SZ')}")
    if dry_run:
        return KeyFile(path, None, None, True, previous)
    # A link, so that the path has a key at every moment: the old one until the new one is renamed over it.
    os.link(path, previous)
    if public_path(path).exists():
        os.replace(str(public_path(path)), str(public_path(previous)))
    made_pair = _make(path)
    return KeyFile(path, made_pair.public, made_pair.recipient_id, True, previous)


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


def _make(path: Path) -> KeyFile:
    private = keys.generate()
    public = keys.public_pem(private)
    _write(path, private, 0o600)
    _write(public_path(path), public, 0o644)
    return KeyFile(path, public.decode("ascii"), keys.recipient_id(public), True)


def _read(path: Path) -> Optional[bytes]:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _explained(path, error) from None


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write a file so that it is there whole or not at all, and never readable by more than ``mode`` says."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
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
