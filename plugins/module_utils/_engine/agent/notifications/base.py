# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a channel is: one way of sending an event to somebody."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar, FrozenSet, Optional, Sequence

from ...errors import EngineError
from .events import Event, Kind

#: How long one step of sending may take, in seconds: connecting, or waiting for an answer.
TIMEOUT = 10.0


class NotSent(EngineError):
    """A message could not be sent. The text names the channel and never its address.

    With ``keep`` false, sending it again would be of no use. ``refused`` says that the receiver was reached, and would
    not have this one: others may pass.
    """

    code = "not_sent"

    def __init__(self, message: str, keep: bool = True, refused: bool = False) -> None:
        super().__init__(message)
        self.keep, self.refused = keep, refused


class Channel(ABC):
    """One way of sending events. Holds where its secrets are, and reads them when it sends."""

    #: Whether this only hears how each backup begins and ends, and lets what cannot be sent go: a late ping is a lie.
    heartbeat: ClassVar[bool] = False

    @abstractmethod
    def send(self, event: Event) -> None:
        """Send. Raises NotSent, and what ``SecretSource.read`` raises; no text of an error holds a secret."""


@dataclass(frozen=True)
class Route:
    """A channel, and what goes through it.

    ``jobs`` are the names of the jobs that it is for, None for all; with ``remind``, a failure that lasts is told again
    when that time has passed since it was told last.
    """

    name: str
    channel: Channel
    events: FrozenSet[Kind] = frozenset({Kind.FAILURE, Kind.RECOVERY})
    jobs: Optional[FrozenSet[str]] = None
    remind: Optional[timedelta] = None

    def hears(self, job: str, chosen: Optional[Sequence[str]]) -> bool:
        """Whether it is told of a job; ``chosen`` are the names of the channels that the job wants, None for all."""
        return (self.jobs is None or job in self.jobs) and (chosen is None or self.name in chosen)
