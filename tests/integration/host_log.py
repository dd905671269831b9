# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host's log that a test reads: what programs send to /dev/log, and what they send to the journal by its library."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

#: In a mount namespace of its own (mount_namespaces(7)): a /dev whose ``log`` is the test's socket.
_ENTER = """
set -e
mount --rbind /dev "$1/dev"
mount -t tmpfs none /dev
for node in full null random tty urandom zero; do touch "/dev/$node"; mount --bind "$1/dev/$node" "/dev/$node"; done
mkdir /dev/shm /dev/pts
mount --rbind "$1/dev/shm" /dev/shm
mount --rbind "$1/dev/pts" /dev/pts
ln -s pts/ptmx /dev/ptmx
ln -s /proc/self/fd /dev/fd
for number in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${number%:*}" "/dev/${number#*:}"; done
ln -s "$1/log" /dev/log
shift
exec "$@"
"""
#: The part of python3-systemd that Ansible uses, on a machine that systemd has not booted.
_JOURNAL = """
import json

def sendv(*_fields):
    raise AssertionError("not what Ansible calls")

def send(**fields):
    with open({path!r}, "a") as file:
        file.write(json.dumps(fields, ensure_ascii=False) + "\\n")
"""


class HostLog:
    """Everything that arrives in the host's log while the block runs."""

    def __init__(self, directory: Path) -> None:
        (directory / "dev").mkdir(parents=True)
        self._directory = directory
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(directory / "log"))
        self._messages: list[bytes] = []
        self._thread = threading.Thread(target=self._listen)

    def command(self, *command: str) -> list[str]:
        """The command to run, for programs that log here."""
        return ["unshare", "--mount", "sh", "-c", _ENTER, "sh", str(self._directory), *command]

    def with_journal(self) -> Path:
        """A directory for PYTHONPATH, with a library of the journal that writes to this log."""
        package = self._directory / "python" / "systemd"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "daemon.py").write_text("def booted():\n    return True\n")
        (package / "journal.py").write_text(_JOURNAL.format(path=str(self._directory / "journal")))
        return package.parent

    @property
    def lines(self) -> list[str]:
        """What has arrived; all of it when the block is left."""
        journal = self._directory / "journal"
        told = journal.read_text().splitlines() if journal.exists() else []
        return [message.decode("utf-8", "surrogateescape") for message in self._messages] + told

    def __enter__(self) -> HostLog:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        # An empty message is the last one: it comes after all that were sent before.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"", str(self._directory / "log"))
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        for message in iter(lambda: self._socket.recv(1 << 20), b""):
            self._messages.append(message)
