#!/usr/bin/python
# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


from __future__ import annotations

DOCUMENTATION = r"""
module: host_files
short_description: Put many files in their places at once
version_added: 0.1.0
description:
  - Makes directories, files with given contents, and links, and removes what has to go, all of them in one task.
  - M(ansible.builtin.copy) contacts a host several times for each file. The roles of this collection give a host
    dozens of small ones, which this module brings with one contact.
  - Looks at everything first. Where something cannot be as wanted, it fails before anything is changed.
  - A file is replaced whole, with its mode and owner, or stays as it was.
options:
  directories:
    description:
      - Directories that have to be there. Those above them are made as well, with the same mode and owner.
      - A link to a directory counts as one, and that directory keeps its mode and owner.
    type: list
    elements: path
    default: []
  files:
    description: Files that have to be there. A link in the place of one is replaced by the file.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: The file.
        type: path
        required: true
      content:
        description:
          - What it holds, as text, which is written in UTF-8. It is shown in diff mode, unless the task has C(no_log).
        type: raw
        required: true
  links:
    description: Symbolic links that have to be there. A file in the place of one is replaced by the link.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: The link.
        type: path
        required: true
      target:
        description: What it points to, which need not be there.
        type: str
        required: true
  absent:
    description: What has to go. Directories go with everything in them.
    type: list
    elements: path
    default: []
  mode:
    description: The mode of the O(files), as for M(ansible.builtin.file).
    type: raw
    default: "0600"
  directory_mode:
    description: The mode of the O(directories), as for M(ansible.builtin.file).
    type: raw
    default: "0700"
  owner:
    description: The account that files and directories belong to. Without it, whoever they belong to keeps them.
    type: str
  group:
    description: The group that files and directories belong to. Without it, the one they have keeps them.
    type: str
seealso:
  - module: ansible.builtin.copy
  - module: ansible.builtin.file
extends_documentation_fragment:
  - fleet.backup.attributes
author:
  - The fleet.backup contributors (@fleet-backup)
"""

EXAMPLES = r"""
- name: The agent has its jobs
  fleet.backup.host_files:
    directories:
      - /etc/fleet-backup/jobs.d
    files: "{{ fleet_backup_jobs | fleet.backup.job_files(inventory_hostname) }}"
    owner: root
    group: root
"""

RETURN = r"""
changed_paths:
  description: What was changed or, in check mode, would be.
  returned: success
  type: list
  elements: str
  sample: [/etc/fleet-backup/jobs.d/shop.json]
"""

import grp
import os
import pwd
from typing import Any, Dict, List, Optional, Sequence

from ansible_collections.fleet.backup.plugins.module_utils._engine.host.pinned import path_of, pinned
from ansible_collections.fleet.backup.plugins.module_utils._host_files import (
    Change,
    Refused,
    Wanted,
    plan,
    rewritten,
)
from ansible_collections.fleet.backup.plugins.module_utils._quiet import QuietModule

SPEC = {
    "directories": {"type": "list", "elements": "path", "default": []},
    "files": {
        "type": "list",
        "elements": "dict",
        "default": [],
        # As it comes: a dictionary that Ansible made of text must not be written as Python would.
        "options": {"path": {"type": "path", "required": True}, "content": {"type": "raw", "required": True}},
    },
    "links": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"path": {"type": "path", "required": True}, "target": {"type": "str", "required": True}},
    },
    "absent": {"type": "list", "elements": "path", "default": []},
    "mode": {"type": "raw", "default": "0600"},
    "directory_mode": {"type": "raw", "default": "0700"},
    "owner": {"type": "str"},
    "group": {"type": "str"},
}


class Module(QuietModule):
    """Shows contents of files in a diff, for whoever asks for one, and nowhere else."""

    unseen = frozenset({"content"})


def read_wanted(module: QuietModule) -> Wanted:
    """The options as what has to be there."""
    given = module.params
    return Wanted(
        directories=[os.path.normpath(path) for path in given["directories"]],
        files=[(os.path.normpath(file["path"]), file["content"]) for file in given["files"]],
        links=[(os.path.normpath(link["path"]), link["target"]) for link in given["links"]],
        absent=[os.path.normpath(path) for path in given["absent"]],
    )


def check_accounts(module: QuietModule) -> None:
    """Refuse owners that are not there. In check mode, they may still be made."""
    for option, known in (("owner", pwd.getpwnam), ("group", grp.getgrnam)):
        name = module.params[option]
        if name is None or name.isdigit() or module.check_mode:
            continue
        try:
            known(name)
        except KeyError:
            raise Refused(f"{option}: {name} is not known on this host. Make it, or correct the name.") from None


def set_attributes(module: QuietModule, path: str, at: str, is_directory: bool = False) -> Optional[Dict[str, Any]]:
    """Set mode and owner as they are wanted, and for files the security context that the path has by default.

    ``at`` is a path through a descriptor: what has the other one's name can be exchanged. In check mode, only looks.
    What differed, or None.
    """
    wanted = {"owner": module.params["owner"], "group": module.params["group"]}
    wanted["mode"] = module.params["directory_mode" if is_directory else "mode"]
    if not is_directory:
        # restorecon(8): what is written elsewhere and renamed has the context of where it was written.
        wanted.update(dict.fromkeys(("seuser", "serole", "setype", "selevel"), "_default"))
    diff: Dict[str, Any] = {}
    arguments = {**module.load_file_common_arguments(wanted, path=path), "path": at}
    if not module.set_fs_attributes_if_different(arguments, False, diff=diff):
        return None
    return {side: {**shown, "path": path} if "path" in shown else shown for side, shown in diff.items()}


def differing(module: QuietModule, path: str) -> Optional[Dict[str, Any]]:
    """What of a file's mode and owner is not as it is wanted, or None."""
    really, module.check_mode = module.check_mode, True
    try:
        with pinned(os.path.dirname(path)) as directory:
            return set_attributes(module, path, path_of(directory, os.path.basename(path)))
    finally:
        module.check_mode = really


def act(module: QuietModule, wanted: Wanted, changes: Sequence[Change]) -> List[Dict[str, Any]]:
    """Make the changes, then see to modes and owners; what differed, as Ansible shows it."""
    diffs: Dict[str, Dict[str, Any]] = {}
    for change in changes:
        diffs[change.path] = {"before": change.before or "", "after": change.after or ""}
        make(module, change)
    directories = [change.path for change in changes if change.is_directory]
    for path in dict.fromkeys([*directories, *wanted.directories]):
        # What would be made is not there to be looked at. A link leads to a directory that was made for something else,
        # and whose owner its maker may not be.
        if not (module.check_mode and path in diffs) and not os.path.islink(path):
            with pinned(path) as directory:
                diff = set_attributes(module, path, path_of(directory), is_directory=True)
            if diff:
                diffs.setdefault(path, diff)
    for path, content in wanted.files:
        diff = None if path in diffs else differing(module, path)
        if diff:
            diffs[path] = diff
            make(module, rewritten(path, content))
    return [{"before_header": path, "after_header": path, **diff} for path, diff in diffs.items()]


def make(module: QuietModule, change: Change) -> None:
    """Make a change, unless this only looks."""
    if not module.check_mode:
        change.make(lambda at: set_attributes(module, change.path, at))


def main() -> None:
    """The way in for Ansible."""
    module = Module(argument_spec=SPEC, supports_check_mode=True)
    wanted = read_wanted(module)
    try:
        check_accounts(module)
        diffs = act(module, wanted, plan(wanted))
    except Refused as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(
            msg=f"{error.filename or 'A file'}: {error.strerror}. What was done before stays. Mend it, and run again."
        )
    module.exit_json(changed=bool(diffs), changed_paths=[diff["after_header"] for diff in diffs], diff=diffs)


if __name__ == "__main__":
    main()
