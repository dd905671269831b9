# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A pipe moves every byte, and fails when any part of it fails."""

from __future__ import annotations

import fcntl
import os
import sys
import threading
from pathlib import Path

import pytest

from _engine.command import Channel, Command
from _engine.errors import Interrupted, NoSpace, TimedOut, ToolFailed, Unanswered
from _engine.interrupts import interruptible, time_limit
from _engine.model import Compression
from _engine.process import Process
from _engine.stream import pipe as pipes
from _engine.stream.compression import compressing, decompressing
from _engine.stream.pipe import Pipe

PYTHON = sys.executable
CAT = Command("cat", ("cat",))


def script(name: str, text: str) -> Command:
    return Command(name, (PYTHON, "-c", "import sys, os\n" + text))


def collect(pipe: Pipe, descriptor: int) -> bytes:
    return b"".join(pipe.blocks(descriptor))


@pytest.mark.parametrize("size", [0, 1, 65536, 3_000_001])
def test_every_byte_arrives_and_is_counted(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    source = tmp_path / "source"
    source.write_bytes(content)
    with Pipe() as pipe:
        descriptor, counter = pipe.counted(pipe.source(source))
        descriptor = pipe.through(CAT, descriptor)
        assert collect(pipe, descriptor) == content
        pipe.wait()
    assert counter.count == size


@pytest.mark.parametrize("slow_source", [False, True])
@pytest.mark.parametrize("compression", list(Compression))
def test_what_is_compressed_comes_back(tmp_path: Path, compression: Compression, slow_source: bool) -> None:
    content = b"orders " * 100_000 + os.urandom(1000)
    (tmp_path / "in").write_bytes(content)
    (tmp_path / "out").write_bytes(b"longer rubbish that must go" * 100_000)
    with Pipe() as pipe:
        stored = collect(pipe, pipe.through(compressing(compression, None, slow_source), pipe.source(tmp_path / "in")))
        pipe.wait()
    with Pipe() as pipe:
        entrance, descriptor = pipe.entrance()
        pipe.into(tmp_path / "out", pipe.through(decompressing(compression), descriptor))
        for start in range(0, len(stored), 50_000):
            assert pipe.feed(entrance, stored[start : start + 50_000])
        pipe.end(entrance)
        pipe.wait()
    assert (tmp_path / "out").read_bytes() == content


def test_a_dump_that_dies_after_writing_fails_whatever_the_last_stage_says() -> None:
    dying = script(
        "pg_dump", "sys.stdout.write('half'); sys.stdout.flush(); sys.exit('pg_dump: error: connection lost')"
    )
    with Pipe() as pipe:
        assert collect(pipe, pipe.through(CAT, pipe.source(dying))) == b"half"
        with pytest.raises(ToolFailed, match="pg_dump ended with status 1: pg_dump: error: connection lost"):
            pipe.wait()


def test_the_stage_that_failed_is_named_and_not_the_one_that_only_lost_its_reader() -> None:
    endless = Command("endless", ("yes",))
    failing = script("zstd", "sys.stdin.buffer.read(10); sys.exit('out of memory')")
    with Pipe() as pipe:
        collect(pipe, pipe.through(failing, pipe.source(endless)))
        with pytest.raises(ToolFailed, match="zstd ended with status 1: out of memory"):
            pipe.wait()


def test_a_sink_that_stops_reading_is_named() -> None:
    with Pipe() as pipe:
        entrance, descriptor = pipe.entrance()
        pipe.into(script("pg_restore", "sys.exit('pg_restore: error: out of disk')"), pipe.through(CAT, descriptor))
        while pipe.feed(entrance, b"x" * 100_000):
            pass
        pipe.end(entrance)
        with pytest.raises(ToolFailed, match="pg_restore ended with status 1: pg_restore: error: out of disk"):
            pipe.wait()


def test_a_full_disk_at_the_end_of_a_pipe_is_no_space() -> None:
    with Pipe() as pipe:
        entrance, descriptor = pipe.entrance()
        pipe.into(Path("/dev/full"), pipe.through(CAT, descriptor))
        pipe.feed(entrance, b"x" * 100_000)
        pipe.end(entrance)
        with pytest.raises(NoSpace, match="/dev/full cannot be written: the disk is full"):
            pipe.wait()


def test_work_that_takes_too_long_is_ended_with_all_its_programs() -> None:
    message = "The backup of shop took longer than its timeout of 0.3 s"
    with pytest.raises(TimedOut, match=message), interruptible(), time_limit(0.3, "The backup of shop"), Pipe() as pipe:
        collect(pipe, pipe.through(CAT, pipe.source(Command("sleep", ("sleep", "60")))))


def test_whatever_stops_a_copier_stops_the_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dump").write_bytes(b"x" * 3_000_000)
    moved = iter([1000])

    def short(*_descriptors: object) -> int:
        for count in moved:
            return count
        raise MemoryError("no memory")

    monkeypatch.setattr("_engine.stream.pipe.Copier._move", short)
    with Pipe() as pipe:
        descriptor, _counter = pipe.counted(pipe.source(tmp_path / "dump"))
        collect(pipe, descriptor)
        with pytest.raises(MemoryError):
            pipe.wait()


#: As idle work on a busy machine, a Python would take minutes to start.
SAY_POLICY = Command("policy", ("cat", "/proc/self/stat"))


def policy_in(said: bytes) -> int:
    """The 41st word (proc(5)); the second one may hold blanks."""
    return int(said.decode().rpartition(")")[2].split()[38])


def policies() -> tuple[int, int, int]:
    """The scheduling policy of a program behind a source, and of this thread within and after the pipe."""
    with Pipe() as pipe:
        descriptor, _counter = pipe.counted_source(CAT)
        program = policy_in(collect(pipe, pipe.through(SAY_POLICY, descriptor)))
        within = os.sched_getscheduler(0)
    return program, within, os.sched_getscheduler(0)


def test_what_runs_behind_a_source_is_batch_work_and_nothing_else_is() -> None:
    assert policies() == (os.SCHED_BATCH, os.SCHED_BATCH, os.SCHED_OTHER)


def test_what_a_server_waits_for_is_no_batch_work(tmp_path: Path) -> None:
    read, loaded = b"", tmp_path / "loaded"
    with Pipe() as pipe:
        descriptor, _counter = pipe.counted_source(SAY_POLICY)
        read = collect(pipe, descriptor)
    loaded.touch()
    with Pipe() as pipe:
        entrance, descriptor = pipe.entrance()
        pipe.into(loaded, pipe.through(SAY_POLICY, descriptor))
        pipe.end(entrance)
        pipe.wait()
    assert policy_in(read) == policy_in(loaded.read_bytes()) == os.SCHED_OTHER


def test_a_policy_that_somebody_chose_stays() -> None:
    seen: list[tuple[int, int, int]] = []

    def idle() -> None:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        seen.append(policies())

    thread = threading.Thread(target=idle)
    thread.start()
    thread.join()
    assert seen == [(os.SCHED_IDLE,) * 3]


def test_where_the_policy_may_not_be_changed_a_pipe_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_arguments: object) -> None:
        raise PermissionError("a sandbox forbids it")

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    assert policies() == (os.SCHED_OTHER,) * 3


def test_leaving_a_pipe_early_ends_its_programs_and_closes_everything() -> None:
    def open_descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before, threads = open_descriptors(), threading.active_count()
    with pytest.raises(Interrupted), Pipe() as pipe:
        descriptor, _counter = pipe.counted(pipe.source(Command("endless", ("yes",))))
        next(pipe.blocks(pipe.through(CAT, descriptor)))
        raise Interrupted("stop")
    assert open_descriptors() == before
    assert threading.active_count() == threads


def test_a_childs_pipe_holds_as_much_as_the_other_ones() -> None:
    sizes = []
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb"), Pipe() as pipe:
        for descriptor in (pipe.source(Channel(reading)), *pipe.entrance()):
            sizes.append(fcntl.fcntl(descriptor, 1032))  # F_GETPIPE_SZ, which module fcntl has since Python 3.10
    assert sizes == [256 << 10] * 3


WAIT = Command("sleep", ("sleep", "60"))


def niceness(process: Process) -> tuple[int, str]:
    """How nice a program is, and how nice to other sessions ("0" where there is no such thing)."""
    group = Path(f"/proc/{process.pid}/autogroup")
    return os.getpriority(os.PRIO_PROCESS, process.pid), group.read_text().split()[-1] if group.exists() else "0"


def test_the_programs_behind_the_one_that_a_server_waits_for_make_way_when_they_are_told_to() -> None:
    with Pipe() as pipe:
        pipe.through(WAIT, pipe.through(WAIT, pipe.source(WAIT)))
        dump, *others = pipe._processes
        assert {niceness(process) for process in pipe._processes} == {(0, "0")}
        pipe.make_way()
        assert niceness(dump) == (0, "0")
        assert {niceness(process)[0] for process in others} == {5}
        assert niceness(others[-1])[1] == ("5" if Path("/proc/self/autogroup").exists() else "0")


def test_a_program_that_is_nicer_stays_so_and_one_that_ended_is_left_alone() -> None:
    with Pipe() as pipe:
        pipe.through(WAIT, pipe.through(Command("true", ("true",)), pipe.source(WAIT)))
        _dump, ended, nicer = pipe._processes
        os.setpriority(os.PRIO_PROCESS, nicer.pid, 15)
        ended.wait()
        pipe.make_way()
        assert os.getpriority(os.PRIO_PROCESS, nicer.pid) == 15


def test_a_program_that_may_not_be_touched_does_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setpriority", forbidden)
    with Pipe() as pipe:
        descriptor = pipe.through(CAT, pipe.source(Command("echo", ("echo", "orders"))))
        pipe.make_way()
        assert collect(pipe, descriptor) == b"orders\n"
        pipe.wait()


def channel(descriptor: int, size: int = 1 << 30) -> Channel:
    made = Channel(descriptor)
    made.connect(size, lambda: None, lambda: None)
    return made


@pytest.mark.parametrize("splicing", [True, False])
@pytest.mark.parametrize("before", [0, 100_000])
def test_a_child_that_gives_no_more_bytes_ends_the_work(
    monkeypatch: pytest.MonkeyPatch, before: int, splicing: bool
) -> None:
    monkeypatch.setattr(pipes, "STALLED", 0.2)
    if not splicing:
        monkeypatch.delattr(os, "splice", raising=False)
    ours, its = os.pipe()
    try:
        with Pipe() as pipe:
            writing = threading.Thread(target=os.write, args=(its, bytes(before)))
            writing.start()
            descriptor, counter = pipe.counted_source(channel(ours))
            assert collect(pipe, descriptor) == bytes(before)
            with pytest.raises(Unanswered, match="neither gave nor took a byte for 0.2 s"):
                pipe.wait()
            writing.join()
            assert counter.count == before
    finally:
        os.close(its)


@pytest.mark.parametrize("splicing", [True, False])
def test_a_child_that_takes_no_more_bytes_ends_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, splicing: bool
) -> None:
    monkeypatch.setattr(pipes, "STALLED", 0.2)
    if not splicing:
        monkeypatch.delattr(os, "splice", raising=False)
    (tmp_path / "source").write_bytes(bytes(3_000_000))
    its, ours = os.pipe()
    try:
        with Pipe() as pipe:
            pipe.into(channel(ours), pipe.source(tmp_path / "source"))
            with pytest.raises(Unanswered, match="neither gave nor took a byte for 0.2 s"):
                pipe.wait()
    finally:
        os.close(its)


def test_a_child_is_not_blamed_for_what_the_other_side_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "STALLED", 0.1)
    ours, its = os.pipe()
    with Pipe() as pipe:
        writing = threading.Thread(target=lambda: (os.write(its, bytes(3_000_000)), os.close(its)))
        writing.start()
        descriptor, counter = pipe.counted_source(channel(ours))
        # Nothing takes what arrives, for longer than the child may be silent.
        writing.join(0.5)
        assert writing.is_alive()
        assert collect(pipe, descriptor) == bytes(3_000_000)
        pipe.wait()
        assert counter.count == 3_000_000
