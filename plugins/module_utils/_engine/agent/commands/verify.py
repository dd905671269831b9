# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Verifying: of the jobs that are named, one after the other."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Optional, Tuple

from ...model import Encryption, Level
from ...state import Host
from ..config.given import GivenKeys, accepted_methods, add_accepted, add_keys, given_keys
from ..config.jobs import Job
from ..config.schedule import Work
from ..console.exits import Exit
from ..console.selection import add_selection, do_each
from ..work.running import Report, prove


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    add_selection(parser, every=False)
    parser.add_argument(
        "--level",
        choices=[level.value for level in Level],
        help="how far, instead of what each job says; where a key is given, a job that says checksum means contents",
    )
    add_keys(parser)
    add_accepted(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and change nothing")


def act(parsed: argparse.Namespace) -> Exit:
    """Do it."""
    given, level = given_keys(parsed), Level(parsed.level) if parsed.level else None
    act_on = partial(_prove_with, given, level, accepted_methods(parsed))
    return do_each(parsed, "verify", act_on, lambda job: job.seconds_for(Work.VERIFY))


def _prove_with(
    given: GivenKeys, level: Optional[Level], accepted: Tuple[Encryption, ...], job: Job, host: Host, dry_run: bool
) -> Report:
    return prove(job.accepting(accepted).verified(given, level), host, dry_run)
