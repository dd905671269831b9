# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a child does for ``client``, as the account that owns the database's directory: see ``host.child``.

Each of these gets a way to ask the parent, and what the client sends; the first of it says which database is meant and
whom to become. Answers are plain values, which ``answers`` reads again on the other side.
"""

from __future__ import annotations

import base64
import math
import os
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from ...command import Account
from ...errors import Damaged, EngineError, Mismatch
from ...host.inside import Asking, Offer
from ...host.trust import account_for, check_trust
from ...model import Database, EngineName, Fingerprint, Manifest
from ..base import DumpOptions, Inspection
from .engine import TEMPORARY, SqliteEngine
from .file import raise_os_error
from .lock import look_further

_BLOCK = 1 << 20
#: What a query may return, in bytes.
_MOST_RETURNED = 4 << 20


@dataclass(frozen=True)
class Target:
    """Which database is meant, as the bytes of its path, and the account that was named for it."""

    path: bytes
    become_user: Optional[str] = None


def whom(target: Target, *_more: Any) -> Optional[Account]:
    """The account to become, found out while this is still the parent's. Raises what ``account_for`` raises."""
    try:
        account = account_for(os.fsdecode(target.path), target.become_user)
        if os.environ.get(TEMPORARY):
            # A copy in a directory of everybody could be given a journal by anybody.
            check_trust(os.path.join(os.environ[TEMPORARY], "copy"), account)
        return account
    except OSError as error:
        raise_os_error(error, f"Cannot look at {os.fsdecode(target.path)}")


@contextmanager
def look(_ask: Asking, target: Target) -> Iterator[Offer]:
    """Look at a database, and say whether it can be backed up or restored."""
    engine = _engine(target)
    yield Offer(
        None,
        {
            "sweep": engine.sweep,
            "inspect": lambda: _inspection(engine.inspect()),
            "check_dump": lambda options: _inspection(engine.check_dump(options)),
            "check_restore": lambda *asked: _inspection(engine.check_restore(*asked)),
        },
    )


@contextmanager
def copy(_ask: Asking, target: Target, options: DumpOptions, pipe: int) -> Iterator[Offer]:
    """Make a copy of a database and write it into a pipe, beside which its tables are counted."""
    with _engine(target).snapshot(options) as snapshot:
        source = os.open(str(snapshot.dump), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        size = os.fstat(source).st_size
        facts = snapshot.facts
        greeting = {
            "bytes": size,
            "version": facts.server_version,
            "opaque": facts.opaque,
            "properties": dict(facts.properties),
            "warnings": list(facts.warnings),
            "source": facts.source,
        }
        threading.Thread(target=_pour, args=(source, pipe, size), daemon=True).start()
        calls = {"fingerprint": lambda: [_fingerprint(snapshot.fingerprint()), list(snapshot.doubts)]}
        yield Offer(greeting, calls, snapshot.cancel_fingerprint)


def _pour(source: int, pipe: int, size: int) -> None:
    """Write a file into a pipe. Too few bytes are what tells the parent of a failure."""
    offset = 0
    with suppress(OSError):
        while offset < size:
            sent = os.sendfile(pipe, source, offset, min(_BLOCK, size - offset))
            if not sent:
                break
            offset += sent
    os.close(source)
    os.close(pipe)


@contextmanager
def stage(
    ask: Asking, target: Target, manifest: Manifest, owner: Optional[str], tolerant: bool, pipe: int
) -> Iterator[Offer]:
    """Write what comes through a pipe beside a database, check it, and put it in its place."""
    look_further(lambda device, inode: [str(user) for user in ask("users", device, inode, os.getpid())])
    with _engine(target).stage(manifest, owner, 1, tolerant) as staging:
        staging.begin = lambda: ask("finish")
        taking = _Taking(pipe, str(staging.load), manifest.main.plain_bytes)
        taking.start()

        def loaded() -> int:
            count = taking.end()
            staging.loaded()
            return count

        calls: Dict[str, Callable[..., Any]] = {
            "loaded": loaded,
            "check_integrity": staging.check_integrity,
            "notes": lambda: list(staging.notes),
            "fingerprint": lambda like: _fingerprint(staging.fingerprint(like)),
            "query": lambda sql: _rows(staging.query(sql)),
            "promote": lambda replace, keep: _name(staging.promote(replace, keep)),
            "discard": staging.discard,
        }
        yield Offer(staging.label, calls)


class _Taking(threading.Thread):
    """Writes what comes through a pipe into an empty file, and no more than is expected."""

    def __init__(self, pipe: int, path: str, most: int) -> None:
        super().__init__(daemon=True)
        self._pipe, self._path, self._most = pipe, path, most
        self._count = 0
        self._error: Optional[EngineError] = None

    def run(self) -> None:
        try:
            self._take()
        except EngineError as error:
            self._error = error
        finally:
            # Who writes is told by that, and asks why.
            os.close(self._pipe)

    def _take(self) -> None:
        try:
            target = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                while self._count <= self._most:
                    block = memoryview(os.read(self._pipe, _BLOCK))
                    if not block:
                        return
                    self._count += len(block)
                    while block:
                        block = block[os.write(target, block) :]
            finally:
                os.close(target)
        except OSError as error:
            raise_os_error(error, f"Cannot write {self._path}")
        raise Damaged(f"The backup holds more than the {self._most} bytes that it says. Restore another backup.")

    def end(self) -> int:
        """Wait for the end of what comes; how many bytes came. Raises what went wrong."""
        self.join()
        if self._error is not None:
            raise self._error
        return self._count


def _engine(target: Target) -> SqliteEngine:
    return SqliteEngine(Database(EngineName.SQLITE, os.fsdecode(target.path)))


def _name(path: Optional[str]) -> Optional[str]:
    return None if path is None else os.path.basename(path)


def _inspection(found: Inspection) -> Dict[str, Any]:
    return {"exists": found.exists, "bytes": found.bytes, "version": found.server_version, "source": found.source}


def _fingerprint(found: Optional[Fingerprint]) -> Optional[Dict[str, Any]]:
    if found is None:
        return None
    return {"kind": found.kind.value, "tables": {name: list(table) for name, table in found.tables.items()}}


def _rows(found: List[Tuple[Any, ...]]) -> List[List[Any]]:
    """Rows as JSON can have them: bytes and infinite numbers are objects. Raises Mismatch where they are too many."""
    size = 0
    rows = []
    for row in found:
        size += sum(len(value) if isinstance(value, (str, bytes)) else 8 for value in row)
        if size > _MOST_RETURNED:
            raise Mismatch("The query returns more than 4 MiB. Let it count or compare, and return less.")
        rows.append([_cell(value) for value in row])
    return rows


def _cell(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode("ascii")}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    return value
