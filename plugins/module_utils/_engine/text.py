# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Texts from databases, repositories, processes and servers, made safe to show. Pure functions.

A terminal obeys control characters (ECMA-48), a log takes a line feed for a new entry, and a reader sees bidirectional
and zero-width characters reorder or hide what surrounds them (Unicode Technical Report 36, 3.1). Everything that leaves
the engine passes one of these functions once, at the edge.
"""

from __future__ import annotations

import json
import unicodedata
from typing import Any, List, Mapping, Sequence

#: Control and format characters, surrogates, code points without a meaning of their own, separators of lines and of
#: paragraphs (Unicode, 4.5). Spaces and every letter stay as they are.
_UNSAFE = ("Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp")
#: How many reports one text holds: a directory can have any number of files that are not in order.
_TOLD = 10
#: The most characters of a message to another program: the kernel lets no argument and no variable have more than
#: 128 KiB (execve(2)), and people read less.
_LONGEST = 8_000
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def shown(text: str) -> str:
    """The text as one line; what could steer its reader is written as ``\\n``, ``\\x1b`` or ``\\u202e``."""
    # Nearly all texts, and all that is left to do for those.
    if text.isprintable():
        return text
    return "".join(_escaped(character) if _is_unsafe(character) else character for character in text)


def shown_in_line(text: str) -> str:
    """The same of a message that may have several lines, which become one with spaces between them."""
    return shown(" ".join(text.splitlines()) if not text.isprintable() else text)


def shown_lines(text: str) -> str:
    """The same of a text of several lines, whose line feeds and tabs stay."""
    if text.isprintable():
        return text
    return "".join(
        _escaped(character) if character not in "\n\t" and _is_unsafe(character) else character for character in text
    )


def bounded(text: str, limit: int = _LONGEST) -> str:
    """A message for another program: as ``shown_lines``, cut to so many characters."""
    whole = shown_lines(text[: limit + 1])
    return whole if len(whole) <= limit else whole[: limit - 1] + "…"


def shortened(sentences: Sequence[str]) -> List[str]:
    """The first ten of several reports, and how many more there are."""
    more = len(sentences) - _TOLD
    return [*sentences[:_TOLD], *([f"There are {more} more like these."] if more > 0 else [])]


def shown_values(value: Any) -> Any:
    """The same of each text within plain values: names, and elements of mappings, lists and tuples."""
    if isinstance(value, str):
        return shown_lines(value)
    if isinstance(value, Mapping):
        return {shown_values(name): shown_values(element) for name, element in value.items()}
    if isinstance(value, (list, tuple)):
        return [shown_values(element) for element in value]
    return value


def shown_json(document: Any) -> str:
    """A document as indented JSON without unsafe characters, in escapes that give a program the exact text again.

    Surrogates stand alone, as RFC 8259, 8.2 allows: names of files that are not UTF-8 survive as Python reads them.
    """
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return "".join(
        json.dumps(character)[1:-1] if character != "\n" and _is_unsafe(character) else character for character in text
    )


def _is_unsafe(character: str) -> bool:
    return not character.isprintable() and unicodedata.category(character) in _UNSAFE


def _escaped(character: str) -> str:
    number = ord(character)
    if number > 0xFFFF:
        return f"\\U{number:08x}"
    return _ESCAPES.get(character) or (f"\\u{number:04x}" if number > 0xFF else f"\\x{number:02x}")
