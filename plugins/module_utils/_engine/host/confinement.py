# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A program that runs strangers' code: as another account, in namespaces of its own, and only as long as this process.

A launcher, started afresh so that it holds none of this process's memory, makes the namespaces (namespaces(7)), gives
up its account for good, and becomes the program. In there:

- no network but an unconfigured loopback, and none of this host's System V or POSIX message queues;
- no process is visible but the program's own, and none of them outlives the launcher: it is the parent of the PID
  namespace's first process, which dies with it (PR_SET_PDEATHSIG), as the launcher dies with this process;
- of the directories where others keep sockets and temporary files, and of the one that holds its own, nothing is
  visible but the program's own directory. Directories of the same account in other places have names that it cannot
  find out (``scratch.unguessable``).

It gets a minimal environment, leaves no core file, and gains no privilege by executing a file (PR_SET_NO_NEW_PRIVS).
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from ..command import Account, Command
from ..errors import EngineError
from .inside import become
from .unexpected import reason_of

#: The launcher's exit status when the kernel, or a sandbox, does not let it make namespaces.
REFUSED = 125

# <linux/prctl.h>
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38
# <linux/sched.h>: mounts, IPC, users, processes, network
_NEWNS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
# <linux/mount.h>
_NOSUID, _NODEV, _NOEXEC, _BIND, _REC, _PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18

#: Where strangers find sockets and each other's files. /dev/shm is replaced and not only hidden: servers need one.
_HIDDEN = ("/run", "/tmp", "/var/tmp", "/dev/shm")

#: The launcher imports the engine from where this process did.
_START = "import sys, importlib; sys.path[:] = {path!r}; importlib.import_module({module!r}).main()"


@dataclass(frozen=True)
class Confinement:
    """``account`` None is the caller's own. Without ``isolated`` there are no namespaces: only the account is another.

    ``directory`` is the only one that the program sees of those where others keep temporary files. It lies alone in a
    directory, and that in one for such directories, of which the program needs nothing else.
    """

    account: Optional[Account]
    directory: Path
    isolated: bool = True


def confined(name: str, arguments: Sequence[str], confinement: Confinement) -> Command:
    """The program with these arguments, confined. ``SIGTERM`` ends it, and everything it started, at once."""
    account = confinement.account
    request = {
        "parent": os.getpid(),
        "arguments": list(arguments),
        "directory": str(confinement.directory),
        "isolated": confinement.isolated,
        "ids": None if account is None else [account.uid, account.gid],
    }
    start = _START.format(path=[os.path.abspath(part) for part in sys.path if part], module=__name__)
    return Command(name, (sys.executable, "-I", "-S", "-c", start, json.dumps(request)))


def main() -> None:
    """Entry point of the launcher."""
    request = json.loads(sys.argv[1])
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != request["parent"]:
            raise SystemExit(1)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # Where it takes too much memory, it ends before anything else on this host (proc(5), oom_score_adj).
        # A container may show this read-only: the program is as confined then, and the kernel chooses what ends first.
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
        os.umask(0o077)
        _isolate(Path(request["directory"])) if request["isolated"] else _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    except OSError as error:
        sys.stderr.write(f"{error.strerror}\n")
        raise SystemExit(REFUSED) from None
    alive, held = os.pipe()
    child = os.fork()
    if not child:
        os.close(held)
        _become_program(request, alive)
    # Stopped politely or not, nothing in here has an end of its own that is worth waiting for.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_unused: _kill(child))
    status = os.waitpid(child, 0)[1]
    _reap_all()
    raise SystemExit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))


def _become_program(request: Dict[str, Any], alive: int) -> None:
    try:
        if request["isolated"]:
            _mount("proc", "/proc", "proc", _NOSUID | _NODEV | _NOEXEC)
        if request["ids"]:
            uid, gid = request["ids"]
            become(Account("", uid, gid, (), request["directory"]))
        # A change of accounts clears it, so that it comes after that (PR_SET_PDEATHSIG(2const)).
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.set_blocking(alive, False)
        with suppress(BlockingIOError):
            os.read(alive, 1)
            # The end of the pipe: the launcher died before it could be noticed.
            os._exit(1)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "HOME": request["directory"]}
        os.chdir(request["directory"])
        os.execve(request["arguments"][0], request["arguments"], environment)
    except (OSError, EngineError) as error:
        sys.stderr.write(f"{reason_of(error)}\n")
        sys.stderr.flush()
        os._exit(REFUSED)


def _isolate(directory: Path) -> None:
    """Make the namespaces; the PID namespace is for the next child. Raises OSError."""
    users = 0 if os.geteuid() == 0 else _NEWUSER
    uid, gid = os.geteuid(), os.getegid()
    _called(_libc().unshare(_NEWNS | _NEWIPC | _NEWPID | _NEWNET | users))
    if users:
        # user_namespaces(7): who is nobody else there needs no more than this.
        for name, content in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            Path("/proc/self", name).write_text(content, encoding="ascii")
    _mount("none", "/", None, _REC | _PRIVATE)
    kept = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    # A hidden place may lie in another one, and is gone then.
    for hidden in sorted({*_HIDDEN, str(directory.parent.parent)}):
        if os.path.isdir(hidden):
            _mount("none", os.path.realpath(hidden), "tmpfs", _NOSUID | _NODEV, "mode=1777")
    os.umask(0o022)
    directory.mkdir(parents=True, exist_ok=True)
    os.umask(0o077)
    _mount(f"/proc/self/fd/{kept}", str(directory), None, _BIND)
    os.close(kept)


def _kill(child: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)


def _reap_all() -> None:
    """End what the program left running. In a PID namespace the kernel has done so; elsewhere it became our child."""
    while True:
        for pid in _children():
            _kill(pid)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> List[int]:
    own = os.getpid()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                # proc_pid_stat(5): the parent's number is the second field behind the name in parentheses.
                text = Path("/proc", name, "stat").read_text("utf-8", "replace")
                if int(text.rpartition(")")[2].split()[1]) == own:
                    found.append(int(name))
    return found


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    _called(_libc().prctl(option, ctypes.c_ulong(value), 0, 0, 0))


def _mount(source: str, target: str, kind: Optional[str], flags: int, data: Optional[str] = None) -> None:
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    _called(_libc().mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3]))


def _called(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
