# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A service that raises the alarm when it hears nothing: pinged when a backup begins and when it ends.

The paths are those of healthchecks.io (healthchecks.io/docs/http_api): ``/start``, nothing for success, ``/fail``, and
``/log`` for what changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import quote

from ...text import bounded
from ..config.fields import Fields
from .base import Channel
from .events import Event, Kind
from .options import read_address
from .web import Address

_SUFFIXES = {Kind.START: "/start", Kind.SUCCESS: "", Kind.RECOVERY: "", Kind.FAILURE: "/fail", Kind.TEST: "/log"}
_LIMIT = 2000


@dataclass(frozen=True)
class Heartbeat(Channel):
    """Pings a URL; ``{host}`` and ``{job}`` in it stand for their names."""

    heartbeat: ClassVar[bool] = True
    address: Address

    def send(self, event: Event) -> None:
        body = bounded(event.message, _LIMIT).encode("utf-8")
        names = {"host": quote(event.host, safe=""), "job": quote(event.job, safe="")}
        self.address.post(body, {"Content-Type": "text/plain; charset=utf-8"}, _SUFFIXES[event.kind], names)


def read_heartbeat(fields: Fields, label: str) -> Heartbeat:
    """Read the options of a heartbeat."""
    return Heartbeat(read_address(fields, label))
