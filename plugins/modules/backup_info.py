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
  - Fails where a backup cannot be read, or anything else in a repository is not in order. It then returns what it found
    all the same.
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
  - fleet.backup.signing
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
    that: found.summary.bad == 0
"""

RETURN = r"""
repositories:
  description: Each repository.
  returned: success, and where files are not in order
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
    total_bytes:
      description: How much the store holds when it is empty, where it has a limit.
      type: int
    backups:
      description: The backups, by place and then the oldest first.
      type: list
      elements: dict
      contains:
        id:
          description: The name of the backup.
          type: str
          sample: shop-20260301T020000Z-h3k7
        host:
          description: The name under which it is filed.
          type: str
          sample: web1
        engine:
          description: The kind of database.
          type: str
          sample: postgresql
        database:
          description: The database's true name.
          type: str
          sample: shop
        tier:
          description: Its tier, where it was given one. C(safety) marks what a restore was about to replace.
          type: str
          sample: daily
        labels:
          description: Its labels.
          type: dict
          sample: {reason: before migration 42}
        started:
          description: When it was begun. What was committed before is in it.
          type: str
          sample: "2026-03-01T02:00:00Z"
        finished:
          description: When it was complete.
          type: str
          sample: "2026-03-01T02:00:05Z"
        bytes:
          description: How much is stored.
          type: int
          sample: 48213376
        plain_bytes:
          description: How much it is before compression.
          type: int
          sample: 402653184
        artefacts:
          description: The stored files.
          type: list
          elements: dict
          contains:
            name:
              description: The name of the file.
              type: str
              sample: shop-20260301T020000Z-h3k7.dump.zst.aes
            content:
              description: V(database), or V(globals) for roles and tablespaces.
              type: str
              sample: database
            bytes:
              description: How much is stored.
              type: int
              sample: 48213376
            plain_bytes:
              description: How much it is before compression.
              type: int
              sample: 402653184
            sha256:
              description: The SHA-256 of the stored file.
              type: str
              sample: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
            compression:
              description: How it is compressed.
              type: str
              sample: zstd
            encryption:
              description: How it is encrypted.
              type: str
              sample: aes256-gcm
        recipients:
          description: Who can read it, as ids of public keys, and C(passphrase). Empty for methods without key slots.
          type: list
          elements: str
          sample: [5f2b1c0e9a7d4c3b]
        server_version:
          description: The version of the database server.
          type: str
          sample: "15.8"
        opaque:
          description: Whether it is an encrypted SQLite database, whose inside was not looked at.
          type: bool
          sample: false
        fingerprint:
          description: What was recorded of the tables.
          type: str
          sample: counts
        tables:
          description: How many tables were counted.
          type: int
          sample: 42
        rows:
          description: How many rows they have together.
          type: int
          sample: 1204223
        durations:
          description: Seconds spent in each stage.
          type: dict
          sample: {dump: 4.2, fingerprint: 0.1, snapshot: 0.3}
        previous:
          description: The database's backup before it.
          type: str
          sample: shop-20260228T020000Z-h3k7
        path:
          description: The place in the repository.
          type: str
          sample: web1/postgresql/shop
        proof:
          description: The strongest verification that it passed, where there is one.
          type: dict
          contains:
            level:
              description: How far the verification went.
              type: str
              sample: restore
            time:
              description: When it passed.
              type: str
              sample: "2026-03-01T03:00:00Z"
            host:
              description: The host that verified it.
              type: str
              sample: web1
        known_bad:
          description: Why it must not be counted on, where that is known.
          type: str
          sample: its artefact shop-20260301T020000Z-h3k7.dump.zst.aes is missing
        foreign:
          description:
            - Whether this host takes the backups in this place and did not write this one. It then counts for nothing.
            - Always V(false) on a host that takes no backups there.
          type: bool
          sample: false
    databases:
      description: The backups of each database in numbers.
      type: list
      elements: dict
      contains:
        path:
          description: The place in the repository.
          type: str
          sample: web1/postgresql/shop
        database:
          description: The database's true name.
          type: str
          sample: shop
        backups:
          description: How many backups it has, without safety backups.
          type: int
          sample: 42
        bytes:
          description: How much they take, with safety backups.
          type: int
          sample: 2024961792
        bad:
          description: How many of them are known to be bad.
          type: int
          sample: 0
        unproven:
          description: How many of them no restore has proven.
          type: int
          sample: 41
        oldest:
          description: The oldest one.
          type: str
          sample: shop-20260101T020000Z-h3k7
        newest:
          description: The newest good one that is not dated in the future.
          type: str
          sample: shop-20260301T020000Z-h3k7
        age_seconds:
          description: How old that one is.
          type: int
          sample: 3600
        size_change:
          description: The plain size of the newest good one as a share of the one before it.
          type: float
          sample: 1.02
        restore_proven:
          description: When a restore last proved one of them.
          type: str
          sample: "2026-03-01T03:00:00Z"
    problems:
      description: Manifests that cannot be read, files without one, and backups that are dated in the future.
      type: list
      elements: dict
      contains:
        path:
          description: The file.
          type: str
          sample: web1/postgresql/shop/shop-20260301T020000Z-h3k7.manifest.json
        reason:
          description: What is wrong with it, and what to do.
          type: str
          sample: It is cut short or damaged. Restore from another repository.
summary:
  description: All repositories in numbers.
  returned: success, and where files are not in order
  type: dict
  contains:
    backups:
      description: How many backups there are, without safety backups.
      type: int
      sample: 42
    bytes:
      description: How much they take, with safety backups.
      type: int
      sample: 1204223
    databases:
      description: How many databases they are of, counted in each repository.
      type: int
      sample: 3
    bad:
      description: How many of them are known to be bad.
      type: int
      sample: 0
    unproven:
      description: How many of them no restore has proven.
      type: int
      sample: 1
    problems:
      description: How many files are not in order, or dated in the future.
      type: int
      sample: 0
    oldest:
      description: When the oldest one was begun.
      type: str
      sample: "2026-02-01T02:00:00Z"
    newest:
      description: When the newest good one that is not dated in the future was begun.
      type: str
      sample: "2026-03-01T02:00:00Z"
running:
  description:
    - The work that goes on on the host, and work that was killed.
    - Where its status cannot be read, only C(subject), C(stage) and C(alive) are known.
  returned: success, and where files are not in order
  type: list
  elements: dict
  contains:
    verb:
      description: What is done.
      type: str
      sample: backup
    subject:
      description: What it is done to.
      type: str
      sample: web1/postgresql/shop
    pid:
      description: Its process.
      type: int
      sample: 4711
    started:
      description: When it began.
      type: str
      sample: "2026-03-01T02:00:00Z"
    stage:
      description: The stage that it is in.
      type: str
      sample: dump
    bytes:
      description: How much of the stage is done.
      type: int
      sample: 20132659
    expected_bytes:
      description: How much the stage is about to take, V(0) where that is not known.
      type: int
      sample: 48213376
    bytes_per_second:
      description: How fast the stage is.
      type: int
      sample: 10066329
    alive:
      description: Whether its process still is. It is not where the work was killed.
      type: bool
      sample: true
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
from ansible_collections.fleet.backup.plugins.module_utils._engine.text import shortened
from ansible_collections.fleet.backup.plugins.module_utils._module import (
    DATABASE_FILTER,
    ENCRYPTION,
    REPOSITORIES,
    SIGNING,
    ArgumentSpec,
    Options,
    Outcome,
    disorder,
    run_module,
)

# Keys are not used here; they are accepted so that module_defaults can set them for the whole action group.
SPEC = (
    DATABASE_FILTER.merge(REPOSITORIES)
    .merge(ENCRYPTION)
    .merge(SIGNING)
    .merge(ArgumentSpec({"source_host": {"type": "str"}}))
)


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
    problems = [problem.reason for info in result.repositories for problem in info.problems]
    # A backup that is dated in the future can be read; that is a warning.
    unread = [problem for info in result.repositories for problem in info.catalogue.problems]
    return Outcome(False, values, warnings=shortened(problems), **disorder(unread))


def main() -> None:
    """The way in for Ansible."""
    run_module(SPEC, act)


if __name__ == "__main__":
    main()
