# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where temporary files are put: in one directory, and where that cannot be, in none.

``tempfile.gettempdir()`` tries one directory after the other, the current one at last: what was decrypted would then
lie on a disk that its owner never chose for it.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import BadInput, PermissionDenied

_VARIABLE, _DEFAULT = "TMPDIR", "/tmp"


def temporary_path() -> Path:
    """The directory for temporary files, whether it exists or not: TMPDIR, and without that /tmp (POSIX, 8.3)."""
    return Path(os.environ.get(_VARIABLE) or _DEFAULT)


def temporary_directory() -> Path:
    """The directory for temporary files. Raises BadInput where it is none, and PermissionDenied."""
    path = temporary_path()
    if not path.is_absolute() or not path.is_dir():
        raise BadInput(
            f"The directory for temporary files, {path}, does not exist, and no other one is taken instead. "
            f"Create it, or set {_VARIABLE} to the absolute path of a directory."
        )
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
        raise PermissionDenied(
            f"The directory for temporary files, {path}, cannot be written by user {os.geteuid()}, and no other one is "
            f"taken instead. Change its mode, or set {_VARIABLE} to another directory."
        )
    return path
