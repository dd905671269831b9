# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Backing up: of the jobs that are named, one after the other."""

from __future__ import annotations

import argparse
from functools import partial

from ..config.schedule import Work
from ..console.exits import Exit
from ..console.selection import add_selection, do_each
from ..work.running import back_up


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    add_selection(parser, every=False)
    parser.add_argument("--due", action="store_true", help="the jobs that missed their last time on schedule")
    parser.add_argument(
        "--accept-source",
        action="store_true",
        help="go on although the earlier backups are of another server or file, which this one replaced",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and change nothing")


def act(parsed: argparse.Namespace) -> Exit:
    """Do it."""
    act_on = partial(back_up, accept_source=parsed.accept_source)
    return do_each(parsed, "backup", act_on, lambda job: job.seconds_for(Work.BACKUP))
