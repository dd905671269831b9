# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connecting to a server as another account of this host, which peer authentication asks for."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import Iterator, Optional

from ...command import Account

_acting = threading.Lock()


@contextmanager
def acting_as(account: Optional[Account]) -> Iterator[None]:
    """Be another account for as long as it takes to connect: the server sees who calls connect(2) (unix(7)).

    Linux keeps an account for each thread, but the C library changes it for all of them. So this is kept short.
    """
    if account is None or account.uid == os.geteuid():
        yield
        return
    with _acting:
        user, group = os.geteuid(), os.getegid()
        os.setegid(account.gid)
        try:
            os.seteuid(account.uid)
            yield
        finally:
            os.seteuid(user)
            os.setegid(group)
