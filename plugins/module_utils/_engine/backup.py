# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Taking a backup: snapshot, dump, compress, encrypt, digest, store in every repository, and last the manifest."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from . import __version__
from .apiece import Apiece, partly_done
from .catalogue import place_of, tidy
from .cipher import Sealer, Stage, sealed_for
from .clock import note
from .command import Channel, Command, program_version
from .crypto.signing import MANIFESTS, SLOTS
from .databases import open_engine
from .databases.base import DumpOptions, Engine, Inspection, Snapshot, Stream
from .errors import BadInput, Contended, Damaged, Refused, Shrunk, ToolFailed
from .interrupts import interruptible, time_limit
from .manifest import require_writable
from .memory import remember
from .model import (
    SAFETY_TIER,
    Artefact,
    Backup,
    Compression,
    Content,
    Database,
    EncryptionSettings,
    EngineName,
    Fingerprint,
    FingerprintKind,
    KeySlot,
    Manifest,
    Origin,
    Place,
    Remembered,
)
from .names import make_id
from .nesting import require_apart, surrounding
from .publication import Publication
from .repositories.base import Repository
from .state import Host, Progress, audit, audit_failure, locked
from .stream.compression import compressing
from .stream.pipe import Pipe
from .survey import Survey, survey
from .timespan import format_size

#: How often a backup is begun anew because somebody else stands in line for what it locked.
_ATTEMPTS = 4


@dataclass(frozen=True)
class BackupRequest:
    """What to back up, where to, and how. Times are in seconds where they are floats."""

    database: Database
    repositories: Tuple[Repository, ...]
    encryption: EncryptionSettings
    source_host: str
    compression: Compression = Compression.ZSTD
    compression_level: Optional[int] = None
    tier: Optional[str] = None
    labels: Mapping[str, str] = field(default_factory=dict)
    max_age: Optional[timedelta] = None
    fingerprint: FingerprintKind = FingerprintKind.COUNTS
    globals: bool = False
    exclude_tables: Tuple[str, ...] = ()
    min_size_ratio: float = 0.5
    lock_timeout: float = 60.0
    timeout: Optional[float] = None
    #: Whether the backups before may be of another server or file.
    accept_source: bool = False
    #: The name that ``database`` has right now, where that is another: it was replaced.
    renamed: Optional[str] = None

    @property
    def place(self) -> Place:
        return place_of(self.source_host, self.database)

    @property
    def present(self) -> Database:
        """The database as it is to be found now."""
        return self.database if self.renamed is None else replace(self.database, name=self.renamed)

    @property
    def dump_options(self) -> DumpOptions:
        return DumpOptions(self.fingerprint, self.globals, self.exclude_tables, self.lock_timeout)


class BackupPlan(NamedTuple):
    """What a run would do: nothing but point to ``fresh``, or take a backup of about ``expected_bytes``."""

    fresh: Optional[Backup]
    inspection: Inspection
    expected_bytes: Optional[int]
    leftovers: Tuple[str, ...]


@dataclass(frozen=True)
class BackupResult:
    """What a run did. ``manifest`` is the new backup's, or that of the fresh one that made a new one needless."""

    changed: bool
    manifest: Manifest
    slots: Tuple[KeySlot, ...]
    repositories: Tuple[str, ...]
    tidied: Tuple[str, ...] = ()
    warnings: Tuple[str, ...] = ()


def plan_backup(request: BackupRequest, host: Host) -> BackupPlan:
    """Check everything that can be checked beforehand, and change nothing. Raises what a run would raise."""
    plan, found = _plan(request, host)
    if found.failures:
        raise partly_done(
            "The backup would be", [repository.label for repository in found.repositories], found.failures
        )
    return plan


def _plan(request: BackupRequest, host: Host) -> Tuple[BackupPlan, Survey]:
    _check_request(request)
    found = survey(request.repositories, request.place, host)
    fresh = found.fresh(request.max_age, host.now(), request.encryption.method)
    engine = open_engine(request.present)
    inspection = engine.inspect() if fresh else engine.check_dump(request.dump_options)
    _require_same_source(request, found, inspection.source)
    for namespace in (MANIFESTS, SLOTS):
        host.signing.require_able(request.place.host, namespace, host.now())
    leftovers: List[str] = []
    if not fresh:
        compressing(request.compression, request.compression_level)
        Sealer(request.encryption)
        leftovers, _untidy = _tidy(request, host, found, dry_run=True)
    expected = found.last.manifest.bytes if found.last else None
    return BackupPlan(fresh, inspection, expected, tuple(leftovers)), found


def take_backup(request: BackupRequest, host: Host) -> BackupResult:
    """Take a backup, or do nothing where a fresh one exists.

    Raises an EngineError; then no repository has any of it (but see PartlyDone), and what it held is as it was.
    """
    _check_request(request)
    subject = request.place.path
    limit = time_limit(request.timeout, f"The backup of {request.database.name}")
    with interruptible(), limit, locked(host, subject, request.lock_timeout):
        try:
            result = _run(request, host)
        except BaseException as error:
            audit_failure(host, "backup", subject, error)
            raise
        if result.changed:
            facts = {
                "id": result.manifest.id,
                "repositories": list(result.repositories),
                "sealed_for": sealed_for(request.encryption, result.slots),
            }
            audit(host, "backup", subject, "done", facts)
        return result


def _run(request: BackupRequest, host: Host) -> BackupResult:
    # Planned under the lock: a backup that another process made while this one waited for it counts as fresh.
    plan, found = _plan(request, host)
    labels = tuple(repository.label for repository in found.repositories)
    if plan.fresh:
        if found.failures:
            raise partly_done(f"Backup {plan.fresh.id} is", labels, found.failures)
        return BackupResult(False, plan.fresh.manifest, plan.fresh.key_slots, labels, warnings=found.disorder)
    note(host)
    tidied, untidy = _tidy(request, host, found)
    found = replace(found, untidy=tuple(untidy))
    engine = open_engine(request.present)
    contended = 0
    with Progress(host, "backup", request.place.path) as progress:
        while True:
            try:
                return _attempt_backup(request, host, engine, found, progress, tidied)
            except Contended:
                # All that the attempt held is released: who waited for it goes first now.
                contended += 1
                if contended == _ATTEMPTS:
                    raise


def _attempt_backup(
    request: BackupRequest,
    host: Host,
    engine: Engine,
    found: Survey,
    progress: Progress,
    tidied: Sequence[str],
) -> BackupResult:
    progress.stage("snapshot")
    # Taken before the snapshot: all that was committed by then is in the backup.
    started = host.now()
    with engine.snapshot(request.dump_options) as snapshot:
        _require_same_source(request, found, snapshot.facts.source)
        run = _Run(request, host, started, engine, snapshot, found, progress)
        with Publication(found.repositories, request.place, host.signing, found.failures) as publication:
            manifest = run.store(publication)
            snapshot.conclude()
            warnings = [*found.disorder, *_misplaced(request), *snapshot.facts.warnings, *run.refuse_shrunk(manifest)]
            slots = publication.add_slots(manifest.id, run.slots, manifest.finished)
            digest = publication.describe(manifest)
            # Before it appears: a backup that this host does not know to be its own would never be rotated.
            run.remember(publication, digest, slots, pending=True)
            publication.publish(manifest)
            warnings += [*snapshot.doubts, *run.heard, *run.row_warnings(manifest)]
            run.remember(publication, digest, slots)
            labels = tuple(publication.repositories)
            return BackupResult(True, manifest, tuple(run.slots), labels, tuple(tidied), tuple(warnings))


def _require_same_source(request: BackupRequest, found: Survey, source: str) -> None:
    """Raise Refused where the backups that are there are of another server or file of this name."""
    other = None if request.accept_source else found.of_another(source, request.place)
    if other is None:
        return
    sqlite = request.database.engine is EngineName.SQLITE
    kind, number = ("file", "device and inode") if sqlite else ("server", "system identifier")
    raise Refused(
        f"{request.place.path} has backups of another {kind}: {other.id} is of {number} {other.manifest.source}, and "
        f"{request.database.name} is now of {source}. If both are in use, give this one a source_host of its own; if "
        "it took the place of the other one, take one backup with accept_source."
    )


def _misplaced(request: BackupRequest) -> List[str]:
    """A sentence for a database that lies where no restore would put it back."""
    repository = surrounding(request.present, request.repositories)
    if repository is None:
        return []
    where = f"{request.present.name} lies inside the repository {repository.label}"
    return [f"{where}: no restore puts it back there. Move one of the two elsewhere."]


def _tidy(request: BackupRequest, host: Host, found: Survey, dry_run: bool = False) -> Tuple[List[str], List[str]]:
    """Remove what killed runs left over, once that is in the audit log: their names, and why others stay.

    A repository that cannot be tidied takes the backup all the same.
    """
    place, apiece = request.place, Apiece()
    tidied: List[str] = []
    for repository in found.repositories:
        doomed: List[str] = []
        with apiece.trying():
            doomed = tidy(host, repository, place, dry_run=True)
        if doomed and not dry_run:
            audit(host, "tidy", place.path, "removing", {"repository": repository.label, "files": doomed})
            with apiece.trying():
                doomed = tidy(host, repository, place, dry_run=False)
        tidied += doomed
    return tidied, [f"{failure} What killed runs left there stays until then." for failure in apiece.failures]


class _Run:
    """One backup on its way: what its parts share."""

    def __init__(
        self,
        request: BackupRequest,
        host: Host,
        started: datetime,
        engine: Engine,
        snapshot: Snapshot,
        found: Survey,
        progress: Progress,
    ) -> None:
        self._request, self._engine, self._snapshot = request, engine, snapshot
        self._host, self._progress = host, progress
        self._started = started
        self._last_known = found.last_known
        self._last = self._last_known or found.last
        self._previous = found.previous(self._last)
        self._id = make_id(request.database.name, started)
        self._sealer = Sealer(request.encryption)
        self.slots: List[KeySlot] = []
        self._tools: Dict[str, str] = {}
        #: What the database's own programs warned of.
        self.heard: List[str] = []

    def store(self, publication: Publication) -> Manifest:
        """Write all artefacts, counting the tables meanwhile; the manifest that makes them a backup."""
        request, facts = self._request, self._snapshot.facts
        with _Counting(self._snapshot) as counting:
            artefacts = [self._store(publication, self._snapshot.dump, Content.DATABASE)]
            if self._snapshot.globals:
                artefacts.append(self._store(publication, self._snapshot.globals, Content.GLOBALS))
            self._progress.stage("fingerprint")
            fingerprint = counting.result()
        self._progress.stage("publish")
        manifest = Manifest(
            id=self._id,
            host=request.source_host,
            engine=request.database.engine.value,
            database=request.database.name,
            started=self._started,
            finished=self._host.now(),
            artefacts=tuple(artefacts),
            tier=request.tier,
            source=facts.source,
            server_version=facts.server_version,
            tool_versions={**facts.tool_versions, **self._tools, "fleet.backup": __version__},
            fingerprint=fingerprint,
            opaque=facts.opaque,
            properties=facts.properties,
            durations=dict(self._progress.durations),
            previous=self._previous,
            labels=request.labels,
        )
        return self._sealer.bind(manifest)

    def _store(self, publication: Publication, stream: Stream, content: Content) -> Artefact:
        request = self._request
        kind = self._engine.extension if content is Content.DATABASE else ".globals.sql"
        name = self._id + kind + request.compression.extension + request.encryption.method.extension
        compressor = compressing(request.compression, request.compression_level, isinstance(stream, Command))
        self._progress.stage("dump" if content is Content.DATABASE else "globals", self._expected_bytes())
        publication.begin(name)
        origin = Origin(request.source_host, request.database.engine.value, request.database.name, name)
        with self._sealer.seal(origin) as sealing:
            self.slots += sealing.slots
            stored, digest, plain = self._stream(publication, stream, compressor, sealing)
        publication.finish()
        return Artefact(
            name=name,
            bytes=stored,
            sha256=digest,
            plain_bytes=plain,
            compression=request.compression,
            encryption=request.encryption.method,
            content=content,
        )

    def _stream(
        self, publication: Publication, stream: Stream, compressor: Optional[Command], sealing: Stage
    ) -> Tuple[int, str, int]:
        """Bring a dump into every repository; the bytes stored, their SHA-256, and the plain bytes."""
        digest, stored = hashlib.sha256(), 0

        def store(block: bytes) -> None:
            nonlocal stored
            digest.update(block)
            publication.write(block)
            stored += len(block)
            self._progress.advance(len(block))

        with Pipe(f"The backup of {self._request.database.name}") as pipe:
            try:
                descriptor, plain = pipe.counted_source(stream)
                descriptor = pipe.through(compressor, descriptor)
                descriptor = pipe.through(sealing.command, descriptor)
                pipe.make_way()
                # Now, as the first thing that pg_dump does is to read the catalogue for a while.
                for command in filter(None, (compressor, sealing.command)):
                    self._tools[command.name] = program_version(str(command.arguments[0]))
                for block in pipe.blocks(descriptor):
                    store(sealing.transform.update(block) if sealing.transform else block)
                # Only when every program ended well is the end of the stream the end of the dump.
                pipe.wait()
                self.heard += [warning for name, said in pipe.said() for warning in self._engine.heard(name, said)]
            except ToolFailed as failure:
                raise self._engine.explain(self._sealer.explain(failure)) from None
            if sealing.transform:
                store(sealing.transform.finish())
            count = plain.count
        if isinstance(stream, Channel) and count != stream.bytes:
            raise stream.verdict() or Damaged(
                f"Of the copy of {self._request.database.name}, {count} of {stream.bytes} bytes came. "
                "It was not published; run this again."
            )
        return stored, digest.hexdigest(), count

    def remember(self, publication: Publication, manifest: str, slots: str, pending: bool = False) -> None:
        """Note in this host's state that this backup is its own, by the digests of its manifest and its key slots."""
        what = Remembered(manifest, slots, self._request.tier == SAFETY_TIER, pending, written=True)
        for repository in publication.taking_part:
            remember(self._host, repository, self._request.place, self._id, what)

    def refuse_shrunk(self, manifest: Manifest) -> List[str]:
        """Raise Shrunk where the dump is empty, or much smaller than the last good one that this host knows.

        One that it does not know gives a warning: whoever can write to a repository could stop all backups with it.
        """
        size, name = manifest.main.plain_bytes, self._request.database.name
        if size == 0:
            raise Shrunk(f"The dump of {name} is empty. It was not published; look at the database.")
        last = self._last_known or self._last
        before = last.manifest.main.plain_bytes if last else 0
        if last is None or size >= before * self._request.min_size_ratio:
            return []
        shrank = f"The dump of {name} shrank from {format_size(before)} ({last.id}) to {format_size(size)}"
        if self._last_known is None:
            return [f"{shrank}; this host did not write {last.id}. Check the database."]
        raise Shrunk(
            f"{shrank}, below the share of {self._request.min_size_ratio:g} that min_size_ratio allows. "
            "It was not published; look at the database, and lower min_size_ratio if the loss was meant."
        )

    def row_warnings(self, manifest: Manifest) -> List[str]:
        """Rows that went missing: no dump shrinks when SQLite merely marks its pages as free."""
        before, counted = self._last.manifest.totals if self._last else None, manifest.totals
        if not before or not counted:
            return []
        rows = counted.rows
        if rows >= before.rows * self._request.min_size_ratio:
            return []
        return [f"{self._request.database.name} has {rows} rows; its last backup had {before.rows}."]

    def _expected_bytes(self) -> int:
        return self._last.manifest.main.bytes if self._last else 0


class _Counting:
    """Counts a snapshot's tables in a thread of its own, beside the dump."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._fingerprint: Optional[Fingerprint] = None
        self._error: Optional[BaseException] = None

    def __enter__(self) -> _Counting:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_exception: object) -> None:
        if kind is not None:
            self._snapshot.cancel_fingerprint()
        self._thread.join()

    def _count(self) -> None:
        try:
            self._fingerprint = self._snapshot.fingerprint()
        except BaseException as error:
            self._error = error

    def result(self) -> Optional[Fingerprint]:
        self._thread.join()
        if self._error:
            raise self._error
        return self._fingerprint


def _check_request(request: BackupRequest) -> None:
    if not request.repositories:
        raise BadInput("There is no repository to back up to. Give at least one in repositories.")
    require_apart(request.repositories)
    require_writable(request.tier, request.labels)
    try:
        request.database.name.encode("utf-8")
    except UnicodeEncodeError:
        raise BadInput("The database's name is not valid UTF-8, which no manifest can hold. Rename it.") from None
    if not 0 <= request.min_size_ratio <= 1:
        raise BadInput(f"min_size_ratio is {request.min_size_ratio:g}. Choose a share from 0 to 1.")
