# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading JSON that others wrote: parsed within bounds, and taken apart by declared shapes. Pure functions.

A shape is a function that returns the value it was given, in the type that the code wants, or raises Misshapen, whose
message begins with where in the document the value stands. Whatever is read through shapes is bounded: the length of a
text, the size of a number, the items of a list, and, by ``parse``, the depth and the number of values of the whole.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Callable, Dict, List, Mapping, Optional, Pattern, Tuple, Type, TypeVar, Union, get_type_hints

from .errors import BadInput
from .timespan import parse_time

_T = TypeVar("_T")
_E = TypeVar("_E", bound=Enum)
_D = TypeVar("_D")
Shape = Callable[[Any], _T]

#: The largest number that is read: what a file can hold, and every library can count with (off_t).
LARGEST = 2**63 - 1
#: No value of these documents lies deeper.
_DEPTH = 16
#: How many values, and how many lists and objects among them, a document has at most: room for a manifest of 200,000
#: tables, each with a digest.
_VALUES = 700_000
_CONTAINERS = 220_000
#: How long a number is at most, as text; the longest float that Python writes has 24 characters.
_NUMBER = 40
#: What moves a terminal's cursor or turns a line around: C0, C1, and marks for directions and lines (Unicode, UAX 9).
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_STRING = re.compile(rb'"[^"]*"')
_NO_BRACKET = bytes(set(range(256)) - set(b"[]{}"))
_NO_STRUCTURE = bytes(set(range(256)) - set(b'[]{},"'))


class Misshapen(ValueError):
    """A value does not have its shape. The message names the place in the document, and never quotes a long value."""

    def __init__(self, problem: str, path: str = "") -> None:
        super().__init__(f"{path} {problem}" if path else problem)
        self.problem, self.path = problem, path

    def inside(self, name: str) -> Misshapen:
        """The same, as seen from one level further out."""
        joint = "" if not self.path or self.path.startswith("[") else "."
        return Misshapen(self.problem, f"{name}{joint}{self.path}")


def parse(content: bytes) -> Any:
    """A JSON document of bounded depth and size. Raises Misshapen."""
    _check_structure(content)
    try:
        # Decoded here, as json.loads() would also take UTF-16, which is not what was measured.
        document = _DECODER.decode(content.decode("utf-8"))
    except Misshapen:
        raise
    except (ValueError, RecursionError):
        raise Misshapen("is not whole JSON: it is cut short or damaged") from None
    if b"\\ud" in content or b"\\uD" in content:
        # JSON can hold halves of characters, which no name and no file can.
        try:
            json.dumps(document, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise Misshapen("holds half a character") from None
    return document


def _check_structure(content: bytes) -> None:
    """Look at the brackets before anything is built of them."""
    if content.count(b'"') > 4 * _VALUES:
        raise Misshapen("holds more values than any such file")
    # Without escapes, every quotation mark begins or ends a string.
    bare = content.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in content else content
    # Two marks side by side end one string and begin the next, or the other way round: the rest stays where it was.
    outside = bare.translate(None, _NO_STRUCTURE).replace(b'""', b"")
    outside = _STRING.sub(b"", outside) if b'"' in outside else outside
    containers = outside.count(b"{") + outside.count(b"[")
    if containers > _CONTAINERS or containers + outside.count(b",") > _VALUES:
        raise Misshapen("holds more values than any such file")
    brackets = outside.translate(None, _NO_BRACKET)
    for _level in range(_DEPTH):
        # Each round takes the innermost pairs away.
        if not brackets:
            return
        brackets = brackets.replace(b"{}", b"").replace(b"[]", b"")
    if brackets:
        raise Misshapen("is not whole JSON, or nested deeper than any such file")


def _integer(text: str) -> int:
    if len(text) > _NUMBER:
        raise Misshapen(f"holds a number of {len(text)} digits")
    return int(text)


def _float(text: str) -> float:
    number = float(text) if len(text) <= _NUMBER else math.inf
    if not math.isfinite(number):
        raise Misshapen("holds a number that is out of range")
    return number


def _refuse_constant(text: str) -> float:
    raise Misshapen(f"holds {text}, which is not JSON")


def once(fields: List[Tuple[str, Any]]) -> Dict[str, Any]:
    """An object of JSON. Raises Misshapen where one of its names is there twice."""
    found = dict(fields)
    if len(found) < len(fields):
        # One reader takes the first of the two, another the last (RFC 8259, section 4).
        raise Misshapen("has an object that names a field twice")
    return found


_DECODER = json.JSONDecoder(
    object_pairs_hook=once, parse_int=_integer, parse_float=_float, parse_constant=_refuse_constant
)


# Shapes of single values.


def text(limit: int, pattern: Optional[Pattern[str]] = None) -> Shape[str]:
    """Any text of so many characters, which matches the whole pattern."""
    matches = pattern.fullmatch if pattern is not None else None

    def read(value: Any) -> str:
        if not isinstance(value, str):
            raise Misshapen("is not a text")
        if len(value) > limit:
            raise Misshapen(f"is longer than {limit} characters")
        if matches is not None and not matches(value):
            raise Misshapen("is invalid")
        return value

    return read


def line(limit: int) -> Shape[str]:
    """A text of one line, without control characters."""
    whole = text(limit)

    def read(value: Any) -> str:
        if _CONTROLS.search(whole(value)):
            raise Misshapen("holds control characters")
        return str(value)

    return read


def boolean(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise Misshapen("is neither true nor false")
    return value


def integer(lowest: int = 0, highest: int = LARGEST) -> Shape[int]:
    """A whole number within bounds."""

    def read(value: Any) -> int:
        # bool is a subclass of int, and "true" is no number of bytes.
        if not isinstance(value, int) or isinstance(value, bool):
            raise Misshapen("is not a whole number")
        if not lowest <= value <= highest:
            raise Misshapen(f"is out of range ({lowest} to {highest})")
        return value

    return read


def number(lowest: float, highest: float) -> Shape[float]:
    """A number within bounds."""

    def read(value: Any) -> float:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise Misshapen("is not a number")
        if not lowest <= value <= highest:
            raise Misshapen(f"is out of range ({lowest:g} to {highest:g})")
        return float(value)

    return read


def choice(choices: Type[_E]) -> Shape[_E]:
    """A word of an enumeration."""
    members = {member.value: member for member in choices}

    def read(value: Any) -> _E:
        if not isinstance(value, str):
            raise Misshapen("is not a text")
        try:
            return members[value]
        except KeyError:
            raise Misshapen(f"has the value {value[:40]!r}, which this version does not know") from None

    return read


def moment(value: Any) -> datetime:
    """A time at which a backup can have been taken."""
    if not isinstance(value, str) or len(value) > 40:
        raise Misshapen("is not a time")
    try:
        found = parse_time(value, "time")
    except (BadInput, OverflowError):
        raise Misshapen("is not a time") from None
    if not 1970 <= found.year < 2300:
        raise Misshapen("is not a plausible time")
    return found


# Shapes of shapes.


def sequence(of: Shape[_T], limit: int) -> Shape[Tuple[_T, ...]]:
    """A list of so many items at most."""

    def read(value: Any) -> Tuple[_T, ...]:
        if not isinstance(value, list):
            raise Misshapen("is not a list")
        if len(value) > limit:
            raise Misshapen(f"has more than {limit} items")
        found: List[_T] = []
        try:
            for item in value:
                found.append(of(item))
        except Misshapen as error:
            raise error.inside(f"[{len(found)}]") from None
        return tuple(found)

    return read


def mapping(of: Shape[_T], limit: int, names: int = 200) -> Shape[Dict[str, _T]]:
    """An object of so many fields, all of one shape, whose names have so many characters."""
    name_of = text(names)

    def read(value: Any) -> Dict[str, _T]:
        if not isinstance(value, dict):
            raise Misshapen("is not an object")
        if len(value) > limit:
            raise Misshapen(f"has more than {limit} fields")
        found: Dict[str, _T] = {}
        name = ""
        try:
            for name, item in value.items():
                if not isinstance(name, str) or len(name) > names:
                    name_of(name)
                found[name] = of(item)
        except Misshapen as error:
            raise error.inside(name[:40]) from None
        return found

    return read


class Fields:
    """The fields of an object, taken one by one, each by its shape; what is not taken is left."""

    def __init__(self, value: Any) -> None:
        if not isinstance(value, dict):
            raise Misshapen("is not an object")
        self._left: Dict[str, Any] = dict(value)

    def take(self, name: str, shape: Shape[_T]) -> _T:
        """A field that must be there. null stands for one that is not."""
        value = self._left.pop(name, None)
        if value is None:
            raise Misshapen("is missing", name)
        try:
            return shape(value)
        except Misshapen as error:
            raise error.inside(name) from None

    def maybe(self, name: str, shape: Shape[_T], default: _D) -> Union[_T, _D]:
        """A field that may be missing."""
        value = self._left.pop(name, None)
        if value is None:
            return default
        try:
            return shape(value)
        except Misshapen as error:
            raise error.inside(name) from None

    def left(self) -> Dict[str, Any]:
        """The fields that nobody took, as they are."""
        return self._left


def known(kind: Type[_T], limit: int = 10_000, texts: int = 1 << 20) -> Shape[_T]:
    """A dataclass by the types of its fields; fields that it does not have are passed over.

    Its fields are texts, numbers, truth values, other such dataclasses, and tuples or options of these.
    """
    hints, declared = get_type_hints(kind), fields(kind)  # type: ignore[arg-type]
    shapes = {field.name: _of_type(hints[field.name], limit, texts) for field in declared}
    needed = {field.name for field in declared if field.default is field.default_factory is MISSING}

    def read(value: Any) -> _T:
        if not isinstance(value, dict):
            raise Misshapen("is not an object")
        found = {}
        name = ""
        try:
            for name, shape in shapes.items():
                if name in value:
                    found[name] = shape(value[name])
        except Misshapen as error:
            raise error.inside(name) from None
        if not needed <= found.keys():
            raise Misshapen("is missing", min(needed - found.keys()))
        return kind(**found)

    return read


def _of_type(hint: Any, limit: int, texts: int) -> Shape[Any]:
    """The shape for a type hint."""
    single: Mapping[Any, Shape[Any]] = {
        str: text(texts),
        bool: boolean,
        int: integer(-LARGEST),
        float: number(-1e18, 1e18),
    }
    if hint in single:
        return single[hint]
    if is_dataclass(hint):
        return known(hint, limit, texts)  # type: ignore[arg-type]
    arguments: List[Any] = list(getattr(hint, "__args__", ()))
    if getattr(hint, "__origin__", None) is Union and arguments[1:] == [type(None)]:
        inner = _of_type(arguments[0], limit, texts)
        return lambda value: None if value is None else inner(value)
    if getattr(hint, "__origin__", None) is tuple and arguments[1:] == [Ellipsis]:
        return sequence(_of_type(arguments[0], limit, texts), limit)
    raise TypeError(f"no shape is known for {hint}")
