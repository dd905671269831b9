# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What listings read of manifests, kept in this host's state: the next listing takes apart only what is new to it.

A listing still reads every manifest, and the SHA-256 of its bytes alone says which one it is: names, sizes and times
prove nothing in a repository that others can write to. What is kept is what ``skim_manifest`` made of these bytes, and
never a problem. A file that is missing, damaged, of another version, or that another account could have written, is as
if it were not there.

One file a place of a repository, with what its last listing saw: a head with the CRC-32 of the rest, against damage,
and a line for each manifest: its digest and a JSON array.
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
from typing import Any, Dict, Mapping, Optional

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
    Manifest,
    Place,
    Previous,
    Totals,
)
from .state import Host, directory

#: To be counted up whenever a manifest is read or checked differently, or is kept differently.
_FORMAT = 3
_HEAD = f"fleet-backup manifests {_FORMAT} {__version__}"
#: The most bytes of one place, some 30,000 backups, and of all places.
_MOST, _MOST_IN_ALL = 32 << 20, 128 << 20
_DIGEST = 64
_JSON = json.JSONDecoder()
_COMPRESSIONS: Mapping[str, Compression] = {one.value: one for one in Compression}
_ENCRYPTIONS: Mapping[str, Encryption] = {one.value: one for one in Encryption}
_CONTENTS: Mapping[str, Content] = {one.value: one for one in Content}
_KINDS: Mapping[str, FingerprintKind] = {one.value: one for one in FingerprintKind}


class ManifestCache:
    """The manifests of one place in one repository, by the SHA-256 of their bytes in hexadecimal."""

    def __init__(self, host: Host, repository: str, place: Place) -> None:
        name = hashlib.sha256(f"{repository}\n{place.path}".encode("utf-8", "surrogateescape")).hexdigest()
        self._host, self._path = host, host.state / "cache" / f"{name}.manifests"
        self._kept = _load(self._path)
        self._seen: Dict[str, str] = {}

    def get(self, digest: str) -> Optional[Manifest]:
        """A manifest as ``skim_manifest`` returned it for these bytes; None where it must be read."""
        line = self._kept.get(digest)
        manifest = _manifest(line) if line else None
        if line and manifest:
            self._seen[digest] = line
        return manifest

    def put(self, digest: str, manifest: Manifest) -> None:
        """Keep what ``skim_manifest`` returned for the bytes that have this digest."""
        if self._host.caches:
            self._seen[digest] = f"{digest} {_line(manifest)}"

    def store(self) -> None:
        """Keep what this listing saw, and nothing else. Without a place to keep it, listings are slower, and right."""
        if not self._host.caches or self._seen.keys() == self._kept.keys():
            return
        with suppress(OSError, EngineError):
            directory(self._host, "cache")
            check_trust(str(self._path), None)
            _make_room(self._path)
            _store(self._path, self._seen)


def _load(path: Path) -> Dict[str, str]:
    """The lines of a file by their digests."""
    try:
        content = _read(path)
    except (OSError, EngineError):
        return {}
    head, _newline, body = content.partition(b"\n")
    if head != _head(body) or not body.isascii():
        return {}
    return {line[:_DIGEST]: line for line in body.decode("ascii").splitlines()}


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
    """Write the lines of the newest manifests that fit, whole or not at all. Raises OSError."""
    kept, size = [], len(_HEAD) + 20
    # Listed by id, so that the newest come last.
    for line in reversed(list(lines.values())):
        size += len(line) + 1
        if size > _MOST:
            break
        kept.append(line + "\n")
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


def _line(manifest: Manifest) -> str:
    """A manifest as one line of JSON."""
    return json.dumps(
        [
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
        ],
        separators=(",", ":"),
    )


def _manifest(line: str) -> Optional[Manifest]:
    """A manifest of its line; None where the line is none."""
    try:
        return _made(*_JSON.raw_decode(line, _DIGEST + 1)[0])
    except (ValueError, TypeError, KeyError):
        return None


def _made(
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
