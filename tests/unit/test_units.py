# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Units and lines of cron do a host's work with few rights, hold no secret, and say what systemd and cron take."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Dict, List

import pytest

from _engine.agent.config.jobs import Job
from _engine.agent.config.reading import read_job
from _engine.agent.config.schedule import Every, Expression, Spread
from _engine.agent.timers.crontab import CronOptions, crontab
from _engine.agent.timers.units import MARK, UnitOptions, units
from _engine.errors import BadInput

DAILY = {"every": "daily", "at": "02:00", "window": "4h"}
HEALTH = Spread(Every.HOURLY, window=3600)
SHOP: Dict[str, Any] = {
    "engine": "sqlite",
    "database": "/srv/shop/shop.db",
    "repositories": [{"path": "/srv/backups"}],
    "schedule": {"backup": DAILY, "rotate": DAILY, "verify": {**DAILY, "every": "weekly"}},
}
ORDERS: Dict[str, Any] = {
    "engine": "postgresql",
    "database": "orders",
    "become_user": "postgres",
    "repositories": [{"path": "/srv/backups"}, {"path": "/mnt/nas"}],
    "schedule": {"backup": {"calendar": "*-*-* *:*:00", "cron": "* * * * *"}},
}


def job(document: Dict[str, Any], name: str = "shop", **options: Any) -> Job:
    return read_job({**document, **options}, name, f"web1: job {name}", "web1")


def made(*jobs: Job, **options: Any) -> Dict[str, str]:
    """The content of each unit."""
    return {unit.name: unit.content for unit in units(jobs, UnitOptions("web1", **{"health": HEALTH, **options}))}


def settings(unit: str, name: str) -> List[str]:
    """All values of a setting."""
    return [line[len(name) + 1 :] for line in unit.splitlines() if line.startswith(f"{name}=")]


def test_each_work_that_a_job_schedules_has_a_service_and_a_timer_and_the_host_one_for_its_health() -> None:
    found = made(job(SHOP), job(ORDERS, "orders"))
    stems = ["backup-shop", "rotate-shop", "verify-shop", "backup-orders", "health"]
    assert list(found) == [f"fleet-backup-{stem}.{kind}" for stem in stems for kind in ("service", "timer")]
    starts = {name: settings(unit, "ExecStart") for name, unit in found.items() if name.endswith(".service")}
    assert starts["fleet-backup-backup-shop.service"] == ["/usr/local/bin/fleet-backup run shop"]
    assert starts["fleet-backup-rotate-shop.service"] == ["/usr/local/bin/fleet-backup rotate shop"]
    assert starts["fleet-backup-verify-shop.service"] == ["/usr/local/bin/fleet-backup verify shop"]
    assert starts["fleet-backup-health.service"] == ["/usr/local/bin/fleet-backup status --notify"]
    assert all(unit.startswith(f"{MARK}\n[Unit]\n") and unit.endswith("\n") for unit in found.values())


def test_no_service_runs_without_end_or_leaves_a_core_file() -> None:
    found = made(job(SHOP, timeout="1h"), job(ORDERS, "orders", verify={"timeout": "2h"}), job(SHOP, "plain"))
    ends = {name[13:-8]: settings(unit, "TimeoutStartSec") for name, unit in found.items() if "service" in name}
    hour = 3600
    assert {name: int(*seconds) // hour for name, seconds in ends.items()} == {
        "backup-shop": 1, "rotate-shop": 24, "verify-shop": 24, "backup-orders": 24,
        "backup-plain": 24, "rotate-plain": 24, "verify-plain": 24, "health": 1,
    }  # fmt: skip
    assert all(settings(unit, "LimitCORE") == ["0"] for name, unit in found.items() if "service" in name)


def test_a_timer_keeps_the_hosts_moment_and_catches_up() -> None:
    timer = made(job(SHOP))["fleet-backup-backup-shop.timer"]
    assert settings(timer, "OnCalendar") == [Spread(Every.DAILY, 7200, 14400).systemd("web1/shop/backup")]
    assert settings(timer, "Persistent") == ["true"]
    assert settings(timer, "Unit") == ["fleet-backup-backup-shop.service"]
    assert settings(timer, "WantedBy") == ["timers.target"]
    assert "RandomizedDelaySec" not in timer


def test_a_host_without_jobs_has_no_unit_and_health_can_be_left_out() -> None:
    assert made() == {}
    assert "fleet-backup-health.timer" not in made(job(SHOP), health=None)
    assert "fleet-backup-health.timer" in made(job(SHOP, schedule={}))


def test_only_systemd_can_judge_a_calendar_of_the_users_own_and_it_is_named() -> None:
    found = units([job(SHOP), job(ORDERS, "orders")], UnitOptions("web1", health=Expression("hourly")))
    judged = [(unit.calendar, unit.origin) for unit in found if unit.calendar]
    assert judged == [
        ("*-*-* *:*:00", "web1: job orders: schedule.backup: calendar"),
        ("hourly", "web1: schedule_health: calendar"),
    ]


def test_a_work_may_write_where_it_must_and_nowhere_else() -> None:
    found = made(job(SHOP, verify={"scratch": {"path": "/srv/scratch"}}), job(ORDERS, "orders"))
    written = {name[13:-8]: settings(unit, "ReadWritePaths") for name, unit in found.items() if "service" in name}
    assert written == {
        "backup-shop": ["-/srv/backups", "-/srv/shop"],
        "rotate-shop": ["-/srv/backups"],
        "verify-shop": ["-/srv/backups", "-/srv/scratch"],
        "backup-orders": ["-/srv/backups", "-/mnt/nas"],
        "health": [],
    }


def test_only_a_job_that_becomes_somebody_else_may() -> None:
    found = made(job(SHOP), job(ORDERS, "orders"))
    rights = {name[13:-8]: settings(unit, "CapabilityBoundingSet") for name, unit in found.items() if "service" in name}
    becoming = ["CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_KILL CAP_SETGID CAP_SETUID"]
    # A file of SQLite is the work of its directory's owner, and of an account without rights where it is verified.
    assert rights["backup-orders"] == rights["backup-shop"] == rights["verify-shop"] == becoming
    assert rights["rotate-shop"] == ["CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER"]
    assert rights["health"] == ["CAP_DAC_READ_SEARCH"]


def test_only_a_verification_in_a_throwaway_server_may_make_namespaces() -> None:
    verified = {**ORDERS, "schedule": {"verify": DAILY}}
    for options, confines in (
        ({"level": "restore"}, True),
        ({"level": "contents"}, False),
        ({"level": "restore", "scratch": {"isolated": False}}, False),
        ({"level": "restore", "scratch": {"login_host": "drill1"}}, False),
    ):
        unit = made(job(verified, "orders", verify=options))["fleet-backup-verify-orders.service"]
        (rights,) = settings(unit, "CapabilityBoundingSet")
        assert ("CAP_SYS_ADMIN" in rights) is confines, options
        assert ("unshare" in " ".join(settings(unit, "SystemCallFilter"))) is confines


def test_a_job_with_one_repository_waits_for_its_share_and_one_with_several_does_not() -> None:
    found = made(job(SHOP), job(ORDERS, "orders"))
    assert settings(found["fleet-backup-backup-shop.service"], "RequiresMountsFor") == ["/srv/backups"]
    assert settings(found["fleet-backup-backup-orders.service"], "RequiresMountsFor") == []


def test_rotation_and_verification_come_after_a_backup_that_is_caught_up_with() -> None:
    found = made(job(SHOP))
    for work in ("rotate", "verify"):
        assert "fleet-backup-backup-shop.service" in settings(found[f"fleet-backup-{work}-shop.service"], "After")


@pytest.mark.parametrize(
    "options",
    [
        {"database": "/tmp/shop.db"},
        {"repositories": [{"path": "/var/tmp/backups"}]},
        {"encryption": {"recipients": ["/tmp/operators.pem"]}},
        {"verify": {"scratch": {"path": "/tmp"}}},
    ],
)
def test_a_job_that_keeps_something_among_the_temporary_files_sees_them(options: Dict[str, Any]) -> None:
    units = made(job(SHOP, **options), job(ORDERS, "orders"))
    service = units["fleet-backup-backup-shop.service"]
    assert settings(service, "PrivateTmp") == ["no"]
    assert {"/tmp", "/var/tmp"} < set(settings(service, "ReadWritePaths"))
    assert settings(units["fleet-backup-health.service"], "PrivateTmp") == ["no"]
    assert settings(units["fleet-backup-backup-orders.service"], "PrivateTmp") == ["yes"]
    assert settings(made(job(SHOP))["fleet-backup-backup-shop.service"], "PrivateTmp") == ["yes"]


def test_a_credential_is_named_with_the_path_of_its_file_for_who_needs_it() -> None:
    document = {"engine": "postgresql", "database": "orders", "login_password": {"credential": "orders"}}
    orders = job({**SHOP, **document}, "orders")
    found = made(orders, credentials={"orders": "/etc/orders 100%.cred"})
    for work, expected in (("backup", 1), ("verify", 1), ("rotate", 0)):
        loaded = settings(found[f"fleet-backup-{work}-orders.service"], "LoadCredential")
        assert loaded == ["orders:/etc/orders 100%%.cred"] * expected
    sealed = made(orders, credentials={"orders": "/etc/credstore.encrypted/orders"})[
        "fleet-backup-backup-orders.service"
    ]
    assert settings(sealed, "LoadCredentialEncrypted") == ["orders:/etc/credstore.encrypted/orders"]
    assert settings(sealed, "LoadCredential") == []
    with pytest.raises(BadInput, match='^web1: job orders: nothing says where the credential "orders" is. Add it to'):
        made(orders)
    with pytest.raises(BadInput, match="^web1: job orders: cron hands nobody a credential"):
        crontab([orders], CronOptions("web1"))


def test_settings_of_the_users_own_stand_last() -> None:
    found = made(job(SHOP), settings={"Nice": ("0",), "ReadWritePaths": ("/srv/a", "/srv/b")})
    for name, unit in found.items():
        if name.endswith(".service"):
            assert unit.endswith("Nice=0\nReadWritePaths=/srv/a\nReadWritePaths=/srv/b\n")
    with pytest.raises(BadInput, match="schedule_service_options: nice is no setting"):
        made(job(SHOP), settings={"nice": ("0",)})
    with pytest.raises(BadInput, match="schedule_service_options"):
        made(job(SHOP), settings={"Nice": ("0\nExecStartPre=/bin/sh",)})


@pytest.mark.parametrize("path", ['/srv/"shop"', "/srv/shop\nExecStartPre=/bin/false", "/srv/shop\\x20"])
def test_a_path_that_would_mean_something_else_in_a_unit_is_refused(path: str) -> None:
    with pytest.raises(BadInput, match="^web1: job shop: .*cannot be a path in a unit"):
        made(job(SHOP, repositories=[{"path": path}]))


def test_systemd_needs_a_calendar_and_cron_its_fields() -> None:
    only_cron = job(SHOP, schedule={"backup": {"cron": "0 2 * * *"}})
    only_calendar = job(SHOP, schedule={"backup": {"calendar": "daily"}})
    with pytest.raises(BadInput, match="^web1: job shop: schedule.backup: cron alone is given, and systemd needs"):
        made(only_cron)
    with pytest.raises(BadInput, match="^web1: job shop: schedule.backup: calendar alone is given, and cron needs"):
        crontab([only_calendar], CronOptions("web1"))
    with pytest.raises(BadInput, match="^web1: schedule_health: calendar alone"):
        crontab([job(SHOP)], CronOptions("web1", health=Expression("daily")))


@pytest.mark.once
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"database": "/home/my shop/shop.db"},
        {"engine": "postgresql", "database": "orders", "verify": {"level": "restore"}},
        {"repositories": [{"path": "/srv/100% backups"}, {"path": "/tmp/b"}]},
    ],
)
def test_systemd_takes_the_units_and_finds_them_little_exposed(tmp_path: Path, options: Dict[str, Any]) -> None:
    program = shutil.which("true") or "/bin/true"
    for name, content in made(job(SHOP, **options), job(ORDERS, "orders"), command=program).items():
        (tmp_path / name).write_text(content)
    checked = run("verify", *map(str, sorted(tmp_path.iterdir())))
    # A machine's own units are looked at, too.
    assert "fleet-backup" not in checked.stderr
    for path in tmp_path.glob("*.service"):
        told = run("security", "--offline=true", "--no-pager", str(path))
        exposure = re.search(r"Overall exposure level for .*: ([0-9.]+)", told.stdout)
        # To confine a throwaway server takes the right to make namespaces.
        bound = 4.0 if "CAP_SYS_ADMIN" in path.read_text() else 3.0
        assert exposure and float(exposure.group(1)) <= bound, told.stdout


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


def test_cron_does_the_same_work_at_the_same_minute_and_catches_up_when_the_host_starts() -> None:
    lines = crontab([job(SHOP), job(ORDERS, "orders")], CronOptions("web1", health=HEALTH)).splitlines()
    assert lines[0] == MARK
    log = "2>&1 | logger -t fleet-backup"
    daily, weekly = Spread(Every.DAILY, 7200, 14400), Spread(Every.WEEKLY, 7200, 14400)
    assert lines[lines.index("") + 1 :] == [
        f"{daily.cron('web1/shop/backup')} root /usr/local/bin/fleet-backup run shop {log}",
        f"{daily.cron('web1/shop/rotate')} root /usr/local/bin/fleet-backup rotate shop {log}",
        f"{weekly.cron('web1/shop/verify')} root /usr/local/bin/fleet-backup verify shop {log}",
        f"* * * * * root /usr/local/bin/fleet-backup run orders {log}",
        f"@reboot root sleep 60; /usr/local/bin/fleet-backup run --due {log}",
        f"{HEALTH.cron('web1/health')} root /usr/local/bin/fleet-backup status --notify {log}",
    ]
    assert 'MAILTO=""' in lines and any(line.startswith("PATH=") for line in lines)


def test_cron_can_mail_instead_of_logging() -> None:
    text = crontab([job(SHOP)], CronOptions("web1", mailto="ops@example.com"))
    assert 'MAILTO="ops@example.com"' in text and "logger" not in text
    with pytest.raises(BadInput, match="schedule_cron_mailto"):
        crontab([job(SHOP)], CronOptions("web1", mailto='x"\n* * * * * root /bin/sh'))


@pytest.mark.parametrize("path", ["/opt/100%/fleet-backup", "/opt/it's/fleet-backup", "fleet-backup", "/a\n/b"])
def test_a_path_that_would_mean_something_else_to_cron_is_refused(path: str) -> None:
    with pytest.raises(BadInput, match="cannot be a path in a file of cron"):
        crontab([job(SHOP)], CronOptions("web1", command=path))
    assert "root '/opt/my tools/fleet-backup' run shop" in crontab(
        [job(SHOP)], CronOptions("web1", command="/opt/my tools/fleet-backup")
    )
