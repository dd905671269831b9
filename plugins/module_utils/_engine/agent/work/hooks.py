# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Commands of a job's own around its work, each a list of arguments and never a shell's."""

from __future__ import annotations

from typing import List, Mapping, Sequence, Tuple

from ...command import Command
from ...errors import EngineError, Stopped
from ...interrupts import last_part
from ...process import run

#: How long each part that follows a run may take once the run was told to stop, in seconds.
LAST = 10.0


def run_hooks(kind: str, commands: Sequence[Tuple[str, ...]], job: str, environment: Mapping[str, str]) -> None:
    """Run hooks one after the other. Raises ToolFailed for the first that fails, and MissingTool."""
    for words in commands:
        run(Command(_name(kind, job, words), words, {"FLEET_BACKUP_JOB": job, **environment}))


def late_hooks(kind: str, commands: Sequence[Tuple[str, ...]], job: str, environment: Mapping[str, str]) -> List[str]:
    """Run hooks of which none may keep the next one from running; why some of them failed.

    Once the run was told to stop, each has a few seconds.
    """
    failures: List[str] = []
    for words in commands:
        try:
            with last_part(LAST):
                run_hooks(kind, [words], job, environment)
        except EngineError as error:
            failures.append(str(error))
        except Stopped as stop:
            failures.append(f"{_name(kind, job, words)} was ended: {stop}")
    return failures


def _name(kind: str, job: str, words: Tuple[str, ...]) -> str:
    return f"the hook {kind} of {job} ({words[0]})"
