# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the inventory says of a host, read before anything is changed; what cannot be used fails in plain words."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.fleet.backup.plugins.filter import job_files, notification_files, recipient_files, unit_files
from ansible_collections.fleet.backup.plugins.lookup import agent, agent_text
from ansible_collections.fleet.backup.plugins.module_utils._engine.errors import BadInput
from ansible_collections.fleet.backup.plugins.plugin_utils.refusal import refusal_within
from ansible_collections.fleet.backup.plugins.plugin_utils.variables import misspelt

#: Ansible loads an action before it forks a process for each task of each host, and each of those compiles anew what it
#: imports of a collection. So what the next tasks of the roles need of the engine is imported here, once.
IMPORTED = (agent, agent_text, job_files, notification_files, recipient_files, unit_files)


class ActionModule(ActionBase):
    """The action ``fleet.backup.inventory_read``, which happens on the controller alone."""

    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Read the variables, each a list of files as this collection's filters make them."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validation, options = self.validate_argument_spec(
            {"variables": {"type": "list", "elements": "str", "required": True}}
        )
        result.update(changed=False, files=[])
        unknown = misspelt(task_vars)
        if unknown:
            host = task_vars["inventory_hostname"]
            result.update(failed=True, msg=f"{host}: {' '.join(unknown)}", error=BadInput.code)
            return result
        for name in options["variables"]:
            try:
                files = self._templar.template(task_vars[name])
            except AnsibleError as error:
                refusal = refusal_within(error)
                if refusal is None:
                    raise
                result.update(failed=True, msg=refusal.message, error=BadInput.code)
                return result
            # What files hold may be secret, or have braces of its own.
            result["files"] += [{key: value for key, value in file.items() if key != "content"} for file in files]
        return result
