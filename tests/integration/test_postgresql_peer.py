# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Root backs up a server that lets in nobody but the account of the same name (PostgreSQL's peer authentication)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Iterator

import pytest

from _engine.errors import BadInput, Unreachable
from _engine.model import Level, Server
from postgres import Cluster, running_cluster
from world import World

ACCOUNT = "nobody"


@pytest.fixture(scope="module")
def peers() -> Iterator[Cluster]:
    """A server that lets one account in over its socket, as itself."""
    with running_cluster() as cluster:
        cluster.sql(f"CREATE ROLE {ACCOUNT} SUPERUSER LOGIN")
        rules = cluster.directory / "data" / "pg_hba.conf"
        rules.write_text(f"local all {ACCOUNT} peer\n" + rules.read_text())
        cluster.sql("SELECT pg_reload_conf()")
        cluster.directory.chmod(0o755)
        yield cluster


@pytest.fixture
def world(tmp_path: Path, peers: Cluster) -> Iterator[World]:
    peers.sql("CREATE DATABASE shop")
    peers.sql("CREATE TABLE orders AS SELECT generate_series(1, 1000) AS id", "shop")
    made = World(tmp_path / "world")
    server = Server(unix_socket=str(peers.directory), port=peers.port, become_user=ACCOUNT)
    made.database = peers.database("shop", host=None, user=None, password=None, **_said(server))
    yield made
    for name in peers.databases():
        if name.startswith("shop"):
            peers.sql(f'DROP DATABASE "{name}"')


def _said(server: Server) -> dict[str, Any]:
    return {name: value for name, value in vars(server).items() if value is not None}


@pytest.mark.parametrize("parallel", [1, 2])
def test_root_backs_up_verifies_and_restores_as_the_account_that_the_server_lets_in(
    world: World, peers: Cluster, parallel: int
) -> None:
    backed_up = world.backup(globals=True)
    assert backed_up.manifest.fingerprint and backed_up.manifest.totals.rows == 1000
    assert world.verify(level=Level.RESTORE).passed
    copy = replace(world.database, name="shop copy")
    world.restore(database=copy, source_database="shop", parallel=parallel)
    assert peers.value("SELECT count(*) FROM orders", "shop copy") == 1000
    assert os.geteuid() == os.getuid() and os.getegid() == os.getgid()
    # What is written is root's own, as ever.
    assert {path.stat().st_uid for path in world.root.rglob("*")} == {os.getuid()}


def test_without_it_the_server_refuses_and_the_message_names_the_option(world: World) -> None:
    world.database = replace(world.database, server=replace(world.database.server, become_user=None, user=ACCOUNT))
    with pytest.raises(Unreachable, match=r"Peer authentication failed.*become_user"):
        world.backup()


def test_an_account_that_this_host_does_not_have_is_named(world: World) -> None:
    world.database = replace(world.database, server=replace(world.database.server, become_user="no-such-account"))
    with pytest.raises(BadInput, match="become_user: this host has no account no-such-account"):
        world.backup()
