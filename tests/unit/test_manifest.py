# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A manifest comes back as it was written, keeps what it does not know, and is never trusted."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from _engine.documents import manifest_document
from _engine.errors import BadManifest
from _engine.manifest import MANIFEST_LIMIT, read_manifest, skim_manifest, write_manifest
from _engine.model import (
    Artefact,
    Backup,
    Compression,
    Content,
    Encryption,
    Fingerprint,
    FingerprintKind,
    Level,
    Manifest,
    Outcome,
    Place,
    Previous,
    Proof,
    TableFingerprint,
    Totals,
)
from _engine.names import make_proof_name
from _engine.proofs import Judgement, read_stored, write_proof
from _engine.sealed import sealed
from _engine.shapes import Misshapen
from _engine.timespan import format_size

WHERE = "Manifest /srv/backups/m"
TIME = datetime(2026, 3, 1, 2, 0, 0, 123456, tzinfo=timezone.utc)
ID = "shop-20260301T020000Z-h3k7"
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
    server_version="15.8",
    tool_versions={"pg_dump": "15.8"},
    fingerprint=Fingerprint(
        FingerprintKind.DIGEST, {'public."a b"': TableFingerprint(3, "12"), "public.c": TableFingerprint(0)}
    ),
    properties={"encoding": "UTF8"},
    durations={"dump": 1.5},
    previous=Previous("shop-20260228T020000Z-h3k7", "d" * 64),
    labels={"reason": "before migration"},
)


def skim(content: bytes, where: str) -> Manifest:
    """A manifest as listings keep it, whatever its properties are."""
    return skim_manifest(content, where, lambda *_properties: None)


def test_a_manifest_comes_back_as_it_was_written() -> None:
    content = write_manifest(MANIFEST)
    assert read_manifest(content, WHERE) == MANIFEST
    assert json.loads(content)["started"] == "2026-03-01T02:00:00.123456Z"


def test_what_a_manifest_says_beyond_what_is_known_is_bound_with_it() -> None:
    later = read_manifest(changed(from_the_future=[1, {"a": None}]), WHERE)
    assert later == MANIFEST and later.facts != read_manifest(write_manifest(MANIFEST), WHERE).facts


def test_the_main_artefact_and_the_globals_are_found() -> None:
    assert MANIFEST.main.name.endswith(".dump.zst.aes")
    assert MANIFEST.globals and MANIFEST.globals.name.endswith(".globals.sql.zst.aes")
    assert MANIFEST.bytes == 109


def document(**fields: Any) -> dict[str, Any]:
    """The manifest as an object, with other fields, or without those that are ``...``."""
    found = json.loads(write_manifest(MANIFEST))
    del found["sha256"]
    found.update(fields)
    return {key: value for key, value in found.items() if value is not ...}


def changed(**fields: Any) -> bytes:
    return raw(json.dumps(document(**fields)).encode()[:-1])


def artefact(**fields: Any) -> list[dict[str, Any]]:
    return [{**document()["artefacts"][0], **fields}]


def raw(content: bytes) -> bytes:
    """Bytes as a manifest without its last brace, and the end that they would have."""
    return content + b',\n "sha256": "' + hashlib.sha256(content).hexdigest().encode() + b'"\n}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut short or damaged"),
        (write_manifest(MANIFEST)[:500], "cut short or damaged"),
        (write_manifest(MANIFEST).replace(b"web1", b"web2"), "does not have the SHA-256 that it ends with"),
        (raw(b"[" * 100_000), "nested deeper than any such file"),
        (raw(b'{"a": ' * 17 + b"1"), "nested deeper than any such file"),
        (raw(b'{"a": [' + b"[]," * 230_000 + b"[]]"), "holds more values than any such file"),
        (raw(b'{"a": [' + b"1," * 700_001 + b"1]"), "holds more values than any such file"),
        (raw(b'{"a": ' + b"9" * 5_000), "a number of 5000 digits"),
        (raw(b'{"a": NaN'), "NaN, which is not JSON"),
        (raw(b'{"a": -Infinity'), "-Infinity, which is not JSON"),
        (raw(b'{"a": 1e999'), "a number that is out of range"),
        (raw(b'{"a": "\xff"'), "is not whole JSON"),
        (raw('{"a": 1'.encode("utf-16")), "is not whole JSON"),
        (changed(schema=2), "has schema 2, and this version reads up to 1. Update fleet.backup"),
        (changed(schema="1"), "schema is not a whole number"),
        (changed(id="../../etc/passwd"), "id is not the id of a backup"),
        (changed(id=None), "id is missing"),
        (changed(started="yesterday"), "started is not a time"),
        (changed(started="0001-01-01T00:00:00+14:00"), "started is not a time"),
        (changed(finished="0001-01-01T00:00:00Z"), "finished is not a plausible time"),
        (changed(finished="9999-12-31T23:59:59Z"), "finished is not a plausible time"),
        (changed(database="\ud800"), "holds half a character"),
        (changed(artefacts=[]), "does not name one artefact that holds the database"),
        (changed(artefacts=artefact() * 2), "does not name one artefact"),
        (changed(artefacts=artefact() * 3), "artefacts has more than 2 items"),
        (changed(artefacts=artefact(name="../../etc/shadow")), "could lead out of the repository"),
        (changed(artefacts=artefact(name="/etc/shadow")), "could lead out of the repository"),
        (changed(artefacts=artefact(name="a\0b")), "could lead out of the repository"),
        (changed(artefacts=artefact(name="other" + ID[4:] + ".dump")), "belongs to another backup"),
        (changed(artefacts=artefact(bytes=-1)), "artefacts[0].bytes is out of range"),
        (changed(artefacts=artefact(bytes=True)), "artefacts[0].bytes is not a whole number"),
        (changed(artefacts=artefact(bytes=2**63)), "artefacts[0].bytes is out of range"),
        (changed(artefacts=artefact(bytes=10**400)), "a number of 401 digits"),
        (changed(artefacts=artefact(plain_bytes=10**400)), "a number of 401 digits"),
        (changed(artefacts=artefact(plain_bytes=10**15)), "is more than 100 stored bytes can hold"),
        (
            changed(
                artefacts=[*artefact(), *artefact(content="globals", name=f"{ID}.g", bytes=10**9, plain_bytes=10**9)]
            ),
            "artefacts[1].plain_bytes is more than",
        ),
        (changed(artefacts=artefact(sha256="zz")), "artefacts[0].sha256 is invalid"),
        (
            changed(artefacts=artefact(encryption="rot13")),
            "encryption has the value 'rot13', which this version does not know",
        ),
        (changed(artefacts=["x"]), "artefacts[0] is not an object"),
        (sealed(document(labels={"a": "x" * MANIFEST_LIMIT})), "is larger than 25165824 bytes"),
        (
            changed(fingerprint={"kind": "counts", "tables": {"t": {"rows": -1}}}),
            "tables.t.rows is not a number of rows",
        ),
        (
            changed(fingerprint={"kind": "counts", "tables": {"t": {"rows": 1, "digest": 2}}}),
            "tables.t.digest is invalid",
        ),
        (raw(json.dumps(document()).replace('"tier": ', '"tier": "x", "tier": ').encode()[:-1]), "names a field twice"),
        (changed(properties=[1, 2]), "properties is not an object"),
        (changed(tool_versions={"pg_dump": ["15"]}), "tool_versions.pg_dump is not a text"),
        (changed(labels={"a": {"b": 1}}), "labels.a is not a text"),
        (changed(durations={"dump": "long"}), "durations.dump is not a number"),
        (changed(durations={"dump": 1e300}), "durations.dump is out of range"),
        (changed(tier="\x1b[2J\x9b31m\u202edaily"), "tier holds control characters"),
        (changed(tier="x" * 1_000), "tier is longer than 200 characters"),
        (changed(previous={"id": "x", "sha256": "y"}), "previous.sha256 is invalid"),
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
    with pytest.raises(BadManifest):
        read_manifest(raw(content), WHERE)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(10**17, 10**400) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a value stands in a document, and all that it holds."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield from paths(item, (*path, name))


@settings(max_examples=6 * settings.default.max_examples, deadline=None)
@given(st.sampled_from(list(paths(document()))), VALUES)
def test_any_value_at_any_place_of_a_manifest_is_read_or_refused(path: tuple[Any, ...], value: Any) -> None:
    whole = {"": document()}
    place: Any = whole
    for name in ("", *path)[:-1]:
        place = place[name]
    place[("", *path)[-1]] = value
    content = json.dumps(whole[""], indent=1).encode()
    content = raw(content[:-2] if content.endswith(b"\n}") else content)
    for read in (read_manifest, skim):
        with suppress(BadManifest):
            manifest = read(content, WHERE)
            # What is read can be shown, counted with, and written again.
            json.dumps(manifest_document(manifest, ()))
            [format_size(artefact.plain_bytes) for artefact in manifest.artefacts]
            assert read_manifest(write_manifest(read_manifest(content, WHERE)), WHERE).id == manifest.id


def test_no_single_bit_of_a_manifest_changes_unnoticed() -> None:
    content = write_manifest(MANIFEST)
    for place in range(len(content)):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            with pytest.raises(BadManifest):
                read_manifest(bytes(flipped), WHERE)


def test_a_manifest_without_its_tables_is_summed_up() -> None:
    content = write_manifest(MANIFEST)
    summary, whole = skim(content, WHERE), read_manifest(content, WHERE)
    assert (summary.fingerprint, summary.totals) == (None, Totals(FingerprintKind.DIGEST, 2, 3))
    assert whole.totals == summary.totals
    assert manifest_document(whole, ()) == manifest_document(summary, ())


def test_the_largest_manifests_are_read_in_bounded_memory() -> None:
    """One of 100,000 tables, and hostile ones of the greatest size; by a process of its own, which is measured."""
    script = r"""
import json, sys, hashlib
sys.path.insert(0, sys.argv[1])
from _engine.manifest import MANIFEST_LIMIT, read_manifest, skim_manifest
from _engine.sealed import sealed
from _engine.errors import BadManifest
def peak():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM:")]
    return int(line.split()[1])
document = json.loads(sys.stdin.buffer.read())
tables = {f'"a schema"."table number {n}"': {"rows": n, "digest": "1" * 40} for n in range(100_000)}
content = sealed(dict(document, fingerprint={"kind": "digest", "tables": tables}))
assert len(content) < MANIFEST_LIMIT, len(content)
assert skim_manifest(content, "m", lambda *_properties: None).totals.tables == 100_000
del tables, content
before = peak()
room = MANIFEST_LIMIT - 200
for piece in (b"[],", b'{"a":1},', b'"a",', b"1,", '"\U0001f600\u00e4",'.encode(), b'"' + b"x" * 1000 + b'",', b"\\"):
    body = b'{"a": [' + (piece * (room // len(piece) + 1))[:room]
    end = b',\n "sha256": "' + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'
    try:
        read_manifest(body + end, "m")
        raise SystemExit("read")
    except BadManifest:
        pass
print(before, peak())
"""
    engine = Path(__file__).parents[2] / "plugins" / "module_utils"
    command = [sys.executable, "-c", script, str(engine)]
    content = json.dumps(document()).encode()
    run = subprocess.run(command, input=content, stdout=subprocess.PIPE, check=True)
    before, after = map(int, run.stdout.split())
    assert before < 200 << 10
    assert after < 250 << 10


def proof(level: Level, outcome: Outcome, hour: int) -> Proof:
    return Proof(level, outcome, TIME.replace(hour=hour, microsecond=0), "web1", "why", 1.5)


def backup(*proofs: Proof) -> Backup:
    return Backup(Place("web1", "postgresql", "shop"), MANIFEST, proofs)


def judged(*found: Proof | str) -> Judgement:
    """What is found of a backup's proofs, given from the oldest to the newest."""
    judgement = Judgement()
    for number, one in reversed(list(enumerate(found))):
        judgement.tell(f"{number}", one)
    return judgement


def test_a_proof_comes_back_as_it_was_written() -> None:
    written = proof(Level.RESTORE, Outcome.PASSED, 3)
    assert read_stored(make_proof_name(ID, written.time), write_proof(ID, written)) == written


PROVEN = make_proof_name(ID, TIME.replace(hour=3))
WHOLE = write_proof(ID, proof(Level.RESTORE, Outcome.PASSED, 3))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"null\n",
        b"[" * 9000 + b"\n",
        WHOLE[:40],
        WHOLE * 2,
        WHOLE.replace(b'"seconds": 1.5', b'"seconds": 1' + b"0" * 400),
        WHOLE.replace(b'"level"', b'"level": "restore", "level"'),
        write_proof(ID[:-1] + "6", proof(Level.RESTORE, Outcome.PASSED, 3)),
        write_proof(ID, proof(Level.RESTORE, Outcome.PASSED, 4)),
    ],
)
def test_what_is_no_proof_of_this_backup_and_time_is_none(content: bytes) -> None:
    with pytest.raises(Misshapen):
        read_stored(PROVEN, content)


def test_a_proof_that_cannot_be_read_leaves_the_backup_unjudged_until_a_restore_passes() -> None:
    passed, checked = proof(Level.RESTORE, Outcome.PASSED, 3), proof(Level.CHECKSUM, Outcome.PASSED, 4)
    assert judged(passed, "torn").unjudged == "torn"
    assert judged(passed, "torn", checked).unjudged == "torn"
    assert judged(passed, "first", "second").unjudged == "second"
    settled = judged(passed, "torn", checked, passed)
    assert (settled.unjudged, settled.proofs) == (None, (checked, passed))
    assert settled.superseded == ["1", "0"]


def test_the_newest_proof_of_a_kind_counts_and_the_others_are_superseded() -> None:
    written = [
        proof(Level.CONTENTS, Outcome.FAILED, 3),
        proof(Level.CONTENTS, Outcome.PASSED, 4),
        proof(Level.CONTENTS, Outcome.FAILED, 5),
    ]
    found = judged(*written)
    assert (found.proofs, found.superseded, found.unjudged) == (tuple(written[1:]), ["0"], None)


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
