# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a child says, read by who does not trust it: every value has the type and the bounds of what it stands for.

Pure functions. Each raises ChildFailed for what no honest child says.
"""

from __future__ import annotations

import base64
import re
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from ...host.child import ChildFailed
from ...model import Fingerprint, FingerprintKind, TableFingerprint
from ...text import shown
from ..base import DumpFacts, Inspection
from .elsewhere import replaced_prefix

_MOST = 1 << 62
_VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,6}){1,4}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SOURCE = re.compile(r"([0-9]{1,20}:[0-9]{1,20})?")
_MODE = re.compile(r"[0-7]{1,5}")
_TEXT_LENGTH = 1000


def read_inspection(value: Any) -> Inspection:
    """What is known of a database."""
    fields = _mapping(value)
    exists, size = _flag(fields.get("exists")), _size(fields.get("bytes"))
    return Inspection(exists, size, _version(fields.get("version")), _source(fields.get("source")))


def read_size(value: Any) -> int:
    """A number of bytes."""
    return _size(value)


def read_text(value: Any) -> str:
    """A short text, fit to be shown."""
    return shown(_text(value))


def read_texts(value: Any) -> Tuple[str, ...]:
    """Short texts, fit to be shown."""
    return _texts(value)


def read_kept(value: Any, target: str) -> Optional[str]:
    """The name that a replaced database has got beside the file ``target``, where it is kept.

    It is one of no other directory, and of no other file than a restore makes: the parent has it backed up.
    """
    if value is None:
        return None
    name = _text(value)
    if "/" in name or "\0" in name or not name.startswith(replaced_prefix(target)):
        raise _unusable()
    return name


def read_facts(value: Any) -> Tuple[DumpFacts, int]:
    """What the manifest records of the database, and how many bytes its copy has."""
    fields = _mapping(value)
    version = _version(fields.get("version"))
    facts = DumpFacts(
        server_version=version,
        tool_versions={"sqlite": version},
        opaque=_flag(fields.get("opaque")),
        properties=_properties(fields.get("properties")),
        warnings=_texts(fields.get("warnings")),
        source=_source(fields.get("source")),
    )
    return facts, _size(fields.get("bytes"))


def read_fingerprint(value: Any) -> Optional[Fingerprint]:
    """The tables that were counted."""
    if value is None:
        return None
    fields = _mapping(value)
    kind, tables = fields.get("kind"), _mapping(fields.get("tables"))
    if kind not in [one.value for one in FingerprintKind]:
        raise _unusable()
    return Fingerprint(FingerprintKind(kind), {name: _table(table) for name, table in tables.items()})


def read_counted(value: Any) -> Tuple[Optional[Fingerprint], Tuple[str, ...]]:
    """The tables that were counted, and what could not be."""
    if not isinstance(value, list) or len(value) != 2:
        raise _unusable()
    return read_fingerprint(value[0]), _texts(value[1])


def read_rows(value: Any) -> List[Tuple[Any, ...]]:
    """What a query returned."""
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        raise _unusable()
    return [tuple(map(_cell, row)) for row in value]


def _table(value: Any) -> TableFingerprint:
    # Of a table here, the ends of its key are never digested by themselves.
    if not isinstance(value, list) or len(value) != len(TableFingerprint._fields) or value[2] != 0:
        raise _unusable()
    digest = value[1]
    if digest is not None and not (isinstance(digest, str) and _DIGEST.fullmatch(digest)):
        raise _unusable()
    return TableFingerprint(_size(value[0]), digest)


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    fields = _mapping(value)
    try:
        if isinstance(fields.get("bytes"), str):
            return base64.b64decode(fields["bytes"], validate=True)
        if fields.get("float") in ("inf", "-inf", "nan"):
            return float(fields["float"])
    except ValueError:
        pass
    raise _unusable()


def _properties(value: Any) -> Dict[str, Any]:
    readers: Mapping[str, Callable[[Any], Any]] = {
        "mode": _mode,
        "page_size": _size,
        "encoding": _text,
        "journal_mode": _text,
        "user_version": _integer,
        "application_id": _integer,
    }
    fields = _mapping(value)
    if set(fields) - set(readers):
        raise _unusable()
    return {name: readers[name](one) for name, one in fields.items()}


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _unusable()
    return value


def _texts(value: Any) -> Tuple[str, ...]:
    if not isinstance(value, list) or len(value) > 100:
        raise _unusable()
    return tuple(read_text(text) for text in value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _unusable()
    return value


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _MOST:
        raise _unusable()
    return value


def _size(value: Any) -> int:
    number = _integer(value)
    if number < 0:
        raise _unusable()
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _TEXT_LENGTH * 10:
        raise _unusable()
    return value


def _version(value: Any) -> str:
    if not isinstance(value, str) or not _VERSION.fullmatch(value):
        raise _unusable()
    return value


def _source(value: Any) -> str:
    if not isinstance(value, str) or not _SOURCE.fullmatch(value):
        raise _unusable()
    return value


def _mode(value: Any) -> str:
    if not isinstance(value, str) or not _MODE.fullmatch(value):
        raise _unusable()
    return value


def _unusable() -> ChildFailed:
    return ChildFailed("The process that works on the database answered with what makes no sense. Run this again.")
