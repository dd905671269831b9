# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What test hosts have to lose: a shop in SQLite and orders in PostgreSQL, with a job for each."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Iterator, Mapping

from hosts import Fleet, Host, Play, running_fleet

REPOSITORY = "/srv/backups"
#: In both databases, and in no other file of a host.
TREASURE = "four hundred doubloons"
#: Of PostgreSQL's account "keeper".
PASSWORD = "open sesame"
_NIGHTLY = {"backup": {"every": "daily", "at": "02:00", "window": "4h"}}
#: All that a host can do by itself.
EVERYTHING = {**_NIGHTLY, "rotate": {"every": "weekly"}, "verify": {"every": "monthly"}}


def shop(**changes: Any) -> dict[str, Any]:
    """The job of the shop."""
    return {
        "name": "shop",
        "engine": "sqlite",
        "database": "/srv/shop/shop.db",
        "repositories": [{"path": REPOSITORY, "create": True}],
        "encryption": {"recipients": ["ops"]},
        "retention": {"keep_last": 30},
        "schedule": _NIGHTLY,
        **changes,
    }


def orders(**changes: Any) -> dict[str, Any]:
    """The job of the orders, whose server lets in who the host says it is."""
    return {
        "name": "orders",
        "engine": "postgresql",
        "database": "orders",
        "login_unix_socket": "/var/run/postgresql",
        "login_user": "postgres",
        "become_user": "postgres",
        "repositories": [{"path": REPOSITORY, "create": True}],
        "encryption": {"recipients": ["ops"]},
        "retention": {"keep_last": 30},
        "schedule": _NIGHTLY,
        **changes,
    }


def orders_by_password(**changes: Any) -> dict[str, Any]:
    """The job of the orders, whose server lets in who knows a password."""
    by_name = {"login_host": "127.0.0.1", "login_user": "keeper", "login_password": PASSWORD}
    job = orders(**by_name, **changes)
    return {option: value for option, value in job.items() if option not in ("login_unix_socket", "become_user")}


def furnish(host: Host) -> None:
    """Make the shop and the orders."""
    rows = f"CREATE TABLE goods (id INTEGER PRIMARY KEY, item TEXT); INSERT INTO goods (item) VALUES ('{TREASURE}');"
    host.run(["install", "--directory", "--mode", "0755", "--owner", "admin", "/srv/shop"])
    host.run(["sqlite3", "/srv/shop/shop.db"], user="admin", stdin=f"PRAGMA journal_mode=wal; {rows}")
    host.sql("CREATE DATABASE orders")
    host.sql(f"CREATE ROLE keeper SUPERUSER LOGIN PASSWORD '{PASSWORD}'")
    host.sql(rows.replace("INTEGER PRIMARY KEY", "serial PRIMARY KEY"), "orders")


@contextmanager
def furnished_fleet(wanted: Mapping[str, int]) -> Iterator[Fleet]:
    """Start hosts that have both databases and, in the inventory, both jobs."""
    with running_fleet(wanted) as fleet:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(furnish, fleet))
        fleet.common["fleet_backup_keys"] = [{"name": "ops", "generate": True}]
        for host in fleet:
            fleet.variables[host.name] = {"fleet_backup_jobs": [shop(), orders()]}
        yield fleet


def deploy(fleet: Fleet, *options: str, **variables: Any) -> Play:
    """Deploy to every host what ``fleet.variables`` says."""
    return fleet.playbook("fleet.backup.deploy", *options, **variables)


def uninstall(fleet: Fleet, *options: str) -> Play:
    """Take away from every host what was deployed."""
    return fleet.playbook("fleet.backup.deploy", *options, fleet_backup_state="absent")


def run_and_watch(host: Host, command: list[str]) -> list[str]:
    """Run a program on a host; the arguments of every process there was meanwhile."""
    watch = (
        "import glob, json, subprocess, sys\n"
        "seen, process = set(), subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)\n"
        "while process.poll() is None:\n"
        "    for path in glob.glob('/proc/[0-9]*/cmdline'):\n"
        "        try:\n"
        "            seen.add(open(path).read().replace('\\0', ' '))\n"
        "        except OSError:\n"
        "            continue\n"
        "print(json.dumps(sorted(seen)))\n"
        "sys.exit(process.returncode)\n"
    )
    seen: list[str] = json.loads(host.run(["python3", "-c", watch, *command]))
    return seen
