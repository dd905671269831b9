# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is in a table, as one number: the same for the same rows in any order, whatever their size.

A row that is too long to hold is read value by value in pieces, by SQLite's incremental I/O
(sqlite.org/c3ref/blob_open.html). Python has that, and the limit that tells such rows apart, since 3.11. Before, and in
tables WITHOUT ROWID or with computed columns, a value must fit into memory.
"""

from __future__ import annotations

import codecs
import hashlib
import sqlite3
import struct
from contextlib import closing
from typing import Any, Iterator, List, NamedTuple, Optional, Tuple

from ...errors import Unverifiable
from ...model import TableFingerprint

#: Longer texts and blobs are represented by their own digest.
_INLINE = 1 << 20
#: Rows that hold a longer value are read in pieces.
_WHOLE = 4 << 20
_PIECE = 1 << 20
#: SQLITE_LIMIT_LENGTH (sqlite.org/c3ref/c_limit_attached.html), which Python names since 3.11.
_LIMIT_LENGTH = 0
_ROWID_NAMES = ("rowid", "_rowid_", "oid")
_ENCODINGS = {"UTF-8": None, "UTF-16le": "utf-16-le", "UTF-16be": "utf-16-be"}


class Text(bytes):
    """A value of type TEXT, kept apart from a BLOB of the same bytes."""


class _Table(NamedTuple):
    """A table to read. ``columns`` are the places of those that are stored, in ``SELECT *``; ``rowid`` is a name for
    the key that no column hides, None where there is none."""

    name: str
    width: int
    columns: Tuple[int, ...]
    rowid: Optional[str]


def digest_table(connection: sqlite3.Connection, name: str) -> TableFingerprint:
    """The SHA-256 of the number of rows and the sum of every row's SHA-256, modulo 2^256.

    A sum does not depend on the order of rows, and unlike an exclusive or does not lose rows that occur twice. Columns
    that are computed when they are read are left out.
    """
    table = _describe(connection, name)
    rows = total = 0
    connection.text_factory = Text
    try:
        for content in _contents(connection, table):
            total += int.from_bytes(content, "big")
            rows += 1
    finally:
        connection.text_factory = str
    summary = f"{rows}:{total % (1 << 256):064x}"
    return TableFingerprint(rows=rows, digest=hashlib.sha256(summary.encode("ascii")).hexdigest())


def quoted(identifier: str) -> str:
    """A name as SQL has it."""
    return '"' + identifier.replace('"', '""') + '"'


def _describe(connection: sqlite3.Connection, name: str) -> _Table:
    # Asked for what they are, and not for their names, which need not be UTF-8.
    found = connection.execute("SELECT hidden FROM pragma_table_xinfo(?) WHERE hidden <> 1 ORDER BY cid", (name,))
    kinds = [hidden for (hidden,) in found]
    stored = tuple(place for place, hidden in enumerate(kinds) if hidden != 2)
    hiding = "SELECT count(*) FROM pragma_table_xinfo(?) WHERE lower(name) = ?"
    free = [one for one in _ROWID_NAMES if connection.execute(hiding, (name, one)).fetchone() == (0,)]
    rowid: Optional[str] = None
    # Incremental I/O takes a column behind one that is computed for another one.
    for one in free[:1] if len(stored) == len(kinds) else ():
        try:
            connection.execute(f"SELECT {one} FROM {quoted(name)} NOT INDEXED LIMIT 1").fetchone()
            rowid = one
        except sqlite3.OperationalError as error:
            if "no such column" not in str(error):
                raise
    return _Table(name, len(kinds), stored, rowid)


def _contents(connection: Any, table: _Table) -> Iterator[bytes]:
    """The SHA-256 of each row."""
    if table.rowid is None or not hasattr(connection, "blobopen") or not hasattr(connection, "setlimit"):
        for row in connection.execute(_select(table, "*", "")):
            yield _digest_of(row)
        return
    limit, last = connection.getlimit(_LIMIT_LENGTH), None
    while True:
        connection.setlimit(_LIMIT_LENGTH, _WHOLE)
        try:
            for rowid, *row in connection.execute(_after(table, last)):
                yield _digest_of(row)
                last = rowid
            return
        except sqlite3.DataError as error:
            if "too big" not in str(error):
                raise
        finally:
            connection.setlimit(_LIMIT_LENGTH, limit)
        where = "" if last is None else f"WHERE {table.rowid} > {int(last)}"
        last = connection.execute(
            f"SELECT {table.rowid} FROM {quoted(table.name)} NOT INDEXED {where} ORDER BY {table.rowid} LIMIT 1"
        ).fetchone()[0]
        yield _digest_of_long(connection, table, int(last))


def _select(table: _Table, first: str, rest: str) -> str:
    """A query of the stored columns by their places: their names can be what Python cannot read."""
    names = ", ".join(f"c{place}" for place in range(table.width))
    wanted = ", ".join(f"c{place}" for place in table.columns)
    key = "" if first == "*" else "k, "
    source = f"SELECT {first} FROM {quoted(table.name)} NOT INDEXED {rest}"
    # Any name but that of the table.
    rows = quoted(f"{table.name} rows")
    return f"WITH {rows}({key}{names}) AS ({source}) SELECT {key}{wanted} FROM {rows}"


def _after(table: _Table, last: Optional[int]) -> str:
    where = "" if last is None else f"WHERE {table.rowid} > {int(last)}"
    return _select(table, f"{table.rowid}, *", f"{where} ORDER BY {table.rowid}")


def _digest_of(row: Any) -> bytes:
    return hashlib.sha256(b"".join(map(_encoded, row))).digest()


def _encoded(value: Any) -> bytes:
    """A value with its storage class, so that no two rows of different values have the same bytes."""
    if value is None:
        return b"n"
    if isinstance(value, int):
        return b"i%d;" % value
    if isinstance(value, float):
        return b"r" + struct.pack(">d", value)
    tag = b"t" if isinstance(value, Text) else b"b"
    if len(value) > _INLINE:
        return tag.upper() + hashlib.sha256(value).digest()
    return tag + b"%d:" % len(value) + bytes(value)


def _digest_of_long(connection: Any, table: _Table, rowid: int) -> bytes:
    """What ``_digest_of`` gives, for a row that is not read whole."""
    (encoding,) = connection.execute("PRAGMA encoding").fetchone()
    digest = hashlib.sha256()
    for name in _names(connection, table):
        column, where = quoted(name), f"FROM {quoted(table.name)} NOT INDEXED WHERE {table.rowid} = {rowid}"
        (kind,) = connection.execute(f"SELECT typeof({column}) {where}").fetchone()
        if bytes(kind) in (b"text", b"blob"):
            codec = _ENCODINGS[bytes(encoding).decode("ascii")] if bytes(kind) == b"text" else None
            with closing(connection.blobopen(table.name, name, rowid, readonly=True)) as blob:
                digest.update(_encoded_in_pieces(blob, bytes(kind)[:1], codec))
        else:
            digest.update(_encoded(connection.execute(f"SELECT {column} {where}").fetchone()[0]))
    return digest.digest()


def _names(connection: sqlite3.Connection, table: _Table) -> List[str]:
    found = connection.execute(
        "SELECT name FROM pragma_table_xinfo(?) WHERE hidden <> 1 ORDER BY cid", (table.name,)
    ).fetchall()
    try:
        return [bytes(found[place][0]).decode("utf-8") for place in table.columns]
    except UnicodeDecodeError:
        raise Unverifiable(
            f"A column of {table.name} has a name that is not UTF-8 and a value too long to read at once. "
            "Take backups with fingerprint counts."
        ) from None


def _encoded_in_pieces(blob: Any, tag: bytes, codec: Optional[str]) -> bytes:
    """``_encoded`` of a text or blob that is read in pieces; a text in UTF-16 counts as in UTF-8."""
    decoder = codecs.getincrementaldecoder(codec)("replace") if codec else None
    digest, held, size = hashlib.sha256(), b"", 0
    while True:
        piece = blob.read(_PIECE)
        final = not piece
        if decoder:
            piece = decoder.decode(piece, final).encode("utf-8")
        digest.update(piece)
        size += len(piece)
        held = held + piece if size <= _INLINE else b""
        if final:
            break
    return tag.upper() + digest.digest() if size > _INLINE else tag + b"%d:" % size + held
