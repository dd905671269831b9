# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A misspelt variable is named, and no variable of the collection's own is taken for one."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "plugins" / "plugin_utils"))

from variables import INTERNAL, PREFIX, PUBLIC, misspelt  # noqa: E402


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("fleet_backup_job", "fleet_backup_jobs"),
        ("fleet_backups_jobs", "fleet_backup_jobs"),
        ("fleetbackup_jobs", "fleet_backup_jobs"),
        ("FLEET_BACKUP_JOBS", "fleet_backup_jobs"),
        ("fleet_backup_key", "fleet_backup_keys"),
        ("fleet_backup_default", "fleet_backup_defaults"),
        ("fleet_backup_notification", "fleet_backup_notifications"),
        ("fleet_backup_restore_hosts", "fleet_backup_restore_host"),
    ],
)
def test_a_misspelt_variable_is_named_with_what_was_meant(name: str, meant: str) -> None:
    assert misspelt(["ansible_host", name]) == [f'unknown variable "{name}"; did you mean "{meant}"?']


def test_variables_of_the_users_own_are_left_alone() -> None:
    assert misspelt(["fleet_backup_nas", "fleet_backup_our_repositories", "fleet", "backup_jobs", "jobs"]) == []


@pytest.mark.once
def test_every_variable_that_the_collection_uses_is_known_and_every_known_one_used() -> None:
    used = set()
    for directory in ("playbooks", "roles", "plugins"):
        for path in (ROOT / directory).rglob("*"):
            if path.suffix in (".yml", ".py", ".j2"):
                used |= set(re.findall(rf"\b{PREFIX}([a-z_]*[a-z])\b", path.read_text(encoding="utf-8")))
    assert used - PUBLIC - INTERNAL == {"job"}, "examples of misspellings"
    assert used >= PUBLIC | INTERNAL
    assert misspelt(PREFIX + name for name in PUBLIC | INTERNAL) == []
