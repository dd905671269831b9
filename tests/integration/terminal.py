# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A terminal with a program on it, and somebody who reads what it says and types."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

_PATIENCE = 30


class Terminal:
    """The keyboard and the screen. ``screen`` is all that was written so far."""

    def __init__(self, command: list[str], **environment: str) -> None:
        self._ours, theirs = pty.openpty()
        self.screen = ""
        self._read = 0
        self.process = subprocess.Popen(
            # It is made the program's own terminal, so that Ctrl-C is a signal, and secrets are asked for on it.
            ["setsid", "--ctty", "--wait", *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "200", **environment},
        )
        os.close(theirs)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def press(self, control: str) -> None:
        """Press Ctrl and a letter."""
        self.type(chr(ord(control.upper()) - ord("@")))

    def expect(self, pattern: str) -> str:
        """Read on until a pattern is on the part of the screen that nobody has read yet; that part, up to it."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            match = re.search(pattern, self.screen[self._read :], re.DOTALL)
            if match:
                found = self.screen[self._read : self._read + match.end()]
                self._read += match.end()
                return found
            assert time.monotonic() < deadline, f"{pattern!r} did not come: {self.screen}"
            assert self._take(), f"{pattern!r} did not come before the end: {self.screen}"

    def end(self) -> int:
        """Read to the end; the exit status."""
        while self._take():
            pass
        return self.process.wait(timeout=_PATIENCE)

    def _take(self) -> bool:
        ready, _writable, _odd = select.select([self._ours], [], [], _PATIENCE)
        assert ready, f"nothing more came: {self.screen}"
        try:
            content = os.read(self._ours, 65536)
        except OSError:
            # The program has closed its side (pty(7)).
            return False
        self.screen += content.decode().replace("\r\n", "\n")
        return bool(content)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)


@contextmanager
def terminal(command: list[str], **environment: str) -> Iterator[Terminal]:
    """A program on a terminal; it is gone afterwards."""
    made = Terminal(command, **environment)
    try:
        yield made
    finally:
        made.close()
