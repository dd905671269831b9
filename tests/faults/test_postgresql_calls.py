# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A PostgreSQL job whose Nth call or message to the server is its last: no backup is lost, no database is half."""

from __future__ import annotations

from typing import Iterator

import pytest

from injection import Fault
from sites import PostgresqlSite, postgresql_site
from sweeps import FAULTS, VERBS, Verb, sweep


@pytest.fixture(scope="module")
def site() -> Iterator[PostgresqlSite]:
    with postgresql_site() as made:
        yield made


@pytest.mark.parametrize("fault", FAULTS, ids=str)
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_a_fault_at_any_call_costs_nothing(site: PostgresqlSite, verb: Verb, fault: Fault) -> None:
    sweep(site, verb, fault)
