# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Building the indexes of a private copy anew, from its tables (sqlite.org/lang_reindex.html)."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Iterator, List, Sequence

from .connect import connect
from .digest import quoted

#: Where the header says how the file is written and read: 1 with a rollback journal, 2 with a log
#: (sqlite.org/fileformat2.html, 1.3.3).
_VERSIONS = 18
_ROLLBACK = b"\x01\x01"


def rebuild(path: Path, names: Sequence[str]) -> List[str]:
    """Rebuild indexes of a file that nobody else uses; those that could be: not one whose rows are not unique."""
    rebuilt = []
    with _without_log(path), closing(connect(path, "mode=rw&nolock=1")) as connection:
        # A failed statement is rolled back, and nothing lies beside the copy.
        connection.execute("PRAGMA journal_mode = MEMORY")
        connection.execute("PRAGMA synchronous = OFF")
        for name in names:
            try:
                connection.execute(f"REINDEX main.{quoted(name)}")
            except sqlite3.DatabaseError:
                # The check that follows names it again.
                continue
            rebuilt.append(name)
    return rebuilt


@contextmanager
def _without_log(path: Path) -> Iterator[None]:
    """Let a file that has no log be written without one: a log would lie beside it, where no other run looks."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        before = os.pread(descriptor, len(_ROLLBACK), _VERSIONS)
        os.pwrite(descriptor, _ROLLBACK, _VERSIONS)
        try:
            yield
        finally:
            os.pwrite(descriptor, before, _VERSIONS)
    finally:
        os.close(descriptor)
