# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the kernel does with a process of ours: it ends with its parent, and leaves no core file (prctl(2))."""

from __future__ import annotations

import ctypes
import os
import resource
import signal

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
# Loaded here: between fork(2) and exec(3) nothing may be imported.
_libc = ctypes.CDLL(None, use_errno=True)


def die_with(parent: int, number: int = signal.SIGTERM) -> None:
    """Have this process get a signal when the thread that forked it ends, however that goes.

    Changing the account takes this back, so it must come after that. ``parent`` is the process that forked it: where
    that one is gone already, this process ends at once. Raises OSError.
    """
    _prctl(_PR_SET_PDEATHSIG, int(number))
    if os.getppid() != parent:
        os._exit(128 + int(number))


def leave_no_core() -> None:
    """Let a crash of this process, and of the programs that it starts, write no core file: it would hold secrets.

    A program that it executes may be read by its own account's debuggers again, but dumps no core either.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_DUMPABLE, 0)


def _prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    if _libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
