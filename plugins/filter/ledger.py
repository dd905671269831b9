# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the agent answered on a host, turned into an entry of the ledger for each job of the host."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ledger
author:
  - The fleet.backup contributors (@fleet-backup)
version_added: 0.1.0
short_description: Turn an agent's answer into what became of each job of a host
description:
  - Takes what M(ansible.builtin.command) registered of C(fleet-backup run --all --json) or another of the agent's
    commands, and returns an entry for each job, whatever happened. A host that could not be reached, an answer that
    cannot be read, and a job that the host does not have are entries too.
options:
  _input:
    description: What was registered. An empty dictionary means that nothing was done on the host.
    type: dict
    required: true
  host:
    description: What the host is called.
    type: str
    required: true
  jobs:
    description: The names of the jobs that the inventory has for the host.
    type: list
    elements: str
    required: true
positional: host, jobs
"""

EXAMPLES = r"""
- name: The jobs are backed up
  ansible.builtin.command:
    argv: [/usr/local/bin/fleet-backup, run, --all, --json]
  register: answer
  failed_when: false
  changed_when: answer | fleet.backup.ledger(inventory_hostname, ['shop']) | selectattr('changed') | length > 0

- name: What became of them is shown
  ansible.builtin.debug:
    msg: "{{ answer | fleet.backup.ledger(inventory_hostname, ['shop']) }}"
"""

RETURN = r"""
_value:
  description:
    - A dictionary for each job, with C(host), C(job) (empty where the entry is about the host itself), C(outcome),
      C(message), C(changed), C(seconds), C(backup) (the id) and C(bytes).
    - C(outcome) is V(done), V(nothing to do), V(failed), V(unverifiable), V(unreachable), V(skipped) or V(missing).
  type: list
  elements: dict
"""

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.fleet.backup.plugins.module_utils._engine.agent.ledger import entries_of


def ledger(result: Any, host: str, jobs: Any) -> list[dict[str, Any]]:
    """The entries of a host as plain values."""
    if not isinstance(result, Mapping):
        raise AnsibleFilterError(f"{host}: the ledger needs what a task registered, and got {type(result).__name__}.")
    return [entry.document for entry in entries_of(host, [str(job) for job in jobs], result)]


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        """By name."""
        return {"ledger": ledger}
