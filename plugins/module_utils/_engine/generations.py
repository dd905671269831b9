# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A backup's key slots as JSON: one file a generation (docs/formats.md). Reading trusts nothing. Pure functions."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from typing import Any, Dict, Sequence, Tuple

from .model import Generation, KeySlot, SlotKind
from .names import parse_slots_name
from .sealed import sealed, unsealed
from .shapes import Fields, Misshapen, choice, integer, mapping, moment, sequence, text
from .timespan import format_precise

#: No generation is larger, in bytes.
SLOTS_LIMIT = 128 << 10
#: Beyond this number, they are taken again from 1 on.
LAST_GENERATION = 1_000_000
#: Slots of one artefact: people and escrow, not a crowd; and one passphrase, since to try one takes a second.
_SLOTS, _PASSPHRASES = 64, 1
_MOST_ARTEFACTS = 2
_ID, _FILE = text(200), text(255)
_RECIPIENT = text(64, re.compile("[0-9a-f]{64}|"))
_KIND = choice(SlotKind)
_NUMBER = integer(1, 999_999_999)
_PARAMETER, _COST = text(1_000), integer(0, 1 << 32)


def write_generation(backup_id: str, number: int, time: datetime, slots: Sequence[KeySlot]) -> bytes:
    """A generation of a backup's key slots, as its file holds it."""
    return sealed(
        {
            "backup": backup_id,
            "generation": number,
            "time": format_precise(time),
            "key_slots": [_document(slot) for slot in slots],
        }
    )


def read_generation(name: str, content: bytes) -> Generation:
    """The key slots in a file of this name. Raises Misshapen, also for those of another backup than its name says."""
    fields = Fields(unsealed(content, SLOTS_LIMIT))
    backup_id, number = fields.take("backup", _ID), fields.take("generation", _NUMBER)
    if (backup_id, number) != parse_slots_name(name):
        raise Misshapen("is of another backup, or another generation, than its name says")
    slots = fields.take("key_slots", _SLOTS_OF)
    _check(slots, backup_id)
    return Generation(number, fields.take("time", moment), slots, hashlib.sha256(content).hexdigest())


def _document(slot: KeySlot) -> Dict[str, Any]:
    return {"artefact": slot.artefact, "kind": slot.kind.value, "recipient": slot.recipient, **slot.parameters}


def _slot(item: Any) -> KeySlot:
    fields = Fields(item)
    return KeySlot(
        artefact=fields.take("artefact", _FILE),
        kind=fields.take("kind", _KIND),
        recipient=fields.maybe("recipient", _RECIPIENT, ""),
        parameters=_PARAMETERS(fields.left()),
    )


def _parameter(value: Any) -> Any:
    return _PARAMETER(value) if isinstance(value, str) else _COST(value)


def _check(slots: Tuple[KeySlot, ...], backup_id: str) -> None:
    artefacts = {slot.artefact for slot in slots}
    if len(artefacts) > _MOST_ARTEFACTS or not all(name.startswith(backup_id + ".") for name in artefacts):
        raise Misshapen("has slots for files that are not of this backup", "key_slots")
    for name in artefacts:
        kinds = [slot.kind for slot in slots if slot.artefact == name]
        if len(kinds) > _SLOTS or kinds.count(SlotKind.PASSPHRASE) > _PASSPHRASES:
            raise Misshapen("has more slots than one artefact can have", "key_slots")


_PARAMETERS = mapping(_parameter, 20)
_SLOTS_OF = sequence(_slot, _MOST_ARTEFACTS * _SLOTS)
