# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading a backup back: check its stored bytes, decrypt, decompress, load, and compare with what was backed up."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Iterator, Optional, Union

from .cipher import Stage, explain_opening
from .command import Channel, Command
from .databases.base import Engine, Staging, differing
from .errors import Damaged, EngineError, Mismatch, ToolFailed, Unverifiable, WrongKey
from .model import Artefact, Backup, Encryption, Manifest
from .repositories.base import Repository
from .state import Progress
from .stream.compression import beginning, decompressing
from .stream.pipe import BLOCK, OtherFormat, Pipe, TooLong


def check_checksum(repository: Repository, backup: Backup, progress: Progress) -> None:
    """Raise Damaged unless every artefact's stored bytes have the manifest's SHA-256."""
    for artefact in backup.manifest.artefacts:
        progress.stage("checksum", artefact.bytes)
        digest = hashlib.sha256()
        for block in _stored(repository, backup, artefact):
            digest.update(block)
            progress.advance(len(block))
        _compare_digest(repository, backup, artefact, digest.hexdigest())


def load(
    repository: Repository,
    backup: Backup,
    artefact: Artefact,
    stage: Stage,
    target: Union[Command, Channel, Path],
    engine: Engine,
    progress: Progress,
    check: bool = True,
) -> None:
    """Bring an artefact's plain bytes into a program or a file, and fail unless all of them arrived unchanged.

    With ``check``, the stored bytes are digested again on the way: what was checked before may have changed since.
    """
    progress.stage("load", artefact.bytes)
    digest = hashlib.sha256()
    with Pipe(f"Loading {artefact.name}") as pipe:
        try:
            entrance, descriptor = pipe.entrance()
            descriptor = pipe.through(stage.command, descriptor)
            descriptor = pipe.begun(descriptor, beginning(artefact.compression))
            descriptor = pipe.through(decompressing(artefact.compression), descriptor)
            descriptor, plain = pipe.counted(descriptor, artefact.plain_bytes)
            pipe.into(target, descriptor)
            for block in _stored(repository, backup, artefact):
                digest.update(block)
                progress.advance(len(block))
                if not pipe.feed(entrance, stage.transform.update(block) if stage.transform else block):
                    break
            else:
                # The last segment is authenticated here: a stream that was cut at a segment's end is found now.
                pipe.feed(entrance, stage.transform.finish() if stage.transform else b"")
            pipe.end(entrance)
            pipe.wait()
        except ToolFailed as failure:
            raise engine.explain(explain_opening(failure, artefact)) from None
        except TooLong:
            raise _not_what_it_says(artefact, f"more than {artefact.plain_bytes} bytes") from None
        except OtherFormat:
            raise _not_what_it_says(artefact, f"something else than {artefact.compression.value} writes") from None
    if check:
        _compare_digest(repository, backup, artefact, digest.hexdigest())
    if plain.count != artefact.plain_bytes:
        raise _not_what_it_says(artefact, f"{plain.count} bytes instead of {artefact.plain_bytes}")


def _not_what_it_says(artefact: Artefact, holds: str) -> EngineError:
    """The error for an artefact that holds other bytes, or another number of them, than its manifest says."""
    if artefact.encryption is Encryption.AES256_CBC:
        # Now and then a wrong key makes noise that ends like a whole file.
        return WrongKey(f"{artefact.name} does not open with this passphrase. Check encryption.passphrase.")
    return Damaged(f"{artefact.name} holds {holds}. Restore another backup.")


def check_staged(staging: Staging, manifest: Manifest, progress: Progress) -> None:
    """Raise Mismatch unless the copy is sound and holds what was backed up.

    What cannot be known raises Unverifiable, but only after all that can be known was found right.
    """
    unknown: Optional[Unverifiable] = None
    progress.stage("integrity")
    try:
        staging.check_integrity()
    except Unverifiable as error:
        unknown = error
    if manifest.fingerprint is not None:
        progress.stage("fingerprint")
        differences = manifest.fingerprint.differences(staging.fingerprint(manifest.fingerprint))
        if differences:
            raise Mismatch(differing(differences, f"{staging.label} is not what {manifest.id} was taken of"))
        if manifest.fingerprint.undigested and unknown is None:
            tables = differing(manifest.fingerprint.undigested, "no digest was made of")
            unknown = Unverifiable(f"{manifest.id}: {tables}. Their rows were counted, and the count is right.")
    elif unknown is None:
        unknown = Unverifiable(
            f"{manifest.id} has no fingerprint, so what came back cannot be compared with what was backed up. "
            "Take backups with fingerprint counts or digest."
        )
    if unknown:
        raise unknown


def _stored(repository: Repository, backup: Backup, artefact: Artefact) -> Iterator[bytes]:
    """An artefact's stored bytes, and no more of them than its manifest says."""
    left = artefact.bytes
    with repository.open(backup.place, artefact.name) as reader:
        while True:
            block = reader.read(BLOCK)
            left -= len(block)
            if left < 0:
                raise Damaged(
                    f"{repository.label}/{backup.place.path}/{artefact.name} holds more than the {artefact.bytes} "
                    "bytes of its manifest. Restore this backup from another repository, or another backup."
                )
            if not block:
                return
            yield block


def _compare_digest(repository: Repository, backup: Backup, artefact: Artefact, found: str) -> None:
    if found != artefact.sha256:
        raise Damaged(
            f"{repository.label}/{backup.place.path}/{artefact.name} is damaged: its SHA-256 is {found[:16]}… "
            f"instead of {artefact.sha256[:16]}…. Restore this backup from another repository, or another backup."
        )
