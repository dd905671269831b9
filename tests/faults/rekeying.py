# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Changing who reads backups, as a run of its own: the agent has no command for it."""

from __future__ import annotations

import sys
from pathlib import Path

from _engine.errors import EngineError
from _engine.model import EncryptionSettings
from _engine.rekey import RekeyRequest, SlotChange, rekey
from _engine.repositories.local import LocalRepository
from _engine.state import Host


def include_another(root: str) -> int:
    """Let another key open all backups of a site; the exit status."""
    site = Path(root)
    etc, repository = site / "etc", LocalRepository(site / "backups")
    encryption = EncryptionSettings(recipients=(str(etc / "other.pub"),), identities=(str(etc / "key.pem"),))
    try:
        done = rekey(RekeyRequest((repository,), SlotChange.INCLUDE, encryption, "web1"), Host("web1", site / "state"))
    except EngineError as error:
        print(error, file=sys.stderr)
        return 1
    return 0 if done and all(len(one.slots) == 2 for one in done) else 2
