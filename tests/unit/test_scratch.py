# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whatever is made in a scratch directory, it is removed, or named and in the way of no other work."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Callable, Iterator

import pytest

from _engine.errors import EngineError
from _engine.scratch import MEMORY, Purpose, private_directory, sweep

ROOT = os.geteuid() == 0
DEPTH = 3000


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place for temporary files that other accounts can pass."""
    directory = Path(tempfile.mkdtemp(prefix="scratch-test-"))
    directory.chmod(0o755)
    monkeypatch.setenv("TMPDIR", str(directory))
    yield directory
    shutil.rmtree(directory)


def left_by_the_dead(place: Path, purpose: Purpose, fill: Callable[[Path], None] = lambda _directory: None) -> Path:
    """A directory whose maker is gone."""
    directory = place / f"{purpose.value}dead"
    directory.mkdir(mode=0o700)
    (directory / "lock").touch()
    (directory / "work").mkdir()
    fill(directory / "work")
    return directory


def deep(directory: Path) -> None:
    """Directories within directories, deeper than a path or Python's stack can be."""
    descriptor = os.open(directory, os.O_RDONLY)
    for _level in range(DEPTH):
        os.mkdir("x", dir_fd=descriptor)
        (below, above) = (os.open("x", os.O_RDONLY, dir_fd=descriptor), descriptor)
        os.close(above)
        descriptor = below
    os.close(os.open("data", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor))
    os.close(descriptor)


def use(place: Path, purpose: Purpose = Purpose.VERIFICATION) -> None:
    """Do some work in a directory of its own."""
    with private_directory(purpose, place) as directory:
        (directory / "data").write_text("data")


def test_a_tree_of_any_depth_is_in_the_way_of_no_next_one(place: Path) -> None:
    left_by_the_dead(place, Purpose.VERIFICATION, deep)
    use(place)
    assert list(place.iterdir()) == []
    with private_directory(Purpose.VERIFICATION, place) as directory:
        (directory / "work").mkdir()
        deep(directory / "work")
    assert list(place.iterdir()) == []


def test_no_link_is_followed_and_nothing_beside_is_touched(place: Path) -> None:
    other = place / "other"
    (other / "precious").mkdir(parents=True)

    def fill(directory: Path) -> None:
        (directory / "link").symlink_to(other)
        (directory / "a").mkdir()
        (directory / "a" / "link").symlink_to(other)
        (directory / "a" / "up").symlink_to("../../../other")
        os.mkfifo(directory / "a" / "fifo")

    left_by_the_dead(place, Purpose.VERIFICATION, fill)
    use(place)
    assert [path.name for path in place.rglob("*")] == ["other", "precious"]


@pytest.mark.skipif(not ROOT, reason="needs root to mount a file system")
def test_what_cannot_be_removed_fails_nothing_and_is_named(place: Path) -> None:
    def fill(directory: Path) -> None:
        (directory / "a" / "mounted").mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(directory / "a" / "mounted")], check=True)
        (directory / "b").write_text("data")

    left = left_by_the_dead(place, Purpose.VERIFICATION, fill)
    mounted = left / "work" / "a" / "mounted"
    try:
        use(place)
        assert not (left / "work" / "b").exists()
        (found,) = [one for one in sweep([place], False, {}) if one.path == left]
        assert "cannot be removed" in found.problem and "Remove it" in found.problem
    finally:
        for path in [mounted, *left.rglob("*")]:
            if os.path.ismount(path):
                subprocess.run(["umount", str(path)], check=True)
    assert [one.problem for one in sweep([place], False, {}) if one.path == left] == [""]
    assert list(place.iterdir()) == []


@pytest.mark.skipif(not ROOT, reason="needs root to become another account")
def test_an_account_that_took_its_own_rights_away_removes_its_directories_too(place: Path) -> None:
    place.chmod(0o1777)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgid(65534)
            os.setuid(65534)

            def fill(directory: Path) -> None:
                (directory / "a" / "b" / "c").mkdir(parents=True)
                (directory / "a" / "b" / "c" / "data").touch()
                for path in (directory / "a" / "b" / "c", directory / "a" / "b", directory / "a"):
                    path.chmod(0)

            left_by_the_dead(place, Purpose.SPOOL, fill)
            use(place, Purpose.SPOOL)
            status = len(list(place.iterdir()))
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("purpose", Purpose, ids=lambda purpose: purpose.name)
def test_what_the_dead_left_is_found_whatever_it_was_for(place: Path, purpose: Purpose) -> None:
    left = left_by_the_dead(place, purpose)
    assert left in [one.path for one in sweep([], True, {})]
    assert left.exists()
    said = []
    sweep([], False, {purpose: said.append})
    assert said == [left] and not left.exists()


@pytest.mark.skipif(not os.access(MEMORY, os.W_OK), reason="there is no file system in memory")
def test_what_the_dead_left_in_memory_is_found(place: Path) -> None:
    left = left_by_the_dead(MEMORY, Purpose.GPG_HOME)
    try:
        assert left in [one.path for one in sweep([], False, {})]
        assert not left.exists()
    finally:
        shutil.rmtree(left, ignore_errors=True)


def test_keys_that_cannot_be_removed_are_told_at_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(30, "Read-only file system")

    with pytest.raises(EngineError, match="may hold .* private keys"), private_directory(Purpose.GPG_HOME, place):
        monkeypatch.setattr("_engine.scratch.empty", refuse)
    with private_directory(Purpose.VERIFICATION, place):
        pass
    assert len(list(place.iterdir())) == 2
