# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command ``fleet-backup``: from its arguments to its exit status."""

from __future__ import annotations

import io
import os
import sys
from importlib import import_module
from typing import Optional, Sequence

from .. import __version__
from ..errors import EngineError, Stopped
from .console.exits import Exit, exit_of_code
from .console.printing import complain
from .parser import parser_for


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the command; the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given in (["--version"], ["version"]):
        # Nothing else is imported for it.
        sys.stdout.write(f"fleet-backup {__version__}\n")
        return Exit.FINE
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What the locale's encoding has no letter for is escaped, and ends nothing.
            stream.reconfigure(errors="backslashreplace")
    parsed = parser_for(given).parse_args(given)
    try:
        return int(import_module(f".commands.{parsed.command}", __package__).act(parsed))
    except (EngineError, Stopped) as error:
        complain(str(error))
        return exit_of_code(error.code)
    except KeyboardInterrupt:
        # Where this comes through, nothing was being changed.
        complain("Stopped.")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has seen enough. What Python still holds for it goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
