# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Binding a manifest to its artefacts: an HMAC of all that it says, under a key that only their readers have.

The manifest has the SHA-256 of the stored bytes, so this is encrypt-then-MAC for them too. The key comes

```
aes256-gcm   from the artefact's data key by HKDF-SHA256 (RFC 5869), without salt, info "fleet.backup/v1 binding"
aes256-cbc   from the passphrase by PBKDF2-HMAC-SHA256 (RFC 8018), 600,000 iterations, with a salt of its own
```

and the message is ``fleet.backup/v1 binding``, the artefact's name and ``Manifest.facts``, a line each.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Optional

from .errors import BadManifest, WrongKey
from .manifest import bound_facts
from .model import Artefact, Binding, Manifest
from .primitives import hkdf_expand, hkdf_extract

_LABEL = "fleet.backup/v1 binding"
_SALT = 16
#: As many as ``openssl enc`` does for the very same passphrase (stream/openssl.py).
_ITERATIONS = 600_000


def bind_by_key(manifest: Manifest, artefact: str, data_key: bytes) -> Binding:
    """The binding of an artefact that has a data key."""
    return Binding(artefact, _mac(_from_data_key(data_key), artefact, bound_facts(manifest)))


def bind_by_passphrase(manifest: Manifest, artefact: str, passphrase: str) -> Binding:
    """The binding of an artefact that only a passphrase opens."""
    salt = os.urandom(_SALT)
    return Binding(artefact, _mac(_from_passphrase(passphrase, salt), artefact, bound_facts(manifest)), salt.hex())


def check_by_key(manifest: Manifest, artefact: Artefact, data_key: bytes) -> None:
    """Raise BadManifest unless whoever made an artefact's data key wrote all of this manifest."""
    binding = _binding_of(manifest, artefact)
    if not _is_bound(manifest, binding, _from_data_key(data_key)):
        raise BadManifest(
            f"The manifest of {manifest.id} was altered, or is not that of {artefact.name}: it is not bound to that "
            "artefact's key. Use the manifest of another copy, or another backup."
        )


def check_by_passphrase(manifest: Manifest, artefact: Artefact, passphrase: str) -> None:
    """Raise WrongKey unless whoever knew this passphrase wrote all of this manifest; another passphrase looks the same.

    Raises BadManifest where there is no binding.
    """
    binding = _binding_of(manifest, artefact)
    if not binding.salt or not _is_bound(manifest, binding, _from_passphrase(passphrase, bytes.fromhex(binding.salt))):
        raise WrongKey(
            f"{artefact.name} does not open with this passphrase, or its manifest was altered. "
            "Check encryption.passphrase; if it is right, use another copy, or another backup."
        )


def _binding_of(manifest: Manifest, artefact: Artefact) -> Binding:
    found: Optional[Binding] = next((one for one in manifest.binding if one.artefact == artefact.name), None)
    if found is None:
        raise BadManifest(
            f"The manifest of {manifest.id} is not bound to {artefact.name}: it was altered. "
            "Use the manifest of another copy, or another backup."
        )
    return found


def _is_bound(manifest: Manifest, binding: Binding, key: bytes) -> bool:
    if not manifest.facts:
        raise RuntimeError("a manifest that was read only in part is checked")
    return hmac.compare_digest(binding.hmac, _mac(key, binding.artefact, manifest.facts))


def _mac(key: bytes, artefact: str, facts: str) -> str:
    message = "".join(f"{line}\n" for line in (_LABEL, artefact, facts))
    return hmac.new(key, message.encode("utf-8"), hashlib.sha256).hexdigest()


def _from_data_key(data_key: bytes) -> bytes:
    return hkdf_expand(hkdf_extract(b"", data_key), _LABEL.encode("ascii"), 32)


def _from_passphrase(passphrase: str, salt: bytes) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", passphrase.encode("utf-8", "surrogateescape"), salt, _ITERATIONS, 32)
