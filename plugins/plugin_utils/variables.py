# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The variables that this collection reads from an inventory, and those that are most likely misspellings of them.

Ansible passes over a variable that nothing reads: a host with ``fleet_backup_job`` has no jobs, and nobody is told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

PREFIX = "fleet_backup_"
#: What users set, without the prefix; docs/fleet.md and docs/playbooks.md explain them.
PUBLIC = frozenset(
    [
        "accept_encryption",
        "async",
        "defaults",
        "environment",
        "hosts",
        "identity",
        "identity_file",
        "jobs",
        "keys",
        "keys_directory",
        "keys_vault_id",
        "keys_vault_password",
        "ledger_file",
        "level",
        "notifications",
        "only",
        "passphrase",
        "poll",
        "production",
        "restore_backup",
        "restore_before",
        "restore_confirm",
        "restore_globals",
        "restore_host",
        "restore_into",
        "restore_job",
        "restore_keep_replaced",
        "restore_on_error",
        "restore_owner",
        "restore_replace",
        "restore_repository",
        "restore_safety_backup",
        "restore_source_database",
        "restore_source_host",
        "restore_stop_services",
        "serial",
        "state",
    ]
)
#: What the playbooks set for themselves.
INTERNAL = frozenset(
    [
        "accept_options",
        "answer",
        "asked",
        "checked",
        "done",
        "entry",
        "failures",
        "given",
        "given_values",
        "has_jobs",
        "brought",
        "key_options",
        "key_path",
        "key_text",
        "keys_brought",
        "known",
        "left",
        "level_options",
        "message",
        "names",
        "options",
        "plan",
        "planned",
        "preview",
        "program",
        "reason",
        "restore_asked",
        "restore_careful",
        "restore_chosen",
        "restore_name",
        "restore_words",
        "result",
        "typed",
        "verb",
        "work",
    ]
)
_NEARLY = re.compile(r"fleet_?backups?_?(?P<name>.*)", re.IGNORECASE | re.DOTALL)


def misspelt(names: Iterable[str]) -> list[str]:
    """A sentence on each name that is nearly, and not quite, the one of a variable of this collection."""
    found = []
    for name in sorted(names):
        match = _NEARLY.fullmatch(name)
        if match is None or name in {PREFIX + known for known in PUBLIC | INTERNAL}:
            continue
        near = get_close_matches(match["name"].lower(), sorted(PUBLIC), n=1, cutoff=0.8)
        if near:
            found.append(f'unknown variable "{name}"; did you mean "{PREFIX}{near[0]}"?')
    return found
