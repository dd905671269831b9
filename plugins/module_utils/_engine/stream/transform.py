# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A stage of the stream that runs in this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Union

#: Contiguous bytes. ``bytes`` are best: what can change has to be copied where it is kept.
Block = Union[bytes, bytearray, memoryview]


class Transform(ABC):
    """Turns one stream of bytes into another, block by block, in constant memory. One object serves one stream."""

    @abstractmethod
    def update(self, block: Block) -> bytes:
        """Take the next bytes, of any number; return what is ready so far, often nothing.

        A buffer is its owner's again afterwards, to be filled anew.
        """

    @abstractmethod
    def finish(self) -> bytes:
        """Say that the stream has ended; return the rest. Until this has returned, nothing is known to be whole."""
