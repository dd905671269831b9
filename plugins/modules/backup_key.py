#!/usr/bin/python
# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


from __future__ import annotations

DOCUMENTATION = r"""
module: backup_key
short_description: Make, rotate and withdraw keys that read backups
version_added: 0.1.0
description:
  - With O(path), makes, rotates or destroys a key pair for the encryption V(aes256-gcm).
  - Without O(path), changes who can read existing backups in O(repositories), by writing new key slots beside them and
    removing the old ones.
  - Artefacts and manifests are never rewritten, and data keys never leave the module.
  - Changes the slots of every backup that it can. It then fails with C(error=partly_done) where it could not change
    all, and names the others, which withdrawn keys still open.
options:
  state:
    description:
      - V(present) makes the key pair where it is missing, or adds slots for O(encryption.recipients) to backups.
      - V(rotated) puts a new pair in place of one that is older than O(max_age), or gives backups slots for exactly
        O(encryption.recipients), and for the passphrase where one is given.
      - V(absent) destroys the key pair, or removes the O(slots) of backups.
      - To change slots takes a key that opens the backups (O(encryption.identities) or O(encryption.passphrase)). Slots
        that are not known to open are replaced or removed.
    type: str
    choices: [present, rotated, absent]
    default: present
  path:
    description: The file of the private key, in PEM. The public key is beside it, with C(.pub) appended.
    type: path
  max_age:
    description: How old a key may be before V(rotated) replaces it. Without it, every run does. Written as V(365d).
    type: str
  repositories:
    description: The stores whose backups get or lose key slots. Not used with O(path).
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
  engine:
    description: Changes only the backups of this kind of database.
    type: str
    choices: [sqlite, postgresql]
  database:
    description: Changes only the backups of this database.
    type: str
  source_host:
    description: The name under which the backups are filed. It is the host's own name unless given.
    type: str
  slots:
    description:
      - The recipients whose slots are removed, as M(fleet.backup.backup_info) lists them, or V(passphrase).
      - The first 16 digits of an id stand for it. Where a backup has no such slot, a warning says so.
    type: list
    elements: str
    default: []
  destroy:
    description:
      - Whether a backup may lose its last slot, and the key pair its files.
      - Nobody can ever read such a backup again, in no copy of it.
    type: bool
    default: false
seealso:
  - module: fleet.backup.db_backup
extends_documentation_fragment:
  - fleet.backup.encryption
  - fleet.backup.signing
  - fleet.backup.attributes
author:
  - The fleet.backup contributors (@fleet-backup)
"""

EXAMPLES = r"""
- name: The operators have a key pair
  fleet.backup.backup_key:
    path: /root/keys/operators.pem
  delegate_to: localhost
  run_once: true
  register: operators

- name: A new colleague can read the backups that exist
  fleet.backup.backup_key:
    repositories:
      - path: /srv/backups
    encryption:
      recipients: ["{{ colleague_public_key }}"]
      identities: ["{{ vault_operators_private_key }}"]

- name: A colleague who left cannot read them any more
  fleet.backup.backup_key:
    state: absent
    repositories:
      - path: /srv/backups
    slots: ["{{ former_colleague_recipient }}"]
    encryption:
      identities: ["{{ vault_operators_private_key }}"]
"""

RETURN = r"""
public_key:
  description: The public key of the pair at O(path), in PEM.
  returned: success, with O(path), except when it is destroyed or would be made
  type: str
  sample: "-----BEGIN PUBLIC KEY-----..."
recipient:
  description: The id of the public key, which is the SHA-256 of its SubjectPublicKeyInfo.
  returned: success, with O(path), except when it is destroyed or would be made
  type: str
  sample: 5f2b1c0e9a...
public_path:
  description: The file of the public key.
  returned: success, with O(path)
  type: str
  sample: /root/keys/operators.pem.pub
previous:
  description: The file in which the key before it is kept.
  returned: success, when a key was rotated
  type: str
  sample: /root/keys/operators.pem.20260301T020000Z
backups:
  description: The backups that were looked at, and who can read them.
  returned: success, without O(path)
  type: list
  elements: dict
  contains:
    id:
      description: The name of the backup.
      type: str
      sample: shop-20260301T020000Z-h3k7
    repository:
      description: The repository.
      type: str
      sample: /srv/backups
    changed:
      description: Whether its slots changed.
      type: bool
      sample: true
    recipients:
      description: Who can read it now.
      type: list
      elements: str
    reason:
      description: Why it was left alone, where its encryption knows no slots or it has none of those in O(slots).
      type: str
error:
  description: What kind of failure it is, for programs.
  returned: failure
  type: str
  sample: refused
"""

from pathlib import Path
from typing import Any

from ansible_collections.fleet.backup.plugins.module_utils._engine.documents import rekeyed_document
from ansible_collections.fleet.backup.plugins.module_utils._engine.errors import BadInput
from ansible_collections.fleet.backup.plugins.module_utils._engine.keyfile import KeyFile, ensure, remove, rotate
from ansible_collections.fleet.backup.plugins.module_utils._engine.rekey import (
    Rekeyed,
    RekeyRequest,
    SlotChange,
    plan_rekeying,
    readers,
    rekey,
)
from ansible_collections.fleet.backup.plugins.module_utils._engine.state import Host, audit
from ansible_collections.fleet.backup.plugins.module_utils._module import (
    DATABASE_FILTER,
    ENCRYPTION,
    REPOSITORIES,
    SIGNING,
    ArgumentSpec,
    Options,
    Outcome,
    run_module,
)

_CHANGES = {"present": SlotChange.INCLUDE, "rotated": SlotChange.EXACTLY, "absent": SlotChange.EXCLUDE}

SPEC = (
    DATABASE_FILTER.merge(REPOSITORIES)
    .merge(ENCRYPTION)
    .merge(SIGNING)
    .merge(
        ArgumentSpec(
            {
                "state": {"type": "str", "choices": list(_CHANGES), "default": "present"},
                "path": {"type": "path"},
                "max_age": {"type": "str"},
                "repositories": {**REPOSITORIES.options["repositories"], "required": False, "default": []},
                "source_host": {"type": "str"},
                "slots": {"type": "list", "elements": "str", "default": []},
                "destroy": {"type": "bool", "default": False},
            },
            required_one_of=[("path", "repositories")],
        )
    )
)


def read_request(options: Options) -> RekeyRequest:
    """The options as the engine's request to change slots."""
    return RekeyRequest(
        repositories=options.repositories(),
        change=_CHANGES[options.value("state")],
        encryption=options.encryption(),
        source_host=options.source_host(),
        engine=options.value("engine"),
        database=options.value("database"),
        slots=tuple("" if slot == "passphrase" else slot for slot in options.value("slots")),
        destroy=options.value("destroy"),
    )


def change_pair(options: Options, host: Host, check_mode: bool) -> KeyFile | None:
    """Make, rotate or destroy the key pair at ``path``."""
    if options.value("path") is None:
        return None
    path, state = Path(options.value("path")), options.value("state")
    if not path.is_absolute():
        raise BadInput(f"path: {path} is not absolute. Give the whole path of the private key.")
    if state == "absent":
        pair = remove(path, options.value("destroy"), dry_run=True)
        if pair.changed and not check_mode:
            audit(host, "key", str(path), "removing")
            pair = remove(path, options.value("destroy"), dry_run=False)
        return pair
    rotating = state == "rotated"
    pair = rotate(path, options.span("max_age"), host.now(), check_mode) if rotating else ensure(path, check_mode)
    if pair.changed and not check_mode:
        previous = str(pair.previous) if pair.previous else None
        audit(host, "key", str(path), state, {"recipient": pair.recipient_id, "previous": previous})
    return pair


def act(options: Options, host: Host, check_mode: bool) -> Outcome:
    """Change keys and slots, or say what a run would change."""
    rekeyed: tuple[Rekeyed, ...] = ()
    if options.value("path") is None:
        request = read_request(options)
        rekeyed = plan_rekeying(request, host) if check_mode else rekey(request, host)
    pair = change_pair(options, host, check_mode)
    values: dict[str, Any] = {"backups": [rekeyed_document(item) for item in rekeyed]}
    if pair:
        values.update(
            public_key=pair.public,
            recipient=pair.recipient_id,
            public_path=str(pair.public_path),
            previous=str(pair.previous) if pair.previous else None,
        )
    changed = [item for item in rekeyed if item.changed]
    return Outcome(
        bool(changed) or bool(pair and pair.changed),
        values,
        before="".join(f"{item.backup.id}: {', '.join(readers(item.backup.key_slots))}\n" for item in changed),
        after="".join(f"{item.backup.id}: {', '.join(readers(item.slots))}\n" for item in changed)
        + (f"{pair.path}: {options.value('state')}\n" if pair and pair.changed else ""),
        warnings=[f"{item.backup.id}: {item.reason}" for item in rekeyed if item.reason],
    )


def main() -> None:
    """The way in for Ansible."""
    run_module(SPEC, act)


if __name__ == "__main__":
    main()
