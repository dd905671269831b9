# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Building the agent: the engine as one file that Python runs (zipapp), the same bytes for the same source."""

from __future__ import annotations

import io
import marshal
import os
import zipfile
from contextlib import suppress
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from typing import Iterator, Tuple

from ..errors import PermissionDenied
from .start import PACKAGE, code_of, key_of, trusted, usable_code

_MAIN = "__main__.py"
#: The oldest time that a ZIP archive can hold (APPNOTE.TXT, 4.4.6).
_TIME = (1980, 1, 1, 0, 0, 0)
#: A compiled module that is not compared with its source (PEP 552): flags, and a hash that stays empty.
_HEADER = MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8)
#: The last version of marshal that writes the same bytes for the same code: later ones refer back to what is shared.
_MARSHAL = 2


def build(engine: Path, interpreter: str) -> bytes:
    """The archive of the engine in a directory, to be run by ``interpreter`` (an absolute path).

    Entries are sorted, carry a fixed time and mode, and are stored as they are: what a compressor writes depends on
    its version, and the second deployment would change a file that has not changed.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, source in _sources(engine):
            archive.writestr(_entry(name), source)
    # -I: neither the environment, nor the current directory, nor a user's own packages put code into it (python(1)).
    return b"#!" + interpreter.encode("utf-8") + b" -I\n" + content.getvalue()


def install_code(program: str) -> bool:
    """Compile a built program for this Python, for ``start`` to find; whether that was to be done.

    Raises OSError, and PermissionDenied where others could write the code.
    """
    if usable_code(program):
        return False
    code = code_of(program)
    directory = os.path.dirname(code)
    # Each by itself: the mode holds for the last one alone.
    for path in (os.path.dirname(directory), directory):
        os.makedirs(path, mode=0o755, exist_ok=True)
    if not trusted(program, os.path.dirname(directory), directory):
        raise PermissionDenied(f"{directory}: other accounts can write there. Make it root's alone (chmod go-w).")
    temporary = f"{code}.tmp"
    with suppress(FileNotFoundError):
        # A killed one left it.
        os.unlink(temporary)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o644)
            file.write(compiled(program))
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, code)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    return True


def compiled(program: str) -> bytes:
    """The package in a built program, compiled for this Python: an archive that ends with the program's key."""
    content = io.BytesIO()
    with zipfile.ZipFile(program) as source, zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name in source.namelist():
            if name != _MAIN:
                code = compile(source.read(name), name, "exec", dont_inherit=True)
                archive.writestr(_entry(f"{name}c"), _HEADER + marshal.dumps(code, _MARSHAL))
        archive.comment = key_of(program)
    return content.getvalue()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _TIME)
    entry.create_system = 3  # Unix, whatever this runs on
    entry.external_attr = 0o644 << 16
    return entry


def _sources(engine: Path) -> Iterator[Tuple[str, bytes]]:
    yield _MAIN, (engine / "agent" / "start.py").read_bytes()
    for path in sorted(engine.rglob("*.py")):
        yield f"{PACKAGE}/{path.relative_to(engine).as_posix()}", path.read_bytes()
