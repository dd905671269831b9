# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Directories for what must not outlive its process: decrypted copies, spools, keyrings.

Each has a file ``lock`` in it, held with flock(2) as long as its process lives. Whoever makes the next one of its kind
removes those of this account whose process is gone, however it went.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import shutil
import stat
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator, Optional, Tuple

from .command import Account, find_account
from .host.temporary import temporary_directory
from .leftovers import lock_of_the_dead

_LOCK, _WORK = "lock", "work"
_ACCOUNTS = ("fleet-backup-scratch", "nobody")
_NOBODY = 65534


@contextmanager
def private_directory(prefix: str, parent: Optional[Path] = None) -> Iterator[Path]:
    """A new directory of mode 0700 whose name begins with ``prefix``, in ``parent`` or where temporary files go.

    Raises OSError, and what ``temporary_directory`` raises.
    """
    where = parent or temporary_directory()
    for left in sorted(where.glob(f"{prefix}*")):
        _remove_abandoned(left)
    directory, lock = _make(prefix, where)
    try:
        yield directory
    finally:
        _remove(directory)
        os.close(lock)


@contextmanager
def unprivileged_directory(prefix: str, parent: Optional[Path] = None) -> Iterator[Path]:
    """A new directory within a private one, for work on what others have made, which no process of root may do.

    As root, it belongs to an account without rights: ``fleet-backup-scratch``, which has no other work, or where that
    does not exist ``nobody``. Raises OSError.
    """
    with private_directory(prefix, parent) as outer:
        directory = outer / _WORK
        directory.mkdir(mode=0o700)
        if os.geteuid() == 0:
            account = scratch_account()
            _require_passage(outer.parent, account)
            os.chown(directory, account.uid, account.gid)
            # It may pass, and see nothing but its own.
            outer.chmod(0o711)
        yield directory


def _require_passage(directory: Path, account: Account) -> None:
    """Raise PermissionError where an account cannot come to a directory."""
    for above in (directory, *directory.parents):
        if not above.stat().st_mode & stat.S_IXOTH and above.stat().st_uid != account.uid:
            why = f"{account.name} verifies there and cannot pass; run chmod o+x {above}, or choose another directory"
            raise PermissionError(errno.EACCES, why, str(directory))


def scratch_account() -> Account:
    """Who works on what others have made, where root would have to."""
    for name in _ACCOUNTS:
        try:
            return find_account(pwd.getpwnam(name).pw_name)
        except KeyError:
            continue
    return Account("nobody", _NOBODY, _NOBODY, (_NOBODY,), "/")


def _make(prefix: str, parent: Path) -> Tuple[Path, int]:
    """A new directory, and the descriptor that holds its lock."""
    while True:
        directory = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            # Still empty, it looked abandoned to another process.
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Between its creation and its lock, another process could take it for abandoned.
        if os.fstat(lock).st_nlink:
            return directory, lock
        os.close(lock)


def is_abandoned(directory: Path) -> bool:
    """Whether a directory is this account's, and its maker gone. An empty one was killed before or after its lock."""
    with suppress(FileNotFoundError):
        if _is_own(directory):
            with lock_of_the_dead(directory / _LOCK) as abandoned:
                return abandoned or not os.listdir(directory)
    return False


def _remove_abandoned(directory: Path) -> None:
    # It may be gone by now.
    with suppress(FileNotFoundError):
        if not _is_own(directory):
            return
        with lock_of_the_dead(directory / _LOCK) as abandoned:
            if abandoned:
                _remove(directory)
                return
        try:
            directory.rmdir()
        except OSError as error:
            # Its maker is alive, and at work in it.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def _is_own(directory: Path) -> bool:
    """In a shared directory, others can have made something of that name."""
    status = os.lstat(directory)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _remove(directory: Path) -> None:
    """Remove a directory whose lock is held; the lock last, so that what a kill leaves of it is still abandoned."""
    for path in directory.iterdir():
        if path.name == _WORK:
            # Its account may be at work in it; what this cannot remove, the next one does. It follows no links.
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_dir() and not path.is_symlink():
            # It follows no link, whatever the account that owns what is in there has put there.
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()
    if (directory / _WORK).exists():
        return
    (directory / _LOCK).unlink()
    # Empty for a moment, it looks abandoned to another process.
    with suppress(FileNotFoundError):
        directory.rmdir()
