# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What listings read of manifests, key slots and proofs, kept in this host's state: the next one reads what is new.

No file of a repository ever changes. Which file it was, its name, its size and its version in the store say
(repositories.base.Entry): whatever is about to be used is read again, and compared with the digest that is kept here.
What is kept is what a listing made of a file's bytes, and never a problem. A cache that is missing, damaged, of another
version, or that another account could have written, is as if it were not there.

One file a place of a repository, with what its last listing saw: a head with the CRC-32 of the rest, against damage,
and a line for each file: its name, size and version, and a JSON array.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import zlib
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

from . import __version__
from .errors import EngineError
from .host.trust import check_trust
from .model import (
    Artefact,
    Binding,
    Compression,
    Content,
    Encryption,
    FingerprintKind,
    Generation,
    KeySlot,
    Level,
    Manifest,
    Outcome,
    Place,
    Previous,
    Proof,
    SlotKind,
    Totals,
)
from .repositories.base import Entry
from .state import Host, directory

#: To be counted up whenever a manifest is read or checked differently, or is kept differently.
_FORMAT = 4
_HEAD = f"fleet-backup listing {_FORMAT} {__version__}"
#: The most bytes of one place, some 30,000 backups, and of all places.
_MOST, _MOST_IN_ALL = 32 << 20, 128 << 20
_COMPRESSIONS: Mapping[str, Compression] = {one.value: one for one in Compression}
_ENCRYPTIONS: Mapping[str, Encryption] = {one.value: one for one in Encryption}
_CONTENTS: Mapping[str, Content] = {one.value: one for one in Content}
_SLOT_KINDS: Mapping[str, SlotKind] = {one.value: one for one in SlotKind}
_LEVELS: Mapping[str, Level] = {one.value: one for one in Level}
_OUTCOMES: Mapping[str, Outcome] = {one.value: one for one in Outcome}
_KINDS: Mapping[str, FingerprintKind] = {one.value: one for one in FingerprintKind}


class ListingCache:
    """What was read of the files of one place in one repository: an array of plain values each (see ``pack``)."""

    def __init__(self, host: Host, repository: str, place: Place) -> None:
        name = hashlib.sha256(f"{repository}\n{place.path}".encode("utf-8", "surrogateescape")).hexdigest()
        self._host, self._path = host, host.state / "cache" / f"{name}.listing"
        self._kept = _load(self._path)
        self._seen: Dict[str, str] = {}

    def holds(self, *entries: Entry) -> bool:
        """Whether there is something of this very file, beside which lies this very signature where there is one."""
        return _key(entries) in self._kept

    def get(self, *entries: Entry) -> Any:
        """What was put for this file; None where it must be read."""
        key = _key(entries)
        try:
            value = json.loads(self._kept[key])
        except (KeyError, ValueError):
            return None
        self._seen[key] = self._kept[key]
        return value

    def put(self, value: Any, *entries: Entry) -> None:
        """Keep what a listing made of this file, as JSON."""
        if self._host.caches and all(entry.version and entry.name.isascii() for entry in entries):
            self._seen[_key(entries)] = json.dumps(value, separators=(",", ":"))

    def store(self) -> None:
        """Keep what this listing saw, and nothing else. Without a place to keep it, listings are slower, and right."""
        if not self._host.caches or self._seen.keys() == self._kept.keys():
            return
        with suppress(OSError, EngineError):
            directory(self._host, "cache")
            check_trust(str(self._path), None)
            _make_room(self._path)
            _store(self._path, self._seen)


def _key(entries: Sequence[Entry]) -> str:
    # No name of a file holds a slash.
    return "/".join(f"{entry.name}/{entry.bytes}/{entry.version}" for entry in entries)


def _load(path: Path) -> Dict[str, str]:
    """What a file has of each file of the repository."""
    try:
        content = _read(path)
    except (OSError, EngineError):
        return {}
    head, _newline, body = content.partition(b"\n")
    if head != _head(body) or not body.isascii():
        return {}
    lines = (line.partition("\t") for line in body.decode("ascii").splitlines())
    return {key: value for key, _tab, value in lines}


def _read(path: Path) -> bytes:
    """A file that only this account and root can have written; empty for any other. Raises OSError and Refused."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        check_trust(str(path), None)
        others = status.st_uid != os.geteuid() or status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
        if others or not stat.S_ISREG(status.st_mode) or status.st_size > _MOST:
            return b""
        return file.read(_MOST)


def _store(path: Path, lines: Mapping[str, str]) -> None:
    """Write the lines of the newest files that fit, whole or not at all. Raises OSError."""
    kept, size = [], len(_HEAD) + 20
    # Of each kind, the newest come last; and manifests, which take the longest to read, after all others.
    for key, value in reversed(list(lines.items())):
        line = f"{key}\t{value}\n"
        size += len(line)
        if size > _MOST:
            break
        kept.append(line)
    body = "".join(reversed(kept)).encode("ascii")
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        # Another listing may be writing, or has just renamed, this file: then its picture is as good as this one.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), os.lstat(temporary)):
            return
        try:
            os.ftruncate(descriptor, 0)
            file.write(_head(body) + b"\n" + body)
            file.flush()
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise


def _make_room(path: Path) -> None:
    """Remove the files that were written longest ago, so that all are no more than they may be. Raises OSError."""
    with os.scandir(path.parent) as found:
        files = sorted(((one.stat(follow_symlinks=False), one.path) for one in found), key=lambda one: -one[0].st_mtime)
    room = _MOST_IN_ALL - _MOST
    for status, other in files:
        room -= status.st_size
        if room < 0 and other != str(path):
            os.unlink(other)


def _head(body: bytes) -> bytes:
    return f"{_HEAD} {zlib.crc32(body):08x}".encode("ascii")


def pack(manifest: Manifest) -> List[Any]:
    """A manifest that ``skim_manifest`` returned, as plain values."""
    return [
        manifest.id,
        manifest.host,
        manifest.engine,
        manifest.database,
        manifest.started.isoformat(),
        manifest.finished.isoformat(),
        [[*artefact] for artefact in manifest.artefacts],
        manifest.tier,
        manifest.binding,
        manifest.source,
        manifest.server_version,
        manifest.tool_versions,
        manifest.summary,
        manifest.opaque,
        manifest.durations,
        manifest.previous,
        manifest.labels,
    ]


def unpack(
    backup_id: str,
    host: str,
    engine: str,
    database: str,
    started: str,
    finished: str,
    artefacts: Any,
    tier: Optional[str],
    binding: Any,
    source: str,
    server_version: str,
    tool_versions: Mapping[str, str],
    summary: Any,
    opaque: bool,
    durations: Mapping[str, float],
    previous: Any,
    labels: Mapping[str, str],
) -> Manifest:
    """The manifest again. Raises ValueError, TypeError and KeyError for what is none."""
    return Manifest(
        backup_id,
        host,
        engine,
        database,
        datetime.fromisoformat(started),
        datetime.fromisoformat(finished),
        tuple(
            [
                Artefact(name, size, sha256, plain, _COMPRESSIONS[packed], _ENCRYPTIONS[locked], _CONTENTS[content])
                for name, size, sha256, plain, packed, locked, content in artefacts
            ]
        ),
        tier,
        tuple([Binding(*one) for one in binding]),
        source,
        server_version,
        tool_versions,
        None,
        Totals(_KINDS[summary[0]], *summary[1:]) if summary else None,
        opaque,
        {},
        durations,
        Previous(*previous) if previous else None,
        labels,
    )


def pack_generation(generation: Generation) -> List[Any]:
    """Key slots as plain values."""
    slots = [[*slot] for slot in generation.slots]
    return [generation.number, generation.time.isoformat(), slots, generation.digest]


def unpack_generation(number: int, time: str, slots: Any, digest: str) -> Generation:
    """The key slots again. Raises ValueError, TypeError and KeyError for what is none."""
    found = [KeySlot(artefact, _SLOT_KINDS[kind], reader, values) for artefact, kind, reader, values in slots]
    return Generation(number, datetime.fromisoformat(time), tuple(found), digest)


def pack_proof(proof: Proof) -> List[Any]:
    """A proof as plain values."""
    return [proof.level, proof.outcome, proof.time.isoformat(), *proof[3:]]


def unpack_proof(level: str, outcome: str, time: str, host: str, detail: str, seconds: float) -> Proof:
    """The proof again. Raises ValueError, TypeError and KeyError for what is none."""
    return Proof(_LEVELS[level], _OUTCOMES[outcome], datetime.fromisoformat(time), host, detail, seconds)
