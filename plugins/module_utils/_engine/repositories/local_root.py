# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The directory that a local repository's path names, opened so that no other account decides which one that is.

Each component is opened in the one before, and of links above it only those of root or this account are followed. To
write and to remove, it must be the only one that others could put there: whose directories could be exchanged for those
of another repository, as by a rename in a directory of its own, could have root remove the other one's backups. Shares
are the exception (``host.trust.objection_to``).
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from ..errors import EngineError, PermissionDenied, RepositoryUnusable
from ..host.pinned import ForeignLink, pinned
from ..host.trust import objection_to

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def opened_root(path: Path, writing: bool) -> Iterator[int]:
    """The repository's directory, open. Its own owner may be any account, which then has what is in it in its hand.

    Raises RepositoryUnusable, and PermissionDenied.
    """
    try:
        with pinned(str(path.parent)) as above:
            descriptor = os.open(path.name or ".", _DIRECTORY, dir_fd=above)
    except OSError as error:
        raise _unusable(path, error) from None
    try:
        if writing:
            _require_certain(path, os.fstat(descriptor))
        yield descriptor
    finally:
        os.close(descriptor)


def denied(label: str, what: str) -> PermissionDenied:
    """The error for a repository that this account may not read or write."""
    return PermissionDenied(
        f"Repository {label} cannot be {what} by user {os.geteuid()}. "
        "Give this account access, or run as one that has it."
    )


def _require_certain(path: Path, opened: os.stat_result) -> None:
    try:
        objection = objection_to(str(path), opened)
    except OSError as error:
        raise _unusable(path, error) from None
    if objection:
        owners = "root" if os.geteuid() == 0 else f"root and user {os.geteuid()}"
        first = f"Run {objection.fix}, give" if objection.fix else "Give"
        raise RepositoryUnusable(
            f"Repository {path} is not written: {objection.why}, who could put another repository in its place. "
            f"{first} {objection.path} itself as the repository's path, or move it to a directory that {owners} alone "
            "can change."
        )


def _unusable(path: Path, error: OSError) -> EngineError:
    if isinstance(error, ForeignLink):
        return RepositoryUnusable(
            f"Repository {path} lies behind a symbolic link that user {error.user} made, and other accounts' links "
            "are not followed. Give the path that it leads to, if that is the repository."
        )
    if os.path.islink(path):
        return RepositoryUnusable(
            f"Repository {path} is a symbolic link to {os.readlink(path)}. "
            "Links are not followed here; give the path that it leads to."
        )
    if error.errno == errno.ENOENT:
        return RepositoryUnusable(
            f"Repository {path} does not exist. Mount the share that should be there, or create the directory."
        )
    if error.errno == errno.ENOTDIR:
        return RepositoryUnusable(f"Repository {path} is not a directory. Give a directory as its path.")
    if error.errno == errno.EACCES:
        return denied(str(path), "read")
    return RepositoryUnusable(f"Repository {path} cannot be used: {error.strerror}. Mend that, and run this again.")
