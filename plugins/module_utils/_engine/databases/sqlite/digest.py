# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is in a table, as one number: the same for the same rows in any order, whatever their size.

A value that is too long to hold is read in pieces: by SQLite's incremental I/O (sqlite.org/c3ref/blob_open.html), which
holds nothing of it and which Python has since 3.11, and before that, and in tables WITHOUT ROWID or with computed
columns, by ``substr``, for which SQLite holds that one value.
"""

from __future__ import annotations

import codecs
import hashlib
import sqlite3
import struct
from contextlib import closing
from functools import partial
from itertools import chain
from typing import Any, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from ...errors import Unverifiable
from ...model import TableFingerprint

#: Longer texts and blobs are represented by their own digest.
_INLINE = 1 << 20
#: Rows that hold a longer value are read in pieces.
_WHOLE = 4 << 20
_PIECE = 1 << 20
#: SQLite reads a value anew for each piece that ``substr`` takes from it.
_LARGE_PIECE = 32 << 20
#: A query returns up to 2000 columns (sqlite.org/limits.html); for pieces, each takes two.
_MOST_COLUMNS = 900
#: SQLITE_LIMIT_LENGTH (sqlite.org/c3ref/c_limit_attached.html), which Python names since 3.11.
_LIMIT_LENGTH = 0
_ROWID_NAMES = ("rowid", "_rowid_", "oid")
_ENCODINGS = {"UTF-8": None, "UTF-16le": "utf-16-le", "UTF-16be": "utf-16-be"}


class Text(bytes):
    """A value of type TEXT, kept apart from a BLOB of the same bytes."""


class _Table(NamedTuple):
    """A table to read. ``columns`` are the places of those that are stored, in ``SELECT *``; ``rowid`` is a name for
    the key that no column hides, None where there is none, and ``key`` are the places of the primary key then."""

    name: str
    width: int
    columns: Tuple[int, ...]
    rowid: Optional[str]
    key: Tuple[int, ...]


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
    asked = "FROM pragma_table_xinfo(?) WHERE hidden <> 1 ORDER BY cid"
    found = connection.execute(f"SELECT hidden, pk {asked}", (name,)).fetchall()
    stored = tuple(place for place, (hidden, _key) in enumerate(found) if hidden != 2)
    key = tuple(place for place, (_hidden, part) in enumerate(found) if part)
    hiding = "SELECT count(*) FROM pragma_table_xinfo(?) WHERE lower(name) = ?"
    rowid: Optional[str] = None
    for one in _ROWID_NAMES:
        try:
            if connection.execute(hiding, (name, one)).fetchone() == (0,):
                connection.execute(f"SELECT {one} FROM {quoted(name)} NOT INDEXED LIMIT 1").fetchone()
                rowid = one
                break
        except sqlite3.OperationalError as error:
            if "no such column" not in str(error):
                raise
    return _Table(name, len(found), stored, rowid, key)


def _contents(connection: Any, table: _Table) -> Iterator[bytes]:
    """The SHA-256 of each row."""
    # Incremental I/O takes a column behind one that is computed for another one.
    if table.rowid is None or len(table.columns) != table.width or not _has_incremental_io(connection):
        yield from _contents_by_substr(connection, table)
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


def _has_incremental_io(connection: Any) -> bool:
    return hasattr(connection, "blobopen") and hasattr(connection, "setlimit")


def _select(table: _Table, wanted: str, rest: str = "", last: str = "") -> str:
    """A query of the columns by their places, ``c0`` and so on, since their names can be what Python cannot read, and
    of the rowid as ``k``. ``rest`` is of the table, ``last`` of the places."""
    names = ", ".join(f"c{place}" for place in range(table.width))
    key, first = ("k, ", f"{table.rowid}, *") if table.rowid else ("", "*")
    source = f"SELECT {first} FROM {quoted(table.name)} NOT INDEXED {rest}"
    # Any name but that of the table.
    rows = quoted(f"{table.name} rows")
    return f"WITH {rows}({key}{names}) AS ({source}) SELECT {wanted} FROM {rows} {last}"


def _places(table: _Table) -> str:
    return ", ".join(f"c{place}" for place in table.columns)


def _after(table: _Table, last: Optional[int]) -> str:
    where = "" if last is None else f"WHERE {table.rowid} > {int(last)}"
    return _select(table, f"k, {_places(table)}", f"{where} ORDER BY {table.rowid}")


def _contents_by_substr(connection: sqlite3.Connection, table: _Table) -> Iterator[bytes]:
    """The SHA-256 of each row; a value that is too long to hold is left out of the row and read after it."""
    # A row is found again by what is read whole.
    long = {place: _is_long(place) if place not in table.key or table.rowid else "0" for place in table.columns}
    key = ["k"] if table.rowid else [f"c{place}" for place in table.key]
    if not key or len(long) > _MOST_COLUMNS:
        for row in connection.execute(_select(table, _places(table))):
            yield _digest_of(row)
        return
    short = [f"CASE WHEN {test} THEN NULL ELSE c{place} END" for place, test in long.items()]
    for row in connection.execute(_select(table, ", ".join([*short, *long.values(), *key]))):
        values, marks, found = row[: len(long)], row[len(long) : 2 * len(long)], row[2 * len(long) :]
        if not any(marks):
            yield _digest_of(values)
            continue
        where = "WHERE " + " AND ".join(f"{name} = ?" for name in key)
        digest = hashlib.sha256()
        for place, value, mark in zip(table.columns, values, marks):
            digest.update(_by_substr(connection, table, place, where, found) if mark else _encoded(value))
        yield digest.digest()


def _is_long(place: int) -> str:
    size = (
        f"CASE typeof(c{place}) WHEN 'blob' THEN length(c{place}) WHEN 'text' THEN length(CAST(c{place} AS BLOB)) END"
    )
    return f"ifnull({size} > {_WHOLE}, 0)"


def _by_substr(connection: sqlite3.Connection, table: _Table, place: int, where: str, found: Any) -> bytes:
    """What ``_encoded`` gives, for a value that is read in pieces."""
    try:
        key = [value.decode("utf-8") if isinstance(value, Text) else value for value in found]
    except UnicodeDecodeError:
        raise Unverifiable(
            f"A key of {table.name} is not UTF-8, and its row has a value too long to read at once. "
            "Take backups with fingerprint counts."
        ) from None
    (kind,) = connection.execute(_select(table, f"typeof(c{place})", "", where), key).fetchone()
    sql = _select(table, f"substr(CAST(c{place} AS BLOB), ?, {_LARGE_PIECE})", "", where)

    def pieces() -> Iterator[bytes]:
        start = 1
        while True:
            (piece,) = connection.execute(sql, [start, *key]).fetchone()
            if not piece:
                return
            yield piece
            start += len(piece)

    return _encoded_in_pieces(pieces(), bytes(kind)[:1], _codec(connection, bytes(kind)))


def _codec(connection: sqlite3.Connection, kind: bytes) -> Optional[str]:
    """How a text lies in the file, where that is not UTF-8."""
    (encoding,) = connection.execute("PRAGMA encoding").fetchone()
    return _ENCODINGS[bytes(encoding).decode("ascii")] if kind == b"text" else None


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
    digest = hashlib.sha256()
    for name in _names(connection, table):
        column, where = quoted(name), f"FROM {quoted(table.name)} NOT INDEXED WHERE {table.rowid} = {rowid}"
        (kind,) = connection.execute(f"SELECT typeof({column}) {where}").fetchone()
        if bytes(kind) in (b"text", b"blob"):
            with closing(connection.blobopen(table.name, name, rowid, readonly=True)) as blob:
                pieces = iter(partial(blob.read, _PIECE), b"")
                digest.update(_encoded_in_pieces(pieces, bytes(kind)[:1], _codec(connection, bytes(kind))))
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


def _encoded_in_pieces(pieces: Iterable[bytes], tag: bytes, codec: Optional[str]) -> bytes:
    """``_encoded`` of a text or blob that comes in pieces; a text in UTF-16 counts as in UTF-8."""
    decoder = codecs.getincrementaldecoder(codec)("replace") if codec else None
    digest, held, size = hashlib.sha256(), b"", 0
    for piece in chain(pieces, (b"",)):
        content = decoder.decode(piece, not piece).encode("utf-8") if decoder else piece
        digest.update(content)
        size += len(content)
        held = held + content if size <= _INLINE else b""
    return tag.upper() + digest.digest() if size > _INLINE else tag + b"%d:" % size + held
