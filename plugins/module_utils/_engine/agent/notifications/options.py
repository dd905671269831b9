# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options that several channels have."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Optional

from ..config.fields import Fields
from ..config.secrets import read_secret
from .web import Address


def read_address(fields: Fields, label: str) -> Address:
    """Read ``url``, a secret, ``ca_cert`` and ``allow_http``."""
    url = fields.object("url", partial(read_secret, purpose=f"{label}: url"))
    if url is None:
        raise fields.wrong("url", "it is missing")
    return Address(url, label, read_ca_cert(fields), fields.flag("allow_http", False))


def read_ca_cert(fields: Fields) -> Optional[str]:
    path = fields.text("ca_cert")
    if path is not None and not Path(path).is_absolute():
        raise fields.wrong("ca_cert", f"{path} is not absolute")
    return path
