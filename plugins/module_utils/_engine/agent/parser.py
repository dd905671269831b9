# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The arguments of the command ``fleet-backup``."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import Dict, Sequence

from .. import __version__

#: The commands in the order of the help: each is a file of ``commands`` with that name.
_COMMANDS: Dict[str, str] = {
    "run": "back up the databases of jobs",
    "list": "list the backups of jobs",
    "show": "say everything about one backup",
    "verify": "prove that the backups of jobs can be restored",
    "restore": "restore a backup, asking first where there is a terminal",
    "rotate": "remove the backups that the jobs' policies do not keep",
    "status": "say how healthy the jobs are, and what is running",
    "notify": "send a test message through the channels of notifications",
    "config": "check the settings and the jobs of this host",
    "unlock": "say who holds locks, and clear what killed processes left over",
    "compile": "compile the agent for this host's Python, so that it starts faster",
    "version": "print the version",
    "completion": "print what lets a shell complete this command's words",
    "manual": "print the manual page",
}


def whole_parser() -> argparse.ArgumentParser:
    """The parser with all its commands and their options."""
    return parser_for(tuple(_COMMANDS))


def parser_for(given: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for these arguments. Of the commands, only one that is named is imported: the start shall be quick."""
    parser = argparse.ArgumentParser(
        prog="fleet-backup",
        description="Backs up the databases of this host, and proves that they can be restored.",
        epilog="Exit status: 0 fine, 1 failed, 2 usage or settings, 3 unverifiable, 4 incomplete, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"fleet-backup {__version__}")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--config", type=Path, metavar="FILE", help="the agent's settings")
    shared.add_argument("--json", action="store_true", help="print JSON for programs")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, purpose in _COMMANDS.items():
        description = f"{purpose[0].upper()}{purpose[1:]}."
        command = commands.add_parser(name, help=purpose, description=description, parents=[shared])
        if name in given:
            import_module(f".commands.{name}", __package__).add_arguments(command)
    return parser
