# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What PostgreSQL's own package brings: a database with such extensions comes back as stock tools bring it."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

from extensions import CONTRIB, Foreign
from postgres import Cluster, running_cluster
from stock import expect_same_as_stock, make


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as running:
        yield running


@pytest.mark.parametrize("foreign", CONTRIB, ids=lambda foreign: foreign.name)
def test_a_database_with_extensions_comes_back_as_stock_tools_bring_it(
    cluster: Cluster, foreign: Foreign, tmp_path: Path
) -> None:
    make(cluster, foreign)
    expect_same_as_stock(cluster, foreign.name, tmp_path / "world")
