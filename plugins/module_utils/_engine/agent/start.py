# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The archive's ``__main__``: start the agent, from compiled code where there is some.

Python compiles what it imports from an archive anew each time: a second of processor time for each command, and again
for each child. ``fleet-backup compile`` does it once. Nothing of the engine is imported here before the choice is made.
"""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import sys
from importlib import import_module
from importlib.util import MAGIC_NUMBER

#: The package's name in the archive.
PACKAGE = "fleet_backup"


def code_of(program: str) -> str:
    """Where the compiled code of a program lies: in ``lib``, beside ``bin`` or in the program's own directory."""
    directory = os.path.dirname(os.path.realpath(program))
    prefix = os.path.dirname(directory) if os.path.basename(directory) in ("bin", "sbin") else directory
    return os.path.join(prefix, "lib", "fleet-backup", "code.zip")


def key_of(program: str) -> bytes:
    """What compiled code ends with that was made of this program, for this Python."""
    with open(program, "rb") as file:
        return MAGIC_NUMBER.hex().encode("ascii") + hashlib.sha256(file.read()).hexdigest().encode("ascii")


def trusted(program: str, *paths: str) -> bool:
    """Whether only accounts that can exchange the program itself can have made or can change these. Raises OSError."""
    owners = (0, os.stat(program).st_uid)
    place = os.stat(os.path.dirname(os.path.realpath(program)))
    # Debian lets the group staff write in all of /usr/local.
    groups = (place.st_gid,) if place.st_mode & stat.S_IWGRP else ()
    return all(
        one.st_uid in owners
        and not stat.S_ISLNK(one.st_mode)
        and not one.st_mode & stat.S_IWOTH
        and (not one.st_mode & stat.S_IWGRP or one.st_gid in groups)
        for one in map(os.lstat, paths)
    )


def usable_code(program: str) -> bool:
    """Whether there is compiled code of this program, for this Python, which only root or the program's owner wrote."""
    code = code_of(program)
    try:
        if not trusted(program, os.path.dirname(os.path.dirname(code)), os.path.dirname(code), code):
            return False
        key = key_of(program)
        with open(code, "rb") as file:
            file.seek(-len(key), os.SEEK_END)
            return file.read() == key
    except OSError:
        return False


def start() -> int:
    """Run the command; the exit status."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Until the command handles it, Ctrl-C ends it without a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    program = sys.path[0]
    if usable_code(program):
        sys.path.insert(0, code_of(program))
    status: int = import_module(f"{PACKAGE}.agent.cli").main()
    return status


if __name__ == "__main__":
    raise SystemExit(start())
