# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the command prints: tables for people and JSON for programs. Pure but for the printing."""

from __future__ import annotations

import sys
from typing import Any, List, Optional, Sequence, TextIO

from ...text import shown_in_line, shown_json, shown_lines


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns as wide as what is in them; those in ``right`` are aligned to the right. The last one may be long."""
    cells = [list(heads), *[[shown_in_line(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    lines: List[str] = []
    for row in cells:
        padded = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(padded).rstrip())
    return "".join(f"{line}\n" for line in lines)


def put(text: str, stream: Optional[TextIO] = None) -> None:
    """Print a text that ends its own lines."""
    # Not a default value: a stream that was closed is replaced after this file is imported.
    stream = stream or sys.stdout
    stream.write(shown_lines(text))
    stream.flush()


def put_line(text: str, stream: Optional[TextIO] = None) -> None:
    """Print a text as one line, whatever is in it: no name can make up another line."""
    stream = stream or sys.stdout
    stream.write(f"{shown_in_line(text)}\n")
    stream.flush()


def put_json(document: Any) -> None:
    """Print one JSON document."""
    put(shown_json(document) + "\n")


def complain(text: str) -> None:
    """Say in one line on standard error why the command ends."""
    put_line(f"fleet-backup: {text}", sys.stderr)
