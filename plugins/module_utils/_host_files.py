# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Directories, files and links of a host: what differs from what is wanted, and how it becomes so."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Callable, Dict, Iterator, Optional, Sequence, Tuple

from ._engine.host.pinned import path_of, pinned, private_place

#: Given a file's path at this moment, sets its mode and owner.
SetAttributes = Callable[[str], object]


class Refused(Exception):
    """What is wanted cannot be there. Nothing was changed."""


@dataclass(frozen=True)
class Wanted:
    """What has to be on a host, by absolute paths without ``..`` and doubled slashes."""

    directories: Sequence[str] = ()
    #: The content of each file.
    files: Sequence[Tuple[str, str]] = ()
    #: What each link points to.
    links: Sequence[Tuple[str, str]] = ()
    absent: Sequence[str] = ()


@dataclass(frozen=True)
class Change:
    """One thing that differs. ``before`` and ``after`` are for people, and None where nothing is there."""

    path: str
    before: Optional[str]
    after: Optional[str]
    make: Callable[[SetAttributes], object]
    is_directory: bool = False


def plan(wanted: Wanted) -> Tuple[Change, ...]:
    """What differs, in the order in which it is changed: directories, files, links, and what has to go."""
    _check_names(wanted)
    coming: Dict[str, Change] = {}
    for path in wanted.directories:
        coming.update((change.path, change) for change in _directories(path) if change.path not in coming)
    changes = list(coming.values())
    for path, content in wanted.files:
        changes.extend(_file(path, content, os.path.dirname(path) in coming))
    for path, target in wanted.links:
        changes.extend(_link(path, target, os.path.dirname(path) in coming))
    for path in wanted.absent:
        # What is within another one goes with it.
        if not any(path.startswith(f"{other}/") for other in wanted.absent):
            changes.extend(_absent(path))
    return tuple(changes)


def _check_names(wanted: Wanted) -> None:
    once = [path for path, _content in (*wanted.files, *wanted.links)] + list(wanted.absent)
    for path in (*wanted.directories, *once):
        if not os.path.isabs(path):
            raise Refused(f"{path} is no absolute path. Write it from the root on.")
    for path in {*wanted.directories, *once}:
        if once.count(path) + (path in wanted.directories) > 1:
            raise Refused(f"{path} is named twice, and can be one thing only. Leave one of them out.")
    for path, content in wanted.files:
        if not isinstance(content, str):
            raise Refused(f"{path}: its content is no text, but {type(content).__name__}. Give it as text.")


def _directories(path: str) -> Iterator[Change]:
    """A directory and those above it, as far as they are missing; the uppermost first."""
    missing = []
    for place in (Path(path), *Path(path).parents):
        _check_link(place)
        if os.path.isdir(place):
            break
        if os.path.lexists(place):
            raise Refused(f"{place} is no directory, and there must be one. Move it away, and run this again.")
        missing.append(str(place))
    for place_text in reversed(missing):
        yield Change(place_text, None, "directory\n", partial(_make_directory, place_text), is_directory=True)


def _check_link(place: Path) -> None:
    """Refuse a link that another account made: it would choose which directory gets the owner and the mode."""
    try:
        status = os.lstat(place)
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISLNK(status.st_mode) and status.st_uid not in (0, os.geteuid()):
        raise Refused(
            f"{place} is a link that user {status.st_uid} made. It was not followed; remove it, and see what it is for."
        )


def _file(path: str, content: str, directory_comes: bool) -> Iterator[Change]:
    _check_parent(path, directory_comes)
    wanted = content.encode("utf-8")
    if os.path.islink(path):
        before: Optional[bytes] = f"link to {os.readlink(path)}\n".encode("utf-8", "surrogateescape")
    elif os.path.isfile(path):
        before = _read(path)
        if before == wanted:
            return
    elif os.path.lexists(path):
        raise Refused(f"{path} is no file, and there must be one. Move it away, and run this again.")
    else:
        before = None
    shown = None if before is None else before.decode("utf-8", "replace")
    yield Change(path, shown, content, lambda set_attributes: _write(path, wanted, set_attributes))


def rewritten(path: str, content: str) -> Change:
    """A file whose content is right, and whose mode or owner is not. It is written anew, out of the reach of others."""
    return Change(path, content, content, lambda set_attributes: _write(path, content.encode("utf-8"), set_attributes))


def _read(path: str) -> bytes:
    with pinned(os.path.dirname(path)) as directory:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(os.path.basename(path), flags, dir_fd=directory)
        with os.fdopen(descriptor, "rb") as file:
            return file.read() if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""


def _link(path: str, target: str, directory_comes: bool) -> Iterator[Change]:
    _check_parent(path, directory_comes)
    before = None
    if os.path.islink(path):
        before = f"link to {os.readlink(path)}\n"
    elif os.path.isfile(path):
        before = "file\n"
    elif os.path.lexists(path):
        raise Refused(f"{path} is there, and is no link. Move it away, and run this again.")
    after = f"link to {target}\n"
    if before != after:
        yield Change(path, before, after, lambda _set: _point(path, target))


def _absent(path: str) -> Iterator[Change]:
    if os.path.isdir(path) and not os.path.islink(path):
        yield Change(path, "directory\n", None, lambda _set: _remove(path, shutil.rmtree))
    elif os.path.lexists(path):
        yield Change(path, "link\n" if os.path.islink(path) else "file\n", None, lambda _set: _remove(path, os.unlink))


def _check_parent(path: str, comes: bool) -> None:
    parent = os.path.dirname(path)
    if not comes and not os.path.isdir(parent):
        raise Refused(f"{path}: {parent} is no directory. Make it, or name it among the directories.")


def _make_directory(path: str, _set_attributes: SetAttributes) -> None:
    with pinned(os.path.dirname(path)) as directory:
        try:
            os.mkdir(os.path.basename(path), 0o700, dir_fd=directory)
        except FileExistsError:
            # Another process made one in the meantime.
            if not os.path.isdir(path):
                raise


def _remove(path: str, remove: Callable[[str], object]) -> None:
    # What goes by itself in the meantime is gone as well.
    with suppress(FileNotFoundError), pinned(os.path.dirname(path)) as directory:
        remove(path_of(directory, os.path.basename(path)))


def _write(path: str, content: bytes, set_attributes: SetAttributes) -> None:
    """Write a file whole or not at all. It is never seen with another mode or owner than it keeps.

    It is made where no other account can reach it, so that what gets the owner and the mode is this file.
    """
    name = os.path.basename(path)
    with pinned(os.path.dirname(path)) as directory, private_place(directory) as place:
        try:
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=place)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileNotFoundError):
                # Where an owner is not named, the file keeps the one that it has.
                before = os.stat(name, dir_fd=directory, follow_symlinks=False)
                os.chown(name, before.st_uid, before.st_gid, dir_fd=place, follow_symlinks=False)
            set_attributes(path_of(place, name))
            os.replace(name, name, src_dir_fd=place, dst_dir_fd=directory)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=place)
            raise


def _point(path: str, target: str) -> None:
    """Make a link, in place of whatever is there."""
    name = os.path.basename(path)
    with pinned(os.path.dirname(path)) as directory, private_place(directory) as place:
        os.symlink(target, name, dir_fd=place)
        os.replace(name, name, src_dir_fd=place, dst_dir_fd=directory)
