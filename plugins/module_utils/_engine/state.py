# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host remembers: locks, the progress of running work, and the audit log.

All of it lives in one directory: ``FLEET_BACKUP_STATE``, or /var/lib/fleet-backup for root, or
``$XDG_STATE_HOME/fleet-backup`` (XDG Base Directory Specification) for anybody else. The audit log that belongs to
/var/lib/fleet-backup is /var/log/fleet-backup/audit.log.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional

from .audit import append, caller, tell_journal
from .crypto.signing import UNSIGNED, Signing
from .errors import BadInput, EngineError, Locked, NoSpace, PermissionDenied, Stopped
from .host.small import read_small
from .host.unexpected import explained_stop
from .timespan import format_time

_ROOT_STATE = Path("/var/lib/fleet-backup")
_ROOT_LOG = Path("/var/log/fleet-backup/audit.log")


def _utc_now() -> datetime:
    return datetime.now(timezone.utc)


@dataclass(frozen=True)
class Host:
    """The host that runs this, as the verbs see it: its name, where it keeps its state, and its clock."""

    name: str
    state: Path
    now: Callable[[], datetime] = _utc_now
    #: Seconds since the machine was started, by a clock that nobody sets; None where ``now`` is no real clock either.
    running: Optional[Callable[[], float]] = None
    signing: Signing = UNSIGNED
    #: Whether listings may keep what they read (listing_cache.py). Not where nothing is to be changed.
    caches: bool = False

    def uptime(self) -> Optional[float]:
        """Seconds since the machine was started, sleep included (clock_gettime(2), CLOCK_BOOTTIME)."""
        if self.running is not None:
            return self.running()
        return time.clock_gettime(time.CLOCK_BOOTTIME) if self.now is _utc_now else None

    def unchanging(self) -> Host:
        """The same for a dry run, which writes nothing."""
        return replace(self, caches=False)

    @property
    def real(self) -> bool:
        """Whether its clock is that of this machine, which a store's clock can be compared with."""
        return self.now is _utc_now


def default_state() -> Path:
    """The directory for state that this account uses."""
    chosen = os.environ.get("FLEET_BACKUP_STATE")
    if chosen:
        return Path(chosen)
    if os.geteuid() == 0:
        return _ROOT_STATE
    base = Path(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"))
    if not base.is_absolute():
        # Locks that depend on the current directory would lock nothing.
        raise BadInput("This account has no home directory to keep state in. Set FLEET_BACKUP_STATE to a directory.")
    return base / "fleet-backup"


@contextmanager
def locked(host: Host, subject: str, timeout: float) -> Iterator[None]:
    """Hold the lock on a subject; it dies with its holder (flock(2)). Raises Locked after ``timeout`` seconds."""
    path = directory(host, "locks") / f"{subject.replace('/', '+')}.lock"
    with _explained(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + timeout
        while not _try_lock(descriptor):
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "another process"
                raise Locked(
                    f"{subject} is in use by {holder}, and was for the {timeout:g} s that were waited. "
                    "Wait for it to end, or raise lock_timeout."
                )
            time.sleep(0.05)
        with _explained(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} since {format_time(host.now())}".encode(), 0)
        yield
        with _explained(path):
            os.ftruncate(descriptor, 0)
    finally:
        # The lock is let go of whatever close(2) returns, which must not hide how the work ended.
        with suppress(OSError):
            os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise PermissionDenied(
            f"The locks of this host cannot be taken: {error.strerror}. Keep its state on a local disk: "
            "FLEET_BACKUP_STATE names another directory."
        ) from None
    return True


class Progress:
    """Writes how far the work on a subject is to a status file, at most twice a second, for others to read.

    The file is removed when the work ends, well or not; one whose process is gone tells of work that was killed.
    """

    def __init__(self, host: Host, verb: str, subject: str) -> None:
        self._path = directory(host, "status") / f"{subject.replace('/', '+')}.json"
        self._fields: Dict[str, Any] = {
            "verb": verb,
            "subject": subject,
            "pid": os.getpid(),
            "process_started": process_started(os.getpid()),
            "started": format_time(host.now()),
        }
        self._stage, self._expected, self._bytes = "", 0, 0
        self._stage_began = self._written = 0.0
        #: Seconds spent in each stage so far.
        self.durations: Dict[str, float] = {}

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._end_stage()
        with suppress(OSError):
            self._path.unlink()
            # A disk that was full can have left it.
            self._path.with_suffix(".tmp").unlink()

    def stage(self, name: str, expected: int = 0) -> None:
        """Enter a stage, of which ``expected`` bytes are to be done where that is known."""
        self._end_stage()
        self._stage, self._expected, self._bytes = name, expected, 0
        self._stage_began = time.monotonic()
        self._write()

    def advance(self, count: int) -> None:
        """Count bytes as done."""
        self._bytes += count
        if time.monotonic() - self._written > 0.5:
            self._write()

    def _end_stage(self) -> None:
        if self._stage:
            spent = time.monotonic() - self._stage_began
            self.durations[self._stage] = round(self.durations.get(self._stage, 0.0) + spent, 3)
            self._stage = ""

    def _write(self) -> None:
        self._written = time.monotonic()
        spent = max(self._written - self._stage_began, 0.001)
        fields = dict(
            self._fields,
            stage=self._stage,
            bytes=self._bytes,
            expected_bytes=self._expected,
            bytes_per_second=int(self._bytes / spent),
        )
        # One name, as the lock has one holder: the next one writes over what a killed one left.
        temporary = self._path.with_suffix(".tmp")
        # Nobody's backup may fail because nobody can be told how far it is.
        with suppress(OSError):
            temporary.write_text(json.dumps(fields))
            os.replace(str(temporary), str(self._path))


def running(host: Host) -> List[Mapping[str, Any]]:
    """The status of all work on this host; ``alive`` says whether its process still is. Changes nothing."""
    directory = host.state / "status"
    found = []
    for path in sorted(directory.glob("*.json")) if directory.is_dir() else ():
        try:
            fields = json.loads(read_small(path))
            fields["alive"] = lives(fields["pid"], fields.pop("process_started"))
            fields.update(subject=str(fields["subject"]), stage=str(fields["stage"]))
        except FileNotFoundError:
            # It ended between the listing and the reading.
            continue
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            fields = {"subject": path.stem.replace("+", "/"), "stage": "unknown", "alive": False}
        found.append(fields)
    return found


def audit_path(host: Host) -> Path:
    """Where the audit log is: among the logs of the system for root's own state, and else beside the state."""
    if host.state == _ROOT_STATE and os.geteuid() == 0:
        return _ROOT_LOG
    return host.state / "audit.jsonl"


def audit(host: Host, action: str, subject: str, outcome: str, detail: Optional[Mapping[str, Any]] = None) -> None:
    """Add a line to the audit log: who did what to which backups, and how it ended. Holds no secret.

    The journal gets the same. Raises NoSpace and PermissionDenied, which say what is not in the log.
    """
    entry = {
        "time": format_time(host.now()),
        "action": action,
        "subject": subject,
        "outcome": outcome,
        "host": host.name,
        **caller(),
        **(detail or {}),
    }
    tell_journal(entry)
    path = audit_path(host)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        append(path, entry)
    except OSError as error:
        told = (
            f"The audit log {path} cannot be written: {error.strerror}. "
            f'That the outcome of "{action}" for {subject} is "{outcome}" is missing there. Mend the log first.'
        )
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise (NoSpace(told) if full else PermissionDenied(told)) from None


def audit_failure(
    host: Host, action: str, subject: str, error: BaseException, detail: Optional[Mapping[str, Any]] = None
) -> None:
    """Add a line for what failed. Where the log cannot be written either, the error says so after its own reason."""
    try:
        reason = str(explained_stop(error, f"{action} of {subject}"))
        audit(host, action, subject, "failed", {"reason": reason, **(detail or {})})
    except EngineError as unwritten:
        if isinstance(error, (EngineError, Stopped)):
            error.args = (f"{error} {unwritten}",)


def directory(host: Host, name: str) -> Path:
    """A directory within the state, made where it is missing. Raises NoSpace and PermissionDenied."""
    path = host.state / name if name else host.state
    with _explained(path):
        # The modes of parents are not those of the last one (os.makedirs()).
        host.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    return path


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = f"The state of this host is kept in {path.parent}; FLEET_BACKUP_STATE names another directory."
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"{path} cannot be written: the disk is full. Free space there. {hint}") from None
        raise PermissionDenied(f"{path} cannot be used: {error.strerror}. {hint}") from None


def lives(pid: int, started: Optional[str]) -> bool:
    """Whether the process is there that had this number and this start."""
    return started is not None and process_started(pid) == started


def process_started(pid: int) -> Optional[str]:
    """When a process started, in clock ticks since boot (proc(5), field 22 of stat): a pid alone is used again.

    None where there is no such process, or only what its parent has not waited for yet: a killed process whose parent
    was killed too may stay like that for seconds.
    """
    try:
        content = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = content.rpartition(b")")[2].split()
    return None if fields[0] in (b"Z", b"X") else fields[19].decode("ascii")
