# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writing one backup into several repositories at once, so that in each it appears whole or not at all.

Order of writes in each repository: artefacts and key slots under hidden names, made durable; the manifest under a
hidden name, made durable; then all appear in this order, the manifest last. A repository that fails is left behind, and
the others go on: one full disk must not cost the copy on the other one.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from datetime import datetime
from types import TracebackType
from typing import Callable, Dict, List, Optional, Sequence, Tuple, Type

from .apiece import partly_done
from .crypto.signing import MANIFESTS, SIGNATURE, SLOTS, Signing
from .errors import BadInput, BadManifest, EngineError
from .generations import write_generation
from .interrupts import finish
from .manifest import MANIFEST_LIMIT, read_manifest, write_manifest
from .model import KeySlot, Manifest, Place
from .names import MANIFEST, slots_name
from .repositories.base import Repository, Writer


class Publication:
    """A backup that is being written. Leaving the context before ``publish`` removes all of it."""

    def __init__(
        self, repositories: Sequence[Repository], place: Place, signing: Signing, failures: Sequence[EngineError] = ()
    ) -> None:
        self._place, self._signing = place, signing
        self._stack = ExitStack()
        self._writers: Dict[Repository, List[Writer]] = {repository: [] for repository in repositories}
        self._names: List[str] = []
        #: Why repositories that were asked for do not, or do no longer, take part.
        self._failures: List[EngineError] = list(failures)

    def __enter__(self) -> Publication:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._stack.close()

    @property
    def repositories(self) -> List[str]:
        """The labels of the repositories that still take part."""
        return [repository.label for repository in self._writers]

    def begin(self, name: str) -> None:
        """Begin a file in every repository."""

        def create(repository: Repository) -> None:
            writer = self._stack.enter_context(repository.create(self._place, name))
            self._writers[repository].append(writer)

        self._names.append(name)
        self._each(create)

    def write(self, block: bytes) -> None:
        """Append to the file that was begun last."""
        self._each(lambda repository: self._writers[repository][-1].write(block))

    def finish(self) -> None:
        """Make the file that was begun last durable."""
        self._each(lambda repository: self._writers[repository][-1].finish())

    def add_slots(self, backup_id: str, slots: Sequence[KeySlot], time: datetime) -> str:
        """Write the first generation of the key slots, still hidden, where there are any; their SHA-256."""
        if not slots:
            return ""
        return self._add(slots_name(backup_id, 1), write_generation(backup_id, 1, time, slots), SLOTS)

    def describe(self, manifest: Manifest) -> str:
        """Write the manifest, still hidden; its SHA-256."""
        return self._add(manifest.id + MANIFEST, _readable(manifest), MANIFESTS)

    def _add(self, name: str, content: bytes, namespace: str) -> str:
        """Write a small file, and before it its signature where this host signs; its SHA-256."""
        signature = self._signing.sign(namespace, content)
        for file, held in ((name + SIGNATURE, signature), (name, content)):
            if held is not None:
                self.begin(file)
                self.write(held)
                self.finish()
        return hashlib.sha256(content).hexdigest()

    @property
    def taking_part(self) -> Tuple[Repository, ...]:
        """The repositories that still take part."""
        return tuple(self._writers)

    def publish(self, manifest: Manifest) -> None:
        """Let the backup appear. Raises PartlyDone when a repository failed on the way."""
        finish()
        self._each(lambda repository: self._commit(repository, manifest))
        if self._failures:
            raise partly_done(f"Backup {manifest.id} is", self.repositories, self._failures)

    def _commit(self, repository: Repository, manifest: Manifest) -> None:
        try:
            for writer in self._writers[repository]:
                writer.commit()
        except BaseException:
            # Its other files may be visible by now, and without this they would stay, unexplained by any mark.
            others = [name for name in self._names if name != manifest.id + MANIFEST]
            repository.remove_backup(self._place, manifest.id + MANIFEST, others)
            raise

    def _each(self, act: Callable[[Repository], None]) -> None:
        for repository in list(self._writers):
            try:
                act(repository)
            except EngineError as error:
                del self._writers[repository]
                self._failures.append(error)
        if not self._writers:
            raise self._failures[-1]


def _readable(manifest: Manifest) -> bytes:
    """The bytes of a manifest that can be read again: beyond the bounds of reading, it would be no backup."""
    content = write_manifest(manifest)
    try:
        if len(content) > MANIFEST_LIMIT:
            raise BadManifest(f"It would be larger than {MANIFEST_LIMIT} bytes.")
        read_manifest(content, "Its manifest")
    except BadManifest as error:
        raise BadInput(
            f"Backup {manifest.id} cannot be described: {error} Nothing was published. Where it has too many tables, "
            "take it with fingerprint none; otherwise please report this."
        ) from None
    return content
