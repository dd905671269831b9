# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rows of a query on a restored copy, fetched in portions (PostgreSQL manual, "DECLARE")."""

from __future__ import annotations

from typing import Any, Iterator, List, Optional, Tuple

from ...errors import EngineError
from ..answers import few
from .connection import Connection
from .failures import sqlstate

_NAME = "fleetbackup_assertion"
#: How many rows are fetched at once; the driver holds them all, however long they are.
_PORTION = 100
_SYNTAX_ERROR = "42601"


def rows_of(session: Connection, sql: str) -> Optional[List[Tuple[Any, ...]]]:
    """The rows of a statement, or None where it returns none at all. Raises Mismatch where they are too much.

    The session is in a transaction. Only a query can have a cursor: any other statement, such as SHOW, is run as it is.
    """
    session.run(f"SAVEPOINT {_NAME}")
    try:
        session.run(f"DECLARE {_NAME} NO SCROLL CURSOR FOR {sql}")
    except EngineError as error:
        if sqlstate(error) != _SYNTAX_ERROR:
            raise
        session.run(f"ROLLBACK TO SAVEPOINT {_NAME}")
        found = session.rows_or_none(sql)
        return found if found is None else few(found)
    return few(_fetched(session))


def _fetched(session: Connection) -> Iterator[Tuple[Any, ...]]:
    count = 1
    while True:
        rows = session.rows(f"FETCH {count} FROM {_NAME}")
        yield from rows
        if len(rows) < count:
            return
        count = min(2 * count, _PORTION)
