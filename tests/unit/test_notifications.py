# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is told, to whom and when: decided by pure functions, and kept until it is sent."""

from __future__ import annotations

import json
import re
import resource
import socket
import ssl
import threading
import time
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Dict, List, Optional
from urllib.error import URLError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _engine.agent.config.settings import Settings
from _engine.agent.notifications import courier
from _engine.agent.notifications.base import Channel, NotSent, Route
from _engine.agent.notifications.events import Event, Kind, LastGood, read_event
from _engine.agent.notifications.heartbeat import Heartbeat
from _engine.agent.notifications.memory import Memory, decide, path_of, recall, remember
from _engine.agent.notifications.outbox import LIMIT, MAX_AGE, directory_of, post, take, waiting
from _engine.agent.notifications.reading import channels_of, read_channels
from _engine.agent.notifications.web import told
from _engine.agent.work.concluding import Concluding
from _engine.agent.work.running import Report
from _engine.errors import BadInput
from _engine.state import Host, audit_path

NOW = datetime(2026, 3, 1, 2, 0, 7, tzinfo=timezone.utc)
MAIL: Dict[str, Any] = {
    "name": "mail",
    "type": "email",
    "host": "mail.example.com",
    "from": "backup@example.com",
    "to": ["ops@example.com"],
}


class Nobody(Channel):
    """A channel that sends nothing."""

    def send(self, event: Event) -> None:
        """Do nothing."""


def route(*kinds: Kind, remind: Optional[timedelta] = None) -> Route:
    return Route("mail", Nobody(), frozenset(kinds) or Route.events, remind=remind)


def failure(**changes: Any) -> Event:
    facts: Dict[str, Any] = {
        "kind": Kind.FAILURE,
        "host": "web1",
        "job": "shop",
        "verb": "backup",
        "time": NOW,
        "message": "There is no database /srv/shop.db. Check the path.",
        "error": "not_found",
        "since": NOW - timedelta(hours=3),
        "last_good": LastGood("shop-20260228T020004Z-h3k7", NOW - timedelta(hours=24)),
    }
    return Event(**{**facts, **changes})


def run(outcomes: List[Optional[str]], channel: Route) -> List[Optional[Kind]]:
    """What a channel is told of runs that end with these errors, an hour apart. Errors are joined by ``+``."""
    memory, found = Memory(), []
    for number, error in enumerate(outcomes):
        kind, memory = decide(
            memory, channel, frozenset(error.split("+") if error else []), NOW + number * timedelta(hours=1)
        )
        found.append(kind)
    return found


@pytest.mark.parametrize(
    ("outcomes", "kinds"),
    [
        ([None, None], [None, None]),
        (["a", "a", "a", None, None], [Kind.FAILURE, None, None, Kind.RECOVERY, None]),
        (["a", "b", "b", "a"], [Kind.FAILURE, Kind.FAILURE, None, Kind.FAILURE]),
        (["a", None, "a"], [Kind.FAILURE, Kind.RECOVERY, Kind.FAILURE]),
        (["a", "a+b", "b", "a+b"], [Kind.FAILURE, Kind.FAILURE, None, Kind.FAILURE]),
    ],
)
def test_a_failure_is_told_once_and_so_is_its_end(outcomes: List[Optional[str]], kinds: List[Optional[Kind]]) -> None:
    assert run(outcomes, route()) == kinds


def test_a_reminder_comes_after_its_time_and_not_before() -> None:
    kinds = run(["a"] * 49, route(remind=timedelta(hours=24)))
    assert [number for number, kind in enumerate(kinds) if kind] == [0, 24, 48]


def test_who_wants_to_hear_of_success_hears_of_each_and_of_a_recovery_as_one() -> None:
    assert run([None, "a", None], route(Kind.SUCCESS)) == [Kind.SUCCESS, None, Kind.SUCCESS]
    every = route(Kind.SUCCESS, Kind.FAILURE, Kind.RECOVERY)
    assert run([None, "a", None], every) == [Kind.SUCCESS, Kind.FAILURE, Kind.RECOVERY]


@given(st.lists(st.sampled_from([None, "a", "b"]), max_size=40))
def test_what_was_told_last_is_always_true(outcomes: List[Optional[str]]) -> None:
    """Whoever reads the messages alone knows of each run whether it failed, and with what kind of error."""
    believed: Optional[str] = None
    for error, kind in zip(outcomes, run(outcomes, route())):
        if kind is Kind.FAILURE:
            assert error != believed
            believed = error
        elif kind is Kind.RECOVERY:
            assert believed is not None
            believed = None
        assert believed == error


def test_what_is_remembered_survives_and_what_is_spoilt_is_forgotten(tmp_path: Path) -> None:
    path = path_of(tmp_path, "shop", "backup")
    _kind, memory = decide(Memory(NOW), route(), frozenset({"a", "b"}), NOW)
    remember(path, memory)
    assert recall(path) == memory
    for content in ("", "[]", '{"told": 3, "since": null}', '{"told": {"mail": {}}, "since": null}', "[" * 100_000):
        path.write_text(content)
        assert recall(path) == Memory()


def test_a_message_names_what_failed_why_since_when_and_what_is_left() -> None:
    event = failure()
    assert event.subject == "web1: the backup of shop failed: There is no database /srv/shop.db. Check the path."
    assert event.text.splitlines() == [
        "The backup of shop on web1 failed (not_found).",
        "",
        "There is no database /srv/shop.db. Check the path.",
        "",
        "Time: 2026-03-01T02:00:07Z",
        "Failing since: 2026-02-28T23:00:07Z (3h)",
        "Last good backup: shop-20260228T020004Z-h3k7, 1d old",
    ]
    assert "Last good backup: there is none" in failure(last_good=LastGood()).text
    assert "Last good backup: not known: it is gone." in failure(last_good=LastGood(unknown="it is gone.")).text
    assert failure(kind=Kind.RECOVERY, verb="health").subject == "web1: shop is healthy again"


def test_a_subject_is_one_line_of_bounded_length() -> None:
    odd = failure(message="a\r\nBcc: everybody@example.com\x1b[31m\u2028" + "x" * 1000).subject
    assert len(odd) == 160 and odd.endswith("…") and odd.isprintable()


@pytest.mark.parametrize("event", [failure(), failure(kind=Kind.RECOVERY, last_good=None, error=None)])
def test_an_event_comes_back_from_its_document(event: Event) -> None:
    assert read_event(json.loads(json.dumps(event.document))) == event


@pytest.mark.parametrize("document", [None, [], {}, {"event": "failure"}, dict(failure().document, time=3)])
def test_what_is_no_event_is_refused(document: Any) -> None:
    with pytest.raises(BadInput, match="no event"):
        read_event(document)


def test_the_outbox_gives_each_message_once_and_is_bounded(tmp_path: Path) -> None:
    host = Host("web1", tmp_path)
    first = post(host, "mail", failure())
    assert take(tmp_path, NOW) == ([], []), "this process is sending it"
    first.kept()
    (letter,), given_up = take(tmp_path, NOW)
    assert letter.event == failure() and letter.channel == "mail" and not given_up
    letter.sent()
    assert waiting(tmp_path) == {}
    for number in range(LIMIT + 3):
        post(host, "mail", failure(time=NOW + timedelta(seconds=number))).kept()
    post(host, "chat", failure(time=NOW - MAX_AGE)).kept()
    letters, given_up = take(tmp_path, NOW + timedelta(seconds=1))
    assert len(letters) == LIMIT
    # One sentence, however many they are.
    assert len(given_up) == 1 and "' and 3 more could not be sent" in given_up[0], given_up
    assert letters[0].event.time == NOW + timedelta(seconds=3)
    for letter in letters:
        letter.kept()
    assert waiting(tmp_path) == {"mail": LIMIT}


def test_a_file_that_is_no_message_leaves_the_outbox_and_stops_no_other(tmp_path: Path) -> None:
    post(Host("web1", tmp_path), "mail", failure()).kept()
    (directory_of(tmp_path) / "20260101T000000.1-1.mail.json").write_text('{"event": ')
    letters, given_up = take(tmp_path, NOW)
    assert len(letters) == 1 and "was no message" in given_up[0]
    letters[0].kept()


def test_channels_that_cannot_be_reached_keep_no_message_of_another_from_being_taken(tmp_path: Path) -> None:
    host = Host("web1", tmp_path)
    for channel in ("chat", "hook", "mail", "push", "sms"):
        for _number in range(LIMIT):
            post(host, channel, failure()).kept()
    post(host, "tower", failure()).kept()
    letters, given_up = take(tmp_path, NOW)
    assert len(letters) == 500 and not given_up
    assert "tower" in {letter.channel for letter in letters}
    for letter in letters:
        letter.kept()


def test_thousands_of_messages_make_a_few_sentences_and_few_open_files(tmp_path: Path) -> None:
    host = Host("web1", tmp_path, lambda: NOW)
    letter = post(host, "mail", failure())
    content = letter.path.read_bytes()
    letter.sent()
    for number in range(5000):
        # To one channel, to one each, and no message.
        channel = ("mail", f"chat{number}", "mail")[number % 3]
        text = content if number % 3 < 2 else b"{"
        (directory_of(tmp_path) / f"20260301T000000.1-{number:06}.{channel}.json").write_bytes(text)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        letters, given_up = take(tmp_path, NOW)
        assert len(letters) == 500 and len(given_up) == 2, given_up
        for one in letters:
            one.kept()
        settings = Settings(host, tmp_path / "jobs.d", tmp_path / "notifications.json")
        with Concluding(settings) as concluding:
            (report,) = concluding.deliver([Report("shop", "backup", True, "fine", 0.0)])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(report.warnings) <= 2, report.warnings[:5]
    assert len(audit_path(host).read_text().splitlines()) <= 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"type": "telex"}, 'type .*"telex" is none of apprise, discord, email, heartbeat, slack, webhook'),
        ({"name": "../mail"}, "name cannot be used"),
        ({"to": []}, "to cannot be used: it names nobody"),
        ({"to": "ops@example.com"}, "to .*must be a list"),
        ({"from": "Backup <b@example.com>"}, "from cannot be used"),
        ({"login_user": "backup"}, "a login needs login_user and login_password"),
        ({"login_password": "open sesame"}, "login_password: this must be an object"),
        ({"tls": "ssl"}, '"ssl" is none of starttls, implicit, none'),
        ({"port": 0}, "port .*0 is less than 1"),
        ({"events": ["start"]}, 'events .*"start" is none of failure, recovery, success'),
        ({"remind": "1"}, "remind: .*not a duration"),
        ({"url": {"file": "/x"}}, 'unknown option "url"'),
    ],
)
def test_a_channel_that_cannot_be_meant_is_a_problem_that_names_file_channel_and_option(
    options: Dict[str, Any], says: str
) -> None:
    channels = channels_of({"channels": [{**MAIL, **options}, {**MAIL, "name": "other"}]}, "notifications.json")
    (problem,) = channels.problems
    assert re.search(f"^notifications.json: channel .*{says}", problem), problem
    assert "open sesame" not in problem and problem.endswith(".")
    assert [one.name for one in channels.routes] == ["other"]


def test_two_channels_with_one_name_are_a_problem_and_no_file_means_none(tmp_path: Path) -> None:
    channels = channels_of({"channels": [MAIL, MAIL]}, "notifications.json")
    assert channels.problems == ('notifications.json: two channels are named "mail". Rename one of them.',)
    assert read_channels(tmp_path / "missing.json") == channels_of({"channels": []}, "x")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (URLError(ConnectionRefusedError(111, "Connection refused")), "Connection refused"),
        (URLError(TimeoutError("timed out")), "did not answer within 10 s"),
        (URLError(ssl.SSLError(1, "wrong version number https://x/SECRET")), "TLS could not be agreed on"),
        (ValueError("URL can't contain control characters. '/SECRET'"), "ValueError"),
        (URLError("unknown url type: SECRET"), "URLError|str"),
    ],
)
def test_why_a_receiver_cannot_be_reached_is_told_without_its_address(error: BaseException, says: str) -> None:
    assert re.search(says, told(error)) and "SECRET" not in told(error)


@pytest.mark.parametrize("greeting", [b"220-", b"HTTP/1.1 200 OK\r\nX-Long: "])
def test_a_receiver_that_answers_a_byte_at_a_time_holds_up_no_run(
    greeting: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier, "_LONGEST", 0.5)
    listener, over = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def drip() -> None:
        connection, _address = listener.accept()
        with connection, suppress(OSError):
            connection.sendall(greeting)
            while not over.wait(0.05):
                connection.sendall(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    monkeypatch.setenv("HOOK", f"http://127.0.0.1:{listener.getsockname()[1]}/")
    mail = {**MAIL, "host": "127.0.0.1", "port": listener.getsockname()[1], "tls": "none"}
    hook = {"name": "hook", "type": "webhook", "url": {"environment": "HOOK"}}
    channels = channels_of({"channels": [mail if greeting.startswith(b"220") else hook]}, "x")
    assert channels.problems == ()
    sending = courier.Courier("slow", channels.routes[0].channel)
    parcels = [courier.Parcel(failure()), courier.Parcel(failure())]
    for parcel in parcels:
        sending.hand(parcel)
    sending.end()
    sending.wait(time.monotonic() + 60)
    over.set()
    thread.join()
    listener.close()
    assert [parcel.done for parcel in parcels] == [True, True]
    assert all("did not take a message within 0.5 s" in (parcel.failure or "") for parcel in parcels)


def test_a_mail_server_that_talks_without_end_is_not_listened_to_for_long() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    said = 0

    def talk() -> None:
        nonlocal said
        connection, _address = listener.accept()
        with connection, suppress(OSError):
            while said < 64 << 20:
                said += connection.send(b"220-welcome, and there is more to come\r\n" * 1000)

    thread = threading.Thread(target=talk, daemon=True)
    thread.start()
    port = listener.getsockname()[1]
    channels = channels_of({"channels": [{**MAIL, "host": "127.0.0.1", "port": port, "tls": "none"}]}, "x")
    with pytest.raises(NotSent, match="127.0.0.1 port"):
        channels.routes[0].channel.send(failure())
    thread.join()
    listener.close()
    assert said < 32 << 20


def test_no_channel_and_no_heartbeat_sends_control_characters_or_megabytes() -> None:
    sent: List[bytes] = []

    class Receiver:
        def post(self, body: bytes, *_more: Any) -> None:
            sent.append(body)

    event = failure(message="\x1b]0;x\x07\u202e" + "x" * 10_000_000)
    Heartbeat(Receiver()).send(event)  # type: ignore[arg-type]
    assert sent[0].startswith(b"\\x1b]0;x\\x07\\u202e") and len(sent[0]) < 3_000
    assert len(event.text) < 10_000 and len(json.dumps(event.document)) < 10_000
