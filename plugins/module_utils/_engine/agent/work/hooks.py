# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Commands of a job's own around its work, each a list of arguments and never a shell's."""

from __future__ import annotations

from typing import List, Mapping, Sequence, Tuple

from ...command import Command
from ...errors import EngineError
from ...process import run


def run_hooks(kind: str, commands: Sequence[Tuple[str, ...]], job: str, environment: Mapping[str, str]) -> None:
    """Run hooks one after the other. Raises ToolFailed for the first that fails, and MissingTool."""
    for words in commands:
        run(Command(f"the hook {kind} of {job} ({words[0]})", words, {"FLEET_BACKUP_JOB": job, **environment}))


def late_hooks(kind: str, commands: Sequence[Tuple[str, ...]], job: str, environment: Mapping[str, str]) -> List[str]:
    """Run hooks of which none may keep the next one from running; why some of them failed."""
    failures: List[str] = []
    for words in commands:
        try:
            run_hooks(kind, [words], job, environment)
        except EngineError as error:
            failures.append(str(error))
    return failures
