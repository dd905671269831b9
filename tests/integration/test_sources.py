# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Two databases of one name have no history in common, and one that has moved goes on with its own."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from _engine.backup import plan_backup, take_backup
from _engine.databases.postgresql import snapshot as snapshots
from _engine.errors import Refused
from _engine.model import SAFETY_TIER
from _engine.state import Host
from planting import forge
from postgres import Cluster, running_cluster
from test_agent import Agent
from world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "world")
    made.make_shop(10)
    return made


@pytest.fixture
def shop(tmp_path: Path, cluster: Cluster, database: str) -> World:
    made = World(tmp_path / "world")
    made.database = cluster.database(database)
    return made


def another(world: World) -> Host:
    """Another host of the same name, which knows nothing of what the first one does."""
    return replace(world.host, state=world.root / "another")


def test_a_backup_of_another_cluster_is_refused_until_it_is_said_that_it_took_the_place(
    shop: World, empty_cluster: Cluster, cluster: Cluster
) -> None:
    name = shop.database.name
    empty_cluster.sql(f'CREATE DATABASE "{name}"')
    first = shop.backup().manifest
    assert first.source == str(cluster.value("SELECT system_identifier FROM pg_control_system()"))
    other = empty_cluster.database(name)
    for host in (shop.host, another(shop)):
        request = shop.backup_request(database=other)
        for act in (plan_backup, take_backup):
            with pytest.raises(
                Refused, match=f"{first.id} is of system identifier {first.source}.*source_host.*accept_source"
            ):
                act(request, host)
    assert len(shop.catalogue().backups) == 1
    # Under a name of its own, and where it took the place of the other one, which then is the other one.
    shop.backup(database=other, source_host="web2")
    moved = shop.backup(database=other, accept_source=True).manifest
    assert shop.backup(database=other).manifest.source == moved.source != first.source
    with pytest.raises(Refused, match=moved.source):
        shop.backup()


def test_a_standby_is_the_cluster_that_it_follows(shop: World, cluster: Cluster) -> None:
    shop.backup()
    with running_cluster(standby_of=cluster) as standby:
        assert shop.backup(database=standby.database(shop.database.name)).changed


def test_what_another_planted_stops_no_backup_of_a_host_that_has_its_own(shop: World) -> None:
    forge(shop, 1, lambda document: document.update(source="1"))
    with pytest.raises(Refused, match="system identifier 1,"):
        shop.backup()
    assert shop.backup(accept_source=True).changed
    forge(shop, 1, lambda document: document.update(source="1"))
    assert shop.backup().changed


def test_a_server_that_does_not_say_which_it_is_is_backed_up_as_before(
    shop: World, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.backup()
    cluster.sql("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC", shop.database.name)
    user = f"{shop.database.name}_user"
    cluster.sql(f"CREATE ROLE {user} LOGIN PASSWORD 'x' IN ROLE pg_read_all_data")
    try:
        result = shop.backup(database=cluster.database(shop.database.name, user=user, password="x"))
        assert (result.changed, result.manifest.source) == (True, "")
    finally:
        cluster.sql(f"DROP ROLE {user}")
    # The newest that says it counts.
    monkeypatch.setattr(snapshots, "system_identifier", lambda _connection: "1")
    with pytest.raises(Refused):
        shop.backup()


def test_a_file_that_was_replaced_goes_on_with_its_history_where_its_backups_are_taken(world: World) -> None:
    first = world.backup().manifest
    status = world.path.stat()
    assert first.source == f"{status.st_dev}:{status.st_ino}"
    copy = world.path.with_suffix(".copy")
    shutil.copy(world.path, copy)
    copy.replace(world.path)
    with pytest.raises(Refused, match="another file.*device and inode"):
        take_backup(world.backup_request(), another(world))
    second = world.backup().manifest
    assert second.source != first.source
    assert take_backup(world.backup_request(), another(world)).changed


def test_the_safety_backup_of_another_cluster_stops_no_restore(shop: World, empty_cluster: Cluster) -> None:
    empty_cluster.sql(f'CREATE DATABASE "{shop.database.name}"')
    shop.backup()
    target = empty_cluster.database(shop.database.name)
    restored = shop.restore(database=target, source_database=shop.database.name, replace=True)
    saved = next(backup for backup in shop.catalogue().backups if backup.id == restored.safety_backup)
    assert saved.manifest.tier == SAFETY_TIER
    assert shop.backup().changed


def job(agent: Agent, name: str, **options: Any) -> None:
    agent.job(name, engine="postgresql", database="shop", **options)


def test_two_jobs_of_two_servers_share_no_place(world: World) -> None:
    agent = Agent(world)
    job(agent, "first", login_host="db1")
    job(agent, "again", login_host="db1", login_port=5432, login_user="reader")
    job(agent, "apart", login_host="db2", source_host="db2")
    elsewhere = world.root / "elsewhere"
    elsewhere.mkdir()
    job(agent, "other-store", login_host="db2", repositories=[{"path": str(elsewhere)}])
    assert json.loads(agent.run("config", "check", "--json"))["broken"] == []
    for number, options in enumerate(({"login_host": "db2"}, {"login_host": "db1", "login_port": 5433})):
        job(agent, f"z{number}", **options)
        job(agent, f"z{number}", **{**options, "repositories": [{"path": f"{world.repository.label}/../backups"}]})
    told = json.loads(agent.run("config", "check", "--json", status=2))
    assert [one["job"] for one in told["broken"]] == ["z0", "z1"]
    assert "keeps its backups in the same place" in told["broken"][0]["message"]
    assert "source_host" in told["broken"][0]["message"]


def test_the_agent_goes_on_with_another_server_where_that_is_said(world: World) -> None:
    agent = Agent(world)
    agent.job("shop")
    agent.run("run", "shop")
    shutil.rmtree(world.host.state)
    copy = world.path.with_suffix(".copy")
    shutil.copy(world.path, copy)
    copy.replace(world.path)
    assert "--accept-source" in agent.run("run", "--help")
    assert "accept_source" in agent.run("run", "shop", status=1)
    assert "accept_source" in agent.run("run", "shop", "--dry-run", status=1)
    agent.run("run", "shop", "--accept-source")
    agent.run("run", "shop")
