# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compiling the agent for this host's Python, so that it starts faster."""

from __future__ import annotations

import argparse
import sys

from ...errors import BadInput
from ..archive import install_code
from ..console.exits import Exit
from ..console.printing import put_json, put_line
from ..start import code_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes: nothing."""


def act(parsed: argparse.Namespace) -> Exit:
    """Compile it, where that is to be done, and say where the code is."""
    program = getattr(sys.modules["__main__"], "__file__", "").rpartition("/__main__.py")[0]
    if not program:
        raise BadInput("This is not the installed agent. Run fleet-backup compile from the agent's own file.")
    changed = install_code(program)
    if parsed.json:
        put_json({"changed": changed, "path": code_of(program)})
    else:
        put_line(f"{code_of(program)} is {'compiled' if changed else 'up to date'}")
    return Exit.FINE
