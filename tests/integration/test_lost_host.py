# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A PostgreSQL host that was lost comes back by playbooks alone: its roles, its database and who owns it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from test_playbooks import Fleet

if TYPE_CHECKING:
    from postgres import Cluster


def test_a_lost_postgresql_host_comes_back_with_its_roles_by_playbook(
    tmp_path: Path, cluster: Cluster, empty_cluster: Cluster
) -> None:
    fleet = Fleet(tmp_path)
    fleet.add("web1")
    world = fleet.worlds["web1"]
    for server in (cluster, empty_cluster):
        server.sql("CREATE ROLE lost_backup SUPERUSER LOGIN PASSWORD 'sesame'")
    cluster.sql("CREATE ROLE lost_keeper")
    cluster.sql("CREATE DATABASE lost_orders")
    cluster.sql("CREATE TABLE orders AS SELECT 1 AS id", "lost_orders")
    job = fleet.job("web1", name="orders", engine="postgresql", database="lost_orders", globals=True)
    job.update(login_host="127.0.0.1", login_user="lost_backup", login_password="sesame", login_port=cluster.port)
    jobs = {"web1": {"fleet_backup_jobs": [job]}}
    try:
        assert fleet.play("deploy", "-l", "web1", hosts=jobs).status == 0
        fleet.agent("web1", "run", "orders")
    finally:
        cluster.sql("DROP DATABASE IF EXISTS lost_orders")
        cluster.sql("DROP ROLE lost_keeper, lost_backup")
    # As on a new host: an empty server, and nothing of what the agent knew.
    shutil.rmtree(world.root / "state")
    deployed = world.root / "etc" / "jobs.d" / "orders.json"
    deployed.write_text(deployed.read_text().replace(str(cluster.port), str(empty_cluster.port)))
    vault = tmp_path / "vault"
    vault.write_text("open sesame\n")
    subprocess.run(["ansible-vault", "encrypt", f"--vault-password-file={vault}", world.root / "key.pem"], check=True)
    ran = fleet.play(
        "restore",
        f"--vault-password-file={vault}",
        hosts=jobs,
        fleet_backup_restore_host="web1",
        fleet_backup_restore_job="orders",
        fleet_backup_restore_globals=True,
        fleet_backup_restore_owner="lost_keeper",
        fleet_backup_identity_file=str(world.root / "key.pem"),
    )
    assert ran.status == 0, ran.output
    assert ran.outcomes == {("web1", "orders"): "done"}
    owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'lost_orders'"
    assert empty_cluster.sql(owner) == [("lost_keeper",)]
    # A path is no key, and the message says which variable takes one.
    ran = fleet.play("verify", "-l", "web1", hosts=jobs, fleet_backup_identity=str(world.root / "key.pem"))
    assert ran.status != 0 and "fleet_backup_identity_file" in ran.output
