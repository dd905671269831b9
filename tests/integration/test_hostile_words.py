# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Words of others leave by every way out of the agent, and steer neither a terminal nor a reader."""

from __future__ import annotations

import json
import os
import subprocess
import unicodedata
from datetime import datetime, timezone
from pathlib import Path

import pytest

from _engine.agent.ledger import entries_of, lines_of
from _engine.agent.notifications.events import Event, Kind, LastGood
from _engine.scratch import Purpose
from _engine.state import Progress, audit
from test_agent import Agent
from world import World

#: Clears the screen in C0 and in C1, makes up a line, turns what follows around, hides, and is no UTF-8.
HOSTILE = "a\x1b[2Jb\x9b2Jc\r\n# d: fine\u2028e\u202ef\u200bg\x7f\udce9"


def unsafe(text: str) -> list[str]:
    """Characters that no output may have."""
    return [one for one in text if one not in "\n" and unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    world = World(tmp_path)
    world.make_shop()
    made = Agent(world)
    made.job("shop")
    return made


def said(agent: Agent, *arguments: str) -> str:
    done = subprocess.run(agent.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.stdout.decode()


def test_a_hostile_proof_label_and_database_steer_no_command(agent: Agent) -> None:
    agent.run("run", "shop")
    (manifest,) = agent.world.directory.glob("*.manifest.json")
    document = json.loads(manifest.read_text())
    document["labels"] = {HOSTILE[:-1]: HOSTILE[:-1]}
    document["tier"] = HOSTILE[:-1]
    manifest.write_text(json.dumps(document))
    agent.job("odd", database=f"/nowhere/{HOSTILE[:-1]}")
    backup = document["id"]
    for command in (["list"], ["show", "shop", backup], ["status"], ["run", "odd"], ["verify", "shop"], ["unlock"]):
        for options in ([], ["--json"]):
            text = said(agent, *command, *options)
            assert unsafe(text) == [], (command, text)
            assert not any(line.startswith("# d: fine") for line in text.splitlines()), text


def test_leftovers_whose_names_are_not_utf8_end_no_command(agent: Agent, tmp_path: Path) -> None:
    agent.run("run", "shop")
    odd, world = tmp_path / "tmp", agent.world
    odd.mkdir()
    (manifest,) = world.directory.glob("*.manifest.json")
    for purpose in Purpose:
        (odd / f"{purpose.value}\udce9\udcff").mkdir()
        (odd / f"{purpose.value}\udce9\udcff" / "lock").touch()
    for name in ("shop-20260101T000000Z-h3k7-\udce9.dump", ".\udce9.tmp", "\udce9.manifest.json", "\udce9.proofs"):
        (world.directory / name).write_bytes(b"x")
    for name in ("locks/\udce9.lock", "status/\udce9.json", "status/\udce9.tmp"):
        (world.host.state / name).parent.mkdir(exist_ok=True)
        (world.host.state / name).write_bytes(b"process 1 since x")
    (world.path.parent / ".shop.db.\udce9.restoring").write_bytes(b"x")
    environment = {**os.environ, "TMPDIR": str(odd)}
    backup = json.loads(manifest.read_text())["id"]
    for command in (["list"], ["status"], ["show", "shop", "--backup", backup], ["unlock", "--dry-run"], ["unlock"]):
        for options in ([], ["--json"]):
            done = subprocess.run(agent.command(*command, *options), env=environment, capture_output=True, check=False)
            assert b"Traceback" not in done.stderr and done.returncode in (0, 1), (command, done)
            assert unsafe(done.stdout.decode()) == []
            if options:
                assert json.loads(done.stdout)
            if command == ["unlock", "--dry-run"] and options:
                assert b"fleet-backup-spool-" in done.stdout, done.stdout
    assert list(odd.iterdir()) == []


def test_hostile_work_of_another_process_steers_no_status(agent: Agent) -> None:
    with Progress(agent.world.host, "backup", "web1/sqlite/shop") as progress:
        progress.stage(HOSTILE[:-1])
        for options in ([], ["--json"]):
            assert unsafe(said(agent, "status", *options)) == []


def test_a_locale_that_knows_fewer_letters_ends_nothing(agent: Agent) -> None:
    agent.job("odd", database="/nowhere/größe 顧客.db")
    command = agent.command("run", "odd")
    environment = {**os.environ, "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 1 and b"Traceback" not in done.stdout + done.stderr
    assert b"gr" in done.stdout


def test_hostile_words_are_escaped_in_the_ledger() -> None:
    report = {"job": HOSTILE, "error": "failed", "message": HOSTILE, "backup": {"id": HOSTILE}}
    for result in (
        {"stdout": json.dumps([report]), "rc": 1},
        {"stderr": HOSTILE, "rc": 1},
        {"unreachable": True, "msg": HOSTILE},
    ):
        entries = entries_of("web1", ["shop"], result)
        for text in [line for line, _outcome in lines_of(entries)] + [
            str(value) for entry in entries for value in vars(entry).values()
        ]:
            assert unsafe(text) == [], text


def test_hostile_words_are_escaped_in_messages_and_the_audit_log(tmp_path: Path) -> None:
    now = datetime(2026, 3, 1, tzinfo=timezone.utc)
    event = Event(Kind.FAILURE, HOSTILE, HOSTILE, "backup", now, HOSTILE, last_good=LastGood(unknown=HOSTILE))
    assert unsafe(event.subject) == unsafe(event.text) == []
    assert unsafe(json.dumps(event.document, ensure_ascii=False)) == []
    world = World(tmp_path)
    audit(world.host, "backup", HOSTILE, "failed", {"reason": HOSTILE})
    assert unsafe((world.host.state / "audit.jsonl").read_text()) == []
