# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Proofs: what one verification found, a JSON object each (docs/formats.md). Reading trusts nothing. Pure functions."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from .model import Level, Outcome, Proof
from .names import parse_proof_name, stamp
from .sealed import sealed, unsealed
from .shapes import Fields, Misshapen, choice, moment, number, text
from .timespan import format_precise

#: No proof is longer, in bytes.
PROOF_LIMIT = 16 << 10
#: What a proof says of a verification that has not ended. The one of its end takes its place.
BEGUN = "It was begun."
_LEVEL, _OUTCOME = choice(Level), choice(Outcome)
_ID, _HOST, _DETAIL, _SECONDS = text(200), text(255), text(4_000), number(0, 1e9)


def write_proof(backup_id: str, proof: Proof) -> bytes:
    """A proof of a backup, as its file holds it."""
    return sealed({"backup": backup_id, **proof_document(proof)})


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


def read_stored(name: str, content: bytes) -> Proof:
    """The proof in a file of this name. Raises Misshapen, also for one of another backup or time than its name says."""
    document = unsealed(content, PROOF_LIMIT)
    proof = read_proof(document)
    if (Fields(document).take("backup", _ID), stamp(proof.time)) != parse_proof_name(name):
        raise Misshapen("it is one of another backup, or of another time, than its name says")
    return proof


class Judgement:
    """Those proofs of a backup that judge it (see ``with_proof``), told from the newest one to the oldest.

    A place can hold any number of proofs: what is not needed is not kept. One that cannot be read may have been a
    failure of any level, so that only a restore that passed after it settles the matter.
    """

    def __init__(self) -> None:
        self._newest: Dict[Tuple[Level, Outcome], Proof] = {}
        self._settled = False
        #: Why it is not known how the backup was judged, and the name of the proof that would say.
        self.unjudged: Optional[str] = None
        self.unread = ""
        #: The names of proofs that newer ones of their kind make irrelevant.
        self.superseded: List[str] = []

    def tell(self, name: str, found: Union[Proof, str]) -> None:
        """One more proof, or why it cannot be read."""
        if isinstance(found, str):
            if self._settled:
                self.superseded.append(name)
            elif not self.unjudged:
                self.unjudged, self.unread = found, name
            return
        kind = found.level, found.outcome
        if kind in self._newest:
            self.superseded.append(name)
        self._newest.setdefault(kind, found)
        self._settled = self._settled or kind == (Level.RESTORE, Outcome.PASSED)

    @property
    def proofs(self) -> Tuple[Proof, ...]:
        """The proofs, the oldest first."""
        return tuple(self._newest.values())[::-1]


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
