# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading notifications.json, so that a channel that is wrong keeps no other one from being used."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, FrozenSet, List, Tuple

from ...errors import BadInput
from ...host.small import read_small
from ...host.unexpected import explained
from ...shapes import once
from ..config.fields import Fields
from .apprise import read_apprise
from .base import Channel, Route
from .discord import read_discord
from .email import read_email
from .events import Kind
from .heartbeat import read_heartbeat
from .slack import read_slack
from .webhook import read_webhook

#: The types of channels: each reads its own options. The text is what messages call the channel.
_TYPES: Dict[str, Callable[[Fields, str], Channel]] = {
    "apprise": read_apprise,
    "discord": read_discord,
    "email": read_email,
    "heartbeat": read_heartbeat,
    "slack": read_slack,
    "webhook": read_webhook,
}
_KINDS = (Kind.FAILURE, Kind.RECOVERY, Kind.SUCCESS)
#: A channel's name is a part of files' names.
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class Channels:
    """The channels of a host, in the order of the file; ``names`` are those that cannot be used too.

    ``problems`` say in sentences what cannot be used.
    """

    routes: Tuple[Route, ...] = ()
    names: Tuple[str, ...] = ()
    problems: Tuple[str, ...] = ()


def read_channels(path: Path) -> Channels:
    """Read the channels of a host. A file that is missing means none; nothing is raised for one that is wrong."""
    try:
        document = json.loads(read_small(path), object_pairs_hook=once)
    except FileNotFoundError:
        return Channels()
    except OSError as error:
        return Channels(problems=(f"{path} cannot be read: {error.strerror}. Run this as root, or see its mode.",))
    except (ValueError, RecursionError) as error:
        return Channels(problems=(f"{path} is not JSON: {error}. Deploy it again, or correct the file.",))
    return channels_of(document, str(path))


def channels_of(document: Any, where: str) -> Channels:
    """The channels of a document, an object with the list ``channels``. Problems begin with ``where``."""
    try:
        fields = Fields(document, where)
        items = fields.raw("channels")
        fields.end()
        if not isinstance(items, list):
            raise fields.wrong("channels", "it must be a list")
    except BadInput as error:
        return Channels(problems=(str(error),))
    routes: List[Route] = []
    problems: List[str] = []
    names: List[str] = []
    for number, item in enumerate(items):
        name = item.get("name") if isinstance(item, dict) else None
        place = f"{where}: channel {name}" if isinstance(name, str) and name else f"{where}: channels[{number}]"
        try:
            route = _route(Fields(item, place))
            if route.name in names:
                raise BadInput(f'{where}: two channels are named "{route.name}". Rename one of them.')
            routes.append(route)
        except Exception as error:
            # Whatever is wrong with one channel keeps no other one from telling.
            problems.append(str(explained(error, f"Reading {place}")))
        if isinstance(name, str):
            names.append(name)
    return Channels(tuple(routes), tuple(names), tuple(problems))


def _route(fields: Fields) -> Route:
    name = fields.required("name")
    if not _NAME.fullmatch(name):
        raise fields.wrong("name", 'use lower-case letters, digits, "-" and "_", at most 63')
    kind = fields.required("type")
    if kind not in _TYPES:
        raise fields.wrong("type", f'"{kind}" is none of {", ".join(_TYPES)}')
    channel = _TYPES[kind](fields, f"channel {name}")
    jobs = fields.texts("jobs")
    if channel.heartbeat:
        route = Route(name, channel, jobs=frozenset(jobs) or None)
    else:
        route = Route(name, channel, _events(fields), frozenset(jobs) or None, fields.span("remind"))
    fields.end()
    return route


def _events(fields: Fields) -> FrozenSet[Kind]:
    words = fields.texts("events")
    known = {kind.value: kind for kind in _KINDS}
    for word in words:
        if word not in known:
            raise fields.wrong("events", f'"{word}" is none of {", ".join(known)}')
    return frozenset(known[word] for word in words) or Route.events
