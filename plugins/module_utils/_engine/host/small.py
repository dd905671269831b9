# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Small files of this host, read without being held up: what else has their name is never opened for long."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

#: Far more than any job, setting or note has, in bytes.
_MOST = 4 << 20


def read_small(path: Path, most: int = _MOST) -> bytes:
    """A file's content. Raises OSError, also where it is a device, a FIFO or a directory, or has more bytes."""
    # To open a device may do anything, and to open a FIFO waits for who writes into it.
    _require_file(path, os.stat(path))
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        _require_file(path, os.fstat(descriptor))
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, "It is too large", str(path))
    return content


def _require_file(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "It is not a regular file", str(path))
