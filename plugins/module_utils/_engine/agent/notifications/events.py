# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What there is to tell about a job, and how it reads. Pure but for what it is told."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Dict, FrozenSet, List, Optional, Tuple

from ...errors import BadInput
from ...text import bounded, shown, shown_lines, shown_values
from ...timespan import format_span, format_time, parse_time

_SUBJECT_LIMIT = 160

#: What the verbs do, as people say it.
_WORK = {"backup": "backup", "verify": "verification", "rotate": "rotation", "restore": "restore"}
HEALTH = "health"
#: The error of a job whose backups are not as they should be.
UNHEALTHY = "unhealthy"


class Kind(str, Enum):
    """What happened."""

    #: The work began; only heartbeats are told.
    START = "start"
    FAILURE = "failure"
    #: What failed before went well.
    RECOVERY = "recovery"
    SUCCESS = "success"
    #: Nothing happened: somebody tries whether messages arrive.
    TEST = "test"


@dataclass(frozen=True)
class LastGood:
    """The newest good backup of a job when something happened. Without an ``id`` there is none, or ``unknown`` says
    why nobody could tell.
    """

    id: str = ""
    time: Optional[datetime] = None
    unknown: str = ""


@dataclass(frozen=True)
class Event:
    """One thing to tell. ``message`` says it as the report does; ``since`` is when it began to fail.

    ``causes`` are the codes of what is wrong, where ``error`` alone does not tell one failure from another.
    Holds no secret.
    """

    kind: Kind
    host: str
    job: str
    verb: str
    time: datetime
    message: str = ""
    error: Optional[str] = None
    since: Optional[datetime] = None
    last_good: Optional[LastGood] = None
    causes: Tuple[str, ...] = ()

    @property
    def reasons(self) -> FrozenSet[str]:
        """What tells this failure from another one; empty where nothing failed."""
        return frozenset(self.causes or [self.error] if self.error else [])

    @property
    def headline(self) -> str:
        """One line that says where and what, in words of this host and its jobs alone."""
        return shown(f"{self.host}: {self._headline()}")

    @property
    def subject(self) -> str:
        """One line that says where, what, and why."""
        line = f"{self.host}: {self._headline()}"
        if self.kind is Kind.FAILURE:
            line += f": {self.message}"
        clean = shown(" ".join(line.split()))
        return clean if len(clean) <= _SUBJECT_LIMIT else clean[: _SUBJECT_LIMIT - 1] + "…"

    @property
    def text(self) -> str:
        """All of it, for people, in a few lines."""
        lines = [f"{self._sentence()}", ""]
        if self.message:
            lines += [bounded(self.message), ""]
        lines += self._facts()
        return shown_lines("\n".join(lines).rstrip() + "\n")

    @property
    def document(self) -> Dict[str, Any]:
        """The event as plain values, for programs."""
        good = self.last_good
        document = {
            "schema": 1,
            "event": self.kind.value,
            "host": self.host,
            "job": self.job,
            "verb": self.verb,
            "time": format_time(self.time),
            "error": self.error,
            "subject": self.subject,
            "message": bounded(self.message),
            "failing_since": format_time(self.since) if self.since else None,
            "last_good_backup": good.id or None if good else None,
            "last_good_backup_time": format_time(good.time) if good and good.time else None,
            "last_good_backup_unknown": good.unknown or None if good else None,
        }
        # Who receives it may show it.
        return {name: shown_values(value) for name, value in document.items()}

    def _headline(self) -> str:
        if self.kind is Kind.TEST:
            return "this is a test message of fleet-backup"
        if self.verb == HEALTH:
            return f"{self.job} {_HEALTH_WORDS[self.kind]}"
        return f"the {_WORK.get(self.verb, self.verb)} of {self.job} {_WORDS[self.kind]}"

    def _sentence(self) -> str:
        if self.kind is Kind.TEST:
            return f"This is a test message of fleet-backup on {self.host}. Nothing happened."
        if self.verb == HEALTH:
            return f"{self.job} on {self.host} {_HEALTH_WORDS[self.kind]}."
        code = f" ({self.error})" if self.error else ""
        return f"The {_WORK.get(self.verb, self.verb)} of {self.job} on {self.host} {_WORDS[self.kind]}{code}."

    def _facts(self) -> List[str]:
        facts = []
        if self.kind is not Kind.TEST:
            facts.append(f"Time: {format_time(self.time)}")
        if self.since is not None:
            what = "Failing since" if self.kind is Kind.FAILURE else "It had failed since"
            facts.append(f"{what}: {format_time(self.since)} ({format_span(self.time - self.since)})")
        good = self.last_good
        if good is not None and good.time is not None:
            facts.append(f"Last good backup: {good.id}, {format_span(self.time - good.time)} old")
        elif good is not None:
            facts.append(f"Last good backup: {'not known: ' + good.unknown if good.unknown else 'there is none'}")
        return facts


_WORDS = {
    Kind.START: "began",
    Kind.FAILURE: "failed",
    Kind.RECOVERY: "works again",
    Kind.SUCCESS: "is done",
}
_HEALTH_WORDS = {
    Kind.START: "is looked at",
    Kind.FAILURE: "is not healthy",
    Kind.RECOVERY: "is healthy again",
    Kind.SUCCESS: "is healthy",
}


def as_code(text: str) -> str:
    """A text within a block of code, in which chat services make nothing of it: no link, no mention, no other words."""
    return "```\n" + text.replace("`", "'").strip() + "\n```"


def read_event(document: Any) -> Event:
    """The event of a document. Raises BadInput for what none is."""
    try:
        since, good_time = document["failing_since"], document["last_good_backup_time"]
        return Event(
            kind=Kind(document["event"]),
            host=str(document["host"]),
            job=str(document["job"]),
            verb=str(document["verb"]),
            time=parse_time(document["time"], "time"),
            message=str(document["message"]),
            error=document["error"],
            since=parse_time(since, "failing_since") if since else None,
            last_good=LastGood(
                document["last_good_backup"] or "",
                parse_time(good_time, "last_good_backup_time") if good_time else None,
                document["last_good_backup_unknown"] or "",
            )
            if document["event"] == Kind.FAILURE.value
            else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BadInput("This is no event that fleet-backup wrote. Remove its file.") from None
