# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Processes that a test forks in order to kill them are not measured for coverage."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "integration")]
pytest.register_assert_rewrite("sites", "sweeps")


def _stop_measuring() -> None:
    # coverage holds a lock while it notes a file that is new to it. An exception that a signal handler raises at that
    # moment leaves the lock taken, and the process waits for itself for ever.
    sys.settrace(None)
    threading.settrace(None)  # type: ignore[arg-type]


os.register_at_fork(after_in_child=_stop_measuring)
