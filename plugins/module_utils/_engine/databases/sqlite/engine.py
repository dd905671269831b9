# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SQLite: a database is a file, and a dump is a consistent copy of it.

A plain database is copied by SQLite's online backup; one that is encrypted (SQLCipher and kin) is copied as it is,
under SQLite's own locks, and recorded as opaque. The copy is a private file, because its tables are counted on it and
because SQLite writes a copy in no order that a pipe could take. It lies beside the database, where the same data
already lies and its permissions are thought about. Who may read a database but not write its directory names another
directory by SQLite's own variable SQLITE_TMPDIR; the copy is never put anywhere else.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from ...errors import BadInput, Damaged, NotADatabase, NotFound, PermissionDenied, Unverifiable
from ...model import Database, Fingerprint, FingerprintKind, Manifest
from ..base import DumpFacts, DumpOptions, Engine, Examination, Inspection, Snapshot
from .access import parse_mode, parse_owner, require_grantable
from .connect import Cancellation
from .copy import copy_plain
from .elsewhere import refuse_opened_elsewhere, refuse_other_names
from .file import (
    Kind,
    classify,
    raise_os_error,
    require,
    require_ordinary_logs,
    require_space,
    resolve,
    size_of,
)
from .opaque import copy_opaque
from .scratch import BACKUP, RESTORING, ScratchFile, examination_file, scratch_file, sweep
from .staging import SqliteExamination, SqliteStaging
from .swap import Swap, drop_half_done, target_exists
from .tables import count_tables, problems

#: SQLite's own variable for the directory of temporary files.
TEMPORARY = "SQLITE_TMPDIR"


class SqliteSnapshot(Snapshot):
    """A copy of a database, made at one moment."""

    def __init__(self, source: Path, copy: Path, facts: DumpFacts, kind: FingerprintKind) -> None:
        self.facts = facts
        self.dump: Path = copy
        self.globals = None
        self._source = source
        self._kind = kind
        self._cancellation = Cancellation()

    def fingerprint(self) -> Optional[Fingerprint]:
        """Check the copy's structure, then count its tables; for kind NONE only check it. None for an opaque copy, and
        for one that SQLite here cannot read all of, which is said in ``doubts``.

        Raises Damaged with what SQLite found: copying a page does not look into it, so that without this check a
        damaged database would be backed up over and over.
        """
        if self.facts.opaque:
            return None
        try:
            found = problems(self.dump, complete=False, cancellation=self._cancellation)
        except Unverifiable as error:
            # The copy is whole, whatever of it cannot be understood here.
            self.doubts += (str(error),)
            found = []
        if found:
            raise Damaged(
                f"{self._source} is damaged. SQLite's quick_check says: {'; '.join(found)}. Restore an older backup, "
                "or rescue what can be read with the .recover command of sqlite3."
            )
        if self._kind is FingerprintKind.NONE:
            return None
        try:
            return count_tables(self.dump, self._kind, self._cancellation)
        except Unverifiable as error:
            self.doubts += (f"The rows of {self._source} were not counted: {error}",)
            return None

    def cancel_fingerprint(self) -> None:
        self._cancellation.cancel()


class SqliteEngine(Engine):
    """One SQLite file, at an absolute path; links on the way to it are followed."""

    extension = ".db"

    def __init__(self, database: Database) -> None:
        self._path = resolve(database.name)

    def sweep(self, dry_run: bool) -> List[str]:
        """What killed runs left: copies for backups, and what a restore had written beside the database."""
        beside = self._path.parent
        if not beside.is_dir():
            return []
        chosen = os.environ.get(TEMPORARY)
        places = [(Path(chosen) if chosen else beside, BACKUP), (beside, RESTORING)]
        return [
            str(directory / name)
            for directory, purpose in places
            if directory.is_dir()
            for name in sweep(directory, self._path.name, purpose, dry_run)
        ]

    def inspect(self) -> Inspection:
        if classify(self._path) is None:
            return Inspection(exists=False, bytes=0, server_version=sqlite3.sqlite_version)
        refuse_other_names(self._path)
        return self._inspection()

    def check_dump(self, options: DumpOptions) -> Inspection:
        """Raises BadInput, NotFound, NotADatabase, PermissionDenied, and NoSpace where the copy would not fit."""
        _refuse_options(options)
        require(self._path)
        require_ordinary_logs(self._path)
        refuse_other_names(self._path)
        inspection = self._inspection()
        require_space(_copies_directory(self._path), inspection.bytes, f"The backup of {self._path}")
        return inspection

    @contextmanager
    def snapshot(self, options: DumpOptions) -> Iterator[Snapshot]:
        """Copy the database. Raises what ``check_dump`` raises, Locked after ``lock_timeout``, and Damaged."""
        inspection = self.check_dump(options)
        directory = _copies_directory(self._path)
        sweep(directory, self._path.name, BACKUP)
        if _is_writable(self._path.parent):
            self._clean_up_restores()
        kind = require(self._path)
        refuse_opened_elsewhere(self._path, kind, options.lock_timeout)
        with scratch_file(directory, self._path.name, BACKUP) as copy:
            properties, warnings = _copy(kind, self._path, copy, options.lock_timeout)
            # Who came under another name meanwhile does not wait for readers of this one.
            refuse_opened_elsewhere(self._path, kind, options.lock_timeout)
            facts = DumpFacts(
                server_version=sqlite3.sqlite_version,
                tool_versions={"sqlite": sqlite3.sqlite_version},
                opaque=kind is Kind.OPAQUE,
                properties=properties,
                warnings=warnings,
                source=inspection.source,
            )
            yield SqliteSnapshot(self._path, copy.path, facts, options.fingerprint)

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
        target, directory = self._path, self._path.parent
        asked = parse_owner(owner)
        parse_mode(manifest.properties)
        try:
            exists = target.exists()
            if exists and not target.is_file():
                raise NotADatabase(f"Cannot restore to {target}: it is not a file. Restore to another path.")
            if not directory.is_dir():
                raise NotFound(f"Cannot restore to {target}: there is no directory {directory}. Make it first.")
        except OSError as error:
            raise_os_error(error, f"Cannot restore to {target}")
        if exists and not replace:
            raise target_exists(target)
        require_ordinary_logs(target)
        refuse_other_names(target)
        _require_writable(directory, f"Cannot restore to {target}", "")
        require_grantable(target, asked)
        require_space(directory, manifest.main.plain_bytes, f"The restore of {manifest.id}")
        size = size_of(target) if exists else 0
        return Inspection(exists=exists, bytes=size, server_version=sqlite3.sqlite_version)

    @contextmanager
    def stage(
        self, manifest: Manifest, owner: Optional[str], parallel: int, tolerant: bool = False
    ) -> Iterator[SqliteStaging]:
        """Make an empty file beside the target. ``parallel`` has no meaning for a file; where the restore is
        ``tolerant``, indexes that do not fit their tables are rebuilt."""
        asked, mode = parse_owner(owner), parse_mode(manifest.properties)
        if not self._path.parent.is_dir():
            raise NotFound(f"Cannot restore to {self._path}: there is no directory {self._path.parent}. Make it first.")
        self._clean_up_restores()
        with scratch_file(self._path.parent, self._path.name, RESTORING) as file:
            swap = Swap(file.path, file.descriptor, self._path, asked, mode)
            yield SqliteStaging(swap, manifest.opaque, tolerant)

    @contextmanager
    def examine(self, manifest: Manifest) -> Iterator[Examination]:
        """Read a dump into a private temporary directory (TMPDIR, else the system's)."""
        with examination_file() as file:
            yield SqliteExamination(file, manifest.opaque)

    def _inspection(self) -> Inspection:
        try:
            size, status = size_of(self._path), os.stat(self._path)
        except OSError as error:
            raise_os_error(error, f"Cannot look at {self._path}")
        source = f"{status.st_dev}:{status.st_ino}"
        return Inspection(exists=True, bytes=size, server_version=sqlite3.sqlite_version, source=source)

    def _clean_up_restores(self) -> None:
        """Remove what restores that were killed have left beside the database."""
        sweep(self._path.parent, self._path.name, RESTORING)
        drop_half_done(self._path)


def _refuse_options(options: DumpOptions) -> None:
    if options.globals:
        raise BadInput("globals: an SQLite database has no roles and tablespaces. Leave it out.")
    if options.exclude_tables:
        raise BadInput("exclude_tables: an SQLite database is backed up as one whole. Leave it out.")


def _copies_directory(source: Path) -> Path:
    """Where the private copy goes: SQLITE_TMPDIR where it is set, else beside the database."""
    chosen = os.environ.get(TEMPORARY)
    directory = Path(chosen) if chosen else source.parent
    if not directory.is_dir():
        raise NotFound(f"{TEMPORARY} names {directory}, which is not a directory. Make it, or unset the variable.")
    hint = f" or set {TEMPORARY} to a private directory with room for a copy of the database,"
    _require_writable(directory, f"Cannot make a private copy of {source}", hint)
    return directory


def _require_writable(directory: Path, attempt: str, hint: str) -> None:
    if not _is_writable(directory):
        raise PermissionDenied(
            f"{attempt}: this account may not write the directory {directory}. "
            f"Give it access,{hint} or run this as root."
        )


def _is_writable(directory: Path) -> bool:
    return os.access(directory, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)


def _copy(kind: Kind, source: Path, copy: ScratchFile, lock_timeout: float) -> Tuple[Dict[str, Any], Tuple[str, ...]]:
    """Fill the copy; what the manifest records of the database, and what there is to say."""
    properties: Dict[str, Any] = {"mode": f"{stat.S_IMODE(source.stat().st_mode):04o}"}
    if kind is Kind.OPAQUE:
        copy_opaque(source, copy.descriptor, lock_timeout)
        return properties, ()
    copied = copy_plain(source, copy.path, lock_timeout)
    header = copied.header
    return {
        **properties,
        "page_size": header.page_size,
        "encoding": header.encoding,
        "journal_mode": "wal" if header.wal else "delete",
        "user_version": header.user_version,
        "application_id": header.application_id,
    }, copied.warnings
