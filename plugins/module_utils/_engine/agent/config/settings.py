# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent's own settings: one JSON file, /etc/fleet-backup/agent.json, and what holds where it says nothing."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from ...crypto.signing import UNSIGNED, Signing
from ...errors import BadInput, PermissionDenied
from ...host.small import read_small
from ...shapes import once
from ...state import Host, default_state
from .fields import Fields

CONFIG = Path("/etc/fleet-backup/agent.json")


@dataclass(frozen=True)
class Settings:
    """Which host this is, and where its jobs and channels are."""

    host: Host
    jobs: Path
    #: The file with the channels of notifications; it may be missing.
    notifications: Path


def read_settings(path: Path, required: bool) -> Settings:
    """Read the settings. A file that is missing means the defaults, unless it is ``required``.

    Raises BadInput, which names the file and the option, and PermissionDenied.
    """
    try:
        document = json.loads(read_small(path), object_pairs_hook=once)
    except FileNotFoundError:
        if required:
            raise BadInput(f"There is no file {path}. Name the agent's settings, or leave --config out.") from None
        document = {}
    except OSError as error:
        raise PermissionDenied(f"{path} cannot be read: {error.strerror}. Run this as root.") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not JSON: {error}. Deploy this host again, or correct the file.") from None
    fields = Fields(document, str(path))
    host = fields.text("host") or platform.node() or "localhost"
    state = fields.text("state")
    jobs = Path(fields.text("jobs") or path.parent / "jobs.d")
    notifications = Path(fields.text("notifications") or path.parent / "notifications.json")
    signing = fields.object("signing", _signing) or UNSIGNED
    fields.end()
    chosen = Path(state) if state is not None and "FLEET_BACKUP_STATE" not in os.environ else default_state()
    return Settings(Host(host, chosen, signing=signing, caches=True), jobs, notifications)


def _signing(fields: Fields) -> Signing:
    allowed = fields.text("allowed_signers")
    return Signing(fields.text("key"), allowed, fields.flag("required", allowed is not None))
