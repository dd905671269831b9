# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an exit status of the command says."""

from __future__ import annotations

from enum import IntEnum
from typing import Optional, Sequence

from ...errors import BadInput, Incomplete, Interrupted, Unverifiable


class Exit(IntEnum):
    """What a run ends with. The worst thing that happened decides."""

    FINE = 0
    #: Something that should have been done was not.
    FAILED = 1
    #: The command line, the settings or a job cannot be used.
    USAGE = 2
    #: All that could be checked is right, and something could not be checked.
    UNVERIFIABLE = 3
    #: A database is restored, and some of its objects are not; they are named.
    INCOMPLETE = 4
    #: A signal ended it; what had begun was cleaned up.
    INTERRUPTED = 130


_SEVERITY = (Exit.INTERRUPTED, Exit.FAILED, Exit.USAGE, Exit.INCOMPLETE, Exit.UNVERIFIABLE, Exit.FINE)


def exit_of(codes: Sequence[Optional[str]]) -> Exit:
    """The exit status for the error codes of several pieces of work, None for each that went well."""
    found = {exit_of_code(code) for code in codes}
    return next(exit for exit in _SEVERITY if exit in found or exit is Exit.FINE)


def exit_of_code(code: Optional[str]) -> Exit:
    known = {
        None: Exit.FINE,
        Interrupted.code: Exit.INTERRUPTED,
        Unverifiable.code: Exit.UNVERIFIABLE,
        Incomplete.code: Exit.INCOMPLETE,
    }
    return Exit.USAGE if code == BadInput.code else known.get(code, Exit.FAILED)
