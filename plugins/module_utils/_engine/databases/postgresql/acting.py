# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connecting as another account of this host, which peer authentication asks for, or without the caller's variables."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import Iterator, Optional

from ...command import Account

_acting, _environment = threading.Lock(), threading.Lock()


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


@contextmanager
def without_variables(prefix: str) -> Iterator[None]:
    """Have none of the environment's variables that begin so: libpq takes them for what a connection string leaves out.

    All threads share the environment, so this is kept short.
    """
    with _environment:
        kept = {name: value for name, value in os.environ.items() if name.startswith(prefix)}
        try:
            for name in kept:
                del os.environ[name]
            yield
        finally:
            os.environ.update(kept)
