# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""A signal or the end of the time stops the work once, and never where it would leave it half undone."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Iterator, List

import pytest

from _engine.errors import EngineError, Interrupted, NoSpace, TimedOut
from _engine.interrupts import between_works, finish, interruptible, time_limit


@pytest.fixture
def delivered() -> Iterator[List[int]]:
    """The signals that reach whoever handled them before."""
    numbers: List[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _frame: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGTERM, previous)


def ask_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_stops_the_work_and_no_handler_of_errors_takes_it_for_one(delivered: List[int]) -> None:
    with pytest.raises(Interrupted, match="Stopped by SIGTERM"), interruptible():
        try:
            ask_to_stop()
        except (EngineError, OSError, Exception):
            pytest.fail("it was taken for an error")
    assert delivered == []
    ask_to_stop()
    assert delivered == [signal.SIGTERM]


def test_a_second_signal_does_not_cut_the_cleaning_up_short(delivered: List[int]) -> None:
    cleaned = False
    with pytest.raises(Interrupted), interruptible():
        try:
            ask_to_stop()
        finally:
            ask_to_stop()
            cleaned = True
    assert cleaned


def test_past_the_point_of_no_return_a_signal_waits_for_the_end(delivered: List[int]) -> None:
    with interruptible():
        finish()
        ask_to_stop()
        assert delivered == []
    assert delivered == [signal.SIGTERM]


class Late:
    """The lock of logging, which Python takes around fork(2), with a signal in the moment in which it is given back."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self.lock, self._stop, self._process = threading.RLock(), stop, os.getpid()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lock, name)

    def release(self) -> None:
        # Not in the child, which has a copy.
        if os.getpid() == self._process:
            self._stop()
        self.lock.release()


@pytest.mark.parametrize("what", ["signal", "time"])
def test_what_comes_while_a_program_is_started_stops_the_work_and_leaves_no_lock_taken(
    delivered: List[int], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    late = Late(ask_to_stop if what == "signal" else lambda: time.sleep(0.2))
    error = Interrupted if what == "signal" else TimedOut
    with pytest.raises(error), interruptible(), time_limit(None if what == "signal" else 0.1, "The backup"):
        with monkeypatch.context() as patch:
            patch.setattr(logging, "_lock", late)
            subprocess.run(["true"], preexec_fn=int, check=True)
        time.sleep(5)
    free: List[bool] = []
    other = threading.Thread(target=lambda: free.append(late.lock.acquire(timeout=5)))
    other.start()
    other.join()
    assert free == [True] and delivered == []


def test_a_signal_that_waited_inside_stops_the_work_around_it(delivered: List[int]) -> None:
    with pytest.raises(Interrupted), interruptible():
        with interruptible():
            finish()
            ask_to_stop()
        pytest.fail("the outer work went on")


def test_the_end_of_the_time_stops_the_work_once_and_not_past_the_point_of_no_return() -> None:
    with pytest.raises(TimedOut, match="The backup took longer than its timeout of 0.05 s"), interruptible():
        with time_limit(0.05, "The backup"):
            time.sleep(5)
    with interruptible(), time_limit(0.05, "The backup"):
        finish()
        time.sleep(0.1)
    with interruptible(), time_limit(None, "The backup"):
        pass


def test_between_two_works_a_signal_waits_and_stops_the_next_one(delivered: List[int]) -> None:
    done = []
    with between_works():
        with interruptible():
            done.append("the first")
        ask_to_stop()
        time.sleep(0.05)
        done.append("what follows it")
        with pytest.raises(Interrupted, match="Stopped by SIGTERM"), interruptible():
            done.append("the second")
        with interruptible():
            done.append("the last, which nobody asked to stop")
    assert done == ["the first", "what follows it", "the last, which nobody asked to stop"]
    assert delivered == []


def test_one_that_came_too_late_for_a_work_stops_the_next_one(delivered: List[int]) -> None:
    with between_works():
        with interruptible():
            finish()
            ask_to_stop()
        with pytest.raises(Interrupted), interruptible():
            pytest.fail("the second went on")
    assert delivered == []


def test_after_the_last_work_a_signal_comes_to_nothing(delivered: List[int]) -> None:
    with between_works():
        with interruptible():
            pass
        ask_to_stop()
    assert delivered == []
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    ask_to_stop()
    assert delivered == [signal.SIGTERM]


def in_a_finally(clean_up: Callable[[], None]) -> None:
    try:
        raise NoSpace("The disk is full.")
    finally:
        clean_up()


def in_a_handler(clean_up: Callable[[], None]) -> None:
    try:
        raise NoSpace("The disk is full.")
    except BaseException:
        clean_up()
        raise


def in_a_context(clean_up: Callable[[], None]) -> None:
    class Context:
        def __enter__(self) -> None:
            pass

        def __exit__(self, *_exception: object) -> None:
            clean_up()

    with Context():
        raise NoSpace("The disk is full.")


def in_a_generator(clean_up: Callable[[], None]) -> None:
    @contextmanager
    def context() -> Iterator[None]:
        try:
            yield
        finally:
            clean_up()

    with context():
        raise NoSpace("The disk is full.")


def in_a_stack(clean_up: Callable[[], None]) -> None:
    with ExitStack() as stack:
        stack.callback(clean_up)
        raise NoSpace("The disk is full.")


FAILURES = [in_a_finally, in_a_handler, in_a_context, in_a_generator, in_a_stack]


@pytest.mark.parametrize("fail", FAILURES)
def test_the_end_of_the_time_cuts_no_cleaning_up_short_and_replaces_no_error(
    fail: Callable[[Callable[[], None]], None],
) -> None:
    cleaned = []

    def clean_up() -> None:
        time.sleep(0.3)
        cleaned.append(True)

    with pytest.raises(NoSpace), interruptible(), time_limit(0.1, "The backup"):
        fail(clean_up)
    assert cleaned == [True]


@pytest.mark.parametrize("fail", FAILURES)
def test_a_signal_cuts_no_cleaning_up_short_and_replaces_no_error(
    fail: Callable[[Callable[[], None]], None], delivered: List[int]
) -> None:
    cleaned = []

    def clean_up() -> None:
        ask_to_stop()
        time.sleep(0.3)
        ask_to_stop()
        cleaned.append(True)

    with pytest.raises(NoSpace), interruptible():
        fail(clean_up)
    assert cleaned == [True]
    assert delivered == []


def test_once_an_error_is_dealt_with_the_end_of_the_time_stops_the_work_that_goes_on() -> None:
    began = time.monotonic()
    with pytest.raises(TimedOut), interruptible(), time_limit(0.05, "The backup"):
        try:
            in_a_finally(lambda: time.sleep(0.2))
        except NoSpace:
            time.sleep(0.2)
        time.sleep(30)
    assert time.monotonic() - began < 10


def test_once_an_error_is_dealt_with_a_signal_stops_the_work_that_goes_on(delivered: List[int]) -> None:
    began = time.monotonic()
    with pytest.raises(Interrupted, match="Stopped by SIGTERM"), interruptible(), time_limit(60, "The backup"):
        try:
            in_a_finally(ask_to_stop)
        except NoSpace:
            time.sleep(0.2)
        time.sleep(30)
    assert time.monotonic() - began < 10
    assert delivered == []


def test_a_signal_that_came_while_one_work_failed_stops_the_work_around_it(delivered: List[int]) -> None:
    done = []
    began = time.monotonic()
    with pytest.raises(Interrupted), interruptible():
        try:
            with interruptible():
                in_a_finally(ask_to_stop)
        except NoSpace:
            done.append("the first")
        time.sleep(30)
    assert done == ["the first"]
    assert time.monotonic() - began < 10
    assert delivered == []


def test_work_that_begins_where_an_error_is_dealt_with_can_be_stopped_like_any_other(delivered: List[int]) -> None:
    try:
        raise NoSpace("The disk is full.")
    except NoSpace:
        with pytest.raises(TimedOut), interruptible(), time_limit(0.05, "The backup"):
            time.sleep(30)
        with pytest.raises(Interrupted), interruptible():
            ask_to_stop()
            time.sleep(30)
    assert delivered == []


def test_the_time_of_the_work_around_ends_the_work_inside_too() -> None:
    began = time.monotonic()
    with pytest.raises(TimedOut, match="All of it"), interruptible(), time_limit(0.05, "All of it"):
        with interruptible():
            time.sleep(30)
    assert time.monotonic() - began < 10


def test_afterwards_alarms_are_what_they_were() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(NoSpace), interruptible(), time_limit(0.05, "The backup"):
        in_a_finally(lambda: time.sleep(0.2))
    with pytest.raises(NoSpace), interruptible():
        in_a_finally(ask_to_stop)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_time_that_is_not_used_up_stops_nothing() -> None:
    with interruptible(), time_limit(0.05, "The backup"):
        pass
    time.sleep(0.1)
