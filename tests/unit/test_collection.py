# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the collection says of itself is true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

import _engine

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "plugins" / "modules").glob("*.py"))


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_engine_and_the_collection_are_of_one_version() -> None:
    assert read("galaxy.yml")["version"] == _engine.__version__


def test_the_action_group_has_every_module_and_no_other() -> None:
    group = read("meta/runtime.yml")["action_groups"]["backup"]
    assert sorted(group) == [path.stem for path in MODULES]
    assert len(set(group)) == len(group)
