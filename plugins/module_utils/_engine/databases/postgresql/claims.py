# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which restore fills a staged database: a claim on its name, for as long as a session lives.

Any login of the server can take any advisory lock. So the second key of a claim's lock is drawn at random, which no
stranger can hold before, and a claim counts only where its holder could stop the restore in any case: a superuser, this
login itself, and the roles that own the staged database.
"""

from __future__ import annotations

import secrets
import time
import zlib
from typing import List, Tuple

from .connection import Connection

#: How often a claim is made where another one is; two that are made at once see each other, and both give way.
_ATTEMPTS = 4
_MOST_SECONDS = 0.05

_OTHERS = """
SELECT a.usename, a.pid FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid JOIN pg_roles r ON r.oid = a.usesysid
 WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.classid::bigint = %s AND l.granted
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND l.pid <> pg_backend_pid()
   AND (r.rolsuper OR r.rolname = session_user
        OR EXISTS (SELECT FROM pg_database d WHERE d.datname = %s AND pg_has_role(r.oid, d.datdba, 'MEMBER')))
 ORDER BY 2
"""
_RELEASE = """
SELECT pg_advisory_unlock(%s, l.objid::bigint::int) FROM pg_locks l
 WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.classid::bigint = %s AND l.pid = pg_backend_pid()
"""


def claim(control: Connection, staged: str) -> bool:
    """Take the staged database's name for as long as the session lives. False when another session has it."""
    for _attempt in range(_ATTEMPTS):
        while not control.value("SELECT pg_try_advisory_lock(%s, %s)", [_signed(staged), secrets.randbelow(1 << 31)]):
            continue
        if not _others(control, staged):
            return True
        release(control, staged)
        time.sleep(_MOST_SECONDS * secrets.randbelow(1000) / 1000)
    return False


def release(control: Connection, staged: str) -> None:
    """Give the name back."""
    control.rows(_RELEASE, [_signed(staged), _key(staged)])


def holder(control: Connection, staged: str) -> str:
    """Who has the name: " by …", or nothing where it was given back since."""
    return "".join(f' by the role "{role}" (process {pid} of the server)' for role, pid in _others(control, staged)[:1])


def _others(control: Connection, staged: str) -> List[Tuple[str, int]]:
    return [(str(role), int(pid)) for role, pid in control.rows(_OTHERS, [_key(staged), staged])]


def _key(staged: str) -> int:
    return zlib.crc32(b"fleet.backup: " + staged.encode("utf-8"))


def _signed(staged: str) -> int:
    # The server's type is a signed integer of 32 bits.
    key = _key(staged)
    return key - (1 << 32) if key >> 31 else key
