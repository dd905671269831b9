# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Errors that nobody foresaw, as errors that say what to do. Their own text is not shown: it can quote data."""

from __future__ import annotations

import errno
import os
from types import TracebackType
from typing import List, Optional

from ..errors import BadInput, EngineError, MissingTool, NoSpace, PermissionDenied, Stopped, Unexpected

#: How many places of the code are named, the innermost first.
_PLACES = 3
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_HINTS = {
    errno.EMFILE: "Raise the limit of open files (ulimit -n, LimitNOFILE=).",
    errno.ENFILE: "Raise the system's limit of open files (fs.file-max).",
    errno.EAGAIN: "Raise the limit of processes (ulimit -u, pids.max, TasksMax=).",
    errno.ENOMEM: "Free memory, or raise the limit of memory.",
    errno.EIO: "See the kernel's log, and check the disk.",
    errno.ESTALE: "Mount the share again.",
    errno.ENOLCK: "The file system cannot lock files. Keep the state on a local disk.",
    errno.EOPNOTSUPP: "The file system lacks an operation. Keep it on a local disk.",
    errno.ENOSYS: "The file system lacks an operation. Keep it on a local disk.",
}


def explained(error: BaseException, label: str) -> EngineError:
    """The error that a user reads for one that nobody foresaw. ``label`` says what failed, as in "The backup of x"."""
    if isinstance(error, EngineError):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        return _of_the_system(error, label)
    if isinstance(error, MemoryError):
        return NoSpace(f"{label} failed: there is not enough memory. {_HINTS[errno.ENOMEM]}")
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return EngineError(f"{label} failed: no thread can be started. {_HINTS[errno.EAGAIN]}")
    if isinstance(error, ImportError):
        return MissingTool(f"{label} failed: a library cannot be loaded ({error.name or 'unknown'}). Install it again.")
    if isinstance(error, UnicodeEncodeError):
        # JSON can write half a character (RFC 8259, 8.2), which no file, program or server takes as a name.
        return BadInput(
            f"{label} failed: one of its names or values is not text that UTF-8 can write (at "
            f"{_places(error.__traceback__)}). Correct it."
        )
    return Unexpected(
        f"{label} failed unexpectedly: {type(error).__name__} at {_places(error.__traceback__)}. "
        "This is a fault of fleet.backup: please report it with this line."
    )


def explained_stop(error: BaseException, label: str) -> BaseException:
    """The same, but an order to stop stays what it is."""
    return error if isinstance(error, Stopped) else explained(error, label)


def reason_of(error: BaseException) -> str:
    """What an error says of itself: for one of the system its path and its reason, and not its number."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if isinstance(error.filename, str) else error.strerror


def _of_the_system(error: OSError, label: str) -> EngineError:
    number = error.errno or 0
    name = error.filename.decode("utf-8", "surrogateescape") if isinstance(error.filename, bytes) else error.filename
    where = f"{name}: " if isinstance(name, str) else ""
    text = f"{label} failed: {where}{os.strerror(number)}."
    if number in _FULL:
        return NoSpace(f"{text} Free space there, and run this again.")
    if number in _FORBIDDEN:
        return PermissionDenied(f"{text} Check its owner, its mode and how it is mounted.")
    return EngineError(f"{text} {_HINTS.get(number, f'See {_places(error.__traceback__)}.')}")


def _places(trace: Optional[TracebackType]) -> str:
    """Where it was raised: files and lines, the innermost first."""
    found: List[str] = []
    while trace is not None:
        code = trace.tb_frame.f_code
        found.append(f"{os.path.basename(code.co_filename)}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " < ".join(reversed(found[-_PLACES:])) or "an unknown place"
