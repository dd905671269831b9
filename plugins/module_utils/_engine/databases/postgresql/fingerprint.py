# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Counting what a database holds, on the server: no row comes to this process.

A digest is the sum, modulo 2^64, of a 64-bit hash of every row. A sum does not depend on the order of rows, and
notices a row that is missing, changed or there twice. What is hashed is the row's text, with its columns in the order
of their names: neither a dropped column nor another physical order makes a difference. Generated columns are left out,
as a dump leaves them out.
"""

from __future__ import annotations

from typing import Dict, Iterable, List

from ...errors import BadInput
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

_COLUMNS = """
SELECT a.attrelid, a.attname FROM pg_attribute a
 WHERE a.attrelid = ANY (%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
 ORDER BY a.attrelid, a.attname COLLATE "C"
"""

# One level only, so that the server can count with several workers.
_TABLE_DIGEST = 'SELECT count(*), sum(hashtextextended(ROW(%s)::text COLLATE "C", 0)) FROM ONLY %s AS t'

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


def count(connection: Connection, tables: Iterable[Relation], kind: FingerprintKind) -> Fingerprint:
    """Count these tables and the large objects in the session's open transaction. Raises a typed error."""
    wanted = list(tables)
    counted: Dict[str, TableFingerprint] = {}
    digests = kind is FingerprintKind.DIGEST
    if digests:
        connection.run(_TEXT_FORM)
    columns = _columns(connection, wanted) if digests else {}
    for table in wanted:
        counted[table.label] = _counted(connection, _question(table, columns.get(table.oid, []), digests))
    large = _counted(connection, _LARGE_OBJECT_DIGEST if digests else _LARGE_OBJECT_COUNT)
    if large.rows:
        counted[LARGE_OBJECTS] = large
    return Fingerprint(kind=kind, tables=counted)


def _question(table: Relation, columns: List[str], digests: bool) -> str:
    if not digests:
        return f"SELECT count(*) FROM ONLY {table.identifier}"
    return _TABLE_DIGEST % (", ".join("t." + quote_identifier(column) for column in columns), table.identifier)


def _counted(connection: Connection, question: str) -> TableFingerprint:
    rows, *sums = connection.rows(question)[0]
    # The sum over no rows at all is NULL.
    digest = f"{int(sums[0] or 0) % _MODULUS:016x}" if sums else None
    return TableFingerprint(rows=int(rows), digest=digest)


def _columns(connection: Connection, tables: List[Relation]) -> Dict[int, List[str]]:
    found: Dict[int, List[str]] = {}
    for oid, name in connection.rows(_COLUMNS, [[table.oid for table in tables]]):
        found.setdefault(oid, []).append(name)
    return found
