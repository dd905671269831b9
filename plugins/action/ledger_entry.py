# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What became of a host's jobs; the host fails where one of them is not done."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.fleet.backup.plugins.module_utils._engine.agent.ledger import (
    entries_of,
    left_entries,
    misspelt_entries,
)
from ansible_collections.fleet.backup.plugins.plugin_utils.variables import misspelt


class ActionModule(ActionBase):
    """The action ``fleet.backup.ledger_entry``, which happens on the controller alone."""

    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Decide it."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validation, options = self.validate_argument_spec(
            {
                "jobs": {"type": "list", "elements": "str", "required": True},
                "result": {"type": "dict", "default": {}},
                "left": {"type": "list", "elements": "str", "default": []},
            }
        )
        host = task_vars["inventory_hostname"]
        also = [*left_entries(host, options["left"]), *misspelt_entries(host, misspelt(task_vars))]
        entries = [*entries_of(host, options["jobs"], options["result"]), *also]
        result.update(changed=False, jobs=options["jobs"], also=[entry.document for entry in also])
        if not all(entry.outcome.good for entry in entries):
            # The same for all hosts, so that Ansible explains it once. What happened the ledger tells.
            result.update(failed=True, msg="Jobs of this host are not done; the ledger tells which, and why.")
        return result
