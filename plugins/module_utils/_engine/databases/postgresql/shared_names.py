# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names of roles and tablespaces, which all databases of a server share while each has an encoding of its own.

A shared catalogue holds the bytes that a session wrote, and every other session reads them in the encoding of its own
database: a role that was made in a UTF-8 database has another name in a LATIN1 one. The manifest has the name that the
bytes are in UTF-8, where they are that, as a server's maintenance databases have.
"""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, Optional

from .connection import Connection

#: What needs no quoting in a string constant.
_PLAIN = re.compile(r"[A-Za-z0-9_. -]*")
#: Encodings that Python knows under another name. It has none like EUC_TW and MULE_INTERNAL.
_CODECS = {"UTF8": "utf-8", "SQL_ASCII": "ascii", "EUC_CN": "gb2312", "KOI8R": "koi8-r", "KOI8U": "koi8-u"}


def raw(expression: str) -> str:
    """SQL for the bytes of a name. No conversion: they need not be valid in the encoding of the session's database."""
    return f"pg_catalog.decode(replace(({expression})::text, chr(92), chr(92) || chr(92)), 'escape')"


class Reader:
    """Turns the bytes of names into text, as a server's UTF-8 databases or else this one reads them.

    ``misfits`` are those read so far that a dump of this database cannot name on another server, or not at all: they
    are not UTF-8, or what they are in UTF-8 is nothing in this database's encoding.
    """

    def __init__(self, connection: Connection) -> None:
        self._encoding = str(connection.value("SELECT pg_catalog.getdatabaseencoding()"))
        self.misfits: Dict[str, None] = {}

    def __call__(self, value: Any) -> str:
        octets = bytes(value)
        name = _decoded(octets, "UTF8")
        if name is None:
            # Any other encoding than these can be looked up here, or has only UTF-8 names.
            name = _decoded(octets, self._encoding) or octets.decode("utf-8", "backslashreplace")
            self.misfits[name] = None
        elif not (self._encoding in ("UTF8", "SQL_ASCII") or _fits(octets, self._encoding)):
            self.misfits[name] = None
        return name


def _decoded(octets: bytes, encoding: str) -> Optional[str]:
    """Bytes as text in one of the server's encodings; None where they are none, or Python does not know it."""
    try:
        return octets.decode(_codec(encoding))
    except (UnicodeDecodeError, LookupError):
        return None


def _fits(octets: bytes, encoding: str) -> bool:
    """Whether bytes are text in one of the server's encodings. Of one that Python does not know, all may be."""
    try:
        octets.decode(_codec(encoding))
    except LookupError:
        return True
    except UnicodeDecodeError:
        return False
    return True


def _codec(encoding: str) -> str:
    number = re.fullmatch(r"WIN([0-9]+)", encoding)
    return f"cp{number.group(1)}" if number else _CODECS.get(encoding, encoding)


def optional(read: Callable[[Any], str]) -> Callable[[Any], Optional[str]]:
    """The same for a name that need not be there."""
    return lambda value: None if value is None else read(value)


def written(name: str) -> str:
    """SQL for a role's name as the session's database has it; where no role has these bytes, for the name itself."""
    if _PLAIN.fullmatch(name):
        return f"'{name}'"
    octets = f"pg_catalog.decode('{name.encode('utf-8', 'surrogateescape').hex()}', 'hex')"
    return (
        f"coalesce((SELECT rolname::text FROM pg_catalog.pg_roles WHERE {raw('rolname')} = {octets}),"
        f" pg_catalog.convert_from({octets}, 'UTF8'))"
    )
