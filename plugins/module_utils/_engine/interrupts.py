# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Signals that ask this process to stop, and the end of its time, as exceptions: what was begun is cleaned up."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from types import FrameType
from typing import Iterator, Optional

from .errors import Interrupted, TimedOut

_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@contextmanager
def interruptible() -> Iterator[None]:
    """While this lasts, SIGTERM, SIGHUP and SIGINT raise Interrupted in the main thread, once."""
    if threading.current_thread() is not threading.main_thread():
        # Python delivers signals to the main thread alone; whoever runs this elsewhere handles them there.
        yield
        return
    previous = {number: signal.signal(number, _interrupt) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def time_limit(seconds: Optional[float], label: str) -> Iterator[None]:
    """Raise TimedOut in the main thread, once, when this lasts longer than ``seconds``; None is no limit."""
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(_number: int, _frame: Optional[FrameType]) -> None:
        _no_more()
        raise TimedOut(f"{label} took longer than its timeout of {seconds:g} s. Raise timeout, or see what blocks it.")

    previous = {number: signal.getsignal(number) for number in (signal.SIGALRM, *_SIGNALS)}
    signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(number: int, _frame: Optional[FrameType]) -> None:
    _no_more()
    raise Interrupted(f"Stopped by {signal.Signals(number).name}. What was begun has been removed; run this again.")


def _no_more() -> None:
    """Let nothing cut the cleaning up short that follows: no impatient second signal, and no end of the time."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    for other in _SIGNALS:
        signal.signal(other, signal.SIG_IGN)
