# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is in a SQLite file that nobody else uses: is it sound, and what do its tables hold.

Sources: "PRAGMA integrity_check", "PRAGMA quick_check" (sqlite.org/pragma.html), "The Schema Table"
(sqlite.org/schematab.html).
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
import struct
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Set, TypeVar

from ...errors import Damaged, NotADatabase, Unverifiable
from ...model import Fingerprint, FingerprintKind, TableFingerprint
from .connect import Cancellation, is_damage, is_schema_error, private
from .file import MAGIC

T = TypeVar("T")

_MISSING_COLLATION = re.compile(r"no such collation sequence: (.+)")
_PROBLEMS_SHOWN = 5


class _Text(bytes):
    """A value of type TEXT, kept apart from a BLOB of the same bytes."""


def problems(path: Path, complete: bool, cancellation: Optional[Cancellation] = None) -> List[str]:
    """What SQLite finds wrong with a file, the first few; nothing when it is sound.

    ``complete`` also compares every index with its table, which takes some ten times as long. CHECK constraints are
    left out: rows that break one were stored like that. Raises Unverifiable where the order of an index is only known
    to the application (a collation of its own), and only after all else was found sound.
    """
    stand_ins: Set[str] = set()

    def check(connection: sqlite3.Connection) -> List[str]:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("PRAGMA cell_size_check = ON")
        # An unknown collation makes every comparison meaningless; quick_check makes none.
        pragma = "integrity_check" if complete and not stand_ins else "quick_check"
        found = [str(row[0]) for row in connection.execute(f"PRAGMA {pragma}({_PROBLEMS_SHOWN})")]
        return [] if found == ["ok"] else found

    try:
        found = _with_stand_ins(path, check, stand_ins, cancellation)
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return [str(error)]
        raise _unverifiable(error) from error
    if complete and stand_ins and not found:
        raise Unverifiable(
            f"The indexes of {path.name} could not be checked: they are sorted by {', '.join(sorted(stand_ins))}, "
            "which only the application knows. All else is sound; check the indexes with the application."
        )
    return found


def require_sqlite(path: Path) -> None:
    """Raise NotADatabase where a private file does not begin as a plain database does."""
    with open(path, "rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise NotADatabase(f"{path.name} does not begin like an SQLite database. Restore another backup.")


def count_tables(path: Path, kind: FingerprintKind, cancellation: Optional[Cancellation] = None) -> Fingerprint:
    """Count the rows of every table, and for DIGEST digest them.

    Virtual tables have no rows of their own; what they store is in ordinary tables beside them, which are counted.
    SQLite's internal tables (``sqlite_…``) and views are not. Raises Damaged, and Unverifiable where SQLite cannot
    read a table at all.
    """

    def count(connection: sqlite3.Connection) -> Dict[str, TableFingerprint]:
        measure = _digest if kind is FingerprintKind.DIGEST else _count
        return {name: measure(connection, name) for name in _table_names(connection)}

    try:
        return Fingerprint(kind, _with_stand_ins(path, count, set(), cancellation))
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            raise Damaged(f"SQLite cannot read {path.name} to its end: {error}. Restore an older backup.") from error
        raise _unverifiable(error) from error


def _table_names(connection: sqlite3.Connection) -> List[str]:
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0 ORDER BY name")
    return [name for (name,) in rows if not name.lower().startswith("sqlite_")]


def _count(connection: sqlite3.Connection, table: str) -> TableFingerprint:
    (rows,) = connection.execute(f"SELECT count(*) FROM {_quoted(table)} NOT INDEXED").fetchone()
    return TableFingerprint(rows=int(rows))


def _digest(connection: sqlite3.Connection, table: str) -> TableFingerprint:
    """The SHA-256 of the number of rows and the sum of every row's SHA-256, modulo 2^256.

    A sum does not depend on the order of rows, and unlike an exclusive or does not lose rows that occur twice.
    """
    # Of a table that is sorted by an unknown collation, SQLite names that collation only when asked to count.
    _count(connection, table)
    connection.text_factory = _Text
    rows = total = 0
    try:
        for row in connection.execute(f"SELECT * FROM {_quoted(table)} NOT INDEXED"):
            content = b"".join(map(_encoded, row))
            total += int.from_bytes(hashlib.sha256(content).digest(), "big")
            rows += 1
    finally:
        connection.text_factory = str
    summary = f"{rows}:{total % (1 << 256):064x}"
    return TableFingerprint(rows=rows, digest=hashlib.sha256(summary.encode("ascii")).hexdigest())


def _encoded(value: Any) -> bytes:
    """A value with its storage class, so that no two rows of different values have the same bytes."""
    if value is None:
        return b"n"
    if isinstance(value, int):
        return b"i%d;" % value
    if isinstance(value, float):
        return b"r" + struct.pack(">d", value)
    if isinstance(value, _Text):
        return b"t%d:" % len(value) + value
    return b"b%d:" % len(value) + bytes(value)


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def _with_stand_ins(
    path: Path, work: Callable[[sqlite3.Connection], T], stand_ins: Set[str], cancellation: Optional[Cancellation]
) -> T:
    """Read a file whose application sorts by collations of its own: they must exist, and reading never calls them."""
    while True:
        with private(path, cancellation) as connection:
            try:
                for name in stand_ins:
                    connection.create_collation(name, _no_order)
                return work(connection)
            except sqlite3.OperationalError as error:
                missing = _MISSING_COLLATION.fullmatch(str(error))
                if missing is None or missing.group(1) in stand_ins:
                    raise
                stand_ins.add(missing.group(1))


def _no_order(first: str, second: str) -> int:
    raise Unverifiable(f"The order of {first!r} and {second!r} is known only to the application.")


def _unverifiable(error: sqlite3.Error) -> Unverifiable:
    hint: Optional[str] = None
    if is_schema_error(error) or "syntax error" in str(error):
        hint = "It is damaged, or uses what only a newer SQLite knows"
    return Unverifiable(
        f"SQLite {sqlite3.sqlite_version} cannot read every table: {error}. "
        f"{hint or 'It uses what only its application provides'}; check it with the application, "
        "or use a host with a newer SQLite."
    )
