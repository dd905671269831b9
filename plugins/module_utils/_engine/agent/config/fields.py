# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading a JSON object option by option, with types; an error names the file and the option."""

from __future__ import annotations

from datetime import timedelta
from difflib import get_close_matches
from enum import Enum
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Type, TypeVar

from ...errors import BadInput
from ...timespan import parse_span

_C = TypeVar("_C", bound=Enum)
_T = TypeVar("_T")

_KINDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


class Fields:
    """The options of one object. Each is taken once; ``end`` refuses what is left, which is most often a misspelling.

    ``where`` is what messages begin with: the file, and the way to this object in it (``job shop: schedule.rotate``).
    """

    def __init__(self, document: Any, where: str, within: bool = False) -> None:
        if not isinstance(document, dict):
            raise BadInput(f"{where}: this must be an object, and is {_kind_of(document)}.")
        self._left: Dict[str, Any] = dict(document)
        self._known: List[str] = []
        self._within = within
        self.where = where

    def text(self, name: str, default: Optional[str] = None) -> Optional[str]:
        """A text that is not empty, or ``default`` where the option is missing or null."""
        value = self._take(name, str)
        if value is None:
            return default
        if not value or "\0" in value:
            raise self.wrong(name, "it is empty" if not value else "it holds a zero byte")
        return str(value)

    def required(self, name: str) -> str:
        """A text that must be there."""
        value = self.text(name)
        if value is None:
            raise self.wrong(name, "it is missing")
        return value

    def choice(self, name: str, kind: Type[_C], default: Optional[_C] = None) -> _C:
        """One of an enumeration's values; required where there is no default."""
        value = self._take(name, str)
        if value is None:
            if default is None:
                raise self.wrong(name, "it is missing")
            return default
        try:
            return kind(value)
        except ValueError:
            raise self.wrong(name, f'"{value}" is none of {", ".join(str(one.value) for one in kind)}') from None

    def choices(self, name: str, kind: Type[_C]) -> Tuple[_C, ...]:
        """A list of an enumeration's values, empty where the option is missing."""
        return tuple(Fields({name: value}, self.where).choice(name, kind) for value in self.texts(name))

    def flag(self, name: str, default: bool) -> bool:
        value = self._take(name, bool)
        return default if value is None else bool(value)

    def integer(self, name: str, default: Optional[int] = None, least: int = 0) -> Optional[int]:
        """A whole number of at least ``least``."""
        value = self._take(name, int)
        if value is None:
            return default
        if value < least:
            raise self.wrong(name, f"{value} is less than {least}")
        return int(value)

    def share(self, name: str, default: float) -> float:
        """A number from 0 to 1."""
        value = self._take(name, float)
        if value is None:
            return default
        if not 0 <= value <= 1:
            raise self.wrong(name, f"{str(value)[:20]} is out of range (0 to 1)")
        return float(value)

    def span(self, name: str, default: Optional[timedelta] = None) -> Optional[timedelta]:
        """A duration such as ``26h``."""
        value = self.text(name)
        return default if value is None else parse_span(value, f"{self.where}: {name}")

    def texts(self, name: str) -> Tuple[str, ...]:
        """A list of texts, empty where the option is missing."""
        values = self._take(name, list) or []
        if not all(isinstance(value, str) and value for value in values):
            raise self.wrong(name, "each of its items must be a text that is not empty")
        return tuple(values)

    def words(self, name: str) -> Mapping[str, str]:
        """An object whose values are texts."""
        values = self._take(name, dict) or {}
        if not all(isinstance(value, str) for value in values.values()):
            raise self.wrong(name, "each of its values must be a text")
        return dict(values)

    def objects(self, name: str, read: Callable[[Fields], _T]) -> Tuple[_T, ...]:
        """A list of objects, each read whole by ``read``."""
        items: List[Any] = self._take(name, list) or []
        return tuple(self._read(f"{name}[{number}]", item, read) for number, item in enumerate(items))

    def object(self, name: str, read: Callable[[Fields], _T]) -> Optional[_T]:
        """An object, read whole by ``read``; None where the option is missing."""
        item = self.raw(name)
        return None if item is None else self._read(name, item, read)

    def raw(self, name: str) -> Any:
        """Any value, as it is."""
        self._known.append(name)
        return self._left.pop(name, None)

    def end(self) -> None:
        """Raise BadInput where options are left that nobody asked for."""
        if self._left:
            unknown = [_unknown(str(name), self._known) for name in sorted(self._left, key=str)]
            raise BadInput(f"{self.where}: {', '.join(unknown)}{'' if unknown[-1].endswith('?') else '. Remove it.'}")

    def wrong(self, name: str, why: str) -> BadInput:
        """The error for an option that cannot be used."""
        return BadInput(f"{self.where}: {name} cannot be used: {why}. Correct it.")

    def _read(self, name: str, item: Any, read: Callable[[Fields], _T]) -> _T:
        fields = Fields(item, f"{self.where}{'.' if self._within else ': '}{name}", within=True)
        value = read(fields)
        fields.end()
        return value

    def _take(self, name: str, kind: Type[Any]) -> Any:
        value = self.raw(name)
        allowed = (int, float) if kind is float else kind
        # bool is a subclass of int, and "true" is no number.
        if value is not None and (not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool)):
            raise self.wrong(name, f"it must be {_KINDS[kind]}, and is {_kind_of(value)}")
        return value


def _unknown(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=1) or [one for one in known if name and one.startswith(name)]
    return f'unknown option "{name}"' + (f'; did you mean "{near[0]}"?' if near else "")


def _kind_of(value: Any) -> str:
    return "missing" if value is None else _KINDS.get(type(value), "something else")
