# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A listing is one picture of a repository, whatever is published, removed or planted there while it is made."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import resource
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

import pytest

from _engine.catalogue import Catalogue, read_place, scan, whole
from _engine.errors import BadManifest, Damaged
from _engine.model import (
    Compression,
    Database,
    Encryption,
    EncryptionSettings,
    EngineName,
    Level,
    Outcome,
    Place,
    Policy,
    Proof,
)
from _engine.repositories import local
from _engine.repositories.base import Content, Entry
from _engine.repositories.local import LocalRepository
from _engine.repositories.local_files import LocalWriter
from world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path / "world")
    world.make_shop()
    return world


class Meanwhile(LocalRepository):
    """A repository in which something happens in the middle of a listing: some names are of before, some of after."""

    def __init__(self, path: Path, act: Callable[[], object], before: Callable[[str], bool]) -> None:
        super().__init__(path)
        self._act, self._before = act, before
        self.acted = False

    def entries(self, place: Place) -> list[Entry]:
        early = super().entries(place)
        if not self.acted:
            self.acted = True
            self._act()
        late = super().entries(place)
        found = [entry for entry in early if self._before(entry.name)]
        return sorted([*found, *(entry for entry in late if not self._before(entry.name))], key=lambda one: one.name)


HALVES: list[Callable[[str], bool]] = [
    lambda name: name.endswith(".manifest.json"),
    lambda name: not name.endswith(".manifest.json"),
]


@pytest.mark.parametrize("before", HALVES, ids=["old manifests", "old artefacts"])
def test_a_backup_published_in_the_middle_of_a_listing_is_whole_or_not_there(
    world: World, before: Callable[[str], bool]
) -> None:
    world.backup()
    repository = Meanwhile(world.root / "backups", world.backup, before)
    result = world.verify(repositories=(repository,), backup="all")
    assert repository.acted
    assert result.passed
    assert all(backup.known_bad is None for backup in world.catalogue().backups)
    repository.acted = False
    assert scan(repository, world.place, world.clock()).problems == ()


@pytest.mark.parametrize("before", HALVES, ids=["old manifests", "old artefacts"])
def test_a_backup_removed_in_the_middle_of_a_listing_is_gone_and_not_bad(
    world: World, before: Callable[[str], bool]
) -> None:
    for _number in range(3):
        world.backup()

    def remove() -> None:
        world.rotate(Policy(last=2))

    repository = Meanwhile(world.root / "backups", remove, before)
    found = scan(repository, world.place, world.clock())
    assert (len(found.backups), found.problems) == (2, ())
    assert len(found.good) == 2


def test_a_backup_that_is_rotated_away_while_all_are_verified_is_no_failure(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _number in range(3):
        world.backup()
    repository = LocalRepository(world.root / "backups")
    opened = LocalRepository.open

    def late(self: LocalRepository, place: Place, name: str) -> object:
        monkeypatch.setattr(LocalRepository, "open", opened)
        world.rotate(Policy(last=1))
        return opened(self, place, name)

    monkeypatch.setattr(LocalRepository, "open", late)
    result = world.verify(repositories=(repository,), backup="all")
    assert [check.outcome for check in result.checks] == [Outcome.PASSED]
    assert len(world.catalogue().good) == 1
    assert world.catalogue().problems == ()


@pytest.fixture
def watched(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Catalogue]]:
    """A listing after each step at which files appear or disappear."""
    found: list[Catalogue] = []
    commit, unlink = LocalWriter.commit, local.unlink

    def committed(writer: LocalWriter) -> None:
        found.append(world.catalogue())
        commit(writer)
        found.append(world.catalogue())

    def unlinked(directory: int, name: str) -> None:
        found.append(world.catalogue())
        unlink(directory, name)
        found.append(world.catalogue())

    monkeypatch.setattr(LocalWriter, "commit", committed)
    monkeypatch.setattr(local, "unlink", unlinked)
    yield found


def test_no_step_of_publishing_or_removing_looks_like_a_problem(world: World, watched: list[Catalogue]) -> None:
    for _number in range(3):
        world.backup()
    world.rotate(Policy(last=1))
    assert len(watched) > 10
    for catalogue in watched:
        assert catalogue.problems == ()
        assert len(catalogue.good) == len(catalogue.backups)


def test_an_artefact_whose_manifest_is_gone_for_good_is_still_a_problem(world: World) -> None:
    result = world.backup()
    world.manifest(result).unlink()
    (problem,) = world.catalogue().problems
    assert "has no manifest" in problem.reason


@pytest.mark.parametrize("make", ["link", "directory", "fifo"])
def test_what_lies_in_the_place_of_a_manifest_is_a_problem_and_latest_is_not_the_one_before(
    world: World, make: str
) -> None:
    world.backup()
    newest = world.backup()
    path = world.manifest(newest)
    other = path.with_suffix(".moved")
    path.rename(world.root / other.name)
    {
        "link": lambda: path.symlink_to(world.root / other.name),
        "directory": path.mkdir,
        "fifo": lambda: os.mkfifo(path),
    }[make]()
    (problem,) = [one for one in world.catalogue().problems if one.name == path.name]
    assert "is a link, directory or device" in problem.reason
    with pytest.raises(BadManifest, match="is a link, directory or device"):
        world.restore()
    assert not world.verify().passed


def artefact(**fields: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["artefacts"][0].update(fields)


def change(**fields: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: document.update(fields)


#: What a forger can write with a checksum that is right, and what a listing must not take for a backup.
FORGERIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "plain_bytes of 400 digits": artefact(plain_bytes=10**400),
    "bytes of 400 digits": artefact(bytes=10**400),
    "a petabyte of plain bytes": artefact(plain_bytes=10**15),
    "another host": change(host="web2"),
    "started ten years earlier": lambda document: document.update(
        started=f"{int(document['started'][:4]) - 10}{document['started'][4:]}"
    ),
    "another database": change(database="/data/other.db"),
    "properties is a list": change(properties=[1, 2]),
    "properties of the wrong type": change(properties={"settings": [None, {"a": 1}], "owner": 7, "extensions": "x"}),
    "a mode that is a number": change(properties={"mode": 600}),
    "tool_versions of the wrong type": change(tool_versions={"pg_dump": ["15"]}),
    "labels of the wrong type": change(labels={"a": {"b": 1}}),
    "durations of the wrong type": change(durations={"dump": "long"}),
    "240,000 artefacts": lambda document: document.update(artefacts=document["artefacts"] * 240_000),
    "terminal control characters": change(tier="\x1b[2J\x9b31mdaily"),
    "nested without end": lambda document: document.update(unknown=json.loads("[" * 200 + "]" * 200)),
}


def test_a_forged_manifest_is_a_named_problem_and_neither_counted_nor_restored(world: World) -> None:
    world.backup()
    result = world.backup()
    path = world.manifest(result)
    true = path.read_bytes()
    for name, forge in FORGERIES.items():
        path.write_bytes(true)
        world.rewrite(path, forge)
        catalogue = world.catalogue()
        (problem,) = catalogue.problems
        assert problem.name == path.name, name
        assert len(catalogue.backups) == 1, name
        assert world.verify(backup="all").passed is False, name
        with pytest.raises(BadManifest):
            world.restore()
        assert world.rotate(Policy(last=1)).rotations[0].removed == (), name


def test_an_artefact_that_opens_to_more_than_its_manifest_says_is_stopped_there(world: World) -> None:
    """A small artefact can hold any number of zeros; none beyond those that are expected reach a disk."""
    plain = EncryptionSettings(method=Encryption.NONE)
    result = world.backup(encryption=plain, compression=Compression.GZIP)
    bomb = gzip.compress(world.path.read_bytes()[:4096] + bytes(400 << 20))
    world.artefact(result).write_bytes(bomb)
    facts = {"bytes": len(bomb), "sha256": hashlib.sha256(bomb).hexdigest(), "plain_bytes": 8192}
    world.rewrite(world.manifest(result), artefact(**facts))
    world.forget()
    target = world.root / "data" / "copy.db"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Whoever wrote more than this would be stopped by SIGXFSZ.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limit[1]))
    try:
        for level in (Level.CONTENTS, Level.RESTORE):
            (check,) = world.verify(level=level, encryption=plain).checks
            assert "holds more than 8192 bytes" in check.detail
        with pytest.raises(Damaged, match="holds more than 8192 bytes"):
            world.restore(
                database=Database(EngineName.SQLITE, str(target)),
                source_database=str(world.path),
                encryption=plain,
                backup=result.manifest.id,
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not target.exists()


@pytest.mark.parametrize("packer", ["xz", "gzip"])
def test_an_artefact_in_another_format_than_its_manifest_says_reaches_no_decompressor(
    world: World, packer: str
) -> None:
    """zstd also undoes xz, where a stream says itself how much memory it takes."""
    plain = EncryptionSettings(method=Encryption.NONE)
    result = world.backup(encryption=plain)
    other = subprocess.run([packer, "-c", str(world.path)], check=True, stdout=subprocess.PIPE).stdout
    after = world.artefact(result).read_bytes() + other
    for content, says in ((other, "holds something else than zstd writes"), (after, "holds more than")):
        world.artefact(result).write_bytes(content)
        facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        world.rewrite(world.manifest(result), artefact(**facts))
        (check,) = world.verify(level=Level.CONTENTS, encryption=plain).checks
        assert (check.outcome, check.code) == (Outcome.FAILED, "damaged"), check
        assert says in check.detail


def test_a_listing_keeps_no_properties_of_databases(world: World) -> None:
    result = world.backup()
    world.rewrite(world.manifest(result), change(properties={"mode": "0600"}))
    (backup,) = world.catalogue().backups
    assert backup.manifest.properties == {}
    assert whole(world.repository, backup).manifest.properties == {"mode": "0600"}


def test_an_artefact_that_grows_after_it_was_listed_is_read_no_further_than_its_manifest_says(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = world.backup()
    opened = LocalRepository.open

    def grown(self: LocalRepository, place: Place, name: str) -> object:
        if name == result.manifest.main.name:
            os.truncate(world.artefact(result), 1 << 40)
        return opened(self, place, name)

    monkeypatch.setattr(LocalRepository, "open", grown)
    (check,) = world.verify().checks
    assert (check.outcome, check.code) == (Outcome.FAILED, "damaged")
    assert "holds more than the" in check.detail


def test_many_names_of_one_file_are_not_read_without_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    own = world.backup().manifest.id
    manifest = world.directory / f"{own}.manifest.json"
    proof = Proof(Level.CHECKSUM, Outcome.PASSED, datetime(2026, 1, 1, tzinfo=timezone.utc), "web1")
    written = [world.prove(own, proof._replace(detail="x" * 3_000)) for _number in range(9)]
    for number in range(1, 30):
        name = f"{own[:-21]}20010101T0000{number:02}Z-h3k7"
        os.link(manifest, world.directory / f"{name}.manifest.json")
        # Without a manifest, nothing reads them.
        os.link(written[0], world.directory / f"{name[:-1]}8{written[0].name[len(own) :]}")
    spent = sum((4 << 10) + path.stat().st_size for path in [*written, world.slots(own)])
    monkeypatch.setattr("_engine.scanning._MOST_BYTES", spent + 10 * manifest.stat().st_size)
    read: list[str] = []
    read_all = LocalRepository.read_all

    def watched(self: LocalRepository, place: Place, names: Sequence[str], limit: int) -> Iterator[tuple[str, Content]]:
        read.extend(names)
        return read_all(self, place, names, limit)

    monkeypatch.setattr(LocalRepository, "read_all", watched)
    found = read_place(world.host, world.repository, world.place)
    assert len(read) == 20 and {path.name for path in written} < set(read)
    assert [(backup.id, len(backup.proofs)) for backup in found.backups] == [(own, 1)]
    assert "20 manifests of other hosts were not read" in next(
        problem.reason for problem in found.problems if not problem.name
    )
    with pytest.raises(BadManifest, match="20 manifests of other hosts were not read"):
        world.restore(backup=f"{own[:-21]}20010101T000001Z-h3k7")


@pytest.mark.parametrize("suffix", [".manifest.json", ".proof.20260301T020000Z-h3k7.json"])
@pytest.mark.parametrize("place", [0, -1], ids=["oldest", "newest"])
def test_a_file_larger_than_its_disk_hides_no_other_backup_and_latest_is_not_the_one_before(
    world: World, place: int, suffix: str
) -> None:
    ids = [world.backup().manifest.id for _backup in range(3)]
    with open(world.directory / f"{ids[place]}{suffix}", "ab") as file:
        file.truncate(1 << 40)
    found = read_place(world.host, world.repository, world.place)
    hidden = [ids[place]] if suffix == ".manifest.json" else []
    assert [backup.id for backup in found.backups] == [one for one in ids if one not in hidden]
    assert [problem.name for problem in found.problems] == [f"{ids[place]}{suffix}"]
    if place == 0:
        assert world.restore().plan.backup.id == ids[-1]
        assert world.restore(backup=ids[1]).plan.backup.id == ids[1]
        return
    with pytest.raises((BadManifest, Damaged)):
        world.restore()
    judged = {check.backup: check.outcome is Outcome.PASSED for check in world.verify().checks}
    assert judged == ({ids[1]: True, "": False} if hidden else {ids[-1]: True})


def test_an_own_backup_that_was_not_read_is_named_and_the_newest_are_read_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [world.backup().manifest.id for _backup in range(3)]
    sizes = [
        path.stat().st_size + world.slots(one).stat().st_size
        for one in ids
        for path in world.directory.glob(f"{one}.m*")
    ]
    monkeypatch.setattr("_engine.scanning._MOST_BYTES", 2 * (max(sizes) + (4 << 10)))
    found = read_place(world.host, world.repository, world.place)
    assert [backup.id for backup in found.backups] == ids[1:]
    assert [problem.name for problem in found.problems] == [f"{ids[0]}.manifest.json"]
    assert "was not read" in found.problems[0].reason
