# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What pg_restore could not restore, object by object, as it says on standard error.

With ``--verbose``, it says which entry of the dump an error is about; its list (``--list``) has the entry's whole name.
At the end it counts the errors. What a server adds to a message (DETAIL, CONTEXT) can look the same, and can make up
names: what is found here is told, and decides nothing but what is loaded a second time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Callable, List, Optional, Sequence, Tuple

from ... import messages
from ...command import Argument, Command, Secret
from ...errors import EngineError, ToolFailed, Unverifiable
from ...process import Process
from ...text import shown_in_line
from ..base import differing
from . import tools

_ENTRY = re.compile(r"pg_restore: from TOC entry ([0-9]{1,10}); [0-9]+ [0-9]+ (.*)")
_LISTED = re.compile(r"([0-9]{1,10}); [0-9]+ [0-9]+ (.*)")
_ERROR = re.compile(r"pg_restore: error: .*")
_IGNORED = re.compile(r"pg_restore: warning: errors ignored on restore: [0-9]+")
_NAMING = "--verbose"
#: How many are kept, and how much of a line.
_MOST, _FIRST, _LONGEST = 1000, 10, 2000
#: How often what failed is tried again: what it needed can have come back the time before. A dump can be made so that
#: one more object succeeds each time.
_ROUNDS = 8
#: How many are named in a result, and what follows them.
_NAMED = 100
#: Objects that may come back once others are there, in the order of another attempt: a check constraint can read
#: another table.
_AGAIN = ("TABLE DATA", "CHECK CONSTRAINT", "CONSTRAINT", "INDEX", "FK CONSTRAINT", "MATERIALIZED VIEW DATA")


@dataclass(frozen=True)
class Complaint:
    """An object, as the list names it, its number there (None where it is not known), and the error's line."""

    number: Optional[int]
    object: str
    line: str

    @property
    def turn(self) -> Optional[int]:
        """Its place in another attempt; None where that cannot help."""
        if self.number is None:
            return None
        return next((place for place, kind in enumerate(_AGAIN) if self.object.startswith(kind)), None)

    @property
    def failure(self) -> EngineError:
        """The error, explained."""
        return tools.explained(ToolFailed("pg_restore", 1, self.line))

    def __str__(self) -> str:
        return f"{shown_in_line(self.object)}: {tools.said(self.line)}"


def load(command: Callable[[Tuple[Argument, ...]], Command], first: Tuple[Argument, ...]) -> List[Complaint]:
    """Run pg_restore on a dump's file, and again on what failed while more of it succeeds; what is left.

    ``command`` is pg_restore with further arguments. Raises what ``run_through`` raises.
    """
    failed = run_through(command((_NAMING, *first)))
    for _round in range(_ROUNDS):
        again = sorted((one for one in failed if one.turn is not None), key=lambda one: one.turn or 0)
        if not again:
            return failed
        wanted = "".join(f"{number};\n" for number in dict.fromkeys(one.number for one in again))
        left = run_through(
            command(
                (
                    _NAMING,
                    Secret(wanted.encode("ascii"), "--use-list={path}"),
                )
            )
        )
        if len(left) >= len(again):
            return failed
        failed = [*(one for one in failed if one.turn is None), *left]
    return failed


def refuse(complaints: Sequence[Complaint], label: str) -> None:
    """Raise Unverifiable for what could not be restored. It condemns no backup: a function of the database's own can
    refuse anything, and say anything of it."""
    if complaints:
        raise Unverifiable(differing(named(complaints), f"{label}: not everything could be restored") + ".")


def run_through(command: Command) -> List[Complaint]:
    """Run a pg_restore that goes on after errors; what it could not restore.

    Raises ToolFailed where it ended for another reason.
    """
    listener = _Listener()
    process = Process(command, heard=listener.hear)
    try:
        failure = process.failure()
    except BaseException:
        process.stop()
        raise
    if failure is None:
        # What looks like an error is a line of what the server passed on.
        return []
    if not (failure.status == 1 and listener.whole):
        # Among all that it says of its progress, names of objects could look like reasons.
        raise ToolFailed(failure.name, failure.status, "\n".join(listener.errors) or failure.output)
    if not listener.found:
        return [Complaint(None, "an object that pg_restore does not name", "")]
    return listener.found


def located(complaints: Sequence[Complaint], listed: Sequence[str]) -> List[Complaint]:
    """One complaint about each object, the first, with the object's name as pg_restore's list has it."""
    first = {one.number: one for one in reversed(complaints)}
    wanted = [one for one in complaints if one is first[one.number]]
    names = {}
    for line in listed:
        entry = _LISTED.fullmatch(line)
        if entry and int(entry.group(1)) in first:
            names[int(entry.group(1))] = entry.group(2)
    return [replace(one, object=names.get(one.number or 0, one.object)) for one in wanted]


def named(complaints: Sequence[Complaint]) -> Tuple[str, ...]:
    """A line about each object, the first hundred of them by name."""
    lines = tuple(str(one) for one in complaints)
    rest = len(lines) - _NAMED
    return lines if rest <= 0 else (*lines[:_NAMED], f"and {rest} more")


class _Listener:
    """Finds the complaints in what pg_restore writes, in constant memory whatever it writes."""

    def __init__(self) -> None:
        self.found: List[Complaint] = []
        #: Whether it came to its end, and counted what it ignored.
        self.whole = False
        #: The lines of the first and the last errors: where a worker fails, its reason comes first.
        self.errors: List[str] = []
        self._number: Optional[int] = None
        self._about = "the database"
        self._rest = b""
        #: Of the last error: whether it is in ``found``, and whether its text is withheld.
        self._kept = self._withheld = False

    def hear(self, block: bytes) -> None:
        *lines, rest = (self._rest + block).split(b"\n")
        # The end of a line that is longer than any of pg_restore's own is of no interest.
        self._rest = rest[:_LONGEST]
        for line in lines:
            self._read(line[:_LONGEST].decode("utf-8", "replace"))

    def _read(self, line: str) -> None:
        entry = _ENTRY.fullmatch(line)
        if entry:
            self._number, self._about = int(entry.group(1)), entry.group(2)
        elif _ERROR.fullmatch(line):
            self.errors = [*self.errors[:_FIRST], line]
            self._kept = len(self.found) < _MOST
            if self._kept:
                self.found.append(Complaint(self._number, self._about, line))
            self._withheld = False
        elif _IGNORED.fullmatch(line):
            self.whole = True
        elif self.errors and not self._withheld and messages.is_raised(line):
            # The text of the error above is its author's.
            self._withheld = True
            self.errors[-1] = messages.withheld(self.errors[-1])
            if self._kept:
                self.found[-1] = replace(self.found[-1], line=self.errors[-1])
