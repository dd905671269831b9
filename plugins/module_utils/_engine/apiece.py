# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Work on several repositories or places, each for itself: what is wrong with one stops no other one.

A repository can be written by others than this host. Were the first error the end of a run, one file in one repository
would stop the work in all of them.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Callable, Iterator, List, Optional, Sequence, Tuple

from .errors import EngineError, PartlyDone
from .model import Place
from .repositories.base import Repository
from .text import shortened


class Apiece:
    """Collects why parts of the work could not be done, while the other parts go on."""

    def __init__(self) -> None:
        self.failures: List[EngineError] = []
        #: The same as sentences, each of which names the part that failed.
        self.sentences: List[str] = []

    @contextmanager
    def trying(self, what: str = "") -> Iterator[None]:
        """Around one part: its EngineError ends this part only. ``what`` names it where the error may not."""
        try:
            yield
        except EngineError as error:
            self.add(error, what)

    def add(self, error: EngineError, what: str = "") -> None:
        """Note that a part could not be done."""
        self.failures.append(error)
        self.sentences.append(f"{what}: {error}" if what and what not in str(error) else str(error))

    def places(
        self,
        repositories: Sequence[Repository],
        wanted: Callable[[Place], bool],
        known: Optional[Place] = None,
        writing: bool = True,
    ) -> List[Tuple[Repository, Place]]:
        """The places of each repository that can be used: those that are wanted, or the one that is known already."""
        found: List[Tuple[Repository, Place]] = []
        for repository in repositories:
            with self.trying():
                repository.check(writing)
                here = [known] if known else [place for place in repository.places() if wanted(place)]
                found += [(repository, place) for place in here]
        return found


def partly_done(what: str, where: Sequence[str], failures: Sequence[EngineError]) -> PartlyDone:
    """The error for what some repositories have, or would have, and others do not."""
    reasons = "; ".join(shortened([str(failure) for failure in failures]))
    return PartlyDone(f"{what} in {', '.join(where)}, but not everywhere: {reasons}")
