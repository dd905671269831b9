# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role that installs the agent and its jobs: idempotent, honest in check mode, and silent about secrets."""

from __future__ import annotations

import getpass
import grp
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from world import World

ROOT = Path(__file__).parents[2]


class Fleet:
    """A fleet of this machine alone, with everything of the agent below one directory."""

    roles = ("fleet.backup.agent",)

    def __init__(self, directory: Path) -> None:
        self.root = directory
        self.world = World(directory / "world")
        self.world.make_shop()
        self.settings = directory / "etc"
        self.program = directory / "fleet-backup"
        parent = directory / "collections" / "ansible_collections" / "fleet"
        parent.mkdir(parents=True)
        (parent / "backup").symlink_to(ROOT)
        self.shop = {
            "name": "shop",
            "engine": "sqlite",
            "database": str(self.world.path),
            "repositories": [{"path": self.world.repository.label}],
            "encryption": {"recipients": [self.world.public]},
            "schedule": {"backup": {"every": "daily", "at": "02:00", "window": "4h"}},
        }
        self.orders = {
            "name": "orders",
            "engine": "postgresql",
            "database": "orders",
            "login_password": "open sesame 1",
            "repositories": [{"path": self.world.repository.label}],
            "encryption": {"method": "gpg", "passphrase": "open sesame 2"},
        }

    def deploy(
        self,
        *jobs: dict[str, Any],
        options: tuple[str, ...] = (),
        fails: bool = False,
        facts: dict[str, str] | None = None,
        **variables: Any,
    ) -> str:
        """Run the role, on a host of which these facts are known; all that Ansible says."""
        known = [{"ansible.builtin.set_fact": {**facts, "cacheable": True}}] if facts else []
        play = {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "vars": {
                "fleet_backup_jobs": list(jobs),
                "agent_packages": False,
                "agent_python": sys.executable,
                "agent_path": str(self.program),
                "agent_directory": str(self.settings),
                "agent_share": "",
                "agent_logrotate": str(self.root / "logrotate.d" / "fleet-backup"),
                "agent_owner": getpass.getuser(),
                "agent_group": grp.getgrgid(os.getegid()).gr_name,
                **variables,
            },
            "pre_tasks": known,
            "roles": list(self.roles),
        }
        (self.root / "deploy.yml").write_text(yaml.safe_dump([play]))
        done = subprocess.run(
            ["ansible-playbook", str(self.root / "deploy.yml"), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(self.root / "collections")},
            text=True,
            check=False,
        )
        assert (done.returncode != 0) is fails, done.stdout
        return done.stdout

    def agent(self, *arguments: str) -> str:
        command = [str(self.program), *arguments, "--config", str(self.settings / "agent.json")]
        environment = {**os.environ, "FLEET_BACKUP_STATE": str(self.root / "state")}
        done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, text=True, check=True)
        return done.stdout

    def files(self) -> dict[str, int]:
        """All files of the agent, and their modes."""
        paths = [path for path in self.settings.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.settings)): stat.S_IMODE(path.stat().st_mode) for path in paths}


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def changed(output: str) -> int:
    return int(re.search(r"changed=(\d+)", output).group(1))  # type: ignore[union-attr]


def test_a_deployed_job_runs_and_the_second_deployment_changes_nothing(fleet: Fleet) -> None:
    predicted = changed(fleet.deploy(fleet.shop, fleet.orders, options=("--check",)))
    assert not fleet.settings.exists() and not fleet.program.exists()
    assert changed(fleet.deploy(fleet.shop, fleet.orders)) == predicted > 0
    assert fleet.files() == {
        "agent.json": 0o600,
        "jobs.d/orders.json": 0o600,
        "jobs.d/shop.json": 0o600,
        "secrets/orders.login_password": 0o600,
        "secrets/orders.passphrase": 0o600,
    }
    # A slash more is no other directory, and nothing of it is taken for what is not wanted.
    assert changed(fleet.deploy(fleet.shop, fleet.orders, agent_directory=f"{fleet.settings}/")) == 0
    assert json.loads(fleet.agent("run", "shop", "--json"))[0]["error"] is None
    assert "localhost: 2 jobs can be used: orders, shop" in fleet.agent("config", "check")


def test_braces_in_a_job_are_its_own(fleet: Fleet) -> None:
    braces = "{{.Names}} {# no comment #} {% if %}"
    hook = ["/bin/echo", "{% raw %}" + braces + "{% endraw %}"]
    fleet.deploy({**fleet.shop, "hooks": {"before": [hook]}})
    job = json.loads((fleet.settings / "jobs.d" / "shop.json").read_text())
    assert job["hooks"]["before"] == [["/bin/echo", braces]]


def test_a_secret_is_in_its_own_file_and_in_nothing_that_is_said(fleet: Fleet) -> None:
    output = fleet.deploy(fleet.shop, fleet.orders, options=("--diff", "-vvv"))
    assert "orders" in output and "open sesame" not in output
    assert (fleet.settings / "secrets" / "orders.login_password").read_text() == "open sesame 1\n"
    assert "open sesame" not in (fleet.settings / "jobs.d" / "orders.json").read_text()


def test_a_job_that_leaves_the_inventory_loses_its_files_and_keeps_its_backups(fleet: Fleet) -> None:
    fleet.deploy(fleet.shop, fleet.orders)
    fleet.agent("run", "shop")
    fleet.deploy(fleet.shop)
    assert set(fleet.files()) == {"agent.json", "jobs.d/shop.json"}
    backups = fleet.world.files()
    fleet.deploy(fleet.shop, fleet_backup_state="absent")
    assert not fleet.settings.exists() and not fleet.program.exists()
    assert fleet.world.files() == backups != []
    assert list(fleet.program.parent.glob("lib/*")) == []
    assert changed(fleet.deploy(fleet.shop, fleet_backup_state="absent")) == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"database": "shop.db"}, r"localhost: job shop: database: .*not an absolute path"),
        ({"name": "Shop"}, r'"Shop\\?" cannot be the name of a job'),
        ({"retention": {"keep_within": "soon"}}, r"localhost: job shop: retention: keep_within"),
        ({"databse": "x"}, "agent_jobs.databse"),
        ({"engine": "oracle"}, "value of engine must be one of"),
        ({"name": "orders"}, r'localhost: two jobs are named \\?"orders'),
        ({"schedule": {"backup": {"every": "daily", "at": "26:00"}}}, "job shop: schedule.backup: at"),
    ],
)
def test_a_job_that_cannot_be_meant_fails_on_the_controller_by_name(
    fleet: Fleet, change: dict[str, Any], says: str
) -> None:
    output = fleet.deploy({**fleet.shop, **change}, fleet.orders, fails=True)
    assert re.search(says, output), output
    assert not fleet.settings.exists()


def test_a_job_has_what_its_group_says_where_it_says_nothing_itself(fleet: Fleet) -> None:
    given = {key: fleet.shop.pop(key) for key in ("repositories", "encryption")}
    defaults = {**given, "retention": {"keep_daily": 30, "timezone": "Europe/Berlin"}}
    fleet.deploy({**fleet.shop, "retention": {"keep_daily": 7}}, fleet_backup_defaults=defaults)
    written = json.loads((fleet.settings / "jobs.d" / "shop.json").read_text())
    assert written["retention"] == {"keep_daily": 7, "timezone": "Europe/Berlin"}
    assert written["encryption"] == given["encryption"]
    assert json.loads(fleet.agent("run", "shop", "--json"))[0]["error"] is None


def test_a_repository_is_made_when_it_is_deployed_where_that_is_asked_for_and_never_later(fleet: Fleet) -> None:
    place = fleet.root / "made" / "backups"
    fleet.deploy({**fleet.shop, "repositories": [{"path": str(place)}]})
    assert not place.exists()
    fleet.deploy({**fleet.shop, "repositories": [{"path": str(place), "create": True}]})
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    place.rmdir()
    with pytest.raises(subprocess.CalledProcessError):
        fleet.agent("run", "shop")
    assert not place.exists()


def test_jobs_that_refer_to_a_variable_which_is_not_there_take_nothing_away(fleet: Fleet) -> None:
    fleet.deploy(fleet.shop)
    before = fleet.files()
    said = fleet.deploy(fails=True, fleet_backup_jobs="{{ jobs_of_the_shop }}")
    assert "jobs_of_the_shop" in said
    assert fleet.files() == before != {}


def test_the_agent_runs_from_a_virtual_environment_where_one_is_chosen(fleet: Fleet) -> None:
    environment = str(fleet.root / "venv")
    python = str(Path(sys.executable).resolve())
    chosen: dict[str, Any] = {"agent_virtualenv": environment, "agent_python": python}
    predicted = changed(fleet.deploy(fleet.shop, options=("--check",), **chosen))
    assert changed(fleet.deploy(fleet.shop, **chosen)) == predicted
    assert changed(fleet.deploy(fleet.shop, **chosen)) == 0
    assert "up to date" in fleet.agent("compile")
    assert fleet.program.read_bytes().startswith(f"#!{environment}/bin/python3 -I\n".encode())
    assert json.loads(fleet.agent("run", "shop", "--json"))[0]["error"] is None
    fleet.deploy(fleet.shop, fleet_backup_state="absent", **chosen)
    assert not Path(environment).exists()


def test_a_host_that_needs_no_library_needs_no_virtual_environment(fleet: Fleet) -> None:
    environment = str(fleet.root / "venv")
    shop = {**fleet.shop, "encryption": {"method": "none"}}
    fleet.deploy(shop, agent_virtualenv=environment, agent_python=sys.executable)
    assert not Path(environment).exists()
    assert json.loads(fleet.agent("run", "shop", "--json"))[0]["error"] is None


def test_a_platform_that_is_not_known_is_named_before_anything_is_changed(fleet: Fleet) -> None:
    facts = {"ansible_os_family": "Suse", "ansible_distribution": "openSUSE Leap"}
    said = fleet.deploy(fleet.shop, agent_packages=True, facts=facts, fails=True)
    assert re.search(
        r"localhost is openSUSE Leap, of the\s+family Suse\.\s+This role knows Debian's and Red Hat's", said
    )
    assert not fleet.settings.exists() and not fleet.program.exists()


def test_a_python_that_is_too_old_or_missing_is_named(fleet: Fleet, tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\necho 3.7.17\n")
    old.chmod(0o755)
    said = fleet.deploy(fleet.shop, agent_python=str(old), fails=True)
    assert re.search(rf"localhost: {old} is Python 3.7.17, and the agent\s+needs Python 3.8 or newer", said), said
    assert "/nowhere/python cannot be run" in fleet.deploy(fleet.shop, agent_python="/nowhere/python", fails=True)
    assert not fleet.program.exists()


def test_the_manual_page_and_the_completion_come_with_the_agent(fleet: Fleet) -> None:
    share = fleet.root / "share"
    fleet.deploy(fleet.shop, agent_share=str(share))
    assert (share / "man/man8/fleet-backup.8").read_text() == fleet.agent("manual")
    assert (share / "bash-completion/completions/fleet-backup").read_text() == fleet.agent("completion", "bash")
    assert (share / "zsh/site-functions/_fleet-backup").read_text() == fleet.agent("completion", "zsh")
    fleet.deploy(fleet.shop, agent_share=str(share), fleet_backup_state="absent")
    assert [path for path in share.rglob("*") if path.is_file()] == []


def test_where_there_is_no_space_for_the_agent_the_old_one_stays(fleet: Fleet, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=True)
    try:
        fleet.program = small / "fleet-backup"
        fleet.program.write_text("an older version")
        told = fleet.deploy(fleet.shop, fails=True)
        assert "No space left on device" in told and str(fleet.program) in told and "fatal: [localhost]" in told
        assert [path.name for path in small.iterdir()] == ["fleet-backup"]
        assert fleet.program.read_text() == "an older version"
        assert not fleet.settings.exists()
    finally:
        subprocess.run(["umount", str(small)], check=True)
