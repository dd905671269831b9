# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The README, word for word, on hosts on which nothing was prepared: its plays, its inventory, its commands."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from hosts import Fleet, Host

README = (Path(__file__).parents[2] / "README.md").read_text()


def blocks(chapter: str, language: str) -> list[str]:
    """The blocks of a language in a chapter."""
    text = README.split(f"\n## {chapter}\n")[1].split("\n## ")[0]
    return [block.split("```")[0] for block in text.split(f"```{language}\n")[1:]]


def commands() -> list[list[str]]:
    """The playbooks of the chapter about fleets, each with its options."""
    lines = "".join(blocks("A fleet", "sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("ansible-playbook ")]


def on_a_host() -> list[list[str]]:
    """The commands of that chapter for a host's own command line."""
    lines = "".join(blocks("A fleet", "sh")).splitlines()
    return [shlex.split(line, comments=True) for line in lines if not line.startswith(("ansible-playbook ", " "))]


def test_the_readmes_plays_run_on_bare_hosts(start_fleet: Callable[..., Fleet]) -> None:
    fleet = start_fleet(web1=12, db1=12)
    (fleet.directory / "groups.yml").write_text("web: {hosts: {web1: }}\ndb: {hosts: {db1: }}\n")
    fleet["db1"].sql("CREATE TABLE customers AS SELECT 1 AS id", "orders")
    for chapter in ("SQLite", "PostgreSQL"):
        for number, block in enumerate(blocks(chapter, "yaml")):
            book = fleet.directory / f"{chapter}-{number}.yml"
            # The one thing that no example can know is when its reader takes a backup.
            book.write_text(block.replace("2026-03-01T12:00:00Z", "2999-03-01T12:00:00Z"))
            ran = fleet.playbook(str(book), "--inventory", "groups.yml")
            assert ran.changed["web1" if chapter == "SQLite" else "db1"] > 0, ran.output
    again = fleet.playbook(str(fleet.directory / "SQLite-0.yml"), "--inventory", "groups.yml")
    assert set(again.changed.values()) == {0}
    assert fleet["db1"].sql("SELECT count(*) FROM customers", "orders") == "1"


def test_the_readmes_inventory_is_deployed_used_and_taken_away_with_its_commands(
    start_fleet: Callable[..., Fleet],
) -> None:
    fleet = start_fleet(web1=11, web2=12, web3=13, db1=11, db2=12, db3=13)
    fleet.variables.clear()
    fleet.common.clear()
    (fleet.directory / "readme.yml").write_text(blocks("A fleet", "yaml")[0])
    done = []
    for words in commands():
        name = words[3]
        options = ["--inventory", "readme.yml", *words[4:]]
        done.append((name.rpartition(".")[2], fleet.playbook(name, *options, **CONFIRMED.get(name, {}))))
        if len(done) == 1:
            assert all(done[0][1].changed.values())
        elif len(done) == 2:
            for host in fleet:
                job = "shop" if host.name.startswith("web") else "orders"
                assert f"fleet-backup-backup-{job}.timer" in host.run(["systemctl", "list-timers", "--no-pager"])
                (backup,) = host.backups(job)
                assert backup["id"].startswith(job) and host.name in done[1][1].output
            run_on(fleet["db1"])
    assert [name for name, _ran in done] == ["deploy", "backup", "verify", "restore", "deploy"]
    for host in fleet:
        assert host.files("/etc/fleet-backup", "/usr/local/bin/fleet-backup") == {}
        assert any(path.endswith(".manifest.json") for path in host.files("/srv/backups"))


def run_on(host: Host) -> None:
    """Run the commands for a host. One asks on a terminal (test_agent_restore.py), and another shows a page."""
    tried = []
    for words in on_a_host():
        tried.append(words[0] if words[0] == "man" else words[1])
        if words[0] == "man":
            assert "/usr/local/share/man/man8/fleet-backup.8" in host.files("/usr/local/share/man")
        elif words[1] == "restore":
            assert "no terminal to ask on" in host.run(words, fails=True)
        else:
            assert "orders" in host.run(words)
    assert tried == ["list", "status", "run", "restore", "man"]
    assert len(host.backups("orders")) == 2


#: What a reader types at a prompt, for a test that has no terminal.
CONFIRMED = {"fleet.backup.restore": {"fleet_backup_restore_confirm": "shop.db"}}
