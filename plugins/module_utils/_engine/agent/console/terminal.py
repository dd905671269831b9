# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Talking with whoever sits at a terminal: questions on standard error, answers from standard input."""

from __future__ import annotations

import getpass
import sys
import time

from ...errors import Interrupted
from .printing import put, put_line

_QUIT = ("q", "quit", "exit")


def has_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def say(text: str) -> None:
    """Write a text that ends its own lines."""
    put(text, sys.stderr)


def say_line(text: str) -> None:
    """Write a text as one line, whatever is in it."""
    put_line(text, sys.stderr)


def ask(question: str) -> str:
    """An answer without the spaces around it. Raises Interrupted for q, and for the end of the input (Ctrl-D)."""
    say(question)
    line = sys.stdin.readline()
    if not line:
        say("\n")
    if not line or line.strip().lower() in _QUIT:
        raise _ended()
    return line.strip()


def ask_secret(question: str) -> str:
    """A secret, which is not shown. Raises Interrupted for the end of the input."""
    try:
        return getpass.getpass(question)
    except EOFError:
        say("\n")
        raise _ended() from None


def count_down(seconds: int, before: str) -> None:
    """Let whoever watches think again; a signal meanwhile raises what its handler raises."""
    say(f"{before} Ctrl-C stops it.")
    for left in range(seconds, 0, -1):
        say(f" {left}")
        time.sleep(1)
    say("\n")


def _ended() -> Interrupted:
    return Interrupted("Ended. Nothing was changed.")
