# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Counting what a database holds, on the server: no row comes to this process.

A digest is the sum, modulo 2^64, of a 64-bit hash of every row. A sum does not depend on the order of rows, and
notices a row that is missing, changed or there twice. What is hashed is the row's text, with its columns in the order
of their names: neither a dropped column nor another physical order makes a difference. Generated columns are left out,
as a dump leaves them out. Values of any length are hashed by themselves first, so that a row's text stays short.

Counts alone would not notice values that were misread, which is how a setting harms a whole database at once. So
``counts`` digests as well what costs next to nothing: the smallest tables whole, and of each larger one the rows at
both ends of its primary key, which an index finds at once. Only columns of built-in types are part of these digests:
the text of others may change with the version of an extension.

Planning a query on a table can run functions of the table's owner with this session's rights, and fails where they
need another search path (planning.py). Such tables are not queried but copied, as pg_dump copies them, and counted
here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

from ...errors import BadInput, EngineError, Locked, PermissionDenied, Unreachable
from ...model import Fingerprint, FingerprintKind, TableFingerprint
from .catalogue import Relation
from .connection import Connection, quote_identifier
from .copying import TEXT_FORM, Copier, NotCopied
from .planning import UNPLANNED, Planning

#: The name under which large objects are counted; no user can make a relation in pg_catalog.
LARGE_OBJECTS = "pg_largeobject"

#: hashtextextended() came with 11, and the shortest exact text of floating point numbers with 12.
_DIGESTS_SINCE = 12
_MODULUS = 1 << 64
#: With counts: what all wholly digested tables may take together (0.2 s of one core), and how many rows are digested at
#: each end of the primary key of a larger one.
_SMALL_BYTES = 16 << 20
_ROWS_AT_AN_END = 100
#: How a table is counted: its rows alone, with a digest of all of them, or of this many at each end of its key.
#: Without a query, it is copied to be digested or to be counted.
_COUNTED, _WHOLE, _COPIED, _COPIED_COUNT = 0, -1, -2, -3
#: How the digest of a copied table begins: it is made of other text than the others.
_COPY_MARK = "copy:"
#: Tables with values that are stored apart (TOAST). A row of any other one has a few MiB of text at most, as what it
#: holds is compressed to fit into a page.
_LONG_ROWS = """
SELECT oid FROM pg_class WHERE oid = ANY (%s::oid[]) AND reltoastrelid <> 0 AND pg_relation_size(reltoastrelid) > 0
"""
#: A value of more bytes is hashed by itself, or with counts stands for its length: that is known without reading it.
_LONG = 65536

_SIZES = "SELECT oid, pg_table_size(oid) FROM unnest(%s::oid[]) AS oid ORDER BY 2, 1"

# A domain's values are of its base type, and an array is as portable as its elements. 16384 is FirstNormalObjectId in
# the server's transam.h: what is below was made by initdb, and only that goes by its name, as an owner can call a type
# of their own bytea, with casts that run their code. The text of reg… and aclitem depends on other objects.
_COLUMNS = """
WITH RECURSIVE plain AS (
    SELECT oid AS type, oid AS base FROM pg_type WHERE typtype <> 'd'
    UNION ALL SELECT t.oid, p.base FROM pg_type t JOIN plain p ON t.typbasetype = p.type WHERE t.typtype = 'd'
)
SELECT a.attrelid, a.attname, CASE WHEN b.oid < 16384 THEN b.typname ELSE '' END, b.typlen, b.typcollation <> 0,
       coalesce(e.oid, b.oid) < 16384 AND coalesce(e.typname, b.typname) !~ '^reg'
           AND coalesce(e.typname, b.typname) <> 'aclitem' OR coalesce(e.typtype, b.typtype) = 'e',
       coalesce(array_position(k.conkey, a.attnum), 0)
  FROM pg_attribute a JOIN plain p ON p.type = a.atttypid JOIN pg_type b ON b.oid = p.base
  LEFT JOIN plain q ON q.type = b.typelem AND b.typcategory = 'A' LEFT JOIN pg_type e ON e.oid = q.base
  LEFT JOIN pg_constraint k ON k.conrelid = a.attrelid AND k.contype = 'p'
 WHERE a.attrelid = ANY (%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
 ORDER BY a.attrelid, a.attname COLLATE "C"
"""

#: Types of any length whose text is never long, and those whose length is known without reading them.
_SHORT = ("numeric", "inet", "cidr", "macaddr")
_MEASURABLE = ("text", "varchar", "bpchar", "bytea")

_HASH = 'hashtextextended(%s COLLATE "C", 0)'
_COUNT = "SELECT count(*) FROM ONLY %s"
_TABLE_DIGEST = "SELECT count(*), sum(%s) FROM ONLY %s AS t"
_SAMPLE_DIGEST = """
SELECT (SELECT count(*) FROM ONLY {table}),
       (SELECT sum(hash) FROM ((SELECT {hash} AS hash FROM ONLY {table} AS t ORDER BY {up} LIMIT {rows})
                     UNION ALL (SELECT {hash} AS hash FROM ONLY {table} AS t ORDER BY {down} LIMIT {rows})) AS ends)
"""

_LARGE_OBJECT_COUNT = "SELECT count(*) FROM pg_largeobject_metadata"
# 262144 is INV_READ, and the last argument of lo_lseek64() is SEEK_END (PostgreSQL manual, "Large Objects"). An object
# is read in pieces of 1 MiB, as lo_get() of a whole one needs memory for it and fails beyond 1 GB.
# OFFSET 0 keeps the planner from merging the levels, so that each object is closed before the next one is opened.
_LARGE_OBJECT_DIGEST = """
SELECT count(DISTINCT r.oid), sum(hashtextextended(r.line, 0)) FROM (
    SELECT o.oid, o.oid || ':' || o.bytes || ':' || piece || ':' ||
           encode(sha256(lo_get(o.oid, piece, 1048576)), 'hex') COLLATE "C" AS line
      FROM (SELECT p.oid, p.bytes, lo_close(p.handle)
              FROM (SELECT q.oid, q.handle, lo_lseek64(q.handle, 0, 2) AS bytes
                      FROM (SELECT l.oid, lo_open(l.oid, 262144) AS handle
                              FROM pg_largeobject_metadata l OFFSET 0) q OFFSET 0) p OFFSET 0) o,
           generate_series(0::bigint, o.bytes, 1048576) AS piece OFFSET 0) r
"""


def require_countable(connection: Connection, kind: FingerprintKind) -> None:
    """Raise BadInput when this server cannot count what is asked for."""
    if kind is FingerprintKind.DIGEST and connection.version < _DIGESTS_SINCE * 10000:
        raise BadInput(
            f"fingerprint: digests need PostgreSQL {_DIGESTS_SINCE}, and {connection.label} is "
            f"{connection.version // 10000}. Use counts."
        )


def affordable(connection: Connection, tables: Sequence[Relation], kind: FingerprintKind) -> Set[str]:
    """The labels of the tables that are digested whole in a fingerprint of this kind."""
    if kind is FingerprintKind.DIGEST:
        return {table.label for table in tables}
    if connection.version < _DIGESTS_SINCE * 10000:
        return set()
    labels = {table.oid: table.label for table in tables}
    left, chosen = _SMALL_BYTES, set()
    for oid, size in connection.rows(_SIZES, [list(labels)]):
        # Without a size, the table was dropped since the snapshot.
        left -= size or 0
        if left < 0:
            break
        chosen.add(labels[oid])
    return chosen


def count(
    connection: Connection,
    tables: Iterable[Relation],
    kind: FingerprintKind,
    copier: Copier,
    planning: Optional[Planning] = None,
) -> Fingerprint:
    """Count these tables and the large objects in the session's open transaction. Raises a typed error.

    Without ``planning``, no table is queried, but each one copied.
    """
    wanted = list(tables)
    whole = affordable(connection, wanted, kind)
    samples = connection.version >= _DIGESTS_SINCE * 10000
    manners = {one.label: _WHOLE if one.label in whole else _ROWS_AT_AN_END if samples else _COUNTED for one in wanted}
    unplanned = _unplanned(connection, wanted) if planning else {one.oid for one in wanted}
    manners.update((one.label, _copying(manners[one.label])) for one in wanted if one.oid in unplanned)
    manners.update(_alike(wanted, manners))
    return _Counting(connection, kind, copier, planning).all_of(wanted, manners)


def count_like(connection: Connection, tables: Iterable[Relation], like: Fingerprint, copier: Copier) -> Fingerprint:
    """Count the tables of a restored copy as those of ``like`` were counted.

    Their owners' code has run already with the rights of who restored them, so that it may as well be planned.
    """
    wanted, known = list(tables), {}
    for label, table in like.tables.items():
        copied = table.digest is not None and table.digest.startswith(_COPY_MARK)
        known[label] = _COPIED if copied else _COUNTED if table.digest is None else table.ends or _WHOLE
    manners = {one.label: known.get(one.counted_as, _COUNTED) for one in wanted}
    unplanned = _unplanned(connection, wanted)
    for one in wanted:
        if one.oid in unplanned and manners[one.label] == _COUNTED:
            manners[one.label] = _COPIED_COUNT
    return _Counting(connection, like.kind, copier, None).all_of(wanted, manners)


def _copying(manner: int) -> int:
    """How to copy a table instead of querying it: that sends all of it, so that a large one is only counted then."""
    return _COPIED if manner == _WHOLE else _COPIED_COUNT


def _alike(tables: Sequence[Relation], manners: Mapping[str, int]) -> Dict[str, int]:
    """How to count tables that count as one: their digests are added up, so they are all made alike, or none is."""
    groups: Dict[str, Set[str]] = {}
    for table in tables:
        if table.root:
            groups.setdefault(table.counted_as, set()).add(table.label)
    chosen = {}
    for labels in groups.values():
        found = {manners[label] for label in labels}
        for label in labels:
            if found <= {_WHOLE, _COPIED}:
                chosen[label] = _COPIED if _COPIED in found else _WHOLE
            else:
                chosen[label] = _COPIED_COUNT if manners[label] in (_COPIED, _COPIED_COUNT) else _COUNTED
    return chosen


def _sum(one: Optional[TableFingerprint], other: TableFingerprint) -> TableFingerprint:
    """Two tables as one. Without the digest of one of them, or with one of other text, there is none of both."""
    if one is None:
        return other
    rows = one.rows + other.rows
    if one.digest is None or other.digest is None:
        return TableFingerprint(rows)
    marks = [_COPY_MARK if table.digest.startswith(_COPY_MARK) else "" for table in (one, other) if table.digest]
    if marks[0] != marks[1]:
        return TableFingerprint(rows)
    total = sum(int(digest[len(marks[0]) :], 16) for digest in (one.digest, other.digest))
    return TableFingerprint(rows, f"{marks[0]}{total % _MODULUS:016x}")


class _Unplanned(Exception):
    """A table is not to be queried."""


class _Counting:
    """How tables are counted in a session. With ``planning``, only what it allows is planned."""

    def __init__(
        self, connection: Connection, kind: FingerprintKind, copier: Copier, planning: Optional[Planning]
    ) -> None:
        self._connection, self._copier, self._planning = connection, copier, planning
        self._kind, self._thoroughly = kind, kind is FingerprintKind.DIGEST
        self._long: Set[int] = set()

    def all_of(self, tables: List[Relation], manners: Mapping[str, int]) -> Fingerprint:
        counted: Dict[str, TableFingerprint] = {}
        columns: Dict[int, List[_Column]] = {}
        for name, kinds in self._connection.restriction().items():
            self._connection.run(f"SET {name} = '{kinds}'")
        self._long = {oid for (oid,) in self._connection.rows(_LONG_ROWS, [[table.oid for table in tables]])}
        # Before, there is no digest, no generated column, and no column that says so.
        if any(manners.values()) and self._connection.version >= _DIGESTS_SINCE * 10000:
            self._connection.run(TEXT_FORM)
            columns = _columns(self._connection, tables)
        for table in tables:
            found = self._measured(table, columns.get(table.oid, []), manners[table.label])
            counted[table.counted_as] = _sum(counted.get(table.counted_as) if table.root else None, found)
        large = _counted(self._connection.rows(_LARGE_OBJECT_DIGEST if self._thoroughly else _LARGE_OBJECT_COUNT))
        if large.rows:
            counted[LARGE_OBJECTS] = large
        return Fingerprint(kind=self._kind, tables=counted)

    def _measured(self, table: Relation, columns: List[_Column], manner: int) -> TableFingerprint:
        """Measure a table; where the server cannot put its values into text (beyond 1 GB, for one), count it only.

        A savepoint gives back the locks that a question takes on indexes: a server has room for a few thousand in all.
        """
        if manner in (_COPIED, _COPIED_COUNT):
            return self._copied(table, columns, manner == _COPIED)
        self._connection.run("SAVEPOINT question")
        try:
            return self._asked(table, columns, manner)
        except _Unplanned:
            manner = _copying(manner)
        except (Unreachable, Locked, PermissionDenied):
            raise
        except EngineError:
            # One that was cut off answers nothing else either.
            if manner == _COUNTED or not self._connection.usable:
                raise
            manner = _COUNTED
        finally:
            if self._connection.usable:
                self._connection.run("ROLLBACK TO SAVEPOINT question; RELEASE SAVEPOINT question")
        return self._measured(table, columns, manner)

    def _copied(self, table: Relation, columns: List[_Column], hashed: bool) -> TableFingerprint:
        """Count a table without a query. With counts, a digest is of short columns only."""
        used = columns if self._thoroughly else [one for one in columns if one.short and one.portable]
        if hashed and used:
            try:
                rows, digest = self._copier.digest(self._connection, _copy(table, used), self._may_be_long(table, used))
            except NotCopied:
                return self._copied(table, columns, False)
            return TableFingerprint(rows, f"{_COPY_MARK}{digest % _MODULUS:016x}")
        used = _shortest(columns)
        return TableFingerprint(
            self._copier.count(self._connection, _copy(table, used), self._may_be_long(table, used))
        )

    def _may_be_long(self, table: Relation, used: Sequence[_Column]) -> bool:
        return table.oid in self._long and not all(one.short for one in used)

    def _asked(self, table: Relation, columns: List[_Column], manner: int) -> TableFingerprint:
        question, ends = _question(table, columns, manner, self._thoroughly)
        if self._planning is None:
            return _counted(self._connection.rows(question), ends)
        if not self._planning.plan(self._connection, table, question):
            raise _Unplanned
        return _counted(self._connection.rows("FETCH ALL FROM answer"), ends)


@dataclass(frozen=True)
class _Column:
    """A column as far as its digest depends on it. ``length`` is -1 where values have any; ``place`` is 0 outside the
    primary key."""

    name: str
    type: str
    length: int
    collated: bool
    portable: bool
    place: int

    @property
    def identifier(self) -> str:
        return "t." + quote_identifier(self.name)

    @property
    def short(self) -> bool:
        """Whether the text of its values is never long."""
        return self.length > 0 or self.type in _SHORT

    def hashed(self, thoroughly: bool) -> str:
        """What stands for its value in the text of a row."""
        if self.short:
            return self.identifier
        if self.type not in _MEASURABLE:
            # In a row of its own, the value's text is what its type writes, whatever casts somebody defined.
            return _HASH % f"ROW({self.identifier})::text"
        exact = f"encode(sha256({self.identifier}), 'hex')" if self.type == "bytea" else _HASH % self.identifier
        long = exact if thoroughly else f"octet_length({self.identifier})"
        if self.type != "bytea" and thoroughly:
            return exact
        return f"CASE WHEN octet_length({self.identifier}) > {_LONG} THEN {long}::text ELSE {self.identifier}::text END"


def _question(table: Relation, columns: List[_Column], manner: int, thoroughly: bool) -> Tuple[str, int]:
    """The query that measures a table, and of how many rows at each end of its key the digest is."""
    used = [one for one in columns if thoroughly or one.portable]
    key = sorted((one for one in columns if one.place), key=lambda one: one.place)
    # Where text decides the order, another version of a collation could make another one.
    if manner == _COUNTED or (manner > 0 and (not key or any(one.collated or not one.portable for one in key))):
        return _COUNT % table.identifier, 0
    line = _HASH % f"ROW({', '.join(one.hashed(thoroughly) for one in used)})::text"
    if manner == _WHOLE:
        return _TABLE_DIGEST % (line, table.identifier), 0
    up, down = (", ".join(one.identifier + direction for one in key) for direction in ("", " DESC"))
    return _SAMPLE_DIGEST.format(table=table.identifier, hash=line, up=up, down=down, rows=int(manner)), int(manner)


def _shortest(columns: Sequence[_Column]) -> List[_Column]:
    """The column that stands for a row which is only counted."""
    return sorted(columns, key=lambda one: (not one.short, one.length))[:1]


def _copy(table: Relation, columns: Sequence[_Column]) -> str:
    names = f"({', '.join(quote_identifier(one.name) for one in columns)})" if columns else ""
    return f"COPY {table.identifier} {names} TO STDOUT"


def _unplanned(connection: Connection, tables: Sequence[Relation]) -> Set[int]:
    return {oid for (oid,) in connection.rows(UNPLANNED, {"tables": [one.oid for one in tables]})}


def _counted(answer: Sequence[Sequence[Any]], ends: int = 0) -> TableFingerprint:
    rows, *sums = answer[0]
    # The sum over no rows at all is NULL.
    digest = f"{int(sums[0] or 0) % _MODULUS:016x}" if sums else None
    return TableFingerprint(int(rows), digest, ends)


def _columns(connection: Connection, tables: List[Relation]) -> Dict[int, List[_Column]]:
    found: Dict[int, List[_Column]] = {}
    for oid, *column in connection.rows(_COLUMNS, [[table.oid for table in tables]]):
        found.setdefault(oid, []).append(_Column(*column))
    return found
