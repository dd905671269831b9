# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Programs are run with their secrets unseen and their failures seen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from _engine import process as process_module
from _engine.command import Command, Secret, find_account, find_program, program_version
from _engine.errors import MissingTool, ToolFailed
from _engine.process import Process, output_of, run

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


def test_a_program_gets_nothing_of_the_environment_that_may_be_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ORDERS_PASSWORD", "PGPASSWORD", "CREDENTIALS_DIRECTORY", "PYTHONPATH", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "s3cret")
    monkeypatch.setenv("TZ", "Europe/Berlin")
    command = Command("env", ("/usr/bin/env",), {"FLEET_BACKUP_JOB": "shop"})
    said = dict(line.split("=", 1) for line in output_of(command).splitlines())
    assert "s3cret" not in said.values()
    assert said["TZ"] == "Europe/Berlin" and said["LC_ALL"] == "C.UTF-8" and said["FLEET_BACKUP_JOB"] == "shop"
    assert said["PATH"] == os.environ["PATH"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")
def test_another_account_gets_less_and_its_own_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GNUPGHOME", "SSL_CERT_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, "/root/mine")
    nobody = find_account("nobody")
    said = output_of(Command("env", ("/usr/bin/env",), account=nobody))
    assert "/root" not in said.replace(os.environ["PATH"], "")
    assert f"HOME={nobody.home}" in said and "USER=nobody" in said


@pytest.mark.parametrize("account", [None, "nobody"])
def test_a_program_ends_when_the_process_that_started_it_is_killed(tmp_path: Path, account: str | None) -> None:
    if account and os.geteuid() != 0:
        pytest.skip("only root can become another account")
    tmp_path.chmod(0o755)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            command = Command("sleep", ("/bin/sleep", "600"), account=find_account(account) if account else None)
            os.write(writing, str(Process(command).pid).encode())
            time.sleep(600)
        finally:
            os._exit(1)
    pid = int(os.read(reading, 20))
    os.close(reading)
    os.close(writing)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for _try in range(1000):
        if not is_running(pid):
            break
        time.sleep(0.01)
    else:
        pytest.fail("it goes on")


def test_what_a_program_started_ends_with_it(tmp_path: Path) -> None:
    script = "import subprocess, sys, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
    reading, writing = os.pipe()
    process = Process(Command("hook", (PYTHON, "-c", script)), stdout=writing)
    os.close(writing)
    inner = int(os.read(reading, 20))
    os.close(reading)
    process.stop()
    while is_running(inner):
        time.sleep(0.01)


def test_a_program_can_write_without_end_and_its_last_words_are_kept() -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "from _engine.command import Command; from _engine.errors import ToolFailed; from _engine.process import run\n"
        'talk = \'import sys; [sys.stderr.write("x" * 65536) for _ in range(500)]; sys.exit("the end")\'\n'
        "try: run(Command('hook', (sys.executable, '-c', talk)))\n"
        "except ToolFailed as failure: sys.exit(0 if failure.output.endswith('the end') else 3)\n"
    )
    # A file in memory would count as a file, and be cut at the limit.
    engine = str(Path(process_module.__file__).parents[1])
    assert subprocess.run([PYTHON, "-c", script, engine], check=False).returncode == 0


def test_an_answer_that_should_be_short_is_not_read_without_end() -> None:
    with pytest.raises(ToolFailed, match="it wrote far more than it should"):
        output_of(Command("systemctl", ("/usr/bin/yes",)))


def test_what_a_program_leaves_running_is_not_waited_for() -> None:
    script = "import subprocess, sys; subprocess.Popen(['sleep', '600'], start_new_session=True); sys.exit('gone')"
    with pytest.raises(ToolFailed, match="gone"):
        run(Command("hook", (PYTHON, "-c", script)))


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie (proc(5), stat)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
