# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When a query on a table can be planned without running a function of its owner's.

To plan a query, the server evaluates what it can of the expressions in the table's indexes and extended statistics, as
they are at that moment and with the rights of the session, whatever snapshot the query reads. No role helps: SECURITY
INVOKER code leaves the role that was set, and only the server itself has sessions that cannot.

So a second session makes sure, while the first one plans. It locks the table against new indexes and statistics, and
the schemas against being renamed, as a table of the same name in another schema would be planned instead. It looks at
what is committed then, and lets go of the locks as soon as the query is planned: running it evaluates none of that.
Only a superuser gets these locks, and only on a primary. All others copy the table: COPY plans nothing (copyto.c).
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import Iterator, Optional

from ...errors import Locked
from .catalogue import Relation
from .connection import Access, Connection
from .definition import literal

#: Tables among those of an SQL expression whose indexes or statistics hold what initdb did not make.
_UNPLANNED = """
SELECT i.indrelid FROM pg_index i JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
 WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass) AND i.indrelid {tables}
UNION
SELECT s.stxrelid FROM pg_statistic_ext s JOIN pg_depend d
    ON d.classid = 'pg_statistic_ext'::regclass AND d.objid = s.oid
 WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass) AND s.stxrelid {tables}
"""
#: Tables that this session's snapshot says it of.
UNPLANNED = _UNPLANNED.format(tables="= ANY (%(tables)s::oid[])")

#: A schema is renamed by a change of pg_namespace, which can still be read. The last statement has a snapshot of its
#: own, so that it sees what was committed before the locks.
_FREEZE = """
BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL lock_timeout = {wait};
LOCK TABLE pg_catalog.pg_namespace IN SHARE MODE;
LOCK TABLE ONLY {name} IN SHARE UPDATE EXCLUSIVE MODE;
SELECT EXISTS (SELECT FROM pg_class WHERE oid = {oid} AND oid = to_regclass({text}) AND relkind = 'r')
   AND NOT EXISTS ({unplanned})
"""
#: Milliseconds that a lock is waited for, while others wait behind; and after how many waits in vain that is over, as
#: tables can as well be copied.
_WAIT, _WAITS = 100, 20


class Planning:
    """A session beside the one that counts."""

    def __init__(self, session: Connection) -> None:
        self._session = session
        self._waits = _WAITS

    @contextmanager
    def frozen(self, table: Relation) -> Iterator[bool]:
        """Whether a query on the table is safe to plan, as long as the context lasts."""
        try:
            yield self._is_safe(table)
        finally:
            if self._session.usable:
                self._session.run("ROLLBACK")

    def plan(self, counting: Connection, table: Relation, question: str) -> bool:
        """Make a cursor "answer" of a question in an open transaction; False where that is not safe now."""
        with self.frozen(table) as safe:
            if not safe:
                return False
            try:
                # While it waits for the lock of an index, others wait for ours.
                counting.run(f"SET LOCAL lock_timeout = {_WAIT}; DECLARE answer NO SCROLL CURSOR FOR {question}")
            except Locked:
                return False
        return True

    def _is_safe(self, table: Relation) -> bool:
        if not self._waits:
            return False
        freeze = _FREEZE.format(
            wait=_WAIT,
            name=table.identifier,
            oid=int(table.oid),
            text=literal(table.identifier),
            unplanned=_UNPLANNED.format(tables=f"= {int(table.oid)}"),
        )
        try:
            return bool(self._session.value(freeze))
        except Locked:
            self._waits -= 1
            return False


@contextmanager
def beside(access: Access, database: str, counting: Connection) -> Iterator[Optional[Planning]]:
    """A session of the same login's, where it can lock what is needed; None where tables have to be copied."""
    able = counting.value("SELECT current_setting('is_superuser') = 'on' AND NOT pg_is_in_recovery()")
    with ExitStack() as stack:
        yield Planning(stack.enter_context(access.connect(database))) if able else None
