# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A restored SQLite file before it is promoted, and one that is only read to its end."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any, Callable, List, Optional, Set, Tuple

from ...errors import Damaged, Mismatch, NotADatabase, Unverifiable
from ...interrupts import finish
from ...model import Fingerprint
from ..answers import few
from ..base import Examination, Save, Staging
from .connect import private
from .rebuild import rebuild
from .scratch import ScratchFile
from .swap import Swap, promote
from .tables import UnfitIndexes, count_tables, problems, require_sqlite


class SqliteStaging(Staging):
    """A file beside its target. It is read without locks and logs, so that checking it changes and leaves nothing."""

    def __init__(self, swap: Swap, opaque: bool, tolerant: bool = False) -> None:
        self._swap = swap
        self._tolerant = tolerant
        self._opaque = opaque
        self._kept: Optional[Path] = None
        #: Called where a signal must not stop the promotion any more.
        self.begin: Callable[[], object] = finish
        self.load: Path = swap.staged
        self.label = str(swap.staged)

    def loaded(self) -> None:
        os.fsync(self._swap.descriptor)

    def check_integrity(self) -> None:
        """Where the restore is tolerant, indexes that do not fit their tables are rebuilt in the copy."""
        tried: Set[str] = set()
        while True:
            try:
                require_sound(self.load, self._opaque)
                return
            except UnfitIndexes as unfit:
                fresh = [name for name in unfit.names if name not in tried]
                if not self._tolerant or not fresh:
                    raise
                tried.update(fresh)
                rebuilt = rebuild(self.load, fresh)
                self.notes += tuple(f"Index {name} did not fit its table, and was rebuilt." for name in rebuilt)
                os.fsync(self._swap.descriptor)

    def fingerprint(self, like: Fingerprint) -> Fingerprint:
        _require_readable(self.load, self._opaque)
        try:
            return count_tables(self.load, like.kind)
        except Damaged as error:
            raise Mismatch(str(error)) from error

    def query(self, sql: str) -> List[Tuple[Any, ...]]:
        _require_readable(self.load, self._opaque)
        try:
            with private(self.load) as connection:
                connection.execute("PRAGMA query_only = ON")
                connection.set_authorizer(_allow)
                return few(connection.execute(sql))
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise Mismatch(f"The query failed on the restored copy: {error}. The query was: {sql}") from error

    def promote(self, replace: bool, keep_replaced: bool, save: Optional[Save] = None) -> Optional[str]:
        self._kept = promote(self._swap, replace, keep_replaced or save is not None, self.begin)
        if self._kept is None:
            return None
        # Nobody had it open when it got this name, and nobody opens it by that.
        if save is not None and not self.saved(save, str(self._kept)):
            return str(self._kept)
        if keep_replaced:
            return str(self._kept)
        self.discard()
        return None

    def discard(self) -> None:
        """Remove what was replaced and kept."""
        if self._kept is not None:
            self._kept.unlink()


def _allow(action: int, first: Optional[str], second: Optional[str], *_where: Optional[str]) -> int:
    """Say no to what leads out of the copy: other files (VACUUM INTO attaches one too), and an end of query_only.

    (sqlite.org/c3ref/set_authorizer.html.) Statements that write are prepared by virtual tables that are only read,
    so that they are not refused here, but by query_only when they run.
    """
    leads_out = action == sqlite3.SQLITE_ATTACH or (
        action == sqlite3.SQLITE_PRAGMA and str(first).lower() == "query_only" and second is not None
    )
    return sqlite3.SQLITE_DENY if leads_out else sqlite3.SQLITE_OK


class SqliteExamination(Examination):
    """A file in a private directory."""

    def __init__(self, file: ScratchFile, opaque: bool) -> None:
        self.load: Path = file.path
        self._opaque = opaque

    def conclude(self) -> None:
        require_sound(self.load, self._opaque)


def require_sound(path: Path, opaque: bool) -> None:
    """Raise Mismatch unless SQLite finds the whole file sound, and Unverifiable where it has no way to know."""
    _require_readable(path, opaque)
    try:
        require_sqlite(path)
        found = problems(path, complete=True)
    except (Damaged, NotADatabase) as error:
        raise Mismatch(str(error)) from error
    if found:
        raise Mismatch(f"The restored copy is damaged. SQLite's integrity_check says: {'; '.join(found)}")


def _require_readable(path: Path, opaque: bool) -> None:
    if opaque:
        raise Unverifiable(
            f"{path.name} is encrypted by its application, so that nobody can check it without that key. "
            "Open the restored database with the application to check it."
        )
