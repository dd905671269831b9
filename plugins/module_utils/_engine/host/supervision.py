# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Children of this process under supervision: whatever becomes of them, they end in time, and it is known how.

A child that is told to stop, by a signal or by the end of its time, cleans up by itself. One that does not notice,
because it is stuck in a system call or a library, is killed soon; one that cleans up for too long is killed later; and
one that even SIGKILL does not end, because the kernel waits for a disk or a server, is left behind.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any, Callable, Dict, List, Optional, Sequence

from ..interrupts import heard_through
from .kernel import die_with

#: How long a child that is told to stop may take to notice that, in seconds.
DEAF = 5.0
#: How long it may take to clean up once it has noticed.
PATIENCE = 30.0
#: How long a killed child may take to be gone before it is left behind.
_LEAVE = 1.0
#: The largest answer, in bytes: the listing of 10,000 backups takes a third of it.
_MOST = 64 << 20
_BLOCK = 1 << 16
_ASKING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
#: What a child exits with that failed before it could say anything.
_BROKEN = 70


@dataclass(frozen=True)
class Ending:
    """How a child ended.

    ``status`` is its exit status, negative for a signal; None for one that was left behind or could not be started.
    ``overdue`` says that its time was up, ``told`` is the signal that it was told to stop with, ``killed`` says that it
    did not end by itself, and ``problem`` why it could not be started.
    """

    pid: int
    answer: bytes = b""
    status: Optional[int] = None
    overdue: bool = False
    told: Optional[int] = None
    killed: bool = False
    problem: str = ""


class Child:
    """A forked child. ``body`` gets the descriptor to answer into, and returns the exit status."""

    def __init__(
        self,
        body: Callable[[int], int],
        seconds: Optional[float],
        patience: Optional[float] = None,
        foreign: Sequence[int] = (),
    ) -> None:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                # A copy of what is not written yet would be written twice. A stream that fails is no matter of here.
                with suppress(OSError, ValueError):
                    stream.flush()
        self._patience = PATIENCE if patience is None else patience
        self._due = None if seconds is None else time.monotonic() + seconds
        self._told_at: Optional[float] = None
        self._killed_at: Optional[float] = None
        self._told: Optional[int] = None
        self._overdue = self._heard = False
        self._answer = bytearray()
        self.ending: Optional[Ending] = None
        answers, answering = os.pipe()
        hearings, hearing = os.pipe()
        self._hearings = hearings
        #: What is to be read of it; each until its end.
        self.descriptors = [answers, hearings]
        for descriptor in (answers, hearings, hearing):
            os.set_blocking(descriptor, False)
        try:
            self.pid = _fork(body, answering, hearing, (*self.descriptors, *foreign))
        except BaseException:
            self._close()
            raise
        finally:
            os.close(answering)
            os.close(hearing)

    def stop(self, number: int) -> None:
        """Tell it to stop, with a signal."""
        if self.ending is None:
            os.kill(self.pid, number)
            self._told = self._told or number
            self._told_at = self._told_at or time.monotonic()

    def due(self) -> Optional[float]:
        """When ``advance`` has to be called at the latest, by time.monotonic()."""
        if self._killed_at is not None:
            return self._killed_at + _LEAVE
        if self._told_at is not None:
            return self._told_at + (self._patience if self._heard else DEAF)
        return self._due

    def advance(self) -> None:
        """Take what it has said, find out whether it has ended, and end it where its time is over."""
        if self.ending is not None:
            return
        gone, status = os.waitpid(self.pid, os.WNOHANG)
        self._read()
        if gone:
            self._end(-os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))
            return
        now = time.monotonic()
        if self._due is not None and now >= self._due and self._told_at is None:
            # It has an alarm of its own.
            self._overdue, self._told_at = True, now
        due = self.due()
        if self._killed_at is None and (len(self._answer) > _MOST or (self._told_at and due and now >= due)):
            os.kill(self.pid, signal.SIGKILL)
            self._killed_at = now
        elif self._killed_at is not None and due and now >= due:
            self._end(None)

    def _read(self) -> None:
        for descriptor in list(self.descriptors):
            # A block more than may be: then it is too much.
            while len(self._answer) <= _MOST:
                try:
                    block = os.read(descriptor, _BLOCK)
                except BlockingIOError:
                    break
                if not block:
                    os.close(descriptor)
                    self.descriptors.remove(descriptor)
                    break
                if descriptor == self._hearings:
                    self._heard = True
                else:
                    self._answer += block

    def _end(self, status: Optional[int]) -> None:
        self._close()
        killed = self._killed_at is not None
        self.ending = Ending(self.pid, bytes(self._answer), status, self._overdue, self._told, killed)

    def _close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = []


def _fork(body: Callable[[int], int], answering: int, hearing: int, foreign: Sequence[int]) -> int:
    parent = os.getpid()
    # Until the child handles signals in its own way, none may reach it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ASKING)
    try:
        pid = os.fork()
        if pid == 0:
            _be_child(body, answering, hearing, foreign, parent, before)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _be_child(
    body: Callable[[int], int], answering: int, hearing: int, foreign: Sequence[int], parent: int, mask: Any
) -> None:
    """Do the child's part, and never return."""
    status = _BROKEN
    try:
        die_with(parent)
        signal.set_wakeup_fd(-1)
        for descriptor in foreign:
            os.close(descriptor)
        for number in _ASKING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        heard_through(hearing)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        status = body(answering)
    except BaseException:
        # The parent sees that it gave no answer. Above this lies the parent's own code, which is not the child's.
        status = _BROKEN
    finally:
        os._exit(status)


class Supervisor:
    """Waits for children, and passes on to them the signals that ask this process to stop. For the main thread."""

    def __init__(self) -> None:
        self._children: List[Child] = []
        self._handlers: Dict[int, Any] = {}
        self._wakeup = -1
        #: The signal that asked this process to stop, the newest one where there were several.
        self.told: Optional[int] = None
        self._news: List[int] = []

    def __enter__(self) -> Supervisor:
        self._wake, self._waking = os.pipe()
        for descriptor in (self._wake, self._waking):
            os.set_blocking(descriptor, False)
        for number in _ASKING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._hear)
        self._handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        self._wakeup = signal.set_wakeup_fd(self._waking, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_exception: object) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for descriptor in (self._wake, self._waking):
            os.close(descriptor)

    def start(
        self,
        body: Callable[[int], int],
        seconds: Optional[float] = None,
        patience: Optional[float] = None,
        foreign: Sequence[int] = (),
    ) -> Child:
        """Fork a child, which closes the ``foreign`` descriptors. Raises OSError where no process can be started."""
        child = Child(body, seconds, patience, foreign)
        self._children.append(child)
        if self.told is not None:
            child.stop(self.told)
        return child

    def wait(self, descriptors: Sequence[int] = ()) -> List[int]:
        """Wait until a child has ended, or one of the descriptors can be read; which of them can."""
        while True:
            found = self._poll(descriptors)
            ended = [child for child in self._children if child.ending is not None]
            self._children = [child for child in self._children if child.ending is None]
            if ended or found or not self._children:
                return found

    def _poll(self, descriptors: Sequence[int]) -> List[int]:
        poll = select.poll()
        own = [descriptor for child in self._children for descriptor in child.descriptors]
        for descriptor in (self._wake, *descriptors, *own):
            poll.register(descriptor, select.POLLIN)
        dues = [due for due in (child.due() for child in self._children) if due is not None]
        timeout = max(0.0, min(dues) - time.monotonic()) * 1000 + 1 if dues else None
        ready = {descriptor for descriptor, _event in poll.poll(timeout)}
        with suppress(BlockingIOError):
            while os.read(self._wake, 512):
                pass
        news, self._news = self._news, []
        for child in self._children:
            for number in news:
                child.stop(number)
            child.advance()
        return [descriptor for descriptor in descriptors if descriptor in ready]

    def _hear(self, number: int, _frame: Optional[FrameType]) -> None:
        self.told = number
        self._news.append(number)
