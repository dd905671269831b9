# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The README's chapter about fleets, word for word: its inventory, its commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from hosts import Fleet

CHAPTER = (Path(__file__).parents[2] / "README.md").read_text().split("\n## A fleet\n")[1].split("\n## ")[0]
INVENTORY = CHAPTER.split("```yaml\n")[1].split("```")[0]


def test_the_readmes_inventory_is_deployed_with_its_one_command_and_taken_away_again(
    start_fleet: Callable[..., Fleet],
) -> None:
    fleet = start_fleet(web1=11, web2=12, web3=13, db1=11, db2=12, db3=13)
    fleet.variables.clear()
    fleet.common.clear()
    (fleet.directory / "readme.yml").write_text(INVENTORY)
    with_it = ("--inventory", "readme.yml")
    assert all(fleet.playbook("fleet.backup.deploy", *with_it).changed.values())
    taken = fleet.playbook("fleet.backup.backup", *with_it)
    for host in fleet:
        job = "shop" if host.name.startswith("web") else "orders"
        assert f"fleet-backup-backup-{job}.timer" in host.run(["systemctl", "list-timers", "--no-pager"])
        (backup,) = host.backups(job)
        assert backup["id"].startswith(job)
        assert host.name in taken.output
    fleet.playbook("fleet.backup.deploy", *with_it, fleet_backup_state="absent")
    for host in fleet:
        assert host.files("/etc/fleet-backup", "/usr/local/bin/fleet-backup") == {}
        assert any(path.endswith(".manifest.json") for path in host.files("/srv/backups"))
