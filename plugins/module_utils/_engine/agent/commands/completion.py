# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Completion for shells: a short function for each, which asks this command what can stand where the cursor is."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime, timezone
from typing import List, Optional, Sequence

from ...catalogue import place_of, scan
from ...errors import EngineError
from ..config.jobs import Job
from ..console.completing import BASH, ZSH, Knowledge, candidates
from ..console.exits import Exit
from ..console.printing import complain, put
from ..console.selection import select
from ..parser import whole_parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("shell", choices=["bash", "zsh", "words"], help="the shell; words is for its own use")
    parser.add_argument("index", nargs="?", type=int, default=0, metavar="INDEX", help="for words, where the cursor is")


def act(parsed: argparse.Namespace) -> Exit:
    """Print the function, or for words what can stand at an index of the words on standard input, a line each."""
    if parsed.shell != "words":
        put(BASH if parsed.shell == "bash" else ZSH)
        return Exit.FINE
    words = sys.stdin.read().split("\n")[:-1]
    found = candidates(whole_parser(), words, parsed.index, Knowledge(_names, _ids, _labels))
    put("".join(f"{word}\n" for word in found))
    return Exit.FINE


def _names(config: Optional[str]) -> Sequence[str]:
    selection = select(argparse.Namespace(config=config, jobs=[]))
    return sorted([job.name for job in selection.jobs] + [job.name for job in selection.broken])


def _ids(config: Optional[str], name: str) -> Sequence[str]:
    found: List[str] = []
    for job in _jobs(config, name):
        for target in job.targets:
            try:
                place, now = place_of(job.backup.source_host, job.database), datetime.now(timezone.utc)
                catalogue = scan(target.repository, place, now)
            except EngineError as error:
                # A shell that completes shows no errors; the command itself will.
                complain(str(error))
                continue
            found += [backup.id for backup in reversed(catalogue.backups)]
    return list(dict.fromkeys(found))


def _labels(config: Optional[str], name: str) -> Sequence[str]:
    return [target.repository.label for job in _jobs(config, name) for target in job.targets]


def _jobs(config: Optional[str], name: str) -> Sequence[Job]:
    return select(argparse.Namespace(config=config, jobs=[name])).jobs
