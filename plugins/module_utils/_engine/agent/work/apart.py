# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Work of jobs in processes of their own: a report whatever becomes of them, and a look that cannot hang."""

from __future__ import annotations

import time
from functools import partial
from typing import Any, Callable, Dict, List, Mapping, Optional

from ...errors import EngineError, RepositoryUnusable, Stopped, Unanswered
from ...host.apart import apart
from ...interrupts import interruptible
from ...repositories.base import Repository
from ...state import Host, audit
from .running import Report

#: How long a repository may take to say what is in it, in seconds.
LOOK = 30.0
_DEEDS = {"backup": "The backup", "verify": "The verification", "rotate": "The rotation", "restore": "The restore"}

#: The repositories that did not answer this process, and what was said of them then.
_silent: Dict[str, str] = {}


def report_apart(job: str, verb: str, host: Host, work: Callable[[], Report], seconds: Optional[float]) -> Report:
    """Do a job's work apart; its report, or one of what ended it before it could write its own."""
    began = time.monotonic()
    label = f"{_DEEDS[verb]} of {job}"
    try:
        return Report.unpacked(apart(partial(_packed, work), label, seconds))
    except (EngineError, Stopped) as error:
        warnings: List[str] = []
        try:
            audit(host, verb, f"job/{job}", "failed", {"reason": str(error)})
        except EngineError as unwritten:
            warnings.append(str(unwritten))
        seconds_spent = time.monotonic() - began
        return Report(job, verb, False, str(error), seconds_spent, error.code, tuple(warnings))


def _packed(work: Callable[[], Report]) -> Mapping[str, Any]:
    return work().packed


def _interruptibly(work: Callable[[], Any]) -> Any:
    with interruptible():
        return work()


def look(repository: Repository, work: Callable[[], Any], patient: bool = False) -> Any:
    """What ``work`` reads in a repository, as plain values. ``patient`` is as for ``apart``.

    Raises what ended the work, and RepositoryUnusable where the repository does not answer, from then on at once.
    """
    label = repository.label
    if label in _silent:
        raise RepositoryUnusable(_silent[label])
    try:
        return apart(partial(_interruptibly, work), f"Reading {label}", LOOK, patient)
    except Unanswered:
        _silent[label] = f"{label} has not answered for {LOOK:g} s. Check the disk or the server that it is on."
        raise RepositoryUnusable(_silent[label]) from None
