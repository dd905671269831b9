# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The process that runs are forked from: it has the engine imported and the shim loaded. ``injection.py`` starts it.

It reads an order a line, and answers with a line when the order's process and all its descendants have ended. As their
subreaper (PR_SET_CHILD_SUBREAPER, prctl(2)) it inherits and sees those that outlive their parents.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import struct
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "plugins" / "module_utils"))

_PR_SET_CHILD_SUBREAPER = 36
#: Offset of struct state's ``leader`` (shim.c).
_LEADER = 28
#: After so many seconds a run hangs, and a child that was told to die is an orphan. Runs take parts of a second.
_HUNG, _ORPHANED = 100.0, 15.0


def _agent(arguments: list[str]) -> int:
    from _engine.agent.cli import main

    return main(arguments)


def _call(arguments: dict[str, Any]) -> int:
    """Call a function of a test's module with plain values; what it returns is the exit status."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "faults"), str(ROOT / "tests" / "integration")]
    function = getattr(import_module(arguments.pop("module")), arguments.pop("function"))
    return int(function(**arguments) or 0)


_ACTS: dict[str, Callable[[Any], int]] = {"agent": _agent, "call": _call}


def _import_all() -> None:
    from _engine.agent import cli, parser  # noqa: F401

    parser.whole_parser()
    for name in ("cryptography.hazmat.primitives.ciphers.aead", "psycopg2", "_engine.databases.sqlite.engine"):
        import_module(name)
    for name in ("_engine.databases.postgresql.engine", "_engine.repositories.local", "_engine.rekey"):
        import_module(name)


def _child(order: dict[str, Any], output: int, state: Path) -> None:
    """Become the run. Never returns."""
    status = 1
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        for descriptor, target in ((null, 0), (output, 1), (output, 2)):
            os.dup2(descriptor, target)
        os.closerange(3, 256)
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
        os.environ.update(order["environment"])
        tempfile.tempdir = None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
        with state.open("r+b") as file:
            file.seek(_LEADER)
            file.write(struct.pack("=i", os.getpid()))
        try:
            status = _ACTS[order["act"]](order["arguments"])
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _ends(pid: int, seconds: float) -> bool:
    """Whether a process ends within the time; it is not reaped."""
    descriptor = os.pidfd_open(pid)
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def _children() -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == os.getpid():
            found.append(int(status.parent.name))
    return found


def _command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()


def _bury() -> list[str]:
    """Wait for all that the run left to us; what did not end by itself."""
    orphans = []
    while True:
        children = _children()
        if not children:
            return orphans
        for pid in children:
            if not _ends(pid, _ORPHANED):
                orphans.append(_command_of(pid))
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _serve(order: dict[str, Any], state: Path) -> dict[str, Any]:
    output = os.memfd_create("output")
    child = os.fork()
    if child == 0:
        _child(order, output, state)
    hung = not _ends(child, _HUNG)
    if hung:
        os.killpg(child, signal.SIGABRT)
    status = os.waitpid(child, 0)[1]
    orphans = _bury()
    said = os.pread(output, 1 << 20, 0).decode("utf-8", "replace")
    os.close(output)
    return {"status": os.waitstatus_to_exitcode(status), "output": said, "orphans": orphans, "hung": hung}


def main() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _import_all()
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        print(json.dumps(_serve(json.loads(line), Path(sys.argv[1]))), file=answers, flush=True)


if __name__ == "__main__":
    main()
