# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One pass from a source to a sink through programs and threads, which fails unless every part of it succeeded."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Iterator, List, Optional, Tuple, Type, Union

from ..command import Channel, Command
from ..errors import Damaged, EngineError, NoSpace, ToolFailed, Unanswered
from ..host.kernel import become_batch_work, schedule
from ..process import Process

#: How much is read and written at once.
BLOCK = 1 << 20
#: What pipes are asked to hold (fcntl(2), F_SETPIPE_SZ): what goes through several of them shall not leave the
#: processor's caches on the way.
_HELD = 256 << 10
_F_SETPIPE_SZ, _F_GETPIPE_SZ = 1031, 1032
#: How long to let a pipe fill, in seconds, when little was in it.
_PAUSE = 0.0005
#: How long to wait, in seconds, for a copier whose child may hang.
_LEFT_BEHIND = 2.0
#: How long a child may give or take no byte, in seconds. No disk that works takes that long for what a pipe holds.
STALLED = 1800.0
_AT_ONCE = 4096


class TooLong(Damaged):
    """More bytes arrived than there should be."""


class OtherFormat(Damaged):
    """The bytes do not begin as they should."""


class Copier(threading.Thread):
    """Moves bytes from one descriptor to another and counts them; both are closed at the end.

    More than ``limit`` bytes are an error, and with ``needed``, so is a target that takes no more of them. Bytes that
    begin with others than ``begins`` are one before any of them passes. ``child`` is the one of the descriptors whose
    other end a child has, which may be stopped: Unanswered where it neither gives nor takes a byte for long.
    """

    def __init__(
        self,
        source: int,
        target: int,
        label: str,
        limit: Optional[int] = None,
        needed: bool = False,
        begins: bytes = b"",
        child: Optional[int] = None,
    ) -> None:
        super().__init__(daemon=True)
        self._child = child
        self._source, self._target, self._label = source, target, label
        self._limit, self._needed, self._begins = limit, needed, begins
        # splice(2) moves pages between a pipe and anything else without a copy through this process (Python 3.10).
        self._splice = hasattr(os, "splice")
        self._little = _capacity(source) // 4
        self.count = 0
        self.error: Optional[BaseException] = None

    def run(self) -> None:
        try:
            self._begin()
            while True:
                moved = self._move()
                if not moved:
                    break
                self.count += moved
                # pg_dump writes 4 KiB at a time. To wake up for each would cost both sides more than the copying.
                if moved < self._little:
                    time.sleep(_PAUSE)
        except BrokenPipeError as error:
            # A program downstream that is gone has a status that says why, and that is looked at.
            if self._needed:
                self.error = _explained(error, self._label)
        except OSError as error:
            self.error = _explained(error, self._label)
        except BaseException as error:
            # Whatever it is, what has arrived is not all there was.
            self.error = error
        finally:
            os.close(self._source)
            os.close(self._target)

    def _begin(self) -> None:
        """Look at the first bytes. Raises OtherFormat, and passes none of them on."""
        first = b""
        while len(first) < len(self._begins):
            block = os.read(self._source, len(self._begins) - len(first))
            if not block:
                break
            first += block
        # What ends before says nothing: the program that wrote it knows why.
        if len(first) == len(self._begins) and first != self._begins:
            raise OtherFormat(f"{self._label}: the bytes do not begin as they should. Nothing more was read.")
        while first:
            moved = os.write(self._target, first)
            self.count, first = self.count + moved, first[moved:]

    def _move(self) -> int:
        """Move up to a block; the number of bytes moved, 0 at the end. Raises TooLong, and passes no more on."""
        size = BLOCK if self._limit is None else min(BLOCK, self._limit - self.count)
        self._await_child()
        if not size:
            if os.read(self._source, 1):
                raise TooLong(f"{self._label}: more than {self._limit} bytes arrive. Nothing more was read.")
            return 0
        if self._splice:
            try:
                return int(os.splice(self._source, self._target, size))
            except OSError as error:
                # Some file systems cannot be spliced into.
                if error.errno != errno.EINVAL:
                    raise
                self._splice = False
        # As much as a pipe that is ready takes at once (pipe(7), PIPE_BUF).
        block = memoryview(os.read(self._source, min(size, _AT_ONCE) if self._child == self._target else size))
        size = len(block)
        while block:
            block = block[os.write(self._target, block) :]
        return size

    def _await_child(self) -> None:
        if self._child is None:
            return
        ready = select.poll()
        ready.register(self._child, select.POLLIN if self._child == self._source else select.POLLOUT)
        if not ready.poll(STALLED * 1000):
            raise Unanswered(
                f"{self._label}: a process of the database's owner neither gave nor took a byte for {STALLED:g} s, and "
                "was ended. See whether it was stopped (SIGSTOP), or its disk hangs, and run this again."
            )


class Offset:
    """Counts what was read of a file from its beginning, whoever read it.

    A program that inherits a descriptor moves the same offset (open(2), "open file description").
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @property
    def count(self) -> int:
        """Bytes read so far. To be asked before the pipe is left."""
        return os.lseek(self._descriptor, 0, os.SEEK_CUR)


class Pipe:
    """Programs joined by pipes, in the order in which they are added. Leaving the context ends whatever still runs."""

    def __init__(self, label: str = "the work") -> None:
        self._processes: List[Process] = []
        #: Those that read what another one writes.
        self._behind: List[Process] = []
        self._copiers: List[Copier] = []
        self._descriptors: List[int] = []
        self._channels: List[Channel] = []
        self._label = label
        self._policy: Optional[int] = None

    def __enter__(self) -> Pipe:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if self._policy is not None:
            schedule(self._policy)
        for process in self._processes:
            process.stop()
        self._close_all()
        for copier in self._copiers:
            copier.join(_LEFT_BEHIND if self._channels else None)
        if any(copier.is_alive() for copier in self._copiers):
            # It waits for a child that hangs, and if not even SIGKILL ends that one, is left behind with it.
            for channel in self._channels:
                channel.kill()
            for copier in self._copiers:
                copier.join(_LEFT_BEHIND)

    def source(self, stream: Union[Command, Channel, Path]) -> int:
        """The descriptor from which a program's or a child's output, or a file, is to be read."""
        if isinstance(stream, Channel):
            return self._take(stream)
        if isinstance(stream, Path):
            return self._keep(os.open(stream, os.O_RDONLY | os.O_CLOEXEC))
        return self._start(stream, None)

    def counted_source(self, stream: Union[Command, Channel, Path]) -> Tuple[int, Union[Copier, Offset]]:
        """``source``, and what counts the bytes that were read of it, which holds once all has ended.

        All that is begun behind it is batch work. The source itself is not, as little as anything is that loads a
        dump: the server waits for it, and it would wait for its turn in a busy host.
        """
        source = self.source(stream)
        self._policy = become_batch_work()
        if isinstance(stream, Channel):
            reading, writing = self._pipe()
            return reading, self._copy(source, writing, self._label, stream.bytes, child=source)
        if not isinstance(stream, Path):
            return self.counted(source)
        # Whoever comes next reads the file itself: one pipe less to go through.
        return source, Offset(self._keep(os.dup(source)))

    def entrance(self) -> Tuple[int, int]:
        """A new pipe: the descriptor to write into (see ``feed``), and the one to read from."""
        reading, writing = self._pipe()
        return writing, reading

    def through(self, command: Optional[Command], source: int) -> int:
        """Put a program behind ``source``; the descriptor of its output. Without a program, ``source`` itself."""
        return source if command is None else self._start(command, source)

    def counted(self, source: int, limit: Optional[int] = None) -> Tuple[int, Copier]:
        """Count what passes; the descriptor to go on with, and the copier whose ``count`` holds once all has ended.

        Where more than ``limit`` bytes arrive, no more of them pass, and ``wait`` raises TooLong.
        """
        reading, writing = self._pipe()
        copier = self._copy(source, writing, self._label, limit)
        return reading, copier

    def begun(self, source: int, begins: bytes) -> int:
        """Let bytes pass that begin like this; the descriptor to go on with. ``wait`` raises OtherFormat for others."""
        if not begins:
            return source
        reading, writing = self._pipe()
        self._copy(source, writing, self._label, begins=begins)
        return reading

    def into(self, stream: Union[Command, Channel, Path], source: int) -> None:
        """Let the bytes end in a program's or child's input or in an existing file, overwritten from its beginning."""
        if isinstance(stream, Channel):
            target = self._take(stream)
            self._copy(source, target, stream.NAME, needed=True, child=target)
        elif isinstance(stream, Path):
            target = self._keep(os.open(stream, os.O_WRONLY | os.O_CLOEXEC))
            # What was made empty, even if it was empty before, is written to the disk as soon as it is closed (ext4(5),
            # auto_da_alloc), and this one may be removed soon.
            if os.fstat(target).st_size:
                os.ftruncate(target, 0)
            self._copy(source, target, str(stream))
        else:
            self._processes.append(Process(stream, stdin=source))
            self._close(source)

    def make_way(self) -> None:
        """Let all else go before the programs so far that work on what another one writes: above all the server.

        It could use one core all the time. Where it shares its core by turns, they wait for it in the end. The program
        at the source is left as it is: the server waits for it, with its snapshot and its locks.
        """
        # The last one first: of sessions, the kernel lets an ordinary account change one in 0.1 s.
        for process in reversed(self._behind):
            process.make_way()

    def blocks(self, source: int) -> Iterator[bytes]:
        """What arrives at a descriptor, in blocks of at most 256 KiB, until its end."""
        while True:
            try:
                # More than a pipe holds would be fresh memory each time: three of four page faults of a backup.
                block = os.read(source, _HELD)
            except OSError as error:
                raise _explained(error, self._label) from None
            if not block:
                self._close(source)
                return
            yield block

    def feed(self, entrance: int, block: bytes) -> bool:
        """Write a block into an entrance. False when nobody reads any more: then stop, and let ``wait`` say why."""
        view = memoryview(block)
        try:
            while view:
                view = view[os.write(entrance, view) :]
        except BrokenPipeError:
            return False
        return True

    def end(self, entrance: int) -> None:
        """Say that nothing more is fed."""
        self._close(entrance)

    def wait(self) -> None:
        """Wait for every part. Raises the failure of the part that failed first."""
        for copier in self._copiers:
            copier.join()
        failures = [failure for failure in (process.failure() for process in self._processes) if failure]
        errors: List[BaseException] = [copier.error for copier in self._copiers if copier.error]
        # A program that died of SIGPIPE only suffered from the failure of another one.
        errors += [failure for failure in failures if failure.status != -signal.SIGPIPE] or failures
        if errors:
            raise errors[0]

    def said(self) -> List[Tuple[str, str]]:
        """What each program wrote on standard error, by its name. To be asked after ``wait``."""
        return [(process.command.name, process.said) for process in self._processes]

    def _start(self, command: Command, source: Optional[int]) -> int:
        reading, writing = self._pipe()
        self._processes.append(Process(command, stdin=source, stdout=writing))
        self._close(writing)
        if source is not None:
            self._behind.append(self._processes[-1])
            self._close(source)
        return reading

    def _copy(
        self,
        source: int,
        target: int,
        label: str,
        limit: Optional[int] = None,
        needed: bool = False,
        begins: bytes = b"",
        child: Optional[int] = None,
    ) -> Copier:
        for descriptor in (source, target):
            self._descriptors.remove(descriptor)
        copier = Copier(source, target, label, limit, needed, begins, child)
        self._copiers.append(copier)
        copier.start()
        return copier

    def _pipe(self) -> Tuple[int, int]:
        reading, writing = os.pipe()
        _enlarge(writing)
        return self._keep(reading), self._keep(writing)

    def _take(self, channel: Channel) -> int:
        self._channels.append(channel)
        descriptor = self._keep(channel.take())
        _enlarge(descriptor)
        return descriptor

    def _keep(self, descriptor: int) -> int:
        self._descriptors.append(descriptor)
        return descriptor

    def _close(self, descriptor: int) -> None:
        self._descriptors.remove(descriptor)
        os.close(descriptor)

    def _close_all(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())


def _enlarge(descriptor: int) -> None:
    """Let a pipe hold more than the usual 64 KiB, given either end."""
    # An account may be over its limit of pipe memory; the pipe then keeps its usual size, and is only slower.
    with suppress(OSError):
        fcntl.fcntl(descriptor, _F_SETPIPE_SZ, _HELD)


def _capacity(descriptor: int) -> int:
    """How much a pipe holds, in bytes; 0 for what is no pipe."""
    try:
        return fcntl.fcntl(descriptor, _F_GETPIPE_SZ)
    except OSError:
        return 0


def _explained(error: OSError, label: str) -> EngineError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"{label} cannot be written: the disk is full. Free space there, and run this again.")
    return ToolFailed(label, 1, error.strerror or str(error))
