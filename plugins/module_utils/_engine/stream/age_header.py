# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The header of an age file (C2SP age specification): whether to read it takes more than age itself ever asks for."""

from __future__ import annotations

import re

from ..errors import Damaged
from .transform import Block, Transform

_VERSION = b"age-encryption.org/v1\n"
_END = re.compile(rb"\n--- [^\n]*\n")
_SCRYPT = re.compile(rb"^-> scrypt(?: [^ \n]+(?: ([^\n]*))?)?$", re.MULTILINE)
#: age writes 18: 256 MiB and about a second. Each one more takes twice as much, and age follows up to 22.
_MOST_WORK = 18
#: Some hundred recipients, also with keys for after quantum computers.
_LONGEST = 256 << 10


class AgeHeader(Transform):
    """Passes a stream on unchanged once its header is known to be harmless. Raises Damaged, which calls it by ``name``.

    What is not age's own binary format is refused as well: age would read a header within an armour, too.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._header = b""
        self._passed = False

    def update(self, block: Block) -> bytes:
        if self._passed:
            return block if isinstance(block, bytes) else bytes(block)
        self._header += bytes(block)
        if not self._header.startswith(_VERSION[: len(self._header)]):
            raise self._refused("it does not begin like one")
        end = _END.search(self._header)
        if end is None:
            if len(self._header) > _LONGEST:
                raise self._refused("its header has no end")
            return b""
        self._check(self._header[: end.start()])
        self._passed, ready, self._header = True, self._header, b""
        return ready

    def finish(self) -> bytes:
        # Of a header that was cut, age says so.
        return self._header

    def _check(self, header: bytes) -> None:
        for work in _SCRYPT.findall(header):
            if not work.isdigit() or len(work) > 2 or int(work) > _MOST_WORK:
                raise self._refused(f"its passphrase takes more work than 2^{_MOST_WORK}")

    def _refused(self, why: str) -> Damaged:
        return Damaged(f"{self._name} is not what age wrote: {why}. Restore another backup.")
