# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Changing who can read backups: writes new key slots, removes the old ones, and leaves every artefact alone."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import Enum
from itertools import count
from typing import List, Optional, Sequence, Tuple

from . import keys
from .apiece import Apiece
from .catalogue import read_place, unchanged, whole
from .cipher import opened, opened_with
from .crypto.signing import SIGNATURE, SLOTS
from .errors import BadInput, BadManifest, Locked, PartlyDone, Refused
from .generations import LAST_GENERATION, write_generation
from .interrupts import interruptible
from .memory import recall, remember
from .model import Artefact, Backup, Encryption, EncryptionSettings, KeySlot, Place, SlotKind
from .names import MANIFEST, id_of_file, parse_slots_name, safe_name, slots_name
from .repositories.base import Repository
from .small_files import store
from .state import Host, audit, audit_failure, locked
from .text import shortened

#: A recipient's id, or so much of its beginning that it stands for no other one.
_RECIPIENT_ID = re.compile("[0-9a-f]{16,64}")


class SlotChange(Enum):
    """What is to be true of the slots of each backup."""

    #: Each recipient has a slot; others keep theirs.
    INCLUDE = "include"
    #: The recipients, and the passphrase where one is given, have the only slots.
    EXACTLY = "exactly"
    #: The named slots are gone.
    EXCLUDE = "exclude"


@dataclass(frozen=True)
class RekeyRequest:
    """Which backups to change, and how.

    ``encryption`` names the recipients, and the identities or passphrase that open the data keys. ``slots`` are the ids
    of recipients to exclude, an empty one for the passphrase; with ``destroy``, a backup may lose its last one.
    """

    repositories: Tuple[Repository, ...]
    change: SlotChange
    encryption: EncryptionSettings
    source_host: str
    engine: Optional[str] = None
    database: Optional[str] = None
    slots: Tuple[str, ...] = ()
    destroy: bool = False
    lock_timeout: float = 60.0


@dataclass(frozen=True)
class Rekeyed:
    """One backup: who could read it and who can. ``reason`` says why it was left alone although it was asked for."""

    repository: str
    backup: Backup
    slots: Tuple[KeySlot, ...]
    reason: str = ""

    @property
    def changed(self) -> bool:
        # As long as there are older slots, a key that they are for still opens it.
        return self.slots != self.backup.key_slots or len(self.backup.generations) > 1


def plan_rekeying(request: RekeyRequest, host: Host) -> Tuple[Rekeyed, ...]:
    """What a run would change. Changes nothing; raises what a run would raise."""
    _check_request(request, host)
    planned: List[Rekeyed] = []
    apiece = Apiece()
    for repository, place in _places(request, apiece):
        planned += _plan(request, host, repository, place, apiece)
    return _concluded(planned, apiece, "would be")


def rekey(request: RekeyRequest, host: Host) -> Tuple[Rekeyed, ...]:
    """Rewrite the slots of every backup whose slots can be changed.

    Each backup is for itself: one that another planted or damaged must not keep a withdrawn key in all others. Raises
    PartlyDone, which names the backups that are as they were, and the error itself where that is all.
    """
    _check_request(request, host)
    done, apiece = [], Apiece()
    with interruptible():
        for repository, place in _places(request, apiece):
            with apiece.trying(f"{repository.label}/{place.path}"), locked(host, place.path, request.lock_timeout):
                # All are planned before the first is written: a place in which none can be changed stays as it is.
                for item in _plan(request, host, repository, place, apiece):
                    with apiece.trying(_name(repository, item.backup)):
                        if item.changed:
                            _write(request, host, repository, item)
                        done.append(item)
    return _concluded(done, apiece, "are")


def _concluded(done: Sequence[Rekeyed], apiece: Apiece, how: str) -> Tuple[Rekeyed, ...]:
    if apiece.failures and not done:
        raise apiece.failures[0]
    if apiece.failures:
        changed = sum(item.changed for item in done)
        raise PartlyDone(
            f"The key slots of {changed} backups {how} changed, and {len(done) - changed} have the right ones, but not "
            f"everywhere; withdrawn keys still open what is not changed: {' '.join(shortened(apiece.sentences))}"
        )
    return tuple(done)


def _plan(
    request: RekeyRequest, host: Host, repository: Repository, place: Place, apiece: Apiece
) -> Tuple[Rekeyed, ...]:
    """The change of each backup of a place that can be changed."""
    planned: List[Rekeyed] = []
    with apiece.trying(f"{repository.label}/{place.path}"):
        catalogue = read_place(host, repository, place)
        for backup in catalogue.backups:
            with apiece.trying(_name(repository, backup)):
                planned.append(_rekey(request, repository, backup))
        listed = {backup.id for backup in catalogue.backups}
        for problem in catalogue.problems:
            is_manifest = problem.name.endswith(MANIFEST) and id_of_file(problem.name) not in listed
            if is_manifest and repository.stat(place, problem.name):
                hint = "Its key slots cannot be changed; mend or remove it, and run this again."
                apiece.add(BadManifest(f"{problem.reason} {hint}"))
    return tuple(planned)


def _name(repository: Repository, backup: Backup) -> str:
    """What a failure calls a backup."""
    foreign = ", which was not written by this host" if backup.foreign else ""
    return f"{repository.label}/{backup.place.path}/{backup.id}{foreign}"


def _write(request: RekeyRequest, host: Host, repository: Repository, item: Rekeyed) -> None:
    backup, place = item.backup, item.backup.place
    facts = {
        "id": backup.id,
        "repository": repository.label,
        "change": request.change.value,
        "opened_with": opened_with(request.encryption, backup),
        "before": readers(backup.key_slots),
        "after": readers(item.slots),
    }
    audit(host, "rekey", place.path, "changing", facts)
    try:
        # The slots were made for the manifest that was listed.
        unchanged(repository, backup)
        replaced = _slots_files(repository, backup)
        number = _next_generation(backup, replaced)
        content = write_generation(backup.id, number, host.now(), item.slots)
        store(host, repository, place, slots_name(backup.id, number), content, SLOTS)
        repository.discard(place, replaced)
        # Who may read it says nothing of who wrote it: what this host does not know, or not like this, stays so.
        known = recall(host, repository, place).get(backup.id)
        if known and known.digest == backup.digest:
            digest = hashlib.sha256(content).hexdigest()
            remember(host, repository, place, backup.id, known._replace(slots=digest))
    except BaseException as error:
        audit_failure(host, "rekey", place.path, error, {"id": backup.id, "repository": repository.label})
        raise


def _slots_files(repository: Repository, backup: Backup) -> List[str]:
    """All files with key slots of a backup. Raises Locked where those that were listed are not among them any more."""
    names = [entry.name for entry in repository.entries(backup.place)]
    found = [name for name in names if _slots_of(name) == backup.id]
    if {slots_name(backup.id, one.number) for one in backup.generations} - set(found):
        raise Locked(f"The key slots of {backup.id} were changed while this worked on them. Run this again.")
    return found


def _slots_of(name: str) -> Optional[str]:
    """The id of the backup whose key slots, or their signature, a file has."""
    parsed = parse_slots_name(name[: -len(SIGNATURE)] if name.endswith(SIGNATURE) else name)
    return parsed[0] if parsed else None


def _next_generation(backup: Backup, names: Sequence[str]) -> int:
    """The number of the next key slots: above that of the newest, unless somebody has used the numbers up."""
    newest = backup.generations[0].number
    numbers = count(newest + 1 if newest < LAST_GENERATION else 1)
    taken = {name[: -len(SIGNATURE)] if name.endswith(SIGNATURE) else name for name in names}
    return next(number for number in numbers if slots_name(backup.id, number) not in taken)


def _rekey(request: RekeyRequest, repository: Repository, backup: Backup) -> Rekeyed:
    backup = whole(repository, backup)
    manifest = backup.manifest
    if not manifest.is_encrypted_with(Encryption.AES256_GCM):
        reason = f"It is encrypted with {manifest.main.encryption.value}, which has no key slots."
        return Rekeyed(repository.label, backup, backup.key_slots, reason)
    if request.change is SlotChange.EXCLUDE:
        return _without(request, repository, backup)
    slots: List[KeySlot] = []
    for artefact in manifest.artefacts:
        slots += _wrapped(request, backup, artefact)
    return Rekeyed(repository.label, backup, tuple(slots))


def _without(request: RekeyRequest, repository: Repository, backup: Backup) -> Rekeyed:
    everywhere = [slot for generation in backup.generations for slot in generation.slots]
    gone = [wanted for wanted in request.slots if any(_stands_for(wanted, slot.recipient) for slot in everywhere)]
    others = [slot for slot in everywhere if not any(_stands_for(wanted, slot.recipient) for wanted in gone)]
    unknown = ", ".join(wanted or SlotKind.PASSPHRASE.value for wanted in request.slots if wanted not in gone)
    # Removed before, or misspelt: whoever shuts somebody out has to know which.
    reason = f"It has no slot for {unknown}; it is for {', '.join(readers(backup.key_slots))}." if unknown else ""
    if request.destroy and not others:
        return Rekeyed(repository.label, backup, (), reason)
    present = backup.key_slots
    if len(backup.generations) > 1:
        # Anybody can have written the newest ones. Only those that open it may be all that is left.
        present = opened(request.encryption, backup, backup.manifest.main)[1].slots
    gone = [wanted for wanted in gone if any(_stands_for(wanted, slot.recipient) for slot in present)]
    left = keys.without(present, gone, request.destroy) if gone else present
    if gone and not request.destroy:
        left = _known_to_open(request, backup, left)
    return Rekeyed(repository.label, backup, left, reason)


def _wrapped(request: RekeyRequest, backup: Backup, artefact: Artefact) -> Tuple[KeySlot, ...]:
    """An artefact's new slots, of which none is kept that is not known to open: each comes from the data key itself."""
    settings = request.encryption
    recipients = keys.load_recipients(settings.recipients)
    data_key, generation = opened(settings, backup, artefact)
    origin = backup.manifest.origin(artefact.name)
    if request.change is SlotChange.EXACTLY:
        return keys.rewrap(generation.slots, origin, data_key, recipients, settings.passphrase)
    return keys.included(generation.slots, origin, data_key, recipients)


def _known_to_open(request: RekeyRequest, backup: Backup, left: Sequence[KeySlot]) -> Tuple[KeySlot, ...]:
    """The slots that are left and authentic. Raises Refused where an artefact would have none, and NoKey without a key.

    Otherwise garbage under somebody's id could be all that is left, and nobody could ever read the backup again.
    """
    known: List[KeySlot] = []
    for artefact in backup.manifest.artefacts:
        found = keys.authentic(left, artefact.name, opened(request.encryption, backup, artefact)[0])
        if not found:
            raise Refused(
                f"Cannot remove these slots of {artefact.name}: none of the others opens it, so nobody could ever read "
                "it again. Add another recipient first, or ask for its keys to be destroyed."
            )
        known += found
    return tuple(known)


def _places(request: RekeyRequest, apiece: Apiece) -> List[Tuple[Repository, Place]]:
    def is_wanted(place: Place) -> bool:
        return (
            place.host == safe_name(request.source_host)
            and request.engine in (None, place.engine)
            and (request.database is None or place.database == safe_name(request.database))
        )

    return apiece.places(request.repositories, is_wanted)


def _check_request(request: RekeyRequest, host: Host) -> None:
    host.signing.require_able(safe_name(request.source_host), SLOTS, host.now())
    if request.change is SlotChange.EXCLUDE:
        if not request.slots:
            raise BadInput("There is no slot to remove. Name recipients' ids in slots; backup_info lists them.")
        for slot in request.slots:
            if slot and not _RECIPIENT_ID.fullmatch(slot):
                raise BadInput(
                    f'slots: "{slot}" is neither a recipient\'s id, nor its first 16 digits or more, nor "passphrase". '
                    "backup_info lists the recipients of each backup."
                )
    elif not request.encryption.recipients:
        raise BadInput("There is no recipient to give a slot to. Name public keys in encryption.recipients.")


def _stands_for(wanted: str, recipient: str) -> bool:
    return recipient.startswith(wanted) if wanted else recipient == ""


def readers(slots: Tuple[KeySlot, ...]) -> List[str]:
    """Who can read a backup with these slots: ids of recipients, and "passphrase"."""
    return sorted({slot.recipient or slot.kind.value for slot in slots})
