# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The schedules of jobs, turned into units of systemd or a file of cron; a wrong one fails on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
name: unit_files
author:
  - The fleet.backup contributors (@fleet-backup)
version_added: 0.1.0
short_description: Turn the schedules of jobs into units of systemd
description:
  - Makes a service and a timer for each job's backups, rotation and verification, where the job schedules them, and one
    of each for the health of the host's backups.
  - Hosts are spread over a schedule's window by their names, and each keeps its moment. The units hold no secret.
  - Fails with the name of the host, the job and the option where a job or its schedule cannot be used.
options:
  _input:
    description: The jobs, as for P(fleet.backup.job_files#filter).
    type: list
    elements: dict
    required: true
  host:
    description: What the host is called.
    type: str
    required: true
  directory:
    description: The directory of the agent's settings on the host.
    type: path
    default: /etc/fleet-backup
  keys:
    description: The keys that jobs name, as for P(fleet.backup.job_files#filter).
    type: list
    elements: dict
    default: []
  command:
    description: Where the agent is on the host.
    type: path
    default: /usr/local/bin/fleet-backup
  health:
    description:
      - When the host looks after its backups' health, with the options of a job's schedule. V(false) leaves it out.
    type: raw
    default: false
  credentials:
    description: Where on the host the credentials are that jobs name, a path for each name.
    type: dict
    default: {}
  settings:
    description: Further settings for each service, a value or a list of them for each name.
    type: dict
    default: {}
positional: host, directory, keys
"""

EXAMPLES = r"""
- name: The timers of this host are known
  ansible.builtin.debug:
    msg: "{{ fleet_backup_jobs | fleet.backup.unit_files(inventory_hostname) | map(attribute='name') }}"
"""

RETURN = r"""
_value:
  description:
    - A dictionary with C(name) and C(content) for each unit. A timer that has a calendar event of the user's own, which
      C(systemd-analyze calendar) can judge, has it in C(calendar), and in C(origin) what it is called.
  type: list
  elements: dict
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

from ansible_collections.fleet.backup.plugins.filter.job_files import job_files
from ansible_collections.fleet.backup.plugins.module_utils._engine.agent.config.fields import Fields
from ansible_collections.fleet.backup.plugins.module_utils._engine.agent.config.jobs import Job
from ansible_collections.fleet.backup.plugins.module_utils._engine.agent.config.reading import read_job
from ansible_collections.fleet.backup.plugins.module_utils._engine.agent.config.schedule import Schedule, read_schedule
from ansible_collections.fleet.backup.plugins.module_utils._engine.agent.timers.crontab import CronOptions, crontab
from ansible_collections.fleet.backup.plugins.module_utils._engine.agent.timers.units import (
    COMMAND,
    DIRECTORY,
    UnitOptions,
    units,
)
from ansible_collections.fleet.backup.plugins.module_utils._engine.errors import BadInput
from ansible_collections.fleet.backup.plugins.plugin_utils.refusal import Refusal


def unit_files(
    jobs: Any,
    host: str,
    directory: str = DIRECTORY,
    keys: Any = None,
    *,
    command: str = COMMAND,
    health: Any = False,
    credentials: Any = None,
    settings: Any = None,
) -> list[dict[str, Any]]:
    """The units of a host, services and timers."""
    try:
        options = UnitOptions(
            host=host,
            directory=directory,
            command=command,
            health=_health(health, host),
            credentials={str(name): str(path) for name, path in (credentials or {}).items()},
            settings={str(name): _values(value) for name, value in (settings or {}).items()},
        )
        return [asdict(unit) for unit in units(_jobs(jobs, host, directory, keys), options)]
    except BadInput as error:
        raise Refusal(str(error)) from None


def cron_file(
    jobs: Any,
    host: str,
    directory: str = DIRECTORY,
    keys: Any = None,
    *,
    command: str = COMMAND,
    health: Any = False,
    mailto: str = "",
) -> str:
    """The file of cron of a host."""
    try:
        options = CronOptions(host, directory, command, _health(health, host), mailto)
        return crontab(_jobs(jobs, host, directory, keys), options)
    except BadInput as error:
        raise Refusal(str(error)) from None


def _jobs(jobs: Any, host: str, directory: str, keys: Any) -> list[Job]:
    """The jobs, read as the agent on the host reads them."""
    found = []
    for file in job_files(jobs, host, directory, keys):
        name = PurePosixPath(file["path"]).stem
        found.append(read_job(json.loads(file["content"]), name, f"{host}: job {name}", host))
    return found


def _health(health: Any, host: str) -> Schedule | None:
    if not health:
        return None
    # What Ansible hands over are kinds of text and dictionaries of its own.
    fields = Fields(json.loads(json.dumps(health)), f"{host}: schedule_health")
    schedule = read_schedule(fields)
    fields.end()
    return schedule


def _values(value: Any) -> tuple[str, ...]:
    """A setting's values as systemd writes them."""
    if isinstance(value, bool):
        return ("yes" if value else "no",)
    if isinstance(value, (list, tuple)):
        return tuple(text for one in value for text in _values(one))
    if isinstance(value, Mapping):
        raise BadInput("schedule_service_options: a value is a dictionary. Write a text or a list of them.")
    return (str(value),)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        """By name."""
        return {"unit_files": unit_files, "cron_file": cron_file}
