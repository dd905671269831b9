# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A PostgreSQL server for the integration tests: one for each worker, and a new empty one for a test that needs it."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Iterator

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

if TYPE_CHECKING:
    from postgres import Cluster

#: Tests of roles and playbooks: what they start is Ansible, most of the time, and other tests reach the engine's lines.
ANSIBLE_MODULES = ("test_agent_role", "test_keys_role", "test_monitoring_role", "test_playbooks", "test_schedule_role")


@pytest.fixture(scope="module", autouse=True)
def measured(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whether coverage follows the programs that a test starts, which makes Ansible a third slower."""
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__.rpartition(".")[2] in ANSIBLE_MODULES:
            patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def scratch_account() -> None:
    """The account of throwaway servers."""
    from postgres import make_scratch_account

    make_scratch_account()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running server that all tests of this worker share: make databases of your own names in it."""
    from postgres import running_cluster

    with running_cluster() as running:
        yield running


@pytest.fixture
def empty_cluster() -> Iterator[Cluster]:
    """A running server on which nobody has made anything yet."""
    from postgres import running_cluster

    with running_cluster() as running:
        yield running


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    """An empty database of its own name; it and everything named after it are dropped afterwards."""
    name = f"db_{uuid.uuid4().hex[:10]}"
    cluster.sql(f"CREATE DATABASE {name}")
    yield name
    for found in cluster.databases():
        if found.startswith(name):
            cluster.sql(f'DROP DATABASE IF EXISTS "{found}" WITH (FORCE)')
