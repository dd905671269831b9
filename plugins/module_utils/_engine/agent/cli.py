# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command ``fleet-backup``: from its arguments to its exit status."""

from __future__ import annotations

import argparse
import os
import re
import sys
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Optional, Sequence

from .. import __version__
from ..errors import EngineError, Stopped
from ..host.apart import commanded
from ..host.kernel import leave_no_core
from ..host.unexpected import explained
from ..interrupts import interruptible
from .console.exits import Exit, exit_of_code
from .console.printing import complain
from .parser import parser_for

#: What reads no settings and no jobs.
_BRIEF = ("compile", "completion", "manual", "version")
_EMPTY = re.compile("--[a-z-]+=")


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the command; the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given in (["--version"], ["version"]):
        # Nothing else is imported for it.
        sys.stdout.write(f"fleet-backup {__version__}\n")
        return Exit.FINE
    _prepare_streams()
    parser = parser_for(given)
    parsed = parser.parse_args(given)
    if any(not word or _EMPTY.fullmatch(word) for word in given):
        # A shell's variable that is not set: without it, a restore into a copy would be one into the original.
        parser.error("an argument is empty. Give it a value, or leave out its option.")
    if parsed.command in _BRIEF:
        return _act(parsed)
    try:
        leave_no_core()
        # Imported before the command is forked, so that no process imports it again.
        import_module(f".commands.{parsed.command}", __package__)
        return commanded(partial(_interruptibly, parsed), f"fleet-backup {parsed.command}")
    except OSError as error:
        return _complain(str(explained(error, f"fleet-backup {parsed.command}")), Exit.FAILED)


def _interruptibly(parsed: argparse.Namespace) -> int:
    try:
        with interruptible():
            return _act(parsed)
    except Stopped as error:
        # Where this comes through, nothing was being changed.
        return _complain(str(error), exit_of_code(error.code))


def _act(parsed: argparse.Namespace) -> int:
    try:
        status = int(import_module(f".commands.{parsed.command}", __package__).act(parsed))
        sys.stdout.flush()
        return status
    except (EngineError, Stopped) as error:
        return _complain(str(error), exit_of_code(error.code))
    except KeyboardInterrupt:
        return _complain("Stopped.", Exit.INTERRUPTED)
    except BrokenPipeError:
        # Whoever read the output has seen enough.
        return _let_go(Exit.FAILED)
    except Exception as error:
        return _complain(str(explained(error, f"fleet-backup {parsed.command}")), Exit.FAILED)


def _complain(text: str, status: int) -> int:
    # There is no other place to say it; the exit status does.
    with suppress(OSError):
        complain(text)
    return _let_go(status)


def _let_go(status: int) -> int:
    """Forget what Python still holds of an output that takes no more, which it would complain about at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return status


def _prepare_streams() -> None:
    """Have the three streams open, and able to write every name.

    Where one is closed, the next file that is opened, a database perhaps, would take its number, and be written to.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "w", encoding="utf-8", closefd=False))
        getattr(sys, name).reconfigure(errors="backslashreplace")
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
