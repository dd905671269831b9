# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ledger of a playbook as a table for people, and as a file for programs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.fleet.backup.plugins.module_utils._engine.agent.ledger import (
    Entry,
    JobOutcome,
    complaint,
    entries_of,
    lines_of,
    ordered,
    read_entry,
    totals,
    with_others,
)
from ansible_collections.fleet.backup.plugins.module_utils._engine.text import shown_json

display = Display()

_COLOURS = {None: None, JobOutcome.NOTHING: constants.COLOR_OK, JobOutcome.DONE: constants.COLOR_CHANGED}
_COLOURS[JobOutcome.UNDECLARED] = constants.COLOR_WARN
_LOST = "The host was lost in the middle of the play; the reason stands where that happened, above."


class ActionModule(ActionBase):
    """The action ``fleet.backup.ledger_show``, which happens on the controller alone."""

    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Show it."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validation, options = self.validate_argument_spec(
            {
                "hosts": {"type": "list", "elements": "str", "required": True},
                "entry": {"type": "str", "required": True},
                "result": {"type": "str", "required": True},
                "only": {"type": "list", "elements": "str", "default": []},
                "path": {"type": "path"},
            }
        )
        entries: list[Entry] = []
        for host in options["hosts"]:
            entries += entries_for(host, task_vars["hostvars"], options["entry"], options["result"])
        known = {entry.job for entry in entries}
        entries += [
            Entry("", job, JobOutcome.MISSING, "No host has such a job in the inventory. Is its name right?")
            for job in options["only"]
            if job not in known
        ]
        entries = ordered(entries)
        _show(entries)
        if options["path"]:
            _write(Path(options["path"]).expanduser(), entries)
        wrong = complaint(entries)
        result.update(changed=False, summary=totals(entries), failed=any(not entry.host for entry in entries))
        if wrong:
            result["msg"] = wrong
        return result


def entries_for(host: str, hostvars: Mapping[str, Any], entry: str, result: str) -> list[Entry]:
    """The entries of a host; one whose variables cannot be used keeps no other one from being told."""
    try:
        own = hostvars[host]
        decided = own.get(entry)
        if decided is not None and "jobs" in decided:
            also = [read_entry(document) for document in decided.get("also") or []]
            return with_others(entries_of(host, decided["jobs"], own.get(result) or {}), also)
        # It came to no decision, because the host was lost or because its variables are broken: these tell now.
        jobs = [str(job["name"]) for job in own.get("fleet_backup_jobs") or []]
        return entries_of(host, jobs, decided or {"unreachable": True, "msg": _LOST})
    except (AnsibleError, LookupError, TypeError, ValueError) as error:
        reason = f"The jobs of this host cannot be read from its variables: {error}"
        return [Entry(host, "", JobOutcome.FAILED, reason)]


def _show(entries: Sequence[Entry]) -> None:
    display.display("")
    for line, outcome in lines_of(entries):
        display.display(line, color=_COLOURS.get(outcome, constants.COLOR_ERROR))
    display.display("")
    display.display(totals(entries))
    wrong = complaint(entries)
    if wrong:
        display.display(wrong, color=constants.COLOR_ERROR)
    display.display("")


def _write(path: Path, entries: Sequence[Entry]) -> None:
    """Write the ledger for programs. A reader finds a whole one, or the one before."""
    document = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "summary": totals(entries),
        "failed": not all(entry.outcome.good for entry in entries),
        "entries": [entry.document for entry in entries],
    }
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            file.write(shown_json(document) + "\n")
        os.replace(file.name, path)
    except OSError as error:
        raise AnsibleActionFail(
            f"The ledger cannot be written to {path}: {error.strerror}. It is shown above."
        ) from None
