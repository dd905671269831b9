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
        hosts: dict[str, dict[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """Run the role, on this machine or on hosts that are this machine, with variables of their own; what is said.

        The variable ``facts`` of a host is what is known of it.
        """
        inventory = {
            host: {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, **own}
            for host, own in (hosts or {"localhost": {"fleet_backup_jobs": list(jobs)}}).items()
        }
        (self.root / "hosts.json").write_text(json.dumps({"all": {"hosts": inventory}}))
        known = {name: f"{{{{ facts.{name} }}}}" for own in inventory.values() for name in own.get("facts", {})}
        play = {
            "hosts": "all",
            "gather_facts": False,
            "vars": {
                "agent_packages": False,
                "agent_python": sys.executable,
                "agent_path": str(self.program),
                "agent_directory": str(self.settings),
                "agent_share": "",
                "agent_logrotate": "",
                "agent_owner": getpass.getuser(),
                "agent_group": grp.getgrgid(os.getegid()).gr_name,
                **variables,
            },
            "pre_tasks": [{"ansible.builtin.set_fact": {**known, "cacheable": True}, "when": "facts is defined"}],
            "roles": list(self.roles),
        }
        (self.root / "deploy.yml").write_text(yaml.safe_dump([play]))
        done = subprocess.run(
            ["ansible-playbook", "-i", str(self.root / "hosts.json"), str(self.root / "deploy.yml"), *options],
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


def reason(output: str, host: str) -> str:
    """Why a host failed."""
    failures = re.findall(rf"^fatal: \[{host}\]: FAILED! => (.*?)^(?=\S|$)", output, re.MULTILINE | re.DOTALL)
    return " ".join(" ".join(failures).split()).replace('\\"', '"')


BRACES = "{{.Names}} {# no comment #} {% if %}"


class Deployed(Fleet):
    """A fleet that is deployed, which tests leave as it is."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.share = directory / "share"
        self.kept, self.made = directory / "kept", directory / "made" / "backups"
        hook = ["/bin/echo", "{% raw %}" + BRACES + "{% endraw %}"]
        self.jobs = (
            self.shop,
            self.orders,
            {**self.shop, "name": "braces", "hooks": {"before": [hook]}},
            {**self.shop, "name": "kept", "repositories": [{"path": str(self.kept)}]},
            {**self.shop, "name": "made", "repositories": [{"path": str(self.made), "create": True}]},
        )
        self.options = {
            "agent_share": str(self.share),
            "agent_logrotate": str(directory / "logrotate.d" / "fleet-backup"),
        }
        self.predicted = changed(self.deploy(*self.jobs, options=("--check",), **self.options))
        self.touched_by_prediction = self.settings.exists() or self.program.exists()
        self.said = self.deploy(*self.jobs, options=("--diff", "-vvv"), **self.options)


# One worker deploys what these tests share.
shared = pytest.mark.xdist_group("deployed agent")


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    return Deployed(tmp_path_factory.mktemp("deployed"))


@shared
def test_a_deployed_job_runs_and_the_second_deployment_changes_nothing(deployed: Deployed) -> None:
    assert not deployed.touched_by_prediction
    assert changed(deployed.said) == deployed.predicted > 0
    assert deployed.files() == {
        "agent.json": 0o600,
        "jobs.d/braces.json": 0o600,
        "jobs.d/kept.json": 0o600,
        "jobs.d/made.json": 0o600,
        "jobs.d/orders.json": 0o600,
        "jobs.d/shop.json": 0o600,
        "secrets/orders.login_password": 0o600,
        "secrets/orders.passphrase": 0o600,
    }
    # A slash more is no other directory, and nothing of it is taken for what is not wanted.
    again = deployed.deploy(*deployed.jobs, agent_directory=f"{deployed.settings}/", **deployed.options)
    assert changed(again) == 0
    assert json.loads(deployed.agent("run", "shop", "--json"))[0]["error"] is None
    assert "localhost: 5 jobs can be used: braces, kept, made, orders, shop" in deployed.agent("config", "check")


@shared
def test_braces_in_a_job_are_its_own(deployed: Deployed) -> None:
    job = json.loads((deployed.settings / "jobs.d" / "braces.json").read_text())
    assert job["hooks"]["before"] == [["/bin/echo", BRACES]]


@shared
def test_a_secret_is_in_its_own_file_and_in_nothing_that_is_said(deployed: Deployed) -> None:
    assert "orders" in deployed.said and "open sesame" not in deployed.said
    assert (deployed.settings / "secrets" / "orders.login_password").read_text() == "open sesame 1\n"
    assert "open sesame" not in (deployed.settings / "jobs.d" / "orders.json").read_text()


@shared
def test_a_repository_is_made_when_it_is_deployed_where_that_is_asked_for_and_never_later(deployed: Deployed) -> None:
    assert not deployed.kept.exists()
    assert stat.S_IMODE(deployed.made.stat().st_mode) == 0o700
    away = deployed.made.rename(deployed.made.with_name("away"))
    try:
        with pytest.raises(subprocess.CalledProcessError):
            deployed.agent("run", "made")
        assert not deployed.made.exists()
    finally:
        away.rename(deployed.made)


@shared
def test_jobs_that_refer_to_a_variable_which_is_not_there_take_nothing_away(deployed: Deployed) -> None:
    before = deployed.files()
    missing = {"localhost": {"fleet_backup_jobs": "{{ jobs_of_the_shop }}"}}
    said = deployed.deploy(fails=True, hosts=missing, **deployed.options)
    assert "jobs_of_the_shop" in said
    assert deployed.files() == before != {}


@shared
def test_the_manual_page_and_the_completion_come_with_the_agent(deployed: Deployed) -> None:
    share = deployed.share
    assert (share / "man/man8/fleet-backup.8").read_text() == deployed.agent("manual")
    assert (share / "bash-completion/completions/fleet-backup").read_text() == deployed.agent("completion", "bash")
    assert (share / "zsh/site-functions/_fleet-backup").read_text() == deployed.agent("completion", "zsh")


def test_a_job_that_leaves_the_inventory_loses_its_files_and_keeps_its_backups(fleet: Fleet) -> None:
    share = fleet.root / "share"
    # As they were while the job was there.
    for left in ("jobs.d/orders.json", "secrets/orders.login_password", "secrets/orders.passphrase"):
        (fleet.settings / left).parent.mkdir(parents=True, exist_ok=True)
        (fleet.settings / left).write_text("{}")
    fleet.deploy(fleet.shop, agent_share=str(share))
    assert set(fleet.files()) == {"agent.json", "jobs.d/shop.json"}
    assert [path for path in share.rglob("*") if path.is_file()] != []
    fleet.agent("run", "shop")
    backups = fleet.world.files()
    fleet.deploy(fleet.shop, agent_share=str(share), fleet_backup_state="absent")
    assert not fleet.settings.exists() and not fleet.program.exists()
    assert fleet.world.files() == backups != []
    assert list(fleet.program.parent.glob("lib/*")) == []
    assert [path for path in share.rglob("*") if path.is_file()] == []
    assert changed(fleet.deploy(fleet.shop, agent_share=str(share), fleet_backup_state="absent")) == 0


BAD_JOBS: list[tuple[dict[str, Any], str]] = [
    ({"database": "shop.db"}, r"{host}: job shop: database: .*not an absolute path"),
    ({"name": "Shop"}, r'"Shop" cannot be the name of a job'),
    ({"retention": {"keep_within": "soon"}}, r"{host}: job shop: retention: keep_within"),
    ({"databse": "x"}, "agent_jobs.databse"),
    ({"engine": "oracle"}, "value of engine must be one of"),
    ({"name": "orders"}, r'{host}: two jobs are named "orders'),
    ({"schedule": {"backup": {"every": "daily", "at": "26:00"}}}, "{host}: job shop: schedule.backup: at"),
]


def test_a_job_that_cannot_be_meant_fails_on_the_controller_by_name(fleet: Fleet) -> None:
    hosts = {
        f"web{number}": {"fleet_backup_jobs": [{**fleet.shop, **change}, fleet.orders]}
        for number, (change, _says) in enumerate(BAD_JOBS)
    }
    output = fleet.deploy(hosts=hosts, fails=True)
    for host, (_change, says) in zip(hosts, BAD_JOBS):
        assert re.search(says.replace("{host}", host), reason(output, host)), (host, output)
    assert not fleet.settings.exists() and not fleet.program.exists()


def test_a_job_has_what_its_group_says_where_it_says_nothing_itself(fleet: Fleet) -> None:
    given = {key: fleet.shop.pop(key) for key in ("repositories", "encryption")}
    defaults = {**given, "retention": {"keep_daily": 30, "timezone": "Europe/Berlin"}}
    fleet.deploy({**fleet.shop, "retention": {"keep_daily": 7}}, fleet_backup_defaults=defaults)
    written = json.loads((fleet.settings / "jobs.d" / "shop.json").read_text())
    assert written["retention"] == {"keep_daily": 7, "timezone": "Europe/Berlin"}
    assert written["encryption"] == given["encryption"]
    assert json.loads(fleet.agent("run", "shop", "--json"))[0]["error"] is None


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


def test_a_host_that_cannot_have_the_agent_is_named_before_anything_is_changed(fleet: Fleet, tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\necho 3.7.17\n")
    old.chmod(0o755)
    own: dict[str, dict[str, Any]] = {
        "suse1": {"facts": {"ansible_os_family": "Suse", "ansible_distribution": "openSUSE Leap"}},
        "old1": {"python": str(old)},
        "bare1": {"python": "/nowhere/python"},
    }
    hosts = {host: {"fleet_backup_jobs": [fleet.shop], **variables} for host, variables in own.items()}
    chosen = {"agent_packages": "{{ facts is defined }}", "agent_python": "{{ python | default('/usr/bin/python3') }}"}
    said = fleet.deploy(hosts=hosts, fails=True, **chosen)
    platform = "suse1 is openSUSE Leap, of the family Suse. This role knows Debian's and Red Hat's"
    assert platform in reason(said, "suse1"), said
    assert f"old1: {old} is Python 3.7.17, and the agent needs Python 3.8 or newer" in reason(said, "old1"), said
    assert "bare1: /nowhere/python cannot be run" in reason(said, "bare1"), said
    assert not fleet.settings.exists() and not fleet.program.exists()


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
