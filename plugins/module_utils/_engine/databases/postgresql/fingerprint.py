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

To plan a query on a table, the server evaluates what can be evaluated in the expressions of its indexes and extended
statistics: it would run functions of the table's owner with this session's rights, and fail where they need another
search path. Such tables are not queried but copied, as pg_dump copies them, and counted here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Dict, Iterable, List, Mapping, Sequence, Set

from ...errors import BadInput, EngineError, Locked, PermissionDenied, Unreachable
from ...model import Fingerprint, FingerprintKind, TableFingerprint
from .catalogue import Relation
from .connection import Connection, quote_identifier

#: The name under which large objects are counted; no user can make a relation in pg_catalog.
LARGE_OBJECTS = "pg_largeobject"

#: Settings that change how values are written as text (PostgreSQL manual, "Client Connection Defaults").
_TEXT_FORM = (
    "SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; SET extra_float_digits = 1;"
    " SET bytea_output = 'hex'; SET lc_monetary = 'C'; SET xmlbinary = 'base64'"
)
#: hashtextextended() came with 11, and the shortest exact text of floating point numbers with 12.
_DIGESTS_SINCE = 12
_MODULUS = 1 << 64
#: With counts: what all wholly digested tables may take together (0.2 s of one core), and how many rows are digested at
#: each end of the primary key of a larger one.
_SMALL_BYTES = 16 << 20
_ROWS_AT_AN_END = 100
#: How a table is counted: its rows alone, with a digest of all of them, or of this many at each end of its key.
_COUNTED, _WHOLE, _COPIED = 0, -1, -2
#: How the digest of a copied table begins: it is made of other text than the others.
_COPY_MARK = "copy:"
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
#: Tables whose indexes or statistics hold functions or operators that initdb did not make.
_UNPLANNED = """
SELECT i.indrelid FROM pg_index i JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
 WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass) AND i.indrelid = ANY (%(tables)s::oid[])
UNION
SELECT s.stxrelid FROM pg_statistic_ext s JOIN pg_depend d
    ON d.classid = 'pg_statistic_ext'::regclass AND d.objid = s.oid
 WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass) AND s.stxrelid = ANY (%(tables)s::oid[])
"""

#: Types of any length whose text is never long, and those whose length is known without reading them.
_SHORT = ("numeric", "inet", "cidr", "macaddr")
_MEASURABLE = ("text", "varchar", "bpchar", "bytea")

_HASH = 'hashtextextended(%s COLLATE "C", 0)'
_COUNT = "SELECT count(*) FROM ONLY %s"
# One level only, so that the server can count with several workers.
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


def count(connection: Connection, tables: Iterable[Relation], kind: FingerprintKind) -> Fingerprint:
    """Count these tables and the large objects in the session's open transaction. Raises a typed error."""
    wanted = list(tables)
    whole = affordable(connection, wanted, kind)
    samples = connection.version >= _DIGESTS_SINCE * 10000
    manners = {one.label: _WHOLE if one.label in whole else _ROWS_AT_AN_END if samples else _COUNTED for one in wanted}
    unplanned = _unplanned(connection, wanted)
    copied = _COPIED if kind is FingerprintKind.DIGEST else _COUNTED
    manners.update((one.label, copied) for one in wanted if one.oid in unplanned)
    return _counted_so(connection, wanted, kind, manners)


def count_like(connection: Connection, tables: Iterable[Relation], like: Fingerprint) -> Fingerprint:
    """Count these tables as those of ``like`` were counted."""
    manners = {}
    for label, table in like.tables.items():
        copied = table.digest is not None and table.digest.startswith(_COPY_MARK)
        manners[label] = _COPIED if copied else _COUNTED if table.digest is None else table.ends or _WHOLE
    return _counted_so(connection, list(tables), like.kind, manners)


def _measured(
    connection: Connection, table: Relation, columns: List[_Column], manner: int, thoroughly: bool
) -> TableFingerprint:
    """Measure a table; where the server cannot put its values into text (beyond 1 GB, for one), count it only.

    A savepoint gives back the locks that a question takes on indexes: a server has room for a few thousand in all.
    """
    connection.run("SAVEPOINT question")
    try:
        return _measure(connection, table, columns, manner, thoroughly)
    except (Unreachable, Locked, PermissionDenied):
        raise
    except EngineError:
        if manner == _COUNTED:
            raise
        connection.run("ROLLBACK TO SAVEPOINT question")
        return _measure(connection, table, columns, _COUNTED, thoroughly)
    finally:
        if connection.usable:
            connection.run("ROLLBACK TO SAVEPOINT question; RELEASE SAVEPOINT question")


def _counted_so(
    connection: Connection, tables: List[Relation], kind: FingerprintKind, manners: Mapping[str, int]
) -> Fingerprint:
    counted: Dict[str, TableFingerprint] = {}
    digests = kind is FingerprintKind.DIGEST
    columns: Dict[int, List[_Column]] = {}
    if digests or any(manners.values()):
        connection.run(_TEXT_FORM)
        columns = _columns(connection, tables)
    unplanned = _unplanned(connection, tables)
    for table in tables:
        manner = manners.get(table.label, _COUNTED)
        if manner == _COPIED or (manner == _COUNTED and table.oid in unplanned):
            named = columns.get(table.oid) or _columns(connection, [table]).get(table.oid, [])
            counted[table.label] = _copied(connection, table, named, manner == _COPIED)
            continue
        counted[table.label] = _measured(connection, table, columns.get(table.oid, []), manner, digests)
    large = _counted(connection, _LARGE_OBJECT_DIGEST if digests else _LARGE_OBJECT_COUNT)
    if large.rows:
        counted[LARGE_OBJECTS] = large
    return Fingerprint(kind=kind, tables=counted)


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

    def hashed(self, thoroughly: bool) -> str:
        """What stands for its value in the text of a row."""
        if self.length > 0 or self.type in _SHORT:
            return self.identifier
        if self.type not in _MEASURABLE:
            # In a row of its own, the value's text is what its type writes, whatever casts somebody defined.
            return _HASH % f"ROW({self.identifier})::text"
        exact = f"encode(sha256({self.identifier}), 'hex')" if self.type == "bytea" else _HASH % self.identifier
        long = exact if thoroughly else f"octet_length({self.identifier})"
        if self.type != "bytea" and thoroughly:
            return exact
        return f"CASE WHEN octet_length({self.identifier}) > {_LONG} THEN {long}::text ELSE {self.identifier}::text END"


def _measure(
    connection: Connection, table: Relation, columns: List[_Column], manner: int, thoroughly: bool
) -> TableFingerprint:
    used = [one for one in columns if thoroughly or one.portable]
    key = sorted((one for one in columns if one.place), key=lambda one: one.place)
    # Where text decides the order, another version of a collation could make another one.
    if manner == _COUNTED or (manner > 0 and (not key or any(one.collated or not one.portable for one in key))):
        return _counted(connection, _COUNT % table.identifier)
    line = _HASH % f"ROW({', '.join(one.hashed(thoroughly) for one in used)})::text"
    if manner == _WHOLE:
        return _counted(connection, _TABLE_DIGEST % (line, table.identifier))
    up, down = (", ".join(one.identifier + direction for one in key) for direction in ("", " DESC"))
    question = _SAMPLE_DIGEST.format(table=table.identifier, hash=line, up=up, down=down, rows=int(manner))
    return _counted(connection, question)._replace(ends=manner)


class _CopiedRows:
    """Where the rows of a COPY arrive, one after the other: they are counted, and hashed where that is wanted."""

    def __init__(self, hashed: bool) -> None:
        self.rows, self.sum = 0, 0
        self._hashed = hashed

    def write(self, row: bytes) -> int:
        # A line break within a value is escaped (PostgreSQL manual, COPY, "Text Format").
        self.rows += row.count(b"\n")
        if self._hashed:
            self.sum += int.from_bytes(hashlib.sha256(row).digest()[:8], "big")
        return len(row)


def _copied(connection: Connection, table: Relation, columns: List[_Column], hashed: bool) -> TableFingerprint:
    """Count a table without a query. For a count alone, the shortest column stands for a row."""
    if not hashed:
        columns = sorted(columns, key=lambda one: (one.length < 0, one.length))[:1]
    names = f"({', '.join(quote_identifier(one.name) for one in columns)})" if columns else ""
    arrived = _CopiedRows(hashed)
    connection.copy_out(f"COPY {table.identifier} {names} TO STDOUT", arrived)
    return TableFingerprint(arrived.rows, f"{_COPY_MARK}{arrived.sum % _MODULUS:016x}" if hashed else None)


def _unplanned(connection: Connection, tables: Sequence[Relation]) -> Set[int]:
    return {oid for (oid,) in connection.rows(_UNPLANNED, {"tables": [one.oid for one in tables]})}


def _counted(connection: Connection, question: str) -> TableFingerprint:
    rows, *sums = connection.rows(question)[0]
    # The sum over no rows at all is NULL.
    digest = f"{int(sums[0] or 0) % _MODULUS:016x}" if sums else None
    return TableFingerprint(rows=int(rows), digest=digest)


def _columns(connection: Connection, tables: List[Relation]) -> Dict[int, List[_Column]]:
    found: Dict[int, List[_Column]] = {}
    for oid, *column in connection.rows(_COLUMNS, [[table.oid for table in tables]]):
        found.setdefault(oid, []).append(_Column(*column))
    return found
