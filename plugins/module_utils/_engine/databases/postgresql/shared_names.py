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
from typing import Any, Callable, Optional

from .connection import Connection

#: What needs no quoting in a string constant.
_PLAIN = re.compile(r"[A-Za-z0-9_. -]*")


def raw(expression: str) -> str:
    """SQL for the bytes of a name. No conversion: they need not be valid in the encoding of the session's database."""
    return f"pg_catalog.decode(replace(({expression})::text, chr(92), chr(92) || chr(92)), 'escape')"


def reader(connection: Connection) -> Callable[[Any], str]:
    """What turns the bytes of a name into text, as a server's UTF-8 databases or else this one reads them."""

    def read(value: Any) -> str:
        try:
            return bytes(value).decode("utf-8")
        except UnicodeDecodeError:
            query = "SELECT pg_catalog.convert_from(%s, pg_catalog.getdatabaseencoding())"
            return str(connection.value(query, [bytes(value)]))

    return read


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
