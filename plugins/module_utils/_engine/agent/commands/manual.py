# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Printing the manual page, for man(1): fleet-backup manual >/usr/local/share/man/man8/fleet-backup.8."""

from __future__ import annotations

import argparse

from ..console.exits import Exit
from ..console.manual import page
from ..console.printing import put
from ..parser import whole_parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes: nothing."""


def act(parsed: argparse.Namespace) -> Exit:
    """Print it."""
    put(page(whole_parser()))
    return Exit.FINE
