# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every store of backups can do. One file a store stands beside this one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Collection, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from ..errors import EngineError
from ..model import Place, Space

#: What a small file holds, or why it could not be read.
Content = Union[bytes, EngineError]


class Entry(NamedTuple):
    """A file in a place: its name and its size in bytes. A link, directory or device is not ``regular``.

    ``version`` is another one whenever another file takes its place, or its bytes change by any way that goes through
    the store; empty where that cannot be said.
    """

    name: str
    bytes: int
    regular: bool = True
    version: str = ""


class Writer(ABC):
    """A file that is being written. Nobody sees it under its name before ``commit``.

    The bytes are durable when ``finish`` returns and visible when ``commit`` returns, so that several files can be made
    ready first and then appear in a chosen order. Leaving the context without ``commit`` removes them.
    """

    @abstractmethod
    def write(self, block: bytes) -> None:
        """Append a block. Raises NoSpace when the store is full."""

    @abstractmethod
    def finish(self) -> None:
        """Make what was written durable. Raises NoSpace, as some file systems say so only now."""

    @abstractmethod
    def commit(self) -> None:
        """Make the file visible under its name, durably."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file; what was not committed is removed."""


class Reader(ABC):
    """A stored file that is being read from its beginning."""

    @abstractmethod
    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; empty at the end."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""


class Repository(ABC):
    """A store of backups, laid out ``<host>/<engine>/<database>/<file>``.

    Methods raise RepositoryUnusable when the store itself is at fault, NotFound for a file that is not there, and
    PermissionDenied and NoSpace for what they say. Names are single components; a link is never followed.
    """

    #: What messages call this repository; holds no secret.
    label: str

    @abstractmethod
    def check(self, writing: bool) -> None:
        """Raise unless the repository is there and can be read, and where asked for also written. Changes nothing."""

    @abstractmethod
    def places(self) -> Iterator[Place]:
        """All directories that can hold backups."""

    @abstractmethod
    def entries(self, place: Place) -> List[Entry]:
        """The visible files of a place in the order of their names; none where the place does not exist.

        What is written or removed while this lists may be in the list or not, each file by itself. So a list alone says
        nothing of what is missing: ask for that by name (``stat``).
        """

    @abstractmethod
    def stat(self, place: Place, name: str) -> Optional[Entry]:
        """One file as it is at this moment; None where there is none of this name."""

    @abstractmethod
    def in_motion(self, place: Place, backup: str) -> bool:
        """Whether a backup is being written or removed, or a crash interrupted that so that ``tidy`` will end it."""

    @abstractmethod
    def clock(self, place: Place) -> Optional[datetime]:
        """The time by the store's own clock, where it tells that; what is written for it is gone afterwards."""

    @abstractmethod
    def create(self, place: Place, name: str) -> AbstractContextManager[Writer]:
        """Begin a new file. The name is taken from now on: a second writer of it gets TargetExists."""

    @abstractmethod
    def open(self, place: Place, name: str) -> AbstractContextManager[Reader]:
        """Begin to read a file."""

    @abstractmethod
    def read_all(self, place: Place, names: Sequence[str], limit: int) -> Iterator[Tuple[str, Content]]:
        """Small files whole, each with its name; the error in place of one that cannot be read.

        One that is longer than ``limit`` bytes is Damaged. Many are asked for at once, since a store may be far away.
        """

    def read(self, place: Place, name: str, limit: int) -> bytes:
        """One small file whole. Raises what ``read_all`` returns."""
        ((_name, content),) = self.read_all(place, [name], limit)
        if isinstance(content, EngineError):
            raise content
        return content

    def store(self, place: Place, name: str, content: bytes) -> None:
        """Write a small new file. Raises what ``create`` and its writer raise."""
        with self.create(place, name) as writer:
            writer.write(content)
            writer.finish()
            writer.commit()

    @abstractmethod
    def discard(self, place: Place, names: Sequence[str]) -> None:
        """Remove files that no backup needs. One that is not there is none to be removed."""

    @abstractmethod
    def remove_backup(self, place: Place, manifest: str, others: List[str]) -> None:
        """Remove a backup: first its manifest, then its other files. What a crash leaves, ``tidy`` removes."""

    @abstractmethod
    def tidy(self, place: Place, dry_run: bool, spared: Collection[str] = ()) -> List[str]:
        """Remove what a crash left over in a place, and nothing that a living process writes; the names removed.

        Of the backups that are ``spared``, everything stays, whatever marks say of them.
        """

    @abstractmethod
    def space(self) -> Optional[Space]:
        """Its space, or None where the store has no limit."""
