# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Any service that takes JSON: the event as it is."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from functools import partial
from typing import Optional

from ..config.fields import Fields
from ..config.secrets import SecretSource, read_secret
from .base import Channel
from .events import Event
from .options import read_address
from .web import Address

_AUTHORIZATION = "Authorization"


@dataclass(frozen=True)
class Webhook(Channel):
    """Posts the event as a JSON object.

    ``token`` goes into ``token_header``, for Authorization after the word Bearer (RFC 6750, 2.1). With ``signing_key``,
    ``X-Fleet-Backup-Signature`` is ``sha256=`` and the HMAC-SHA256 of the body in hexadecimal digits.
    """

    address: Address
    token: Optional[SecretSource] = None
    token_header: str = _AUTHORIZATION
    signing_key: Optional[SecretSource] = None

    def send(self, event: Event) -> None:
        body = json.dumps(event.document).encode("ascii")
        headers, secret = {"Content-Type": "application/json"}, {}
        if self.token:
            token = self.token.read()
            secret[self.token_header] = f"Bearer {token}" if self.token_header == _AUTHORIZATION else token
        if self.signing_key:
            key = self.signing_key.read().encode("utf-8", "surrogateescape")
            headers["X-Fleet-Backup-Signature"] = "sha256=" + hmac.new(key, body, hashlib.sha256).hexdigest()
        self.address.post(body, headers, secret_headers=secret)


def read_webhook(fields: Fields, label: str) -> Webhook:
    """Read the options of a webhook."""
    return Webhook(
        read_address(fields, label),
        fields.object("token", partial(read_secret, purpose=f"{label}: token")),
        fields.text("token_header", _AUTHORIZATION) or _AUTHORIZATION,
        fields.object("signing_key", partial(read_secret, purpose=f"{label}: signing_key")),
    )
