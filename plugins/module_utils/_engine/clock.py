# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether this host's clock can be trusted with removing backups: one that went forward makes all of them look old.

Three witnesses know of a clock that is ahead: the time since the machine was started, the store's own clock, and the
backups, whose newest one then lies far after the one before.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Optional, Sequence

from .errors import PermissionDenied, Refused
from .host.small import read_small
from .shapes import Fields, Misshapen, line, moment, number, parse
from .state import Host
from .timespan import format_span, format_time

#: How far a clock may be set forward, or be ahead of a store's.
_TOLERANCE = timedelta(hours=1)
#: A pause between backups is odd where it is so many times as long as any before it, and longer than this.
_ODD, _SHORT = 20, timedelta(days=2)
_ON = (
    "Nothing was removed. Check the clock; if it is right, rotate once with trust_clock (fleet-backup rotate "
    "--trust-clock)."
)


class _Note(NamedTuple):
    """What the clock showed, and how long the machine had run by then; until when all was said to be well."""

    boot: str
    uptime: float
    wall: datetime
    trusted: Optional[datetime] = None


def note(host: Host, trust: bool = False) -> None:
    """Note what the clock shows, to compare it with later. A jump that nobody said to be right stays noted."""
    uptime = host.uptime()
    try:
        before = _load(host)
    except PermissionDenied:
        if not trust:
            # A loss of power can have emptied it. Rotation, which relies on it, says so; no backup depends on it.
            return
        before = None
    if uptime is None or (before and not trust and _ahead(host, before) > _TOLERANCE):
        return
    trusted = host.now() if trust else before.trusted if before else None
    _store(host, _Note(_boot(), uptime, host.now(), trusted))


def require_trustworthy(host: Host, backups: Sequence[datetime], store: Optional[datetime]) -> None:
    """Raise Refused where a witness says that the clock went forward.

    ``backups`` are the times of good backups that this host knows, ``store`` the store's own time.
    """
    before = _load(host)
    ahead = _ahead(host, before) if before else timedelta()
    if before and ahead > _TOLERANCE:
        raise Refused(
            f"The clock of this host went forward by {format_span(ahead)} more than time has passed since "
            f"{format_time(before.wall)}. {_ON}"
        )
    if store is not None and host.now() - store > _TOLERANCE:
        raise Refused(
            f"The clock of this host is {format_span(host.now() - store)} ahead of the repository's own. {_ON}"
        )
    leap = odd_pause(backups, before.trusted if before else None)
    if leap is not None:
        raise Refused(
            f"No backup was taken for the {format_span(leap)} before one of those here, which is far longer than ever "
            f"before. A clock may have gone forward. {_ON}"
        )


def odd_pause(backups: Sequence[datetime], trusted: Optional[datetime]) -> Optional[timedelta]:
    """A pause between backups that is out of all proportion to those before it, after a trusted moment. Pure."""
    times = sorted(backups)
    longest = timedelta()
    for number_of, (one, other) in enumerate(zip(times, times[1:])):
        pause = other - one
        odd = number_of >= 2 and pause > max(_ODD * longest, _SHORT)
        if odd and (trusted is None or other > trusted):
            return pause
        longest = max(longest, pause)
    return None


def _ahead(host: Host, before: _Note) -> timedelta:
    """By how much more the clock went on than time did, since a note of this boot of the machine."""
    uptime = host.uptime()
    if uptime is None or before.boot != _boot():
        return timedelta()
    return host.now() - before.wall - timedelta(seconds=uptime - before.uptime)


def _boot() -> str:
    """Which start of the machine this is (random(4), boot_id)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _path(host: Host) -> Path:
    return host.state / "clock.json"


def _load(host: Host) -> Optional[_Note]:
    try:
        return _read(parse(read_small(_path(host))))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PermissionDenied(
            f"{_path(host)} cannot be read: {error.strerror}. Check its disk and its mode, or remove it."
        ) from None
    except Misshapen as error:
        raise PermissionDenied(
            f"{_path(host)} cannot be read: {error}. If the clock is right, rotate once with trust_clock (fleet-backup "
            "rotate --trust-clock)."
        ) from None


def _read(value: Any) -> _Note:
    fields = Fields(value)
    return _Note(
        fields.take("boot", line(100)),
        fields.take("uptime", number(0, 1e12)),
        fields.take("wall", moment),
        fields.maybe("trusted", moment, None),
    )


def _store(host: Host, noted: _Note) -> None:
    path = _path(host)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    document = {
        "boot": noted.boot,
        "uptime": noted.uptime,
        "wall": format_time(noted.wall),
        "trusted": format_time(noted.trusted) if noted.trusted else None,
    }
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(json.dumps(document))
            file.flush()
            os.fsync(file.fileno())
        os.replace(str(temporary), str(path))
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise PermissionDenied(f"{path} cannot be written: {error.strerror}. Check the disk and its mode.") from None
