# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module that puts many files in their places: idempotent, honest in check mode, and all of a file or nothing."""

from __future__ import annotations

import json
import os
import pwd
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "plugins" / "modules" / "host_files.py"
NOBODY = pwd.getpwnam("nobody")


class Module:
    """Runs the module as Ansible does on a host."""

    def __init__(self, directory: Path) -> None:
        parent = directory / "collections" / "ansible_collections" / "fleet"
        parent.mkdir(parents=True)
        (parent / "backup").symlink_to(ROOT)
        self.environment = {**os.environ, "PYTHONPATH": str(directory / "collections")}
        self.place = directory / "place"
        self.place.mkdir()

    def run(self, *, check: bool = False, fails: bool = False, **options: Any) -> dict[str, Any]:
        internal = {"check_mode": check, "diff": True, "remote_tmp": "/tmp", "no_log": False}
        arguments = {**options, **{f"_ansible_{name}": value for name, value in internal.items()}}
        done = subprocess.run(
            [sys.executable, str(MODULE)],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
            stdout=subprocess.PIPE,
            env=self.environment,
            text=True,
            check=False,
        )
        result: dict[str, Any] = json.loads(done.stdout)
        assert bool(result.get("failed")) is fails, result
        return result

    def seen(self) -> dict[str, tuple[str, str]]:
        """The mode of everything that is there, and what it holds or points to."""
        found = {}
        for path in sorted(self.place.rglob("*")):
            content = os.readlink(path) if path.is_symlink() else "" if path.is_dir() else path.read_text()
            found[str(path.relative_to(self.place))] = (f"{stat.S_IMODE(path.lstat().st_mode):04o}", content)
        return found


@pytest.fixture
def module(tmp_path: Path) -> Module:
    return Module(tmp_path)


def wanted(place: Path) -> dict[str, Any]:
    return {
        "directories": [str(place / "etc" / "jobs.d"), str(place / "etc" / "jobs.d"), str(place / "etc")],
        "files": [
            {"path": str(place / "etc" / "jobs.d" / 'a "job" ü.json'), "content": '{"quoted": "✓"}\n'},
            {"path": str(place / "empty"), "content": ""},
        ],
        "links": [{"path": str(place / "etc" / "link"), "target": "../nowhere"}],
        "absent": [str(place / "old")],
    }


def test_everything_is_put_in_its_place_and_then_left_alone(module: Module) -> None:
    (module.place / "old" / "inner").mkdir(parents=True)
    first = module.run(**wanted(module.place))
    assert first["changed"]
    assert module.seen() == {
        "empty": ("0600", ""),
        "etc": ("0700", ""),
        "etc/jobs.d": ("0700", ""),
        'etc/jobs.d/a "job" ü.json': ("0600", '{"quoted": "✓"}\n'),
        "etc/link": ("0777", "../nowhere"),
    }
    assert [Path(path).name for path in first["changed_paths"]] == [
        "etc",
        "jobs.d",
        'a "job" ü.json',
        "empty",
        "link",
        "old",
    ]
    before = {path: path.lstat() for path in module.place.rglob("*")}
    second = module.run(**wanted(module.place))
    assert (second["changed"], second["changed_paths"], second["diff"]) == (False, [], [])
    assert {path: path.lstat() for path in module.place.rglob("*")} == before


def test_check_mode_foretells_what_the_run_then_does_and_changes_nothing(module: Module) -> None:
    (module.place / "old").write_text("old\n")
    (module.place / "empty").write_text("not empty\n")
    before = module.seen()
    foretold = module.run(check=True, **wanted(module.place))
    assert module.seen() == before
    done = module.run(**wanted(module.place))
    assert foretold["changed_paths"] == done["changed_paths"]
    assert foretold["diff"] == done["diff"]
    by_name = {Path(diff["after_header"]).name: (diff["before"], diff["after"]) for diff in done["diff"]}
    assert by_name["empty"] == ("not empty\n", "")
    assert by_name["old"] == ("file\n", "")
    assert by_name["link"] == ("", "link to ../nowhere\n")


@pytest.mark.parametrize("check", [True, False])
def test_mode_and_owner_alone_are_a_change(module: Module, check: bool) -> None:
    (module.place / "jobs.d").mkdir()
    (module.place / "file").write_text("same\n")
    (module.place / "file").chmod(0o666)
    options = {
        "directories": [str(module.place / "jobs.d")],
        "files": [{"path": str(module.place / "file"), "content": "same\n"}],
        "mode": "0640",
        "directory_mode": "0750",
        **({"owner": "nobody"} if os.geteuid() == 0 else {}),
    }
    done = module.run(check=check, **options)
    assert [Path(path).name for path in done["changed_paths"]] == ["jobs.d", "file"]
    modes = {name: mode for name, (mode, _content) in module.seen().items()}
    assert modes["file"] == ("0666" if check else "0640")
    if not check:
        assert modes["jobs.d"] == "0750"
        assert os.geteuid() != 0 or (module.place / "file").stat().st_uid == NOBODY.pw_uid
        assert not module.run(**options)["changed"]


def test_a_link_in_the_place_of_a_file_is_replaced_and_what_it_points_to_is_left_alone(module: Module) -> None:
    (module.place / "target").write_text("kept\n")
    (module.place / "file").symlink_to("target")
    (module.place / "link").write_text("a file\n")
    module.run(
        files=[{"path": str(module.place / "file"), "content": "new\n"}],
        links=[{"path": str(module.place / "link"), "target": "target"}],
        mode="0644",
    )
    seen = module.seen()
    assert seen["file"] == ("0644", "new\n")
    assert seen["link"] == ("0777", "target")
    assert seen["target"][1] == "kept\n"
    assert not (module.place / "file").is_symlink()


def test_a_link_to_a_directory_is_one_and_the_directory_is_not_given_away(module: Module) -> None:
    """As where a repository that is made at deployment became a link, whoever made it."""
    (module.place / "data").mkdir(mode=0o755)
    (module.place / "backups").symlink_to("data")
    options = {"directories": [str(module.place / "backups")], "directory_mode": "0750", "owner": "nobody"}
    for check in (True, False):
        assert not module.run(check=check, **options)["changed"]
    assert module.seen() == {"data": ("0755", ""), "backups": ("0777", "data")}
    assert (module.place / "data").stat().st_uid == os.geteuid()


def test_a_link_that_another_account_made_gives_that_account_no_directory(module: Module) -> None:
    victim = module.place / "etc"
    victim.mkdir(mode=0o755)
    repository = module.place / "backups"
    repository.symlink_to(victim)
    os.lchown(repository, NOBODY.pw_uid, NOBODY.pw_gid)
    for path in (repository, repository / "below"):
        result = module.run(fails=True, directories=[str(path)], owner="nobody")
        assert "is a link that user" in result["msg"]
    assert (victim.stat().st_uid, list(victim.iterdir())) == (0, [])


def test_a_link_to_what_has_to_go_goes_and_what_it_points_to_stays(module: Module) -> None:
    (module.place / "kept").mkdir()
    (module.place / "old").symlink_to("kept")
    module.run(absent=[str(module.place / "old"), str(module.place / "gone already")])
    assert list(module.seen()) == ["kept"]


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    ("impossible", "reason"),
    [
        ({"directories": ["{}/file/inner"]}, "{}/file is no directory"),
        ({"files": [{"path": "{}/directory", "content": ""}]}, "{}/directory is no file"),
        ({"files": [{"path": "{}/missing/file", "content": ""}]}, "{}/missing is no directory"),
        ({"links": [{"path": "{}/directory", "target": "x"}]}, "{}/directory is there, and is no link"),
        ({"links": [{"path": "{}/missing/link", "target": "x"}]}, "{}/missing is no directory"),
        ({"absent": ["relative"]}, "relative is no absolute path"),
        ({"absent": ["{}/file"], "files": [{"path": "{}//file", "content": ""}]}, "{}/file is named twice"),
        ({"files": [{"path": "{}/job.json", "content": {"a": 1}}]}, "{}/job.json: its content is no text, but dict"),
        ({"files": [{"path": "{}/job.json", "content": None}]}, "{}/job.json: its content is no text"),
        ({"files": [{"path": "{}/pipe", "content": ""}]}, "{}/pipe is no file"),
    ],
)
def test_where_something_cannot_be_nothing_is_changed(
    module: Module, impossible: dict[str, Any], reason: str, check: bool
) -> None:
    (module.place / "file").write_text("a file\n")
    (module.place / "directory").mkdir()
    os.mkfifo(module.place / "pipe")
    before = sorted(module.place.rglob("*"))
    options = json.loads(json.dumps(impossible).replace("{}", str(module.place)))
    options.setdefault("directories", []).append(str(module.place / "new"))
    said = module.run(check=check, fails=True, **options)["msg"]
    assert reason.format(module.place) in said
    assert sorted(module.place.rglob("*")) == before


@pytest.mark.parametrize("option", ["owner", "group"])
def test_where_an_owner_is_not_known_nothing_is_changed(module: Module, option: str) -> None:
    (module.place / "file").write_text("old\n")
    (module.place / "old").write_text("old\n")
    before = module.seen()
    options = {
        "directories": [str(module.place / "new")],
        "files": [{"path": str(module.place / "file"), "content": "new\n"}],
        "absent": [str(module.place / "old")],
        option: "nobody-of-that-name",
    }
    assert f"{option}: nobody-of-that-name is not known" in module.run(fails=True, **options)["msg"]
    assert module.seen() == before
    # It may be what a task before this one would make.
    assert module.run(check=True, **options)["changed"]


@pytest.mark.skipif(os.geteuid() != 0, reason="Only root gives files away.")
def test_where_no_owner_is_named_a_file_keeps_its_own(module: Module) -> None:
    path = module.place / "file"
    path.write_text("old\n")
    os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    module.run(files=[{"path": str(path), "content": "new\n"}])
    assert (path.stat().st_uid, path.stat().st_gid) == (NOBODY.pw_uid, NOBODY.pw_gid)


def test_what_is_within_something_that_goes_goes_with_it(module: Module) -> None:
    (module.place / "etc" / "venv").mkdir(parents=True)
    paths = [str(module.place / "etc"), str(module.place / "etc" / "venv")]
    foretold = module.run(check=True, absent=paths)["changed_paths"]
    assert module.run(absent=paths)["changed_paths"] == foretold == paths[:1]
    assert module.seen() == {}


def test_slashes_more_or_less_are_the_same_place(module: Module) -> None:
    options = {
        "directories": [f"{module.place}/etc/", f"{module.place}/etc//secrets"],
        "files": [{"path": f"{module.place}/etc//secrets/one", "content": "x"}],
    }
    module.run(**options)
    assert module.seen()["etc/secrets/one"] == ("0600", "x")
    assert not module.run(**options)["changed"]
