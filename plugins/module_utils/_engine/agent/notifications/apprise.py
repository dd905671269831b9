# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Everything that Apprise knows (github.com/caronc/apprise), by its program.

The program's own library may belong to another Python than the one that runs this, and may hang or be killed by itself.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ...command import Command, Secret, find_program
from ...errors import MissingTool, ToolFailed
from ...process import memory_file, run
from ..config.fields import Fields
from ..config.secrets import SecretSource, read_secret
from .base import TIMEOUT, Channel, NotSent
from .events import Event, Kind, as_code

_TYPES = {Kind.FAILURE: "failure", Kind.RECOVERY: "success", Kind.SUCCESS: "success"}
#: How timeout(1) says that the time was up.
_TIMED_OUT = 124


@dataclass(frozen=True)
class Apprise(Channel):
    """Sends through an Apprise URL, which the program reads from memory: arguments can be read by everybody."""

    url: SecretSource
    label: str

    def send(self, event: Event) -> None:
        url = self.url.read().strip()
        program = find_program("apprise", "apprise", self.label)
        timeout = find_program("timeout", "coreutils", self.label)
        kind = _TYPES.get(event.kind, "info")
        configuration = Secret(url.encode("utf-8", "surrogateescape") + b"\n")
        arguments = (timeout, f"{TIMEOUT:g}", program, "--config", configuration, "-n", kind, "-t", event.headline)
        # Chats behind it make links and mentions of what they read: the title has this host's own words alone.
        body = memory_file(as_code(event.text).encode("utf-8", "replace"))
        try:
            # Apprise keeps what it loads of its plug-ins and of this URL in no file.
            run(Command("apprise", (*arguments, "--disable-async"), {"HOME": os.devnull}), stdin=body)
        except ToolFailed as failure:
            # What the program said can quote the URL.
            why = f"took longer than {TIMEOUT:g} s" if failure.status == _TIMED_OUT else "refused to send"
            raise NotSent(
                f"{self.label}: apprise {why} (status {failure.status}). Try the same URL with apprise -v by hand."
            ) from None
        except MissingTool:
            raise NotSent(f"{self.label}: apprise cannot be started. Install the package apprise.") from None
        finally:
            os.close(body)


def read_apprise(fields: Fields, label: str) -> Apprise:
    """Read the options of Apprise."""
    url = fields.object("url", lambda given: read_secret(given, f"{label}: url"))
    if url is None:
        raise fields.wrong("url", "it is missing")
    return Apprise(url, label)
