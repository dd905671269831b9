# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Changing who can read backups: rewrites the key slots in manifests and leaves every artefact's bytes alone."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import Enum
from typing import List, Optional, Sequence, Tuple

from . import keys
from .apiece import Apiece
from .catalogue import read_place, unchanged, whole
from .cipher import data_key_of, opened_with
from .errors import BadInput, BadManifest, PartlyDone, Refused
from .interrupts import interruptible
from .manifest import facts_digest, with_key_slots
from .memory import recall, remember
from .model import Artefact, Backup, Encryption, EncryptionSettings, KeySlot, Manifest, Place, SlotKind
from .names import MANIFEST, id_of_file, safe_name
from .repositories.base import Repository
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
        return self.slots != self.backup.manifest.key_slots


def plan_rekeying(request: RekeyRequest, host: Host) -> Tuple[Rekeyed, ...]:
    """What a run would change. Changes nothing; raises what a run would raise."""
    _check_request(request)
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
    _check_request(request)
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
    manifest, place = item.backup.manifest, item.backup.place
    facts = {
        "id": manifest.id,
        "repository": repository.label,
        "change": request.change.value,
        "opened_with": opened_with(request.encryption, manifest),
        "before": readers(manifest.key_slots),
        "after": readers(item.slots),
    }
    audit(host, "rekey", place.path, "changing", facts)
    name = manifest.id + MANIFEST
    try:
        # The slots were made for the manifest that was listed: another one would come out with a right checksum.
        changed = with_key_slots(
            unchanged(repository, item.backup), item.slots, f"{repository.label}/{place.path}/{name}"
        )
        repository.replace(place, name, changed)
        # Who may read it says nothing of who wrote it: what this host does not know, or not like this, stays so.
        known = recall(host, repository, place).get(manifest.id)
        if known and known.facts == facts_digest(changed, f"{repository.label}/{place.path}/{name}"):
            remember(host, repository, place, manifest.id, known._replace(digest=hashlib.sha256(changed).hexdigest()))
    except BaseException as error:
        audit_failure(host, "rekey", place.path, error, {"id": manifest.id, "repository": repository.label})
        raise


def _rekey(request: RekeyRequest, repository: Repository, backup: Backup) -> Rekeyed:
    backup = whole(repository, backup)
    manifest = backup.manifest
    if not manifest.is_encrypted_with(Encryption.AES256_GCM):
        reason = f"It is encrypted with {manifest.main.encryption.value}, which has no key slots."
        return Rekeyed(repository.label, backup, manifest.key_slots, reason)
    if request.change is SlotChange.EXCLUDE:
        present = {slot.recipient for slot in manifest.key_slots}
        gone = [wanted for wanted in request.slots if any(_stands_for(wanted, found) for found in present)]
        left = keys.without(manifest.key_slots, gone, request.destroy) if gone else manifest.key_slots
        if gone and not request.destroy:
            left = _known_to_open(request, manifest, left)
        unknown = ", ".join(wanted or SlotKind.PASSPHRASE.value for wanted in request.slots if wanted not in gone)
        # Removed before, or misspelt: whoever shuts somebody out has to know which.
        reason = f"It has no slot for {unknown}; it is for {', '.join(readers(manifest.key_slots))}." if unknown else ""
        return Rekeyed(repository.label, backup, left, reason)
    slots: List[KeySlot] = []
    for artefact in manifest.artefacts:
        slots += _wrapped(request, manifest, artefact)
    return Rekeyed(repository.label, backup, tuple(slots))


def _wrapped(request: RekeyRequest, manifest: Manifest, artefact: Artefact) -> Tuple[KeySlot, ...]:
    """An artefact's new slots, of which none is kept that is not known to open: each comes from the data key itself."""
    settings = request.encryption
    recipients = keys.load_recipients(settings.recipients)
    data_key, origin = data_key_of(settings, manifest, artefact), manifest.origin(artefact.name)
    if request.change is SlotChange.EXACTLY:
        return keys.rewrap(manifest.key_slots, origin, data_key, recipients, settings.passphrase)
    return keys.included(manifest.key_slots, origin, data_key, recipients)


def _known_to_open(request: RekeyRequest, manifest: Manifest, left: Sequence[KeySlot]) -> Tuple[KeySlot, ...]:
    """The slots that are left and authentic. Raises Refused where an artefact would have none, and NoKey without a key.

    Otherwise garbage under somebody's id could be all that is left, and nobody could ever read the backup again.
    """
    known: List[KeySlot] = []
    for artefact in manifest.artefacts:
        found = keys.authentic(left, artefact.name, data_key_of(request.encryption, manifest, artefact))
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


def _check_request(request: RekeyRequest) -> None:
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
