# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""The option that says where backups are kept."""

from __future__ import annotations


class ModuleDocFragment:
    """Read by ansible-doc."""

    DOCUMENTATION = r"""
options:
  repositories:
    description: The stores of backups.
    type: list
    elements: dict
    required: true
    suboptions:
      type:
        description: The kind of store.
        type: str
        choices: [local]
        default: local
      path:
        description:
          - The directory of a V(local) repository, also on a mounted NFS or SMB share.
          - It must exist and be no symbolic link. It is written only where no other account than root, the one that
            writes and the owner of the directory could put another directory in its place.
          - It is never created, since a missing directory may be a share that is not mounted.
        type: path
"""
