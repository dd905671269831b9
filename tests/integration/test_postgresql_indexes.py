# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a backup sees of indexes that are not as they should be, and what only a verification sees."""

from __future__ import annotations

from pathlib import Path

from _engine.model import Level, Outcome
from postgres import Cluster
from world import World

#: An index that does not know of a row, as after a fault of the disk or another version of a collation.
DAMAGED = """
CREATE TABLE {table} (n int); CREATE UNIQUE INDEX {table}_n ON {table} (n); INSERT INTO {table} VALUES (1);
UPDATE pg_index SET indisready = false, indisvalid = false WHERE indexrelid = '{table}_n'::regclass;
"""
REPAIRED = "UPDATE pg_index SET indisready = true, indisvalid = true WHERE indexrelid = '{table}_n'::regclass"


def test_an_invalid_index_is_told_and_a_damaged_one_is_found_by_restoring(
    cluster: Cluster, database: str, tmp_path: Path
) -> None:
    world = World(tmp_path / "world")
    world.database = cluster.database(database)
    for table, row in (("blind", 2), ("twice", 1)):
        cluster.sql(DAMAGED.format(table=table), database)
        cluster.sql(f"INSERT INTO {table} VALUES ({row})", database)
    (warning,) = world.backup().warnings
    assert "Not in the backup" in warning and "blind_n" in warning and "twice_n" in warning
    cluster.sql(REPAIRED.format(table="blind"), database)
    # Only the index is damaged: a restore builds it anew.
    cluster.sql("DROP TABLE twice", database)
    assert world.backup().warnings == ()
    (check,) = world.verify(level=Level.RESTORE).checks
    assert check.outcome is Outcome.PASSED, check.detail
    # The damage let a row in that the index forbids: no restore can build it.
    cluster.sql(DAMAGED.format(table="twice"), database)
    cluster.sql("INSERT INTO twice VALUES (1)", database)
    cluster.sql(REPAIRED.format(table="twice"), database)
    assert world.backup().warnings == ()
    assert world.verify(level=Level.CONTENTS).passed
    (check,) = world.verify(level=Level.RESTORE).checks
    # Never green; and not held against the backup, as a function of the owner's can say the same.
    assert check.outcome is Outcome.UNVERIFIABLE and "unique" in check.detail, check.detail
