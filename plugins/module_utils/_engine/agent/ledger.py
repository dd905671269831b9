# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ledger of a playbook: what became of every job of every host, from what the agents answered. Pure functions.

Whatever a host answered, or did not, each of its jobs has an entry. Only what is known to be well is told as well.
"""

from __future__ import annotations

import errno
import json
from collections import Counter
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from enum import Enum
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

from ..errors import Interrupted, Unverifiable
from ..text import shown, shown_in_line
from ..timespan import format_span
from .console.printing import table

_HEADS = ("HOST", "JOB", "OUTCOME", "TIME", "MESSAGE")
#: As many hosts as a sentence names; the others are in the table above it.
_NAMED = 10
#: What Ansible 2.19 and newer put before the reason of a failed task.
_PREFIXES = ("Task failed: ", "Module failed: ", "fleet-backup: ")
_QUOTED = 100
#: Seconds, about thirty years. No job takes longer, and no calendar fails on it.
_LONGEST = 1e9


class JobOutcome(str, Enum):
    """What became of a job, the best first: tables are in this order, so that what is wrong stands at their end."""

    NOTHING = "nothing to do"
    DONE = "done"
    #: The host runs it, and the inventory does not have it.
    UNDECLARED = "undeclared"
    SKIPPED = "skipped"
    MISSING = "missing"
    UNVERIFIABLE = "unverifiable"
    FAILED = "failed"
    UNREACHABLE = "unreachable"

    @property
    def good(self) -> bool:
        return self in (JobOutcome.NOTHING, JobOutcome.DONE, JobOutcome.UNDECLARED)


_ORDER = {outcome: rank for rank, outcome in enumerate(JobOutcome)}
#: In the order in which people tell it.
_TOLD = (
    JobOutcome.DONE,
    JobOutcome.NOTHING,
    JobOutcome.UNDECLARED,
    JobOutcome.FAILED,
    JobOutcome.UNVERIFIABLE,
    JobOutcome.UNREACHABLE,
    JobOutcome.MISSING,
    JobOutcome.SKIPPED,
)


@dataclass(frozen=True)
class Entry:
    """A line of the ledger. ``job`` is empty where it is about the host itself, and ``host`` where no host has the job.

    ``bytes`` is the size of the backup.
    """

    host: str
    job: str
    outcome: JobOutcome
    message: str
    changed: bool = False
    seconds: Optional[float] = None
    backup: Optional[str] = None
    bytes: Optional[int] = None

    @property
    def document(self) -> Dict[str, Any]:
        """The entry as plain values."""
        return {**asdict(self), "outcome": self.outcome.value}


def entries_of(host: str, jobs: Sequence[str], result: Mapping[str, Any]) -> List[Entry]:
    """The entries of a host with these jobs in the inventory, from what Ansible registered of its command.

    ``result`` is empty where nothing was registered. Never raises: what cannot be read is an entry too. Nothing that a
    host says can steer the terminal of the controller.
    """
    return [_shown(entry) for entry in _entries_of(host, jobs, result)]


def _shown(entry: Entry) -> Entry:
    return replace(
        entry, job=shown(entry.job), message=shown_in_line(entry.message), backup=entry.backup and shown(entry.backup)
    )


def _entries_of(host: str, jobs: Sequence[str], result: Mapping[str, Any]) -> List[Entry]:
    if result.get("unreachable"):
        return _all(host, jobs, JobOutcome.UNREACHABLE, _reason(result))
    # An error in a condition is a failure, and skipped at the same time.
    if not result or (result.get("skipped") and not result.get("failed")):
        if not jobs:
            return [Entry(host, "", JobOutcome.NOTHING, "No job of this host was asked for.")]
        return _all(host, jobs, JobOutcome.SKIPPED, "Nothing was done on this host: the play did not come to it.")
    answer = _answer(result)
    if isinstance(answer, str):
        return _all(host, jobs, JobOutcome.MISSING if _has_no_agent(result) else JobOutcome.FAILED, answer)
    found = [_of_report(host, report) for report in answer]
    told = {entry.job for entry in found}
    found = [entry if entry.job in ("", *jobs) else _undeclared(entry) for entry in found]
    found += _untold(host, [job for job in jobs if job not in told], answer)
    if result.get("rc") and all(entry.outcome.good for entry in found):
        status = f"The agent ended with status {result['rc']}, and said of no job what failed. Run it on the host."
        found.append(Entry(host, "", JobOutcome.FAILED, status))
    if not found:
        found.append(Entry(host, "", JobOutcome.NOTHING, "The host has no jobs."))
    return found


def left_entries(host: str, jobs: Sequence[str]) -> List[Entry]:
    """The entries of jobs that a host still has, where the inventory has none for it."""
    text = (
        "The host keeps running this job, and the inventory has no jobs for it. Set fleet_backup_jobs again, "
        "or deploy with fleet_backup_state=absent."
    )
    return [Entry(host, shown(job), JobOutcome.UNDECLARED, text) for job in jobs]


def misspelt_entries(host: str, unknown: Sequence[str]) -> List[Entry]:
    """The entries of a host for variables that are nearly those of this collection."""
    return [Entry(host, "", JobOutcome.FAILED, shown(f"{host}: {sentence}")) for sentence in unknown]


def with_others(entries: Sequence[Entry], others: Sequence[Entry]) -> List[Entry]:
    """All entries of a host, without the one that says that there is nothing to say."""
    return [entry for entry in entries if not others or entry.job or not entry.outcome.good] + list(others)


def read_entry(document: Mapping[str, Any]) -> Entry:
    """The entry of a document that this wrote."""
    return Entry(**{**document, "outcome": JobOutcome(document["outcome"])})


def ordered(entries: Iterable[Entry]) -> List[Entry]:
    """The entries as they are shown: what is wrong last, where a terminal still shows it."""
    return sorted(entries, key=lambda entry: (_ORDER[entry.outcome], entry.host, entry.job))


def lines_of(entries: Sequence[Entry]) -> List[Tuple[str, Optional[JobOutcome]]]:
    """The lines of a table for people, each with the outcome it tells of; None for the heads."""
    rows = [
        (entry.host or "-", entry.job or "-", entry.outcome.value, _time(entry.seconds), entry.message)
        for entry in entries
    ]
    lines = table(_HEADS, rows, right=(3,)).splitlines()
    outcomes: List[Optional[JobOutcome]] = [None, *[entry.outcome for entry in entries]]
    return list(zip(lines, outcomes))


def totals(entries: Sequence[Entry]) -> str:
    """How many hosts and jobs there are, and how many had which outcome: ``6 hosts, 9 jobs: 8 done, 1 failed``."""
    jobs = [entry for entry in entries if entry.job]
    # A host without jobs has nothing to count; one that fails without them has.
    counted = Counter(entry.outcome for entry in entries if entry.job or not entry.outcome.good)
    parts = [f"{counted[outcome]} {outcome.value}" for outcome in _TOLD if counted[outcome]]
    heads = f"{_count(len({entry.host for entry in entries if entry.host}), 'host')}, {_count(len(jobs), 'job')}"
    return f"{heads}: {', '.join(parts)}" if parts else heads


def complaint(entries: Sequence[Entry]) -> str:
    """One sentence on what is not done, with the hosts by name; empty where all is well."""
    bad = [entry for entry in entries if not entry.outcome.good]
    if not bad:
        return ""
    hosts = sorted({entry.host for entry in bad if entry.host})
    shown = hosts if len(hosts) <= _NAMED else [*hosts[:_NAMED], f"{len(hosts) - _NAMED} more"]
    where = f", on {_listed(shown)}" if hosts else ""
    total = len([entry for entry in entries if entry.job or not entry.outcome.good])
    return f"Not done: {len(bad)} of {total}{where}."


def _answer(result: Mapping[str, Any]) -> Union[str, List[Dict[str, Any]]]:
    """The reports in the agent's answer, or why there are none."""
    text = str(result.get("stdout") or "").strip()
    if not text:
        return _reason(result)
    try:
        reports = _reports(json.loads(text))
    except (ValueError, RecursionError):
        reports = None
    if reports is None:
        shown = text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…"
        return f"The agent's answer cannot be read: {shown!r}. Is another version of it on this host? Deploy it again."
    return reports


def _reports(document: Any) -> Optional[List[Dict[str, Any]]]:
    """The reports of a document of ``run``, ``verify``, ``rotate`` or ``restore``, or of ``config check``."""
    if isinstance(document, dict) and isinstance(document.get("jobs"), list):
        text = document.get("message", "deployed")
        well = [{"job": job, "error": None, "message": text, "changed": True} for job in document["jobs"]]
        # What is wrong, but with no one job, is the host's.
        own = [{"job": "", "message": problem} for problem in _list(document.get("problems"))]
        document = [*well, *_list(document.get("broken")), *own]
    if not isinstance(document, list):
        return None
    if not all(isinstance(report, dict) and isinstance(report.get("job"), str) for report in document):
        return None
    # Without an error that is explicitly none, nothing says that the job went well.
    return [{"error": "failed", "message": "", **report} for report in document]


def _of_report(host: str, report: Mapping[str, Any]) -> Entry:
    changed = bool(report.get("changed"))
    if report["error"] is None:
        outcome = JobOutcome.DONE if changed else JobOutcome.NOTHING
    else:
        outcome = JobOutcome.UNVERIFIABLE if report["error"] == Unverifiable.code else JobOutcome.FAILED
    told = [str(text) for text in (report["message"], *_list(report.get("warnings")))]
    backup = report.get("backup")
    if not isinstance(backup, dict):
        backup = {}
    seconds, identity, size = report.get("seconds"), backup.get("id"), backup.get("bytes")
    return Entry(
        host,
        report["job"],
        outcome,
        " ".join(told),
        changed,
        seconds if isinstance(seconds, (int, float)) and 0 <= seconds < _LONGEST else None,
        identity if isinstance(identity, str) else None,
        size if isinstance(size, int) else None,
    )


def _list(value: Any) -> List[Any]:
    return value if isinstance(value, list) else []


def _all(host: str, jobs: Sequence[str], outcome: JobOutcome, message: str) -> List[Entry]:
    """The same for each job, or for the host where it has none."""
    return [Entry(host, job, outcome, message) for job in jobs or [""]]


def _untold(host: str, jobs: Sequence[str], answer: Sequence[Mapping[str, Any]]) -> List[Entry]:
    """The jobs of the inventory that the agent does not tell of."""
    outcome, message = JobOutcome.MISSING, "The host has no such job. Deploy this host, or correct the inventory."
    if any(report["error"] == Interrupted.code for report in answer):
        outcome, message = JobOutcome.SKIPPED, "The agent was interrupted before it came to this job."
    return [Entry(host, job, outcome, message) for job in jobs]


def _undeclared(entry: Entry) -> Entry:
    return replace(entry, message=f"{entry.message} (this job is not in the inventory)".strip())


def _has_no_agent(result: Mapping[str, Any]) -> bool:
    """Whether there was no program to start. The agent says something whenever it ends with this status itself."""
    return result.get("rc") == errno.ENOENT and not result.get("stdout") and not result.get("stderr")


def _reason(result: Mapping[str, Any]) -> str:
    """Why there is no answer: what the agent said as an error, or else what Ansible says."""
    if _has_no_agent(result):
        return "The agent, or the Python that it names, is not on this host. Deploy this host first."
    if "ansible_job_id" in result and "rc" not in result:
        return "The agent did not end within fleet_backup_async, and was killed. Give it more time."
    text = str(result.get("stderr") or result.get("msg") or result.get("module_stderr") or "").strip()
    for prefix in _PREFIXES:
        if text.startswith(prefix):
            text = text[len(prefix) :]
    return " ".join(text.split()) or f"The agent said nothing, and ended with status {result.get('rc', 'unknown')}."


def _time(seconds: Optional[float]) -> str:
    if seconds is None:
        return ""
    return format_span(timedelta(seconds=seconds)) if seconds >= 1 else "<1s"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
