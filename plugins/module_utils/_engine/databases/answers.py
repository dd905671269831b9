# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a query on a restored copy returns: as much as an assertion can be about, whatever the copy holds."""

from __future__ import annotations

from typing import Any, Iterable, List, Tuple

from ..errors import Mismatch

#: The most bytes of all values together.
_MOST = 4 << 20
#: What a value takes that is no text, and what a row takes besides.
_VALUE, _ROW = 16, 64


def few(rows: Iterable[Tuple[Any, ...]]) -> List[Tuple[Any, ...]]:
    """The rows, read one by one. Raises Mismatch where they are too much."""
    found, left = [], _MOST
    for row in rows:
        left -= _ROW + sum(len(value) if isinstance(value, (str, bytes)) else _VALUE for value in row)
        if left < 0:
            raise Mismatch(
                f"The query returns more than {_MOST >> 20} MiB. Write one that returns less, such as a count."
            )
        found.append(row)
    return found
