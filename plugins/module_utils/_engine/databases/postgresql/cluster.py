# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A throwaway PostgreSQL server for one verification, made from this host's own server packages.

Restoring a database executes its owner's code: check constraints, generated columns, functions of indexes, triggers.
Here that code runs as an account that owns nothing else, on a server that no network reaches and whose only superuser
it can become by a forged dump alone, and all of it is gone afterwards. Killed at any moment, the server dies with this
process, and the next verification removes its directory.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence

from ...command import Account
from ...errors import EngineError, MissingTool, NoSpace, Unreachable, Unverifiable
from ...host.confinement import REFUSED, Confinement, confined
from ...host.temporary import temporary_directory
from ...host.unexpected import reason_of
from ...model import Scratch
from ...process import Process
from ...scratch import Purpose, private_directory, scratch_account, unguessable
from ...timespan import format_size
from . import tools
from .connection import Access

#: An empty cluster and its write-ahead log; and for each byte of a dump, that byte as a file, its table with indexes,
#: and what sorting them takes.
_EMPTY_BYTES = 512 << 20
_FACTOR = 4
_START_SECONDS = 120.0
#: How often the server's disk is looked at, in seconds, and the share of it that the server leaves to others.
_LOOK_SECONDS, _SHARE_LEFT = 0.1, 10
#: A path of a Unix socket is no longer than this (unix(7)), and its name in the directory is /.s.PGSQL.5432.
_LONGEST_SOCKET = 107 - len("/.s.PGSQL.5432")

#: Libraries that their extension wants loaded before it can be created. A manifest is not trusted to name a library.
PRELOADED = {
    "citus": "citus",
    "pg_cron": "pg_cron",
    "pg_tle": "pg_tle",
    "pgaudit": "pgaudit",
    "pgextwlist": "pgextwlist",
    "set_user": "set_user",
    "timescaledb": "timescaledb",
}
#: What these do by themselves is not wanted on a copy. A library that does not know a setting ignores it.
_QUIET = {
    "cron.launch_active_jobs": "off",
    "cron.max_running_jobs": "0",
    "timescaledb.max_background_workers": "0",
    "timescaledb.telemetry_level": "off",
}


@dataclass(frozen=True)
class Needs:
    """What a database needs of a server: its major version, its space, its tables' locks, and its extensions."""

    database: str
    major: int
    bytes: int
    tables: int = 0
    extensions: Sequence[str] = ()


@dataclass(frozen=True)
class Cluster:
    """A running server. ``superuser`` is the only one, under a name that no backup can know."""

    superuser: Access
    account: Optional[Account]
    directory: Path

    def access(self, role: str) -> Access:
        """The way in for another role."""
        return replace(self.superuser, user=role)


@contextmanager
def running(needs: Needs, scratch: Scratch) -> Iterator[Cluster]:
    """Start a server for as long as the context lasts.

    Raises Unverifiable where this account must not or the kernel does not, MissingTool, NoSpace.
    """
    programs = _programs(needs.major)
    account = _account(scratch)
    parent = scratch.path or temporary_directory()
    _require_space(parent, needs)
    if scratch.isolated and parent.resolve() in programs.resolve().parents:
        raise Unverifiable(
            f"scratch.path: the scratch server's own programs are in {parent}, and what is in there is hidden from it. "
            "Name a directory for scratch servers."
        )
    with ExitStack() as stack:
        try:
            outer = stack.enter_context(private_directory(Purpose.VERIFICATION, parent))
        except OSError as error:
            raise Unverifiable(
                f"The scratch server has no directory in {parent}: {reason_of(error)}. Set scratch.path."
            ) from None
        inner = _given_to(account, outer)
        guard = _Guard(parent, needs)
        confinement = Confinement(account, inner, scratch.isolated)
        name = f"fleet_backup_{secrets.token_hex(8)}"
        _run(confinement, _initialisation(programs, inner, name))
        settings = _settings(needs, programs, inner)
        superuser = stack.enter_context(_served(confinement, programs, settings, _access(inner, name, account), guard))
        yield Cluster(superuser, account, inner)


def _programs(major: int) -> Path:
    """The directory of the server's programs: of this major version, or else the next above it."""
    found = [tool for tool in tools.installed("postgres") if Path(tool.path).with_name("initdb").exists()]
    fitting = [tool for tool in found if tool.major >= major]
    if fitting:
        return Path(fitting[0].path).parent
    there = f"only {', '.join(tool.version for tool in found)}" if found else "none"
    raise MissingTool(
        f"Verifying with level restore starts a scratch server of PostgreSQL {major} or newer, and this host has "
        f"{there}. Install postgresql-{major} (Debian, Ubuntu) or postgresql{major}-server (RHEL), or name a scratch "
        "server in scratch.login_host."
    )


def _account(scratch: Scratch) -> Optional[Account]:
    """The account that the server runs as; None for the caller's own, which has to be asked for by name."""
    own = pwd.getpwuid(os.geteuid()).pw_name
    if os.geteuid() == 0:
        return scratch_account(scratch.become_user)
    if scratch.become_user == own:
        return None
    raise Unverifiable(
        f"Verifying with level restore runs the code of the backup's owner, and only root can confine it to another "
        f"account than {own}. Run this as root, name a scratch server in scratch.login_host, or set "
        f"scratch.become_user to {own} to let that code run as {own}."
    )


class _Guard(threading.Thread):
    """Stops a server before it fills the disk: the code that it runs decides how much it writes, and is an owner's."""

    def __init__(self, parent: Path, needs: Needs) -> None:
        super().__init__(daemon=True)
        usage = shutil.disk_usage(parent)
        spare = usage.free - _wanted(needs)
        # Of a disk that is nearly too small, less: what the database is known to need it gets.
        self._floor = min(usage.total // _SHARE_LEFT, max(spare // 2, _EMPTY_BYTES // 4))
        self._parent, self._over = parent, threading.Event()
        self._process: Optional[Process] = None
        self._stopped = False

    def watch(self, process: Process) -> None:
        self._process = process
        self.start()

    def run(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            if self._is_full() and self._process and not self._process.ended:
                self._stopped = True
                with suppress(ProcessLookupError):
                    os.kill(self._process.pid, signal.SIGTERM)
                return

    def _is_full(self) -> bool:
        try:
            return shutil.disk_usage(self._parent).free < self._floor
        except OSError:
            # A disk that cannot even say how full it is takes nothing more.
            return True

    def end(self) -> None:
        self._over.set()
        if self.is_alive():
            self.join()

    @property
    def explained(self) -> Optional[EngineError]:
        """Why the server was stopped, if it was."""
        if not self._stopped:
            return None
        return NoSpace(
            f"{self._parent}: the scratch server was stopped when it had left only {format_size(self._floor)} free. "
            "Free space there, or set scratch.path to a directory with more; if the database is small, look at what "
            "its functions do when it is restored."
        )


def _wanted(needs: Needs) -> int:
    return needs.bytes * _FACTOR + _EMPTY_BYTES


def _require_space(parent: Path, needs: Needs) -> None:
    try:
        free = shutil.disk_usage(parent).free
    except OSError as error:
        raise Unverifiable(f"scratch.path: {parent}: {error.strerror}. Name an existing directory.") from None
    wanted = _wanted(needs)
    if free < wanted:
        raise NoSpace(
            f"{parent}: {format_size(free)} free, but the scratch server needs about {format_size(wanted)}. "
            "Free space there, or set scratch.path to a directory with more."
        )


def _given_to(account: Optional[Account], outer: Path) -> Path:
    """A directory of the account's in ``outer``, which it may pass through, and neither list nor change."""
    inner = outer / unguessable()
    inner.mkdir(mode=0o700)
    if len(os.fsencode(inner)) > _LONGEST_SOCKET:
        raise Unverifiable(f"scratch.path: {outer.parent} is too long a path for a Unix socket. Name a shorter one.")
    if account is not None and account.uid != os.geteuid():
        outer.chmod(0o711)
        os.chown(inner, account.uid, account.gid)
        for directory in outer.parents:
            # It has no group but its own.
            if not directory.stat().st_mode & 0o001:
                raise Unverifiable(
                    f"scratch.path: the account {account.name} cannot enter {directory}. Name another directory."
                )
    return inner


def _initialisation(programs: Path, directory: Path, superuser: str) -> List[str]:
    return [
        str(programs / "initdb"), "--no-sync", "--auth=trust", f"--username={superuser}", "--encoding=UTF8",
        "--locale=C", f"--pgdata={directory / 'data'}",
    ]  # fmt: skip


def _settings(needs: Needs, programs: Path, directory: Path) -> Dict[str, str]:
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(directory),
        "unix_socket_permissions": "0700",
        "port": "5432",
        # Nothing in it outlives the process that made it, also where that is killed: it is all in its directory.
        "dynamic_shared_memory_type": "mmap",
        "fsync": "off",
        "full_page_writes": "off",
        "synchronous_commit": "off",
        "wal_level": "minimal",
        "max_wal_senders": "0",
        "max_wal_size": f"{max(256, min(4096, needs.bytes >> 20))}MB",
        "autovacuum": "off",
        "jit": "off",
        "shared_buffers": "128MB",
        "maintenance_work_mem": "128MB",
        "max_connections": "20",
        # Counting locks every table in one transaction.
        "max_locks_per_transaction": str(max(256, needs.tables // 4)),
        # Large objects have owners of their own, and everything is read by one role.
        "lo_compat_privileges": "on",
        "log_min_messages": "fatal",
        "lc_messages": "C",
    }
    libraries = _libraries(needs, programs)
    if libraries:
        settings.update(_QUIET, shared_preload_libraries=",".join(libraries))
        settings["cron.database_name"] = needs.database
    return settings


def _libraries(needs: Needs, programs: Path) -> List[str]:
    """What the database's extensions want preloaded, as far as it is installed. The others cannot be created."""
    wanted = sorted({PRELOADED[name] for name in needs.extensions if name in PRELOADED})
    # Debian and the PostgreSQL project's packages have the libraries beside the programs.
    return [name for name in wanted if (programs.parent / "lib" / f"{name}.so").exists()]


def _access(directory: Path, superuser: str, account: Optional[Account]) -> Access:
    return Access(
        host=str(directory),
        port="5432",
        user=superuser,
        label="the scratch server",
        ssl=(),
        password=None,
        become_user=account.name if account else None,
        trusted=False,
    )


def _run(confinement: Confinement, arguments: List[str]) -> None:
    process = Process(confined("initdb", arguments, confinement))
    try:
        status = process.wait()
    except BaseException:
        process.stop()
        raise
    failure = process.failure()
    if failure is not None:
        raise _refusal(confinement, failure.output) if status == REFUSED else failure


@contextmanager
def _served(
    confinement: Confinement, programs: Path, settings: Dict[str, str], superuser: Access, guard: _Guard
) -> Iterator[Access]:
    arguments = [str(programs / "postgres"), "-D", str(confinement.directory / "data")]
    arguments += [f"--{name}={value}" for name, value in settings.items()]
    process = Process(confined("postgres", arguments, confinement))
    try:
        guard.watch(process)
        _await(process, superuser)
        yield superuser
    except EngineError as error:
        stopped = guard.explained
        if stopped is None:
            raise
        raise stopped from error
    finally:
        guard.end()
        process.stop()


def _await(process: Process, superuser: Access) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            superuser.connect("postgres").close()
            return
        except Unreachable as error:
            if process.ended:
                failure = process.failure()
                raise Unverifiable(
                    f"The scratch server did not start: {failure.output if failure else error}. "
                    "Name a scratch server in scratch.login_host."
                ) from None
            if time.monotonic() > deadline:
                raise Unverifiable(f"The scratch server did not start within {_START_SECONDS:g} s: {error}") from None
        time.sleep(0.02)


def _refusal(confinement: Confinement, said: str) -> EngineError:
    return Unverifiable(
        f"The kernel, or a sandbox, does not let the scratch server have namespaces of its own: {said}. Run this as "
        "root outside of a container, name a scratch server in scratch.login_host, or set scratch.isolated to false "
        "to let the restored code see this host's network and processes."
    )
