# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The playbooks on real hosts, four of which are in trouble, each with its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

from databases import orders, shop
from hosts import Fleet
from receivers import WebServer, web_server


def outcomes(ledger: Path) -> dict[tuple[str, str], str]:
    return {(one["host"], one["job"]): one["outcome"] for one in json.loads(ledger.read_text())["entries"]}


def messages(ledger: Path) -> dict[tuple[str, str], str]:
    return {(one["host"], one["job"]): one["message"] for one in json.loads(ledger.read_text())["entries"]}


def by_password(host: Any) -> dict[str, Any]:
    """The job of the orders, with an account and its password; the account is made on the host."""
    host.sql("CREATE ROLE backup LOGIN SUPERUSER PASSWORD 'open sesame'")
    job = orders(login_host="127.0.0.1", login_user="backup", login_password="open sesame")
    return {name: value for name, value in job.items() if name not in ("login_unix_socket", "become_user")}


def told(receiver: WebServer) -> dict[str, tuple[str, str]]:
    """Of what host, at which job and with what outcome, each of which may have told once."""
    events = [request.json for request in receiver.requests]
    assert len({event["host"] for event in events}) == len(events), events
    return {event["host"]: (event["job"], event["event"]) for event in events}


def test_four_hosts_in_trouble_are_named_with_their_reasons_and_the_others_are_backed_up(
    start_fleet: Callable[..., Fleet], tmp_path: Path
) -> None:
    fleet = start_fleet(fine=12, gone=12, full=12, wrong=12, stopped=12)
    ledger = tmp_path / "ledger.json"
    fleet.common["fleet_backup_ledger_file"] = str(ledger)
    with web_server(address=fleet.gateway) as receiver:
        fleet.common["fleet_backup_notifications"] = [{"name": "hook", "type": "webhook", "url": receiver.url}]
        bring_trouble_and_back_up(fleet, ledger)
        assert told(receiver) == {
            "gone": ("shop, orders", "failure"),
            "full": ("shop", "failure"),
            "wrong": ("orders", "failure"),
            "stopped": ("orders", "failure"),
        }


def bring_trouble_and_back_up(fleet: Fleet, ledger: Path) -> None:
    """Deploy to all hosts, back them up, and do so again when each has its own trouble."""
    fleet.variables["wrong"] = {"fleet_backup_jobs": [shop(), by_password(fleet["wrong"])]}
    # Too small for a backup of a database with eight megabytes that nothing can compress.
    fleet["full"].run(["install", "--directory", "--mode", "0700", "/srv/small"])
    fleet["full"].run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", "/srv/small"])
    fleet["full"].run(
        ["sqlite3", "/srv/shop/shop.db"],
        user="admin",
        stdin="CREATE TABLE photos (photo BLOB); INSERT INTO photos VALUES (randomblob(8000000));",
    )
    fleet.variables["full"] = {"fleet_backup_jobs": [shop(repositories=[{"path": "/srv/small"}]), orders()]}

    deployed = fleet.playbook("fleet.backup.deploy")
    assert set(outcomes(ledger).values()) == {"done"}, deployed.output
    assert fleet.playbook("fleet.backup.backup", "--limit", "!full").status == 0

    fleet["gone"].stop()
    fleet["wrong"].sql("ALTER ROLE backup PASSWORD 'another'")
    fleet["stopped"].run(["systemctl", "stop", "postgresql@15-main.service"])
    ran = fleet.playbook("fleet.backup.backup", fails=True)
    assert outcomes(ledger) == {
        ("fine", "shop"): "done",
        ("fine", "orders"): "done",
        ("gone", "shop"): "unreachable",
        ("gone", "orders"): "unreachable",
        ("full", "shop"): "failed",
        ("full", "orders"): "done",
        ("wrong", "shop"): "done",
        ("wrong", "orders"): "failed",
        ("stopped", "shop"): "done",
        ("stopped", "orders"): "failed",
    }, ran.output
    said = messages(ledger)
    assert "ssh" in said[("gone", "shop")]
    assert "space" in said[("full", "shop")]
    assert "password" in said[("wrong", "orders")]
    assert "does not answer" in said[("stopped", "orders")]
    assert "5 hosts, 10 jobs: 5 done, 3 failed, 2 unreachable" in ran.output
    assert "Not done: 5 of 10, on full, gone, stopped and wrong." in ran.output
    assert {host: counts["failed"] for host, counts in ran.recap.items()} == {
        "fine": 0,
        "gone": 1,
        "full": 1,
        "wrong": 1,
        "stopped": 1,
    }
