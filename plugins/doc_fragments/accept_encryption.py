# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""The option that says which other encryption methods backups may have when they are read."""

from __future__ import annotations


class ModuleDocFragment:
    """Read by ansible-doc."""

    DOCUMENTATION = r"""
options:
  accept_encryption:
    description:
      - Encryption methods to accept besides O(encryption.method) when a backup is read.
      - Anyone who can write to a repository can store a backup there that is not encrypted. Without this option, a
        backup of any other method than O(encryption.method) is refused, and no verification passes it.
      - After a change of method, name the old one here for as long as its backups are kept.
    type: list
    elements: str
    choices: [aes256-gcm, gpg, age, aes256-cbc, none]
    default: []
    version_added: 0.1.0
"""
