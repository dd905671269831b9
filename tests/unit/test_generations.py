# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A generation of key slots comes back as it was written, belongs to its file's name, and is never trusted."""

from __future__ import annotations

import hashlib
from datetime import datetime, timezone
from typing import Any, Dict, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _engine.generations import SLOTS_LIMIT, read_generation, write_generation
from _engine.model import Generation, KeySlot, SlotKind
from _engine.names import parse_slots_name, slots_name
from _engine.sealed import sealed, unsealed
from _engine.shapes import Misshapen

ID = "shop-20260301T020000Z-h3k7"
ARTEFACT = f"{ID}.dump.zst.aes"
SLOTS = (
    KeySlot(ARTEFACT, SlotKind.X25519, "c" * 64, {"enc": "AA==", "ciphertext": "AA==", "hmac": "d" * 64}),
    KeySlot(ARTEFACT, SlotKind.PASSPHRASE, "", {"salt": "AA==", "n": 131_072, "r": 8, "p": 1}),
)
TIME = datetime(2026, 3, 2, tzinfo=timezone.utc)
WRITTEN = write_generation(ID, 3, TIME, SLOTS)


def test_slots_come_back_as_they_were_written() -> None:
    name = slots_name(ID, 3)
    assert (name, parse_slots_name(name)) == (f"{ID}.slots.3.json", (ID, 3))
    assert read_generation(name, WRITTEN) == Generation(3, TIME, SLOTS, hashlib.sha256(WRITTEN).hexdigest())
    assert read_generation(slots_name(ID, 1), write_generation(ID, 1, TIME, ())).slots == ()


@pytest.mark.parametrize(
    "name",
    [
        f"{ID}.slots.0.json",
        f"{ID}.slots.03.json",
        f"{ID}.slots.-1.json",
        f"{ID}.slots.9999999999.json",
        f"{ID}.slots.json",
        f"{ID}.slots.1.json.sig",
        f"../{ID}.slots.1.json",
        "shop.slots.1.json",
        ".slots.1.json",
    ],
)
def test_other_names_are_no_names_of_slots(name: str) -> None:
    assert parse_slots_name(name) is None


def slots(count: int = 1, **fields: Any) -> List[Dict[str, Any]]:
    return [{**unsealed(WRITTEN, SLOTS_LIMIT)["key_slots"][0], **fields}] * count


def written(**fields: Any) -> bytes:
    return sealed({**unsealed(WRITTEN, SLOTS_LIMIT), **fields})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut short or damaged"),
        (WRITTEN[:-1], "cut short or damaged"),
        (WRITTEN.replace(b"131072", b"131073"), "does not have the SHA-256"),
        (sealed({"backup": ID, "generation": 3, "time": "2026-03-02T00:00:00Z"}), "key_slots is missing"),
        (written(generation=4), "of another backup, or another generation"),
        (written(time=3), "time is not a"),
        (written(generation=True), "generation is not a whole number"),
        (written(backup=ID[:-1] + "8"), "of another backup, or another generation"),
        (written(key_slots=slots(artefact="other.dump")), "for files that are not of this backup"),
        (written(key_slots=[*slots(), *slots(artefact=f"{ID}.a"), *slots(artefact=f"{ID}.b")]), "not of this backup"),
        (written(key_slots=slots(65)), "more slots than one artefact can have"),
        (written(key_slots=slots(2, kind="passphrase")), "more slots than one artefact can have"),
        (written(key_slots=slots(129)), "key_slots has more than 128 items"),
        (written(key_slots=slots(kind="rot13")), "which this version does not know"),
        (written(key_slots=slots(recipient="../..")), "key_slots[0].recipient is invalid"),
        (written(key_slots=slots(salt=["AAAA"])), "salt is not a whole number"),
        (written(key_slots=slots(n=2**40)), "n is out of range"),
        (written(key_slots=slots(enc="A" * 1_001)), "enc is longer than 1000 characters"),
        (written(more="x" * SLOTS_LIMIT), "is larger than 131072 bytes"),
    ],
)
def test_slots_that_are_not_as_they_should_be_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(Misshapen) as caught:
        read_generation(slots_name(ID, 3), content)
    assert message in str(caught.value)


def test_no_single_bit_of_slots_changes_unnoticed() -> None:
    for place in range(len(WRITTEN)):
        for bit in range(8):
            flipped = bytearray(WRITTEN)
            flipped[place] ^= 1 << bit
            with pytest.raises(Misshapen):
                read_generation(slots_name(ID, 3), bytes(flipped))


@given(st.binary(max_size=200))
def test_any_bytes_are_no_slots(content: bytes) -> None:
    with pytest.raises(Misshapen):
        read_generation(slots_name(ID, 3), content)
