# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Proofs as lines of JSON (docs/formats.md). Reading trusts nothing. Pure functions."""

from __future__ import annotations

import json
from typing import Any, Dict, Optional, Sequence, Tuple

from .model import Level, Outcome, Proof
from .shapes import Fields, Misshapen, choice, moment, number, parse, text
from .timespan import format_precise

#: No file of proofs is larger than this: some 10,000 verifications of one backup.
PROOFS_LIMIT = 4 << 20
#: The most lines of a backup's proofs, and how many of them may be none before the rest is not looked at.
MOST_PROOFS = 20_000
_MOST_UNREADABLE = 100
#: What a proof says of a verification that has not ended. The one of its end takes its place.
BEGUN = "It was begun."
_LEVEL, _OUTCOME = choice(Level), choice(Outcome)
_HOST, _DETAIL, _SECONDS = text(255), text(4_000), number(0, 1e9)


def write_proof(proof: Proof) -> bytes:
    """A proof as one line of JSON, without its end of line."""
    return json.dumps(proof_document(proof), ensure_ascii=False).encode("utf-8")


def proof_document(proof: Proof) -> Dict[str, Any]:
    """A proof as plain values."""
    return {
        "level": proof.level.value,
        "outcome": proof.outcome.value,
        "time": format_precise(proof.time),
        "host": proof.host,
        "seconds": round(proof.seconds, 3),
        "detail": proof.detail,
    }


def read_proofs(content: bytes) -> Tuple[Tuple[Proof, ...], Optional[str]]:
    """Those proofs of a file that judge its backup (see ``with_proof``), and why they do not, where one cannot be read.

    A file can hold 20,000, and a place any number of such files: what is not needed is not kept.

    A line that was damaged, cut or emptied may have been a failure of any level, so that only a restore that passed
    after it settles the matter. So the file is read from its end: no lines before keep that one from being found.
    """
    proofs: Dict[Tuple[Level, Outcome], Proof] = {}
    if not content:
        return (), "its proofs are empty"
    lines = content[: -1 if content.endswith(b"\n") else None]
    last = lines.count(b"\n") + 1
    unjudged: Optional[str] = None
    settled, unreadable = False, 0
    for number_of, written in zip(range(last, 0, -1), reversed(lines.rsplit(b"\n", MOST_PROOFS))):
        if number_of == last - MOST_PROOFS or unreadable > _MOST_UNREADABLE:
            unjudged = unjudged if settled else f"its proofs are too many, or no proofs up to line {number_of}"
            break
        try:
            proof = read_proof(parse(written))
        except Misshapen as error:
            unreadable += 1
            if not (settled or unjudged):
                unjudged = f"line {number_of} of its proofs cannot be read ({error})"
            continue
        kind = proof.level, proof.outcome
        # The newest one of a kind, in the order in which they were written: it decides which one takes which back.
        proofs.setdefault(kind, proof)
        settled = settled or kind == (Level.RESTORE, Outcome.PASSED)
    return tuple(proofs.values())[::-1], unjudged


def with_proof(proofs: Sequence[Proof], proof: Proof) -> Tuple[Proof, ...]:
    """Proofs with one more; those that it makes irrelevant (see Backup.known_bad) are left out.

    One that judges nothing stays too: it says when this host last tried.
    """
    others = [old for old in proofs if (old.level, old.outcome) != (proof.level, proof.outcome)]
    return (*(old for old in others if old.level is not proof.level or old.detail != BEGUN), proof)


def read_proof(value: Any) -> Proof:
    """One proof. Raises Misshapen."""
    fields = Fields(value)
    return Proof(
        level=fields.take("level", _LEVEL),
        outcome=fields.take("outcome", _OUTCOME),
        time=fields.take("time", moment),
        host=fields.take("host", _HOST),
        detail=fields.maybe("detail", _DETAIL, ""),
        seconds=fields.maybe("seconds", _SECONDS, 0.0),
    )
