# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The file of cron that does a host's work where there is no systemd (crontab(5), "system crontab"). Pure functions."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import List, Optional, Sequence

from ...errors import BadInput
from ..config.jobs import Job
from ..config.schedule import Schedule, Work, seed_of
from .units import COMMAND, DIRECTORY, MARK, credentials_of

_COMMANDS = {Work.BACKUP: "run", Work.ROTATE: "rotate", Work.VERIFY: "verify"}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Seconds from the start of cron to catching up: databases start about then, too.
_CALM = 60


@dataclass(frozen=True)
class CronOptions:
    """What the file says besides what jobs do. With ``mailto``, cron mails what is printed; else the system logs it."""

    host: str
    directory: str = DIRECTORY
    command: str = COMMAND
    health: Optional[Schedule] = None
    mailto: str = ""


def crontab(jobs: Sequence[Job], options: CronOptions) -> str:
    """The whole file. Raises BadInput, which names the host, the job and the option."""
    lines: List[str] = []
    for job in jobs:
        where = f"{options.host}: job {job.name}"
        for work, schedule in job.timetable.entries():
            if credentials_of(job, work):
                raise BadInput(f"{where}: cron hands nobody a credential. Keep the secret in a file, or use systemd.")
            seed = seed_of(options.host, job.name, work)
            fields = _fields(schedule, seed, f"{where}: schedule.{work.value}")
            lines.append(f"{fields} root {_command(options, _COMMANDS[work], job.name)}")
    if any(job.timetable.backup for job in jobs):
        lines.append(f"@reboot root sleep {_CALM}; {_command(options, 'run', '--due')}")
    if jobs and options.health:
        fields = _fields(options.health, f"{options.host}/health", f"{options.host}: schedule_health")
        lines.append(f"{fields} root {_command(options, 'status', '--notify')}")
    return "\n".join([MARK, *_environment(options), "", *lines, ""])


def _environment(options: CronOptions) -> List[str]:
    if any(character in options.mailto for character in "\n\"'"):
        raise BadInput(f"{options.host}: schedule_cron_mailto cannot be an address. Correct it.")
    lines = ["SHELL=/bin/sh", f"PATH={_PATH}", f'MAILTO="{options.mailto}"', "TMPDIR=/var/tmp"]
    if options.directory != DIRECTORY:
        lines.append(f'FLEET_BACKUP_CONFIG="{_safe(options.directory, options)}/agent.json"')
    return lines


def _fields(schedule: Schedule, seed: str, where: str) -> str:
    fields = schedule.cron(seed)
    if fields is None:
        raise BadInput(f"{where}: calendar alone is given, and cron needs cron. Add it, or schedule with systemd.")
    return fields


def _command(options: CronOptions, *words: str) -> str:
    command = " ".join(shlex.quote(word) for word in (_safe(options.command, options), *words))
    return command if options.mailto else f"{command} 2>&1 | logger -t fleet-backup"


def _safe(path: str, options: CronOptions) -> str:
    """A path that means the same to cron, which has a use of its own for "%", and to the shell."""
    if not path.startswith("/") or any(character in path for character in "%\\\"'\n"):
        raise BadInput(f"{options.host}: {path!r} cannot be a path in a file of cron. Use one of usual names.")
    return path
