# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Directories for what must not outlive its process: decrypted copies, spools, keyrings.

Each has a file ``lock`` in it, held with flock(2) as long as its process lives. The next one that is made for the same
purpose removes those of this account whose process is gone, and so does ``sweep`` for all purposes. One that cannot be
removed stops no other work: ``sweep`` names it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Callable, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Tuple

from .command import Account, find_account
from .errors import BadInput, EngineError, Unverifiable
from .host.clearing import empty
from .host.temporary import temporary_directory, temporary_path
from .host.trust import check_place
from .leftovers import lock_of_the_dead

#: In memory (tmpfs(5)), where the system has that.
MEMORY = Path("/dev/shm")
_LOCK = "lock"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: The account that verifies where root would have to. The role "agent" creates it, and it owns nothing.
ACCOUNT = "fleet-backup-scratch"


class Purpose(Enum):
    """What such a directory is for, and how its name begins. There are no others: ``sweep`` looks for these."""

    VERIFICATION = "fleet-backup-verify-"
    EXAMINATION = "fleet-backup-examination-"
    SPOOL = "fleet-backup-spool-"
    GPG_HOME = "fleet-backup-gpg-"

    @property
    def is_shared(self) -> bool:
        """Whether another account works in it, which can hinder its removal."""
        return self in (Purpose.VERIFICATION, Purpose.EXAMINATION)


class Abandoned(NamedTuple):
    """A directory that a killed process left; ``problem`` says why it could not be removed."""

    path: Path
    problem: str = ""


#: What has to happen before a directory of one purpose is removed.
Farewell = Callable[[Path], None]


@contextmanager
def private_directory(
    purpose: Purpose, parent: Optional[Path] = None, farewell: Optional[Farewell] = None
) -> Iterator[Path]:
    """A new directory of mode 0700, in ``parent`` or where temporary files go.

    Raises OSError, and what ``check_place``, ``temporary_directory`` and ``farewell`` raise.
    """
    where = parent or temporary_directory()
    if os.geteuid() == 0:
        # What is made below is given away and written by path.
        check_place(str(where))
    for left in _named(where, purpose):
        _remove_abandoned(left, farewell)
    directory, lock = _make(purpose, where)
    try:
        yield directory
    finally:
        try:
            _remove(directory, farewell)
        except OSError as error:
            # What another account did there fails no work: the next one tries again, and ``sweep`` tells.
            if not purpose.is_shared:
                raise EngineError(_why(directory, error)) from None
        finally:
            os.close(lock)


def sweep(parents: Iterable[Path], dry_run: bool, farewells: Mapping[Purpose, Farewell]) -> List[Abandoned]:
    """Remove what killed processes of this account left in these directories, and where temporary files go."""
    places = dict.fromkeys([temporary_path(), MEMORY, *parents])
    found = []
    for place in places:
        for purpose in Purpose:
            for path in _named(place, purpose):
                if is_abandoned(path):
                    problem = "" if dry_run else _remove_abandoned(path, farewells.get(purpose))
                    found.append(Abandoned(path, problem))
    return found


def _named(parent: Path, purpose: Purpose) -> List[Path]:
    return sorted(parent.glob(f"{purpose.value}*"))


@contextmanager
def unprivileged_directory(
    purpose: Purpose, parent: Optional[Path] = None, become_user: Optional[str] = None
) -> Iterator[Path]:
    """A new directory within a private one, for work on what others have made, which no process of root may do.

    As root, it belongs to ``become_user`` or ``ACCOUNT``. Raises OSError, and Unverifiable where there is no such one.
    """
    account = scratch_account(become_user) if os.geteuid() == 0 else None
    with private_directory(purpose, parent) as outer:
        directory = outer / unguessable()
        directory.mkdir(mode=0o700)
        if account is not None:
            _require_passage(outer.parent, account)
            os.chown(directory, account.uid, account.gid)
            # It may pass, and see nothing but its own.
            outer.chmod(0o711)
        yield directory


def unguessable() -> str:
    """A name for a directory in one that others may pass and not list (mode 0711), so that only who is told finds it.

    All work for others' files has one account: without this, each could read and write the others' files.
    """
    # Short, as a path of a socket must be: 96 bits.
    return secrets.token_urlsafe(12)


def _require_passage(directory: Path, account: Account) -> None:
    """Raise PermissionError where an account cannot come to a directory."""
    for above in (directory, *directory.parents):
        if not above.stat().st_mode & stat.S_IXOTH and above.stat().st_uid != account.uid:
            why = f"{account.name} verifies there and cannot pass; run chmod o+x {above}, or choose another directory"
            raise PermissionError(errno.EACCES, why, str(directory))


def scratch_account(become_user: Optional[str] = None) -> Account:
    """The account that works on what others have made, where root would have to: ``ACCOUNT`` unless another is named.

    No other one stands in for it: ``nobody``, say, is shared with other services. Raises Unverifiable where this host
    does not have it, and BadInput for root.
    """
    name = become_user or ACCOUNT
    if name == "root":
        raise BadInput("scratch.become_user: root verifies nothing itself. Name an account that owns nothing.")
    try:
        return find_account(name)
    except BadInput:
        raise Unverifiable(
            f"As root, backups are verified by the account {name}, which this host does not have. Apply the role "
            "fleet.backup.agent, or create it: useradd --system --no-create-home --home-dir /nonexistent "
            f"--shell /usr/sbin/nologin {name}"
        ) from None


def _make(purpose: Purpose, parent: Path) -> Tuple[Path, int]:
    """A new directory, and the descriptor that holds its lock."""
    import tempfile

    while True:
        directory = Path(tempfile.mkdtemp(prefix=purpose.value, dir=parent))
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


def _remove_abandoned(directory: Path, farewell: Optional[Farewell]) -> str:
    """Remove a directory where its maker is gone; why it stays where it does."""
    try:
        with suppress(FileNotFoundError):
            if _is_own(directory):
                with lock_of_the_dead(directory / _LOCK) as abandoned:
                    if abandoned:
                        _remove(directory, farewell)
                        return ""
                # Where its maker is alive, its lock is in it.
                directory.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or is_abandoned(directory):
            return _why(directory, error)
    except EngineError as error:
        return str(error)
    return ""


def _why(directory: Path, error: OSError) -> str:
    return f"{directory}: cannot be removed: {error.strerror}. Remove it: it may hold decrypted data or private keys."


def _is_own(directory: Path) -> bool:
    """In a shared directory, others can have made something of that name."""
    status = os.lstat(directory)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _remove(directory: Path, farewell: Optional[Farewell]) -> None:
    """Remove a directory whose lock is held; the lock last, so that what a kill leaves of it is still abandoned."""
    try:
        if farewell is not None:
            farewell(directory)
    finally:
        descriptor = os.open(directory, _DIRECTORY)
        try:
            empty(descriptor, keep=(_LOCK,))
            os.unlink(_LOCK, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        # Empty for a moment, it looks abandoned to another process.
        with suppress(FileNotFoundError):
            directory.rmdir()
