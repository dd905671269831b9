# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Verifying: each level finds what it must, and what could not be checked never passes."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import tempfile
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Iterator

import pytest

from _engine import keys
from _engine import verify as verification
from _engine.catalogue import read_place
from _engine.errors import BadInput, NoSpace
from _engine.model import Encryption, EncryptionSettings, FingerprintKind, Level, Outcome, Scratch
from _engine.repositories.local import LocalRepository
from _engine.verify import Assertion, Check, plan_verification
from world import World

if TYPE_CHECKING:
    from postgres import Cluster

PLAIN = EncryptionSettings(method=Encryption.NONE)


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "world")
    made.make_shop()
    return made


def only(world: World, **changes: object) -> Check:
    result = world.verify(**changes)
    (check,) = result.checks
    assert result.passed == (check.outcome is Outcome.PASSED)
    return check


@pytest.mark.parametrize("level", list(Level))
def test_a_good_backup_passes_each_level_and_the_proof_is_recorded(world: World, level: Level) -> None:
    world.backup(fingerprint=FingerprintKind.DIGEST)
    check = only(world, level=level)
    assert (check.outcome, check.detail) == (Outcome.PASSED, "")
    (backup,) = world.catalogue().backups
    proof = backup.proven(level)
    assert proof is not None
    assert proof.host == "web1"


def test_a_flipped_bit_fails_every_level_and_makes_the_backup_known_bad(world: World) -> None:
    result = world.backup()
    path = world.artefact(result)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    for level in Level:
        assert (only(world, level=level).outcome, only(world, level=level).code) == (Outcome.FAILED, "damaged")
    (backup,) = world.catalogue().backups
    assert "is damaged" in (backup.known_bad or "")


def test_a_backup_that_is_mended_is_good_again_once_that_is_proven(world: World) -> None:
    result = world.backup()
    path = world.artefact(result)
    content = path.read_bytes()
    path.write_bytes(b"x" * len(content))
    assert only(world).outcome is Outcome.FAILED
    path.write_bytes(content)
    assert world.catalogue().good == ()
    assert only(world).outcome is Outcome.PASSED
    assert len(world.catalogue().good) == 1


def test_a_truncated_or_missing_artefact_fails(world: World) -> None:
    result = world.backup()
    path = world.artefact(result)
    path.write_bytes(path.read_bytes()[:-1])
    assert (only(world).outcome, only(world).code) == (Outcome.FAILED, "damaged")
    path.unlink()
    assert "is missing" in only(world).detail


@pytest.mark.parametrize("level", [Level.CONTENTS, Level.RESTORE])
def test_without_the_right_key_a_backup_is_unverifiable_and_not_bad(world: World, level: Level) -> None:
    world.backup()
    stranger = EncryptionSettings(identities=(keys.generate().decode(),))
    assert only(world, level=level, encryption=stranger).code == "wrong_key"
    check = only(world, level=level, encryption=EncryptionSettings())
    assert (check.outcome, check.code) == (Outcome.UNVERIFIABLE, "no_key")
    assert len(world.catalogue().good) == 1


def test_a_checksum_needs_no_key(world: World) -> None:
    world.backup()
    assert only(world, encryption=EncryptionSettings()).outcome is Outcome.PASSED


def test_a_backup_without_a_fingerprint_cannot_be_proven_by_restoring_it(world: World) -> None:
    world.backup(fingerprint=FingerprintKind.NONE)
    assert only(world, level=Level.CONTENTS).outcome is Outcome.PASSED
    assert (only(world, level=Level.RESTORE).outcome, only(world, level=Level.RESTORE).code) == (
        Outcome.UNVERIFIABLE,
        "unverifiable",
    )


def test_contents_that_are_no_database_fail_although_every_byte_is_there(world: World) -> None:
    result = world.backup(encryption=PLAIN, compression=world.backup_request().compression.NONE)
    path = world.artefact(result)
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(bytes(content))

    digest = hashlib.sha256(content).hexdigest()
    world.rewrite(world.manifest(result), lambda document: document["artefacts"][0].update(sha256=digest))
    assert only(world, level=Level.CHECKSUM, encryption=PLAIN).outcome is Outcome.PASSED
    for level in (Level.CONTENTS, Level.RESTORE):
        check = only(world, level=level, encryption=PLAIN)
        assert (check.outcome, check.code) == (Outcome.FAILED, "mismatch")


def test_a_missing_table_fails(world: World) -> None:
    result = world.backup()
    tables = {"customers": {"rows": 5}}
    world.rewrite(world.manifest(result), lambda document: document["fingerprint"]["tables"].update(tables), bind=True)
    check = only(world, level=Level.RESTORE)
    assert (check.outcome, check.code) == (Outcome.FAILED, "mismatch")
    assert "table customers is missing" in check.detail


@pytest.mark.parametrize(
    ("sql", "expect", "holds"),
    [
        ("SELECT count(*) FROM orders", 100, True),
        ("SELECT count(*) FROM orders", "100", True),
        ("SELECT count(*) FROM orders", 99, False),
        ("SELECT id FROM orders WHERE id < 3 ORDER BY id", [[1], [2]], True),
        ("SELECT id FROM orders WHERE id < 3 ORDER BY id", [1, 2], True),
        ("SELECT id FROM orders WHERE id < 3 ORDER BY id", [[2], [1]], False),
        ("SELECT id FROM orders WHERE id < 0", [], True),
        ("SELECT id FROM orders WHERE id < 3", 1, False),
        ("SELECT nothing FROM orders", 1, False),
        ("DELETE FROM orders", [], False),
        ("SELECT count(*) = 100 FROM orders", True, True),
        ("SELECT count(*) FROM orders", True, False),
        ("SELECT count(*) > 100 FROM orders", False, True),
        ("SELECT max(id), max(id) > 1, NULL FROM orders", [[100, True, None]], True),
        ("SELECT max(id) FROM orders WHERE id < 0", None, True),
        ("SELECT max(id) FROM orders", None, False),
        ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000000) SELECT i FROM n", [], False),
    ],
)
def test_assertions_are_tried_on_the_restored_database(world: World, sql: str, expect: object, holds: bool) -> None:
    world.backup()
    check = only(world, level=Level.RESTORE, assertions=(Assertion(sql, expect, "orders are there"),))
    assert (check.outcome is Outcome.PASSED) == holds
    if not holds:
        assert check.code == "assertion_failed"
    # What a user asks of the data condemns no backup, and proves none.
    (backup,) = world.catalogue().backups
    assert backup.known_bad is None
    assert (backup.proven(Level.RESTORE) is not None) == holds


@pytest.mark.parametrize(
    "sql",
    [
        "ATTACH '{file}' AS a",
        "VACUUM INTO '{file}'",
        "PRAGMA query_only = OFF",
        "DELETE FROM orders",
        "CREATE TABLE t (a)",
    ],
)
def test_an_assertion_looks_at_the_copy_and_touches_nothing_else(world: World, tmp_path: Path, sql: str) -> None:
    world.backup()
    file = tmp_path / "other.db"
    assertion = Assertion(sql.format(file=file), [])
    check = only(world, level=Level.RESTORE, assertions=(assertion,))
    assert (check.outcome, check.code) == (Outcome.FAILED, "assertion_failed")
    assert not file.exists()


def test_no_row_of_a_database_lands_in_a_proof_or_a_message(world: World) -> None:
    world.backup()
    wanted = (
        Assertion("SELECT item FROM orders WHERE id < 4", [["other"]]),
        Assertion("SELECT item FROM orders LIMIT 1", 1),
    )
    items = [item for _id, item in world.orders()[:4]]
    for assertion in wanted:
        check = only(world, level=Level.RESTORE, assertions=(assertion,))
        assert check.code == "assertion_failed"
        proofs = "".join(path.read_text() for path in world.directory.glob("*.proof.*"))
        assert not [item for item in items if item in check.detail or item in proofs]


def test_a_program_that_is_killed_condemns_no_backup(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.backup()
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "zstd").write_text("#!/bin/sh\nkill -9 $$\n")
    (tools / "zstd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    check = only(world, level=Level.CONTENTS)
    assert (check.outcome, check.code) == (Outcome.UNVERIFIABLE, "tool_failed")
    assert len(world.catalogue().good) == 1


def test_a_backup_from_the_future_hides_no_stale_ones(world: World) -> None:
    world.clock.moment += timedelta(days=365)
    world.backup()
    world.clock.moment -= timedelta(days=365)
    checks = world.verify(max_age=timedelta(hours=26)).checks
    assert checks[0].code == "stale"


def test_a_backup_from_the_future_is_not_verified_night_after_night_in_place_of_the_newest(world: World) -> None:
    world.clock.moment += timedelta(days=30)
    odd = world.backup()
    world.clock.moment -= timedelta(days=30)
    (refused, passed) = world.verify().checks
    assert (refused.outcome, refused.code, passed.outcome) == (Outcome.FAILED, "refused", Outcome.PASSED)
    assert odd.manifest.id in refused.detail
    assert passed.backup == odd.manifest.id
    usual = world.backup()
    (refused, passed) = world.verify().checks
    assert refused.code == "refused"
    assert (passed.backup, passed.outcome) == (usual.manifest.id, Outcome.PASSED)
    assert world.verify(backup=odd.manifest.id).passed
    assert world.verify(backup="all").passed
    world.clock.moment += timedelta(days=30)
    assert only(world).backup == odd.manifest.id


def test_all_of_them_or_a_sample_that_reaches_each_in_its_turn(world: World) -> None:
    ids = [world.backup().manifest.id for _number in range(4)]
    assert [check.backup for check in world.verify(backup="all").checks] == ids
    sampled = [
        check.backup
        for _night in range(2)
        for check in world.verify(backup="all", sample=2, level=Level.CONTENTS).checks
    ]
    assert sorted(sampled) == sorted(ids)


def test_one_bad_backup_stops_no_other(world: World) -> None:
    first, second = world.backup(), world.backup()
    world.artefact(first).write_bytes(b"x" * first.manifest.main.bytes)
    result = world.verify(backup="all")
    assert not result.passed
    assert [(check.backup, check.outcome) for check in result.checks] == [
        (first.manifest.id, Outcome.FAILED),
        (second.manifest.id, Outcome.PASSED),
    ]


def test_what_should_be_there_and_is_not_fails(world: World) -> None:
    assert (only(world).code, only(world).outcome) == ("not_found", Outcome.FAILED)
    result = world.backup()
    assert only(world, backup="shop-20200101T000000Z-h3k7").code == "not_found"
    world.manifest(result).write_text("{")
    codes = [check.code for check in world.verify(backup="all").checks]
    assert "bad_manifest" in codes


def test_a_repository_that_cannot_be_read_is_unverifiable_and_the_other_is_verified(world: World) -> None:
    world.backup()
    missing = LocalRepository(world.root / "missing")
    result = world.verify(repositories=(missing, world.repository))
    assert [check.outcome for check in result.checks] == [Outcome.UNVERIFIABLE, Outcome.PASSED]
    assert not result.passed


def test_a_newest_backup_that_is_too_old_or_bad_fails(world: World) -> None:
    result = world.backup()
    assert only(world, max_age=timedelta(hours=1)).outcome is Outcome.PASSED
    world.clock.moment += timedelta(hours=2)
    checks = world.verify(max_age=timedelta(hours=1)).checks
    assert [(check.outcome, check.code) for check in checks] == [(Outcome.FAILED, "stale"), (Outcome.PASSED, None)]
    assert "2h" in checks[0].detail
    assert result.changed


def full(*_arguments: object) -> None:
    raise NoSpace("The disk is full.")


def test_a_proof_that_cannot_be_recorded_is_no_pass(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.backup()
    monkeypatch.setattr(LocalRepository, "store", full)
    check = only(world)
    assert check.outcome is Outcome.UNVERIFIABLE
    assert "the proof could not be recorded" in check.detail


def test_a_failure_whose_proof_cannot_be_recorded_is_remembered_by_the_host(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = world.backup()
    artefact = world.directory / result.manifest.main.name
    artefact.write_bytes(artefact.read_bytes()[:-1] + b"?")
    monkeypatch.setattr(LocalRepository, "store", full)
    check = only(world)
    assert check.outcome is Outcome.FAILED and "could not be recorded" in check.detail
    (backup,) = read_place(world.host, world.repository, world.place).backups
    assert "is damaged" in (backup.known_bad or "")


def test_check_mode_changes_no_byte_and_names_what_would_be_verified(world: World) -> None:
    world.backup()
    second = world.backup()
    before = world.picture()
    (planned,) = plan_verification(world.verify_request(), world.host)
    assert world.picture() == before
    assert not isinstance(planned, Check)
    repository, backup = planned
    assert (repository, backup.id) == (world.repository, second.manifest.id)


def test_check_mode_names_what_would_fail(world: World) -> None:
    (check,) = plan_verification(world.verify_request(), world.host)
    assert isinstance(check, Check)
    assert check.code == "not_found"


def test_a_sample_reaches_every_backup_although_one_never_passes(world: World) -> None:
    made = [world.backup() for _number in range(3)]
    world.artefact(made[0]).write_bytes(b"x" * made[0].manifest.main.bytes)
    sampled = [world.verify(backup="all", sample=1).checks[0].backup for _night in range(3)]
    assert sorted(sampled) == sorted(result.manifest.id for result in made)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory that the account which verifies can reach."""
    directory = Path(tempfile.mkdtemp(prefix="verify-test-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def test_nothing_is_left_in_the_scratch_directory(world: World, scratch: Path) -> None:
    world.backup()
    for level in Level:
        assert only(world, level=level, scratch=Scratch(scratch)).outcome is Outcome.PASSED
    assert list(scratch.iterdir()) == []
    assert only(world, level=Level.RESTORE, scratch=Scratch(world.root / "missing")).outcome is Outcome.UNVERIFIABLE
    if os.geteuid() == 0:
        (scratch / "private").mkdir(mode=0o700)
        check = only(world, level=Level.RESTORE, scratch=Scratch(scratch / "private"))
        assert check.outcome is Outcome.UNVERIFIABLE
        assert f"chmod o+x {scratch}/private" in check.detail


@pytest.mark.skipif(os.geteuid() != 0, reason="without root it verifies as itself")
def test_no_other_account_stands_in_for_the_one_that_verifies(
    world: World, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.backup()
    monkeypatch.setattr("_engine.scratch.ACCOUNT", "fleet-backup-missing")
    monkeypatch.setenv("TMPDIR", str(scratch))
    for level in (Level.CONTENTS, Level.RESTORE):
        check = only(world, level=level)
        assert check.outcome is Outcome.UNVERIFIABLE
        assert "useradd --system" in check.detail and "fleet-backup-missing" in check.detail
        # Its name has to be given.
        assert only(world, level=level, scratch=Scratch(become_user="nobody")).outcome is Outcome.PASSED
    assert "root" in only(world, level=Level.RESTORE, scratch=Scratch(become_user="root")).detail


def verify_in_a_child(world: World, at_the_copy: Callable[..., object], **changes: object) -> int:
    """Verify in another process, which does something once its copy is restored; its process id."""
    child = os.fork()
    if child == 0:
        # Whatever happens in here, pytest's own cleaning up must not run twice.
        try:
            verification.check_staged = at_the_copy  # type: ignore[assignment]
            world.verify(level=Level.RESTORE, **changes)
        finally:
            os._exit(1)
    return child


def die(*_arguments: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait(*_arguments: object) -> None:
    time.sleep(60)


def expect_killed(child: int) -> None:
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def test_what_a_killed_verification_left_decrypted_is_removed_by_the_next_one(world: World, scratch: Path) -> None:
    world.backup()
    for _attempt in range(2):
        expect_killed(verify_in_a_child(world, die, scratch=Scratch(scratch)))
        (left,) = scratch.iterdir()
        # The process that works on the copy removes it when its parent is gone, unless it is killed too.
        (work,) = (path for path in left.iterdir() if path.is_dir())
        (work / "copy").write_bytes(bytes(5000))
    assert only(world, level=Level.RESTORE, scratch=Scratch(scratch)).outcome is Outcome.PASSED
    assert list(scratch.iterdir()) == []


def test_the_scratch_copy_of_a_living_verification_is_left_alone(world: World, scratch: Path) -> None:
    world.backup()
    child = verify_in_a_child(world, wait, scratch=Scratch(scratch))
    try:
        while not [path for path in scratch.rglob("*") if path.is_file() and path.stat().st_size > 4096]:
            time.sleep(0.01)
        before = sorted(scratch.rglob("*"))
        # One with the state of another directory does not wait for the lock of the first.
        world.host = replace(world.host, state=world.root / "other state")
        assert only(world, level=Level.RESTORE, scratch=Scratch(scratch)).outcome is Outcome.PASSED
        assert sorted(scratch.rglob("*")) == before
    finally:
        os.kill(child, signal.SIGKILL)
        expect_killed(child)
    assert only(world, level=Level.RESTORE, scratch=Scratch(scratch)).outcome is Outcome.PASSED
    assert list(scratch.iterdir()) == []


def test_nothing_but_what_a_verification_of_this_account_left_is_removed(world: World, scratch: Path) -> None:
    world.backup()
    elsewhere = world.root / "elsewhere"
    unlocked, foreign = scratch / "fleet-backup-verify-unlocked", scratch / "fleet-backup-verify-foreign"
    for directory in (elsewhere, unlocked, foreign):
        directory.mkdir()
        (directory / "data").write_text("data")
    for directory in (elsewhere, foreign):
        (directory / "lock").touch()
    os.chown(foreign, 12345, 12345)
    (scratch / "fleet-backup-verify-link").symlink_to(elsewhere)
    (scratch / "fleet-backup-verify-file").write_text("data")
    before = sorted([*scratch.rglob("*"), *elsewhere.rglob("*")])
    assert only(world, level=Level.RESTORE, scratch=Scratch(scratch)).outcome is Outcome.PASSED
    assert sorted([*scratch.rglob("*"), *elsewhere.rglob("*")]) == before


def test_the_scratch_database_of_a_killed_verification_is_dropped_by_the_next_one(
    tmp_path: Path, cluster: Cluster, database: str
) -> None:
    world = World(tmp_path / "world")
    world.database = cluster.database(database)
    cluster.sql("CREATE TABLE orders AS SELECT n FROM generate_series(1, 1000) AS n", database)
    world.backup()
    before = cluster.databases()
    expect_killed(verify_in_a_child(world, die, scratch=cluster.as_scratch))
    (left,) = set(cluster.databases()) - set(before)
    assert left.startswith(f"{database}__verifying")
    # The server needs a moment to notice that the killed session is gone, whose claim protects the copy until then.
    while cluster.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"):
        time.sleep(0.01)
    # Of another backup, so that the next one's copy has another name.
    world.backup()
    assert only(world, level=Level.RESTORE, scratch=cluster.as_scratch).outcome is Outcome.PASSED
    assert cluster.databases() == before


def test_options_that_make_no_sense_are_refused(world: World) -> None:
    for changes, message in (
        ({"sample": 0, "backup": "all"}, "sample is 0"),
        ({"sample": 1}, "Set backup to all"),
        ({"assertions": (Assertion("SELECT 1", 1),)}, "Set level to restore"),
        ({"repositories": ()}, "no repository"),
    ):
        with pytest.raises(BadInput, match=message):
            world.verify(**changes)
