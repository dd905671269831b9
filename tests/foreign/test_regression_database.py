# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""PostgreSQL's own regression database, which holds one of everything: it comes back as stock tools bring it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Iterator

import pytest

from postgres import SUPERUSER, Cluster, as_owner, running_cluster
from stock import expect_same_as_stock

BUILT = Path(__file__).resolve().parents[2] / ".cache" / "foreign"


@pytest.fixture
def suite() -> Iterator[Path]:
    """The regression suite that tools/foreign builds, where the server's account may write.

    Its functions name the library in it by its path, which a throwaway server has to see: it sees no other's /tmp.
    """
    built = sorted(BUILT.glob("regress-*"))
    assert built, "Build it first: make foreign"
    copy = Path(tempfile.mkdtemp(prefix="fleet-backup-regress-", dir="/var/lib/postgresql"))
    shutil.copytree(built[-1], copy, symlinks=True, dirs_exist_ok=True)
    subprocess.run(["chmod", "-R", "a+rwX", str(copy)], check=True)
    yield copy
    shutil.rmtree(copy)


def test_the_regression_database_comes_back_as_stock_tools_bring_it(suite: Path, tmp_path: Path) -> None:
    with running_cluster("max_connections=100", "max_prepared_transactions=10") as cluster:
        _run(cluster, suite)
        expect_same_as_stock(cluster, "regression", tmp_path / "world")


def _run(cluster: Cluster, suite: Path) -> None:
    """Run the suite. A few of its tests fail with a server of Debian's; what counts is the database that it leaves."""
    status, said = as_owner(
        str(suite / "pg_regress"),
        f"--inputdir={suite}",
        f"--outputdir={suite}",
        f"--dlpath={suite}",
        f"--bindir={cluster.programs}",
        f"--host={cluster.directory}",
        f"--port={cluster.port}",
        f"--user={SUPERUSER}",
        "--dbname=regression",
        "--no-locale",
        "--max-concurrent-tests=20",
        f"--schedule={suite / 'parallel_schedule'}",
    )
    passed, failed = said.count("... ok"), said.count("... FAILED")
    assert status in (0, 1), said
    assert passed > 150, said
    assert failed <= 15, said
    assert cluster.value("SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname !~ '^pg_'", "regression") > 100
