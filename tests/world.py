# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host with a shop, a repository and keys, on which a test backs up, restores, verifies and rotates for real."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Callable

from _engine import binding, keys
from _engine.backup import BackupRequest, BackupResult, take_backup
from _engine.catalogue import Catalogue, place_of, scan
from _engine.generations import read_generation
from _engine.manifest import read_manifest
from _engine.model import Database, EncryptionSettings, EngineName, Place, Policy, Proof
from _engine.names import make_proof_name
from _engine.proofs import write_proof
from _engine.repositories.base import Repository
from _engine.repositories.local import LocalRepository
from _engine.restore import RestoreRequest, RestoreResult, restore
from _engine.rotate import RotateRequest, RotateResult, rotate
from _engine.sealed import sealed
from _engine.state import Host
from _engine.verify import VerifyRequest, VerifyResult, verify

START = datetime(2026, 2, 28, 2, 0, 0, tzinfo=timezone.utc)


class Clock:
    """The time of a test, which goes on by a second whenever somebody looks at it."""

    def __init__(self) -> None:
        self.moment = START + timedelta(days=1)
        #: By how much the clock was set forward without time passing.
        self.jump = timedelta()

    def __call__(self) -> datetime:
        self.moment += timedelta(seconds=1)
        return self.moment

    def running(self) -> float:
        """Seconds since the machine was started; tests that let the clock jump set it aside."""
        return (self.moment - START - self.jump).total_seconds()


@dataclass
class World:
    """Everything lives below one directory."""

    root: Path
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        (self.root / "backups").mkdir(parents=True)
        (self.root / "data").mkdir()
        self.host = Host("web1", self.root / "state", self.clock, self.clock.running)
        self.path = self.root / "data" / "shop.db"
        self.database = Database(EngineName.SQLITE, str(self.path))
        self.repository = LocalRepository(self.root / "backups")
        self.private = keys.generate().decode()
        self.public = keys.public_pem(self.private.encode()).decode()
        self.encryption = EncryptionSettings(recipients=(self.public,), identities=(self.private,))

    def make_shop(self, orders: int = 100, journal: str = "wal") -> None:
        """Make the shop's database, with as many orders."""
        connection = sqlite3.connect(self.path)
        connection.execute(f"PRAGMA journal_mode={journal}")
        connection.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, item TEXT)")
        items = [(os.urandom(50).hex(),) for _order in range(orders)]
        connection.executemany("INSERT INTO orders (item) VALUES (?)", items)
        connection.commit()
        connection.close()

    def orders(self, path: Path | None = None) -> list[tuple[Any, ...]]:
        """All orders in a database."""
        connection = sqlite3.connect(f"file:{path or self.path}?mode=ro", uri=True)
        try:
            return connection.execute("SELECT id, item FROM orders ORDER BY id").fetchall()
        finally:
            connection.close()

    def backup_request(self, **changes: Any) -> BackupRequest:
        request = BackupRequest(self.database, (self.repository,), self.encryption, "web1", lock_timeout=5)
        return replace(request, **changes)

    def backup(self, **changes: Any) -> BackupResult:
        return take_backup(self.backup_request(**changes), self.host)

    def restore_request(self, **changes: Any) -> RestoreRequest:
        request = RestoreRequest(
            self.database, (self.repository,), self.encryption, "web1", replace=True, lock_timeout=5
        )
        return replace(request, **changes)

    def restore(self, **changes: Any) -> RestoreResult:
        return restore(self.restore_request(**changes), self.host)

    def verify_request(self, **changes: Any) -> VerifyRequest:
        return replace(VerifyRequest(self.database, (self.repository,), self.encryption, "web1"), **changes)

    def verify(self, **changes: Any) -> VerifyResult:
        return verify(self.verify_request(**changes), self.host)

    def rotate(self, policy: Policy | None = None, **changes: Any) -> RotateResult:
        return rotate(replace(RotateRequest((self.repository,), "web1", policy), **changes), self.host)

    def catalogue(self, repository: Repository | None = None) -> Catalogue:
        return scan(repository or self.repository, self.place, self.clock())

    def proofs(self, backup: str) -> list[Path]:
        """The files of a backup's proofs, the oldest first."""
        return sorted(self.directory.glob(f"{backup}.proof.*.json"))

    def prove(self, backup: str, proof: Proof) -> Path:
        """Write a proof beside a backup, whoever found it."""
        path = self.directory / make_proof_name(backup, proof.time)
        path.write_bytes(write_proof(backup, proof))
        return path

    @property
    def place(self) -> Place:
        return place_of("web1", self.database)

    @property
    def directory(self) -> Path:
        """Where the backups of the shop are."""
        return self.root / "backups" / self.place.path

    def artefact(self, result: BackupResult) -> Path:
        return self.directory / result.manifest.main.name

    def manifest(self, result: BackupResult) -> Path:
        return self.directory / f"{result.manifest.id}.manifest.json"

    def slots(self, backup: str) -> Path:
        """The newest key slots of a backup."""
        return max(self.directory.glob(f"{backup}.slots.*.json"))

    def rewrite(
        self, path: Path, change: Callable[[dict[str, Any]], Any], bind: bool = False, forget: bool = True
    ) -> None:
        """Let a manifest, or key slots, say something else, with a checksum that is right, as a forger would.

        With ``bind``, it is bound to its artefacts anew, as only one who has their data keys can. With ``forget`` it is
        news to the host, which would notice otherwise.
        """
        if forget:
            self.forget()
        document = json.loads(path.read_text(encoding="utf-8"))
        del document["sha256"]
        change(document)
        if bind:
            manifest = read_manifest(sealed(document), str(path))
            identities = keys.load_identities((self.private,))
            slots = self.slots(manifest.id)
            slots_of = read_generation(slots.name, slots.read_bytes()).slots
            for one in document["binding"]:
                data_key = keys.unwrap(slots_of, manifest.origin(one["artefact"]), identities, None)
                one["hmac"] = binding._mac(binding._from_data_key(data_key), one["artefact"], manifest.facts)
        path.write_bytes(sealed(document))

    def forget(self) -> None:
        """Let the host lose what it remembers of backups: whatever lies in the repository is news to it."""
        shutil.rmtree(self.host.state / "known", ignore_errors=True)

    def files(self) -> list[str]:
        """The names of all files in the repository, hidden ones too."""
        return sorted(path.name for path in (self.root / "backups").rglob("*") if path.is_file())

    def picture(self) -> dict[str, tuple[int, int, bytes]]:
        """Every file below the root with its inode, mode and content: two pictures are equal when nothing changed."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            status = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            found[str(path.relative_to(self.root))] = (status.st_ino, status.st_mode, content)
        return found
