# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Messages that are still to be sent, one file each: ``<state>/notifications/outbox/<time>.<pid>-<n>.<channel>.json``.

Whoever sends one holds its lock (flock(2)), which dies with its holder: so none is sent twice at once, and none is lost
with a process that was killed.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from ...errors import BadInput, PermissionDenied
from ...state import Host
from ...timespan import format_time
from .events import Event, read_event
from .files import make_directory, read_json, write_json

#: How many messages wait for one channel, and for how long. What is older tells nobody what to do now.
LIMIT, MAX_AGE = 100, timedelta(days=7)
#: How many one run takes at most, as each is an open file; the next run takes the others.
_TAKEN = 500

_counter = itertools.count()


@dataclass(frozen=True)
class Letter:
    """A message in the outbox that this process alone may send: it holds the lock."""

    channel: str
    event: Event
    path: Path
    descriptor: int

    def sent(self) -> None:
        """Remove it."""
        with suppress(FileNotFoundError):
            self.path.unlink()
        os.close(self.descriptor)

    def kept(self) -> None:
        """Leave it to the next run."""
        os.close(self.descriptor)


def directory_of(state: Path) -> Path:
    return state / "notifications" / "outbox"


def post(host: Host, channel: str, event: Event) -> Letter:
    """Put a message into the outbox. Raises PermissionDenied."""
    stamp = event.time.strftime("%Y%m%dT%H%M%S")
    name = f"{stamp}.{os.getpid()}-{next(_counter):06}.{channel}.json"
    path = directory_of(host.state) / name
    # It appears with its lock held: nobody else takes it for one that a killed process left.
    hidden = path.with_name(f".{name}.tmp")
    try:
        make_directory(path.parent)
        descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            content = json.dumps(event.document).encode("ascii")
            if os.write(descriptor, content) != len(content):
                raise OSError(28, "it was written in part")
            os.fsync(descriptor)
            os.replace(str(hidden), str(path))
        except BaseException:
            os.close(descriptor)
            with suppress(OSError):
                hidden.unlink()
            raise
    except OSError as error:
        raise PermissionDenied(f"{path} cannot be written: {error.strerror}. See the disk and its mode.") from None
    return Letter(channel, event, path, descriptor)


def waiting(state: Path) -> Dict[str, int]:
    """How many messages wait, by channel. Changes nothing."""
    counts: Dict[str, int] = {}
    for path in _paths(state):
        channel = _channel(path)
        counts[channel] = counts.get(channel, 0) + 1
    return counts


def take(state: Path, now: datetime) -> Tuple[List[Letter], List[str]]:
    """The messages that no process is sending, oldest first; and what was given up, a sentence for each reason.

    Those that are too old or too many are removed, each before the next one is opened: thousands may wait.
    """
    by_channel: Dict[str, List[Path]] = {}
    for path in _paths(state):
        by_channel.setdefault(_channel(path), []).append(path)
    # The channels take turns, so that dead ones keep no other one's from being taken. What is too many has none left.
    turns = [
        (turn, path) for paths in by_channel.values() for turn, path in enumerate(paths, min(0, LIMIT - len(paths)))
    ]
    letters: List[Letter] = []
    dropped: List[Event] = []
    damaged: List[str] = []
    for turn, path in sorted(turns, key=lambda one: one[0]):
        try:
            letter = _lock(path)
        except (BadInput, ValueError):
            path.unlink()
            damaged.append(path.name)
            continue
        if letter is None:
            continue
        if now - letter.event.time > MAX_AGE or turn < 0:
            letter.sent()
            dropped.append(letter.event)
        elif len(letters) == _TAKEN:
            letter.kept()
        else:
            letters.append(letter)
    letters.sort(key=lambda letter: letter.path.name)
    return letters, _given_up(dropped, damaged)


def _given_up(dropped: Sequence[Event], damaged: Sequence[str]) -> List[str]:
    told = []
    if dropped:
        newest = max(dropped, key=lambda event: event.time)
        told.append(f"The message '{newest.subject}'{and_more(dropped)} could not be sent, and is dropped.")
    if damaged:
        told.append(f"{damaged[0]}{and_more(damaged)} in the outbox was no message, and was removed.")
    return told


def and_more(found: Sequence[object]) -> str:
    """How many there are besides the one that is named."""
    return f" and {len(found) - 1} more" if len(found) > 1 else ""


def _paths(state: Path) -> Iterator[Path]:
    directory = directory_of(state)
    try:
        paths = sorted(directory.iterdir())
    except OSError:
        # There is none yet, or it is not this account's.
        return iter(())
    return (path for path in paths if path.suffix == ".json" and path.name[0] != ".")


def _channel(path: Path) -> str:
    return path.name.split(".")[-2] if path.name.count(".") >= 2 else "?"


def _lock(path: Path) -> Optional[Letter]:
    """The message with its lock; None where somebody else has it or has sent it. Raises BadInput and ValueError."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(descriptor)
        if not status.st_nlink:
            raise BlockingIOError
        event = read_event(json.loads(os.pread(descriptor, status.st_size, 0)))
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return Letter(_channel(path), event, path, descriptor)


def note_failure(state: Path, channel: str, reason: Optional[str], now: datetime) -> None:
    """Write down since when and why a channel cannot be reached, or without a reason that it can.

    Raises PermissionDenied.
    """
    path = _failures(state) / f"{channel}.json"
    if reason is None:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
        return
    before = read_json(path)
    since = before.get("since") if isinstance(before, dict) else None
    write_json(path, {"reason": reason, "since": since or format_time(now)})


def unreachable(state: Path) -> Dict[str, Mapping[str, str]]:
    """The channels that could not be reached the last time: ``reason`` and ``since``. Changes nothing."""
    try:
        paths = sorted(_failures(state).glob("*.json"))
    except OSError:
        return {}
    found = {path.stem: read_json(path) for path in paths if path.name[0] != "."}
    return {name: document for name, document in found.items() if isinstance(document, dict)}


def _failures(state: Path) -> Path:
    return state / "notifications" / "channels"
