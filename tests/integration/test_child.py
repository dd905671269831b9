# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A child is another account for good, holds nothing of its parent's, and cannot take its parent down."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Iterator

import pytest

import children
from _engine.errors import EngineError, Interrupted, Locked, PermissionDenied, TimedOut
from _engine.host import child as module
from _engine.host.child import Child, ChildFailed
from _engine.host.inside import become
from _engine.interrupts import interruptible, time_limit
from sqlite_processes import as_nobody

ROOT = Path(__file__).resolve().parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes to another account, which only root may")


@pytest.fixture
def child() -> Iterator[Child]:
    with Child(children.obedient, (), "the child of a test") as made:
        made.pid = made.greeting(limit=30)["pid"]  # type: ignore[attr-defined]
        yield made


def gone(pid: int, seconds: float = 20) -> bool:
    """Whether a process has ended, or ends soon. A zombie has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


@as_root
def test_a_child_is_the_other_account_and_has_nothing_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERS_PASSWORD", "s3cret")
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    try:
        with Child(children.obedient, (), "the child", whom=children.NOBODY, descriptors=[writing]) as made:
            made.greeting()
            seen = made.ask("look")
            assert made.ask("regain") == "refused"
            made.ask("write", writing, "through the pipe")
        assert os.read(reading, 100) == b"through the pipe"
        assert os.read(reading, 100) == b"", "this process holds the other end no more"
    finally:
        os.close(reading)
    assert seen["ids"] == [65534] * 7
    assert seen["core"] == [0, 0]
    assert "s3cret" not in str(seen)
    assert set(seen["environment"]) <= {*module._ENVIRONMENT, "LC_ALL", "LC_CTYPE"}
    kinds = sorted(target.partition(":")[0] for target in seen["descriptors"].values() if "/proc/" not in target)
    assert kinds == ["/dev/null", "/dev/null", "/dev/null", "pipe", "socket"]
    fields = dict(line.split(":\t", 1) for line in seen["status"].splitlines() if ":\t" in line)
    assert int(fields["CapPrm"], 16) == int(fields["CapEff"], 16) == 0
    assert fields["NoNewPrivs"] == "1"


@as_root
def test_an_account_that_cannot_be_become_is_no_reason_to_stay_root() -> None:
    refused = children.NOBODY.__class__("odd", 65534, 2**32 - 1, (), "/")
    with Child(children.obedient, (), "the child", whom=refused) as made, pytest.raises(EngineError):
        made.greeting()

    def become_root() -> None:
        with pytest.raises(PermissionDenied, match="Cannot become r: operation not permitted"):
            become(children.NOBODY.__class__("r", 0, 0, (0,), "/"))

    as_nobody(become_root)


def test_values_questions_and_errors_come_across(child: Child) -> None:
    value = {"a": [1, 2.5, None, True, "Größe \udcff"], "b": "x" * 100_000}
    assert child.ask("echo", value) == value
    with pytest.raises(Locked, match=r"It stayed locked\\x1b\[31m\\n\\u202e\. Wait\."):
        child.ask("fail", "locked")
    with pytest.raises(EngineError, match="RuntimeError at children.py:[0-9]+") as unexpected:
        child.ask("fail", "unexpectedly")
    assert "Alice" not in str(unexpected.value)
    with Child(children.obedient, (), "the child", answers={"double": lambda n: [n, n]}) as asking:
        asking.greeting()
        assert asking.ask("ask", "double", 4) == [4, 4]
        with pytest.raises(ChildFailed, match="asked what it may not ask"):
            asking.ask("ask", "secrets")
    with Child(children.refusing, (), "the child") as refusing, pytest.raises(Locked):
        refusing.greeting()


@pytest.mark.parametrize(("call", "says"), [("crash", "was killed by SIGSEGV"), ("end", "ended with status 3")])
def test_a_child_that_crashes_is_one_clear_error(child: Child, call: str, says: str) -> None:
    with pytest.raises(ChildFailed, match=f"The child of a test {says}"):
        child.ask(call, *([3] if call == "end" else []))
    assert says in str(child.verdict())
    with pytest.raises(ChildFailed):
        child.ask("echo", 1)


@pytest.mark.parametrize("call", ["hang", "ignore_signals", "stop"])
def test_a_child_that_never_answers_ends_with_its_time(child: Child, call: str) -> None:
    began = time.monotonic()
    with pytest.raises(ChildFailed, match="has not answered for 0.3 s"):
        child.ask(call, limit=0.3)
    child.close(abort=True)
    assert gone(child.pid)  # type: ignore[attr-defined]
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("call", ["hang", "ignore_signals", "stop"])
def test_the_timeout_of_the_work_ends_a_hanging_child(call: str) -> None:
    with pytest.raises(TimedOut), interruptible(), Child(children.obedient, (), "the child") as made:
        pid = made.greeting()["pid"]
        with time_limit(0.2, "The work"):
            made.ask(call)
    assert gone(pid)


def test_a_signal_ends_the_wait_for_a_child() -> None:
    sender = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match="Stopped by SIGTERM"), interruptible():
        with Child(children.obedient, (), "the child") as made:
            pid = made.greeting()["pid"]
            sender.start()
            made.ask("hang")
    sender.join()
    assert gone(pid)


LIES = {
    "flood": "answered with 4294967295 bytes",
    "digits": "makes no sense",
    "depth": "too many values|makes no sense",
    "values": "too many values",
    "nothing": "makes no sense",
    "list": "makes no sense",
    "binary": "makes no sense",
    "infinite": "makes no sense",
    "question": "asked what it may not ask",
    "question_kind": "asked what it may not ask",
    "question_value": "asked for number of what cannot be",
    "questions": "asked without end|did not listen",
    "error": "It failed and does not say why",
}


@pytest.mark.parametrize(("what", "says"), LIES.items())
def test_a_child_that_lies_or_floods_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, what: str, says: str) -> None:
    monkeypatch.setattr(module, "_MOST_QUESTIONS", 1000)
    with Child(children.liar, (what,), "the child", answers={"number": int}) as made:
        with pytest.raises(EngineError, match=says):
            made.greeting(limit=5 if what == "questions" else 30)


def test_a_child_tidies_up_whichever_way_it_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "scratch"
    for abort in (False, True):
        made = Child(children.obedient, (str(path),), "the child")
        made.greeting()
        assert path.exists()
        made.close(abort=abort)
        assert not path.exists()
    with pytest.raises(ChildFailed), Child(children.obedient, (str(path),), "the child") as made:
        made.greeting()
        made.ask("hang", limit=0.1)
    assert not path.exists()


def test_a_pending_question_can_be_given_up_from_another_thread(child: Child) -> None:
    giving_up = threading.Timer(0.2, child.abort)
    giving_up.start()
    with pytest.raises(ChildFailed):
        child.ask("hang")
    giving_up.join()


PARENT = """
import sys
sys.path[:0] = sys.argv[1:3]
import children
from _engine.host.child import Child
made = Child(children.obedient, (sys.argv[3],), "the child")
print(made.greeting()["pid"], flush=True)
made.ask(sys.argv[4], *sys.argv[5:])
"""


@pytest.mark.parametrize("call", ["hang", "ignore_signals"])
def test_a_child_dies_with_its_parent(tmp_path: Path, call: str) -> None:
    command = [sys.executable, "-c", PARENT, str(ROOT / "plugins" / "module_utils"), str(ROOT / "tests")]
    parent = subprocess.Popen([*command, str(tmp_path / "scratch"), call], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(pid)
    # One that hears SIGTERM has the time to tidy up.
    assert call != "hang" or not (tmp_path / "scratch").exists()


def test_a_child_that_no_signal_ends_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one is that waits for a file server which never answers."""
    made = Child(children.obedient, (), "the child")
    pid = made.greeting()["pid"]
    made._send(("ignore_signals", ()), 5)
    monkeypatch.setattr(module, "_SIGNAL", 0.1)
    monkeypatch.setattr(made, "_signal", lambda number: None)
    made.close(abort=True)
    assert [process.pid for process in module._left_behind] == [pid]
    module._left_behind.pop().kill()


def test_it_says_when_python_cannot_be_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for executable, says in (("", "does not know its own path"), ("/nonexistent/python", "no such file")):
        monkeypatch.setattr(sys, "executable", executable)
        with pytest.raises(EngineError, match=says):
            Child(children.obedient, (), "the child")
