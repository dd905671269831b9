# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Telling of the hosts that cannot tell for themselves, because no agent of theirs was reached."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.fleet.backup.plugins.action.ledger_show import entries_for
from ansible_collections.fleet.backup.plugins.filter.notification_files import notification_files, notification_secrets
from ansible_collections.fleet.backup.plugins.module_utils._engine.agent.ledger import Entry, JobOutcome
from ansible_collections.fleet.backup.plugins.module_utils._engine.agent.notifications.base import Route
from ansible_collections.fleet.backup.plugins.module_utils._engine.agent.notifications.courier import Courier, Parcel
from ansible_collections.fleet.backup.plugins.module_utils._engine.agent.notifications.events import Event, Kind
from ansible_collections.fleet.backup.plugins.module_utils._engine.agent.notifications.reading import read_channels

#: What the agent of a host did not tell of by itself.
_UNTOLD = (JobOutcome.UNREACHABLE, JobOutcome.MISSING, JobOutcome.SKIPPED)
_PATIENCE = 30.0
_NAMED = 3


@dataclass(frozen=True)
class _Untold:
    """What became of a job; ``chosen`` are the channels that the job names, None for all."""

    entry: Entry
    chosen: Sequence[str] | None

    def goes_through(self, route: Route) -> bool:
        """Whether a channel is for this job. What concerns a whole host is for all of them."""
        return not self.entry.job or route.hears(self.entry.job, self.chosen)


class ActionModule(ActionBase):
    """The action ``fleet.backup.ledger_notify``, which happens on the controller alone."""

    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Send what there is to tell; what cannot be sent is a warning."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validation, options = self.validate_argument_spec(
            {
                "hosts": {"type": "list", "elements": "str", "required": True},
                "entry": {"type": "str", "required": True},
                "result": {"type": "str", "required": True},
                "work": {"type": "str", "required": True, "choices": ["backup", "verify", "rotate"]},
            }
        )
        hostvars = task_vars["hostvars"]
        groups: dict[str, list[_Untold]] = {}
        for host in options["hosts"]:
            entries = entries_for(host, hostvars, options["entry"], options["result"])
            untold = [entry for entry in entries if entry.outcome in _UNTOLD]
            channels = _channels(host, hostvars) if untold else None
            if channels:
                chosen = _chosen(hostvars[host])
                groups.setdefault(channels, []).extend(_Untold(entry, chosen.get(entry.job)) for entry in untold)
        warnings: list[str] = []
        for channels, untold in groups.items():
            warnings += _tell(json.loads(channels), untold, options["work"])
        result.update(changed=False, hosts=sorted({one.entry.host for group in groups.values() for one in group}))
        if warnings:
            result["warnings"] = warnings
        return result


def _channels(host: str, hostvars: Mapping[str, Any]) -> str | None:
    """The channels of a host, by which hosts that have the same ones are told of together."""
    try:
        found = hostvars[host].get("fleet_backup_notifications")
    except (AnsibleError, LookupError):
        return None
    return json.dumps(found, sort_keys=True, default=str) if found else None


def _chosen(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The channels that each job of a host names, where it names any."""
    try:
        common, jobs = variables.get("fleet_backup_defaults") or {}, variables.get("fleet_backup_jobs") or []
        return {job.get("name"): job.get("notifications", common.get("notifications")) for job in jobs}
    except (AnsibleError, LookupError):
        # Where the inventory's jobs cannot be read, everybody is told.
        return {}


def _event(untold: Sequence[Entry], work: str) -> Event:
    """One event for all of them: a network that is down shall not send a thousand messages."""
    hosts = list(dict.fromkeys(entry.host for entry in untold))
    named = ", ".join(hosts[:_NAMED]) + (f" and {len(hosts) - _NAMED} more hosts" if len(hosts) > _NAMED else "")
    reasons = [f"{entry.host}, {entry.job or 'all jobs'}: {entry.outcome.value}. {entry.message}" for entry in untold]
    jobs = ", ".join(dict.fromkeys(entry.job for entry in untold if entry.job)) or "all jobs"
    return Event(
        Kind.FAILURE, named, jobs, work, datetime.now(timezone.utc), "\n".join(reasons), untold[0].outcome.value
    )


def _tell(channels: Any, untold: Sequence[_Untold], work: str) -> list[str]:
    """Tell through the channels that want failures of these jobs; why that failed, where it did, without a secret."""
    host = _event([one.entry for one in untold], work).host
    with tempfile.TemporaryDirectory(prefix="fleet-backup-", dir=constants.DEFAULT_LOCAL_TMP) as directory:
        try:
            files = notification_files(channels, host, [], directory)
            files += notification_secrets(channels, host, [], directory)
        except AnsibleError as error:
            return [f"Nobody was told of {host}: {error}"]
        for file in files:
            _write(Path(file["path"]), file["content"])
        found = read_channels(Path(directory) / "notifications.json")
        routes = [route for route in found.routes if not route.channel.heartbeat and Kind.FAILURE in route.events]
        couriers: list[Courier] = []
        for route in routes:
            heard = [one.entry for one in untold if one.goes_through(route)]
            if heard:
                couriers.append(Courier(route.name, route.channel))
                couriers[-1].hand(Parcel(_event(heard, work)))
                couriers[-1].end()
        deadline = time.monotonic() + _PATIENCE
        for courier in couriers:
            courier.wait(deadline)
    return [
        f"{courier.name} was not told of {parcel.event.host}: {parcel.failure or 'it took too long.'}"
        for courier in couriers
        for parcel in courier.parcels
        if parcel.failure or not parcel.done
    ]


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(content)
