# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Signals that ask this process to stop, and the end of its time, as exceptions: what was begun is cleaned up."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Iterator, Optional

from .errors import Interrupted, TimedOut

_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@dataclass
class _Work:
    """What is going on between ``interruptible`` and its end."""

    #: It was told to stop, and cleans up: no impatient second signal and no end of the time may cut that short.
    stopping: bool = False
    #: It is past the point where it could be undone: what it began, it finishes.
    finishing: bool = False
    #: The signal that came meanwhile.
    waiting: Optional[int] = None


_work = _Work()


@contextmanager
def interruptible() -> Iterator[None]:
    """While this lasts, SIGTERM, SIGHUP and SIGINT raise Interrupted in the main thread, once.

    One that came after ``finish`` is delivered at the end, to whoever handled signals before.
    """
    global _work
    if threading.current_thread() is not threading.main_thread():
        # Python delivers signals to the main thread alone; whoever runs this elsewhere handles them there.
        yield
        return
    outer, _work = _work, _Work()
    # One that is ignored, as nohup(1) has it for SIGHUP, stays ignored.
    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, _interrupt) for number in heard}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        waiting, _work = _work.waiting, outer
    if waiting is not None:
        signal.raise_signal(waiting)


@contextmanager
def time_limit(seconds: Optional[float], label: str) -> Iterator[None]:
    """Raise TimedOut in the main thread, once, when this lasts longer than ``seconds``; None is no limit."""
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(_number: int, _frame: Optional[FrameType]) -> None:
        if not (_work.stopping or _work.finishing):
            _work.stopping = True
            raise TimedOut(
                f"{label} took longer than its timeout of {seconds:g} s. Raise timeout, or see what blocks it."
            )

    previous = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def finish() -> None:
    """From here on, what was begun is finished: it takes a moment, and to stop now would leave it half undone."""
    _work.finishing = True


def _interrupt(number: int, _frame: Optional[FrameType]) -> None:
    if _work.finishing:
        _work.waiting = number
    elif not _work.stopping:
        _work.stopping = True
        raise Interrupted(f"Stopped by {signal.Signals(number).name}. What was begun has been removed; run this again.")
