# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Lines of the audit log: who runs this and from where, by the process's own facts, and how a line is written.

A line is one JSON object, written by one write(2) to a file that is opened anew each time and only ever added to: so
whoever rotates the log has nothing to tell this.
"""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

#: Where the journal or a syslog daemon listens (syslog(3)).
JOURNAL = Path("/dev/log")
#: The facility authpriv with the severity info (RFC 3164, 4.1.1).
_PRIORITY = 10 * 8 + 6
#: What a syslog daemon takes as one message; the file has all of it.
_JOURNAL_LIMIT = 8000
#: A process that nobody logged in to start (proc(5), loginuid).
_NO_LOGIN = 2**32 - 1
#: How many processes lie between a login and this one at most.
_ANCESTORS = 16


def caller() -> Dict[str, Any]:
    """Who runs this, and from where; what is not known is left out.

    ``user`` and ``uid`` are the account, ``login`` the account that somebody logged in with, which no su(1) and sudo(8)
    changes, ``sudo_user`` what sudo says; ``address`` the ssh client's, ``tty`` the terminal, ``unit`` the unit of
    systemd and ``invocation`` its run.
    """
    facts: Dict[str, Any] = {"user": _name(os.geteuid()), "uid": os.geteuid()}
    found = {
        "login": _login(),
        "sudo_user": os.environ.get("SUDO_USER"),
        "address": _address(),
        "tty": _terminal(),
        "unit": unit_of(_read(Path("/proc/self/cgroup"))),
        "invocation": os.environ.get("INVOCATION_ID"),
    }
    facts.update({name: value for name, value in found.items() if value})
    return dict(facts, pid=os.getpid())


def append(path: Path, entry: Mapping[str, Any]) -> None:
    """Add a line to a file that nobody else can read, and have it on the disk. Raises OSError."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    line = json.dumps(entry).encode("ascii") + b"\n"
    descriptor = os.open(path, flags, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            # A disk that was full, or a loss of power, cut the last line.
            line = b"\n" + line
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def tell_journal(entry: Mapping[str, Any]) -> bool:
    """Send a line to the journal, where there is one; whether it took it. The file is what counts."""
    message = f"<{_PRIORITY}>fleet-backup[{os.getpid()}]: {json.dumps(entry)}".encode("ascii")[:_JOURNAL_LIMIT]
    if not JOURNAL.exists():
        return False
    import socket

    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(1.0)
            sender.connect(str(JOURNAL))
            sender.send(message)
    except OSError:
        return False
    return True


def unit_of(cgroup: str) -> Optional[str]:
    """The unit of systemd that a process belongs to, by the text of its cgroup file (cgroups(7)). Pure."""
    for line in cgroup.splitlines():
        hierarchy, _colon, rest = line.partition(":")
        controllers, _colon, path = rest.partition(":")
        if (hierarchy == "0" and not controllers) or controllers == "name=systemd":
            units = [part for part in path.split("/") if part.endswith((".service", ".scope"))]
            if units:
                return units[-1]
    return None


def _login() -> Optional[str]:
    text = _read(Path("/proc/self/loginuid")).strip()
    return _name(int(text)) if text.isdigit() and int(text) != _NO_LOGIN else None


def _address() -> Optional[str]:
    """The ssh client's address. sudo takes the variable away, so that the processes above this one are asked too."""
    given = os.environ.get("SSH_CONNECTION")
    pid = os.getppid()
    for _ancestor in range(_ANCESTORS):
        if given or pid <= 1:
            break
        for variable in _read(Path(f"/proc/{pid}/environ")).split("\0"):
            if variable.startswith("SSH_CONNECTION="):
                given = variable.partition("=")[2]
        # The name before the fields may itself hold spaces and brackets (proc(5)).
        fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
        pid = int(fields[1]) if len(fields) > 1 else 0
    return given.split()[0][:64] if given and given.split() else None


def _terminal() -> Optional[str]:
    for descriptor in (0, 1, 2):
        try:
            return os.ttyname(descriptor)
        except OSError:
            # It is no terminal, or closed.
            continue
    return None


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _read(path: Path) -> str:
    """A file of proc(5), or nothing where it is missing or not for this account."""
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""
