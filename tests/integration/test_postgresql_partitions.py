# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rows that belong in another partition on the server that they are restored on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from _engine.model import FingerprintKind, Level, Outcome
from world import World

if TYPE_CHECKING:
    from postgres import Cluster


@pytest.fixture
def world(tmp_path: Path, cluster: Cluster, database: str) -> World:
    made = World(tmp_path / "world")
    made.database = cluster.database(database)
    return made


#: The hash of an enum's value depends on the OID that it happens to have. Partitions of partitions inherit that.
BY_MOOD = """
CREATE TYPE mood AS ENUM ('glad', 'calm', 'sad', 'cross', 'tired');
CREATE TABLE year (y int, m mood, n int) PARTITION BY LIST (y);
CREATE TABLE y1 PARTITION OF year FOR VALUES IN (1);
CREATE TABLE y2 PARTITION OF year FOR VALUES IN (2) PARTITION BY HASH (m);
CREATE TABLE y2_a PARTITION OF y2 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE y2_b PARTITION OF y2 FOR VALUES WITH (MODULUS 2, REMAINDER 1) PARTITION BY HASH (m);
CREATE TABLE y2_b1 PARTITION OF y2_b FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE y2_b2 PARTITION OF y2_b FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO year SELECT 1 + i % 2, (enum_range(NULL::mood))[1 + i % 5], i FROM generate_series(1, 300) AS i;
"""


@pytest.mark.parametrize("kind", [FingerprintKind.COUNTS, FingerprintKind.DIGEST])
def test_partitions_by_the_hash_of_an_enum_count_as_one_table(
    world: World, cluster: Cluster, database: str, kind: FingerprintKind
) -> None:
    cluster.sql(BY_MOOD, database)
    fingerprint = world.backup(fingerprint=kind).manifest.fingerprint
    assert fingerprint and {name: table.rows for name, table in fingerprint.tables.items()} == {
        "public.y1": 150,
        "public.y2": 150,
    }
    assert fingerprint.tables["public.y2"].digest
    assert world.verify(level=Level.RESTORE).checks[0].outcome is Outcome.PASSED
    world.restore(database=cluster.database(f"{database}_copy"), source_database=database)
    # A row that changes is noticed there all the same.
    cluster.sql("UPDATE y2 SET n = n + 1 WHERE n = (SELECT min(n) FROM y2)", database)
    after = world.backup(fingerprint=kind).manifest.fingerprint
    assert after and fingerprint.differences(after) == ["table public.y2 has other contents"]
