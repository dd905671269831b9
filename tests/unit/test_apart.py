# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Work that is done apart ends in time, and its supervisor says how, whatever becomes of it."""

from __future__ import annotations

import errno
import faulthandler
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from _engine.errors import Crashed, EngineError, Interrupted, NoSpace, Unanswered, Unexpected
from _engine.host import supervision
from _engine.host.apart import apart
from _engine.host.unexpected import explained
from _engine.interrupts import interruptible, last_part

LABEL = "The backup of shop"


def deaf() -> None:
    """Notice nothing, as a process that is blocked in a library does not."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGALRM])
    time.sleep(60)


def running(pid: int) -> bool:
    """Whether a process is there and no zombie (proc(5), stat)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def asleep() -> None:
    with interruptible():
        time.sleep(60)


def out_of(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "DEAF", 0.3)
    monkeypatch.setattr(supervision, "PATIENCE", 2.0)


@pytest.fixture
def told_soon() -> None:
    """This process is told to stop in a moment."""
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()


def test_what_the_work_returns_comes_back() -> None:
    assert apart(lambda: {"id": "shop-1", "sizes": (1, 2), "pid": os.getpid()}, LABEL)["sizes"] == [1, 2]
    assert apart(os.getpid, LABEL) != os.getpid()


def test_its_own_errors_come_back_as_they_are() -> None:
    with pytest.raises(NoSpace, match="^The disk is full.$"):
        apart(out_of(NoSpace("The disk is full.")), LABEL)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGBUS, signal.SIGKILL, signal.SIGABRT])
def test_a_crash_is_an_error_of_its_own(number: signal.Signals) -> None:
    with pytest.raises(Crashed, match=f"^The backup of shop was killed by {number.name}. See the kernel's log"):
        apart(lambda: (faulthandler.disable(), os.kill(os.getpid(), number)), LABEL)
    with pytest.raises(Crashed, match="ended without an answer .status 3."):
        apart(lambda: os._exit(3), LABEL)


def test_an_error_that_nobody_foresaw_says_where_it_came_from_and_quotes_nothing() -> None:
    with pytest.raises(Unexpected) as caught:
        apart(lambda: {}["Alice, 4111 1111 1111 1111"], LABEL)
    text = str(caught.value)
    assert text.startswith("The backup of shop failed unexpectedly: KeyError at test_apart.py:")
    assert "Alice" not in text and "\n" not in text


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/srv/x"), "no_space", "/srv/x: No space left on device."),
        (OSError(errno.EROFS, "Read-only file system", "/srv/x"), "permission_denied", "how it is mounted"),
        (OSError(errno.EIO, "Input/output error"), "failed", "kernel's log"),
        (OSError(errno.EMFILE, "Too many open files"), "failed", "LimitNOFILE"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "failed", "pids.max"),
        (RuntimeError("can't start new thread"), "failed", "no thread can be started"),
        (MemoryError(), "no_space", "not enough memory"),
        (ModuleNotFoundError("No module named 'x'", name="x"), "missing_tool", "(x)"),
        (UnicodeEncodeError("utf-8", "caf\udcff", 3, 4, "surrogates not allowed"), "bad_input", "UTF-8 can write (at "),
    ],
)
def test_what_the_system_refuses_comes_with_the_next_step(error: Exception, code: str, says: str) -> None:
    with pytest.raises(EngineError) as caught:
        apart(out_of(error), LABEL)
    assert caught.value.code == code and says in str(caught.value), caught.value
    assert str(caught.value).startswith("The backup of shop failed")


def test_work_that_notices_the_end_of_its_time_stops_by_itself() -> None:
    with pytest.raises(Unanswered, match="took longer than its timeout of 0.2 s. Raise timeout"):
        apart(asleep, LABEL, 0.2)


def test_work_that_notices_nothing_is_killed() -> None:
    with pytest.raises(Unanswered, match="timeout of 0.2 s, did not stop, and was killed"):
        apart(deaf, LABEL, 0.2)


def test_a_signal_stops_the_work_and_it_cleans_up(told_soon: None, tmp_path: Any) -> None:
    def work() -> None:
        try:
            asleep()
        finally:
            time.sleep(0.5)
            (tmp_path / "cleaned").touch()

    with pytest.raises(Interrupted, match="Stopped by SIGTERM. What was begun has been removed"):
        apart(work, LABEL)
    assert (tmp_path / "cleaned").exists()


def test_a_signal_ends_work_that_notices_nothing(told_soon: None) -> None:
    with pytest.raises(Interrupted, match="Stopped by SIGTERM. It did not stop by itself, and was killed."):
        apart(deaf, LABEL)


def test_what_cleans_up_without_end_is_killed_too() -> None:
    def work() -> None:
        try:
            asleep()
        finally:
            time.sleep(60)

    with pytest.raises(Unanswered, match="did not stop, and was killed"):
        apart(work, LABEL, 0.2)


def test_an_answer_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "_MOST", 1 << 20)
    with pytest.raises(Crashed, match="ended without an answer|was killed by SIGKILL"):
        apart(lambda: "x" * (8 << 20), LABEL)


def test_where_no_process_can_be_started_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(EngineError, match="Raise the limit of processes"):
        apart(os.getpid, LABEL)
    assert len(os.listdir("/proc/self/fd")) == before


def test_it_ends_with_its_supervisor(tmp_path: Any) -> None:
    supervisor = os.fork()
    if supervisor == 0:
        try:
            apart(lambda: ((tmp_path / "pid").write_text(str(os.getpid())), asleep()), LABEL)
        finally:
            os._exit(0)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.01)
    os.kill(supervisor, signal.SIGKILL)
    os.waitpid(supervisor, 0)
    pid = int((tmp_path / "pid").read_text())
    for _try in range(500):
        if not running(pid):
            break
        time.sleep(0.01)
    else:
        pytest.fail("it goes on")


def test_handlers_are_afterwards_what_they_were() -> None:
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGCHLD, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    apart(os.getpid, LABEL, 60)
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_what_follows_a_run_that_was_stopped_has_a_few_seconds() -> None:
    def work() -> str:
        try:
            with interruptible():
                time.sleep(60)
        except BaseException:
            try:
                with last_part(0.2):
                    time.sleep(60)
            except BaseException as error:
                return str(error)
        return "it went on"

    assert apart(work, LABEL, 0.2) == "It did not end within 0.2 s after the run was told to stop."


def test_what_cannot_be_read_by_others_stays_an_error() -> None:
    assert explained(KeyError("secret"), "The restore of shop").code == "unexpected"
