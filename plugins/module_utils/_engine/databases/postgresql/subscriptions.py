# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Subscriptions of a restored copy, which name a replication slot that belongs to the original.

An enabled copy would take changes from the slot that the original reads, and dropping it would drop the slot. So a
copy's subscriptions are disabled and detached before anything else (PostgreSQL manual, "Subscription"). pg_restore
creates them without connecting.
"""

from __future__ import annotations

from typing import List, Tuple

from .connection import Access, Connection, quote_identifier

_HERE = """
SELECT s.subname, s.subslotname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
 WHERE d.datname = %s ORDER BY 1
"""


def found(control: Connection, database: str) -> List[Tuple[str, str]]:
    """Each subscription of a database, and its slot (None where it is detached). Asked in any database."""
    return [(str(name), slot) for name, slot in control.rows(_HERE, [database])]


def detach(access: Access, control: Connection, database: str) -> List[str]:
    """Disable and detach the subscriptions of a restored copy; a sentence about each, with what attaches it again."""
    notes = []
    subscriptions = found(control, database)
    if subscriptions:
        with access.connect(database) as inside:
            for name, slot in subscriptions:
                _detach(inside, name)
                attach = f"ALTER SUBSCRIPTION {quote_identifier(name)} SET (slot_name = '{slot}')" if slot else ""
                notes.append(
                    f'Subscription "{name}" was restored disabled and without a replication slot, so that it does not '
                    "take changes from the original."
                    + (f" When this database replaces the original: {attach}, then ENABLE it." if attach else "")
                )
    return notes


def drop(access: Access, control: Connection, database: str) -> None:
    """Drop the subscriptions of a restored copy, and no replication slot; with them, the copy cannot be dropped."""
    subscriptions = found(control, database)
    if subscriptions:
        with access.connect(database) as inside:
            for name, _slot in subscriptions:
                _detach(inside, name)
                inside.run(f"DROP SUBSCRIPTION {quote_identifier(name)}")


def _detach(inside: Connection, name: str) -> None:
    subscription = f"ALTER SUBSCRIPTION {quote_identifier(name)}"
    inside.run(f"{subscription} DISABLE")
    inside.run(f"{subscription} SET (slot_name = NONE)")
