# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Discord."""

from __future__ import annotations

import json
from dataclasses import dataclass

from ..config.fields import Fields
from .base import Channel
from .events import Event, as_code
from .options import read_address
from .slack import SIGNS
from .web import Address

#: discord.com/developers/docs, "Execute Webhook": content, up to 2000 characters.
_LIMIT = 1900


@dataclass(frozen=True)
class Discord(Channel):
    """Posts to a webhook of a channel."""

    address: Address

    def send(self, event: Event) -> None:
        text = f"{SIGNS.get(event.kind, '')}{as_code(f'{event.host}: {event.text}'[:_LIMIT])}"
        # Nobody is called by what a database is named.
        document = {"content": text, "allowed_mentions": {"parse": []}}
        self.address.post(json.dumps(document).encode("ascii"), {"Content-Type": "application/json"})


def read_discord(fields: Fields, label: str) -> Discord:
    """Read the options of a Discord webhook."""
    return Discord(read_address(fields, label))
