# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role that sets up notifications: what it deploys arrives, its secrets stay secrets, and wrong channels fail."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError

from receivers import MailServer, web_server
from test_agent_role import Fleet, changed

ROOT = Path(__file__).parents[2]
SECRET = "Tk9UVEhJU09ORQ"
SLACK = {"name": "chat", "type": "slack", "url": f"https://hooks.example.com/{SECRET}"}
MAIL = {
    "name": "mail",
    "type": "email",
    "host": "mail.example.com",
    "from": "backup@example.com",
    "to": ["ops@example.com"],
    "login_user": "backup",
    "login_password": f"{SECRET} 2",
}


class Monitored(Fleet):
    """A fleet of this machine alone, with channels."""

    roles = ("fleet.backup.agent", "fleet.backup.monitoring")

    def tell(self, *channels: dict[str, Any], **options: Any) -> str:
        """Deploy the agent with a job, and the channels."""
        shop = {**self.shop, **options.pop("job", {})}
        return self.deploy(shop, fleet_backup_notifications=list(channels), **options)


class Told(Monitored):
    """The same without the agent, for what is only about channels."""

    roles = ("fleet.backup.monitoring",)


@pytest.fixture
def fleet(tmp_path: Path) -> Monitored:
    return Monitored(tmp_path)


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


def test_deployed_channels_tell_and_the_second_deployment_changes_nothing(fleet: Monitored, tmp_path: Path) -> None:
    with web_server() as web, MailServer(tmp_path / "mail") as mail:
        channels = [
            {"name": "chat", "type": "slack", "url": f"{web.url}/chat"},
            {
                **MAIL,
                "host": "127.0.0.1",
                "port": mail.port,
                "login_user": mail.user,
                "login_password": mail.password,
                "ca_cert": str(mail.ca_cert),
                "events": ["success"],
            },
        ]
        job = {"heartbeat": f"{web.url}/pulse", "notifications": ["mail"]}
        predicted = changed(fleet.tell(*channels, job=job, options=("--check",)))
        assert not fleet.settings.exists()
        assert changed(fleet.tell(*channels, job=job)) == predicted > 0
        assert changed(fleet.tell(*channels, job=job)) == 0
        assert fleet.files()["notifications.json"] == 0o600
        assert fleet.files()["notification-secrets/chat.url"] == 0o600
        assert fleet.files()["secrets/shop.heartbeat"] == 0o600
        fleet.agent("notify")
        assert sorted(web.paths) == ["/chat", "/pulse/log"]
        fleet.agent("run", "shop")
        assert web.paths[2:] == ["/pulse/start", "/pulse"]
        assert mail.subjects[1:] == ["localhost: the backup of shop is done"]


def test_secrets_are_in_their_own_files_and_in_nothing_that_is_said(fleet: Monitored) -> None:
    hook = {"name": "hook", "type": "webhook", "url": f"https://example.com/{SECRET}", "token": f"{SECRET} 3"}
    job = {"heartbeat": f"https://example.com/{SECRET}"}
    output = fleet.tell(SLACK, MAIL, hook, job=job, options=("--diff", "-vvv"))
    assert "notifications.json" in output and SECRET not in output
    kept = {path.name for path in fleet.settings.rglob("*") if path.is_file() and SECRET in path.read_text()}
    assert kept == {"chat.url", "mail.login_password", "hook.url", "hook.token", "shop.heartbeat"}


def test_a_channel_that_leaves_the_inventory_loses_its_secrets(told: Told) -> None:
    told.tell(SLACK, MAIL)
    told.tell(MAIL)
    kept = sorted(name for name in told.files() if "notification" in name)
    assert kept == ["notification-secrets/mail.login_password", "notifications.json"]
    told.tell()
    assert not [path for path in told.settings.rglob("*") if path.is_file() and "notification" in str(path)]


def test_nothing_of_the_channels_is_left_where_backups_are_taken_away(fleet: Monitored) -> None:
    fleet.tell(MAIL)
    assert "notifications.json" in fleet.files()
    fleet.tell(MAIL, fleet_backup_state="absent")
    assert not fleet.settings.exists()
    assert changed(fleet.tell(MAIL, fleet_backup_state="absent")) == 0


@pytest.fixture(scope="module")
def filters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The filters, as Ansible imports them."""
    root = tmp_path_factory.mktemp("collections")
    (root / "ansible_collections" / "fleet").mkdir(parents=True)
    (root / "ansible_collections" / "fleet" / "backup").symlink_to(ROOT)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        yield importlib.import_module("ansible_collections.fleet.backup.plugins.filter.notification_files")


@pytest.mark.parametrize(
    ("channel", "says"),
    [
        ({**SLACK, "type": "fax"}, 'web1: channel chat: type cannot be used: "fax" is none of apprise, discord'),
        ({**SLACK, "name": "Chat Room"}, "web1: channel Chat Room: name cannot be used"),
        ({**SLACK, "url": f"hooks.example.com/{SECRET}"}, "web1: channel chat: url is no URL"),
        ({**SLACK, "url": ""}, "web1: channel chat: url is empty"),
        ({**SLACK, "url": 7}, "web1: channel chat: url: this must be an object"),
        (
            {**SLACK, "urls": f"https://example.com/{SECRET}"},
            'web1: channel chat: unknown option "urls"; did you mean "url"?',
        ),
        ({"name": "chat", "type": "slack"}, "web1: channel chat: url cannot be used: it is missing"),
        ({"type": "slack", "url": f"https://example.com/{SECRET}"}, r"web1: channels\[0\]: name .* is missing"),
        (
            {**SLACK, "url": {"credential": "chat"}},
            "web1: channel chat: url: systemd hands credentials",
        ),
        ({**MAIL, "tls": "none"}, "web1: channel mail: tls cannot be used: .* in the clear"),
        ({**MAIL, "to": ["ops"]}, 'web1: channel mail: to cannot be used: "ops" is no address'),
        ({**MAIL, "to": ["a@example.com\nBcc: b@example.com"]}, "web1: channel mail: to cannot be used"),
        ({**MAIL, "remind": "daily"}, "web1: channel mail: remind.*not a duration"),
        ({**MAIL, "ca_cert": "ca.pem"}, "web1: channel mail: ca_cert cannot be used: ca.pem is not absolute"),
        ({**MAIL, "events": ["panic"]}, 'web1: channel mail: events cannot be used: "panic" is none of failure'),
        ({**MAIL, "name": "other"}, 'web1: job shop: notifications: there is no channel "mail". The channels: other'),
    ],
)
def test_a_channel_that_cannot_be_meant_is_refused_by_host_channel_and_option(
    filters: Any, channel: dict[str, Any], says: str
) -> None:
    jobs = [{"name": "shop", "notifications": ["mail"] if channel.get("name") == "other" else None}]
    with pytest.raises(AnsibleFilterError, match=f"^{says}") as caught:
        filters.notification_files([channel], "web1", jobs)
    assert SECRET not in str(caught.value)


def test_a_wrong_channel_fails_on_the_controller_and_shows_no_secret(told: Told) -> None:
    output = told.tell({**MAIL, "tls": "none"}, fails=True)
    assert "localhost: channel mail: tls cannot be used" in output and SECRET not in output
    assert not (told.settings / "notifications.json").exists()


def test_a_wrong_heartbeat_of_a_job_fails_on_the_controller(fleet: Monitored) -> None:
    output = fleet.tell(job={"heartbeat": f"hc-ping.com/{SECRET}"}, fails=True)
    assert "localhost: job shop: heartbeat is no URL" in output and SECRET not in output


def test_the_role_documents_every_option_that_the_agent_reads() -> None:
    spec = yaml.safe_load((ROOT / "roles" / "monitoring" / "meta" / "argument_specs.yml").read_text())
    documented = set(spec["argument_specs"]["main"]["options"]["monitoring_notifications"]["options"])
    directory = ROOT / "plugins" / "module_utils" / "_engine" / "agent" / "notifications"
    taken = re.compile(r'fields\.\w+\(\s*"(\w+)"')
    read = {name for path in directory.glob("*.py") for name in taken.findall(path.read_text())}
    assert documented == read - {"channels"}


def test_the_example_of_the_readme_can_be_used(told: Told) -> None:
    text = (ROOT / "roles" / "monitoring" / "README.md").read_text()
    channels = re.search(r"```yaml\n(fleet_backup_notifications:.*?)```", text, re.DOTALL)
    assert channels is not None
    secret = {f"vault_{name}": f"https://example.com/{name}" for name in re.findall(r"vault_(\w+)", text)}
    told.tell(*yaml.safe_load(channels.group(1))["fleet_backup_notifications"], **secret)
    assert len(json.loads((told.settings / "notifications.json").read_text())["channels"]) == 6
