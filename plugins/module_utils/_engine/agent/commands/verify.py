# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Verifying: of the jobs that are named, one after the other."""

from __future__ import annotations

import argparse
from dataclasses import replace

from ..exits import Exit
from ..given import add_keys, given_keys
from ..running import prove
from ..selection import add_selection, do_each


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    add_selection(parser, every=False)
    add_keys(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and change nothing")


def act(parsed: argparse.Namespace) -> Exit:
    """Do it."""
    given = given_keys(parsed)
    return do_each(parsed, "verify", lambda job, host, dry_run: prove(replace(job, given=given), host, dry_run))
