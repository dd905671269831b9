# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files come whole, with the mode that they keep, or stay as they were."""

import stat
from pathlib import Path
from typing import List

import pytest

from _host_files import Wanted, plan


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
