# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every database engine can do. One file an engine stands beside this one.

An engine says what there is, gives a consistent snapshot to dump, and stages a dump beside its target until it is
known to be good. It runs no pipe and knows no repository: it hands out commands and descriptors, and a verb joins them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, ClassVar, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

from ..command import Channel, Command
from ..errors import BadInput, EngineError, Stopped
from ..model import Fingerprint, FingerprintKind, Manifest, Scratch

#: Where a dump comes from or goes to: a program's standard output or input, a child's end of a pipe, or a file.
Stream = Union[Command, Channel, Path]


#: Backs up the database that is about to be replaced, or was; it gets the name that it has now, None for its own.
Save = Callable[[Optional[str]], None]


class Inspection(NamedTuple):
    """What is known of a database before anything is done to it. ``bytes`` is its size on its server or disk.

    ``source`` tells it from another one of the same name: the system identifier of its server, or its file's device and
    inode; empty where that cannot be known.
    """

    exists: bool
    bytes: int
    server_version: str
    source: str = ""


class DumpOptions(NamedTuple):
    """What a dump shall hold. ``timeout`` is how long to wait for a lock on the database, in seconds."""

    fingerprint: FingerprintKind
    globals: bool = False
    exclude_tables: Tuple[str, ...] = ()
    lock_timeout: float = 60.0


@dataclass(frozen=True)
class DumpFacts:
    """What the manifest records of the database that was dumped."""

    server_version: str
    tool_versions: Mapping[str, str]
    opaque: bool = False
    properties: Mapping[str, Any] = field(default_factory=dict)
    warnings: Tuple[str, ...] = ()
    source: str = ""


class Snapshot(ABC):
    """A database as it was at one moment, held still until it is dumped."""

    facts: DumpFacts
    #: What to read the dump from.
    dump: Stream
    #: What to read roles and tablespaces from, where that was asked for.
    globals: Optional[Command] = None
    #: What could not be checked or counted of it, known once ``fingerprint`` has returned.
    doubts: Tuple[str, ...] = ()

    @abstractmethod
    def fingerprint(self) -> Optional[Fingerprint]:
        """Count the tables on this very snapshot; None where nothing can be counted.

        It is called once, from another thread than the one that holds the snapshot, while the dump is read.
        """

    def conclude(self) -> None:
        """To be called when all is dumped and counted. Raises Contended where both may not be of the same moment."""
        return

    @abstractmethod
    def cancel_fingerprint(self) -> None:
        """Make a running ``fingerprint`` end soon, with any error: its result is no longer wanted. From any thread."""


class Loading(ABC):
    """Where something that was dumped is to be written."""

    #: What to write it into.
    load: Stream

    @abstractmethod
    def loaded(self) -> None:
        """To be called when all of it is written: takes it in, or makes it durable and fit to be queried."""


class Staging(Loading):
    """A place beside the target into which a dump is loaded, checked, and from which it is promoted."""

    #: How messages name the staged copy.
    label: str
    #: What the user has to know of the copy, or to do before it serves, a sentence each. Complete once it is loaded.
    notes: Tuple[str, ...] = ()
    #: What could not be restored, a line about each object; see ``Engine.stage``. Complete once it is loaded.
    missing: Tuple[str, ...] = ()
    #: Why what was replaced could not be saved; it is then kept.
    unsaved: Optional[BaseException] = None

    @abstractmethod
    def check_integrity(self) -> None:
        """Ask the engine whether the copy is sound. Raises Mismatch, or Unverifiable where that cannot be known."""

    @abstractmethod
    def fingerprint(self, like: Fingerprint) -> Fingerprint:
        """Count the copy as ``like`` was counted. Raises Unverifiable where that cannot be done."""

    @abstractmethod
    def query(self, sql: str) -> List[Tuple[Any, ...]]:
        """All rows of a read-only query on the copy. Raises Mismatch when the query fails."""

    def saved(self, save: Save, name: str) -> bool:
        """Back up what was replaced, under the name that it has now; False where that fails, and why in ``unsaved``."""
        try:
            save(name)
        except (EngineError, Stopped) as error:
            self.unsaved = error
            return False
        return True

    @abstractmethod
    def promote(self, replace: bool, keep_replaced: bool, save: Optional[Save] = None) -> Optional[str]:
        """Put the copy in the target's place at once and wholly, or raise and leave the target as it was.

        ``save`` backs up what is replaced. The engine calls it when no writer can reach that any more, so that every
        commit is in the backup or in the promoted database: while it keeps writers out before the swap, when an error
        of ``save`` leaves the target as it was; or after the swap, when the replaced database is kept until it is
        saved, and an error is in ``unsaved``. Returns the name under which the replaced database is kept, where it is.
        A signal stops it while it waits for users to let go, and not once it swaps: then it calls ``finish``.
        """


class Examination(ABC):
    """A dump that is read to its end."""

    load: Stream

    @abstractmethod
    def conclude(self) -> None:
        """Judge what was read. Raises Mismatch or Unverifiable."""


class Engine(ABC):
    """One kind of database."""

    #: What undoes the dump, as a file name's extension.
    extension: ClassVar[str]

    def explain(self, failure: EngineError) -> EngineError:
        """What the failure of one of this engine's own programs means; any other failure is returned as it is."""
        return failure

    def heard(self, name: str, said: str) -> List[str]:
        """The warnings in what one of this engine's own programs wrote while it succeeded."""
        return []

    def load_globals(self) -> AbstractContextManager[Loading]:
        """Bring roles and tablespaces back; those that exist already stay as they are."""
        raise BadInput("This kind of database has no roles and tablespaces. Leave globals out.")

    def examine_globals(self) -> AbstractContextManager[Loading]:
        """Judge roles and tablespaces once they are written into ``load``; nothing of them is brought back."""
        raise BadInput("This kind of database has no roles and tablespaces. Restore another backup.")

    def sweep(self, dry_run: bool) -> List[str]:
        """Remove what killed runs left beside the database, and nothing of a living one; the names removed."""
        return []

    @abstractmethod
    def inspect(self) -> Inspection:
        """Look at the database without changing a byte. Raises Unreachable, PermissionDenied, NotADatabase."""

    @abstractmethod
    def check_dump(self, options: DumpOptions) -> Inspection:
        """Raise unless a dump with these options can be expected to succeed. Changes nothing."""

    @abstractmethod
    def snapshot(self, options: DumpOptions) -> AbstractContextManager[Snapshot]:
        """Hold the database still (for readers: writers go on) and describe its dump."""

    @abstractmethod
    def check_restore(
        self,
        manifest: Manifest,
        replace: bool,
        owner: Optional[str],
        globals_first: bool = False,
        tolerant: bool = False,
    ) -> Inspection:
        """Raise unless this backup can be expected to restore here. Changes nothing.

        With ``globals_first``, roles and tablespaces that are missing now will have been brought back by then. Where
        ``tolerant``, what the server lacks for a single object is no reason.
        """

    @abstractmethod
    def stage(
        self, manifest: Manifest, owner: Optional[str], parallel: int, tolerant: bool = False
    ) -> AbstractContextManager[Staging]:
        """Make an empty copy beside the target; leaving the context removes it unless it was promoted.

        Where ``tolerant``, an object that cannot be restored is named in ``missing``, and the others are.
        """

    def check_scratch(self, allow_superuser: bool) -> None:
        """Raise Refused where a copy made here would give a backup's code a superuser's rights; unless it may."""
        raise BadInput("This kind of database has no server. Leave the login options of scratch out.")

    def rehearse(self, manifest: Manifest, scratch: Scratch) -> AbstractContextManager[Staging]:
        """Make an empty copy in a place of its own, in which the code of a backup can do no harm, and gone afterwards.

        Raises Unverifiable where there is no such place.
        """
        raise BadInput("This kind of database has no place of its own for that.")

    @abstractmethod
    def examine(self, manifest: Manifest) -> AbstractContextManager[Examination]:
        """Read a dump to its end and judge it, without a server. Leaves nothing behind."""


def differing(expected: Sequence[str], label: str, limit: int = 5) -> str:
    """Join differences for a message, the first few by name."""
    rest = f" and {len(expected) - limit} more" if len(expected) > limit else ""
    return f"{label}: " + "; ".join(expected[:limit]) + rest
