# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compression by external programs: zstd and gzip."""

from __future__ import annotations

from typing import Optional

from ..command import Command, find_program
from ..errors import BadInput
from ..model import Compression

#: The levels that a user may ask for, and the one taken when none is asked for (zstd(1), gzip(1)). zstd's own choice is
#: 3: a quarter more work than 2 on the machine that serves the database, for artefacts 0 to 7 % smaller.
_LEVELS = {Compression.ZSTD: (1, 19, 2), Compression.GZIP: (1, 9, 6)}
_BEGINNINGS = {Compression.ZSTD: b"\x28\xb5\x2f\xfd", Compression.GZIP: b"\x1f\x8b", Compression.NONE: b""}
#: The most that a frame may ask for: level 19 has a window of 8 MiB (zstd(1), --memory). And the most address space,
#: whatever a program finds in what it reads.
_WINDOW, _MEMORY = "64MiB", 512 << 20
#: Up to this level, one core compresses with zstd faster than one session of pg_dump delivers.
_QUICK = 3


def check_level(compression: Compression, level: Optional[int]) -> None:
    """Raise BadInput for a level that the program does not have."""
    if level is None:
        return
    if compression is Compression.NONE:
        raise BadInput("compression_level has no meaning with compression none. Leave it out.")
    lowest, highest, _default = _LEVELS[compression]
    if not lowest <= level <= highest:
        raise BadInput(
            f"compression_level {level} is out of range for {compression.value}. Choose {lowest} to {highest}."
        )


def compressing(compression: Compression, level: Optional[int], slow_source: bool = False) -> Optional[Command]:
    """The program that compresses its standard input to its standard output; None for no compression.

    It does so on all cores, but for what a ``slow_source`` delivers: to hand blocks from thread to thread, or to look
    for what saves little, would cost the machine that serves the database more than it gains. Raises MissingTool and
    BadInput.
    """
    check_level(compression, level)
    if compression is Compression.NONE:
        return None
    chosen = level or _usual(compression, slow_source)
    if compression is Compression.ZSTD:
        threads = "--single-thread" if slow_source and chosen <= _QUICK else "-T0"
        return Command("zstd", (_zstd(), f"-{chosen}", threads, "-q", "-c"))
    # pigz writes the same format as gzip, on all cores.
    import shutil

    program = shutil.which("pigz") or _gzip()
    return Command("gzip", (program, f"-{chosen}", "-n", "-c"))


def _usual(compression: Compression, slow_source: bool) -> int:
    # The server that delivers the dump shares its cores with zstd: level 1 does an eighth less work than level 2.
    return 1 if slow_source and compression is Compression.ZSTD else _LEVELS[compression][2]


def beginning(compression: Compression) -> bytes:
    """What every compressed stream begins with (RFC 8878, 3.1.1; RFC 1952, 2.3.1); empty for no compression.

    The programs also undo other formats, some of which let a stream ask for any amount of memory.
    """
    return _BEGINNINGS[compression]


def decompressing(compression: Compression) -> Optional[Command]:
    """The program that undoes ``compressing``; None for no compression. Raises MissingTool."""
    if compression is Compression.NONE:
        return None
    if compression is Compression.ZSTD:
        return Command("zstd", (_zstd(), "-d", "-q", "-c", f"--memory={_WINDOW}"), memory=_MEMORY)
    return Command("gzip", (_gzip(), "-d", "-c"), memory=_MEMORY)


def _zstd() -> str:
    return find_program("zstd", "zstd", "Compression zstd")


def _gzip() -> str:
    return find_program("gzip", "gzip", "Compression gzip")
