# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Building the agent: the engine as one file that Python runs (zipapp), the same bytes for the same source."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Iterator, Tuple

#: The package's name in the archive.
PACKAGE = "fleet_backup"
_MAIN = f"""\
import signal
import sys

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Until the command handles it, Ctrl-C ends it without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from {PACKAGE}.agent.cli import main

sys.exit(main())
"""
#: The oldest time that a ZIP archive can hold (APPNOTE.TXT, 4.4.6).
_TIME = (1980, 1, 1, 0, 0, 0)


def build(engine: Path, interpreter: str) -> bytes:
    """The archive of the engine in a directory, to be run by ``interpreter`` (an absolute path).

    Entries are sorted, carry a fixed time and mode, and are stored as they are: what a compressor writes depends on
    its version, and the second deployment would change a file that has not changed.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, source in [("__main__.py", _MAIN.encode("ascii")), *_sources(engine)]:
            entry = zipfile.ZipInfo(name, _TIME)
            entry.create_system = 3  # Unix, whatever this runs on
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, source)
    # -I: neither the environment, nor the current directory, nor a user's own packages put code into it (python(1)).
    return b"#!" + interpreter.encode("utf-8") + b" -I\n" + content.getvalue()


def _sources(engine: Path) -> Iterator[Tuple[str, bytes]]:
    for path in sorted(engine.rglob("*.py")):
        yield f"{PACKAGE}/{path.relative_to(engine).as_posix()}", path.read_bytes()
