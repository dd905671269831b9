# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How far the work of this process is, drawn as one line on a terminal while it goes on.

The work knows nothing of it: a thread reads twice a second what the work writes for whoever asks (``state.Progress``).
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Callable, Iterator, Mapping, Optional

from ...host.apart import working_process
from ...state import Host, running
from ...text import shown
from ...timespan import format_size, format_span
from ..config.jobs import Job
from ..work.running import Report

_INTERVAL = 0.5
_CELLS = 24
#: A terminal that takes nothing for so many seconds is taken for one that was stopped.
_STOPPED = 1.0
#: Back to the beginning of the line, and clear it to its end (ECMA-48, EL).
_CLEAR = "\r\033[K"


@contextmanager
def showing(host: Host, label: str, wanted: bool = True) -> Iterator[None]:
    """Draw what this process does meanwhile, where standard error is a terminal that can; ``label`` begins the line."""
    if not wanted or not _can_draw():
        yield
        return
    drawn = _Bar(host, label)
    drawn.start()
    try:
        yield
    finally:
        drawn.stop()


def watched(act: Callable[[Job, Host, bool], Report], wanted: bool) -> Callable[[Job, Host, bool], Report]:
    """What does something with a job, with its progress drawn."""

    def act_and_show(job: Job, host: Host, dry_run: bool) -> Report:
        with showing(host, job.name, wanted):
            return act(job, host, dry_run)

    return act_and_show


def line_of(label: str, status: Mapping[str, Any], elapsed: float, width: int) -> str:
    """The line for a status as ``running`` returns it. Pure; no longer than ``width`` columns."""
    done, expected = int(status.get("bytes") or 0), int(status.get("expected_bytes") or 0)
    parts = [f"{label}: {status.get('stage') or 'begins'}"]
    # What is expected of a backup is what the last one had: past that, nobody knows how much is left.
    if expected > 0 and done <= expected:
        filled = done * _CELLS // expected
        parts.append(f"[{'#' * filled}{'.' * (_CELLS - filled)}] {done * 100 // expected:3}%")
        parts.append(f"{format_size(done)} of {format_size(expected)}")
    elif done:
        parts.append(format_size(done))
    if done:
        parts.append(f"{format_size(int(status.get('bytes_per_second') or 0))}/s")
    parts.append(format_span(timedelta(seconds=elapsed)))
    return shown("  ".join(parts))[: max(0, width)]


def _can_draw() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb" and "NO_COLOR" not in os.environ


class _Bar:
    """The thread that draws. It dies with the process, and the work never waits for the terminal."""

    def __init__(self, host: Host, label: str) -> None:
        self._host, self._label = host, label
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._drawn = False
        self._write_began: Optional[float] = None
        self._thread = threading.Thread(target=self._draw, name="progress", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Return when the line is cleared."""
        self._ended.set()
        while self._thread.is_alive():
            self._thread.join(timeout=0.1)
            began = self._write_began
            # A terminal that was stopped (Ctrl-S) takes no byte, and must not keep the work from ending.
            if began is not None and time.monotonic() - began > _STOPPED:
                return

    def _draw(self) -> None:
        # A terminal that went away takes its bar with it.
        with suppress(OSError):
            try:
                while not self._ended.wait(_INTERVAL):
                    self._draw_once()
            finally:
                # Whatever ends the drawing, what is written next begins on an empty line.
                if self._drawn:
                    self._write(_CLEAR)

    def _draw_once(self) -> None:
        status = self._status()
        if status:
            columns = shutil.get_terminal_size().columns - 1
            line = line_of(self._label, status, time.monotonic() - self._began, columns)
            self._drawn = True
            self._write(_CLEAR + line)

    def _status(self) -> Optional[Mapping[str, Any]]:
        working = working_process() or os.getpid()
        mine = [fields for fields in running(self._host) if fields.get("pid") == working]
        # Within a restore, the safety backup is what goes on.
        inner = [fields for fields in mine if fields.get("verb") != "restore"]
        for fields in inner[:1]:
            return dict(fields, stage=f"safety backup, {fields.get('stage')}") if len(mine) > 1 else fields
        return mine[0] if mine else None

    def _write(self, text: str) -> None:
        self._write_began = time.monotonic()
        os.write(sys.stderr.fileno(), text.encode("utf-8", "replace"))
        self._write_began = None
