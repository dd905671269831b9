# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who may open a restored SQLite file: owner, group, mode, and what the host's access control adds to them."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

from ...errors import BadInput, BadManifest, PermissionDenied

#: What decides who may open a file, besides owner, group and mode.
_ATTRIBUTES = ("system.posix_acl_access", "security.selinux")


@dataclass(frozen=True)
class Owner:
    """Who was asked to own the file. ``gid`` is None where only a user was named."""

    uid: int
    gid: Optional[int]
    primary_gid: int


@dataclass(frozen=True)
class Access:
    """Who may open a file. ``uid`` and ``gid`` are -1 where they stay as they are."""

    uid: int
    gid: int
    mode: int
    attributes: Mapping[str, bytes]


def parse_owner(text: Optional[str]) -> Optional[Owner]:
    """Read ``user``, ``user:group``, or numbers in their place. Raises BadInput for an unknown one."""
    if text is None:
        return None
    user, colon, group = text.partition(":")
    try:
        account = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
        gid = (int(group) if group.isdigit() else grp.getgrnam(group).gr_gid) if colon else None
    except KeyError:
        raise BadInput(
            f'owner: there is no user or group "{text}" on this host. Write a user, or a user:group, that exists.'
        ) from None
    return Owner(account.pw_uid, gid, account.pw_gid)


def parse_mode(properties: Mapping[str, Any]) -> int:
    """The permission bits that a manifest records, 0600 where it records none. Raises BadManifest."""
    text = properties.get("mode", "0600")
    try:
        # Bits beyond these mean nothing for a database, and a manifest must not bring them.
        return int(text, 8) & 0o777
    except (TypeError, ValueError):
        raise BadManifest(f"The manifest gives the mode {text!r}, which is not an octal number.") from None


def access_of_new(descriptor: int, directory: Path, owner: Optional[Owner], mode: int) -> Access:
    """The access of a staged file as a database that did not exist: as root, it goes to the directory's owner.

    A manifest lets no others write to it, as with gpg and age anyone can forge one: the group only where it can write
    to the directory, and so replace the file.
    """
    uid = gid = -1
    status = os.stat(directory)
    if owner is not None:
        uid, gid = owner.uid, owner.primary_gid if owner.gid is None else owner.gid
    elif os.geteuid() == 0:
        uid, gid = status.st_uid, status.st_gid
    group = os.fstat(descriptor).st_gid if gid == -1 else gid
    shared = group == status.st_gid and status.st_mode & (stat.S_IWGRP | stat.S_ISVTX) == stat.S_IWGRP
    return Access(uid, gid, mode & ~(stat.S_IWOTH if shared else stat.S_IWGRP | stat.S_IWOTH), {})


def access_of_replaced(descriptor: int, owner: Optional[Owner]) -> Access:
    """The access of the database that is replaced; an owner that was asked for wins."""
    status = os.fstat(descriptor)
    uid, gid = status.st_uid, status.st_gid
    if owner is not None:
        uid, gid = owner.uid, gid if owner.gid is None else owner.gid
    return Access(uid, gid, stat.S_IMODE(status.st_mode), _attributes(descriptor))


def require_grantable(target: Path, owner: Optional[Owner]) -> None:
    """Raise PermissionDenied where this account can be seen not to be able to give the file to its owner and group."""
    me = os.geteuid()
    if me == 0:
        return
    try:
        status: Optional[os.stat_result] = os.stat(target)
    except FileNotFoundError:
        status = None
    uid = owner.uid if owner else status.st_uid if status else me
    if uid != me:
        raise PermissionDenied(
            f"Cannot restore to {target}: only root can give it to its owner, user {uid}, and restores as the "
            f"directory's owner, user {me}. Run chown {me} {target}, leave owner out, "
            "or restore to another path."
        )
    gid = owner.gid if owner and owner.gid is not None else status.st_gid if status else os.getegid()
    if gid not in (os.getegid(), *os.getgroups()):
        raise PermissionDenied(
            f"Cannot restore to {target}: user {me} is not in its group {gid}, and only root could give it to that. "
            f"Add the user to the group, run chgrp {os.getegid()} {target}, or restore to another path."
        )


def grant(descriptor: int, access: Access) -> None:
    """Set who may open a file, durably. Raises PermissionDenied."""
    status = os.fstat(descriptor)
    try:
        if access.uid not in (-1, status.st_uid) or access.gid not in (-1, status.st_gid):
            os.fchown(descriptor, access.uid, access.gid)
        os.fchmod(descriptor, access.mode)
        for name, value in access.attributes.items():
            os.setxattr(descriptor, name, value)
    except PermissionError as error:
        raise PermissionDenied(
            f"Cannot give the restored database to user {access.uid} and group {access.gid}. "
            "Run this as root, or as that user."
        ) from error
    os.fsync(descriptor)


def _attributes(descriptor: int) -> Dict[str, bytes]:
    try:
        present = os.listxattr(descriptor)
    except OSError:  # a file system that has none
        return {}
    return {name: os.getxattr(descriptor, name) for name in _ATTRIBUTES if name in present}
