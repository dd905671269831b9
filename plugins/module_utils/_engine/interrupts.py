# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Signals that ask this process to stop, and the end of its time, as exceptions: what was begun is cleaned up.

Neither comes while an error is on its way through the work: that would cut short the cleaning up after it, and hide
why the work failed. It waits until the error is dealt with. When the error ends the work, there is nothing to stop.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Callable, Iterator, Optional

from .errors import Interrupted, Stopped, TimedOut

_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
#: How often to look whether what had to wait can come now, in seconds: more often than any loop that tries something
#: again sleeps between two failures (`Deadline.pause`), or none of the looks might ever fall between them.
_RETRY = 0.01


@dataclass(frozen=True)
class _Limit:
    """When the time is up, by time.monotonic(), and what is said then."""

    end: float
    message: str


@dataclass
class _Work:
    """What is going on between ``interruptible`` and its end."""

    #: The error that was being dealt with where this began.
    around: Optional[BaseException] = None
    limit: Optional[_Limit] = None
    #: It was told to stop, and cleans up: no impatient second signal and no end of the time may cut that short.
    stopping: bool = False
    #: It is past the point where it could be undone: what it began, it finishes.
    finishing: bool = False
    #: It is what goes on between pieces of work: the next one takes over the signal that came meanwhile.
    between: bool = False
    #: It follows other work whatever became of that: a signal does not stop it, and gives it this many seconds more.
    patience: Optional[float] = None
    #: The signal that came meanwhile.
    waiting: Optional[int] = None

    @property
    def recovering(self) -> bool:
        """Whether an error of this work is being dealt with right now.

        A handler of signals runs on top of whatever it interrupts, so that sys.exc_info() is what that one handles: in
        an ``except``, a ``finally`` and the ``__exit__`` of a context alike.
        """
        error = sys.exc_info()[1]
        return error is not None and error is not self.around


_work = _idle = _Work()
#: Where to say that a signal or the end of the time was noticed, until that was said: see ``heard_through``.
_ear: Optional[int] = None


def heard_through(descriptor: int) -> None:
    """Write a byte to a descriptor, which must not block, when a signal or the end of the time is noticed first.

    Who supervises this process then knows that it is not stuck in a system call or a library, and lets it clean up.
    """
    global _ear
    _ear = descriptor


@contextmanager
def interruptible() -> Iterator[None]:
    """While this lasts, SIGTERM, SIGHUP and SIGINT raise Interrupted in the main thread, once.

    One that came after ``finish`` is delivered at the end, to whoever handled signals before. One that came while an
    error ended the work is delivered to the ``interruptible`` around this one, where there is one.
    """
    if threading.current_thread() is not threading.main_thread():
        # Python delivers signals to the main thread alone; whoever runs this elsewhere handles them there.
        yield
        return
    outer, work = _work, _Work(around=sys.exc_info()[1], limit=_work.limit)
    failed = True
    try:
        with _hearing(work):
            if outer.between and outer.waiting is not None:
                number, outer.waiting = outer.waiting, None
                _interrupt(number, None)
            yield
            failed = False
    finally:
        if failed and work.waiting is not None and signal.getsignal(work.waiting) is _interrupt:
            signal.raise_signal(work.waiting)
    if work.waiting is not None:
        signal.raise_signal(work.waiting)


@contextmanager
def between_works() -> Iterator[Callable[[], Optional[int]]]:
    """While this lasts, a signal that asks to stop waits for the next ``interruptible``, which it stops at once.

    Where none comes any more, it comes to nothing: all is done. For what has to follow each piece of work, whatever
    became of it, and takes a moment only. Yields what says which signal waits.
    """
    work = _Work(finishing=True, between=True)
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    with _hearing(work):
        yield lambda: work.waiting


@contextmanager
def last_part(seconds: float) -> Iterator[None]:
    """For what has to follow the work, whatever became of it: starting again what was stopped, or a hook.

    A signal does not stop it at once: it then has ``seconds`` to end, as it has where a signal or the end of the time
    came before. After that TimedOut is raised. The signal reaches the work around it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outer, error = _work, sys.exc_info()[1]
    work = _Work(around=error, limit=outer.limit, patience=seconds)
    told = outer.waiting is not None or isinstance(error, Stopped)
    if told or (outer.limit and outer.limit.end < time.monotonic() + seconds):
        work.limit = _last_limit(seconds)
    try:
        with _hearing(work):
            _set_alarm()
            yield
    finally:
        if work.waiting is not None and outer is not _idle:
            outer.waiting = work.waiting
            _set_alarm()
    if work.waiting is not None and outer is _idle:
        signal.raise_signal(work.waiting)


def _last_limit(seconds: float) -> _Limit:
    return _Limit(time.monotonic() + seconds, f"It did not end within {seconds:g} s after the run was told to stop.")


@contextmanager
def _hearing(work: _Work) -> Iterator[None]:
    """Handle the signals for ``work``, and then again as before."""
    global _work
    outer, _work = _work, work
    # One that is ignored, as nohup(1) has it for SIGHUP, stays ignored.
    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, _interrupt) for number in heard}
    previous_alarm = signal.signal(signal.SIGALRM, _retry)
    try:
        yield
    finally:
        # Nothing may come before all handlers are what they were.
        work.finishing = True
        for number, handler in previous.items():
            signal.signal(number, handler)
        _work = outer
        _set_alarm()
        signal.signal(signal.SIGALRM, previous_alarm)


@contextmanager
def time_limit(seconds: Optional[float], label: str) -> Iterator[None]:
    """Raise TimedOut in the main thread, once, when this lasts longer than ``seconds``; None is no limit.

    To be used inside ``interruptible``, which hears the alarm.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    message = f"{label} took longer than its timeout of {seconds:g} s. Raise timeout, or see what blocks it."
    outer, _work.limit = _work.limit, _Limit(time.monotonic() + seconds, message)
    _set_alarm()
    try:
        yield
    finally:
        _work.limit = outer
        _set_alarm()


def finish() -> None:
    """From here on, what was begun is finished: it takes a moment, and to stop now would leave it half undone."""
    _work.finishing = True


def _amid_fork(frame: Optional[FrameType]) -> bool:
    """Whether Python's logging has its lock, which it takes and gives back around each fork(2).

    An exception is lost in there, since the interpreter only prints it, and the lock stays taken for good.
    """
    while frame is not None:
        if frame.f_globals.get("__name__") == "logging":
            return True
        frame = frame.f_back
    return False


def _interrupt(number: int, frame: Optional[FrameType]) -> None:
    _say_heard()
    if _work.stopping:
        return
    if _work.patience is not None:
        if _work.waiting is None:
            _work.waiting = number
            last = _last_limit(_work.patience)
            _work.limit = last if _work.limit is None or last.end < _work.limit.end else _work.limit
            _set_alarm()
        return
    if _work.finishing or _work.recovering or _amid_fork(frame):
        _work.waiting = number
        _set_alarm()
        return
    _work.stopping = True
    raise Interrupted(f"Stopped by {signal.Signals(number).name}. What was begun has been removed; run this again.")


def _retry(_number: int, frame: Optional[FrameType]) -> None:
    """Let come what is due: the signal that waits, or the end of the time. The alarm rings again if it cannot yet."""
    _say_heard()
    if _work.stopping or _work.finishing or _work.recovering or _amid_fork(frame):
        return
    waiting = _work.waiting
    if waiting is not None and _work.patience is None:
        _work.waiting = None
        _interrupt(waiting, None)
    if _work.limit and time.monotonic() >= _work.limit.end:
        _work.stopping = True
        raise TimedOut(_work.limit.message)


def _say_heard() -> None:
    global _ear
    ear, _ear = _ear, None
    if ear is not None:
        # Who listened may be gone.
        with suppress(OSError):
            os.write(ear, b".")


def _set_alarm() -> None:
    """Let SIGALRM ring when something is due, and then again and again."""
    due = 0.0
    if _work.waiting is not None and _work.patience is None:
        due = _RETRY
    elif _work.limit:
        due = max(_work.limit.end - time.monotonic(), _RETRY / 100)
    signal.setitimer(signal.ITIMER_REAL, due, _RETRY if due else 0.0)
