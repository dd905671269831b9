# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Slack, and what takes its incoming webhooks (Mattermost, Rocket.Chat)."""

from __future__ import annotations

import json
from dataclasses import dataclass

from ..config.fields import Fields
from .base import Channel
from .events import Event, Kind, as_code
from .options import read_address
from .web import Address

#: Slack advises at most 4,000 characters (api.slack.com, "chat.postMessage", truncating content).
_LIMIT = 3500
SIGNS = {Kind.FAILURE: "\N{LARGE RED CIRCLE}", Kind.RECOVERY: "\N{LARGE GREEN CIRCLE}"}


@dataclass(frozen=True)
class Slack(Channel):
    """Posts to an incoming webhook."""

    address: Address

    def send(self, event: Event) -> None:
        text = f"{SIGNS.get(event.kind, '')}{as_code(f'{event.host}: {event.text}'[:_LIMIT])}"
        # These three are all that Slack reads as markup of its own (api.slack.com, "Escaping text"): a database's name
        # calls nobody.
        for letter, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            text = text.replace(letter, escaped)
        self.address.post(json.dumps({"text": text}).encode("ascii"), {"Content-Type": "application/json"})


def read_slack(fields: Fields, label: str) -> Slack:
    """Read the options of a Slack webhook."""
    return Slack(read_address(fields, label))
