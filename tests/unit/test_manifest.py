# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A manifest comes back as it was written, keeps what it does not know, and is never trusted."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _engine.errors import BadManifest
from _engine.manifest import read_manifest, read_proofs, write_manifest, write_proof
from _engine.model import (
    Artefact,
    Backup,
    Compression,
    Content,
    Encryption,
    Fingerprint,
    FingerprintKind,
    KeySlot,
    Level,
    Manifest,
    Outcome,
    Place,
    Previous,
    Proof,
    SlotKind,
    TableFingerprint,
)

WHERE = "Manifest /srv/backups/m"
TIME = datetime(2026, 3, 1, 2, 0, 0, 123456, tzinfo=timezone.utc)
ID = "shop-20260301T020000Z"
MANIFEST = Manifest(
    id=ID,
    host="web1",
    engine="postgresql",
    database='sh"op — ü',
    tier="daily",
    started=TIME,
    finished=TIME + timedelta(seconds=5),
    artefacts=(
        Artefact(f"{ID}.dump.zst.aes", 100, "a" * 64, 400, Compression.ZSTD, Encryption.AES256_GCM),
        Artefact(
            f"{ID}.globals.sql.zst.aes", 9, "b" * 64, 40, Compression.ZSTD, Encryption.AES256_GCM, Content.GLOBALS
        ),
    ),
    key_slots=(KeySlot(f"{ID}.dump.zst.aes", SlotKind.X25519, "c" * 64, {"enc": "AA==", "ciphertext": "AA=="}),),
    server_version="15.8",
    tool_versions={"pg_dump": "15.8"},
    fingerprint=Fingerprint(
        FingerprintKind.DIGEST, {'public."a b"': TableFingerprint(3, "12"), "public.c": TableFingerprint(0)}
    ),
    properties={"encoding": "UTF8"},
    durations={"dump": 1.5},
    previous=Previous("shop-20260228T020000Z", "d" * 64),
    labels={"reason": "before migration"},
    unknown={"from_the_future": [1, {"a": None}]},
)


def test_a_manifest_comes_back_as_it_was_written_with_what_it_does_not_know() -> None:
    content = write_manifest(MANIFEST)
    assert read_manifest(content, WHERE) == MANIFEST
    assert json.loads(content)["from_the_future"] == [1, {"a": None}]
    assert json.loads(content)["started"] == "2026-03-01T02:00:00.123456Z"


def test_the_main_artefact_and_the_globals_are_found() -> None:
    assert MANIFEST.main.name.endswith(".dump.zst.aes")
    assert MANIFEST.globals and MANIFEST.globals.name.endswith(".globals.sql.zst.aes")
    assert MANIFEST.bytes == 109


def changed(**fields: Any) -> bytes:
    document = json.loads(write_manifest(MANIFEST))
    document.update(fields)
    return json.dumps({key: value for key, value in document.items() if value is not ...}).encode()


def artefact(**fields: Any) -> list[dict[str, Any]]:
    return [{**json.loads(write_manifest(MANIFEST))["artefacts"][0], **fields}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut short or damaged"),
        (write_manifest(MANIFEST)[:500], "cut short or damaged"),
        (b"[]", "is not a JSON object"),
        (b"[" * 100_000, "cut short or damaged"),
        (changed(schema=2), "has schema 2, and this version reads up to 1. Update fleet.backup"),
        (changed(schema="1"), "schema of the wrong type"),
        (changed(id="../../etc/passwd"), "is not an id"),
        (changed(id=None), "has no id"),
        (changed(started="yesterday"), "a started that is no time"),
        (changed(started="0001-01-01T00:00:00+14:00"), "a started that is no time"),
        (changed(finished="0001-01-01T00:00:00Z"), "a finished of no age of backups"),
        (changed(database="\ud800"), "holds what is no text"),
        (changed(artefacts=[]), "does not name one artefact that holds the database"),
        (changed(artefacts=artefact() * 2, key_slots=[]), "does not name one artefact"),
        (changed(artefacts=artefact(name="../../etc/shadow"), key_slots=[]), "could lead out of the repository"),
        (changed(artefacts=artefact(name="/etc/shadow"), key_slots=[]), "could lead out of the repository"),
        (changed(artefacts=artefact(name="a\0b"), key_slots=[]), "could lead out of the repository"),
        (changed(artefacts=artefact(name="other-20260301T020000Z.dump"), key_slots=[]), "belongs to another backup"),
        (changed(artefacts=artefact(bytes=-1), key_slots=[]), "negative bytes"),
        (changed(artefacts=artefact(bytes=True), key_slots=[]), "bytes of the wrong type"),
        (changed(artefacts=artefact(sha256="zz"), key_slots=[]), "sha256 that is none"),
        (
            changed(artefacts=artefact(encryption="rot13"), key_slots=[]),
            "encryption 'rot13', which this version does not know",
        ),
        (changed(artefacts=["x"]), "holds str where an object belongs"),
        (changed(key_slots=[{"artefact": "x", "kind": "x25519"}]), "is not of this backup"),
        (changed(fingerprint={"kind": "counts", "tables": {"t": {"rows": -1}}}), "a fingerprint of t that is none"),
    ],
)
def test_a_bad_manifest_is_refused_with_its_name_and_a_reason(content: bytes, message: str) -> None:
    with pytest.raises(BadManifest) as caught:
        read_manifest(content, WHERE)
    assert message in str(caught.value)
    assert str(caught.value).startswith(WHERE)


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_any_bytes_are_a_manifest_or_a_bad_one(content: bytes) -> None:
    with pytest.raises(BadManifest):
        read_manifest(content, WHERE)


@given(
    st.sampled_from(sorted(json.loads(write_manifest(MANIFEST)))),
    st.none() | st.integers() | st.text() | st.lists(st.none()) | st.just({}),
)
def test_any_field_of_any_type_is_read_or_refused(name: str, value: Any) -> None:
    with suppress(BadManifest):
        read_manifest(changed(**{name: value}), WHERE)


def proof(level: Level, outcome: Outcome, hour: int) -> Proof:
    return Proof(level, outcome, TIME.replace(hour=hour, microsecond=0), "web1", "why", 1.5)


def backup(*proofs: Proof) -> Backup:
    return Backup(Place("web1", "postgresql", "shop"), MANIFEST, proofs)


def test_proofs_come_back_and_a_line_that_was_cut_short_proves_nothing() -> None:
    written = [proof(Level.RESTORE, Outcome.PASSED, 3), proof(Level.CHECKSUM, Outcome.UNVERIFIABLE, 4)]
    content = b"".join(write_proof(item) + b"\n" for item in written)
    assert list(read_proofs(content)) == written
    huge = b'{"level": "checksum", "outcome": "passed", "time": "2026-03-01", "host": "x", "seconds": 1' + b"0" * 400
    assert list(read_proofs(content + huge + b"}")) == written
    assert list(read_proofs(content + b'{"level": "restore", "outcome": "pas')) == written


def test_a_failed_proof_makes_a_backup_bad_until_one_as_strong_passes() -> None:
    failed = proof(Level.CONTENTS, Outcome.FAILED, 3)
    assert backup().known_bad is None
    assert backup(failed).known_bad == "contents verification failed: why"
    assert backup(failed, proof(Level.CHECKSUM, Outcome.PASSED, 4)).known_bad
    assert backup(proof(Level.RESTORE, Outcome.PASSED, 2), failed).known_bad
    assert backup(failed, proof(Level.RESTORE, Outcome.PASSED, 4)).known_bad is None
    assert backup(failed, proof(Level.RESTORE, Outcome.UNVERIFIABLE, 4)).known_bad


def test_a_weak_failure_after_a_strong_one_does_not_make_the_strong_one_easier_to_take_back() -> None:
    failures = (proof(Level.RESTORE, Outcome.FAILED, 3), proof(Level.CHECKSUM, Outcome.FAILED, 4))
    assert backup(*failures, proof(Level.CHECKSUM, Outcome.PASSED, 5)).known_bad
    assert backup(*failures, proof(Level.RESTORE, Outcome.PASSED, 5)).known_bad is None


def test_a_wrong_clock_cannot_take_a_failure_back() -> None:
    early = (proof(Level.CHECKSUM, Outcome.PASSED, 9), proof(Level.CHECKSUM, Outcome.FAILED, 4))
    assert backup(*early).known_bad


def test_what_could_not_be_checked_is_no_proof_and_no_failure() -> None:
    item = backup(proof(Level.RESTORE, Outcome.UNVERIFIABLE, 3))
    assert item.known_bad is None
    assert item.proven(Level.CHECKSUM) is None


def test_a_stronger_proof_proves_the_weaker_levels() -> None:
    item = backup(proof(Level.RESTORE, Outcome.PASSED, 3), proof(Level.CHECKSUM, Outcome.PASSED, 5))
    assert item.proven(Level.RESTORE).time.hour == 3  # type: ignore[union-attr]
    assert item.proven(Level.CHECKSUM).time.hour == 5  # type: ignore[union-attr]
    assert replace(item, defect="gone").proven(Level.CHECKSUM) is None


def test_fingerprints_name_each_difference() -> None:
    counts = Fingerprint(
        FingerprintKind.COUNTS, {"a": TableFingerprint(3), "b": TableFingerprint(1), "c": TableFingerprint(1, "x")}
    )
    other = Fingerprint(
        FingerprintKind.COUNTS, {"a": TableFingerprint(2), "c": TableFingerprint(1, "y"), "d": TableFingerprint(0)}
    )
    assert counts.differences(counts) == []
    assert counts.differences(other) == [
        "table a has 2 rows instead of 3",
        "table b is missing",
        "table c has other contents",
        "table d was not in the backup",
    ]
