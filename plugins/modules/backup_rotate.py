#!/usr/bin/python
# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


from __future__ import annotations

DOCUMENTATION = r"""
module: backup_rotate
short_description: Remove backups that a retention policy does not keep
version_added: 0.1.0
description:
  - Keeps the last ones, or one of each of the last hours, days, weeks, months and years.
  - These are counted as C(restic forget) counts them.
  - Only backups that are complete and not known to be bad count. The last good ones always stay.
  - Fails where files are not in order, once the readable backups are rotated. It leaves such files alone, unless
    O(purge) is set.
  - O(encryption) is not used. It is accepted so that C(module_defaults) can set it for all modules of this collection.
options:
  engine:
    description: Rotates only the backups of this kind of database.
    type: str
    choices: [sqlite, postgresql]
  database:
    description:
      - The one database whose backups are rotated.
      - Without it, those of all databases of O(source_host) are, each for itself.
    type: str
  source_host:
    description: The name under which the backups are filed. It is the host's own name unless given.
    type: str
  keep_last:
    description: How many of the newest backups are kept.
    type: int
    default: 0
  keep_hourly:
    description:
      - For how many of the last hours that have backups the newest one is kept.
      - V(-1) is all of them, as in the other options that count.
    type: int
    default: 0
  keep_daily:
    description: For how many of the last days that have backups the newest one is kept.
    type: int
    default: 0
  keep_weekly:
    description: For how many of the last ISO weeks that have backups the newest one is kept.
    type: int
    default: 0
  keep_monthly:
    description: For how many of the last months that have backups the newest one is kept.
    type: int
    default: 0
  keep_yearly:
    description: For how many of the last years that have backups the newest one is kept.
    type: int
    default: 0
  keep_within:
    description: All backups that are no older than this before the newest one are kept. Written as V(48h) or V(7d).
    type: str
  timezone:
    description: The time zone in which hours, days, weeks, months and years begin.
    type: str
    default: UTC
  minimum_keep:
    description: How many of the newest good backups always stay.
    type: int
    default: 1
  max_age:
    description: While the newest good backup is older than this, nothing is removed. Written as V(26h) or V(7d).
    type: str
  protect_proven:
    description: Whether the newest backup that was proven by a restore always stays.
    type: bool
    default: true
  adopt:
    description:
      - Whether this host takes all backups that it finds there, and can read, for its own from now on.
      - Otherwise only those count that it wrote. All others are kept, fill no count, and are named in
        RV(rotations[].unknown), so that an account that can write to the repository cannot have backups removed.
      - Set it once after the state of a host was lost, on another host that rotates for the one that takes the backups,
        or to go on without a backup that was removed by hand.
    type: bool
    default: false
  trust_clock:
    description:
      - Whether the clock of this host is right, although it seems to have gone forward.
      - A clock that is ahead makes all backups look old. So nothing is removed where the clock went on by more than the
        time since the machine was started, is ahead of the repository's own, or left a pause between backups that is
        far longer than any before it. Set this once to go on.
    type: bool
    default: false
  purge:
    description:
      - Whether all backups of O(database) are removed, whatever any rule says.
      - This answers a request for erasure, for example.
      - No O(keep_last) or other rule can be given then.
    type: bool
    default: false
seealso:
  - module: fleet.backup.backup_info
extends_documentation_fragment:
  - fleet.backup.repositories
  - fleet.backup.encryption
  - fleet.backup.signing
  - fleet.backup.attributes
author:
  - The fleet.backup contributors (@fleet-backup)
"""

EXAMPLES = r"""
- name: The backups of all databases of this host are thinned out
  fleet.backup.backup_rotate:
    repositories:
      - path: /srv/backups
    keep_hourly: 24
    keep_daily: 30
    keep_monthly: 12
    timezone: Europe/Berlin
    max_age: 26h

- name: All backups of a customer are erased
  fleet.backup.backup_rotate:
    repositories:
      - path: /srv/backups
    engine: postgresql
    database: customer_4711
    purge: true
"""

RETURN = r"""
rotations:
  description: What happened in each place of each repository.
  returned: success, and where files are not in order
  type: list
  elements: dict
  contains:
    repository:
      description: The repository.
      type: str
      sample: /srv/backups
    path:
      description: The place in it.
      type: str
      sample: web1/postgresql/shop
    kept:
      description: The backups that stay.
      type: list
      elements: dict
      contains:
        id:
          description: The backup.
          type: str
          sample: shop-20260301T020000Z-h3k7
        started:
          description: When it was begun.
          type: str
          sample: "2026-03-01T02:00:00Z"
        bytes:
          description: How much it takes.
          type: int
          sample: 48213376
        reasons:
          description: Why.
          type: list
          elements: str
          sample: [daily, the newest restore-proven backup]
    removed:
      description: The backups that go.
      type: list
      elements: dict
      contains:
        id:
          description: The backup.
          type: str
          sample: shop-20260301T020000Z-h3k7
        started:
          description: When it was begun.
          type: str
          sample: "2026-03-01T02:00:00Z"
        bytes:
          description: How much it takes.
          type: int
          sample: 48213376
        reasons:
          description: Why.
          type: list
          elements: str
          sample: [daily, the newest restore-proven backup]
    unknown:
      description: The backups that this host did not write, or whose key slots were changed elsewhere. They are kept.
      type: list
      elements: str
      sample: [shop-20260301T020000Z-h3k7]
    tidied:
      description: Files that are removed because a crash had left them over, or because newer proofs took their place.
      type: list
      elements: str
    problems:
      description: Files that are not in order, which are left alone.
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
error:
  description: What kind of failure it is, for programs.
  returned: failure
  type: str
  sample: bad_input
"""

from typing import Any, Sequence

from ansible_collections.fleet.backup.plugins.module_utils._engine.apiece import partly_done
from ansible_collections.fleet.backup.plugins.module_utils._engine.documents import rotation_document
from ansible_collections.fleet.backup.plugins.module_utils._engine.model import Policy
from ansible_collections.fleet.backup.plugins.module_utils._engine.rotate import (
    PlaceRotation,
    RotateRequest,
    RotateResult,
    plan_rotation,
    rotate,
)
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

_COUNTS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")

# Keys are not used here; they are accepted so that module_defaults can set them for the whole action group.
SPEC = (
    DATABASE_FILTER.merge(REPOSITORIES)
    .merge(ENCRYPTION)
    .merge(SIGNING)
    .merge(
        ArgumentSpec(
            {
                "source_host": {"type": "str"},
                **{f"keep_{name}": {"type": "int", "default": 0} for name in _COUNTS},
                "keep_within": {"type": "str"},
                "timezone": {"type": "str", "default": "UTC"},
                "minimum_keep": {"type": "int", "default": 1},
                "max_age": {"type": "str"},
                "protect_proven": {"type": "bool", "default": True},
                "adopt": {"type": "bool", "default": False},
                "trust_clock": {"type": "bool", "default": False},
                "purge": {"type": "bool", "default": False},
            },
            required_by={"database": ["engine"]},
        )
    )
)


def read_policy(options: Options) -> Policy:
    """The retention policy."""
    return Policy(
        **{name: options.value(f"keep_{name}") for name in _COUNTS},
        within=options.span("keep_within"),
        timezone=options.value("timezone"),
        minimum_keep=options.value("minimum_keep"),
        max_age=options.span("max_age"),
        protect_proven=options.value("protect_proven"),
    )


def act(options: Options, host: Host, check_mode: bool) -> Outcome:
    """Rotate, or say what a run would do."""
    policy = read_policy(options)
    purge = options.value("purge")
    request = RotateRequest(
        repositories=options.repositories(),
        source_host=options.source_host(),
        policy=None if purge and policy.empty else policy,
        database=options.database_filter(),
        engine=options.value("engine"),
        purge=purge,
        adopt=options.value("adopt"),
        trust_clock=options.value("trust_clock"),
    )
    result = plan_rotation(request, host) if check_mode else rotate(request, host)
    rotations = [rotation_document(rotation) for rotation in result.rotations]
    return Outcome(
        result.changed,
        {"rotations": rotations},
        warnings=_warnings(result.rotations),
        before=_listing(rotations, "kept", "removed"),
        after=_listing(rotations, "kept"),
        # A purge removes even those.
        **({} if purge else disorder([problem for one in result.rotations for problem in one.problems])),
        **_undone(result),
    )


def _undone(result: RotateResult) -> dict[str, Any]:
    """The failure in an Outcome for repositories and places that could not be rotated."""
    if not result.failures:
        return {}
    where = [f"{rotation.repository}/{rotation.place.path}" for rotation in result.rotations]
    error = partly_done("The rotation is done", shortened(where), result.failures)
    return {"failure": str(error), "error": error.code}


def _warnings(rotations: Sequence[PlaceRotation]) -> list[str]:
    """What was not decided on."""
    found = shortened([problem.reason for rotation in rotations for problem in rotation.problems])
    found += [
        f"{len(one.unknown)} backups in {one.repository}/{one.place.path} are not known to this host and were kept. "
        "Set adopt once if they are its own."
        for one in rotations
        if one.unknown
    ]
    return found


def _listing(rotations: list[dict[str, Any]], *parts: str) -> str:
    """The backups of all places, a line each, for the diff."""
    lines = [f"{r['repository']}/{r['path']}/{backup['id']}" for r in rotations for part in parts for backup in r[part]]
    return "".join(f"{line}\n" for line in sorted(lines))


def main() -> None:
    """The way in for Ansible."""
    run_module(SPEC, act)


if __name__ == "__main__":
    main()
