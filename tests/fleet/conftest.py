# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fleets of test hosts. A test that changes what a host has takes one of its own, which is up in a few seconds."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Iterator

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

if TYPE_CHECKING:
    from hosts import Fleet


@pytest.fixture
def start_fleet() -> Iterator[Callable[..., Fleet]]:
    """Start hosts with databases and jobs, nothing of which is deployed: ``start_fleet(web1=12, web2=13)``."""
    from databases import furnished_fleet

    with ExitStack() as stack:
        yield lambda **wanted: stack.enter_context(furnished_fleet(wanted))


@pytest.fixture(scope="module")
def deployed() -> Iterator[Fleet]:
    """A host of each Debian, all of whose jobs are deployed. Tests leave what is deployed as it is.

    PostgreSQL lets the agent in by a password on db12, and on the others by the account that it becomes.
    """
    from databases import EVERYTHING, deploy, furnished_fleet, orders, orders_by_password, shop

    with furnished_fleet({"web11": 11, "db12": 12, "web13": 13}) as fleet:
        for host in fleet:
            second = orders_by_password() if host.name.startswith("db") else orders()
            fleet.variables[host.name]["fleet_backup_jobs"] = [shop(schedule=EVERYTHING), second]
        deploy(fleet)
        yield fleet
