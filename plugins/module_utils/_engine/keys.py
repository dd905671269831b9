# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Key slots: an artefact's data key, wrapped once for each of those who may read it.

Parameters of a slot, by kind; bytes are in base64 (RFC 4648, section 4):

```
x25519      enc (32 bytes), ciphertext (48)                          HPKE, see hpke.py; info "fleet.backup/v1"
passphrase  salt (16 bytes), n, r, p, nonce (12), ciphertext (48)    scrypt (RFC 7914), then AES-256-GCM
```

In both, the associated data is the artefact's origin (model.Origin), so that a slot opens for its own artefact only;
and ``hmac`` says that it was written by someone who had the data key (slots.py).
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from typing import List, NamedTuple, Optional, Sequence, Tuple

from . import hpke
from .errors import BadInput, BadManifest, Damaged, EngineError, NoKey, Refused, WrongKey
from .model import KeySlot, Origin, SlotKind
from .pem import Identity, Recipient, generate, load_identities, load_recipients, public_pem, recipient_id
from .primitives import cryptography_needed
from .slots import authentic, authenticated
from .timespan import format_size

__all__ = [
    "Identity",
    "Recipient",
    "authentic",
    "generate",
    "included",
    "load_identities",
    "load_recipients",
    "new_data_key",
    "public_pem",
    "recipient_id",
    "rewrap",
    "short_id",
    "unwrap",
    "without",
    "wrap",
]

_INFO = b"fleet.backup/v1"
_DATA_KEY = 32
_TAG = 16
_SALT = 16
_NONCE = 12
#: The shortest beginning of a recipient's id that stands for it.
_SHORT = 16


class _Cost(NamedTuple):
    """The cost parameters of scrypt (RFC 7914, section 2)."""

    n: int
    r: int
    p: int

    @property
    def memory(self) -> int:
        """What scrypt allocates, in bytes (RFC 7914, sections 4 to 6)."""
        return 128 * self.r * (self.n + self.p + 2)

    @property
    def work(self) -> int:
        """A measure of the time that scrypt takes."""
        return self.n * self.r * self.p


_COST = _Cost(n=1 << 17, r=8, p=1)
#: What a slot may ask for, as a multiple of what new slots do: a manifest must not take all of a host's memory or time.
_LENIENCE = 2


def new_data_key() -> bytes:
    """A fresh key for one artefact, 32 bytes."""
    return os.urandom(_DATA_KEY)


def short_id(recipient: str) -> str:
    """A recipient's id as messages show it: its first 16 digits."""
    return recipient[:_SHORT] if re.fullmatch("[0-9a-f]{64}", recipient) else "(not an id)"


def wrap(
    data_key: bytes, origin: Origin, recipients: Sequence[Recipient], passphrase: Optional[str]
) -> Tuple[KeySlot, ...]:
    """Wrap a data key for each recipient, and under the passphrase where there is one; any one of them opens it.

    Raises BadInput where there is nobody to wrap for.
    """
    _check_passphrase(passphrase)
    _require_reader(origin.artefact, recipients, passphrase)
    slots = [_wrap_for(data_key, origin, recipient) for recipient in _unique(recipients)]
    if passphrase is not None:
        slots.append(_wrap_under(data_key, origin, passphrase))
    return tuple(authenticated(slot, data_key) for slot in slots)


def unwrap(
    slots: Sequence[KeySlot], origin: Origin, identities: Sequence[Identity], passphrase: Optional[str]
) -> bytes:
    """The data key of an artefact, from the first of its slots that an identity or the passphrase opens.

    Raises NoKey where there is nothing to open a slot with, or no slot; WrongKey where nothing that was given fits;
    Damaged for a slot that names a given identity and yet does not open; BadManifest for one that makes no sense.
    """
    _check_passphrase(passphrase)
    # In this order because a passphrase takes its time.
    artefact_name = origin.artefact
    mine = [*_select(slots, artefact_name, SlotKind.X25519), *_select(slots, artefact_name, SlotKind.PASSPHRASE)]
    if not mine:
        raise NoKey(
            f"Nobody can read {artefact_name} any more: it has no key slot left. "
            "Its keys were destroyed to erase it, or somebody removed them. Use another copy, or another backup."
        )
    if not identities and passphrase is None:
        raise NoKey(f"{artefact_name} is encrypted for {_readers(mine)}; give {_what_opens(mine)}.")
    failure: Optional[EngineError] = None
    for slot in mine:
        try:
            data_key = _try(slot, origin, identities, passphrase)
        except (Damaged, BadManifest) as error:
            # Another slot may still open.
            failure = failure or error
        else:
            if data_key is not None:
                return data_key
    if failure:
        raise failure
    given = [identity.name for identity in identities] + (["the passphrase"] if passphrase is not None else [])
    raise WrongKey(
        f"Nothing that was given opens {artefact_name} (tried {', '.join(given)}). "
        f"It is encrypted for {_readers(mine)}; give {_what_opens(mine)}."
    )


def rewrap(
    slots: Sequence[KeySlot],
    origin: Origin,
    data_key: bytes,
    recipients: Sequence[Recipient],
    passphrase: Optional[str],
) -> Tuple[KeySlot, ...]:
    """The slots of this one artefact for exactly these recipients and, where it is given, the passphrase.

    A slot is kept only where it is known to open: an authentic one of a recipient, or one that the passphrase opens.
    All others are written anew. Raises what ``wrap`` raises.
    """
    _check_passphrase(passphrase)
    wanted = _unique(recipients)
    _require_reader(origin.artefact, wanted, passphrase)
    present = {slot.recipient: slot for slot in authentic(slots, origin.artefact, data_key)}
    kept = [present[recipient.id] for recipient in wanted if recipient.id in present]
    added = [recipient for recipient in wanted if recipient.id not in present]
    under = present.get("")
    if passphrase is not None and under is not None and _opens(under, origin, data_key, passphrase):
        kept.append(under)
        passphrase = None
    if not added and passphrase is None:
        return tuple(kept)
    return (*kept, *wrap(data_key, origin, added, passphrase))


def included(
    slots: Sequence[KeySlot], origin: Origin, data_key: bytes, recipients: Sequence[Recipient]
) -> Tuple[KeySlot, ...]:
    """The slots of this one artefact, and one for each of these recipients; without those that are not authentic."""
    kept = authentic(slots, origin.artefact, data_key)
    present = {slot.recipient for slot in kept}
    added = [recipient for recipient in _unique(recipients) if recipient.id not in present]
    return (*kept, *wrap(data_key, origin, added, None)) if added else kept


def without(slots: Sequence[KeySlot], recipient_ids: Sequence[str], destroy: bool = False) -> Tuple[KeySlot, ...]:
    """The slots that are left, of all artefacts, when those of some recipients are gone.

    A recipient's id may be cut down to its first 16 digits or more; an empty one stands for the passphrase. Raises
    BadInput for an id that no slot has, and Refused, unless ``destroy`` is set, where an artefact would lose its last
    slot: nobody could ever read it again.
    """
    for recipient in recipient_ids:
        if not any(_is_for(slot, recipient) for slot in slots):
            whose = recipient[:_SHORT] if recipient else "the passphrase"
            raise BadInput(
                f"Cannot remove the key slot of {whose}: there is none. The slots there are for {_readers(slots)}."
            )
    left = tuple(slot for slot in slots if not any(_is_for(slot, recipient) for recipient in recipient_ids))
    lost = sorted({slot.artefact for slot in slots} - {slot.artefact for slot in left})
    if lost and not destroy:
        raise Refused(
            f"Cannot remove the last key slot of {', '.join(lost)}: nobody could ever read it again. "
            "Add another recipient first, or ask for its keys to be destroyed."
        )
    return left


def _wrap_for(data_key: bytes, origin: Origin, recipient: Recipient) -> KeySlot:
    try:
        enc, ciphertext = hpke.seal(recipient.public, _INFO, origin.associated_data, data_key)
    except hpke.BadPublicKey as error:
        raise BadInput(
            f"The recipient {recipient.name} is a public key that protects nothing ({error}). "
            "Give the public key of a key pair that was generated."
        ) from error
    parameters = {"enc": _text(enc), "ciphertext": _text(ciphertext)}
    return KeySlot(origin.artefact, SlotKind.X25519, recipient.id, parameters)


def _wrap_under(data_key: bytes, origin: Origin, passphrase: str) -> KeySlot:
    with cryptography_needed():
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    salt, nonce = os.urandom(_SALT), os.urandom(_NONCE)
    key = _scrypt(passphrase, salt, _COST)
    ciphertext = AESGCM(key).encrypt(nonce, data_key, origin.associated_data)
    parameters = {
        "salt": _text(salt),
        "n": _COST.n,
        "r": _COST.r,
        "p": _COST.p,
        "nonce": _text(nonce),
        "ciphertext": _text(ciphertext),
    }
    return KeySlot(origin.artefact, SlotKind.PASSPHRASE, "", parameters)


def _try(slot: KeySlot, origin: Origin, identities: Sequence[Identity], passphrase: Optional[str]) -> Optional[bytes]:
    """The data key in a slot, or None where nothing that was given is for it."""
    if slot.kind is SlotKind.PASSPHRASE:
        return None if passphrase is None else _open_under(slot, origin, passphrase)
    identity = next((identity for identity in identities if identity.id == slot.recipient), None)
    return None if identity is None else _open_for(slot, origin, identity)


def _open_for(slot: KeySlot, origin: Origin, identity: Identity) -> bytes:
    """The data key in a slot that names this identity."""
    enc, ciphertext = _binary(slot, "enc", 32), _binary(slot, "ciphertext", _DATA_KEY + _TAG)
    try:
        return hpke.open_sealed(identity.private, enc, _INFO, origin.associated_data, ciphertext)
    except hpke.CannotOpen as error:
        raise Damaged(
            f"The key slot of {slot.artefact} for {short_id(slot.recipient)} does not open with that very key "
            f"({identity.name}): it was altered, or belongs to another artefact, database or host. "
            "Use the manifest of another copy, or another backup."
        ) from error


def _open_under(slot: KeySlot, origin: Origin, passphrase: str) -> Optional[bytes]:
    """The data key in a passphrase slot, or None where it is another passphrase, which an altered slot looks like."""
    with cryptography_needed():
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    salt, nonce = _binary(slot, "salt", _SALT), _binary(slot, "nonce", _NONCE)
    ciphertext = _binary(slot, "ciphertext", _DATA_KEY + _TAG)
    key = _scrypt(passphrase, salt, _cost(slot))
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, origin.associated_data)
    except InvalidTag:
        return None


def _opens(slot: KeySlot, origin: Origin, data_key: bytes, passphrase: str) -> bool:
    try:
        return _open_under(slot, origin, passphrase) == data_key
    except BadManifest:
        return False


def _scrypt(passphrase: str, salt: bytes, cost: _Cost) -> bytes:
    """A key of 32 bytes from a passphrase in UTF-8 (RFC 7914). OpenSSL maps the memory for it and unmaps it again."""
    try:
        return hashlib.scrypt(
            _passphrase_bytes(passphrase),
            salt=salt,
            n=cost.n,
            r=cost.r,
            p=cost.p,
            maxmem=cost.memory + (1 << 20),
            dklen=32,
        )
    except (MemoryError, ValueError) as error:
        raise EngineError(
            f"Cannot make a key from encryption.passphrase: scrypt failed ({error}). "
            f"It takes {format_size(cost.memory)} of memory, and an OpenSSL that allows it."
        ) from error


def _cost(slot: KeySlot) -> _Cost:
    """A slot's cost parameters. Raises BadManifest unless scrypt knows them and they are affordable."""
    n, r, p = (slot.parameters.get(name) for name in ("n", "r", "p"))
    # In Python, true is a number too.
    numbers = [number for number in (n, r, p) if isinstance(number, int) and not isinstance(number, bool)]
    numbers = [number for number in numbers if 0 < number < 1 << 32]
    if len(numbers) < 3:
        raise _senseless(slot, "its n, r and p are no positive numbers")
    cost = _Cost(*numbers)
    if cost.n < 2 or cost.n & (cost.n - 1):
        raise _senseless(slot, "its n is not a power of two")
    if cost.memory > _LENIENCE * _COST.memory or cost.work > _LENIENCE * _COST.work:
        raise _senseless(slot, "its n, r and p ask for far more memory or time than a passphrase takes")
    return cost


def _binary(slot: KeySlot, name: str, size: int) -> bytes:
    value = slot.parameters.get(name)
    try:
        content = base64.b64decode(value.encode("ascii"), validate=True) if isinstance(value, str) else b""
    except ValueError:
        content = b""
    if len(content) != size:
        raise _senseless(slot, f"its {name} is not {size} bytes in base64")
    return content


def _senseless(slot: KeySlot, why: str) -> BadManifest:
    return BadManifest(
        f"A key slot of {slot.artefact} makes no sense: {why}. "
        "It was altered. Use that of another copy, or another backup."
    )


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _select(slots: Sequence[KeySlot], artefact_name: str, kind: SlotKind) -> List[KeySlot]:
    return [slot for slot in slots if slot.artefact == artefact_name and slot.kind is kind]


def _is_for(slot: KeySlot, recipient: str) -> bool:
    if slot.kind is SlotKind.PASSPHRASE or not recipient:
        return slot.kind is SlotKind.PASSPHRASE and not recipient
    return slot.recipient == recipient or (len(recipient) >= _SHORT and slot.recipient.startswith(recipient))


def _unique(recipients: Sequence[Recipient]) -> List[Recipient]:
    return list({recipient.id: recipient for recipient in recipients}.values())


def _check_passphrase(passphrase: Optional[str]) -> None:
    if passphrase is None:
        return
    if not passphrase:
        raise BadInput("encryption.passphrase is empty. Give one that cannot be guessed, or leave it out.")
    try:
        _passphrase_bytes(passphrase)
    except UnicodeEncodeError:
        # Without the error itself, which shows a part of the passphrase.
        raise BadInput("encryption.passphrase is not text that UTF-8 can write. Give another one.") from None


def _passphrase_bytes(passphrase: str) -> bytes:
    return passphrase.encode("utf-8", "surrogateescape")


def _require_reader(artefact_name: str, recipients: Sequence[Recipient], passphrase: Optional[str]) -> None:
    if not recipients and passphrase is None:
        raise BadInput(
            f"Nobody could read {artefact_name}: there is no recipient and no passphrase. "
            "Give public keys in encryption.recipients, or encryption.passphrase."
        )


def _readers(slots: Sequence[KeySlot]) -> str:
    """For whom slots were made, for a message: ``0123456789abcdef, fedcba9876543210 and a passphrase``."""
    words = sorted({short_id(slot.recipient) for slot in slots if slot.kind is SlotKind.X25519})
    if any(slot.kind is SlotKind.PASSPHRASE for slot in slots):
        words.append("a passphrase")
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _what_opens(slots: Sequence[KeySlot]) -> str:
    kinds = {slot.kind for slot in slots}
    words = []
    if SlotKind.X25519 in kinds:
        words.append("the private key of one of them in encryption.identities")
    if SlotKind.PASSPHRASE in kinds:
        words.append("the passphrase in encryption.passphrase")
    return " or ".join(words)
