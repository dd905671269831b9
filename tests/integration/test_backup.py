# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Taking backups: what is stored, what is refused, and that nothing is lost or left behind."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import sqlite3
import stat
import subprocess
import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Iterator

import pytest

from _engine.backup import plan_backup, take_backup
from _engine.errors import (
    BadInput,
    EngineError,
    Locked,
    NoSpace,
    NotADatabase,
    NotFound,
    PartlyDone,
    PermissionDenied,
    RepositoryUnusable,
    Shrunk,
    TimedOut,
)
from _engine.model import Compression, Database, EngineName, FingerprintKind, Level, Outcome, Proof
from _engine.names import make_id
from _engine.repositories.local import LocalRepository
from _engine.repositories.local_files import LocalWriter
from _engine.state import locked, running
from world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "world")
    made.make_shop()
    return made


@pytest.fixture
def small_disk(world: World) -> Iterator[Path]:
    path = world.root / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_backup_is_an_artefact_and_a_manifest_that_describes_it(world: World) -> None:
    result = world.backup(tier="daily", labels={"reason": "test"}, fingerprint=FingerprintKind.DIGEST)
    manifest = json.loads(world.manifest(result).read_text())
    artefact = world.artefact(result)
    assert world.files() == sorted([artefact.name, world.manifest(result).name, world.slots(result.manifest.id).name])
    assert manifest["artefacts"][0]["bytes"] == artefact.stat().st_size
    assert manifest["artefacts"][0]["plain_bytes"] == world.path.stat().st_size
    assert manifest["tier"] == "daily"
    assert manifest["labels"] == {"reason": "test"}
    assert manifest["fingerprint"]["tables"]["orders"]["rows"] == 100
    assert set(manifest["tool_versions"]) >= {"sqlite", "zstd", "fleet.backup"}
    assert stat.S_IMODE(artefact.stat().st_mode) == 0o600
    assert world.private not in world.manifest(result).read_text()


def test_each_backup_names_the_one_before_it(world: World) -> None:
    first, second = world.backup(), world.backup()
    assert first.manifest.previous is None
    assert second.manifest.previous is not None
    assert second.manifest.previous.id == first.manifest.id
    assert second.manifest.previous.sha256 == hashlib.sha256(world.manifest(first).read_bytes()).hexdigest()


def test_several_backups_in_one_second_have_names_of_their_own_in_their_order(world: World) -> None:
    moments = count()
    began = world.clock.moment.replace(microsecond=0)
    world.host = replace(world.host, now=lambda: began + timedelta(milliseconds=2 * next(moments)))
    ids = [world.backup().manifest.id for _attempt in range(3)]
    assert len({backup_id[:-5] for backup_id in ids}) == 1
    assert [backup.id for backup in world.catalogue().backups] == ids


@pytest.mark.parametrize("compression", list(Compression))
def test_every_compression_comes_back(world: World, compression: Compression) -> None:
    before = world.orders()
    world.backup(compression=compression, compression_level=None if compression is Compression.NONE else 9)
    world.make_shop(5)
    world.restore()
    assert world.orders() == before


def test_a_fresh_backup_makes_a_new_one_needless_until_it_is_too_old(world: World) -> None:
    first = world.backup(max_age=timedelta(hours=1))
    again = world.backup(max_age=timedelta(hours=1))
    assert (first.changed, again.changed) == (True, False)
    assert again.manifest.id == first.manifest.id
    world.clock.moment += timedelta(hours=2)
    assert world.backup(max_age=timedelta(hours=1)).changed


def test_a_fresh_backup_that_is_known_bad_or_missing_from_a_repository_does_not_count(world: World) -> None:
    second = world.root / "second"
    second.mkdir()
    first = world.backup(max_age=timedelta(hours=1))
    both = (world.repository, LocalRepository(second))
    assert world.backup(max_age=timedelta(hours=1), repositories=both).changed
    assert not world.backup(max_age=timedelta(hours=1), repositories=both).changed
    failed = Proof(Level.CHECKSUM, Outcome.FAILED, world.clock(), "web1", "rot")
    for backup in world.catalogue().backups:
        world.prove(backup.id, failed)
    assert world.backup(max_age=timedelta(hours=1)).manifest.id != first.manifest.id


def test_check_mode_changes_no_byte_and_predicts_the_run(world: World) -> None:
    before = world.picture()
    plan = plan_backup(world.backup_request(max_age=timedelta(hours=1)), world.host)
    assert world.picture() == before
    assert plan.fresh is None
    result = world.backup(max_age=timedelta(hours=1))
    before = world.picture()
    plan = plan_backup(world.backup_request(max_age=timedelta(hours=1)), world.host)
    assert world.picture() == before
    assert plan.fresh is not None
    assert plan.fresh.id == result.manifest.id


def test_one_run_fills_several_repositories_with_the_same_bytes(world: World) -> None:
    second = world.root / "second"
    second.mkdir()
    result = world.backup(repositories=(world.repository, LocalRepository(second)))
    other = second / world.place.path / result.manifest.main.name
    assert other.read_bytes() == world.artefact(result).read_bytes()
    assert result.repositories == (world.repository.label, str(second))


def test_a_repository_that_fills_up_does_not_cost_the_copy_in_the_other_one(world: World, small_disk: Path) -> None:
    world.make_shop(30_000)
    both = (world.repository, LocalRepository(small_disk))
    with pytest.raises(PartlyDone, match=f"is in {world.repository.label}, but not everywhere: .*{small_disk} is full"):
        world.backup(repositories=both)
    assert len(world.catalogue().good) == 1
    assert world.catalogue(LocalRepository(small_disk)).backups == ()
    assert [path for path in small_disk.rglob("*") if path.is_file()] == []
    world.restore(repositories=(LocalRepository(small_disk), world.repository))


def test_a_repository_that_is_missing_from_the_start_does_not_cost_the_copy_in_the_other_one(world: World) -> None:
    both = (LocalRepository(world.root / "missing"), world.repository)
    message = f"is in {world.repository.label}, but not everywhere: .*missing does not exist"
    with pytest.raises(PartlyDone, match="would be in"):
        plan_backup(world.backup_request(repositories=both), world.host)
    with pytest.raises(PartlyDone, match=message):
        world.backup(repositories=both)
    assert len(world.catalogue().good) == 1
    with pytest.raises(PartlyDone, match=message):
        world.backup(repositories=both, max_age=timedelta(hours=1))
    assert len(world.catalogue().good) == 1


def test_the_same_repository_twice_or_none_is_refused(world: World) -> None:
    with pytest.raises(BadInput, match="named twice"):
        world.backup(repositories=(world.repository, world.repository))
    with pytest.raises(BadInput, match="no repository"):
        world.backup(repositories=())


@pytest.mark.parametrize("other", ["../backups", "web1", "linked/backups"])
def test_one_repository_under_two_names_or_inside_another_is_refused(world: World, other: str) -> None:
    (world.root / "backups" / "web1").mkdir()
    (world.root / "backups" / "linked").symlink_to(world.root)
    second = LocalRepository(world.root / "backups" / other)
    with pytest.raises(BadInput, match="keep them apart"):
        world.backup(repositories=(world.repository, second))


def test_a_database_inside_its_repository_is_told_of_when_it_is_backed_up(world: World) -> None:
    inside = world.root / "backups" / "inside" / "shop.db"
    inside.parent.mkdir()
    inside.write_bytes(world.path.read_bytes())
    result = world.backup(database=replace(world.database, name=str(inside)))
    assert any("no restore puts it back there" in warning for warning in result.warnings)


def everything_but_state(world: World) -> dict[str, tuple[int, int, bytes]]:
    return {name: what for name, what in world.picture().items() if not name.startswith("state")}


def refused(world: World, kind: type[EngineError], message: str, **changes: object) -> None:
    before = everything_but_state(world)
    with pytest.raises(kind, match=message):
        world.backup(**changes)
    assert everything_but_state(world) == before


def at(world: World, path: Path) -> Database:
    return replace(world.database, name=str(path))


def test_a_database_that_is_none_is_refused_and_nothing_changes(world: World) -> None:
    data = world.path.parent
    (data / "directory").mkdir()
    (data / "empty").write_bytes(b"")
    (data / "text").write_text("orders: many\n" * 1000)
    (data / "zip").write_bytes(b"\x1f\x8b\x08" + os.urandom(5000))
    refused(world, NotFound, "no database .*missing.db", database=at(world, data / "missing.db"))
    for name in ("directory", "empty", "text", "zip"):
        refused(world, NotADatabase, f"{name}", database=at(world, data / name))


def test_a_database_that_stays_locked_is_refused_when_the_wait_is_over(world: World) -> None:
    world.make_shop(1, journal="delete")
    holder = sqlite3.connect(world.path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Locked, match="shop.db"):
        world.backup(lock_timeout=0.2)
    assert world.files() == []
    holder.execute("ROLLBACK")
    assert world.backup().changed


def test_two_backups_of_one_database_at_a_time_are_one_too_many(world: World) -> None:
    with locked(world.host, world.place.path, 1):
        refused(world, Locked, f"{world.place.path} is in use by process {os.getpid()} since", lock_timeout=0.2)
    assert world.backup().changed


def test_the_second_of_two_simultaneous_backups_waits_and_finds_the_fresh_one(world: World) -> None:
    results = []

    def back_up() -> None:
        results.append(world.backup(max_age=timedelta(hours=1), lock_timeout=30))

    threads = [threading.Thread(target=back_up) for _thread in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.changed for result in results) == [False, False, True]
    assert len(world.catalogue().backups) == 1


def test_writers_that_share_no_lock_publish_whole_backups_of_their_own(world: World) -> None:
    moment = world.clock.moment.replace(microsecond=0)
    made: list[str] = []

    def back_up(number: int) -> None:
        # In one second, and each in a moment of its own: in one moment, two of a thousand writers would take one id.
        began = moment + timedelta(milliseconds=2 * number)
        host = replace(world.host, state=world.root / f"state {number}", now=lambda: began)
        made.append(take_backup(world.backup_request(), host).manifest.id)

    for first in (0, 4, 8):
        threads = [threading.Thread(target=back_up, args=(first + number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = world.catalogue()
    assert sorted(backup.id for backup in found.good) == sorted(made)
    assert len(made) == 12, "each has an id of its own"
    assert found.problems == ()
    checks = world.verify(backup="all", level=Level.RESTORE).checks
    assert [check.detail for check in checks] == [""] * len(made)


@pytest.mark.parametrize("planted", [".db.zst.aes", ".manifest.json"])
def test_names_that_are_taken_in_one_repository_cost_no_copy_in_the_other_one(
    world: World, monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    (world.root / "second").mkdir()
    second = LocalRepository(world.root / "second")
    world.backup(repositories=(world.repository, second))

    def plant_and_make(database: str, moment: datetime) -> str:
        made = make_id(database, moment)
        (world.directory / f"{made}{planted}").touch()
        return made

    monkeypatch.setattr("_engine.backup.make_id", plant_and_make)
    with pytest.raises(PartlyDone, match=f"is in {second.label}, but not everywhere: .*already has"):
        world.backup(repositories=(world.repository, second))
    assert [len(world.catalogue(one).good) for one in (world.repository, second)] == [1, 2]


def test_a_repository_that_cannot_be_used_is_refused_before_the_database_is_touched(world: World) -> None:
    missing = LocalRepository(world.root / "missing")
    refused(world, RepositoryUnusable, "does not exist", repositories=(missing,))
    link = world.root / "link"
    link.symlink_to(world.root / "backups")
    refused(world, RepositoryUnusable, "symbolic link", repositories=(LocalRepository(link),))


def test_a_full_disk_at_the_start_in_the_middle_and_at_the_manifest_loses_nothing(
    world: World, small_disk: Path
) -> None:
    small = LocalRepository(small_disk)
    first = world.backup(repositories=(small,))
    files = sorted(path.name for path in small_disk.rglob("*") if path.is_file())
    filler = small_disk / "filler"
    artefact = first.manifest.main.bytes
    for free in (0, artefact // 2, artefact, artefact + 4096):
        space = os.statvfs(small_disk)
        filler.write_bytes(b"x" * max(0, space.f_bavail * space.f_frsize - free))
        try:
            with pytest.raises(NoSpace, match="small"):
                world.backup(repositories=(small,))
        finally:
            filler.unlink()
        assert sorted(path.name for path in small_disk.rglob("*") if path.is_file()) == files
        assert [backup.id for backup in world.catalogue(small).good] == [first.manifest.id]
    world.make_shop(30_000)
    with pytest.raises(NoSpace, match="small"):
        world.backup(repositories=(small,))
    assert sorted(path.name for path in small_disk.rglob("*") if path.is_file()) == files


def test_a_dump_that_shrank_by_more_than_half_is_refused_until_that_is_accepted(world: World) -> None:
    world.make_shop(5000)
    world.backup()
    connection = sqlite3.connect(world.path, isolation_level=None)
    connection.execute("DELETE FROM orders WHERE id > 10")
    result = world.backup()
    assert result.warnings == (f"{world.path} has 10 rows; its last backup had 5100.",)
    connection.execute("VACUUM")
    connection.close()
    refused(
        world, Shrunk, "shrank from .* to .*, below the share of 0.5 that min_size_ratio allows. It was not published"
    )
    assert world.backup(min_size_ratio=0.0).changed


def test_what_a_killed_run_left_over_is_tidied_by_the_next_one_and_named(world: World) -> None:
    result = world.backup()
    leftover = world.directory / f".{result.manifest.id}-2.db.zst.aes.partial"
    leftover.write_bytes(b"half")
    assert plan_backup(world.backup_request(), world.host).leftovers == (leftover.name,)
    assert world.backup().tidied == (leftover.name,)
    assert not leftover.exists()


def test_options_that_make_no_sense_are_refused(world: World) -> None:
    refused(world, BadInput, "min_size_ratio is 2", min_size_ratio=2.0)
    refused(world, BadInput, "compression_level 20 is out of range for zstd. Choose 1 to 19", compression_level=20)
    refused(world, BadInput, "no meaning", compression=Compression.NONE, compression_level=3)
    refused(world, BadInput, "exclude_tables", exclude_tables=("orders",))
    refused(world, BadInput, "globals", globals=True)


def test_a_damaged_database_is_not_published(world: World) -> None:
    world.make_shop(2000, journal="delete")
    content = bytearray(world.path.read_bytes())
    for start in range(4096 + 8, len(content), 4096):
        content[start : start + 2000] = os.urandom(2000)
    world.path.write_bytes(bytes(content))
    with pytest.raises(EngineError, match="shop.db"):
        world.backup()
    assert world.files() == []


def test_a_backup_that_takes_longer_than_its_timeout_leaves_nothing(world: World) -> None:
    world.make_shop(50_000)
    data = sorted(world.path.parent.iterdir())
    with pytest.raises(TimedOut, match="shop.db took longer than its timeout of 0.05 s. Raise timeout"):
        world.backup(timeout=0.05)
    assert world.files() == []
    assert sorted(world.path.parent.iterdir()) == data
    assert world.backup(timeout=60.0).changed


def test_the_end_of_the_time_while_a_failed_backup_is_removed_leaves_the_error_and_nothing_else(
    world: World, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.make_shop(30_000)
    real = LocalWriter.close

    def slow(writer: LocalWriter) -> None:
        time.sleep(8)
        real(writer)

    monkeypatch.setattr(LocalWriter, "close", slow)
    with pytest.raises(NoSpace, match="small is full"):
        world.backup(repositories=(LocalRepository(small_disk),), timeout=6.0)
    assert [path for path in small_disk.rglob("*") if path.is_file()] == []
    assert running(world.host) == []


def test_the_audit_log_tells_who_did_what_and_how_it_ended(world: World) -> None:
    result = world.backup()
    with pytest.raises(NotFound):
        world.backup(database=at(world, world.path.with_name("missing.db")))
    lines = [json.loads(line) for line in (world.host.state / "audit.jsonl").read_text().splitlines()]
    assert [(line["action"], line["outcome"]) for line in lines] == [("backup", "done"), ("backup", "failed")]
    assert lines[0]["id"] == result.manifest.id
    assert "There is no database" in lines[1]["reason"]
    assert stat.S_IMODE((world.host.state / "audit.jsonl").stat().st_mode) == 0o600


def test_a_state_directory_that_cannot_be_used_is_explained(world: World, small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space"), (small_disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(b"x" * 512)
    world.host = replace(world.host, state=small_disk / "state")
    with pytest.raises(NoSpace, match="state.*the disk is full"):
        world.backup()
    world.host = replace(world.host, state=world.path / "state")
    with pytest.raises(EngineError, match="FLEET_BACKUP_STATE"):
        world.backup()
    assert world.files() == []


def test_a_state_where_nothing_can_be_locked_is_explained(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_arguments: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.raises(PermissionDenied, match="locks of this host cannot be taken.*Keep its state on a local disk"):
        world.backup()
    assert world.files() == []


def test_a_status_file_that_was_cut_short_stops_nobody(world: World) -> None:
    world.backup()
    for content in ("{", "[]", "7", '{"pid": 1, "process_started": "1"}', "[" * 100_000):
        (world.host.state / "status" / "web1+sqlite+shop.json").write_text(content)
        assert running(world.host) == [{"subject": "web1/sqlite/shop", "stage": "unknown", "alive": False}]


def test_nothing_is_running_afterwards(world: World) -> None:
    world.backup()
    assert running(world.host) == []


def test_a_missing_program_is_named_with_its_package(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    refused(
        world, EngineError, "Compression zstd needs the program zstd, which is not installed. Install the package zstd"
    )


def test_a_database_of_another_kind_in_the_same_place_is_no_problem(world: World) -> None:
    assert world.database.engine is EngineName.SQLITE
    world.backup(source_host="web2")
    assert world.catalogue().backups == ()
