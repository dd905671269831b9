# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Six hosts, two of each Debian, with SQLite and PostgreSQL 13, 15 and 17: what is deployed works, and stays so."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable

from databases import PASSWORD, REPOSITORY, TREASURE, deploy, run_and_watch
from hosts import Fleet, Host

JOBS = ["orders", "shop"]


def on_each(fleet: Fleet, look: Callable[[Host], None]) -> None:
    """Look at all hosts, several at a time."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(look, fleet))


def test_the_second_deployment_changes_nothing(deployed: Fleet) -> None:
    play = deploy(deployed)
    assert play.changed == {host.name: 0 for host in deployed}, play.output


def test_every_host_backs_up_all_its_databases_and_lists_the_backups(deployed: Fleet) -> None:
    def look(host: Host) -> None:
        before = {job: len(host.backups(job)) for job in JOBS}
        reports = json.loads(host.agent("run", "--all", "--json"))
        assert {report["job"]: report["error"] for report in reports} == dict.fromkeys(JOBS)
        assert {job: len(host.backups(job)) - before[job] for job in JOBS} == dict.fromkeys(JOBS, 1)

    on_each(deployed, look)


def test_every_service_is_shielded_and_can_do_its_work(deployed: Fleet) -> None:
    def look(host: Host) -> None:
        services = [
            path for path in host.files("/etc/systemd/system") if re.search(r"/fleet-backup-.*\.service$", path)
        ]
        assert len(services) == 5
        for service in (path.rpartition("/")[2] for path in services):
            said = host.run(["systemd-analyze", "security", "--no-pager", service])
            exposure = re.search(r"exposure level for \S+: ([0-9.]+)", said)
            assert exposure and float(exposure.group(1)) <= 3.0, said
            host.run(["systemctl", "start", service])

    on_each(deployed, look)


def test_nobody_but_root_reads_a_secret_a_job_a_log_or_a_backup(deployed: Fleet) -> None:
    def look(host: Host) -> None:
        host.agent("run", "--all")
        made = host.files("/etc/fleet-backup", "/var/lib/fleet-backup", "/var/log/fleet-backup", REPOSITORY)
        public = {path for path, mode in made.items() if mode not in ("0600 root", "0700 root")}
        assert public == {"/etc/fleet-backup/keys/ops.pem.pub"}
        has_password = "/etc/fleet-backup/secrets/orders.login_password" in made
        assert has_password is host.name.startswith("db")
        places = ["/etc", "/var/lib/fleet-backup", "/var/log", "/usr/local", REPOSITORY]
        known = host.run(["grep", "--recursive", "--text", "--files-with-matches", PASSWORD, *places], fails=None)
        assert known.split() == ["/etc/fleet-backup/secrets/orders.login_password"] * has_password
        assert host.files("/usr/local/bin/fleet-backup") == {"/usr/local/bin/fleet-backup": "0755 root"}

    on_each(deployed, look)


def test_a_hosts_files_decrypt_nothing_and_the_controllers_key_does(deployed: Fleet) -> None:
    key = (deployed.directory / "fleet-backup-keys" / "ops.pem").read_text()
    for host in (deployed["web11"], deployed["web13"]):
        host.agent("run", "--all")
        assert private_keys(host) == []
        body = key.splitlines()[1]
        host.run(["grep", "--recursive", "--text", body, "/etc", "/var", "/usr/local", "/srv", "/root"], fails=True)
        host.run(["grep", "--recursive", "--text", TREASURE, REPOSITORY, "/var/lib/fleet-backup"], fails=True)
        stolen = host.agent("restore", "shop", "--into", "/srv/shop/stolen.db", "--yes", fails=True)
        assert "key" in stolen
        assert "/srv/shop/stolen.db" not in host.files("/srv/shop")
        command = ["fleet-backup", "restore", "shop", "--into", "/srv/shop/found.db", "--identity", "-", "--yes"]
        host.run(command, stdin=key)
        assert TREASURE in host.run(["sqlite3", "/srv/shop/found.db", "SELECT item FROM goods"])
        host.run(["rm", "/srv/shop/found.db"])


def test_a_restore_stops_the_application_and_starts_it_again(deployed: Fleet) -> None:
    key = (deployed.directory / "fleet-backup-keys" / "ops.pem").read_text()

    def look(host: Host) -> None:
        host.write("/etc/systemd/system/till.service", "[Service]\nExecStart=/bin/sleep infinity\n")
        host.run(["systemctl", "daemon-reload"])
        host.run(["systemctl", "start", "till.service"])
        host.agent("run", "--all")
        before = host.run(["systemctl", "show", "--property=InvocationID", "till.service"])
        options = ["--replace", "--yes", "--identity", "-", "--stop-service", "till.service"]
        for job in JOBS:
            host.run(["fleet-backup", "restore", job, *options], stdin=key)
            assert any(backup["tier"] == "safety" for backup in host.backups(job))
        log = host.run(["journalctl", "--no-pager", "--unit=till.service"])
        assert log.count("Stopped") == len(JOBS), log
        assert host.run(["systemctl", "is-active", "till.service"]).strip() == "active"
        assert host.run(["systemctl", "show", "--property=InvocationID", "till.service"]) != before
        assert host.run(["sqlite3", "/srv/shop/shop.db", "SELECT item FROM goods"], user="admin").strip() == TREASURE
        assert host.run(["stat", "--format=%U", "/srv/shop/shop.db"]).strip() == "admin"
        assert host.sql("SELECT item FROM goods", "orders") == TREASURE

    on_each(deployed, look)


def test_the_health_service_tells_what_a_killed_restore_left_stopped(deployed: Fleet) -> None:
    key = (deployed.directory / "fleet-backup-keys" / "ops.pem").read_text()
    host = deployed["web11"]
    host.write("/etc/systemd/system/slow.service", "[Service]\nExecStart=/bin/sleep infinity\nExecStop=/bin/sleep 12\n")
    host.run(["systemctl", "daemon-reload"])
    host.run(["systemctl", "start", "slow.service"])
    host.agent("run", "--all")
    restore = ["fleet-backup", "restore", "shop", "--replace", "--yes", "--identity", "-"]
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(host.run, [*restore, "--stop-service", "slow.service"], stdin=key, fails=True)
        deadline = time.monotonic() + 60
        while "deactivating" not in host.run(["systemctl", "show", "--property=ActiveState", "slow.service"]):
            assert time.monotonic() < deadline and not killed.done()
            time.sleep(0.2)
        host.run(["pkill", "--signal", "KILL", "--full", "fleet-backup restore"])
        killed.result()
    host.run(["systemctl", "start", "fleet-backup-health.service"], fails=True)
    log = host.run(["journalctl", "--no-pager", "--unit=fleet-backup-health.service"])
    assert "by a restore, and does not run: restore again, or systemctl start slow.service" in log
    host.run(["systemctl", "start", "slow.service"])
    host.run(["systemctl", "start", "fleet-backup-health.service"])


def test_no_process_has_a_secret_in_its_arguments(deployed: Fleet) -> None:
    host = deployed["db12"]
    seen = run_and_watch(host, ["fleet-backup", "run", "--all"])
    assert any("pg_dump" in arguments for arguments in seen), seen
    assert not any(re.search(rf"PRIVATE|PGPASSWORD|{PASSWORD}", arguments) for arguments in seen), seen


def private_keys(host: Host) -> list[str]:
    """The files of backups, jobs, logs and accounts in which there is a private key, of whichever kind."""
    # Whole, since the journal has what Ansible looked for, and the agent's own code the words it knows keys by.
    pattern = "BEGIN ([A-Z]+ )*PRIVATE KEY-----|AGE-SECRET-KEY-1[0-9A-Z]{20}"
    places = ["/etc/fleet-backup", "/var/lib/fleet-backup", "/var/log", "/srv", "/root", "/home"]
    command = ["grep", "--recursive", "--text", "--files-with-matches", "--extended-regexp", pattern, *places]
    return host.run(command, fails=None).split()
