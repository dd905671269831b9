# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Text of databases whose encoding is SQL_ASCII, which is none: any bytes, usually UTF-8. Pure functions.

Sessions with such a database are said to be in LATIN1, where each byte is a letter, and nothing is converted.
"""

from __future__ import annotations

from typing import Any, Mapping


def as_bytes(value: Any) -> Any:
    """Text, or a parameter with text in it, as the driver must get it so that a server sees the bytes of UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("latin-1")
    if isinstance(value, Mapping):
        return {key: as_bytes(one) for key, one in value.items()}
    return [as_bytes(one) for one in value] if isinstance(value, (list, tuple)) else value


def as_text(value: Any) -> Any:
    """The reverse of ``as_bytes``; a byte that is not valid UTF-8 becomes a lone surrogate (PEP 383)."""
    return value.encode("latin-1").decode("utf-8", "surrogateescape") if isinstance(value, str) else value


def readable(text: str) -> str:
    """Text without lone surrogates, which no manifest and no terminal can hold: ``\\xe4`` instead."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
