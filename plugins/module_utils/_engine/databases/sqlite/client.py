# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SQLite for the verbs: all that touches a database or its directory happens in a child (``servant``).

As root, the child becomes the owner of the database's directory, or who is named in ``become_user``. Here are only the
other ends of its pipes, and what it says of the database, which is as true as that account is honest.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from ...command import Channel
from ...errors import BadInput, Damaged, EngineError, ToolFailed, Unverifiable
from ...host.child import START, Child
from ...host.inside import Serve
from ...interrupts import finish
from ...model import Database, EngineName, Fingerprint, Manifest
from ...scratch import Purpose, unprivileged_directory
from ..base import DumpOptions, Engine, Examination, Inspection, Save, Snapshot, Staging
from . import servant
from .answers import (
    read_counted,
    read_facts,
    read_fingerprint,
    read_inspection,
    read_kept,
    read_rows,
    read_size,
    read_text,
    read_texts,
)
from .file import raise_os_error
from .lock import users_by_inode
from .servant import Target

#: How long to wait, in seconds, for a copy to take its place: it waits twice for others to let go of the database, and
#: writes its log and itself to the disk.
_PROMOTION = 300.0
#: How long a child that has stopped reading may take to say why.
_REASON = 30.0


class ClientSnapshot(Snapshot):
    """A copy that a child has made, on its way here."""

    def __init__(self, child: Child, channel: Channel) -> None:
        self.facts, size = read_facts(child.greeting())
        channel.connect(size, child.kill, child.verdict)
        self.dump = channel
        self.globals = None
        self._child = child

    def fingerprint(self) -> Optional[Fingerprint]:
        """Raises Damaged with what SQLite found, and ChildFailed."""
        found, self.doubts = read_counted(self._child.ask("fingerprint"))
        return found

    def cancel_fingerprint(self) -> None:
        self._child.abort()


class ClientStaging(Staging):
    """A copy that a child writes, checks and puts in its place."""

    def __init__(self, child: Child, channel: Channel, size: int, path: str) -> None:
        self.label = read_text(child.greeting(START))
        channel.connect(size, child.kill, child.verdict)
        self.load = channel
        self._child, self._size, self._path = child, size, path

    def loaded(self) -> None:
        """Raises Damaged where not all that was sent has arrived, and what went wrong in the child."""
        count = read_size(self._child.ask("loaded"))
        if count != self._size:
            raise Damaged(f"Of {self._size} bytes, {count} arrived in {self.label}. Run this again.")

    def check_integrity(self) -> None:
        try:
            self._child.ask("check_integrity")
        except Unverifiable:
            self.notes = read_texts(self._child.ask("notes"))
            raise
        self.notes = read_texts(self._child.ask("notes"))

    def fingerprint(self, like: Fingerprint) -> Fingerprint:
        return read_fingerprint(self._child.ask("fingerprint", like)) or Fingerprint(like.kind, {})

    def query(self, sql: str) -> List[Tuple[Any, ...]]:
        return read_rows(self._child.ask("query", sql))

    def promote(self, replace: bool, keep_replaced: bool, save: Optional[Save] = None) -> Optional[str]:
        keep = keep_replaced or save is not None
        name = read_kept(self._child.ask("promote", replace, keep, limit=_PROMOTION), os.path.basename(self._path))
        if name is None:
            return None
        kept = os.path.join(os.path.dirname(self._path), name)
        if save is not None and not self.saved(save, kept):
            return kept
        if keep_replaced:
            return kept
        self._child.ask("discard")
        return None


class ClientExamination(Examination):
    """A dump that an account without rights reads to its end."""

    def __init__(self, staging: ClientStaging) -> None:
        self.load = staging.load
        self._staging = staging

    def conclude(self) -> None:
        self._staging.loaded()
        self._staging.check_integrity()


class SqliteClient(Engine):
    """One SQLite file, at an absolute path; links on the way to it are followed."""

    extension = ".db"

    def __init__(self, database: Database) -> None:
        self._name = database.name
        self._target = Target(path_of(database.name), database.server.become_user)
        self._loading: Optional[Child] = None

    def sweep(self, dry_run: bool) -> List[str]:
        with self._looking() as child:
            return list(read_texts(child.ask("sweep", dry_run)))

    def inspect(self) -> Inspection:
        with self._looking() as child:
            return read_inspection(child.ask("inspect"))

    def check_dump(self, options: DumpOptions) -> Inspection:
        """Raises BadInput, NotFound, NotADatabase, PermissionDenied, and NoSpace where the copy would not fit."""
        with self._looking() as child:
            return read_inspection(child.ask("check_dump", options))

    @contextmanager
    def snapshot(self, options: DumpOptions) -> Iterator[Snapshot]:
        """Copy the database. Raises what ``check_dump`` raises, Locked after ``lock_timeout``, and Damaged."""
        with ExitStack() as stack:
            ours, theirs = os.pipe2(os.O_CLOEXEC)
            channel = Channel(ours)
            stack.callback(channel.close)
            child = stack.enter_context(self._child(servant.copy, (options, theirs), theirs))
            yield ClientSnapshot(child, channel)

    def check_restore(
        self,
        manifest: Manifest,
        replace: bool,
        owner: Optional[str],
        globals_first: bool = False,
        tolerant: bool = False,
    ) -> Inspection:
        """Raises TargetExists, NotFound (the directory), NotADatabase (it is a directory), BadInput, BadManifest,
        PermissionDenied and NoSpace. A target that is no database any more can be replaced: that is what restores are
        for. Whether somebody has it open is only known when it is replaced.
        """
        with self._looking() as child:
            return read_inspection(child.ask("check_restore", manifest, replace, owner))

    @contextmanager
    def stage(
        self, manifest: Manifest, owner: Optional[str], parallel: int, tolerant: bool = False
    ) -> Iterator[Staging]:
        """Make an empty file beside the target. ``parallel`` has no meaning for a file."""
        with self._staged(manifest, owner, tolerant) as staging:
            yield staging

    @contextmanager
    def examine(self, manifest: Manifest) -> Iterator[Examination]:
        """Read a dump in a private temporary directory (TMPDIR, else the system's), as root by the account that this
        engine was given, or the one for it."""
        with ExitStack() as stack:
            try:
                account = self._target.become_user
                directory = stack.enter_context(unprivileged_directory(Purpose.EXAMINATION, None, account))
            except OSError as error:
                raise_os_error(error, "Cannot make a temporary directory")
            engine = SqliteClient(Database(EngineName.SQLITE, str(directory / "dump")))
            # An error of loading is explained by this engine, which the verb knows.
            staging = stack.enter_context(engine._staged(manifest, None))
            self._loading = engine._loading
            yield ClientExamination(staging)

    def explain(self, failure: EngineError) -> EngineError:
        """Where a child stopped reading what is loaded, why it did."""
        if self._loading is None or not isinstance(failure, ToolFailed) or failure.name != Channel.NAME:
            return failure
        try:
            self._loading.ask("loaded", limit=_REASON)
        except EngineError as reason:
            return reason
        return failure

    @contextmanager
    def _staged(self, manifest: Manifest, owner: Optional[str], tolerant: bool = False) -> Iterator[ClientStaging]:
        with ExitStack() as stack:
            theirs, ours = os.pipe2(os.O_CLOEXEC)
            channel = Channel(ours)
            stack.callback(channel.close)
            answers: Dict[str, Callable[..., Any]] = {"users": users_by_inode, "finish": finish}
            arguments = (manifest, owner, tolerant, theirs)
            child = stack.enter_context(self._child(servant.stage, arguments, theirs, answers))
            self._loading = child
            yield ClientStaging(child, channel, manifest.main.plain_bytes, os.path.realpath(self._name))

    @contextmanager
    def _looking(self) -> Iterator[Child]:
        with self._child(servant.look) as child:
            child.greeting(START)
            yield child

    def _child(
        self,
        serve: Serve,
        arguments: Sequence[Any] = (),
        pipe: Optional[int] = None,
        answers: Optional[Mapping[str, Callable[..., Any]]] = None,
    ) -> Child:
        return Child(
            serve,
            (self._target, *arguments),
            f"the process that works on {self._name}",
            servant.whom,
            () if pipe is None else (pipe,),
            answers,
        )


def path_of(name: str) -> bytes:
    """The bytes of an absolute path, which every part of this project writes as UTF-8 whatever the locale is.

    Raises BadInput for what cannot be the path of a file.
    """
    if not name.startswith("/"):
        raise BadInput(f'database: "{name}" is not an absolute path. Write the whole path of the SQLite file.')
    if "\0" in name or name.endswith("/"):
        raise BadInput(f"database: {name!r} cannot be the path of a file. Write the whole path of the SQLite file.")
    if "//" in name or {".", ".."} & set(name.split("/")):
        # Each spelling would be a database with backups of its own.
        raise BadInput(
            f'database: "{name}" is one of several spellings of its path. Write it without "//", "." and "..".'
        )
    return name.encode("utf-8", "surrogateescape")
