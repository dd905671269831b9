# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checking the settings and the jobs of this host, without changing a database."""

from __future__ import annotations

import argparse
from typing import List

from ...databases import open_engine
from ...errors import EngineError, Refused
from ...model import EngineName
from ..config.jobs import Job
from ..config.reading import read_jobs
from ..console.exits import Exit
from ..console.printing import put_json, put_line
from ..console.selection import settings_of
from ..notifications.reading import read_channels
from ..work.concluding import unknown_channels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("action", choices=["check"], help="what to do")


def act(parsed: argparse.Namespace) -> Exit:
    """Check."""
    settings = settings_of(parsed)
    jobs, broken = read_jobs(settings.jobs, settings.host.name)
    channels = read_channels(settings.notifications)
    wrong = [*channels.problems, *(f"{job.name}: {why}" for job in jobs for why in unknown_channels(job, channels))]
    wrong += [f"{job.name}: {why}" for job in jobs for why in _unusable(job)]
    if parsed.json:
        put_json(
            {
                "host": settings.host.name,
                "jobs": [job.name for job in jobs],
                "broken": [{"job": job.name, "message": str(job.error)} for job in broken],
                "channels": [route.name for route in channels.routes],
                "problems": wrong,
            }
        )
    else:
        put_line(f"{settings.host.name}: {len(jobs)} jobs can be used: {', '.join(job.name for job in jobs) or 'none'}")
        for job in broken:
            put_line(str(job.error))
        if channels.names:
            usable = ", ".join(route.name for route in channels.routes) or "none"
            put_line(f"{len(channels.routes)} channels can be used: {usable}")
        for why in wrong:
            put_line(str(why))
    return Exit.USAGE if broken or wrong else Exit.FINE


def _unusable(job: Job) -> List[str]:
    """Why a SQLite job is refused by where its database lies, whether or not that exists yet."""
    if job.database.engine is not EngineName.SQLITE:
        return []
    try:
        open_engine(job.database).inspect()
    except Refused as error:
        return [str(error)]
    except EngineError:
        # What is missing or unreadable now may be there when the job runs, which then says so.
        return []
    return []
