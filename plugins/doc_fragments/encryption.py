# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""The option that says how artefacts are encrypted and with whose keys."""

from __future__ import annotations


class ModuleDocFragment:
    """Read by ansible-doc."""

    DOCUMENTATION = r"""
options:
  encryption:
    description:
      - How artefacts are encrypted, and the keys.
      - To read, a backup must have this method. The right key is found among those given.
    type: dict
    suboptions:
      method:
        description:
          - V(aes256-gcm) is Tink streaming AEAD under a fresh key, which is wrapped for each recipient.
          - V(gpg) is OpenPGP, V(age) is age v1, and V(aes256-cbc) is what C(openssl enc -aes-256-cbc -pbkdf2) writes.
          - V(none) stores plain backups. It must be asked for by name.
        type: str
        choices: [aes256-gcm, gpg, age, aes256-cbc, none]
        default: aes256-gcm
      recipients:
        description:
          - Public keys, inline or as paths. Each of their owners alone can read the backups.
          - For V(aes256-gcm), X25519 keys in PEM, as M(fleet.backup.backup_key) and C(openssl) write them.
          - For V(gpg), also ids of keys in the keyring.
          - For V(age), keys that begin with C(age1).
        type: list
        elements: str
        default: []
      passphrase:
        description:
          - A passphrase that encrypts and decrypts, or that unlocks the O(encryption.identities).
          - For V(gpg), reading with it ignores the keyring. Export a key that it unlocks there, and give that
            in O(encryption.identities).
        type: str
      identities:
        description:
          - Private keys, inline or as paths. Needed only to read.
          - A file that others than its owner can read or write is refused.
        type: list
        elements: str
        default: []
"""
