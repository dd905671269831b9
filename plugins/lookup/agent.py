# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent, built on the controller: where its file is."""

from __future__ import annotations

DOCUMENTATION = r"""
name: agent
author:
  - The fleet.backup contributors (@fleet-backup)
version_added: 0.1.0
short_description: Build the agent C(fleet-backup), and say where its file is
description:
  - Builds the collection's engine into one file that Python runs, below Ansible's temporary directory on the
    controller, and returns its path. M(ansible.builtin.copy) brings it to hosts.
  - The same version of the collection gives the same bytes, so that a second deployment changes nothing.
options:
  _terms:
    description: The interpreters that shall run it, as absolute paths on the hosts.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: The agent is installed
  ansible.builtin.copy:
    src: "{{ lookup('fleet.backup.agent', '/usr/bin/python3') }}"
    dest: /usr/local/bin/fleet-backup
    owner: root
    group: root
    mode: "0755"
"""

RETURN = r"""
_raw:
  description: The paths of the files on the controller.
  type: list
  elements: path
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.fleet.backup.plugins.module_utils import _engine
from ansible_collections.fleet.backup.plugins.module_utils._engine.agent.archive import build


class LookupModule(LookupBase):
    """The lookup ``fleet.backup.agent``."""

    def run(self, terms: list[Any], variables: Any = None, **kwargs: Any) -> list[str]:
        """Build the agent for each interpreter."""
        self.set_options(var_options=variables, direct=kwargs)
        return [self._build(str(term)) for term in terms]

    def _build(self, interpreter: str) -> str:
        if not os.path.isabs(interpreter) or any(character in interpreter for character in " \n"):
            raise AnsibleLookupError(
                f"The interpreter {interpreter!r} is not an absolute path. Give one without spaces."
            )
        content = build(Path(_engine.__file__).parent, interpreter)
        # Ansible removes this directory when it ends.
        with tempfile.NamedTemporaryFile(prefix="fleet-backup-", dir=constants.DEFAULT_LOCAL_TMP, delete=False) as file:
            file.write(content)
        return file.name
