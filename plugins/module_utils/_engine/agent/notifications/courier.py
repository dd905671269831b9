# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sending in the background: a thread for each channel, so that a slow one delays neither the work nor another one."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass
from typing import List, Optional

from ...errors import EngineError
from .base import Channel, NotSent
from .events import Event
from .outbox import Letter

#: How long one message may take in all, in seconds: more than a connection may wait for its receiver (base.TIMEOUT).
_LONGEST = 12.0


@dataclass
class Parcel:
    """One event on its way, and what became of it. ``letter`` is its file in the outbox, where it has one."""

    event: Event
    letter: Optional[Letter] = None
    done: bool = False
    failure: Optional[str] = None

    @property
    def key(self) -> str:
        return f"{self.event.job}.{self.event.verb}"


class Courier:
    """Sends what it is handed, in that order. When the receiver cannot be reached, what is left waits for the next run.

    A heartbeat's pings are sent all the same: each has its own meaning.
    """

    def __init__(self, name: str, channel: Channel) -> None:
        self.name, self.channel = name, channel
        self.parcels: List[Parcel] = []
        self._queue: queue.SimpleQueue[Optional[Parcel]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._started = False
        # A join that a signal interrupts takes the thread for one that has ended (CPython 3.8 to 3.12).
        self._ended = threading.Event()
        self._unreachable: Optional[str] = None

    def hand(self, parcel: Parcel) -> None:
        """Take an event to send; returns at once."""
        self.parcels.append(parcel)
        self._queue.put(parcel)
        if not self._started:
            try:
                self._thread.start()
            except RuntimeError:
                parcel.failure = f"channel {self.name}: no thread can be started. Raise the limit of processes."
                return
            self._started = True

    def end(self) -> None:
        """Say that nothing more comes."""
        self._queue.put(None)

    def wait(self, deadline: float) -> None:
        """Wait for what was handed, until ``deadline`` by time.monotonic()."""
        if self._started:
            self._ended.wait(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        for parcel in iter(self._queue.get, None):
            if self._unreachable is None or self.channel.heartbeat:
                parcel.failure = self._send(parcel)
            else:
                parcel.failure = self._unreachable
            parcel.done = True
        self._ended.set()

    def _send(self, parcel: Parcel) -> Optional[str]:
        """Send one within a fixed time; why that failed, where it did.

        A receiver that answers a byte now and then never exceeds a socket's timeout. It is left behind, in a thread
        that ends with the process, and what it got may come a second time.
        """
        answers: List[Optional[str]] = []
        sender = threading.Thread(target=lambda: answers.append(self._try(parcel)), daemon=True)
        try:
            sender.start()
        except RuntimeError:
            return f"channel {self.name}: no thread can be started. Raise the limit of processes."
        sender.join(_LONGEST)
        if answers:
            return answers[0]
        self._unreachable = (
            f"channel {self.name}: the receiver did not take a message within {_LONGEST:g} s. See what keeps it busy."
        )
        return self._unreachable

    def _try(self, parcel: Parcel) -> Optional[str]:
        """Send one; why that failed, where it did."""
        keep, refused = True, False
        try:
            self.channel.send(parcel.event)
        except NotSent as error:
            failure, keep, refused = str(error), error.keep, error.refused
        except EngineError as error:
            failure = str(error)
        except Exception as error:
            # What a library raises that nobody foresaw can quote an address: its kind alone is told.
            failure = f"channel {self.name}: sending failed unexpectedly ({type(error).__name__})."
        else:
            if parcel.letter:
                parcel.letter.sent()
            return None
        if not keep and parcel.letter:
            parcel.letter.sent()
        if keep and not refused:
            self._unreachable = failure
        return failure
