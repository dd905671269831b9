# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Counting a table runs no function of its owner, and needs none that pg_dump does not need."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from _engine.model import FingerprintKind
from world import World

if TYPE_CHECKING:
    from postgres import Cluster

#: A function that calls another one without its schema: with an empty search path, it cannot be planned.
CALLS_WITHOUT_SCHEMA = """
CREATE FUNCTION inner_norm(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower($1)';
CREATE FUNCTION norm(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT inner_norm($1)';
CREATE TABLE place (name text, n int);
INSERT INTO place VALUES ('Oslo', 1), (E'Ber\\ngen', 2);
CREATE INDEX place_norm ON place (norm(name));
"""
#: What a planner evaluates once for all rows, in any session that queries the table; here it fails in ours.
RUN_BY_THE_PLANNER = """
CREATE FUNCTION gift(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  IF current_setting('application_name') = 'fleet-backup' THEN RAISE EXCEPTION 'run by the planner'; END IF;
  RETURN $1;
END $$;
CREATE TABLE place (name text, n int);
INSERT INTO place VALUES ('Oslo', 1), ('Bergen', 2);
CREATE TABLE other AS SELECT * FROM place;
"""


@pytest.fixture
def world(tmp_path: Path, cluster: Cluster, database: str) -> World:
    made = World(tmp_path / "world")
    made.database = cluster.database(database)
    return made


@pytest.mark.parametrize("kind", [FingerprintKind.COUNTS, FingerprintKind.DIGEST])
def test_a_function_that_only_a_planner_calls_fails_no_backup(
    world: World, cluster: Cluster, database: str, kind: FingerprintKind
) -> None:
    cluster.sql(CALLS_WITHOUT_SCHEMA, database)
    fingerprint = world.backup(fingerprint=kind).manifest.fingerprint
    assert fingerprint is not None and fingerprint.tables["public.place"].rows == 2


@pytest.mark.parametrize("place", ["INDEX one ON place ((gift(1)))", "STATISTICS one ON (gift(1) + n), n FROM place"])
@pytest.mark.parametrize("kind", [FingerprintKind.COUNTS, FingerprintKind.DIGEST])
def test_counting_runs_no_function_of_an_index_or_of_statistics(
    world: World, cluster: Cluster, database: str, kind: FingerprintKind, place: str
) -> None:
    cluster.sql(f"{RUN_BY_THE_PLANNER} CREATE {place}", database)
    fingerprint = world.backup(fingerprint=kind).manifest.fingerprint
    assert fingerprint is not None and fingerprint.tables["public.place"].rows == 2
    assert fingerprint.tables["public.other"].rows == 2


def test_the_digest_of_a_copied_table_notices_what_changed(world: World, cluster: Cluster, database: str) -> None:
    cluster.sql("CREATE FUNCTION same(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1'", database)
    cluster.sql("CREATE TABLE place AS SELECT 'Oslo' AS name, 1 AS n; CREATE INDEX ON place (same(n))", database)
    digests = []
    for change in (
        "SELECT 1",
        "UPDATE place SET name = 'Olso' WHERE n = 1",
        "UPDATE place SET name = 'Oslo' WHERE n = 1",
    ):
        cluster.sql(change, database)
        fingerprint = world.backup(fingerprint=FingerprintKind.DIGEST).manifest.fingerprint
        assert fingerprint is not None
        digests.append(fingerprint.tables["public.place"])
    assert digests[0] == digests[2] != digests[1]
    world.restore(database=cluster.database(f"{database}_copy"), source_database=database)
