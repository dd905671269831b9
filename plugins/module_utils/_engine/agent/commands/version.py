# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The version; ``cli`` answers before it comes to this, so that nothing else is imported."""

from __future__ import annotations

import argparse

from ... import __version__
from ..console.exits import Exit
from ..console.printing import put_json, put_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes: nothing."""


def act(parsed: argparse.Namespace) -> Exit:
    """Print it."""
    if parsed.json:
        put_json({"version": __version__})
    else:
        put_line(f"fleet-backup {__version__}")
    return Exit.FINE
