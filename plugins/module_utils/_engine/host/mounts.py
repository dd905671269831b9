# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which file systems another machine keeps. Source: proc_pid_mountinfo(5)."""

from __future__ import annotations

import os
from pathlib import Path

_TABLE = Path("/proc/self/mountinfo")
_REMOTE = frozenset(
    ("9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "smb3", "smbfs", "virtiofs")
)
#: Behind FUSE. Others there, such as mergerfs and bindfs, show directories of this machine.
_REMOTE_BY_FUSE = frozenset(
    (
        "blobfuse",
        "blobfuse2",
        "ceph",
        "ceph-fuse",
        "curlftpfs",
        "gcsfuse",
        "glusterfs",
        "goofys",
        "juicefs",
        "mfs",
        "rclone",
        "s3fs",
        "seaweedfs",
        "sshfs",
    )
)


def lies_elsewhere(device: int) -> bool:
    """Whether the file system of a device (``st_dev``) is another machine's. False where that cannot be found out."""
    try:
        table = _TABLE.read_text("utf-8", "replace")
    except OSError:
        return False
    return is_remote(table, device)


def is_remote(table: str, device: int) -> bool:
    """Whether a mount table says that a device holds another machine's files; one that it does not name, does not.

    Pure. ``table`` is what ``/proc/self/mountinfo`` holds.
    """
    kinds = set()
    for line in table.splitlines():
        # Spaces in names are escaped in it, and before the separator there is any number of optional fields.
        place, separator, behind = line.partition(" - ")
        fields = place.split()
        if separator and len(fields) > 2 and fields[2] == f"{os.major(device)}:{os.minor(device)}":
            kinds.add(behind.split(" ")[0])
    return bool(kinds) and all(map(_is_remote_kind, kinds))


def _is_remote_kind(kind: str) -> bool:
    program, dot, by_fuse = kind.partition(".")
    return by_fuse in _REMOTE_BY_FUSE if program == "fuse" and dot else kind in _REMOTE
