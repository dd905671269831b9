#!/usr/bin/python
# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


from __future__ import annotations

DOCUMENTATION = r"""
module: backup_verify
short_description: Prove that backups can be restored
version_added: 0.1.0
description:
  - Verifies backups by their checksum, by reading them to their end, or by restoring them into a scratch database
    and comparing what came back.
  - Records each result beside the backup.
  - A restore that passed is what O(fleet.backup.backup_rotate#module:protect_proven) keeps.
  - The task fails unless everything that was to be verified passed.
  - What could not be checked is no pass, and is named V(unverifiable).
options:
  backup:
    description:
      - Which backups to verify, as V(latest), V(all), an id, or the name of one of its files.
      - Where the newest backup is dated in the future, V(latest) verifies the newest one that is not, and the task
        fails.
    type: str
    default: latest
  sample:
    description:
      - How many of all backups to verify.
      - Those whose last proof is the oldest come first, so that every backup has its turn.
    type: int
  level:
    description:
      - V(checksum) compares the stored bytes with their SHA-256 and needs no key.
      - V(contents) also decrypts and reads the dump to its end, and asks SQLite for the integrity of the database.
      - V(restore) also restores it into a scratch database, compares the tables with the fingerprint, and tries
        O(assertions).
    type: str
    choices: [checksum, contents, restore]
    default: checksum
  assertions:
    description: Queries on the restored database, and what they must return.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: What messages call the assertion.
        type: str
      sql:
        description: The query. It fails where its rows are more than 4 MiB.
        type: str
        required: true
      expect:
        description:
          - The value it must return, or a list of rows, each a list of values or the value of a single column.
          - Numbers are compared as numbers.
          - V(true) is also V(1) and V(false) is also V(0), which is how SQLite says it. V(true) is no other number and
            no string.
          - V(null) is SQL's NULL and nothing else.
          - Everything else is compared as text, so that a string is the same as a number that is written like it.
        type: raw
        required: true
  max_age:
    description: How old the newest good backup may be. Written as V(26h) or V(7d).
    type: str
  timeout:
    description:
      - How long all of it may take, waiting included. There is no limit unless given.
      - Work that does not stop when its time is up is killed.
    type: str
  scratch:
    description:
      - Where to restore for a verification.
      - Without any of the login options, PostgreSQL's backups are restored into a throwaway server, started from the
        server packages of this host and removed afterwards. It runs as an account that owns nothing else, since
        restoring a database runs the code of its owner, and no network reaches it. This needs root.
    type: dict
    suboptions:
      path:
        description:
          - The directory for SQLite's copy, or for the throwaway server. It is the system's temporary directory unless
            given. For PostgreSQL it needs about four times the uncompressed size of the backup.
          - What is in it is readable for one account alone, and gone afterwards.
          - What a verification that was killed left there is removed by the next one of the same account.
        type: path
      become_user:
        description:
          - The account that verifies where the module runs as root, C(fleet-backup-scratch) unless given. The role
            P(fleet.backup.agent#role) creates that one. The throwaway server runs as this account.
          - Any other user verifies SQLite's backups as themselves. For the throwaway server they have to give their own
            name here, and thereby let the code of the backup's owner run as that account.
        type: str
      isolated:
        description:
          - Whether the throwaway server has namespaces of its own, so that it sees no network, no other process, and no
            other account's temporary files.
          - Set it to V(false) where the kernel or a container does not allow namespaces. The code of the backup's owner
            can then connect to whatever the account can reach.
        type: bool
        default: true
      allow_superuser:
        description:
          - Accept a superuser in O(scratch.login_user). Whoever owns the database then has a superuser's rights on that
            server. O(assertions) are still refused.
        type: bool
        default: false
      login_host:
        description:
          - The host of a server to restore to, instead of into a throwaway one.
          - What is not given of the login options is as for the database itself.
        type: str
      login_port:
        description: The port of the scratch server.
        type: int
      login_user:
        description:
          - The user to log in as. It is O(login_user) unless given, and must not be a superuser.
          - This user owns all that is restored on a scratch server, and privileges that the backup grants to others are
            left out, so that the roles of the backup need not exist there.
        type: str
      login_password:
        description: The password to log in with.
        type: str
      login_unix_socket:
        description: The directory of the scratch server's Unix socket.
        type: path
      ssl_mode:
        description: As O(ssl_mode), for the scratch server.
        type: str
        choices: [disable, allow, prefer, require, verify-ca, verify-full]
      ca_cert:
        description: As O(ca_cert), for the scratch server.
        type: path
  source_host:
    description: The name under which the backups are filed. It is the host's own name unless given.
    type: str
seealso:
  - module: fleet.backup.db_backup
extends_documentation_fragment:
  - fleet.backup.database
  - fleet.backup.repositories
  - fleet.backup.encryption
  - fleet.backup.signing
  - fleet.backup.accept_encryption
  - fleet.backup.attributes
author:
  - The fleet.backup contributors (@fleet-backup)
"""

EXAMPLES = r"""
- name: The newest backup of the shop comes back with its orders
  fleet.backup.backup_verify:
    engine: postgresql
    database: shop
    repositories:
      - path: /mnt/nas/backups
    encryption:
      identities:
        - "{{ vault_operators_private_key }}"
    level: restore
    assertions:
      - name: There are orders
        sql: SELECT count(*) > 0 FROM orders
        expect: true
    max_age: 26h

- name: Ten backups a night are checked for rot
  fleet.backup.backup_verify:
    engine: sqlite
    database: /srv/shop/shop.db
    repositories:
      - path: /srv/backups
    backup: all
    sample: 10
"""

RETURN = r"""
checks:
  description: Each verification, in order. What should have been verified and could not be found is among them.
  returned: always, except in check mode and for wrong options
  type: list
  elements: dict
  contains:
    repository:
      description: The repository.
      type: str
      sample: /srv/backups
    backup:
      description: The id of the backup, empty where there is none.
      type: str
      sample: shop-20260301T020000Z-h3k7
    level:
      description: How far the verification was to go.
      type: str
      sample: restore
    outcome:
      description: V(passed), V(failed), or V(unverifiable) when it could not be checked.
      type: str
      sample: passed
    detail:
      description: Why it did not pass.
      type: str
    error:
      description: What kind of failure it is, for programs.
      type: str
      sample: damaged
    seconds:
      description: How long it took.
      type: float
      sample: 12.5
backups:
  description: The ids of the backups that would be verified.
  returned: in check mode
  type: list
  elements: str
error:
  description: What kind of failure it is, for programs.
  returned: failure
  type: str
  sample: damaged
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible_collections.fleet.backup.plugins.module_utils._engine.documents import check_document
from ansible_collections.fleet.backup.plugins.module_utils._engine.errors import BadInput
from ansible_collections.fleet.backup.plugins.module_utils._engine.model import Database, EngineName, Level, Scratch
from ansible_collections.fleet.backup.plugins.module_utils._engine.model import Outcome as Verdict
from ansible_collections.fleet.backup.plugins.module_utils._engine.state import Host
from ansible_collections.fleet.backup.plugins.module_utils._engine.verify import (
    Assertion,
    Check,
    VerifyRequest,
    plan_verification,
    verify,
)
from ansible_collections.fleet.backup.plugins.module_utils._module import (
    ACCEPT_ENCRYPTION,
    DATABASE,
    ENCRYPTION,
    REPOSITORIES,
    SCRATCH_OPTIONS,
    SIGNING,
    ArgumentSpec,
    Options,
    Outcome,
    read_server,
    run_module,
)

_ASSERTION = {
    "name": {"type": "str"},
    "sql": {"type": "str", "required": True},
    "expect": {"type": "raw", "required": True},
}

SPEC = (
    DATABASE.merge(REPOSITORIES)
    .merge(ENCRYPTION)
    .merge(SIGNING)
    .merge(ACCEPT_ENCRYPTION)
    .merge(
        ArgumentSpec(
            {
                "backup": {"type": "str", "default": "latest"},
                "sample": {"type": "int"},
                "level": {"type": "str", "choices": [level.value for level in Level], "default": "checksum"},
                "assertions": {"type": "list", "elements": "dict", "default": [], "options": _ASSERTION},
                "max_age": {"type": "str"},
                "timeout": {"type": "str"},
                "scratch": {"type": "dict", "options": SCRATCH_OPTIONS},
                "source_host": {"type": "str"},
            }
        )
    )
)


def read_request(options: Options) -> VerifyRequest:
    """The options as the engine's request."""
    database = options.database()
    assertions = [Assertion(item["sql"], item["expect"], item["name"] or "") for item in options.value("assertions")]
    timeout = options.span("timeout")
    return VerifyRequest(
        database=database,
        repositories=options.repositories(),
        encryption=options.encryption(),
        source_host=options.source_host(),
        backup=options.value("backup"),
        sample=options.value("sample"),
        level=Level(options.value("level")),
        assertions=tuple(assertions),
        max_age=options.span("max_age"),
        timeout=timeout.total_seconds() if timeout else None,
        scratch=_read_scratch(options.value("scratch"), database),
    )


def act(options: Options, host: Host, check_mode: bool) -> Outcome:
    """Verify, or say what a run would verify."""
    request = read_request(options)
    if check_mode:
        planned = plan_verification(request, host)
        failed = [item for item in planned if isinstance(item, Check)]
        targets = [item for item in planned if not isinstance(item, Check)]
        return Outcome(
            bool(targets),
            {"backups": [backup.id for repository, backup in targets]},
            after="".join(f"{repository.label}: {backup.id}: a proof\n" for repository, backup in targets),
            failure=_explain(failed, len(planned)) if failed else None,
            error=failed[0].code if failed else None,
        )
    result = verify(request, host)
    failed = [check for check in result.checks if check.outcome is not Verdict.PASSED]
    proofs = [f"{check.repository}: {check.backup}: a proof\n" for check in result.checks if check.backup]
    return Outcome(
        bool(proofs),
        {"checks": [check_document(check) for check in result.checks]},
        after="".join(proofs),
        failure=_explain(failed, len(result.checks)) if failed else None,
        error=failed[0].code if failed else None,
    )


def _explain(failed: Sequence[Check], total: int) -> str:
    first = failed[0]
    return f"{len(failed)} of {total} verifications did not pass. The first: {first.detail} ({first.outcome.value})"


def _read_scratch(given: Mapping[str, Any] | None, database: Database) -> Scratch:
    if given is None:
        return Scratch()
    login = {name: value for name, value in vars(read_server(given)).items() if value is not None}
    path = Path(given["path"]) if given["path"] else None
    if login and path:
        raise BadInput("scratch: path and login_* name two places to restore to. Give one of them.")
    return Scratch(
        path=path,
        server=replace(database.server, **login) if login and database.engine is not EngineName.SQLITE else None,
        become_user=given["become_user"],
        isolated=given["isolated"],
        allow_superuser=given["allow_superuser"],
    )


def main() -> None:
    """The way in for Ansible."""
    run_module(SPEC, act)


if __name__ == "__main__":
    main()
