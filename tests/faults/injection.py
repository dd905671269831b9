# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Faults at the Nth system call of a run: the other side of ``shim.c``, and the process that runs are forked from.

A run is a fork of a process that has the engine imported already and the shim loaded, so that a run costs what the verb
costs. All processes of a run share one count, also those that it starts with an environment of their own.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import mmap
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

HERE = Path(__file__).resolve().parent
_CACHE = HERE.parents[1] / ".cache" / "faults"
#: struct state of shim.c: armed, count, target, mode, error, lasting, fired, leader; call; path; prefixes.
_NUMBERS = struct.Struct("=4Ii2Ii")
_CALL, _PATH, _PREFIXES = 32, 1024, 4096
_SIZE = _NUMBERS.size + _CALL + _PATH + _PREFIXES


class Mode(IntEnum):
    """What happens at the Nth call."""

    COUNT = 0
    #: SIGKILL to the process that makes the call.
    KILL = 1
    #: SIGKILL to the process that the run began with, whoever makes the call.
    LEADER = 2
    FAIL = 3
    #: Half of a write, then SIGKILL.
    TEAR = 4
    #: Half of a write, as a signal or a full pipe makes it.
    SHORT = 5


@dataclass(frozen=True)
class Fault:
    """A mode with the error that it fails with; ``lasting`` fails every call from then on that changes something."""

    mode: Mode
    error: int = 0
    lasting: bool = False

    def __str__(self) -> str:
        name = errno.errorcode[self.error] if self.error else self.mode.name.lower()
        return f"{name}-lasting" if self.lasting else name


@dataclass(frozen=True)
class Ended:
    """How a run ended. ``status`` is the exit status, or minus the signal that killed its first process.

    ``calls`` is how many calls there were, ``call`` the one that met the fault, ``orphans`` the processes that did not
    end with the run.
    """

    status: int
    calls: int
    call: str
    output: str
    orphans: Sequence[str] = field(default=())

    @property
    def killed(self) -> bool:
        return self.status < 0


def shim() -> Path:
    """The compiled shim."""
    source = HERE / "shim.c"
    built = _CACHE / f"shim-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}.so"
    if not built.exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_CACHE) as scratch:
            # Other workers build it too; whoever is last replaces the same by the same.
            fresh = Path(scratch) / "shim.so"
            command = ["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(fresh), str(source)]
            subprocess.run([*command, "-ldl"], check=True)
            fresh.rename(built)
    return built


class Forge:
    """Runs verbs below ``site`` in forks of a warm process, with a fault where a test wants one."""

    def __init__(self, site: Path, extra: Sequence[str] = ()) -> None:
        # Where accounts without rights reach it, too.
        self._home = Path(tempfile.mkdtemp(prefix="faults-"))
        self._home.chmod(0o755)
        library, state = self._home / "shim.so", self._home / "state"
        shutil.copy(shim(), library)
        state.write_bytes(bytes(_SIZE))
        state.chmod(0o666)
        with state.open("r+b") as file:
            self._state = mmap.mmap(file.fileno(), _SIZE)
        prefixes = b"".join(prefix.encode() + b"\0" for prefix in (f"{site}/", *extra))
        self._state[_SIZE - _PREFIXES :] = prefixes.ljust(_PREFIXES, b"\0")
        environment = {**os.environ, "LD_PRELOAD": str(library), "FAULTS_STATE": str(state)}
        # Coverage of a process that is killed at every call measures the killing.
        environment.pop("COVERAGE_PROCESS_CONFIG", None)
        self._warm = subprocess.Popen(
            [sys.executable, str(HERE / "warm.py"), str(state)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def run(
        self,
        act: str,
        arguments: Any,
        fault: Fault | None = None,
        number: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> Ended:
        """Run an act of ``warm.py`` to its end, with a fault at the given call."""
        fault = fault or Fault(Mode.COUNT)
        numbers = (1, 0, number, fault.mode, fault.error, fault.lasting, 0, 0)
        self._state[: _NUMBERS.size + _CALL + _PATH] = _NUMBERS.pack(*numbers) + bytes(_CALL + _PATH)
        order = {"act": act, "arguments": arguments, "environment": dict(environment or {})}
        assert self._warm.stdin and self._warm.stdout
        self._warm.stdin.write(json.dumps(order) + "\n")
        self._warm.stdin.flush()
        answer = json.loads(self._warm.stdout.readline())
        self._state[:4] = bytes(4)
        met = _NUMBERS.unpack_from(self._state)
        names = self._state[_NUMBERS.size : _NUMBERS.size + _CALL + _PATH]
        call, path = (part.rstrip(b"\0").decode() for part in (names[:_CALL], names[_CALL:]))
        assert not answer["hung"], f"The run hangs after {call} {path}: {answer['output']}"
        return Ended(answer["status"], met[1], f"{call} {path}".strip(), answer["output"], answer["orphans"])

    def close(self) -> None:
        assert self._warm.stdin and self._warm.stdout
        self._warm.stdin.close()
        self._warm.wait()
        self._warm.stdout.close()
        self._state.close()
        shutil.rmtree(self._home)


@contextmanager
def forge(site: Path, extra: Sequence[str] = ()) -> Iterator[Forge]:
    made = Forge(site, extra)
    try:
        yield made
    finally:
        made.close()


def full() -> bool:
    """Whether every call is to be tried with every fault, which takes an hour (``make faults FULL=yes``)."""
    return os.environ.get("FAULTS_FULL") == "yes"


def moments(calls: int, most: int, offset: int = 0) -> list[int]:
    """The calls to try of so many: all of them where that is asked for, and else ``most``, spread evenly.

    ``offset`` shifts them, so that different faults meet different calls.
    """
    if full() or calls <= most:
        return list(range(1, calls + 1))
    step = calls / most
    return sorted({1 + int(step * (index + offset % 9 / 9)) for index in range(most)})


def locked_file(path: Path) -> bool:
    """Whether a process holds the lock of a file (flock(2))."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
