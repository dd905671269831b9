# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is in a SQLite file that nobody else uses: is it sound, and what do its tables hold.

Sources: "PRAGMA integrity_check", "PRAGMA quick_check" (sqlite.org/pragma.html), "The Schema Table"
(sqlite.org/schematab.html).
"""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Set, Tuple, TypeVar

from ...errors import Damaged, NotADatabase, Unverifiable
from ...model import Fingerprint, FingerprintKind, TableFingerprint
from .connect import Cancellation, is_damage, is_schema_error, private
from .digest import digest_table, quoted
from .file import MAGIC

T = TypeVar("T")

_MISSING_COLLATION = re.compile(r"no such collation sequence: (.+)")
_MISSING_FUNCTION = re.compile(r"(?:no such|unknown) function: ([^()]+)(?:\(\))?")
_NOT_UNDERSTOOD = re.compile(r"malformed database schema \((.*?)\) - ")
_PROBLEMS_SHOWN, _PROBLEMS_KEPT = 5, 20
#: More than any file has; the pragma would else say no more than a hundred.
_ALL_PROBLEMS = 0x7FFFFFFF
#: What is not as a definition has it, and was stored like that.
_AS_STORED = re.compile(r"(?:NULL|NUMERIC|TEXT|non-[A-Z]+) value in |CHECK constraint failed in ")
#: What is wrong with an index alone, and with which one.
_INDEX_ONLY = re.compile(r"(?:row \d+ missing from|wrong # of entries in|non-unique entry in) index (.+)")


class UnfitIndexes(Unverifiable):
    """Nothing is wrong but indexes that do not fit their tables; ``names`` are those that were found first."""

    names: Tuple[str, ...] = ()


class _StandIns:
    """What only the application has, or only another version of SQLite, and stands in for it while a file is read.

    Reading calls no collation, and of functions only what checks an index or computes a column. ``schema`` is what
    SQLite does not understand of the schema; the rest of it is used.
    """

    def __init__(self) -> None:
        self.collations: Set[str] = set()
        self.functions: Set[str] = set()
        self.schema: Optional[str] = None

    @property
    def names(self) -> str:
        return ", ".join(sorted([*self.collations, *(f"{name}()" for name in self.functions)]))

    def prepare(self, connection: sqlite3.Connection) -> None:
        if self.schema is not None:
            # What it cannot parse it then leaves out, instead of refusing all (sqlite.org/pragma.html).
            connection.execute("PRAGMA writable_schema = ON")
            # A view or trigger holds no rows. Of a table it must understand all.
            named = _NOT_UNDERSTOOD.match(self.schema)
            kind = "SELECT type FROM sqlite_master WHERE name = ?"
            found = connection.execute(kind, (named.group(1),)).fetchall() if named else []
            if found not in ([("view",)], [("trigger",)]):
                raise sqlite3.DatabaseError(self.schema)
        for name in self.collations:
            connection.create_collation(name, _no_order)
        for name in self.functions:
            connection.create_function(name, -1, _no_value, deterministic=True)

    def take(self, error: sqlite3.DatabaseError) -> bool:
        """Whether something can stand in for what was missing, and did not yet."""
        text = str(error)
        collation, function = _MISSING_COLLATION.fullmatch(text), _MISSING_FUNCTION.fullmatch(text)
        if collation and collation.group(1) not in self.collations:
            self.collations.add(collation.group(1))
        elif function and function.group(1) not in self.functions:
            self.functions.add(function.group(1))
        elif is_schema_error(error) and self.schema is None:
            self.schema = text
        else:
            return False
        return True


def problems(path: Path, complete: bool, cancellation: Optional[Cancellation] = None) -> List[str]:
    """What SQLite finds wrong with a file, the first few; nothing when it is sound.

    ``complete`` also compares every index with its table, which takes some ten times as long. CHECK constraints, NULLs
    and types that a definition forbids are left out: such rows were stored like that, and their application reads them.
    Raises Unverifiable where not all can be judged, and only after all else was found sound: where the order or content
    of an index is only known to the application, where the schema is not understood, and where nothing is wrong but
    indexes that do not fit their tables.
    """
    stand_ins = _StandIns()

    def check(connection: sqlite3.Connection) -> List[str]:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("PRAGMA cell_size_check = ON")
        # With a stand-in every comparison is meaningless; quick_check makes none.
        pragma = "integrity_check" if complete and not stand_ins.names else "quick_check"
        connection.text_factory = lambda text: text.decode("utf-8", "replace")
        found: List[str] = []
        for (text,) in connection.execute(f"PRAGMA {pragma}({_ALL_PROBLEMS})"):
            if text != "ok" and not _AS_STORED.match(text):
                found.append(str(text))
                if len(found) >= _PROBLEMS_SHOWN and not all(map(_INDEX_ONLY.match, found)):
                    break
                del found[_PROBLEMS_KEPT:]
        return found

    try:
        found = _with_stand_ins(path, check, stand_ins, cancellation)
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return [str(error)]
        raise _unverifiable(error) from error
    if found and not all(map(_INDEX_ONLY.match, found)):
        return [text for text in found if not _INDEX_ONLY.match(text)][:_PROBLEMS_SHOWN]
    if found:
        unfit = UnfitIndexes(
            f"The tables of {path.name} are sound, and indexes are not, as they were when the backup was taken: "
            f"{'; '.join(found[:_PROBLEMS_SHOWN])}. Restore with on_error continue, or rebuild them with REINDEX."
        )
        unfit.names = tuple(dict.fromkeys(match.group(1) for match in map(_INDEX_ONLY.match, found) if match))
        raise unfit
    _refuse_unjudged(path, complete, stand_ins)
    return []


def _refuse_unjudged(path: Path, complete: bool, stand_ins: _StandIns) -> None:
    if stand_ins.schema is not None:
        raise Unverifiable(
            f"SQLite {sqlite3.sqlite_version} does not understand all of the schema of {path.name} "
            f"({stand_ins.schema}): it is damaged, or uses what only a newer SQLite knows. All else is sound."
        )
    if complete and stand_ins.names:
        raise Unverifiable(
            f"The indexes of {path.name} could not be checked: they are sorted by {stand_ins.names}, "
            "which only the application knows. All else is sound; check the indexes with the application."
        )


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
        return {name: _measure(connection, name, kind) for name in _table_names(connection)}

    try:
        return Fingerprint(kind, _with_stand_ins(path, count, _StandIns(), cancellation))
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            raise Damaged(f"SQLite cannot read {path.name} to its end: {error}. Restore an older backup.") from error
        raise _unverifiable(error) from error
    except UnicodeError:
        raise Unverifiable(
            f"A table of {path.name} has a name that is not UTF-8, so that its rows cannot be counted from here. "
            "All of it is in the backup."
        ) from None


def _table_names(connection: sqlite3.Connection) -> List[str]:
    connection.text_factory = lambda text: text.decode("utf-8")
    try:
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0 ORDER BY name")
        return [name for (name,) in rows if not name.lower().startswith("sqlite_")]
    finally:
        connection.text_factory = str


def _measure(connection: sqlite3.Connection, table: str, kind: FingerprintKind) -> TableFingerprint:
    # Of a table that is sorted by an unknown collation, SQLite names that collation only when asked to count.
    (rows,) = connection.execute(f"SELECT count(*) FROM {quoted(table)} NOT INDEXED").fetchone()
    return digest_table(connection, table) if kind is FingerprintKind.DIGEST else TableFingerprint(rows=int(rows))


def _with_stand_ins(
    path: Path, work: Callable[[sqlite3.Connection], T], stand_ins: _StandIns, cancellation: Optional[Cancellation]
) -> T:
    """Do something with a file whose application has collations and functions of its own, or a newer SQLite."""
    while True:
        with private(path, cancellation) as connection:
            try:
                stand_ins.prepare(connection)
                return work(connection)
            except sqlite3.DatabaseError as error:
                if not stand_ins.take(error):
                    raise


def _no_value(*_arguments: Any) -> None:
    """The value of a function that only the application has."""


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
