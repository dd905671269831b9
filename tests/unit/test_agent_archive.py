# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent's file, and its code compiled for a host's Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

from _engine.agent.archive import build, compiled, install_code
from _engine.agent.start import code_of, usable_code
from _engine.errors import PermissionDenied

ENGINE = Path(__file__).resolve().parents[2] / "plugins" / "module_utils" / "_engine"


def test_the_same_source_gives_the_same_agent_byte_for_byte() -> None:
    assert build(ENGINE, "/usr/bin/python3") == build(ENGINE, "/usr/bin/python3")
    assert build(ENGINE, "/usr/bin/python3").startswith(b"#!/usr/bin/python3 -I\nPK")


@pytest.fixture(name="program")
def built_program(tmp_path: Path) -> Path:
    program = tmp_path / "bin" / "fleet-backup"
    program.parent.mkdir()
    program.write_bytes(build(ENGINE, sys.executable))
    return program


def origin(program: Path) -> str:
    """Run the agent; where its code came from."""
    script = (
        "import runpy, sys\n"
        "sys.argv[:] = [sys.argv[1], 'version']\n"
        "try:\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally:\n"
        "    print(sys.modules['fleet_backup.agent.cli'].__file__)\n"
    )
    command = [sys.executable, "-I", "-c", script, str(program)]
    version, file = subprocess.check_output(command, universal_newlines=True).splitlines()
    assert version.startswith("fleet-backup ")
    return file


def test_the_agent_starts_from_its_compiled_code(program: Path, tmp_path: Path) -> None:
    assert code_of(str(program)) == str(tmp_path / "lib" / "fleet-backup" / "code.zip")
    assert "code.zip" not in origin(program)
    assert install_code(str(program)) and not install_code(str(program))
    assert Path(code_of(str(program))).read_bytes() == compiled(str(program))
    assert "code.zip" in origin(program)
    # A new version does not run the old one's code.
    program.write_bytes(program.read_bytes() + b" ")
    assert "code.zip" not in origin(program)


def become_link(code: Path) -> None:
    other = code.with_name("other.zip")
    code.rename(other)
    code.symlink_to(other)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda code: code.write_bytes(code.read_bytes()[:-1] + b"-"),
        lambda code: code.write_bytes(b""),
        lambda code: code.chmod(0o646),
        lambda code: code.chmod(0o664),
        lambda code: code.parent.chmod(0o775),
        lambda code: code.parent.parent.chmod(0o775),
        lambda code: code.parent.chmod(0o757),
        lambda code: code.parent.parent.chmod(0o757),
        lambda code: os.chown(str(code), 12345, -1) if os.geteuid() == 0 else code.unlink(),
        become_link,
    ],
)
def test_code_that_is_not_this_programs_or_that_others_can_write_is_left_alone(
    program: Path, spoil: Callable[[Path], Any]
) -> None:
    install_code(str(program))
    assert usable_code(str(program))
    spoil(Path(code_of(str(program))))
    assert not usable_code(str(program))


def test_no_code_is_written_where_others_could_exchange_it(program: Path, tmp_path: Path) -> None:
    (tmp_path / "lib" / "fleet-backup").mkdir(parents=True)
    (tmp_path / "lib" / "fleet-backup").chmod(0o777)
    (tmp_path / "lib" / "fleet-backup" / "code.zip.tmp").symlink_to(tmp_path / "precious")
    with pytest.raises(PermissionDenied, match="chmod go-w"):
        install_code(str(program))
    (tmp_path / "lib" / "fleet-backup").chmod(0o755)
    assert install_code(str(program))
    assert not (tmp_path / "precious").exists()


def test_a_lenient_umask_makes_no_place_where_others_can_write(program: Path) -> None:
    before = os.umask(0o002)
    try:
        assert install_code(str(program)) and usable_code(str(program))
    finally:
        os.umask(before)
