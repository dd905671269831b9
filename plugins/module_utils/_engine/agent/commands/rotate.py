# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rotating: of the jobs that are named, one after the other."""

from __future__ import annotations

import argparse
from functools import partial

from ..config.schedule import Work
from ..console.exits import Exit
from ..console.selection import add_selection, do_each
from ..work.running import thin_out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    add_selection(parser, every=False)
    parser.add_argument(
        "--adopt",
        action="store_true",
        help="treat all readable backups as the host's own, as after its state was lost",
    )
    parser.add_argument(
        "--trust-clock", action="store_true", help="go on although the clock seems to have gone forward"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and change nothing")


def act(parsed: argparse.Namespace) -> Exit:
    """Do it."""
    act_on = partial(thin_out, adopt=parsed.adopt, trust_clock=parsed.trust_clock)
    return do_each(parsed, "rotate", act_on, lambda job: job.seconds_for(Work.ROTATE))
