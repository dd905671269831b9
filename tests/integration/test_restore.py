# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Restoring: which backup is meant, what is checked, and that a failure leaves the target as it was."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Callable

import pytest

from _engine.backup import BackupResult
from _engine.documents import summary_document
from _engine.errors import (
    BadInput,
    BadManifest,
    Damaged,
    EngineError,
    Mismatch,
    NoKey,
    NoSpace,
    NotFound,
    Refused,
    TargetExists,
    WrongKey,
)
from _engine.info import InfoRequest, inform
from _engine.model import Compression, Encryption, EncryptionSettings, FingerprintKind
from _engine.repositories.local import LocalRepository
from _engine.restore import plan_restore
from _engine.timespan import format_time
from world import World

PLAIN = EncryptionSettings(method=Encryption.NONE)


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "world")
    made.make_shop()
    return made


def other(world: World, name: str = "other.db") -> dict[str, object]:
    """Options that restore into another database."""
    target = replace(world.database, name=str(world.path.with_name(name)))
    return {"database": target, "source_database": world.database.name}


def everything_but_state(world: World) -> dict[str, tuple[int, int, bytes]]:
    return {name: what for name, what in world.picture().items() if not name.startswith("state")}


def refused(world: World, kind: type[EngineError], message: str, **changes: object) -> None:
    before = everything_but_state(world)
    with pytest.raises(kind, match=message):
        world.restore(**changes)
    assert everything_but_state(world) == before


def test_the_newest_backup_comes_back(world: World) -> None:
    world.backup()
    world.make_shop(10)
    world.backup()
    wanted = world.orders()
    world.make_shop(10)
    result = world.restore()
    assert world.orders() == wanted
    assert result.unverified is None
    assert {stage for stage, _seconds in result.durations} >= {"checksum", "load", "fingerprint", "swap"}


def test_a_backup_is_found_by_id_by_file_name_and_by_time(world: World) -> None:
    first = world.backup()
    orders = world.orders()
    after_first = world.clock.moment
    world.clock.moment += timedelta(hours=1)
    world.make_shop(10)
    world.backup()
    name = first.manifest.main.name
    for number, wanted in enumerate(({"backup": first.manifest.id}, {"backup": name}, {"before": after_first})):
        options = other(world, f"copy{number}.db")
        world.restore(**options, **wanted)
        assert world.orders(world.path.with_name(f"copy{number}.db")) == orders


def test_a_backup_that_does_not_exist_is_not_found(world: World) -> None:
    refused(world, NotFound, "There is no backup in .*Check source_host and source_database")
    result = world.backup()
    world.restore()
    # A safety backup holds what somebody wanted to be rid of, and is newer.
    assert world.catalogue().backups[-1].manifest.safety
    hint = f"The newest good one is {result.manifest.id}"
    refused(world, NotFound, f'no backup "shop-20200101T000000Z-h3k7" in .*{hint}', backup="shop-20200101T000000Z-h3k7")
    refused(world, NotFound, 'no backup "../../etc/passwd"', backup="../../etc/passwd")
    before = world.clock.moment - timedelta(days=1)
    refused(world, NotFound, "no backup in .* from before 2026-02-28T.*The oldest is", before=before)
    refused(world, BadInput, "before and backup are both given", before=before, backup=result.manifest.id)


def backup_in_future(world: World, by: timedelta) -> BackupResult:
    """A backup by a clock that is ahead."""
    world.clock.moment += by
    result = world.backup()
    world.clock.moment -= by
    return result


def test_a_newest_backup_from_the_future_is_never_chosen_in_silence(world: World) -> None:
    first = world.backup()
    orders = world.orders()
    world.make_shop(10)
    odd = backup_in_future(world, timedelta(days=30))
    known = f"{odd.manifest.id} in .* is dated 2026-03-31T02:00:[0-9]+Z, in the future.*{first.manifest.id}.*before"
    refused(world, Refused, known)
    with pytest.raises(Refused, match=known):
        plan_restore(world.restore_request(), world.host)
    refused(world, Refused, known, before=world.clock.moment + timedelta(days=60))
    world.restore(before=world.clock.moment, safety_backup=False)
    assert world.orders() == orders
    world.restore(backup=odd.manifest.id, safety_backup=False)
    assert len(world.orders()) == 110
    world.clock.moment += timedelta(days=30)
    assert world.restore(safety_backup=False).plan.backup.id == odd.manifest.id


def test_a_backup_from_the_future_in_one_repository_is_not_passed_over_for_an_older_one_in_another(
    world: World,
) -> None:
    second = world.root / "second"
    second.mkdir()
    world.backup(repositories=(LocalRepository(second),))
    odd = backup_in_future(world, timedelta(days=30))
    refused(world, Refused, odd.manifest.id, repositories=(LocalRepository(second), world.repository))


def test_clocks_that_are_a_little_apart_make_no_backup_one_from_the_future(world: World) -> None:
    near = backup_in_future(world, timedelta(minutes=4))
    assert world.restore(safety_backup=False).plan.backup.id == near.manifest.id
    far = backup_in_future(world, timedelta(minutes=6))
    refused(world, Refused, f"{far.manifest.id}.*The newest good one that is not is {near.manifest.id}")


def test_where_every_backup_is_from_the_future_each_can_be_restored_by_its_name(world: World) -> None:
    odd = backup_in_future(world, timedelta(days=30))
    refused(world, Refused, "no good one that is not; name it in backup")
    assert world.restore(backup=odd.manifest.id, safety_backup=False).plan.backup.id == odd.manifest.id


def test_a_backup_from_the_future_is_listed_as_a_problem_and_is_not_how_fresh_the_backups_are(world: World) -> None:
    first = world.backup()
    world.clock.moment += timedelta(hours=3)
    odd = backup_in_future(world, timedelta(days=30))
    (info,) = inform(InfoRequest((world.repository,)), world.host).repositories
    (problem,) = info.problems
    assert problem.name == world.manifest(odd).name
    assert "in the future" in problem.reason
    (health,) = info.health
    assert health.newest is not None
    assert (health.backups, health.newest.id) == (2, first.manifest.id)
    assert health.age is not None
    assert timedelta(hours=3) <= health.age < timedelta(hours=4)
    summary = summary_document(inform(InfoRequest((world.repository,)), world.host))
    assert (summary["problems"], summary["newest"]) == (1, format_time(first.manifest.started))


def test_a_target_that_exists_is_replaced_only_when_asked(world: World) -> None:
    world.backup()
    refused(world, TargetExists, "shop.db.*replace", replace=False)


def test_what_is_replaced_is_backed_up_first_and_never_meant_by_latest(world: World) -> None:
    world.backup()
    wanted = world.orders()
    world.make_shop(10)
    spoilt = world.orders()
    result = world.restore()
    assert world.orders() == wanted
    safety = world.catalogue().backups[-1]
    assert (safety.id, safety.manifest.tier) == (result.safety_backup, "safety")
    world.restore(safety_backup=False)
    assert world.orders() == wanted
    world.restore(backup=safety.id, safety_backup=False)
    assert world.orders() == spoilt


def test_without_a_safety_backup_nothing_is_replaced_unless_that_is_asked_for(world: World) -> None:
    world.backup()
    world.path.write_bytes(b"ruin " * 2000)
    for suffix in ("-wal", "-shm"):
        world.path.with_name(world.path.name + suffix).unlink(missing_ok=True)
    refused(world, Refused, "was not replaced, because the safety backup of it failed.*set safety_backup to false")
    world.restore(safety_backup=False)
    assert len(world.orders()) == 100


def test_what_is_replaced_can_be_kept_beside_it_whole(world: World) -> None:
    world.backup()
    world.make_shop(10)
    spoilt = world.orders()
    result = world.restore(keep_replaced=True, safety_backup=False)
    assert result.kept_as is not None
    assert world.orders(Path(result.kept_as)) == spoilt
    assert len(world.orders()) == 100


def test_stale_wal_and_shm_files_are_not_applied_to_what_was_restored(world: World) -> None:
    world.backup()
    wanted = world.orders()
    connection = sqlite3.connect(world.path)
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute("DELETE FROM orders")
    connection.commit()
    shutil.copy(f"{world.path}-wal", world.root / "wal")
    connection.close()
    shutil.copy(world.root / "wal", f"{world.path}-wal")
    world.restore(safety_backup=False)
    assert world.orders() == wanted
    world.path.unlink()
    shutil.copy(world.root / "wal", f"{world.path}-wal")
    world.restore()
    assert world.orders() == wanted
    connection = sqlite3.connect(world.path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("encryption", [None, PLAIN])
def test_a_damaged_artefact_is_refused(world: World, encryption: EncryptionSettings | None) -> None:
    changes = {"encryption": encryption} if encryption else {}
    result = world.backup(**changes)
    world.make_shop(10)
    artefact = world.artefact(result)
    good = artefact.read_bytes()
    flip(artefact)
    refused(world, Damaged, "is damaged: its SHA-256 is .* instead of .*another backup", **changes)
    artefact.write_bytes(good)
    cut(artefact)
    refused(
        world,
        NotFound,
        "has .* bytes instead of|is known to be bad|cannot be restored",
        backup=result.manifest.id,
        **changes,
    )
    refused(world, Damaged, "newest backup .* is known to be bad: its artefact .* has .* bytes", **changes)
    artefact.unlink()
    refused(world, NotFound, "its artefact .* is missing", backup=result.manifest.id, **changes)


def test_a_damaged_artefact_is_refused_even_when_its_checksum_is_not_looked_at(world: World) -> None:
    result = world.backup()
    flip(world.artefact(result))
    refused(world, Damaged, result.manifest.main.name, verify_checksum=False, safety_backup=False)


def test_an_artefact_that_was_swapped_with_anothers_is_refused_even_with_its_checksum(world: World) -> None:
    first, second = world.backup(), world.backup()
    one, two = world.artefact(first), world.artefact(second)
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    refused(world, Damaged, "is damaged|has .* bytes", backup=second.manifest.id)
    for path, result in ((world.manifest(first), second), (world.manifest(second), first)):
        main = {"sha256": result.manifest.main.sha256, "bytes": result.manifest.main.bytes}
        world.rewrite(path, lambda document, main=main: document["artefacts"][0].update(main), bind=True)
    refused(world, Damaged, second.manifest.main.name, backup=second.manifest.id, safety_backup=False)


def edit(world: World, result: BackupResult, change: Callable[[dict[str, object]], object]) -> None:
    world.rewrite(world.manifest(result), change, bind=True)


def test_a_bad_manifest_is_refused_and_named_and_hides_no_other_backup(world: World) -> None:
    first, second = world.backup(), world.backup()
    path = world.manifest(second)
    good = path.read_bytes()
    path.write_bytes(good[:200])
    refused(
        world,
        BadManifest,
        f"{path.name}: does not end with its checksum.*newest backup that can be read is {first.manifest.id}",
    )
    refused(world, BadManifest, path.name, backup=second.manifest.id)
    path.write_bytes(good)
    world.rewrite(path, lambda document: document.update(schema=2))
    refused(world, BadManifest, "has schema 2, and this version reads up to 1", backup=second.manifest.id)
    path.write_bytes(good)
    world.rewrite(path, lambda document: document["artefacts"][0].update(name="../../../../etc/shadow"))
    refused(world, BadManifest, "could lead out of the repository", backup=second.manifest.id)
    path.unlink()
    refused(world, BadManifest, "has no manifest, so it is no backup", backup=second.manifest.id)
    world.restore(backup=first.manifest.id)


def test_what_came_back_is_compared_with_what_was_backed_up(world: World) -> None:
    result = world.backup(fingerprint=FingerprintKind.DIGEST)
    edit(world, result, lambda document: document["fingerprint"]["tables"]["orders"].update(rows=99))
    refused(world, Mismatch, "table orders has 100 rows instead of 99", safety_backup=False)
    edit(world, result, lambda document: document["fingerprint"]["tables"]["orders"].update(rows=100, digest="0"))
    refused(world, Mismatch, "table orders has other contents", safety_backup=False)
    edit(world, result, lambda document: document["fingerprint"]["tables"].update(gone={"rows": 0}))
    refused(world, Mismatch, "table gone is missing", safety_backup=False)


def test_a_backup_without_a_fingerprint_is_restored_and_said_to_be_unverified(world: World) -> None:
    world.backup(fingerprint=FingerprintKind.NONE)
    assert "has no fingerprint" in str(world.restore().unverified)
    assert len(world.orders()) == 100


def test_a_full_disk_on_the_way_leaves_the_target_as_it_was(world: World) -> None:
    world.make_shop(20_000)
    world.backup()
    small = world.root / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "tmpfs", str(small)], check=True)
    try:
        target = replace(world.database, name=str(small / "shop.db"))
        with pytest.raises(NoSpace, match="small"):
            world.restore(database=target, source_database=world.database.name)
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_check_mode_changes_no_byte_and_names_the_backup(world: World) -> None:
    result = world.backup()
    before = world.picture()
    plan = plan_restore(world.restore_request(), world.host)
    assert world.picture() == before
    assert plan.backup.id == result.manifest.id
    assert plan.replaces
    with pytest.raises(TargetExists):
        plan_restore(world.restore_request(replace=False), world.host)
    assert world.picture() == before


def test_a_restore_from_several_repositories_takes_the_newest_backup_of_all(world: World) -> None:
    second = world.root / "second"
    second.mkdir()
    world.backup()
    newer = world.backup(repositories=(LocalRepository(second),))
    missing = LocalRepository(world.root / "missing")
    result = world.restore(repositories=(missing, world.repository, LocalRepository(second)))
    assert result.plan.backup.id == newer.manifest.id
    assert len(result.plan.warnings) == 1
    assert "does not exist" in result.plan.warnings[0]


def test_a_backup_of_another_host_and_database_comes_back_under_any_name(world: World) -> None:
    world.backup(source_host="db1.example.com")
    world.restore(**other(world, "ne\"w 'shop' %20?#.db"), source_host="db1.example.com")
    connection = sqlite3.connect(world.path.with_name("ne\"w 'shop' %20?#.db"))
    assert connection.execute("SELECT count(*) FROM orders").fetchone() == (100,)


def test_a_plain_backup_is_not_replaced_by_a_plain_safety_backup_unless_that_is_asked_for(world: World) -> None:
    world.backup(encryption=PLAIN)
    accepting = EncryptionSettings(accepted=(Encryption.NONE,))
    refused(world, BadInput, "Only encryption.method none stores plain backups", encryption=accepting)
    assert world.restore(encryption=PLAIN).safety_backup


def age_pair(directory: Path) -> tuple[str, str]:
    """A recipient, and its identity."""
    path = directory / "age-key"
    subprocess.run(["age-keygen", "-o", str(path)], check=True, capture_output=True)
    derived = subprocess.run(["age-keygen", "-y", str(path)], check=True, capture_output=True, text=True)
    return derived.stdout.strip(), path.read_text()


def gpg_pair(directory: Path) -> tuple[str, str]:
    """A public key, and its private key, which the passphrase unlocks."""
    home = Path(tempfile.mkdtemp(prefix="gnupg-"))
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "secret"]
    try:
        subprocess.run([*gpg, "--quick-gen-key", "ops@example.com", "default", "default", "never"], check=True)
        public = subprocess.run([*gpg, "--armor", "--export"], check=True, capture_output=True, text=True)
        private = subprocess.run([*gpg, "--armor", "--export-secret-keys"], check=True, capture_output=True, text=True)
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)
        shutil.rmtree(home)
    return public.stdout, private.stdout


@pytest.mark.parametrize(("method", "pair"), [(Encryption.AGE, age_pair), (Encryption.GPG, gpg_pair)])
def test_a_safety_backup_is_for_recipients_where_the_backups_are_and_never_under_the_passphrase_of_a_key(
    world: World, tmp_path: Path, method: Encryption, pair: Callable[[Path], tuple[str, str]]
) -> None:
    recipient, identity = pair(tmp_path)
    world.backup(encryption=EncryptionSettings(method=method, recipients=(recipient,)))
    keys = EncryptionSettings(method=method, identities=(identity,), passphrase="secret")
    message = "safety backup .* cannot be taken: .*Name them in encryption.recipients.*set safety_backup to false"
    refused(world, BadInput, message, encryption=keys)
    with pytest.raises(BadInput, match=message):
        plan_restore(world.restore_request(encryption=keys), world.host)
    saved = world.restore(encryption=replace(keys, recipients=(recipient,))).safety_backup
    assert saved is not None
    without = replace(keys, identities=())
    with pytest.raises((WrongKey, NoKey)):
        world.restore(backup=saved, encryption=without, safety_backup=False)
    world.restore(backup=saved, encryption=keys, safety_backup=False)


def test_an_uncompressed_plain_artefact_is_the_database_itself(world: World) -> None:
    result = world.backup(encryption=PLAIN, compression=Compression.NONE)
    assert world.orders(world.artefact(result)) == world.orders()


def test_options_that_make_no_sense_are_refused(world: World) -> None:
    world.backup()
    refused(world, BadInput, "parallel is 0", parallel=0)
    refused(world, BadInput, "no repository", repositories=())
    refused(world, NotFound, "holds no roles", globals=True)
    with pytest.raises((NotFound, BadInput)):
        world.restore(
            database=replace(world.database, name="/nonexistent/dir/shop.db"), source_database=world.database.name
        )
