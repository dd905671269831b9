# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The safety backup: of what a restore is about to replace, or has just replaced."""

from __future__ import annotations

from dataclasses import replace
from typing import Optional

from . import keys
from .backup import BackupRequest, plan_backup, take_backup
from .cipher import Sealer
from .errors import BadInput, EngineError, Refused
from .model import SAFETY_TIER, Database, Encryption, EncryptionSettings
from .pem import public_of
from .repositories.base import Repository
from .state import Host


class Safety:
    """The backup of what is replaced. ``backup`` is its id, once it is taken.

    ``before`` is the id of the backup that is restored.
    """

    def __init__(
        self,
        database: Database,
        repository: Repository,
        encryption: EncryptionSettings,
        host: Host,
        before: str,
        lock_timeout: float,
    ) -> None:
        self.backup: Optional[str] = None
        self._host, self._name = host, database.name
        self._request = BackupRequest(
            database=database,
            repositories=(repository,),
            encryption=_able_to_encrypt(encryption),
            source_host=host.name,
            tier=SAFETY_TIER,
            labels={"before_restore_of": before},
            # What is replaced may well be a ruin: that is no reason not to keep it.
            min_size_ratio=0.0,
            accept_source=True,
            lock_timeout=lock_timeout,
        )

    def check(self) -> None:
        """Raise Refused where it cannot be taken, as far as that shows while nothing is replaced."""
        try:
            plan_backup(self._request, self._host)
        except EngineError as error:
            raise self._refusal(error) from error

    def take(self, renamed: Optional[str]) -> None:
        """Take it, of the database under the name that it has by now. Raises Refused."""
        try:
            self.backup = take_backup(replace(self._request, renamed=renamed), self._host).manifest.id
        except EngineError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: EngineError) -> Refused:
        return Refused(
            f"{self._name} was not replaced, because the safety backup of it failed: {error} "
            "To replace it without one, set safety_backup to false; keep_replaced keeps it beside the restored one."
        )


def check_sealing(encryption: EncryptionSettings) -> None:
    """Raise BadInput where a safety backup cannot be encrypted like this."""
    try:
        Sealer(_able_to_encrypt(encryption))
    except BadInput as error:
        raise BadInput(
            f"The safety backup of what would be replaced cannot be taken: {error} "
            "To replace it without one, set safety_backup to false."
        ) from None


def _able_to_encrypt(settings: EncryptionSettings) -> EncryptionSettings:
    """The same settings, able to encrypt: whoever can read the backups can also name their recipient.

    Raises BadInput where that has to be done by hand.
    """
    if not settings.identities:
        return settings
    if settings.method is Encryption.AES256_GCM and not settings.recipients:
        public = tuple(public_of(identity) for identity in keys.load_identities(settings.identities))
        return replace(settings, recipients=public)
    if settings.method in (Encryption.GPG, Encryption.AGE):
        if not settings.recipients:
            raise BadInput(
                f"encryption.identities only decrypt, and {settings.method.value} encrypts for recipients. "
                "Name them in encryption.recipients."
            )
        # The passphrase is that of an identity. A backup under it would be open to whoever knows it without the key.
        return replace(settings, passphrase=None)
    return settings
