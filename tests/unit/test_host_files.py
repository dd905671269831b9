# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files come whole, with the mode that they keep, or stay as they were."""

import os
import pwd
import shutil
import stat
from pathlib import Path
from typing import List

import pytest
from module_utils._engine.host.pinned import ForeignLink, path_of, pinned, private_place
from module_utils._host_files import Wanted, plan


def test_a_file_has_its_mode_and_owner_before_anybody_sees_it(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("old\n")
    seen: List[str] = []

    def set_attributes(temporary: str) -> None:
        assert stat.S_IMODE(Path(temporary).stat().st_mode) == 0o600
        assert Path(temporary).read_text() == "new\n"
        assert path.read_text() == "old\n"
        Path(temporary).chmod(0o640)
        seen.append(temporary)

    (change,) = plan(Wanted(files=[(str(path), "new\n")]))
    change.make(set_attributes)
    assert len(seen) == 1
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [OSError("no"), KeyboardInterrupt(), SystemExit(1)])
def test_where_a_file_cannot_be_finished_nothing_of_it_is_left(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_text("old\n")

    def set_attributes(temporary: str) -> None:
        raise error

    (change,) = plan(Wanted(files=[(str(path), "new\n")]))
    with pytest.raises(type(error)):
        change.make(set_attributes)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old\n"


def test_a_file_that_says_directory_is_none(tmp_path: Path) -> None:
    (change,) = plan(Wanted(files=[(str(tmp_path / "file"), "directory\n")]))
    assert not change.is_directory


def test_what_another_account_exchanges_on_the_way_is_not_touched(tmp_path: Path) -> None:
    """The directory was looked at; by the time that it is used, a link to another one has its name."""
    victim, own = tmp_path / "victim", tmp_path / "own"
    victim.mkdir()
    (victim / "file").write_text("theirs\n")
    acts = {
        "directories": Wanted(directories=[str(own / "backups" / "new")]),
        "files": Wanted(files=[(str(own / "backups" / "file"), "new\n")]),
        "links": Wanted(links=[(str(own / "backups" / "link"), "target")]),
        "absent": Wanted(absent=[str(own / "backups" / "file")]),
    }
    for wanted in acts.values():
        (own / "backups").mkdir(parents=True)
        (own / "backups" / "file").write_text("old\n")
        changes = plan(wanted)
        shutil.rmtree(own / "backups")
        (own / "backups").symlink_to(victim)
        os.lchown(own / "backups", pwd.getpwnam("nobody").pw_uid, -1)
        for change in changes:
            with pytest.raises(ForeignLink, match="a link that user"):
                change.make(lambda path: None)
        (own / "backups").unlink()
        assert {path.name: path.read_text() for path in victim.iterdir()} == {"file": "theirs\n"}


def test_a_directory_that_is_pinned_stays_the_same_whatever_has_its_name(tmp_path: Path) -> None:
    (tmp_path / "backups").mkdir(mode=0o700)
    (tmp_path / "victim").mkdir(mode=0o700)
    with pinned(str(tmp_path / "backups")) as directory:
        (tmp_path / "backups").rename(tmp_path / "moved")
        (tmp_path / "backups").symlink_to(tmp_path / "victim")
        os.chmod(path_of(directory), 0o755)
        os.lchown(path_of(directory), os.geteuid(), os.getegid())
    assert stat.S_IMODE((tmp_path / "moved").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "victim").stat().st_mode) == 0o700


def test_nothing_is_removed_from_a_directory_that_was_exchanged_for_the_one_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the owner of the directory around it, between its making and its opening."""
    victim = tmp_path / "keys"
    victim.mkdir(mode=0o700)
    (victim / "key").write_text("secret")
    real = os.mkdir

    def exchange(name: str, mode: int, dir_fd: int) -> None:
        real(name, mode, dir_fd=dir_fd)
        (tmp_path / name).rename(tmp_path / "was")
        victim.rename(tmp_path / name)

    with pinned(str(tmp_path)) as directory:
        monkeypatch.setattr(os, "mkdir", exchange)
        with pytest.raises(OSError, match="Another account exchanges"), private_place(directory):
            raise AssertionError("it was entered")
    assert [path.read_text() for path in tmp_path.rglob("key")] == ["secret"]
