# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Notifications as they arrive: once, again at the recovery, never lost, never in the way, and without a secret."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from receivers import MailServer, WebServer, free_port, tls_context, web_server
from terminal import terminal
from test_agent import Agent, family, wait_for
from world import World

#: A part of every secret that these tests hand out.
SECRET = "Tk9UVEhJU09ORQ"


class Notified(Agent):
    """An agent with channels."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.file = self.root / "notifications.json"
        self.secrets: list[Path] = []

    def secret(self, name: str, content: str) -> dict[str, str]:
        path = self.root / f"{name}.secret"
        path.write_text(content + "\n")
        path.chmod(0o600)
        self.secrets.append(path)
        return {"file": str(path)}

    def channels(self, *channels: dict[str, Any]) -> None:
        self.file.write_text(json.dumps({"channels": list(channels)}))

    def mail(self, server: MailServer, **options: Any) -> dict[str, Any]:
        return {
            "name": "mail",
            "type": "email",
            "host": "127.0.0.1",
            "port": server.port,
            "from": "backup@web1.example",
            "to": ["ops@example.com"],
            "login_user": server.user,
            "login_password": self.secret("mail", server.password),
            "ca_cert": str(server.ca_cert),
            **options,
        }

    def hook(self, web: WebServer, kind: str = "webhook", **options: Any) -> dict[str, Any]:
        name = str(options.pop("name", kind))
        return {"name": name, "type": kind, "url": self.secret(name, f"{web.url}/{SECRET}"), **options}

    def broken(self) -> None:
        """Let the shop's database be where it cannot be found."""
        self.job("shop", database=str(self.world.path.with_name("gone.db")))

    def outbox(self) -> list[Path]:
        return sorted((self.world.host.state / "notifications" / "outbox").glob("*.json"))

    def audit(self, action: str) -> list[dict[str, Any]]:
        lines = (self.world.host.state / "audit.jsonl").read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["action"] == action]

    def holds_no_secret(self, *outputs: str) -> None:
        """No output and no file but the secrets' own has a secret."""
        for output in outputs:
            assert SECRET not in output and MailServer.password not in output
        for path in self.world.root.rglob("*"):
            if path.is_file() and path not in self.secrets:
                content = path.read_bytes()
                assert SECRET.encode() not in content and MailServer.password.encode() not in content, path


@pytest.fixture
def agent(tmp_path: Path) -> Notified:
    world = World(tmp_path)
    world.make_shop()
    return Notified(world)


@pytest.fixture
def mail(tmp_path: Path) -> Iterator[MailServer]:
    with MailServer(tmp_path / "mail") as server:
        yield server


@pytest.fixture
def web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


def test_a_failing_job_is_told_once_in_three_runs_and_once_when_it_recovers(
    agent: Notified, mail: MailServer, web: WebServer
) -> None:
    agent.channels(agent.mail(mail), agent.hook(web))
    agent.job("shop")
    agent.run("run", "shop")
    assert mail.mails == [] and web.requests == []
    agent.broken()
    said = [agent.run("run", "shop", status=1) for _run in range(3)]
    assert len(mail.mails) == len(web.requests) == 1
    text = mail.mails[0].get_content()
    assert mail.subjects[0].startswith("web1: the backup of shop failed: There is no database")
    assert "The backup of shop on web1 failed (not_found)." in text
    assert "Last good backup: there is none" in text or "Last good backup: shop" in text
    event = web.requests[0].json
    assert (event["event"], event["host"], event["job"], event["error"]) == ("failure", "web1", "shop", "not_found")
    agent.job("shop")
    said += [agent.run("run", "shop") for _run in range(2)]
    assert mail.subjects[1:] == ["web1: the backup of shop works again"]
    assert [request.json["event"] for request in web.requests] == ["failure", "recovery"]
    agent.holds_no_secret(*said)
    assert agent.outbox() == []


def test_the_last_good_backup_is_named_with_its_age(agent: Notified, mail: MailServer) -> None:
    agent.channels(agent.mail(mail))
    agent.job("shop", hooks={})
    (report,) = agent.json("run", "shop")
    agent.job("shop", hooks={"before": [["/bin/false"]]})
    agent.run("run", "shop", status=1)
    assert f"Last good backup: {report['backup']['id']}, " in mail.mails[0].get_content()


def test_an_error_of_another_kind_is_told_again(agent: Notified, web: WebServer) -> None:
    agent.channels(agent.hook(web))
    agent.broken()
    agent.run("run", "shop", status=1)
    agent.job("shop", hooks={"before": [["/bin/false"]]})
    agent.run("run", "shop", status=1)
    agent.run("run", "shop", status=1)
    assert [request.json["error"] for request in web.requests] == ["not_found", "tool_failed"]
    assert web.requests[0].json["failing_since"] == web.requests[1].json["failing_since"]


def test_each_verb_has_its_own_failures(agent: Notified, web: WebServer) -> None:
    agent.channels(agent.hook(web))
    agent.job("shop")
    agent.run("verify", "shop", status=1)
    agent.run("rotate", "shop")
    agent.run("run", "shop")
    agent.run("verify", "shop")
    assert [(one.json["verb"], one.json["event"]) for one in web.requests] == [
        ("verify", "failure"),
        ("verify", "recovery"),
    ]


def test_a_job_that_cannot_be_read_is_told_too(agent: Notified, web: WebServer) -> None:
    agent.channels(agent.hook(web))
    agent.job("shop", databse="x")
    agent.run("run", "shop", status=2)
    agent.run("run", "shop", status=2)
    (request,) = web.requests
    assert request.json["error"] == "bad_input" and 'unknown option "databse"' in request.json["message"]


def test_success_is_told_where_it_is_asked_for_and_only_of_the_jobs_that_are_meant(
    agent: Notified, web: WebServer
) -> None:
    agent.channels(
        agent.hook(web, name="every", events=["success"]),
        agent.hook(web, name="shops", events=["success"], jobs=["shop"]),
    )
    agent.job("shop")
    agent.job("quiet", notifications=[])
    agent.job("other", notifications=["every"])
    agent.run("run", "--all")
    assert sorted(request.json["job"] for request in web.requests) == ["other", "shop", "shop"]


def test_a_mail_server_that_was_down_loses_no_failure_and_breaks_no_backup(agent: Notified, tmp_path: Path) -> None:
    port = free_port()
    server = MailServer(tmp_path / "mail", port=port)
    agent.channels(agent.mail(server))
    agent.job("shop")
    agent.broken()
    (report,) = agent.json("run", "shop", status=1)
    assert report["error"] == "not_found"
    (warning,) = report["warnings"]
    assert warning.startswith("channel mail: 127.0.0.1") and "refused" in warning and "waits" in warning
    assert len(agent.outbox()) == 1
    assert agent.audit("notify")[0]["subject"] == "mail"
    assert "1 wait for mail since 20" in agent.run("status", status=1)
    agent.job("shop")
    (report,) = agent.json("run", "shop")
    assert report["changed"] and report["error"] is None and "2 messages wait" in report["warnings"][0]
    with server:
        (report,) = agent.json("run", "shop")
        assert report["warnings"] == []
        assert [subject.split(":")[1] for subject in server.subjects] == [
            " the backup of shop failed",
            " the backup of shop works again",
        ]
    assert agent.outbox() == []
    assert "wait for mail" not in agent.run("status")


def test_heartbeats_come_in_order_and_say_how_it_ended(agent: Notified, web: WebServer) -> None:
    agent.channels({"name": "pulse", "type": "heartbeat", "url": agent.secret("pulse", f"{web.url}/{SECRET}/{{job}}")})
    agent.job("shop", heartbeat=agent.secret("own", f"{web.url}/own"))
    agent.run("run", "shop")
    own = [path for path in web.paths if path.startswith("/own")]
    assert own == ["/own/start", "/own"]
    assert [path for path in web.paths if path not in own] == [f"/{SECRET}/shop/start", f"/{SECRET}/shop"]
    web.requests.clear()
    agent.job("shop", heartbeat=agent.secret("own", f"{web.url}/own"), hooks={"before": [["/bin/false"]]})
    agent.run("run", "shop", status=1)
    failed = next(request for request in web.requests if request.path == "/own/fail")
    assert b"the hook before of shop" in failed.body
    web.requests.clear()
    agent.run("rotate", "shop")
    agent.run("verify", "shop")
    assert web.requests == [], "neither a rotation nor a verification is a backup"


def test_a_heartbeat_that_cannot_be_sent_is_reported_and_not_kept(agent: Notified) -> None:
    agent.job("shop", heartbeat=agent.secret("own", f"http://127.0.0.1:{free_port()}/{SECRET}"))
    (report,) = agent.json("run", "shop")
    assert report["error"] is None
    (warning,) = report["warnings"]
    assert warning.startswith("shop: heartbeat: the receiver cannot be reached: Connection refused")
    assert agent.outbox() == []
    agent.holds_no_secret(warning)


def test_a_receiver_that_does_not_answer_delays_no_backup(agent: Notified, web: WebServer) -> None:
    agent.channels(agent.hook(web, events=["success"]))
    web.answering.clear()
    agent.job("a-shop", heartbeat=agent.secret("own", f"{web.url}/own"))
    agent.job("b-shop")
    process = subprocess.Popen(agent.command("run", "--all", "--json"), stdout=subprocess.PIPE, text=True)
    wait_for(lambda: len(agent.outbox()) == 2)
    assert process.poll() is None, "both backups are there, and the receivers still have not answered"
    process.terminate()
    told, _nothing = process.communicate(timeout=20)
    reports = json.loads(told)
    assert [report["error"] for report in reports] == [None, None]
    assert len(agent.outbox()) == 2
    assert "interrupted" in str(reports) and "longer than" not in str(reports)
    assert agent.audit("notify") == []
    web.answering.set()
    web.requests.clear()
    agent.channels(agent.hook(web))
    agent.run("rotate", "a-shop")
    assert sorted(request.json["job"] for request in web.requests) == ["a-shop", "b-shop"]


@pytest.mark.parametrize(
    ("verb", "command", "code"),
    [("backup", ("run", "shop"), "not_found"), ("restore", ("restore", "shop", "--yes", "--before", "2020-01-01"), "")],
)
def test_a_signal_after_the_work_takes_back_neither_what_is_told_nor_the_output(
    agent: Notified, web: WebServer, verb: str, command: tuple[str, ...], code: str
) -> None:
    agent.channels(agent.hook(web))
    agent.broken()
    agent.run("status", "--notify", status=1)
    web.requests.clear()
    lock = agent.world.host.state / "locks" / f"notify+shop.{verb}.lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = subprocess.Popen(agent.command(*command, "--json"), stdout=subprocess.PIPE, text=True)
        wait_for(lambda: waits_for(process, lock))
        process.terminate()
        time.sleep(0.2)
    told, _nothing = process.communicate(timeout=20)
    assert process.returncode == 1
    assert code in json.loads(told)[0]["error"]
    assert web.requests or agent.outbox(), "it is sent, or waits for the next run"
    agent.run(*command, status=1)
    assert [request.json["event"] for request in web.requests] == ["failure"]


def test_a_restore_that_is_refused_notifies_only_where_nobody_sits_at_a_terminal(
    agent: Notified, web: WebServer
) -> None:
    agent.job("shop", restore={"before": [["/bin/false"]]})
    agent.run("run", "shop")
    agent.channels(agent.hook(web))
    for options in (("--before", "2020-01-01"), ("--backup", "none"), ()):
        with terminal(agent.command("restore", "shop", "--yes", *options)) as screen:
            assert screen.end() == 1 and screen.screen
    assert web.requests == [] and agent.outbox() == []
    agent.run("restore", "shop", "--yes", status=1)
    assert [request.json["event"] for request in web.requests] == ["failure"]
    web.requests.clear()
    key = ("--identity", str(agent.world.root / "ops.pem"))
    (agent.world.root / "ops.pem").write_text(agent.world.private)
    (agent.world.root / "ops.pem").chmod(0o600)
    with terminal(agent.command("restore", "shop", "--yes", "--replace", *key)) as screen:
        assert screen.end() == 1
    assert [request.json["event"] for request in web.requests] == ["failure"]


def test_a_signal_while_a_receiver_answers_sends_nothing_twice(agent: Notified, web: WebServer) -> None:
    agent.channels(agent.hook(web))
    agent.broken()
    web.answering.clear()
    process = subprocess.Popen(agent.command("run", "shop"), stdout=subprocess.DEVNULL)
    wait_for(lambda: web.requests)
    process.terminate()
    time.sleep(0.3)
    web.answering.set()
    assert process.wait(timeout=20) == 1
    assert agent.outbox() == []
    agent.run("run", "shop", status=1)
    assert [request.json["event"] for request in web.requests] == ["failure"]


def waits_for(process: subprocess.Popen[str], path: Path) -> bool:
    """Whether a process of a command has a file open, or the command has ended."""
    try:
        return path in {Path(os.readlink(fd)) for pid in family(process) for fd in Path(f"/proc/{pid}/fd").iterdir()}
    except OSError:
        return process.poll() is not None


def test_one_message_that_the_receiver_refuses_keeps_no_other_one_back(agent: Notified, web: WebServer) -> None:
    agent.channels(agent.hook(web))
    agent.broken()
    web.status = 422
    assert "422" in agent.run("run", "shop", status=1)
    assert len(agent.outbox()) == 1
    web.requests.clear()
    agent.job("other", database="/nowhere/other.db")
    agent.run("run", "other", status=1)
    assert sorted(request.json["job"] for request in web.requests) == ["other", "shop"]
    web.status = 401
    web.requests.clear()
    agent.run("run", "other", "shop", status=1)
    assert len(web.requests) == 1, "a channel that lets nobody in is not tried with every message"


def test_a_dry_run_tells_nobody_anything(agent: Notified, web: WebServer) -> None:
    agent.channels(agent.hook(web, events=["success", "failure"]))
    agent.job("shop", heartbeat=agent.secret("own", f"{web.url}/own"))
    before = agent.world.picture()
    agent.run("run", "shop", "--dry-run")
    agent.run("verify", "shop", "--dry-run", status=1)
    assert web.requests == [] and agent.world.picture() == before


def test_a_new_job_is_no_alarm_before_its_first_moment_and_one_after_it(agent: Notified, web: WebServer) -> None:
    agent.channels(agent.hook(web))
    later = datetime.now().astimezone() + timedelta(hours=12)
    schedule = {"every": "daily", "at": later.strftime("%H:%M")}
    agent.job("shop", schedule={"backup": schedule, "verify": schedule}, health={"max_proof_age": "7d", "min_free": 0})
    assert "the first backup is not due yet" in agent.run("status", "--notify")
    assert agent.json("status")["jobs"][0]["awaited"] == ["backup", "verify"]
    agent.run("run", "shop")
    agent.run("status", "--notify")
    assert web.requests == []
    # Both moments have come and gone, and neither work was done.
    path, days = agent.jobs / "shop.json", 2 * 86400
    os.utime(path, (path.stat().st_atime - days, path.stat().st_mtime - days))
    assert "ever proven by restoring" in agent.run("status", status=1)
    shutil.rmtree(agent.world.directory)
    agent.run("status", "--notify", status=1)
    (event,) = (request.json for request in web.requests)
    assert (event["verb"], event["event"]) == ("health", "failure") and "no good backup" in event["message"]


def test_health_is_told_when_it_changes(agent: Notified, web: WebServer) -> None:
    agent.channels(agent.hook(web))
    agent.job("shop")
    agent.run("status", status=1)
    assert web.requests == [], "looking is not telling"
    agent.run("status", "--notify", status=1)
    agent.run("status", "--notify", status=1)
    agent.run("run", "shop")
    agent.run("status", "--notify")
    agent.run("status", "--notify")
    assert [(one.json["verb"], one.json["event"]) for one in web.requests] == [
        ("health", "failure"),
        ("health", "recovery"),
    ]
    assert web.requests[0].json["subject"] == "web1: shop is not healthy: there is no good backup."


def test_what_goes_wrong_besides_is_told_and_what_is_mended_in_part_is_not(agent: Notified, web: WebServer) -> None:
    agent.channels(agent.hook(web))
    agent.job("shop")
    agent.run("run", "shop")
    unproven, crowded = {"max_proof_age": "1d"}, {"min_free": 1.0}
    for limits in (unproven, unproven, {**unproven, **crowded}, crowded, {**unproven, **crowded}):
        agent.job("shop", health=limits)
        agent.run("status", "--notify", status=1)
    told = [one.json["message"] for one in web.requests]
    assert ["proven" in one for one in told] == [True, True, True]
    assert ["should be" in one for one in told] == [False, True, True]
    (found,) = agent.json("status", status=1)["jobs"]
    assert found["codes"] == ["unproven", "space"] and len(found["complaints"]) == 2


def test_the_same_wrong_in_a_second_repository_is_told(agent: Notified, web: WebServer) -> None:
    agent.channels(agent.hook(web))
    first, second = agent.world.root / "first", agent.world.root / "second"
    first.mkdir()
    agent.job("shop", repositories=[{"path": str(first)}])
    agent.run("status", "--notify", status=1)
    second.mkdir()
    agent.job("shop", repositories=[{"path": str(first)}, {"path": str(second)}])
    for _run in range(2):
        agent.run("status", "--notify", status=1)
    assert len(web.requests) == 2


def test_a_long_failure_is_told_again_where_a_reminder_is_asked_for(agent: Notified, web: WebServer) -> None:
    agent.channels(agent.hook(web, remind="24h"), agent.hook(web, name="quiet"))
    agent.broken()
    agent.run("run", "shop", status=1)
    memory = agent.world.host.state / "notifications" / "jobs" / "shop.backup.json"
    document = json.loads(memory.read_text())
    for told in document["told"].values():
        told["time"] = "2026-01-01T00:00:00Z"
    memory.write_text(json.dumps(document))
    web.requests.clear()
    agent.run("run", "shop", status=1)
    agent.run("run", "shop", status=1)
    assert len(web.requests) == 1


@pytest.mark.parametrize("content", ['{"channels": ', '{"channels": {}}', "[]", '{"chanels": []}'])
def test_a_broken_file_stops_no_backup_and_is_in_every_report(agent: Notified, content: str) -> None:
    agent.file.write_text(content)
    agent.job("shop")
    (report,) = agent.json("run", "shop")
    assert report["changed"] and report["error"] is None
    assert str(agent.file) in report["warnings"][0]
    assert str(agent.file) in agent.run("config", "check", status=2)
    assert str(agent.file) in agent.run("notify", status=1)


def test_a_channel_that_is_wrong_keeps_no_other_one_from_telling(agent: Notified, web: WebServer) -> None:
    agent.channels({"name": "pager", "type": "carrier-pigeon"}, agent.hook(web))
    agent.broken()
    (report,) = agent.json("run", "shop", status=1)
    assert len(web.requests) == 1
    known = "apprise, discord, email, heartbeat, slack, webhook"
    assert f'channel pager: type cannot be used: "carrier-pigeon" is none of {known}' in report["warnings"][0]


def test_a_job_that_names_an_unknown_channel_says_so(agent: Notified, web: WebServer) -> None:
    agent.channels(agent.hook(web))
    agent.job("shop", notifications=["webhok"])
    (report,) = agent.json("run", "shop")
    assert 'there is no channel "webhok" on this host. The channels: webhook.' in report["warnings"][0]
    assert 'shop: notifications: there is no channel "webhok"' in agent.run("config", "check", status=2)


def test_a_wrong_certificate_is_an_error_and_nothing_is_sent(agent: Notified, tmp_path: Path) -> None:
    with MailServer(tmp_path / "other", certificate_for="mail.example.com") as server:
        agent.channels(agent.mail(server))
        told = agent.run("notify", status=1)
        assert "certificate cannot be trusted" in told and "127.0.0.1" in told
        agent.channels(agent.mail(server, ca_cert=None))
        assert "certificate cannot be trusted" in agent.run("notify", status=1)
        assert server.mails == []
    context, ca_cert = tls_context(tmp_path / "web")
    with web_server(context) as web:
        url = agent.secret("tls", f"https://127.0.0.1:{web.port}/{SECRET}")
        agent.channels({"name": "hook", "type": "webhook", "url": url})
        told = agent.run("notify", status=1)
        assert "certificate cannot be trusted" in told and SECRET not in told
        assert web.requests == []
        agent.channels({"name": "hook", "type": "webhook", "url": url, "ca_cert": str(ca_cert)})
        assert "sent" in agent.run("notify")


def test_a_wrong_password_is_told_without_it(agent: Notified, mail: MailServer) -> None:
    agent.channels(agent.mail(mail, login_password=agent.secret("wrong", f"wrong {SECRET}")))
    told = agent.run("notify", status=1)
    assert "127.0.0.1 refuses the login of backup (535)" in told
    agent.holds_no_secret(told)


def test_a_recipient_that_is_refused_is_named_and_the_others_get_it_once(agent: Notified, mail: MailServer) -> None:
    mail.refused.add("gone@example.com")
    agent.channels(agent.mail(mail, to=["ops@example.com", "gone@example.com"]))
    agent.broken()
    (report,) = agent.json("run", "shop", status=1)
    assert "refuses gone@example.com" in report["warnings"][0]
    agent.run("run", "shop", status=1)
    assert len(mail.mails) == 1 and agent.outbox() == []


def test_every_kind_of_web_hook_gets_what_it_reads(agent: Notified, web: WebServer) -> None:
    agent.channels(
        agent.hook(web, "slack"),
        agent.hook(web, "discord"),
        agent.hook(
            web,
            token=agent.secret("token", f"token {SECRET}"),
            allow_http=True,
            signing_key=agent.secret("signing", "signed and sealed"),
        ),
    )
    agent.job(
        "shop",
        hooks={
            "before": [["/bin/sh", "-c", "echo '<!channel> @everyone ``` [here](https://evil.example)' >&2; exit 1"]]
        },
    )
    agent.run("run", "shop", status=1)
    slack = next(one.json["text"] for one in web.requests if "text" in one.body.decode() and "content" not in one.json)
    assert "&lt;!channel&gt;" in slack and "<!channel>" not in slack
    discord = next(one.json for one in web.requests if "allowed_mentions" in one.json)
    assert discord["allowed_mentions"] == {"parse": []} and "shop" in discord["content"]
    for text in (slack, discord["content"]):
        # Within a block of code, neither service makes a link or a mention of anything.
        _sign, code, end = text.split("```")
        assert "[here](https://evil.example)" in code and not end and "`" not in code
    signed = next(one for one in web.requests if "event" in one.json)
    digest = hmac.new(b"signed and sealed", signed.body, hashlib.sha256).hexdigest()
    assert signed.headers["X-Fleet-Backup-Signature"] == f"sha256={digest}"
    assert signed.headers["Authorization"] == f"Bearer token {SECRET}"


def test_a_token_crosses_the_network_unencrypted_only_where_that_is_asked_for(agent: Notified, web: WebServer) -> None:
    url = agent.secret("odd", f"http://me:{SECRET}@127.0.0.1:{web.port}/")
    with_token = agent.hook(web, token=agent.secret("token", SECRET))
    for channel in (with_token, {"name": "hook", "type": "webhook", "url": url}):
        agent.channels(channel)
        told = agent.run("notify", status=1)
        assert "allow_http" in told and SECRET not in told
    assert web.requests == []
    agent.channels({**with_token, "allow_http": True})
    agent.run("notify")
    assert len(web.requests) == 1


def test_nobody_is_followed_elsewhere_and_an_address_is_never_told(agent: Notified, web: WebServer) -> None:
    with web_server() as other:
        agent.channels(agent.hook(web))
        for status, location in ((302, f"{other.url}/{SECRET}"), (307, f"{other.url}/{SECRET}"), (404, None)):
            web.status, web.location = status, location
            told = agent.run("notify", status=1)
            assert f"answered {status}" in told and SECRET not in told
        assert other.requests == []
    for url in (f"ftp://127.0.0.1/{SECRET}", f"file:///{SECRET}", f"http://127.0.0.1:{web.port}/a b\n{SECRET}", SECRET):
        agent.channels({"name": "hook", "type": "webhook", "url": agent.secret("odd", url)})
        told = agent.run("notify", status=1)
        assert "channel hook:" in told and SECRET not in told, told


def test_a_test_message_says_of_each_channel_whether_it_was_sent(
    agent: Notified, mail: MailServer, web: WebServer
) -> None:
    down = {"name": "down", "type": "slack", "url": agent.secret("down", f"http://127.0.0.1:{free_port()}/{SECRET}")}
    agent.channels(agent.mail(mail), agent.hook(web), down)
    agent.job("shop", heartbeat=agent.secret("own", f"{web.url}/own"))
    told = agent.run("notify", status=1)
    lines = {line.split("  ")[0]: line for line in told.splitlines()}
    assert lines["mail"].endswith("sent") and lines["webhook"].endswith("sent")
    assert lines["shop: heartbeat"].endswith("sent") and "/own/log" in web.paths
    assert "Connection refused" in lines["down"]
    assert mail.subjects == ["web1: this is a test message of fleet-backup"]
    agent.run("notify", "--channel", "mail")
    assert len(mail.mails) == 2
    assert 'no channel "fax"' in agent.run("notify", "--channel", "fax", status=2)
    agent.holds_no_secret(told)


def test_apprise_sends_without_its_url_being_an_argument(agent: Notified, web: WebServer) -> None:
    url = f"json://127.0.0.1:{web.port}/{SECRET}"
    agent.channels({"name": "any", "type": "apprise", "url": agent.secret("any", url)})
    agent.broken()
    web.answering.clear()
    process = subprocess.Popen(agent.command("run", "shop"), stdout=subprocess.PIPE, text=True)
    wait_for(lambda: web.requests)
    arguments = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert any(b"apprise" in one for one in arguments) and not any(SECRET.encode() in one for one in arguments)
    web.answering.set()
    told, _nothing = process.communicate(timeout=30)
    # As code, of which no chat behind it makes links or mentions.
    sent = web.requests[0].json
    assert sent["title"] == "web1: the backup of shop failed"
    assert sent["message"].startswith("```\n") and "There is no database" in sent["message"]
    agent.holds_no_secret(told)
    web.status = 500
    told = agent.run("notify", status=1)
    assert "apprise refused to send" in told and SECRET not in told


def test_nothing_but_the_owner_can_read_what_is_kept(agent: Notified) -> None:
    agent.channels({"name": "down", "type": "slack", "url": agent.secret("down", f"http://127.0.0.1:{free_port()}/x")})
    agent.broken()
    agent.run("run", "shop", status=1)
    kept = list((agent.world.host.state / "notifications").rglob("*"))
    assert len([path for path in kept if path.is_file()]) == 3
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept)
