# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A throwaway server leaves room on the disk, whatever the restored code writes."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from _engine.model import Level, Outcome, Scratch
from _engine.verify import Check
from world import World

if TYPE_CHECKING:
    from postgres import Cluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")

#: One row where it was made, and as many as the disk holds on the server that verifies.
GROWING = """
CREATE FUNCTION rows() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
  RETURN NEXT 'x';
  IF current_setting('port') <> '{port}' THEN
    RETURN QUERY SELECT md5(n::text) || repeat('x', 1900) FROM generate_series(1, 600000) AS n;
  END IF;
END $$;
CREATE MATERIALIZED VIEW grows AS SELECT * FROM rows();
"""


def verified(world: World, scratch: Path) -> Check:
    (check,) = world.verify(level=Level.RESTORE, scratch=Scratch(scratch)).checks
    return check


def test_a_database_that_grows_when_it_is_restored_does_not_fill_the_disk(
    tmp_path: Path, cluster: Cluster, database: str
) -> None:
    world = World(tmp_path / "world")
    world.database = cluster.database(database)
    cluster.sql(GROWING.replace("{port}", str(cluster.port)), database)
    world.backup()
    with tempfile.TemporaryDirectory(prefix="scratch-", dir="/var/lib") as small:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=800m,mode=0755", "none", small], check=True)
        try:
            check = verified(world, Path(small))
            assert (check.outcome, check.code) == (Outcome.UNVERIFIABLE, "no_space")
            assert "was stopped when it had left only 80" in check.detail
            assert list(Path(small).iterdir()) == []
        finally:
            subprocess.run(["umount", small], check=True)
