# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Databases that nobody here made, on real servers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "integration")]
pytest.register_assert_rewrite("stock")


@pytest.fixture(scope="session", autouse=True)
def scratch_account() -> None:
    """The account of throwaway servers."""
    from postgres import make_scratch_account

    make_scratch_account()
