# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading a private key from its file, which none but its owner and root may read."""

from __future__ import annotations

import os
import stat

from ..errors import BadInput, PermissionDenied

#: No file of keys is longer, in bytes.
LONGEST = 1 << 20
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
#: What files of public keys begin with, and what is in all files of private ones that are text.
_PUBLIC = (b"-----BEGIN PUBLIC KEY-----", b"-----BEGIN PGP PUBLIC KEY BLOCK-----", b"age1", b"ssh-")
_PRIVATE = (b"PRIVATE KEY", b"AGE-SECRET-KEY-")


def read_private(path: str, called: str) -> bytes:
    """A private key's file. Raises OSError, PermissionDenied where others can read it, and BadInput, for ``called``."""
    # Without waiting: a FIFO would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        content = file.read(LONGEST + 1) if stat.S_ISREG(status.st_mode) else b""
    if content.lstrip().startswith(_PUBLIC) and not any(mark in content for mark in _PRIVATE):
        # Before its mode is judged: a public key was not betrayed by being readable.
        raise BadInput(f"{called} is a public key. Give the private key that belongs to it.")
    require_private(status, called)
    if len(content) > LONGEST:
        raise BadInput(f"{called} is far too long for a key. Check encryption.identities.")
    return content


def require_private(status: os.stat_result, called: str) -> None:
    """Raise PermissionDenied for a file that others than its owner can read or write, and BadInput for no file."""
    if not stat.S_ISREG(status.st_mode):
        raise BadInput(f"{called} is not a regular file. Give the path of a private key.")
    if status.st_mode & _OTHERS:
        raise PermissionDenied(
            f"{called} can be read or written by others than its owner (mode {stat.S_IMODE(status.st_mode):04o}). "
            "It was not used: replace the key, since others may have read it, and give its file the mode 0600."
        )
