# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""The option that says how a host signs what it writes, and whom it believes."""

from __future__ import annotations


class ModuleDocFragment:
    """Read by ansible-doc."""

    DOCUMENTATION = r"""
options:
  signing:
    description:
      - How this host signs what it writes to a repository, and whose signatures it believes.
      - Anyone who has the public key can encrypt a backup for it. Only a signature says who wrote one.
      - Signatures are those of C(ssh-keygen -Y sign), in a file V(.sig) beside each manifest, set of key slots and
        proof, and C(ssh-keygen -Y verify) checks them.
    type: dict
    version_added: 0.1.0
    suboptions:
      key:
        description:
          - The path of this host's private Ed25519 key, without a passphrase, as C(ssh-keygen -t ed25519) makes it.
          - Needed to write where signatures are required.
        type: path
      allowed_signers:
        description:
          - The path of the file that says which key may sign as which host and for what, as C(ssh-keygen) reads it.
          - The principal is the name of the host in the repository. The namespaces are V(fleet.backup) for manifests,
            V(fleet.backup/slots) for key slots and V(fleet.backup/proof) for proofs.
          - A signature that is wrong, of another host, or of a key that was not valid when it was made, never counts.
        type: path
      required:
        description:
          - Whether what is not signed does not count either. It is listed as a problem, and never restored, kept by a
            policy, or taken for the latest backup.
          - True by default where O(signing.allowed_signers) is given.
        type: bool
"""
