# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host that slept catches up with the backups that are due, and with no others."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from _engine.agent.config.jobs import Job
from _engine.agent.config.reading import read_job
from _engine.agent.work.due import due_jobs
from _engine.agent.work.running import back_up
from test_agent import install_agent
from world import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A host whose clocks show UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    made = World(tmp_path)
    made.make_shop()
    yield made
    monkeypatch.undo()
    time.tzset()


def document(world: World, schedule: dict[str, Any] | None, **options: Any) -> dict[str, Any]:
    return {
        "engine": "sqlite",
        "database": str(world.path),
        "repositories": [{"path": world.repository.label}],
        "encryption": {"recipients": [world.public]},
        "schedule": {"backup": schedule} if schedule else {},
        **options,
    }


def job(world: World, schedule: dict[str, Any] | None, **options: Any) -> Job:
    return read_job(document(world, schedule, **options), "shop", "shop.json", "web1")


def at(world: World, hour: int, day: int = 1) -> None:
    world.clock.moment = datetime(2026, 3, day, hour, 30, tzinfo=timezone.utc)


DAILY = [
    pytest.param({"every": "daily", "at": "03:00"}, id="spread"),
    pytest.param({"cron": "0 3 * * *"}, id="cron"),
    pytest.param({"calendar": "*-*-* 03:00"}, id="calendar"),
    pytest.param({"calendar": "*-*-* 05:00 Europe/Kyiv"}, id="calendar of a zone"),
]


@pytest.mark.parametrize("schedule", DAILY)
def test_a_backup_is_due_when_there_is_no_good_one_since_it_should_have_begun(
    world: World, schedule: dict[str, Any]
) -> None:
    shop = job(world, schedule)
    at(world, hour=1)
    assert due_jobs([shop], world.host) == (shop,)
    assert back_up(shop, world.host).changed
    at(world, hour=2)
    assert due_jobs([shop], world.host) == ()
    at(world, hour=4)
    (due,) = due_jobs([shop], world.host)
    assert back_up(due, world.host).changed
    assert due_jobs([shop], world.host) == ()
    at(world, hour=2, day=2)
    assert due_jobs([shop], world.host) == ()
    at(world, hour=4, day=3)
    assert len(due_jobs([shop], world.host)) == 1


@pytest.mark.parametrize("schedule", DAILY)
def test_a_backup_that_another_process_takes_meanwhile_is_enough(world: World, schedule: dict[str, Any]) -> None:
    shop = job(world, schedule)
    at(world, hour=1)
    back_up(shop, world.host)
    at(world, hour=4)
    (due,) = due_jobs([shop], world.host)
    back_up(shop, world.host)
    assert not back_up(due, world.host).changed


def test_a_job_without_a_schedule_is_never_due(world: World) -> None:
    assert due_jobs([job(world, None)], world.host) == ()


def test_a_bad_backup_or_one_dated_in_the_future_is_no_reason_to_rest(world: World) -> None:
    shop = job(world, {"every": "daily", "at": "03:00"})
    at(world, hour=4)
    taken = world.backup()
    world.artefact(taken).unlink()
    assert len(due_jobs([shop], world.host)) == 1
    at(world, hour=4, day=20)
    world.backup()
    at(world, hour=5)
    assert len(due_jobs([shop], world.host)) == 1


def test_every_repository_must_have_it_and_one_that_cannot_be_read_says_so_when_it_is_tried(world: World) -> None:
    other = world.root / "other"
    shop = job(
        world, {"every": "daily", "at": "03:00"}, repositories=[{"path": world.repository.label}, {"path": str(other)}]
    )
    at(world, hour=4)
    world.backup()
    assert len(due_jobs([shop], world.host)) == 1
    other.mkdir()
    assert len(due_jobs([shop], world.host)) == 1
    back_up(shop, world.host)
    assert due_jobs([shop], world.host) == ()


def test_where_systemd_cannot_tell_a_backup_too_many_is_better_than_one_too_few(world: World) -> None:
    shop = job(world, {"calendar": "Mon..Fry"})
    back_up(shop, world.host)
    assert due_jobs([shop], world.host) == (shop,)


class Agent:
    """The agent of a host with jobs."""

    def __init__(self, world: World) -> None:
        self.world, self.settings = world, world.root / "etc"
        (self.settings / "jobs.d").mkdir(parents=True)
        (self.settings / "agent.json").write_text(json.dumps({"host": "web1", "state": str(world.root / "state")}))
        self.program = install_agent(world.root)

    def job(self, name: str, content: dict[str, Any]) -> None:
        (self.settings / "jobs.d" / f"{name}.json").write_text(json.dumps(content))

    def __call__(self, *arguments: str) -> tuple[int, str]:
        command = [str(self.program), *arguments, "--config", str(self.settings / "agent.json")]
        environment = {name: value for name, value in os.environ.items() if name != "FLEET_BACKUP_STATE"}
        done = subprocess.run(command, capture_output=True, env=environment, text=True, check=False)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def agent(world: World) -> Agent:
    return Agent(world)


def test_run_due_takes_what_is_due_and_then_says_that_nothing_is(agent: Agent) -> None:
    agent.job("shop", document(agent.world, {"cron": "0 0 1 jan *"}))
    agent.job("never", document(agent.world, None, tier="by hand"))
    status, output = agent("run", "--due", "--json")
    assert (status, [(report["job"], report["changed"]) for report in json.loads(output)]) == (0, [("shop", True)])
    assert agent("run", "--due") == (0, "No backup is due.\n")
    assert agent("run", "--due", "--json") == (0, "[]\n")


def test_run_due_tells_of_a_job_that_cannot_be_read_and_takes_the_others(agent: Agent) -> None:
    agent.job("shop", document(agent.world, {"cron": "0 0 1 jan *"}))
    agent.job("wrong", document(agent.world, {"cron": "0 0 32 jan *"}))
    status, output = agent("run", "--due")
    assert status == 2
    assert "shop" in output and 'the day of the month "32" is none from 1 to 31' in output
    assert len(agent.world.catalogue().good) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "No job is named. Name jobs, or say --all or --due."),
        (["shop", "--due"], "names of jobs and --due are given together. Leave all but one of them out."),
        (["--all", "--due"], "--all and --due are given together. Leave all but one of them out."),
    ],
)
def test_which_jobs_are_meant_is_said_in_one_way(agent: Agent, arguments: list[str], says: str) -> None:
    agent.job("shop", document(agent.world, {"cron": "0 0 1 jan *"}))
    assert agent("run", *arguments) == (2, f"fleet-backup: {says}\n")
    assert not agent.world.files()
