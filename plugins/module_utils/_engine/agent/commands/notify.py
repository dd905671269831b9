# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Trying whether notifications arrive: a test message through every channel."""

from __future__ import annotations

import argparse
import time
from typing import List, Optional, Sequence, Tuple

from ...errors import BadInput
from ..config.reading import read_jobs
from ..config.settings import Settings
from ..console.exits import Exit
from ..console.printing import put, put_json, put_line, table
from ..console.selection import settings_of
from ..notifications.base import Route
from ..notifications.courier import Courier, Parcel
from ..notifications.events import Event, Kind
from ..notifications.reading import Channels, read_channels
from ..work.concluding import own_heartbeat

#: How long all channels together may take, in seconds.
_PATIENCE = 20.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument(
        "--channel", action="append", metavar="NAME", help="this channel only; may be given several times"
    )


def act(parsed: argparse.Namespace) -> Exit:
    """Send; FAILED where a channel cannot be used."""
    settings = settings_of(parsed)
    channels = read_channels(settings.notifications)
    wanted: Optional[Sequence[str]] = parsed.channel
    routes = _routes(settings, channels, wanted)
    problems = [one for one in channels.problems if wanted is None or any(f"channel {name}:" in one for name in wanted)]
    found = _send(settings, routes)
    if parsed.json:
        sent = [{"channel": name, "sent": failure is None, "message": failure} for name, failure in found]
        put_json({"channels": sent, "problems": problems})
    else:
        if found:
            put(table(("CHANNEL", "RESULT"), [(name, failure or "sent") for name, failure in found]))
        elif not problems:
            put_line(f"There are no channels in {settings.notifications}.")
        for problem in problems:
            put_line(problem)
    return Exit.FAILED if problems or any(failure for _name, failure in found) else Exit.FINE


def _routes(settings: Settings, channels: Channels, wanted: Optional[Sequence[str]]) -> List[Route]:
    """The channels that are meant; without names, the heartbeats of jobs too. Raises BadInput for an unknown name."""
    if wanted is None:
        jobs, _broken = read_jobs(settings.jobs, settings.host.name)
        own = [own_heartbeat(job.name, job.heartbeat) for job in jobs if job.heartbeat]
        return [*channels.routes, *own]
    for name in wanted:
        if name not in channels.names:
            there = ", ".join(channels.names) or "none"
            raise BadInput(f'There is no channel "{name}" in {settings.notifications}. The channels there: {there}.')
    return [route for route in channels.routes if route.name in wanted]


def _send(settings: Settings, routes: Sequence[Route]) -> List[Tuple[str, Optional[str]]]:
    """Send to all at once; for each channel, why it could not be sent."""
    host = settings.host
    message = f"If you can read this, notifications of {host.name} arrive here."
    couriers: List[Tuple[Courier, Parcel]] = []
    for route in routes:
        job = next(iter(sorted(route.jobs or ())), "test")
        parcel = Parcel(Event(Kind.TEST, host.name, job, "notify", host.now(), message))
        courier = Courier(route.name, route.channel)
        courier.hand(parcel)
        courier.end()
        couriers.append((courier, parcel))
    deadline = time.monotonic() + _PATIENCE
    for courier, _parcel in couriers:
        courier.wait(deadline)
    late = f"it took longer than {_PATIENCE:g} s. See what keeps the receiver busy."
    return [(courier.name, parcel.failure if parcel.done else late) for courier, parcel in couriers]
