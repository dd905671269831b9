#!/usr/bin/python
# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


from __future__ import annotations

DOCUMENTATION = r"""
module: db_restore
short_description: Restore a SQLite or PostgreSQL database from a backup
version_added: 0.1.0
description:
  - Loads a backup beside its target, and checks what came back against what was backed up.
  - Only then does it take the target's place.
  - Whatever goes wrong before leaves the target as it was.
options:
  repositories:
    description:
      - The stores of backups, in place of O(repository).
      - The newest backup of all of them is restored, from the first one that has it.
      - A store that cannot be read is passed over with a warning, as long as another one has the backup.
      - Like this, C(module_defaults) can set the stores for all modules of this collection.
    type: list
    elements: dict
    default: []
    suboptions:
      type:
        description: The kind of store.
        type: str
        choices: [local]
        default: local
      path:
        description: The directory of a V(local) repository.
        type: path
  backup:
    description:
      - Which backup to restore, as V(latest), its id, or the name of one of its files.
      - V(latest) is refused while the newest backup is known to be bad or dated more than five minutes in the future.
      - The message then names the one before it.
    type: str
    default: latest
  before:
    description:
      - The newest backup at or before this time is restored.
      - Written as V(2026-03-01T12:00:00Z) or V(2026-03-01).
    type: str
  source_host:
    description: The name under which the backup is filed. It is the host's own name unless given.
    type: str
  source_database:
    description: The name of the database that was backed up, where the target has another one.
    type: str
  replace:
    description: Whether a database that exists is replaced. It is an error otherwise.
    type: bool
    default: false
  safety_backup:
    description:
      - Whether what is replaced is backed up, into the same repository, with the tier C(safety). It is kept until that
        is done.
      - It is encrypted by O(encryption). With V(gpg) and V(age), that takes O(encryption.recipients) where
        O(encryption.identities) are given, whose O(encryption.passphrase) it is not encrypted under.
      - A safety backup is never what V(latest) means, and it is restored by its id.
    type: bool
    default: true
  keep_replaced:
    description: Whether what is replaced is also kept beside the restored database, under another name.
    type: bool
    default: false
  parallel:
    description:
      - How many jobs load a PostgreSQL database at once.
      - More than one needs the plain dump in a private temporary file while it lasts (C(TMPDIR)).
    type: int
    default: 1
  verify_checksum:
    description:
      - Whether the stored bytes are compared with their SHA-256 first.
      - Backups with V(aes256-cbc) always are, since nothing else authenticates their bytes.
    type: bool
    default: true
  owner:
    description:
      - The owner of the restored database and of all that is in it, in place of the one it had.
      - For SQLite the file's C(user) or C(user:group).
    type: str
  globals:
    description: Whether the roles and tablespaces of the backup are created first, where they are missing.
    type: bool
    default: false
  on_error:
    description:
      - What to do about an object that cannot be restored, such as an index on a function that fails.
      - V(stop) fails, and leaves the target as it was.
      - V(continue) restores everything else, names the objects in RV(missing), and puts the database in its place. The
        task then fails with the error V(incomplete).
      - With V(continue), a PostgreSQL dump is kept as a private file in the temporary directory while it is loaded, as
        with O(parallel). Tables with a check constraint that reads a table which is loaded later are loaded again.
      - SQLite's databases are restored as a whole. With V(continue), their indexes that do not fit their tables are
        rebuilt in the restored copy and named in a warning.
    type: str
    choices: [stop, continue]
    default: stop
  lock_timeout:
    description: How long to wait for another restore of the same database.
    type: str
    default: 60s
  timeout:
    description:
      - How long all of it may take, waiting included. There is no limit unless given.
      - Work that does not stop when its time is up is killed.
    type: str
seealso:
  - module: fleet.backup.db_backup
extends_documentation_fragment:
  - fleet.backup.database
  - fleet.backup.repository
  - fleet.backup.encryption
  - fleet.backup.signing
  - fleet.backup.accept_encryption
  - fleet.backup.attributes
author:
  - The fleet.backup contributors (@fleet-backup)
"""

EXAMPLES = r"""
- name: Yesterday's shop comes back under another name
  fleet.backup.db_restore:
    engine: sqlite
    database: /srv/shop/yesterday.db
    source_database: /srv/shop/shop.db
    before: "2026-03-01T12:00:00Z"
    repository:
      path: /srv/backups
    encryption:
      identities:
        - "{{ vault_operators_private_key }}"

- name: The newest backup of db1 replaces the database on this host
  fleet.backup.db_restore:
    engine: postgresql
    database: shop
    source_host: db1
    replace: true
    keep_replaced: true
    repository:
      path: /mnt/nas/backups
    encryption:
      identities:
        - "{{ vault_operators_private_key }}"
"""

RETURN = r"""
backup:
  description: The backup that was or would be restored.
  returned: success
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
repository:
  description: The repository that it was or would be restored from.
  returned: success
  type: str
  sample: /srv/backups
replaced:
  description: Whether a database was or would be replaced.
  returned: success
  type: bool
  sample: true
safety_backup:
  description: The id of the backup that was taken of what was replaced.
  returned: success, when one was taken
  type: str
  sample: shop-20260302T091500Z-h3k7
kept_as:
  description: Where what was replaced is kept.
  returned: success, with O(keep_replaced)
  type: str
  sample: shop__replaced_shop-20260301T020000Z-h3k7
needed_bytes:
  description: How much space the restored database needs, about.
  returned: in check mode
  type: int
  sample: 402653184
expected_seconds:
  description: How long a restore takes, judged by the last one or by the dump.
  returned: in check mode, when that is known
  type: float
  sample: 12.5
durations:
  description: Seconds spent in each stage.
  returned: success, except in check mode
  type: dict
  sample: {checksum: 0.4, load: 9.1, fingerprint: 0.6, swap: 0.1}
missing:
  description:
    - Objects that could not be restored, with the reason. The first hundred are named.
    - Where there are any, the task fails with V(incomplete), although the database is in its place.
  returned: success, except in check mode; and failure with V(incomplete)
  type: list
  elements: str
  sample: ['MATERIALIZED VIEW DATA public words postgres: relation "docs" does not exist']
unverified:
  description: What could not be checked of the restored database, for example of one that is encrypted by itself.
  returned: success, when there was something
  type: str
error:
  description: What kind of failure it is, for programs.
  returned: failure
  type: str
  sample: target_exists
"""

from ansible_collections.fleet.backup.plugins.module_utils._engine.documents import backup_document
from ansible_collections.fleet.backup.plugins.module_utils._engine.restore import RestoreRequest, plan_restore, restore
from ansible_collections.fleet.backup.plugins.module_utils._engine.state import Host
from ansible_collections.fleet.backup.plugins.module_utils._module import (
    ACCEPT_ENCRYPTION,
    DATABASE,
    ENCRYPTION,
    REPOSITORIES,
    REPOSITORY,
    SIGNING,
    ArgumentSpec,
    Options,
    Outcome,
    run_module,
)

SPEC = (
    DATABASE.merge(REPOSITORY)
    .merge(ENCRYPTION)
    .merge(SIGNING)
    .merge(ACCEPT_ENCRYPTION)
    .merge(
        ArgumentSpec(
            {
                "repositories": {**REPOSITORIES.options["repositories"], "required": False, "default": []},
                "backup": {"type": "str", "default": "latest"},
                "before": {"type": "str"},
                "source_host": {"type": "str"},
                "source_database": {"type": "str"},
                "replace": {"type": "bool", "default": False},
                "safety_backup": {"type": "bool", "default": True},
                "keep_replaced": {"type": "bool", "default": False},
                "parallel": {"type": "int", "default": 1},
                "verify_checksum": {"type": "bool", "default": True},
                "owner": {"type": "str"},
                "globals": {"type": "bool", "default": False},
                "on_error": {"type": "str", "choices": ["stop", "continue"], "default": "stop"},
                "lock_timeout": {"type": "str", "default": "60s"},
                "timeout": {"type": "str"},
            },
            required_one_of=[("repository", "repositories")],
        )
    )
)


def read_request(options: Options) -> RestoreRequest:
    """The options as the engine's request."""
    lock_timeout, timeout = options.span("lock_timeout"), options.span("timeout")
    return RestoreRequest(
        database=options.database(),
        repositories=options.one_or_all_repositories(),
        encryption=options.encryption(),
        source_host=options.source_host(),
        source_database=options.value("source_database"),
        backup=options.value("backup"),
        before=options.time("before"),
        replace=options.value("replace"),
        safety_backup=options.value("safety_backup"),
        keep_replaced=options.value("keep_replaced"),
        parallel=options.value("parallel"),
        verify_checksum=options.value("verify_checksum"),
        owner=options.value("owner"),
        globals=options.value("globals"),
        tolerant=options.value("on_error") == "continue",
        lock_timeout=lock_timeout.total_seconds() if lock_timeout else 0.0,
        timeout=timeout.total_seconds() if timeout else None,
    )


def act(options: Options, host: Host, check_mode: bool) -> Outcome:
    """Restore, or say what a run would do."""
    request = read_request(options)
    result = None if check_mode else restore(request, host)
    plan = result.plan if result else plan_restore(request, host)
    values = {"backup": backup_document(plan.backup), "repository": plan.repository.label, "replaced": plan.replaces}
    if result:
        values.update(
            safety_backup=result.safety_backup,
            kept_as=result.kept_as,
            durations=dict(result.durations),
            unverified=result.unverified,
            missing=list(result.missing),
        )
    else:
        values.update(needed_bytes=plan.backup.manifest.main.plain_bytes, expected_seconds=plan.expected_seconds)
    name = request.database.name
    return Outcome(
        True,
        values,
        before=f"{name}: as it is now\n" if plan.replaces else "",
        after=f"{name}: {plan.backup.id}\n",
        warnings=result.warnings if result else plan.warnings,
        failure=str(result.failure) if result and result.failure else None,
        error=result.failure.code if result and result.failure else None,
    )


def main() -> None:
    """The way in for Ansible."""
    run_module(SPEC, act)


if __name__ == "__main__":
    main()
