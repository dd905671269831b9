# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How this host signs what it writes, and whose signatures it believes (docs/formats.md, "Signatures")."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from ..errors import BadInput, PermissionDenied
from ..host.private_file import read_private
from ..host.small import read_small
from ..host.trust import check_decisive
from ..primitives import cryptography_needed
from .signers import SIGNERS_LIMIT, Signers, objection, read_signers
from .sshsig import sign

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

#: What the name of a signature's file ends with, behind the name of what it signs.
SIGNATURE = ".sig"
#: What one key may sign and another may not.
MANIFESTS, SLOTS, PROOFS = "fleet.backup", "fleet.backup/slots", "fleet.backup/proof"


class Signing:
    """The paths of this host's own key and of the file of allowed signers, which are read when they are needed.

    Where ``required``, which it is by default where there are allowed signers, nothing counts that is not signed.
    """

    def __init__(
        self, key: Optional[str] = None, allowed_signers: Optional[str] = None, required: Optional[bool] = None
    ) -> None:
        self.key, self.allowed_signers = key, allowed_signers
        self.required = allowed_signers is not None if required is None else required
        self._private: Optional[Ed25519PrivateKey] = None
        self._signers: Optional[Signers] = None
        if self.required and allowed_signers is None:
            raise BadInput("signing.required is set, and signing.allowed_signers is not. Name that file.")

    @property
    def checks(self) -> bool:
        """Whether signatures are looked at."""
        return self.allowed_signers is not None

    def sign(self, namespace: str, content: bytes) -> Optional[bytes]:
        """The signature of some bytes; None where this host has no key. Raises BadInput and PermissionDenied."""
        return None if self.key is None else sign(self._loaded(self.key), namespace, content)

    def objection(self, signer: bytes, principal: str, namespace: str, at: datetime) -> Optional[str]:
        """Why what was signed with this key does not count (signers.objection); None where it does."""
        return objection(self._allowed(), signer, principal, namespace, at)

    def require_able(self, principal: str, namespace: str, now: datetime) -> None:
        """Raise BadInput where what this host writes would not count, by the signers that it believes itself."""
        if not self.checks:
            return
        if self.key is None:
            if self.required:
                raise BadInput(
                    "signing.key is missing: what is written without it would not be signed, and would not count. Name "
                    "the private key of this host."
                )
            return
        with cryptography_needed():
            from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
        public = self._loaded(self.key).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        why = self.objection(public, principal, namespace, now)
        if why:
            raise BadInput(
                f"What this host signs would not count: a signature that {why}. Correct {self.allowed_signers}, or "
                "give another signing.key."
            )

    def _loaded(self, path: str) -> Ed25519PrivateKey:
        if self._private is None:
            self._private = _private_key(path)
        return self._private

    def _allowed(self) -> Signers:
        if self._signers is None:
            path = self.allowed_signers or ""
            try:
                check_decisive(path, f"signing.allowed_signers: {path}")
                content = read_small(Path(path), SIGNERS_LIMIT)
            except OSError as error:
                raise BadInput(
                    f"signing.allowed_signers: {path} cannot be read: {error.strerror}. Give the path of that file."
                ) from None
            self._signers = read_signers(content, path)
        return self._signers


#: Neither signs nor looks at signatures.
UNSIGNED = Signing()


def _private_key(path: str) -> Ed25519PrivateKey:
    called = f"signing.key: {path}"
    try:
        content = read_private(path, called)
    except OSError as error:
        raise PermissionDenied(f"{called} cannot be read: {error.strerror}. Check its path and mode.") from None
    with cryptography_needed():
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key
    load = load_ssh_private_key if b"OPENSSH" in content else load_pem_private_key
    try:
        private = load(content, None)
    except (ValueError, TypeError):
        # What the library says may quote the key; TypeError is for one under a passphrase.
        raise BadInput(f"{called} is no private key, or has a passphrase. Give an Ed25519 key without one.") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise BadInput(f"{called} is not an Ed25519 key. Make one with ssh-keygen -t ed25519.")
    return private
