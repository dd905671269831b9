# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Points and spans of time, as users and manifests write them. Pure functions."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import List

from .errors import BadInput

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SPAN = re.compile(r"([0-9]+)([smhdw])")


def parse_span(text: str, option: str) -> timedelta:
    """Read ``90s``, ``30m``, ``26h``, ``7d``, ``2w`` or several of these in a row (``1d12h``).

    Raises BadInput, which names ``option``.
    """
    compact = text.strip()
    parts = _SPAN.findall(compact)
    if not parts or "".join(number + unit for number, unit in parts) != compact:
        raise BadInput(f'{option}: "{text}" is not a duration. Write for example 90s, 30m, 26h, 7d or 2w.')
    try:
        return sum((timedelta(**{_UNITS[unit]: int(number)}) for number, unit in parts), timedelta())
    except OverflowError:
        raise BadInput(f'{option}: "{text}" is longer than any calendar. Write a shorter duration.') from None


def format_span(span: timedelta) -> str:
    """Write a span for people, in its two largest units: ``2d 4h``, ``3m 12s``, ``0s``."""
    left = max(0, int(span.total_seconds()))
    words: List[str] = []
    for unit, seconds in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, seconds)
        if count or words:
            words.append(f"{count}{unit}")
    return " ".join(word for word in words[:2] if not word.startswith("0")) or "0s"


def format_size(count: int) -> str:
    """Write a number of bytes for people, in binary units: ``512 B``, ``1.5 MiB``."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")


def parse_time(text: str, option: str) -> datetime:
    """Read an RFC 3339 time, or a date or time of ISO 8601 (then UTC where no zone is given).

    Raises BadInput, which names ``option``.
    """
    compact = text.strip()
    # datetime.fromisoformat() reads the suffix Z only from Python 3.11 on.
    if compact[-1:] in ("Z", "z"):
        compact = compact[:-1] + "+00:00"
    try:
        parsed = datetime.fromisoformat(compact)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise BadInput(
            f'{option}: "{text}" is not a time. Write for example 2026-03-01T12:00:00Z or 2026-03-01.'
        ) from None


def format_time(moment: datetime) -> str:
    """Write an aware time as RFC 3339 in UTC, to the second."""
    utc = moment.astimezone(timezone.utc)
    return f"{utc.year:04d}-{utc.month:02d}-{utc.day:02d}T{utc.hour:02d}:{utc.minute:02d}:{utc.second:02d}Z"


def format_precise(moment: datetime) -> str:
    """The same with microseconds where there are any: a time that is read back is the time that was written."""
    text = format_time(moment)
    return text if not moment.microsecond else f"{text[:-1]}.{moment.microsecond:06d}Z"
