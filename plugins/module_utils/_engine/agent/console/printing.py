# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the command prints: tables for people and JSON for programs. Pure but for the printing."""

from __future__ import annotations

import json
import sys
from typing import Any, List, Sequence, TextIO


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns as wide as what is in them; those in ``right`` are aligned to the right. The last one may be long."""
    cells = [list(heads), *[[_one_line(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    lines: List[str] = []
    for row in cells:
        padded = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(padded).rstrip())
    return "".join(f"{line}\n" for line in lines)


def put(text: str, stream: TextIO = sys.stdout) -> None:
    """Print a text that ends its own lines."""
    stream.write(text)
    stream.flush()


def put_json(document: Any) -> None:
    """Print one JSON document."""
    put(json.dumps(document, indent=2, ensure_ascii=False) + "\n", sys.stdout)


def _one_line(text: str) -> str:
    """Without what would break the table or steer the terminal: names come from databases and other hosts."""
    return "".join(character if character.isprintable() else " " for character in text)
