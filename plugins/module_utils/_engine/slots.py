# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether key slots are true: anyone who can write to a repository can put garbage under somebody's id.

Each slot has an ``hmac``: HMAC-SHA256, in hexadecimal, of its other fields as JSON with sorted names and no spaces. Its
key comes from the data key by HKDF-SHA256 (RFC 5869), without salt, info "fleet.backup/v1 slot". So whoever opens one
slot knows which of the others were written by someone who had the data key. Pure functions.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Dict, Sequence, Tuple

from .model import KeySlot
from .primitives import hkdf_expand, hkdf_extract

_INFO = b"fleet.backup/v1 slot"


def authenticated(slot: KeySlot, data_key: bytes) -> KeySlot:
    """A slot with its ``hmac``."""
    return slot._replace(parameters={**slot.parameters, "hmac": _hmac(slot, data_key)})


def authentic(slots: Sequence[KeySlot], artefact_name: str, data_key: bytes) -> Tuple[KeySlot, ...]:
    """Those slots of one artefact that were written by someone who had its data key; of each reader, the first."""
    found: Dict[str, KeySlot] = {}
    for slot in slots:
        written = str(slot.parameters.get("hmac", ""))
        if slot.artefact == artefact_name and hmac.compare_digest(written.encode(), _hmac(slot, data_key).encode()):
            found.setdefault(slot.recipient, slot)
    return tuple(found.values())


def _hmac(slot: KeySlot, data_key: bytes) -> str:
    fields = {name: value for name, value in slot.parameters.items() if name != "hmac"}
    fields.update(artefact=slot.artefact, kind=slot.kind.value, recipient=slot.recipient)
    message = json.dumps(fields, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    key = hkdf_expand(hkdf_extract(b"", data_key), _INFO, 32)
    return hmac.new(key, message.encode("utf-8"), hashlib.sha256).hexdigest()
