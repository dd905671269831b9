# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Secrets of a job: named by where they are, and read when they are used.

A job's file may be read by whoever may list backups; what opens a database or a backup is elsewhere.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ...errors import BadInput, EngineError, NotFound, PermissionDenied
from .fields import Fields

#: No password and no key is longer; what is has been mistaken for one.
_LIMIT = 64 << 10


class SecretKind(str, Enum):
    """Where a secret is."""

    #: A file that nobody but its owner and root can read.
    FILE = "file"
    #: A variable of this process's environment.
    ENVIRONMENT = "environment"
    #: A credential that systemd hands to the service (systemd.exec(5), LoadCredential=).
    CREDENTIAL = "credential"


@dataclass(frozen=True)
class SecretSource:
    """Where a secret is. ``purpose`` is what messages call it: ``shop: login_password``."""

    kind: SecretKind
    name: str
    purpose: str

    def read(self) -> str:
        """The secret. Raises NotFound, PermissionDenied and BadInput; the one final end of line is no part of it."""
        if self.kind is SecretKind.ENVIRONMENT:
            return self._from_environment()
        if self.kind is SecretKind.FILE:
            return self._from_file(Path(self.name))
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if not directory:
            raise NotFound(
                f"{self.purpose}: systemd hands this process no credentials. Start the job's service instead, such as "
                "systemctl start fleet-backup-backup-JOB.service, or keep the secret in a file."
            )
        return self._from_file(Path(directory) / self.name)

    def _from_environment(self) -> str:
        value = os.environ.get(self.name)
        if not value:
            raise NotFound(f"{self.purpose}: the environment has no variable {self.name}. Set it for this process.")
        return value

    def _from_file(self, path: Path) -> str:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                status = os.fstat(descriptor)
                self._require_private(path, status)
                content = os.read(descriptor, _LIMIT + 1)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._explained(path, error) from None
        if len(content) > _LIMIT:
            raise BadInput(f"{self.purpose}: {path} is larger than {_LIMIT} bytes, which no secret is. Check the path.")
        text = content.decode("utf-8", "surrogateescape")
        value = text[:-1] if text.endswith("\n") else text
        if not value:
            raise BadInput(f"{self.purpose}: the file {path} is empty. Write the secret into it.")
        return value

    def _require_private(self, path: Path, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise BadInput(f"{self.purpose}: {path} is not a file. Check the path.")
        if status.st_mode & 0o007:
            raise PermissionDenied(
                f"{self.purpose}: {path} can be read or written by everybody (mode {status.st_mode & 0o777:04o}). "
                "It was not used: change the secret, and give the file the mode 0600."
            )

    def _explained(self, path: Path, error: OSError) -> EngineError:
        if isinstance(error, FileNotFoundError):
            return NotFound(f"{self.purpose}: there is no file {path}. Deploy the job again, or mend its path.")
        return PermissionDenied(
            f"{self.purpose}: {path} cannot be read by user {os.geteuid()}: {error.strerror}. Run as its owner or root."
        )


def read_secret(fields: Fields, purpose: str) -> SecretSource:
    """Read where a secret is: one of ``file``, ``environment`` and ``credential``."""
    found = [(kind, name) for kind in SecretKind for name in [fields.text(kind.value)] if name]
    if len(found) != 1:
        raise fields.wrong("it", f"name one of {', '.join(kind.value for kind in SecretKind)}")
    return SecretSource(*found[0], purpose)
