# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A server that sends without end is cut off before it fills this host's memory.

libpq keeps a whole answer, and notices and settings that nothing asked for, before this process sees any of it. So
while a session waits for its server, a thread watches how much memory this process has come to use, and shuts the
session's socket: libpq then finds it closed. What this process itself takes at the same time counts too, and is little.
"""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Callable, Iterator, List, Optional, Tuple

from ...errors import EngineError, Unverifiable
from ...timespan import format_size

#: How much more memory this process may use when an answer has come than before: lists of a million objects have less.
MOST = 512 << 20
#: How often that is looked at, in seconds. In this time, a local server sends some 50 MiB.
_PAUSE = 0.02
_BATCH = 10_000
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Answer:
    """An answer that is waited for."""

    sever: Callable[[], None]
    before: Optional[int] = None
    severed: bool = False


@contextmanager
def bounded(sever: Callable[[], None], label: str, trusted: bool = True) -> Iterator[Answer]:
    """Wait for a server's answer, which ``sever`` ends from another thread. Raises EngineError, or Unverifiable."""
    answer = Answer(sever)
    _watch.add(answer)
    try:
        yield answer
    except Exception:
        # A driver reports the socket that was shut here as one error or another, not all of them its own. So any error
        # of a session that was cut off means just that, and every other one goes on as it is.
        if answer.severed:
            raise _cut_off(label, trusted) from None
        raise
    finally:
        _watch.remove(answer)
    if answer.severed:
        raise _cut_off(label, trusted)


def _cut_off(label: str, trusted: bool) -> EngineError:
    kind = EngineError if trusted else Unverifiable
    return kind(
        f"{label}: the server sent more than {format_size(MOST)} as one answer, and was cut off. "
        "See what runs there: nothing that is asked for has such an answer."
    )


def sever_descriptor(descriptor: int) -> None:
    """Shut a socket, which stays open and belongs to its library."""
    with suppress(OSError), _copy(descriptor) as copy:
        copy.shutdown(socket.SHUT_RDWR)


def sever_path(path: str) -> None:
    """Shut every socket of this process that is connected to a Unix socket of this path."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError), _copy(int(name)) as copy:
            if copy.family == socket.AF_UNIX and copy.getpeername() == path:
                copy.shutdown(socket.SHUT_RDWR)


def fetched(cursor: Any, answer: Answer) -> List[Tuple[Any, ...]]:
    """All rows of an answer, as long as it is not cut off: as Python's values they take more memory than in libpq."""
    rows: List[Tuple[Any, ...]] = []
    while not answer.severed:
        more = cursor.fetchmany(_BATCH)
        if not more:
            break
        rows += more
    return rows


def _copy(descriptor: int) -> socket.socket:
    """Another descriptor of a socket. Raises OSError for what is none."""
    copy = os.dup(descriptor)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise


class _Watch:
    """The thread that watches, for all answers of this process; it sleeps where none is waited for."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew: a forked process has what its parent's threads waited for, and not the threads."""
        self._changed = threading.Condition()
        self._answers: List[Answer] = []
        self._thread: Optional[threading.Thread] = None

    def add(self, answer: Answer) -> None:
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
            self._answers.append(answer)
            self._changed.notify()

    def remove(self, answer: Answer) -> None:
        with self._changed:
            if answer in self._answers:
                self._answers.remove(answer)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._answers:
                    self._changed.wait()
                used = _used()
                for answer in self._answers:
                    answer.before = used if answer.before is None else min(answer.before, used)
                    if used - answer.before > MOST and not answer.severed:
                        answer.severed = True
                        answer.sever()
            time.sleep(_PAUSE)


def _used() -> int:
    """The memory that this process uses, in bytes (proc_pid_statm(5)); without /proc, the most that it has used."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


_watch = _Watch()
os.register_at_fork(after_in_child=_watch.forget)
