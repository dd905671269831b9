# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What this host remembers of backups, by place and repository: which it wrote or read, and how it judged them.

Anybody who can write to a repository can write backups and proofs there, and with the public key they read well. So
retention decides on what the host itself wrote, as its own state says, and never on what it only read. A backup that
vanished or was changed is noticed either way.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Collection, Dict, Mapping, Tuple

from .errors import Damaged, NoSpace, PermissionDenied
from .host.small import read_small
from .model import Place, Proof, Remembered
from .names import order_of
from .proofs import proof_document, read_proof, with_proof
from .repositories.base import Repository
from .shapes import Fields, Misshapen, boolean, mapping, parse, sequence, text
from .state import Host, locked

#: By the id of the backup.
Memory = Mapping[str, Remembered]
#: How long another process of this host may take to write what it remembers, in seconds.
_PATIENCE = 60.0
#: What is remembered of 100,000 backups is not larger, in bytes.
_LARGEST = 256 << 20


def recall(host: Host, repository: Repository, place: Place) -> Memory:
    """What this host remembers of a place in a repository. Raises Damaged, and PermissionDenied."""
    return _load(_path(host, place)).get(repository.label, {})


def remember(host: Host, repository: Repository, place: Place, backup_id: str, what: Remembered) -> None:
    """Remember a backup from now on."""
    _change(host, repository, place, lambda known: {**known, backup_id: what})


def remember_proof(host: Host, repository: Repository, place: Place, backup_id: str, proof: Proof) -> None:
    """Remember how this host judged a backup that it knows."""

    def judge(known: Memory) -> Memory:
        what = known.get(backup_id)
        return {**known, backup_id: what._replace(proofs=with_proof(what.proofs, proof))} if what else known

    _change(host, repository, place, judge)


def remember_read(host: Host, repository: Repository, place: Place, backup_id: str, what: Remembered) -> None:
    """Remember a backup that this host read to its end. Whether it is this host's own stays as it was."""

    def read(known: Memory) -> Memory:
        before = known.get(backup_id)
        if before and before.digest != what.digest:
            return known
        return {**known, backup_id: before._replace(slots=what.slots) if before else what}

    _change(host, repository, place, read)


def dismiss(host: Host, repository: Repository, place: Place, backups: Collection[str]) -> None:
    """Note that this host is about to remove these backups, so that it does not miss them."""
    _change(
        host,
        repository,
        place,
        lambda known: {k: v._replace(leaving=v.leaving or k in backups) for k, v in known.items()},
    )


def forget(host: Host, repository: Repository, place: Place, backups: Collection[str]) -> None:
    """Remember these backups no longer."""
    _change(host, repository, place, lambda known: {k: v for k, v in known.items() if k not in backups})


def adopt(host: Host, repository: Repository, place: Place, backups: Mapping[str, Remembered]) -> None:
    """Remember exactly these backups of a place."""
    _change(host, repository, place, lambda known: backups)


def writes(memory: Memory) -> bool:
    """Whether this host itself takes the backups of a place, so that others there are not expected. Pure."""
    return any(what.written and not (what.safety or what.pending) for what in memory.values())


def expected(memory: Memory) -> Tuple[str, ...]:
    """The ids of the backups that this host counts on finding in a place, oldest first. Pure.

    What it only read counts where it has nothing of its own: otherwise a forger's backup could stand for the newest.
    """
    here = {backup: what for backup, what in memory.items() if not (what.safety or what.pending or what.leaving)}
    own = [backup for backup, what in here.items() if what.own]
    return tuple(sorted(own or here, key=order_of))


def _path(host: Host, place: Place) -> Path:
    return host.state / "known" / f"{place.path.replace('/', '+')}.json"


def _change(host: Host, repository: Repository, place: Place, change: Callable[[Memory], Memory]) -> None:
    path = _path(host, place)
    with locked(host, f"known/{place.path}", _PATIENCE):
        everything = _load(path)
        before = everything.get(repository.label, {})
        after = change(before)
        if after == before:
            return
        _store(path, {**everything, repository.label: after})


def _store(path: Path, everything: Mapping[str, Memory]) -> None:
    document = {
        label: {backup_id: _document(what) for backup_id, what in known.items()}
        for label, known in everything.items()
        if known
    }
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(json.dumps(document, indent=1).encode("ascii"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(str(temporary), str(path))
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        kind = NoSpace if error.errno == 28 else PermissionDenied
        raise kind(
            f"{path} cannot be written: {error.strerror}. Check the disk and the mode of its directory."
        ) from None


def _load(path: Path) -> Dict[str, Memory]:
    try:
        content = read_small(path, _LARGEST)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise PermissionDenied(f"{path} cannot be read: {error.strerror}. Check the disk and its mode.") from None
    try:
        return {label: dict(known) for label, known in _SHAPE(parse(content)).items()}
    except Misshapen as error:
        raise Damaged(
            f"{path}: {error}. This host no longer knows which backups are its own: remove that file, and rotate once "
            "with adopt."
        ) from None


def _document(what: Remembered) -> Dict[str, Any]:
    return {
        "sha256": what.digest,
        "slots": what.slots,
        "safety": what.safety,
        "pending": what.pending,
        "written": what.written,
        "adopted": what.adopted,
        "leaving": what.leaving,
        "proofs": [proof_document(proof) for proof in what.proofs],
    }


def _read(value: Any) -> Remembered:
    fields = Fields(value)
    return Remembered(
        fields.take("sha256", text(64)),
        fields.take("slots", text(64)),
        fields.take("safety", boolean),
        fields.take("pending", boolean),
        fields.take("proofs", sequence(read_proof, 10)),
        fields.take("written", boolean),
        fields.take("adopted", boolean),
        fields.take("leaving", boolean),
    )


_SHAPE = mapping(mapping(_read, 100_000), 1_000, names=5_000)
