# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Programs are run with their secrets unseen and their failures seen."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from _engine.command import Command, Secret, find_program, program_version
from _engine.errors import MissingTool, ToolFailed
from _engine.process import Process, run

PYTHON = sys.executable


def test_a_program_that_succeeds_is_no_error() -> None:
    run(Command("true", ("true",)))


def test_a_failing_program_is_named_with_its_status_and_its_last_words() -> None:
    script = "import sys; print('x' * 9000 + 'no such table', file=sys.stderr); sys.exit(3)"
    with pytest.raises(ToolFailed) as caught:
        run(Command("the dump", (PYTHON, "-c", script)))
    assert caught.value.status == 3
    assert str(caught.value).startswith("the dump ended with status 3: ")
    assert caught.value.output.endswith("no such table")
    assert len(caught.value.output) <= 4000


def test_a_program_that_is_killed_is_a_failure() -> None:
    with pytest.raises(ToolFailed, match="was killed by signal 9"):
        run(Command("dump", (PYTHON, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")))


def test_a_program_that_does_not_exist_says_what_to_install() -> None:
    with pytest.raises(MissingTool, match="does not exist. Install"):
        run(Command("dump", ("/nonexistent/pg_dump",)))
    with pytest.raises(MissingTool, match="Compression zstd needs the program zstandard-x.*Install the package zstd"):
        find_program("zstandard-x", "zstd", "Compression zstd")


def test_a_file_that_may_not_be_executed_is_explained(tmp_path: Path) -> None:
    program = tmp_path / "tool"
    program.write_text("")
    with pytest.raises(MissingTool, match="may not be executed"):
        run(Command("tool", (str(program),)))


def test_a_secret_reaches_the_program_by_path_or_descriptor_and_is_in_no_argument_or_environment() -> None:
    script = (
        "import os, sys\n"
        "path, fd = sys.argv[1], int(sys.argv[2])\n"
        "assert open(path).read() == 's3' 'cret', 'path'\n"
        "assert os.read(fd, 99) == b's3' b'cret', 'fd'\n"
        "assert open(os.environ['PASSFILE']).read() == 's3' 'cret', 'environment'\n"
        "assert os.stat(path).st_mode & 0o077 == 0, 'mode'\n"
        "needle = b's3' + b'cret'\n"
        "assert needle not in open('/proc/self/cmdline', 'rb').read(), 'cmdline'\n"
        "assert needle not in open('/proc/self/environ', 'rb').read(), 'environ'\n"
    )
    secret = b"s3cret"
    arguments = (PYTHON, "-c", script, Secret(secret), Secret(secret, "{fd}"))
    run(Command("reader", arguments, {"PASSFILE": Secret(secret)}))


def test_a_secret_does_not_show_when_a_command_is_printed() -> None:
    assert "s3cret" not in repr(Command("x", ("y", Secret(b"s3cret")), terminal_answers=(Secret(b"s3cret"),)))


def test_a_program_that_asks_on_a_terminal_is_answered() -> None:
    script = (
        "import getpass\n"
        "assert getpass.getpass('Passphrase: ') == 'first'\n"
        "assert getpass.getpass('Again: ') == 'second'\n"
    )
    run(Command("asker", (PYTHON, "-c", script), terminal_answers=(Secret(b"first"), Secret(b"second"))))


def test_no_descriptor_is_left_open() -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    for _attempt in range(5):
        run(Command("x", (PYTHON, "-c", "pass", Secret(b"a")), {"B": Secret(b"b")}))
        with pytest.raises(ToolFailed):
            run(Command("x", ("false",)))
        with pytest.raises(MissingTool):
            run(Command("x", ("/nonexistent", Secret(b"a"))))
    assert count() == before


def test_a_stopped_program_is_gone() -> None:
    process = Process(Command("sleep", ("sleep", "60")))
    began = time.monotonic()
    process.stop()
    assert time.monotonic() - began < 5
    assert process.wait() < 0


def test_the_version_of_a_program_is_found() -> None:
    assert program_version(find_program("zstd", "zstd", "x"))[0].isdigit()
