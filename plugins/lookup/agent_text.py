# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the agent says of itself, said on the controller: its manual page, and its completion for shells."""

from __future__ import annotations

DOCUMENTATION = r"""
name: agent_text
author:
  - The fleet.backup contributors (@fleet-backup)
version_added: 0.1.0
short_description: The manual page of the agent, and what lets a shell complete its words
description:
  - Returns what C(fleet-backup manual) and C(fleet-backup completion) print, without a host to ask.
options:
  _terms:
    description: Which text; V(manual) for man(1), or the name of a shell, V(bash) or V(zsh).
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: The agent has a manual page
  ansible.builtin.copy:
    content: "{{ lookup('fleet.backup.agent_text', 'manual') }}"
    dest: /usr/local/share/man/man8/fleet-backup.8
    owner: root
    group: root
    mode: "0644"
"""

RETURN = r"""
_raw:
  description: The texts.
  type: list
  elements: str
"""

from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.fleet.backup.plugins.module_utils._engine.agent.console.completing import BASH, ZSH
from ansible_collections.fleet.backup.plugins.module_utils._engine.agent.console.manual import page
from ansible_collections.fleet.backup.plugins.module_utils._engine.agent.parser import whole_parser

_TEXTS = {"manual": lambda: page(whole_parser()), "bash": lambda: BASH, "zsh": lambda: ZSH}


class LookupModule(LookupBase):
    """The lookup ``fleet.backup.agent_text``."""

    def run(self, terms: list[Any], variables: Any = None, **kwargs: Any) -> list[str]:
        """Each of the texts that are named."""
        self.set_options(var_options=variables, direct=kwargs)
        for term in terms:
            if term not in _TEXTS:
                raise AnsibleLookupError(f"There is no text {term!r}. Name one of {', '.join(_TEXTS)}.")
        return [_TEXTS[term]() for term in terms]
