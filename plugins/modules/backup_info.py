#!/usr/bin/python
# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


from __future__ import annotations

DOCUMENTATION = r"""
module: backup_info
short_description: List backups and how healthy they are
version_added: 0.1.0
description:
  - Lists the backups of one or more repositories with their sizes, ages and proofs.
  - Sums them up, and names what is not in order.
  - Shows the work that is going on on the host, and work that was killed.
  - O(encryption) is not used. It is accepted so that C(module_defaults) can set it for all modules of this collection.
options:
  source_host:
    description: Lists only the backups that are filed under this name.
    type: str
  engine:
    description: Lists only the backups of this kind of database.
    type: str
    choices: [sqlite, postgresql]
  database:
    description: Lists only the backups of this database.
    type: str
seealso:
  - module: fleet.backup.backup_verify
extends_documentation_fragment:
  - fleet.backup.repositories
  - fleet.backup.encryption
  - fleet.backup.attributes
author:
  - The fleet.backup contributors (@fleet-backup)
"""

EXAMPLES = r"""
- name: The backups of all hosts are listed
  fleet.backup.backup_info:
    repositories:
      - path: /srv/backups
  register: found

- name: None of them is bad
  ansible.builtin.assert:
    that: found.summary.bad == 0 and found.summary.problems == 0
"""

RETURN = r"""
repositories:
  description: Each repository.
  returned: success
  type: list
  elements: dict
  contains:
    repository:
      description: The repository.
      type: str
      sample: /srv/backups
    free_bytes:
      description: How much can still be written, where the store has a limit.
      type: int
    backups:
      description:
        - The backups, by place and then the oldest first.
        - Each is as returned by M(fleet.backup.db_backup), with its proofs.
      type: list
      elements: dict
    databases:
      description:
        - Each database with its totals, its newest backup and that one's age.
        - It also says how many backups are bad or not proven by a restore.
      type: list
      elements: dict
    problems:
      description: Manifests that cannot be read, and files without one.
      type: list
      elements: dict
summary:
  description: All repositories in numbers.
  returned: success
  type: dict
  sample: {backups: 42, bytes: 1204223, databases: 3, bad: 0, unproven: 1, problems: 0,
           oldest: "2026-02-01T02:00:00Z", newest: "2026-03-01T02:00:00Z"}
running:
  description: The work on the host, with its stage, bytes and rate. C(alive) is false for work that was killed.
  returned: success
  type: list
  elements: dict
error:
  description: What kind of failure it is, for programs.
  returned: failure
  type: str
  sample: repository_unusable
"""

from ansible_collections.fleet.backup.plugins.module_utils._engine.documents import (
    repository_document,
    summary_document,
)
from ansible_collections.fleet.backup.plugins.module_utils._engine.info import InfoRequest, inform
from ansible_collections.fleet.backup.plugins.module_utils._engine.state import Host
from ansible_collections.fleet.backup.plugins.module_utils._module import (
    DATABASE_FILTER,
    ENCRYPTION,
    REPOSITORIES,
    ArgumentSpec,
    Options,
    Outcome,
    run_module,
)

# Keys are not used here; they are accepted so that module_defaults can set them for the whole action group.
SPEC = DATABASE_FILTER.merge(REPOSITORIES).merge(ENCRYPTION).merge(ArgumentSpec({"source_host": {"type": "str"}}))


def act(options: Options, host: Host, check_mode: bool) -> Outcome:
    """List; nothing is ever changed."""
    request = InfoRequest(
        repositories=options.repositories(),
        source_host=options.value("source_host"),
        engine=options.value("engine"),
        database=options.value("database"),
    )
    result = inform(request, host)
    values = {
        "repositories": [repository_document(info) for info in result.repositories],
        "summary": summary_document(result),
        "running": list(result.running),
    }
    return Outcome(False, values)


def main() -> None:
    """The way in for Ansible."""
    run_module(SPEC, act)


if __name__ == "__main__":
    main()
