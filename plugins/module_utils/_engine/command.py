# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An external program, described: what to run, and which secrets reach it. Describing runs nothing."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from dataclasses import dataclass, field
from typing import Callable, Dict, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

from .errors import BadInput, EngineError, MissingTool, PermissionDenied


@dataclass(frozen=True)
class Secret:
    """Bytes that a program gets to read through a file descriptor, and through nothing else.

    ``form`` is the argument or environment value that the program sees; ``{fd}`` stands for the descriptor's number and
    ``{path}`` for a path that opens it. The bytes are in an anonymous memory file: never on a disk, never in an
    argument, never in the environment.
    """

    content: bytes = field(repr=False)
    form: str = "{path}"


class Status(NamedTuple):
    """Lines that a program writes for programs, through a descriptor of its own.

    ``option`` stands before the descriptor's number, and each line begins with ``prefix``, a keyword and its arguments.
    The program has failed, whatever its exit status, unless each keyword in ``once`` comes exactly once.
    """

    option: str
    prefix: str
    once: Tuple[str, ...] = ()


Argument = Union[str, Secret]

#: The group that owns nothing, on every Linux.
_NO_GROUP = 65534


class Account(NamedTuple):
    """An account of this host, as passwd(5) and group(5) know it."""

    name: str
    uid: int
    gid: int
    groups: Tuple[int, ...]
    home: str


def find_account(name: str) -> Account:
    """The account of this name. Raises BadInput where there is none, and PermissionDenied where only root may be it."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise BadInput(f"become_user: this host has no account {name}. Create it, or correct the name.") from None
    if os.geteuid() not in (0, found.pw_uid):
        raise PermissionDenied(f"become_user: only root can act as {name}. Run this as root or as {name}.")
    groups = tuple(os.getgrouplist(name, found.pw_gid))
    return Account(name, found.pw_uid, found.pw_gid, groups, found.pw_dir)


def account_of(uid: int) -> Account:
    """The account of this number. One that passwd(5) does not know, as a container's, is in no group of this host."""
    try:
        return find_account(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return Account(f"user {uid}", uid, _NO_GROUP, (_NO_GROUP,), "/")


@dataclass(frozen=True)
class Command:
    """A program to run. ``name`` is what messages call it; ``environment`` is added to the caller's own.

    With ``terminal_answers``, the program gets a terminal of its own on which each of these secrets is typed when it
    asks: ``age`` takes a passphrase in no other way. It runs as ``account`` where one is given. With ``status``, what
    it says there counts too. Its address space is ``memory`` bytes, where that is given.
    """

    name: str
    arguments: Tuple[Argument, ...]
    environment: Mapping[str, Argument] = field(default_factory=dict)
    terminal_answers: Tuple[Secret, ...] = ()
    account: Optional[Account] = None
    status: Optional[Status] = None
    memory: Optional[int] = None


class Channel:
    """Our end of a pipe whose other end a child has, which may hang, crash or lie. Who uses it takes it, and closes it.

    ``connect`` says how many bytes the child announces, which are the most that is taken; what ends the child, so that
    who waits at the pipe goes on; and what tells how the child failed, if it did.
    """

    #: What an error of writing to the child is called.
    NAME = "the process that takes the copy"

    def __init__(self, descriptor: int) -> None:
        self._descriptor: Optional[int] = descriptor
        self.bytes = 0
        self.kill: Callable[[], None] = lambda: None
        self.verdict: Callable[[], Optional[EngineError]] = lambda: None

    def connect(self, size: int, kill: Callable[[], None], verdict: Callable[[], Optional[EngineError]]) -> None:
        self.bytes, self.kill, self.verdict = size, kill, verdict

    def take(self) -> int:
        """The descriptor, once."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            raise ValueError("this end of a pipe is taken")
        return descriptor

    def close(self) -> None:
        """Close it where it was not taken."""
        if self._descriptor is not None:
            os.close(self.take())


def find_program(name: str, package: str, purpose: str) -> str:
    """The absolute path of a program, or MissingTool naming the package that brings it."""
    # It loads libraries of compression, and random numbers: most commands need neither.
    import shutil

    path = shutil.which(name)
    if path is None:
        raise MissingTool(f"{purpose} needs the program {name}, which is not installed. Install the package {package}.")
    return path


_versions: Dict[Tuple[str, float], str] = {}


def program_version(path: str, arguments: Sequence[str] = ("--version",)) -> str:
    """The first version number that a program prints of itself, or an empty string when it prints none."""
    # Asked once a process for each file: a backup names the same tools in its checks and in its manifest.
    key = (path, os.stat(path).st_mtime)
    if key not in _versions:
        done = subprocess.run(
            [path, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        match = re.search(rb"[0-9]+(?:\.[0-9]+)+", done.stdout)
        _versions[key] = match.group(0).decode("ascii") if match else ""
    return _versions[key]
