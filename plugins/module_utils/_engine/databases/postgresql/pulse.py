# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keeping a session alive that holds a transaction while another one works."""

from __future__ import annotations

import threading

from ...errors import EngineError
from .connection import Connection

#: How often it says something, in seconds: well below the silence that settings.py allows.
_PULSE = 60.0


class Pulse(threading.Thread):
    """Says something in a session now and then: the server ends a silent one, so that a lost host holds no locks."""

    def __init__(self, held: Connection) -> None:
        super().__init__(daemon=True)
        self._held, self._over = held, threading.Event()

    def run(self) -> None:
        while not self._over.wait(_PULSE):
            try:
                self._held.run("SELECT 1")
            except EngineError:
                # The work that needs the session says what became of it.
                return

    def __enter__(self) -> Pulse:
        self.start()
        return self

    def __exit__(self, *_unused: object) -> None:
        # Not joined: it may wait for a count to end, and ends with the session.
        self._over.set()
