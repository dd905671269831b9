# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What must not lie inside a repository: another repository, or a database.

Two names of one directory would count as two copies of each backup, where there is one.
"""

from __future__ import annotations

import os
from itertools import combinations, permutations
from pathlib import Path
from typing import Optional, Sequence

from .errors import BadInput
from .model import Database, EngineName
from .repositories.base import Repository
from .repositories.local import LocalRepository


def nested(paths: Sequence[str]) -> Optional[str]:
    """What is wrong with these paths of directories by their text alone, where two are one or nested. Pure."""
    plain = {path: os.path.normpath(path) for path in paths}
    for one, other in combinations(paths, 2):
        if plain[one] == plain[other]:
            return f"{one} and {other} are one directory" if one != other else f"{one} is named twice"
    for one, other in permutations(paths, 2):
        if plain[other].startswith(plain[one].rstrip("/") + "/"):
            return f"{other} lies inside {one}"
    return None


def require_apart(repositories: Sequence[Repository]) -> None:
    """Raise BadInput where two of these repositories are one, or one lies inside another."""
    labels = [repository.label for repository in repositories]
    problem = nested(labels)
    if problem is None:
        local = [Path(one.label) for one in repositories if isinstance(one, LocalRepository)]
        found = ((one, other) for one, other in permutations(local, 2) if _holds(one, other))
        problem = next((f"{other} is {one}, or lies inside it" for one, other in found), None)
    if problem:
        raise BadInput(f"repositories: {problem}. Name each repository once, and keep them apart.")


def surrounding(target: Database, repositories: Sequence[Repository]) -> Optional[Repository]:
    """The repository that a database's file lies in, or None."""
    if target.engine is not EngineName.SQLITE:
        return None
    # As UTF-8 whatever the locale is, like everywhere else.
    path = Path(os.fsdecode(os.path.realpath(target.name.encode("utf-8", "surrogateescape"))))
    local = (one for one in repositories if isinstance(one, LocalRepository))
    return next((one for one in local if _holds(Path(one.label), path.parent)), None)


def _holds(directory: Path, path: Path) -> bool:
    """Whether a path is that directory or below it, under whatever names the two are mounted or linked."""
    real = Path(os.path.realpath(path))
    existing = (one for one in (real, *real.parents) if one.exists())
    return directory.exists() and any(os.path.samefile(one, directory) for one in existing)
