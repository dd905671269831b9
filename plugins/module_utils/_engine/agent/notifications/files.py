# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Small JSON files of the state directory, each there whole or not at all."""

from __future__ import annotations

import json
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Optional

from ...errors import PermissionDenied
from ...host.small import read_small


def read_json(path: Path) -> Optional[Any]:
    """What a file holds; None where it is missing or nothing that can be read: it is then written anew."""
    try:
        return json.loads(read_small(path))
    except (OSError, ValueError, RecursionError):
        return None


def write_json(path: Path, document: Any) -> None:
    """Write a file for nobody else's eyes. Raises PermissionDenied."""
    hidden = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        make_directory(path.parent)
        try:
            descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(json.dumps(document).encode("ascii"))
                file.flush()
                os.fsync(file.fileno())
            os.replace(str(hidden), str(path))
        except BaseException:
            with suppress(OSError):
                hidden.unlink()
            raise
    except OSError as error:
        raise PermissionDenied(f"{path} cannot be written: {error.strerror}. See the disk and its mode.") from None


def make_directory(path: Path) -> None:
    """Make a directory and its parents, each for nobody else (the modes of parents are not those of the last one)."""
    for directory in (*reversed(path.parents), path):
        if not directory.is_dir():
            directory.mkdir(mode=0o700, exist_ok=True)
