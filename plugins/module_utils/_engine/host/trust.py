# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which account may work on a path: one that could go wherever the path leads by itself.

Root that opens a path which another account can change is led wherever that account likes: to a file of somebody else
through a link, or to one that its own program removes. So root works only on paths that root alone can change, and
otherwise becomes the one account that can, whose own files are all that it can then be led to. Here is only looked,
never opened. Sources: path_resolution(7), inode(7) on the sticky bit, acl(5).
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import struct
from contextlib import suppress
from pathlib import Path
from typing import List, NamedTuple, Optional, Set, Tuple

from ..command import Account, account_of, find_account
from ..errors import NotFound, Refused
from .mounts import lies_elsewhere

_MOST_LINKS = 40
_ACL = "system.posix_acl_access"
_ACL_USER, _ACL_GROUP_OWNER, _ACL_GROUP, _ACL_WRITE = 0x02, 0x04, 0x08, 0x02
_OTHERS_WRITE = 0o022
#: A database, and beside it the files that SQLite obeys: a hot journal names another file to delete, its super-journal
#: (sqlite.org/fileformat2.html, "The Rollback Journal"; sqlite.org/atomiccommit.html, 5).
_FILES = ("", "-journal", "-wal", "-shm")


class _Step(NamedTuple):
    """Something on the way."""

    path: str
    status: os.stat_result


class _Way(NamedTuple):
    """All that is passed on the way to a file, links included; the directory that the file is in; and its own path."""

    steps: List[_Step]
    directory: _Step
    end: str


class Objection(NamedTuple):
    """Which other account can change the directory or link ``path``, and the command that ends that, where one does."""

    path: str
    why: str
    fix: str = ""


def account_for(path: str, become_user: Optional[str]) -> Optional[Account]:
    """Whom to become to work on the file of this path: who is named, else the owner of its directory.

    None where this process is no root, and stays what it is. Raises Refused where others than root and that account
    can change where the path leads, NotFound for one that leads nowhere, and what ``find_account`` raises.
    """
    named = find_account(become_user) if become_user else None
    if os.geteuid() != 0:
        return None
    way = _walk(path)
    account = named or account_of(way.directory.status.st_uid)
    _check_all(way, account, path)
    return account


def check_trust(path: str, account: Optional[Account]) -> None:
    """Raise Refused where others than root and an account, by default this process's, can change where a path leads."""
    _check_all(_walk(path), account or account_of(os.geteuid()), path)


def check_decisive(path: str, called: str) -> None:
    """Raise Refused where others than root and this account can change what a file says that decides whom to trust."""
    account = account_of(os.geteuid())
    for step in _walk(path).steps:
        objection = _objection(step, account, final=False)
        status = step.status
        if stat.S_ISREG(status.st_mode):
            if status.st_uid not in (0, account.uid):
                objection = Objection(step.path, f"it belongs to {_name(status.st_uid)}", f"chown root {step.path}")
            elif status.st_mode & _OTHERS_WRITE and _writers(step, account):
                why = f"it can be changed by {_writers(step, account)}"
                objection = Objection(step.path, why, f"chmod go-w {step.path}")
        if objection:
            fix = f"Run {objection.fix}." if objection.fix else "Name a file in another directory."
            raise Refused(f"{called}: {objection.why}, who could decide by it whom this host believes. {fix}")


def check_place(directory: str) -> None:
    """Raise Refused where another account than root could exchange what root makes in a directory and works on."""
    root = account_of(0)
    for step in _walk(directory).steps:
        objection = _objection(step, root, final=False)
        if objection:
            first = f"Run {objection.fix}, or name" if objection.fix else "Name"
            raise Refused(
                f"Root cannot keep temporary files in {directory}: {objection.why}, who could put others in their "
                f"place. {first} another directory (scratch, or TMPDIR)."
            )


def objection_to(directory: str, opened: os.stat_result) -> Optional[Objection]:
    """Which account besides root, this process's and the directory's own owner could put another in its place.

    ``opened`` is what the path led to. What lies on a share is the exception: the machine that keeps it decides on
    modes and owners, and shows many shares as open to all. Accounts that can write to its root can exchange only what
    is within that share, since a mount point is not renamed (rename(2), EBUSY).
    """
    way, own, owner = _walk(directory), os.geteuid(), opened.st_uid
    for step in way.steps:
        status = step.status
        unwritten = stat.S_ISLNK(status.st_mode) or _is_sticky(status) or not status.st_mode & _OTHERS_WRITE
        if step is way.directory or (status.st_uid in (0, own, owner) and unwritten):
            continue
        objections = [_objection(step, account_of(uid), final=False) for uid in (own, owner)]
        # On another device than what was opened, a link that was there for a moment has led out of the share.
        if all(objections) and not (status.st_dev == opened.st_dev and lies_elsewhere(status.st_dev)):
            return objections[0]
    return None


def _check_all(way: _Way, account: Account, path: str) -> None:
    for step in way.steps:
        objection = _objection(step, account, final=step is way.directory)
        if objection:
            _refuse(path, account, objection)
    for suffix in _FILES:
        with suppress(FileNotFoundError):
            _check_file(_Step(way.end + suffix, os.lstat(way.end + suffix)), account)


def _walk(path: str) -> _Way:
    steps = [_Step("/", os.lstat("/"))]
    here, found, directory, links = "/", "/", steps[0], 0
    left = path.split("/")[::-1]
    while left:
        name = left.pop()
        if name in ("", "."):
            continue
        if name == "..":
            here = os.path.dirname(here)
            directory = next(step for step in reversed(steps) if step.path == here)
            continue
        found = os.path.join(here, name)
        try:
            step = _Step(found, os.lstat(found))
        except (FileNotFoundError, NotADirectoryError):
            break
        steps.append(step)
        if stat.S_ISLNK(step.status.st_mode):
            links += 1
            if links > _MOST_LINKS:
                raise NotFound(f"{path} leads through too many links. Write the path of the file itself.")
            target = os.readlink(found)
            if target.startswith("/"):
                here, directory = "/", steps[0]
            left += target.split("/")[::-1]
        elif stat.S_ISDIR(step.status.st_mode):
            here, directory = found, step
        else:
            break
    return _Way(steps, directory, found)


def _objection(step: _Step, account: Account, final: bool) -> Optional[Objection]:
    """Why something on the way is in the hand of others than root and an account, if it is."""
    trusted = (0, account.uid)
    if stat.S_ISREG(step.status.st_mode):
        return None
    if step.status.st_uid not in trusted:
        return Objection(step.path, f"{step.path} belongs to {_name(step.status.st_uid)}")
    if not stat.S_ISDIR(step.status.st_mode) or not step.status.st_mode & _OTHERS_WRITE:
        return None
    # In a sticky directory others can make files and cannot touch those of this account. Beside a database, though, a
    # file that others have made is its journal.
    if _is_sticky(step.status) and not final:
        return None
    writers = _writers(step, account)
    if not writers:
        return None
    return Objection(step.path, f"{step.path} can be changed by {writers}", f"chmod go-w {step.path}")


def _check_file(step: _Step, account: Account) -> None:
    """Raise Refused where an account would work on a file that another one can fill as it likes."""
    owner, mode = step.status.st_uid, step.status.st_mode
    if stat.S_ISDIR(mode):
        return
    if owner not in (0, account.uid):
        raise Refused(
            f"{step.path} belongs to {_name(owner)} in a directory that {account.name} works in, and SQLite does as "
            f"{account.name} what {_name(owner)} writes there. Set become_user to {_name(owner)}, and give that "
            f"account a directory of its own for it, or run chown {account.name} {step.path}."
        )
    writers = _writers(step, account) if stat.S_ISREG(mode) and mode & _OTHERS_WRITE else ""
    if writers:
        raise Refused(
            f"{step.path} can be changed by {writers}, and a journal that they forge makes SQLite delete files of "
            f"{account.name}. Run chmod go-w {step.path}, or give the database to an account whose own group it has."
        )


def _refuse(path: str, account: Account, objection: Objection) -> None:
    first = f"Run {objection.fix}, or " if objection.fix else ""
    advice = f"{first}name in become_user the account that owns all of the path, or move the database."
    raise Refused(
        f"{path} cannot be worked on as {account.name}: {objection.why}, who could lead {account.name} to files of its "
        f"own. {advice[:1].upper()}{advice[1:]}"
    )


def _is_sticky(status: os.stat_result) -> bool:
    return bool(status.st_mode & stat.S_ISVTX)


def _writers(step: _Step, account: Account) -> str:
    """Who besides root and the account may write a file or directory; empty where no other account may."""
    mode = step.status.st_mode
    if mode & stat.S_IWOTH:
        return "every account"
    entries = _access_list(step.path)
    if entries is None:
        return _members(step.status.st_gid, account)
    for tag, bits, who in entries:
        if not bits & _ACL_WRITE:
            continue
        if tag == _ACL_USER and who not in (0, account.uid):
            return _name(who)
        if tag in (_ACL_GROUP_OWNER, _ACL_GROUP):
            others = _members(step.status.st_gid if tag == _ACL_GROUP_OWNER else who, account)
            if others:
                return others
    return ""


def _access_list(path: str) -> Optional[List[Tuple[int, int, int]]]:
    """The entries of an access control list as tag, permissions and id; None where there is no list."""
    try:
        packed = os.getxattr(path, _ACL, follow_symlinks=False)
    except OSError:
        return None
    return [struct.unpack_from("<HHI", packed, offset) for offset in range(4, len(packed) - 7, 8)]


def _members(gid: int, account: Account) -> str:
    """The members of a group besides root and the account, for a message; empty for root's and the account's own group.

    A directory service need not enumerate members or accounts (sssd.conf(5), enumerate). So a group that looks empty
    counts as empty only where it is the one that useradd(8) makes for an account alone.
    """
    try:
        group: Optional[grp.struct_group] = grp.getgrgid(gid)
    except KeyError:
        group = None
    found: Set[str] = {entry.pw_name for entry in pwd.getpwall() if entry.pw_gid == gid}
    if group is None:
        found |= _delegated("/etc/subgid", gid) - _delegated("/etc/subuid", account.uid)
    else:
        found |= set(group.gr_mem)
    named = str(gid) if group is None else group.gr_name
    others = sorted(found - {"root", account.name})
    if others:
        rest = "" if len(others) <= 3 else f" and {len(others) - 3} more"
        return f"the members of group {named} ({', '.join(others[:3])}{rest})"
    # Of a group that this host does not know, as a container's, a process is a member only where root made it one.
    private = group is None or gid == 0 or (gid == account.gid and group.gr_name == account.name)
    return "" if private else f"the members of group {named}, which a directory service may know"


def _delegated(path: str, number: int) -> Set[str]:
    """The accounts that may take a user's or group's number in their containers (subuid(5), subgid(5))."""
    try:
        lines = Path(path).read_text("utf-8", "replace").splitlines()
    except OSError:
        return set()
    ranges = [line.split(":") for line in lines if line.count(":") == 2]
    return {
        _name(int(user)) if user.isdigit() else user
        for user, first, count in ranges
        if first.isdigit() and count.isdigit() and 0 <= number - int(first) < int(count)
    }


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
