# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is neither a backup nor a restore: listing, planning, starting."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path

from measure import OURS, Row, median, ours, timed

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "plugins" / "module_utils"))

from _engine.databases.postgresql.definition import Properties
from _engine.generations import write_generation
from _engine.manifest import write_manifest
from _engine.model import (
    Artefact,
    Backup,
    Compression,
    Encryption,
    Fingerprint,
    FingerprintKind,
    KeySlot,
    Manifest,
    Place,
    Policy,
    SlotKind,
    TableFingerprint,
)
from _engine.names import make_id, slots_name
from _engine.retention import plan

#: A start is short, and what else the machine does for a moment is long beside it.
STARTS = 25
NOW = datetime(2026, 3, 1, tzinfo=timezone.utc)


def manifest(database: str, moment: datetime) -> Manifest:
    """A manifest of the usual size: one artefact, twenty tables."""
    backup_id = make_id(database, moment)
    artefact = Artefact(f"{backup_id}.dump.zst.aes", 7, "a" * 64, 100, Compression.ZSTD, Encryption.AES256_GCM)
    return Manifest(
        id=backup_id,
        host="bench",
        engine="postgresql",
        database=database,
        started=moment,
        finished=moment + timedelta(seconds=5),
        artefacts=(artefact,),
        server_version="15.8",
        fingerprint=Fingerprint(
            FingerprintKind.COUNTS, {f"public.table_{n}": TableFingerprint(n * 1000) for n in range(20)}
        ),
        properties=Properties("UTF8", "C.UTF-8", "C.UTF-8", "shop", "pg_default", roles=("shop",)).written(),
    )


def slots(item: Manifest) -> list[KeySlot]:
    """The key slots of two recipients."""
    fields = {"enc": "A" * 44, "ciphertext": "A" * 64, "hmac": "b" * 64}
    return [KeySlot(item.main.name, SlotKind.X25519, letter * 64, fields) for letter in "ab"]


def measure(directory: Path, runs: int) -> list[Row]:
    """All rows of this kind."""
    return [*_listing(directory, 10_000, runs), _planning(100_000, runs), _starting(runs)]


def _listing(directory: Path, count: int, runs: int) -> list[Row]:
    print(f"==> Listing {count:,} backups", flush=True)
    repository = directory / "many"
    for number in range(count):
        item = manifest(f"shop{number % 10}", NOW - timedelta(hours=number // 10))
        place = repository / "bench" / "postgresql" / item.database
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{item.id}.manifest.json").write_bytes(write_manifest(item))
        (place / slots_name(item.id, 1)).write_bytes(write_generation(item.id, 1, NOW, slots(item)))
        (place / item.main.name).write_bytes(b"content")
    cold, warm = [], []
    for _run in range(runs):
        state = Path(tempfile.mkdtemp(prefix="state-", dir=directory))
        cold.append(_listed(repository, state, count))
        warm.append(_listed(repository, state, count))
    what = f"backup_info over {count:,} backups"
    return [
        Row(f"{what}, cold", "1 s", median(cold), "", None, {"seconds": cold}),
        Row(f"{what}, with the cache", "1 s", median(warm), "under 1", median(warm) < 1, {"seconds": warm}),
    ]


def _listed(repository: Path, state: Path, count: int) -> float:
    report = ours("info", repository=repository, state=state)
    if (report["backups"], report["problems"]) != (count, 0):
        sys.exit(f"{count} backups were listed as {report['backups']} backups and {report['problems']} problems.")
    seconds: float = report["seconds"]
    return seconds


def _planning(count: int, runs: int) -> Row:
    print(f"==> Planning the retention of {count:,} backups", flush=True)
    place = Place("bench", "postgresql", "shop")
    backups = [Backup(place, manifest("shop", NOW - timedelta(minutes=7 * number))) for number in range(count)]
    policy = Policy(last=10, hourly=24, daily=30, weekly=8, monthly=12, yearly=5, timezone="Europe/Berlin")
    times = [timed(lambda: plan(backups, policy, NOW)) for _run in range(runs)]
    seconds = median(times)
    return Row(f"retention plan over {count:,} backups", "1 s", seconds, "under 1", seconds < 1, {"seconds": times})


def _starting(runs: int) -> Row:
    print("==> Starting", flush=True)
    code = "import sys; sys.path.insert(0, sys.argv[1]); import _engine.backup, _engine.restore, _engine.info"
    command = [sys.executable, "-I", "-c", code, str(OURS.parent.parent / "plugins" / "module_utils")]
    times = [timed(lambda: subprocess.run(command, check=True)) for _run in range(STARTS)]
    seconds = median(times)
    return Row(
        "start of the engine, all verbs", "0.15 s", seconds / 0.15, "under 1", seconds < 0.15, {"seconds": times}
    )
