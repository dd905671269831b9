# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The words of this project, as types: databases, backups, manifests, proofs. No input or output here.

Times are aware datetimes in UTC, sizes are bytes, and spans are timedeltas, everywhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

#: The tier of backups that a restore takes of what it is about to replace.
SAFETY_TIER = "safety"


class EngineName(str, Enum):
    """The kinds of database that can be protected."""

    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"


class Compression(str, Enum):
    """How an artefact is compressed."""

    ZSTD = "zstd"
    GZIP = "gzip"
    NONE = "none"

    @property
    def extension(self) -> str:
        return {"zstd": ".zst", "gzip": ".gz", "none": ""}[self.value]


class Encryption(str, Enum):
    """How an artefact is encrypted; docs/formats.md describes each."""

    AES256_GCM = "aes256-gcm"
    GPG = "gpg"
    AGE = "age"
    AES256_CBC = "aes256-cbc"
    NONE = "none"

    @property
    def extension(self) -> str:
        return {"aes256-gcm": ".aes", "gpg": ".gpg", "age": ".age", "aes256-cbc": ".enc", "none": ""}[self.value]


class Content(str, Enum):
    """What an artefact holds."""

    DATABASE = "database"
    GLOBALS = "globals"


class SlotKind(str, Enum):
    """How a key slot wraps a data key."""

    X25519 = "x25519"
    PASSPHRASE = "passphrase"


class FingerprintKind(str, Enum):
    """What a fingerprint counts."""

    NONE = "none"
    COUNTS = "counts"
    DIGEST = "digest"


class Level(str, Enum):
    """How far a verification went; each level includes the ones before it."""

    CHECKSUM = "checksum"
    CONTENTS = "contents"
    RESTORE = "restore"

    @property
    def strength(self) -> int:
        return _STRENGTH[self]


_STRENGTH = {level: strength for strength, level in enumerate(Level)}


class Outcome(str, Enum):
    """How a verification ended."""

    PASSED = "passed"
    FAILED = "failed"
    UNVERIFIABLE = "unverifiable"


@dataclass(frozen=True)
class Server:
    """How to reach a database server. What is None is left to the client library's own defaults."""

    host: Optional[str] = None
    port: Optional[int] = None
    user: Optional[str] = None
    password: Optional[str] = field(default=None, repr=False)
    unix_socket: Optional[str] = None
    ssl_mode: Optional[str] = None
    ca_cert: Optional[str] = None
    #: The account of this host that the server sees at the other end of its socket: peer authentication asks for it
    #: (PostgreSQL manual, "Peer Authentication"). For SQLite, the account that works on the database's file, by default
    #: the owner of its directory. Only root can be another one.
    become_user: Optional[str] = None

    @property
    def address(self) -> Tuple[Optional[str], Optional[str], int]:
        """Where it is: the same for all who log in there."""
        return self.host, self.unix_socket, self.port or 5432


@dataclass(frozen=True)
class Database:
    """What is protected: an engine, a name (for SQLite an absolute path), and for servers how to reach it."""

    engine: EngineName
    name: str
    server: Server = Server()


class Scratch(NamedTuple):
    """Where a verification restores to: below ``path`` (None is the system's temporary directory), or on ``server``.

    Without ``server``, PostgreSQL's backups are restored into a throwaway cluster, which runs as the account
    ``become_user``, and in namespaces of its own where ``isolated``. ``allow_superuser`` accepts a superuser on
    ``server``, whose rights everything that the backup executes then has.
    """

    path: Optional[Path] = None
    server: Optional[Server] = None
    become_user: Optional[str] = None
    isolated: bool = True
    allow_superuser: bool = False


@dataclass(frozen=True)
class EncryptionSettings:
    """What the user says of encryption: a method, and the keys as inline text, paths or, for gpg, key ids.

    ``identities`` are private keys, needed only to read. ``accepted`` are other methods that backups may have which are
    read; nothing is ever encrypted with them.
    """

    method: Encryption = Encryption.AES256_GCM
    recipients: Tuple[str, ...] = ()
    passphrase: Optional[str] = field(default=None, repr=False)
    identities: Tuple[str, ...] = field(default=(), repr=False)
    accepted: Tuple[Encryption, ...] = ()

    def accepts(self, manifest: Manifest) -> bool:
        """Whether a backup has a method that was asked for, in every artefact."""
        return manifest.is_encrypted_with(self.method, *self.accepted)


class Space(NamedTuple):
    """A store's space in bytes: what can still be written, and all of it."""

    free: int
    total: int

    @property
    def share(self) -> float:
        """The part that is free, from 0 to 1."""
        return self.free / self.total if self.total else 0.0


class Place(NamedTuple):
    """The directory of one database's backups in a repository, as three safe path components."""

    host: str
    engine: str
    database: str

    @property
    def path(self) -> str:
        return f"{self.host}/{self.engine}/{self.database}"


class Artefact(NamedTuple):
    """One stored file of a backup. ``bytes`` and ``sha256`` describe it as stored, ``plain_bytes`` what is inside."""

    name: str
    bytes: int
    sha256: str
    plain_bytes: int
    compression: Compression
    encryption: Encryption
    content: Content = Content.DATABASE


class Origin(NamedTuple):
    """An artefact with what it is a backup of, all by true names. Its key slots and its stream are bound to this."""

    host: str
    engine: str
    database: str
    artefact: str

    @property
    def associated_data(self) -> bytes:
        """The four as a JSON array, without spaces and in UTF-8: no other four can be written the same."""
        names = [self.host, self.engine, self.database, self.artefact]
        return json.dumps(names, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


class Binding(NamedTuple):
    """An HMAC-SHA256 of all that a manifest says, under a key that only readers of an artefact have; in hexadecimal.

    ``salt`` is there where that key comes from a passphrase.
    """

    artefact: str
    hmac: str
    salt: str = ""


class KeySlot(NamedTuple):
    """An artefact's data key, wrapped for one recipient.

    ``recipient`` is the SHA-256 of the recipient's SubjectPublicKeyInfo in hexadecimal, or empty for a passphrase.
    ``parameters`` are the kind's own fields, binary ones in base64 (see keys.py).
    """

    artefact: str
    kind: SlotKind
    recipient: str
    parameters: Mapping[str, Any]


class Generation(NamedTuple):
    """One generation of a backup's key slots: its number, from 1 on, when it was written, and its file's SHA-256."""

    number: int
    time: datetime
    slots: Tuple[KeySlot, ...]
    digest: str


class TableFingerprint(NamedTuple):
    """What was in one table: its number of rows, and where there is one a digest that does not depend on their order.

    Where ``ends`` is not 0, the digest is of that many rows at each end of the table's primary key.
    """

    rows: int
    digest: Optional[str] = None
    ends: int = 0


class Totals(NamedTuple):
    """A fingerprint summed up: its kind, and how many tables and rows it counted."""

    kind: FingerprintKind
    tables: int
    rows: int


@dataclass(frozen=True)
class Fingerprint:
    """What was in a database, by table, on the snapshot that was dumped."""

    kind: FingerprintKind
    tables: Mapping[str, TableFingerprint]

    @property
    def totals(self) -> Totals:
        return Totals(self.kind, len(self.tables), sum(table.rows for table in self.tables.values()))

    @property
    def undigested(self) -> List[str]:
        """The tables of a digest that could be counted only."""
        if self.kind is not FingerprintKind.DIGEST:
            return []
        return sorted(name for name, table in self.tables.items() if table.digest is None)

    def differences(self, other: Fingerprint) -> List[str]:
        """How ``other`` (what came back) differs from this one (what was backed up), a sentence each."""
        found = []
        for name in sorted(set(self.tables) | set(other.tables)):
            here, there = self.tables.get(name), other.tables.get(name)
            if there is None:
                found.append(f"table {name} is missing")
            elif here is None:
                found.append(f"table {name} was not in the backup")
            elif here.rows != there.rows:
                found.append(f"table {name} has {there.rows} rows instead of {here.rows}")
            elif here.digest is not None and here.digest != there.digest:
                found.append(f"table {name} has other contents")
        return found


class Previous(NamedTuple):
    """The database's backup before this one."""

    id: str
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """All that is known of a backup. Written last: without it, the backup does not exist."""

    id: str
    host: str
    engine: str
    database: str
    started: datetime
    finished: datetime
    artefacts: Tuple[Artefact, ...]
    tier: Optional[str] = None
    binding: Tuple[Binding, ...] = ()
    #: Which server or file it was taken of (databases.base.Inspection.source).
    source: str = ""
    server_version: str = ""
    tool_versions: Mapping[str, str] = field(default_factory=dict)
    #: None where nothing was counted, and in a manifest that was read without its tables.
    fingerprint: Optional[Fingerprint] = None
    #: What is left of the fingerprint where the manifest was read without its tables.
    summary: Optional[Totals] = None
    opaque: bool = False
    #: What the engine needs to create the database again: encoding, locale, owner, settings. Its own affair.
    properties: Mapping[str, Any] = field(default_factory=dict)
    durations: Mapping[str, float] = field(default_factory=dict)
    previous: Optional[Previous] = None
    labels: Mapping[str, str] = field(default_factory=dict)
    #: The SHA-256 of all that is bound, in hexadecimal (manifest.py); empty where a listing read only a part.
    facts: str = field(default="", compare=False)

    def origin(self, artefact: str) -> Origin:
        """What one of its artefacts is bound to."""
        return Origin(self.host, self.engine, self.database, artefact)

    @property
    def safety(self) -> bool:
        """Whether a restore took it of what it replaced. Such a backup is never meant by "latest"."""
        return self.tier == SAFETY_TIER

    @property
    def main(self) -> Artefact:
        """The artefact that holds the database itself."""
        return next(artefact for artefact in self.artefacts if artefact.content is Content.DATABASE)

    @property
    def globals(self) -> Optional[Artefact]:
        """The artefact that holds roles and tablespaces, where there is one."""
        return next((artefact for artefact in self.artefacts if artefact.content is Content.GLOBALS), None)

    @property
    def bytes(self) -> int:
        return sum(artefact.bytes for artefact in self.artefacts)

    def is_encrypted_with(self, *methods: Encryption) -> bool:
        """Whether each of its artefacts has one of these methods."""
        return all(artefact.encryption in methods for artefact in self.artefacts)

    @property
    def totals(self) -> Optional[Totals]:
        """How much was counted; None where nothing was."""
        return self.fingerprint.totals if self.fingerprint else self.summary


class Proof(NamedTuple):
    """One recorded verification."""

    level: Level
    outcome: Outcome
    time: datetime
    host: str
    detail: str = ""
    seconds: float = 0.0


class Remembered(NamedTuple):
    """What a host has in its own state of a backup: digests of the files that it wrote or read, and its own proofs.

    ``digest`` is the SHA-256 of its manifest, ``slots`` that of its newest key slots, empty where it has none. What is
    ``pending`` was about to be published when this was written; what is ``leaving``, about to be removed.
    """

    digest: str
    slots: str = ""
    safety: bool = False
    pending: bool = False
    proofs: Tuple[Proof, ...] = ()
    #: Whether this host took it. To read one proves nothing of who wrote it: it takes a public key only.
    written: bool = False
    #: Whether this host was told to take it for its own.
    adopted: bool = False
    leaving: bool = False

    @property
    def own(self) -> bool:
        """Whether this host answers for where it comes from."""
        return self.written or self.adopted


@dataclass(frozen=True)
class Backup:
    """A backup as found in a repository: its manifest, its proofs, and what of it is missing."""

    place: Place
    manifest: Manifest
    proofs: Tuple[Proof, ...] = ()
    #: Why it cannot be restored, where that shows without reading the artefact: a file is gone or has another size.
    defect: Optional[str] = None
    #: Why it is not known how it was judged: its proofs are there and cannot be read.
    unjudged: Optional[str] = None
    #: The SHA-256 of its manifest's bytes.
    digest: str = ""
    #: What this host remembers of it; None where it neither wrote, read nor adopted it.
    remembered: Optional[Remembered] = None
    #: What the backups after it say that the digest of its manifest was (Previous.sha256).
    claimed: Tuple[str, ...] = ()
    #: Whether it is not this host's, in a place where this host itself writes: planted, or another's.
    foreign: bool = False
    #: The generations of its key slots that can be read, the newest first.
    generations: Tuple[Generation, ...] = ()

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def key_slots(self) -> Tuple[KeySlot, ...]:
        """The newest of its key slots."""
        return self.generations[0].slots if self.generations else ()

    @property
    def time(self) -> datetime:
        """The time of the snapshot: what was committed before it is in the backup."""
        return self.manifest.started

    def proven(self, level: Level) -> Optional[Proof]:
        """The newest proof that this or a stronger level passed; None where a later one failed."""
        return None if self.known_bad else self.passed(level)

    def passed(self, level: Level) -> Optional[Proof]:
        """The newest proof that this or a stronger level passed, whatever was found since."""
        passed = [p for p in self.proofs if p.outcome is Outcome.PASSED and p.level.strength >= level.strength]
        return passed[-1] if passed else None

    @property
    def known_bad(self) -> Optional[str]:
        """Why this backup must not be counted on: a defect, or a failed proof that no later one took back.

        Only a proof of the same or a stronger level takes a failure back: a good checksum says nothing about a
        database that did not come up.
        """
        # What this host itself found is not taken back by what anybody else could have written.
        found = self.remembered and _failure(self.remembered.proofs)
        if self.defect or (self.unjudged and not found):
            return self.defect or self.unjudged
        failed = found or _failure(self.proofs)
        return f"{failed.level.value} verification failed: {failed.detail}" if failed else None

    @property
    def own(self) -> bool:
        """Whether this host wrote or adopted it, by the digest of its manifest."""
        return self.remembered is not None and self.remembered.own

    @property
    def known(self) -> bool:
        """Whether it may count where backups are removed or not taken: it is this host's own, to the last byte."""
        return self.own and not self.rekeyed

    @property
    def rekeyed(self) -> bool:
        """Whether its key slots are not as this host wrote or read them."""
        return self.remembered is not None and self.remembered.slots != self.slots_digest

    @property
    def slots_digest(self) -> str:
        """The SHA-256 of its newest key slots; empty where it has none."""
        return self.generations[0].digest if self.generations else ""


def _failure(proofs: Tuple[Proof, ...]) -> Optional[Proof]:
    """The failure that no later proof of the same or a stronger level took back.

    Proofs come in the order in which they were written, which no wrong clock can change.
    """
    failed: Optional[Proof] = None
    for proof in proofs:
        if proof.outcome is Outcome.FAILED:
            strongest = proof if failed is None or proof.level.strength >= failed.level.strength else failed
            failed = proof._replace(level=strongest.level)
        elif failed and proof.outcome is Outcome.PASSED and proof.level.strength >= failed.level.strength:
            failed = None
    return failed


class Problem(NamedTuple):
    """Something in a repository that is not a backup and not in order."""

    place: Place
    name: str
    reason: str


@dataclass(frozen=True)
class Policy:
    """How long backups are kept. Counts are buckets as restic's forget counts them; -1 keeps every bucket."""

    last: int = 0
    within: Optional[timedelta] = None
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    timezone: str = "UTC"
    minimum_keep: int = 1
    max_age: Optional[timedelta] = None
    protect_proven: bool = True

    @property
    def counts(self) -> Dict[str, int]:
        return {
            "last": self.last,
            "hourly": self.hourly,
            "daily": self.daily,
            "weekly": self.weekly,
            "monthly": self.monthly,
            "yearly": self.yearly,
        }

    @property
    def empty(self) -> bool:
        return self.within is None and not any(self.counts.values())


class Decision(NamedTuple):
    """What a policy says of one backup, and why."""

    backup: Backup
    keep: bool
    reasons: Tuple[str, ...]
