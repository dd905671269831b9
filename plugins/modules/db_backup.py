#!/usr/bin/python
# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


from __future__ import annotations

DOCUMENTATION = r"""
module: db_backup
short_description: Back up a SQLite or PostgreSQL database
version_added: 0.1.0
description:
  - Takes a consistent snapshot of a database that goes on being used.
  - Compresses and encrypts it, and stores it in every repository.
  - The backup appears in a repository when all of it is there. Whatever goes wrong before leaves no trace.
options:
  compression:
    description: How artefacts are compressed.
    type: str
    choices: [zstd, gzip, none]
    default: zstd
  compression_level:
    description:
      - How hard to compress, V(1) to V(19) for zstd and V(1) to V(9) for gzip.
      - Normally V(1) for zstd with PostgreSQL, V(2) for zstd with SQLite, and V(6) for gzip.
    type: int
  source_host:
    description: The name under which the backups are filed. It is the host's own name unless given.
    type: str
  tier:
    description:
      - A tier to file the backup under.
      - Such as V(hourly), V(daily), V(weekly), V(monthly) or V(yearly), or any other word.
    type: str
  labels:
    description: Free labels to keep in the manifest.
    type: dict
    default: {}
  max_age:
    description:
      - When every repository has a good backup that is younger than this, nothing is done.
      - A backup that is dated in the future is not young, since nobody knows its age.
      - Written as V(90s), V(30m), V(26h) or V(7d).
    type: str
  fingerprint:
    description:
      - What is recorded of the tables, to compare with after a restore.
      - V(counts) is the number of rows in each table, V(digest) also a digest of their contents, which takes longer.
      - For PostgreSQL, V(counts) also digests what costs next to nothing. That is the smallest tables, up to 16 MiB in
        total, and the first and last 100 rows by primary key of each larger one, unless that key is text. It
        therefore notices values that were read wrongly throughout a table; V(digest) notices any changed value.
    type: str
    choices: [none, counts, digest]
    default: counts
  globals:
    description: Whether to back up the roles and tablespaces of a PostgreSQL server too, in a second artefact.
    type: bool
    default: false
  exclude_tables:
    description:
      - Tables of a PostgreSQL database to leave out, as C(table) or C(schema.table).
      - In them, V(*) and V(?) stand for any letters.
    type: list
    elements: str
    default: []
  min_size_ratio:
    description:
      - A dump that is smaller than this share of the last good one is refused.
      - V(0) accepts any but an empty one.
    type: float
    default: 0.5
  accept_source:
    description:
      - Whether to go on although the earlier backups of this database are of another server or file.
      - PostgreSQL's servers are told apart by their system identifier, which an upgrade with C(pg_upgrade) and a new
        cluster change. Set this once when the database has moved. If both are in use, O(source_host) keeps their
        backups apart.
    type: bool
    default: false
  lock_timeout:
    description: How long to wait for a lock on the database or for another backup of it.
    type: str
    default: 60s
  timeout:
    description:
      - How long all of it may take, waiting included. There is no limit unless given.
      - Work that does not stop when its time is up is killed.
    type: str
seealso:
  - module: fleet.backup.db_restore
  - module: fleet.backup.backup_verify
extends_documentation_fragment:
  - fleet.backup.database
  - fleet.backup.repositories
  - fleet.backup.encryption
  - fleet.backup.signing
  - fleet.backup.attributes
author:
  - The fleet.backup contributors (@fleet-backup)
"""

EXAMPLES = r"""
- name: The shop is backed up, readable with the operators' key only
  fleet.backup.db_backup:
    engine: sqlite
    database: /srv/shop/shop.db
    repositories:
      - path: /srv/backups
    encryption:
      recipients:
        - /etc/fleet-backup/operators.pub

- name: There is a backup from today before the migration runs
  fleet.backup.db_backup:
    engine: postgresql
    database: shop
    login_user: backup
    login_password: "{{ vault_backup_password }}"
    login_host: db1.example.com
    repositories:
      - path: /mnt/nas/backups
    encryption:
      method: gpg
      recipients: [backups@example.com]
    globals: true
    max_age: 20h
    labels:
      reason: before migration 42
"""

RETURN = r"""
backup:
  description: The new backup, or the fresh one that made a new one needless.
  returned: success, except in check mode when a backup would be taken
  type: dict
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
expected_bytes:
  description: About how much would be stored, judged by the last backup.
  returned: in check mode, when a backup would be taken and there is an earlier one
  type: int
  sample: 48213376
repositories:
  description: The repositories that have the backup.
  returned: success
  type: list
  elements: str
  sample: [/srv/backups]
tidied:
  description: Files that a killed run had left over, which are removed.
  returned: success
  type: list
  elements: str
  sample: []
error:
  description: What kind of failure it is, for programs.
  returned: failure
  type: str
  sample: shrunk
"""

from ansible_collections.fleet.backup.plugins.module_utils._engine.backup import BackupRequest, plan_backup, take_backup
from ansible_collections.fleet.backup.plugins.module_utils._engine.documents import manifest_document
from ansible_collections.fleet.backup.plugins.module_utils._engine.model import Compression, FingerprintKind
from ansible_collections.fleet.backup.plugins.module_utils._engine.state import Host
from ansible_collections.fleet.backup.plugins.module_utils._module import (
    DATABASE,
    ENCRYPTION,
    REPOSITORIES,
    SIGNING,
    ArgumentSpec,
    Options,
    Outcome,
    run_module,
)

SPEC = (
    DATABASE.merge(REPOSITORIES)
    .merge(ENCRYPTION)
    .merge(SIGNING)
    .merge(
        ArgumentSpec(
            {
                "compression": {"type": "str", "choices": [kind.value for kind in Compression], "default": "zstd"},
                "compression_level": {"type": "int"},
                "source_host": {"type": "str"},
                "tier": {"type": "str"},
                "labels": {"type": "dict", "default": {}},
                "max_age": {"type": "str"},
                "fingerprint": {
                    "type": "str",
                    "choices": [kind.value for kind in FingerprintKind],
                    "default": "counts",
                },
                "globals": {"type": "bool", "default": False},
                "exclude_tables": {"type": "list", "elements": "str", "default": []},
                "min_size_ratio": {"type": "float", "default": 0.5},
                "accept_source": {"type": "bool", "default": False},
                "lock_timeout": {"type": "str", "default": "60s"},
                "timeout": {"type": "str"},
            }
        )
    )
)


def read_request(options: Options) -> BackupRequest:
    """The options as the engine's request."""
    lock_timeout, timeout = options.span("lock_timeout"), options.span("timeout")
    return BackupRequest(
        database=options.database(),
        repositories=options.repositories(),
        encryption=options.encryption(),
        source_host=options.source_host(),
        compression=Compression(options.value("compression")),
        compression_level=options.value("compression_level"),
        tier=options.value("tier"),
        labels={str(key): str(value) for key, value in options.value("labels").items()},
        max_age=options.span("max_age"),
        fingerprint=FingerprintKind(options.value("fingerprint")),
        globals=options.value("globals"),
        exclude_tables=tuple(options.value("exclude_tables")),
        min_size_ratio=options.value("min_size_ratio"),
        accept_source=options.value("accept_source"),
        lock_timeout=lock_timeout.total_seconds() if lock_timeout else 0.0,
        timeout=timeout.total_seconds() if timeout else None,
    )


def act(options: Options, host: Host, check_mode: bool) -> Outcome:
    """Back up, or say what a run would do."""
    request = read_request(options)
    labels = [repository.label for repository in request.repositories]
    if check_mode:
        plan = plan_backup(request, host)
        if plan.fresh:
            document = manifest_document(plan.fresh.manifest, plan.fresh.key_slots)
            return Outcome(False, {"backup": document, "repositories": labels, "tidied": []})
        values = {"expected_bytes": plan.expected_bytes, "repositories": labels, "tidied": list(plan.leftovers)}
        return Outcome(True, values, after=f"a new backup of {request.database.name}\n")
    result = take_backup(request, host)
    values = {
        "backup": manifest_document(result.manifest, result.slots),
        "repositories": list(result.repositories),
        "tidied": list(result.tidied),
    }
    after = f"a new backup of {request.database.name}\n" if result.changed else ""
    return Outcome(result.changed, values, after=after, warnings=result.warnings)


def main() -> None:
    """The way in for Ansible."""
    run_module(SPEC, act)


if __name__ == "__main__":
    main()
