# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A listing with the cache says what one without it says, whatever lies in the repository or in the cache."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Callable, Dict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _engine import listing_cache, small_files
from _engine.catalogue import Catalogue, read_place, whole
from _engine.generations import write_generation
from _engine.listing_cache import pack, pack_generation, pack_proof, unpack, unpack_generation, unpack_proof
from _engine.manifest import skim_manifest, write_manifest
from _engine.model import (
    Artefact,
    Binding,
    Compression,
    Content,
    Encryption,
    Fingerprint,
    FingerprintKind,
    Generation,
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
from _engine.names import make_id, slots_name, stamp
from _engine.proofs import write_proof
from _engine.repositories import local
from _engine.repositories.local import LocalRepository
from _engine.sealed import sealed
from _engine.state import Host

NOW = datetime(2026, 3, 1, 2, tzinfo=timezone.utc)
PLACE = Place("web1", "sqlite", "shop")


def manifest(number: int = 0, **fields: Any) -> Manifest:
    """A manifest of the shop, an hour younger for each number."""
    started = NOW - timedelta(hours=number)
    name = make_id("shop", started, 0)
    artefact = Artefact(f"{name}.db.zst.aes", 7, "a" * 64, 100, Compression.ZSTD, Encryption.AES256_GCM)
    made = Manifest(name, "web1", "sqlite", "shop", started, started + timedelta(seconds=5), (artefact,))
    return replace(made, **fields)


class Repository:
    """A repository with backups of the shop, and a host that lists it."""

    def __init__(self, root: Path) -> None:
        self.path = root / "backups"
        self.place = self.path / PLACE.path
        self.place.mkdir(parents=True)
        self.host = Host("elsewhere", root / "state", caches=True)
        self.repository = LocalRepository(self.path)

    def add(self, made: Manifest, content: bytes = b"") -> Path:
        path = self.place / f"{made.id}.manifest.json"
        path.write_bytes(content or write_manifest(made))
        (self.place / made.main.name).write_bytes(b"content")
        slots = write_generation(made.id, 1, NOW, [KeySlot(made.main.name, SlotKind.X25519, "c" * 64, {"enc": "AA=="})])
        (self.place / slots_name(made.id, 1)).write_bytes(slots)
        proof = Proof(Level.CHECKSUM, Outcome.PASSED, NOW, "web1", "", 1.5)
        (self.place / f"{made.id}.proof.{stamp(NOW)}-2222.json").write_bytes(write_proof(made.id, proof))
        return path

    def listed(self) -> Catalogue:
        """What a listing says once no file is too young to be cached."""
        while any(time.time() - path.lstat().st_ctime <= local._SETTLED for path in self.place.iterdir()):
            time.sleep(0.001)
        return read_place(self.host, self.repository, PLACE)

    def uncached(self) -> Catalogue:
        return read_place(Host("elsewhere", Path("/nowhere")), self.repository, PLACE)

    def cached(self) -> list[str]:
        """The names of the files that the cache has something of."""
        return [line.split("/")[0] for line in self.cache.read_text(encoding="ascii").splitlines()[1:]]

    @property
    def cache(self) -> Path:
        (path,) = (self.host.state / "cache").iterdir()
        return path


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    # Some steps of the file system's clock.
    monkeypatch.setattr(local, "_SETTLED", 0.02)
    shop = Repository(tmp_path)
    for number in range(5):
        shop.add(manifest(number))
    return shop


@pytest.fixture
def skimmed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where the manifests were that listings took apart since."""
    found: list[str] = []

    def skim(content: bytes, where: str, check: Any) -> Manifest:
        found.append(where)
        return skim_manifest(content, where, check)

    monkeypatch.setattr(small_files, "skim_manifest", skim)
    return found


words = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Cf", "Zl", "Zp")), max_size=20)
ages = st.timedeltas(timedelta(), timedelta(days=100_000))
moments = ages.map(lambda age: datetime.fromtimestamp(0, timezone.utc) + age)


@st.composite
def manifests(draw: Any) -> Manifest:
    """Any manifest, as far as a listing can see."""
    started = draw(moments)
    name = make_id("shop", started, 0)
    artefacts = [
        Artefact(
            f"{name}.{content.value}",
            draw(st.integers(1, 2**40)),
            "a" * 64,
            draw(st.integers(0, 1 << 16)),
            draw(st.sampled_from(Compression)),
            draw(st.sampled_from(Encryption)),
            content,
        )
        for content in (Content.DATABASE, Content.GLOBALS)[: draw(st.integers(1, 2))]
    ]
    tables: Dict[str, TableFingerprint] = {
        key: TableFingerprint(rows) for key, rows in draw(st.dictionaries(words, st.integers(0, 2**60))).items()
    }
    counted = Fingerprint(draw(st.sampled_from(FingerprintKind)), tables)
    return Manifest(
        name,
        draw(words),
        draw(words),
        draw(words),
        started,
        draw(moments),
        tuple(artefacts),
        draw(st.none() | words),
        tuple(Binding(one.name, "b" * 64, draw(st.sampled_from(["", "0" * 32]))) for one in artefacts),
        draw(words),
        draw(words),
        draw(st.dictionaries(words, words, max_size=3)),
        draw(st.none() | st.just(counted)),
        opaque=draw(st.booleans()),
        durations=draw(st.dictionaries(words, st.floats(0, 1e9), max_size=3)),
        previous=draw(st.none() | st.builds(Previous, words, st.just("d" * 64))),
        labels=draw(st.dictionaries(words, words, max_size=3)),
        properties={"mode": "0600"},
    )


@given(made=manifests())
def test_any_manifest_comes_back_from_the_cache_as_a_listing_read_it(
    made: Manifest,
) -> None:
    read = skim_manifest(write_manifest(made), "m", lambda *_properties: None)
    assert vars(unpack(*json.loads(json.dumps(pack(read))))) == vars(read)


@given(
    st.builds(
        Proof, st.sampled_from(Level), st.sampled_from(Outcome), moments, words, words, st.floats(0, 1e9).map(float)
    )
)
def test_any_proof_comes_back_from_the_cache(made: Proof) -> None:
    assert unpack_proof(*json.loads(json.dumps(pack_proof(made)))) == made


@given(
    st.builds(
        Generation,
        st.integers(1, 999_999_999),
        moments,
        st.lists(
            st.builds(
                KeySlot,
                words,
                st.sampled_from(SlotKind),
                words,
                st.dictionaries(words, words | st.integers(0, 1 << 32), max_size=3),
            ),
            max_size=3,
        ).map(tuple),
        words,
    )
)
def test_any_key_slots_come_back_from_the_cache(made: Generation) -> None:
    assert unpack_generation(*json.loads(json.dumps(pack_generation(made)))) == made


def test_the_second_listing_reads_no_file_and_says_the_same(
    shop: Repository, skimmed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = shop.listed()
    assert (len(first.backups), first.problems, len(skimmed)) == (5, (), 5)
    assert all(backup.proofs and backup.key_slots for backup in first.backups)
    with monkeypatch.context() as patch:
        patch.setattr(LocalRepository, "_read_small", lambda *_arguments: pytest.fail("it was read"))
        assert shop.listed() == first
    assert shop.uncached() == first


def test_a_file_that_changed_a_moment_ago_is_read_each_time(
    shop: Repository, skimmed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_SETTLED", 3600.0)
    for number in range(1, 3):
        read_place(shop.host, shop.repository, PLACE)
        assert len(skimmed) == 5 * number


def test_a_manifest_that_is_new_is_the_only_one_taken_apart_and_what_is_gone_is_forgotten(
    shop: Repository, skimmed: list[str]
) -> None:
    shop.listed()
    shop.add(manifest(9))
    for path in shop.place.glob(f"{manifest(0).id}.*"):
        path.unlink()
    assert shop.listed() == shop.uncached()
    assert [where.rpartition("/")[2] for where in skimmed[5:6]] == [f"{manifest(9).id}.manifest.json"]
    assert len(shop.cache.read_bytes().splitlines()) == 1 + 3 * 5


def test_a_single_bit_that_changes_in_a_manifest_is_noticed_with_the_cache(shop: Repository) -> None:
    path = shop.add(manifest(0))
    shop.listed()
    before = path.stat()
    content = path.read_bytes()
    for place in (0, 30, len(content) // 2, len(content) - 2):
        flipped = bytearray(content)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        (problem,) = shop.listed().problems
        assert problem.name == path.name
        assert len(shop.listed().backups) == 4


def test_a_manifest_under_another_name_or_in_another_place_is_a_problem_with_the_cache(shop: Repository) -> None:
    shop.listed()
    content = write_manifest(manifest(0))
    shop.add(manifest(7), content)
    (problem,) = shop.listed().problems
    assert "is that of another backup" in problem.reason
    assert shop.listed() == shop.uncached()
    other = Place("web1", "sqlite", "other")
    shutil.copytree(shop.place, shop.path / other.path)
    found = [read_place(shop.host, shop.repository, other) for _listing in range(2)]
    assert found[0] == found[1] and (len(found[0].backups), len(found[0].problems)) == (0, 6)


def test_no_problem_is_kept(shop: Repository, skimmed: list[str]) -> None:
    damaged = shop.add(manifest(7), write_manifest(manifest(7))[:-5])
    properties = shop.add(manifest(8, properties={"mode": 7}))
    for _listing in range(2):
        skimmed.clear()
        found = shop.listed()
        assert sorted(problem.name for problem in found.problems) == sorted([damaged.name, properties.name])
        assert found == shop.uncached()
        # Those two each time.
        assert {Path(where).name for where in skimmed} >= {damaged.name, properties.name}
    assert len([name for name in shop.cached() if name.endswith(".manifest.json")]) == 5


def test_a_manifest_that_was_replaced_is_read_anew(shop: Repository) -> None:
    shop.listed()
    shop.add(replace(manifest(0), tier="monthly"))
    newest = shop.listed().backups[-1]
    assert newest.manifest.tier == "monthly"
    assert shop.listed() == shop.uncached()


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def another_version(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b" listing ", b" listing 0", 1))


def a_link(path: Path) -> None:
    path.rename(path.parent / "elsewhere")
    path.symlink_to(path.parent / "elsewhere")


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


UNUSABLE: Dict[str, Callable[[Path], object]] = {
    "damaged": damage,
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "of another version": another_version,
    "readable by others": lambda path: path.chmod(0o640),
    "writable by others": lambda path: path.chmod(0o622),
    "a link": a_link,
    "a pipe": a_pipe,
    "in a directory that others can change": lambda path: path.parent.chmod(0o777),
}


@pytest.mark.parametrize("how", UNUSABLE)
def test_a_cache_that_proves_nothing_is_as_if_it_were_not_there(shop: Repository, skimmed: list[str], how: str) -> None:
    first = shop.listed()
    UNUSABLE[how](shop.cache)
    assert shop.listed() == first
    assert len(skimmed) == 10


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another account")
@pytest.mark.parametrize("what", ["file", "directory"])
def test_a_cache_that_another_account_could_have_written_is_not_used(
    shop: Repository, skimmed: list[str], what: str
) -> None:
    first = shop.listed()
    os.chown(shop.cache if what == "file" else shop.cache.parent, 65534, 65534)
    assert shop.listed() == first
    assert len(skimmed) == 10


@pytest.mark.parametrize("line", ["[]", "[1, 2", '{"a": 1}', "null", "[" + ",".join(["7"] * 18) + "]", "7", ""])
def test_a_line_that_is_none_is_read_anew(shop: Repository, line: str) -> None:
    first = shop.listed()
    keys = [one.partition("\t")[0] for one in shop.cache.read_text(encoding="ascii").splitlines()[1:]]
    body = "".join(f"{key}\t{line}\n" for key in keys).encode("ascii")
    shop.cache.write_bytes(listing_cache._head(body) + b"\n" + body)
    assert shop.listed() == first


def test_a_cache_that_cannot_be_written_makes_a_listing_slower_and_no_different(shop: Repository) -> None:
    shop.host.state.mkdir()
    (shop.host.state / "cache").write_bytes(b"")
    assert shop.listed() == shop.uncached()


def test_a_dry_run_uses_the_cache_and_writes_nothing(shop: Repository, skimmed: list[str]) -> None:
    shop.host, acting = shop.host.unchanging(), shop.host
    shop.listed()
    assert not shop.host.state.exists()
    shop.host = acting
    shop.listed()
    content = shop.cache.read_bytes()
    shop.add(manifest(9))
    shop.host = acting.unchanging()
    skimmed.clear()
    assert len(shop.listed().backups) == 6
    assert (len(skimmed), shop.cache.read_bytes()) == (1, content)


def test_the_cache_belongs_to_its_owner_alone_and_leaves_no_other_file(shop: Repository) -> None:
    os.umask(before := os.umask(0))
    try:
        os.umask(0)
        shop.listed()
    finally:
        os.umask(before)
    assert shop.cache.stat().st_mode & 0o777 == 0o600
    assert shop.cache.parent.stat().st_mode & 0o777 == 0o700


def test_the_cache_keeps_the_newest_that_fit_and_drops_what_was_written_longest_ago(
    shop: Repository, skimmed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.listed()
    room = shop.cache.stat().st_size
    shop.cache.unlink()
    monkeypatch.setattr(listing_cache, "_MOST", room - 50)
    everything = sorted(path.name for path in shop.place.glob("*.json"))
    assert len(shop.listed().backups) == 5
    # The oldest proof is the quickest to be read again.
    oldest = next(name for name in everything if ".proof." in name)
    assert sorted(shop.cached()) == [name for name in everything if name != oldest]
    skimmed.clear()
    assert len(shop.listed().backups) == 5
    assert skimmed == []
    monkeypatch.setattr(listing_cache, "_MOST_IN_ALL", room + 100)
    other = LocalRepository(shutil.copytree(shop.path, shop.path.parent / "other"))
    os.utime(shop.cache, (0, 0))
    read_place(shop.host, other, PLACE)
    assert len(list(shop.cache.parent.iterdir())) == 1


def test_the_cache_keeps_no_tables_and_no_properties(shop: Repository) -> None:
    tables = Fingerprint(FingerprintKind.COUNTS, {f"t{n}": TableFingerprint(n) for n in range(5_000)})
    large = manifest(0, fingerprint=tables, properties={"mode": "0640", "other": ["x" * 9_000] * 9})
    shop.add(large)
    for _listing in range(2):
        newest = shop.listed().backups[-1]
        assert (newest.manifest.fingerprint, newest.manifest.properties) == (None, {})
        assert newest.manifest.totals == tables.totals
        assert whole(shop.repository, newest).manifest == large
    assert shop.cache.stat().st_size < 20_000


def test_a_forged_manifest_with_a_right_checksum_is_still_refused_beside_a_warm_cache(shop: Repository) -> None:
    shop.listed()
    forged = manifest(0)
    shop.add(forged, sealed({"schema": 1, "id": forged.id}))
    (problem,) = shop.listed().problems
    assert "artefacts is missing" in problem.reason
