# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""A signal or the end of the time stops the work once, and never where it would leave it half undone."""

from __future__ import annotations

import os
import signal
import time
from typing import Iterator, List

import pytest

from _engine.errors import EngineError, Interrupted, TimedOut
from _engine.interrupts import finish, interruptible, time_limit


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


def test_time_that_is_not_used_up_stops_nothing() -> None:
    with interruptible(), time_limit(0.05, "The backup"):
        pass
    time.sleep(0.1)
