# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names in a repository: made safe when written, distrusted when read. Pure functions.

```
<repository>/<host>/<engine>/<database>/<id>.<extensions>
<repository>/<host>/<engine>/<database>/<id>.manifest.json
<repository>/<host>/<engine>/<database>/<id>.slots.<n>.json
<repository>/<host>/<engine>/<database>/<id>.proof.<YYYYMMDD>T<HHMMSS>Z-<4 letters>.json
```
"""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import datetime, timezone
from functools import lru_cache
from typing import Optional, Tuple

from .errors import BadManifest

MANIFEST = ".manifest.json"

#: Everything that may stand as one component of a path in a repository: no separator, no leading dot, no control
#: character, at most 200 bytes (temporary names are longer by a prefix and a suffix, and 255 is the limit of Linux).
_COMPONENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,199}")
_PLAIN = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,79}")
_HASHED = re.compile(r".*-[0-9a-f]{12}")
_ID = re.compile(r"(?P<database>.+)-(?P<stamp>[0-9]{8}T[0-9]{6}Z)-[2-7a-z]{4}")
_FILE = re.compile(r"(.+-[0-9]{8}T[0-9]{6}Z-[2-7a-z]{4})(?:\.|$)")
_PROOF = re.compile(r"(?P<backup>.+)\.proof\.(?P<stamp>[0-9]{8}T[0-9]{6}Z)-[2-7a-z]{4}\.json")
_GENERATION = re.compile(r"(?P<backup>.+)\.slots\.(?P<number>[1-9][0-9]{0,8})\.json")
#: Base32 (RFC 4648, 6) in small letters, whose order is that of the numbers that they stand for.
_LETTERS = "234567abcdefghijklmnopqrstuvwxyz"


@lru_cache(maxsize=64)
def safe_name(true_name: str) -> str:
    """The component that stands for a database or host in paths; two true names never share one.

    A name of lower-case letters, digits, ``_``, ``.`` and ``-`` stands for itself. Any other (also one in upper case,
    because a mounted SMB share does not tell "Shop" from "shop") is cut down to such letters, and 48 bits of its
    SHA-256 are appended. Of a path only the last part stays readable.
    """
    if _PLAIN.fullmatch(true_name) and not _HASHED.fullmatch(true_name):
        return true_name
    readable = re.sub(r"[^a-z0-9_.]+", "-", true_name.rstrip("/").rsplit("/", 1)[-1].lower()).strip("-.")[:60]
    digest = hashlib.sha256(true_name.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return f"{readable or 'database'}-{digest}"


def is_component(name: str) -> bool:
    """Whether a name can stand alone as a file or directory in a repository."""
    return _COMPONENT.fullmatch(name) is not None


def require_component(name: str, where: str) -> str:
    """Return a name read from a repository, or raise BadManifest when it could lead anywhere else."""
    if not is_component(name):
        raise BadManifest(
            f"{where} holds the name {name!r}, which could lead out of the repository. "
            "Nothing was read; find out who wrote that file."
        )
    return name


def make_id(database: str, moment: datetime, tail: Optional[int] = None) -> str:
    """The id of a backup: ``<safe database>-<YYYYMMDD>T<HHMMSS>Z-<4 letters>``, of which no two are alike.

    The letters are a ``tail`` of 20 bits: normally 10 for the part of the second, so that ids sort by their time, and
    10 random ones, so that writers that share no lock take different ids.
    """
    return f"{safe_name(database)}-{stamp(moment)}-{_letters(moment, tail)}"


def make_proof_name(backup_id: str, moment: datetime) -> str:
    """The name of a new proof of a backup. The names of one backup's proofs sort by their time."""
    return f"{backup_id}.proof.{stamp(moment)}-{_letters(moment)}.json"


def _letters(moment: datetime, tail: Optional[int] = None) -> str:
    if tail is None:
        tail = (moment.microsecond * 1024 // 1_000_000) << 10 | secrets.randbits(10)
    return "".join(_LETTERS[tail >> shift & 31] for shift in (15, 10, 5, 0))


def stamp(moment: datetime) -> str:
    """A time as it stands in ids: ``<YYYYMMDD>T<HHMMSS>Z``."""
    utc = moment.astimezone(timezone.utc)
    return f"{utc.year:04d}{utc.month:02d}{utc.day:02d}T{utc.hour:02d}{utc.minute:02d}{utc.second:02d}Z"


def stamp_of(backup_id: str) -> str:
    """The time in an id, as it stands there; empty for what is not an id."""
    match = _ID.fullmatch(backup_id)
    return match.group("stamp") if match else ""


def order_of(backup_id: str) -> Tuple[str, str]:
    """What sorts the ids of one place by their time."""
    return stamp_of(backup_id), backup_id


def id_of_file(name: str) -> Optional[str]:
    """The id in a file's name (``<id>.dump.zst.aes``, ``<id>.manifest.json``), or None where there is none."""
    match = _FILE.match(name)
    return match.group(1) if match else None


def parse_proof_name(name: str) -> Optional[Tuple[str, str]]:
    """The id of the backup that a file with this name is a proof of, and the time in the name; None for other files."""
    # Most files of a place are others, and a listing asks for all of them.
    match = _PROOF.fullmatch(name) if ".proof." in name else None
    return (match.group("backup"), match.group("stamp")) if match and is_id(match.group("backup")) else None


def slots_name(backup_id: str, generation: int) -> str:
    """The name of the file with one generation of a backup's key slots."""
    return f"{backup_id}.slots.{generation}.json"


def parse_slots_name(name: str) -> Optional[Tuple[str, int]]:
    """The id of the backup whose key slots a file with this name has, and their generation; None for other files."""
    match = _GENERATION.fullmatch(name) if ".slots." in name else None
    found = match and is_id(match.group("backup"))
    return (match.group("backup"), int(match.group("number"))) if match and found else None


def is_id(text: str) -> bool:
    """Whether a text has the form of a backup's id."""
    return is_component(text) and _ID.fullmatch(text) is not None
