# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""PostgreSQL's own programs: which of the installed ones fits, and what their failures mean."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Sequence, Tuple, Type

from ... import messages
from ...command import program_version
from ...errors import (
    Contended,
    Damaged,
    EngineError,
    MissingTool,
    NoSpace,
    NotFound,
    PermissionDenied,
    ToolFailed,
    Unreachable,
    Unverifiable,
)

#: What to do about more locks than a server has room for.
LOCK_LIMIT = (
    "Raise max_locks_per_transaction on the database server and restart it: its locks, times max_connections, must "
    "exceed the number of tables and indexes."
)
#: Where Debian's and the PostgreSQL project's RPM packages install a major version each.
_PACKAGE_DIRECTORIES = (("/usr/lib/postgresql", "*/bin"), ("/usr", "pgsql-*/bin"))
#: From this version on, pg_restore sets transaction_timeout, which is an error on every server before it.
_TRANSACTION_TIMEOUT = 17
#: The minor releases of November 2026. Servers from these on keep a version with each column, among its options, and a
#: pg_dump before them writes it as an option that only such servers accept.
_COLUMN_VERSIONS = {14: 25, 15: 20, 16: 16, 17: 12, 18: 7}
_NUMBER = re.compile(r"[0-9]+")


@dataclass(frozen=True)
class Tool:
    """An installed program of PostgreSQL's."""

    path: str
    version: str

    @property
    def major(self) -> int:
        return major_of(self.version)

    @property
    def writes_column_versions(self) -> bool:
        """Whether this pg_dump writes what a server notes about its columns as if a user had set it."""
        since = _COLUMN_VERSIONS.get(self.major)
        return since is not None and _order(self.version) < (self.major, since)


def major_of(version: str) -> int:
    """The major version in a version number like ``15.18``; 0 where there is none."""
    match = _NUMBER.match(version)
    return int(match.group(0)) if match else 0


def dumper(name: str, server_major: int) -> Tool:
    """The ``pg_dump`` or ``pg_dumpall`` of the server's own major version, or else the next above it.

    Raises MissingTool: an older one refuses a newer server.
    """
    found = installed(name)
    fitting = [tool for tool in found if tool.major >= server_major]
    if fitting and _understood(fitting[0].major, server_major):
        return fitting[0]
    if fitting:
        raise MissingTool(
            f"The server is PostgreSQL {server_major}, and {_listed(found)}: what {name} {fitting[0].major} writes, "
            f"only servers from {_TRANSACTION_TIMEOUT} on can load. {_install(server_major)}"
        )
    raise MissingTool(
        f"The server is PostgreSQL {server_major}, and {name} must not be older: {_listed(found)}. "
        f"{_install(server_major)}"
    )


def restorer(dumped_by: str, server_major: int) -> Tool:
    """The ``pg_restore`` for a dump that the ``pg_dump`` of version ``dumped_by`` wrote.

    An older one cannot read the dump. One that is newer than the server may send settings that the server does not
    know, so that the server's own version is taken where it is there, and otherwise the oldest that fits.
    """
    needed = major_of(dumped_by)
    found = installed("pg_restore")
    newer = [tool for tool in found if tool.major >= needed]
    # Without a server, only the dump is read.
    fitting = [tool for tool in newer if not server_major or _understood(tool.major, server_major)]
    if fitting:
        return next((tool for tool in fitting if tool.major == server_major), fitting[0])
    if newer and needed >= _TRANSACTION_TIMEOUT:
        raise MissingTool(
            f"The backup was made by pg_dump {dumped_by}, and only servers from {_TRANSACTION_TIMEOUT} on understand "
            f"its pg_restore: this one is {server_major}. Restore on PostgreSQL {_TRANSACTION_TIMEOUT} or newer."
        )
    if newer:
        raise MissingTool(
            f"The server is PostgreSQL {server_major}, which does not understand pg_restore {newer[0].major}: "
            f"{_listed(found)}. {_install(max(needed, server_major))}"
        )
    raise MissingTool(
        f"The backup was made by pg_dump {dumped_by}, and pg_restore must not be older: {_listed(found)}. "
        f"{_install(needed)}"
    )


def newest(name: str) -> Tool:
    """The newest installed version of a program that any server understands. Raises MissingTool."""
    found = installed(name)
    if not found:
        raise MissingTool(f"The program {name} is not installed. It comes with PostgreSQL's client package.")
    return found[-1]


def _understood(client_major: int, server_major: int) -> bool:
    """Whether a server understands what a pg_restore of this version sends it."""
    return client_major < _TRANSACTION_TIMEOUT or server_major >= _TRANSACTION_TIMEOUT


def installed(name: str) -> List[Tool]:
    """All installed versions of a program, the oldest first; the newest minor version of each major one."""
    newest: Dict[int, Tool] = {}
    for path in _candidates(name):
        tool = Tool(path, program_version(path))
        if tool.major and _order(tool.version) > _order(newest[tool.major].version if tool.major in newest else ""):
            newest[tool.major] = tool
    return [newest[major] for major in sorted(newest)]


def explained(failure: EngineError) -> EngineError:
    """What the failure of a PostgreSQL program means; any other failure is returned as it is.

    Nothing that comes through a server condemns a backup: what a function of the database raises or warns of can look
    like any line of the program's.
    """
    if not isinstance(failure, ToolFailed) or failure.name not in _PROGRAMS:
        return failure
    output = messages.settled(failure.output)
    for pattern, kind, advice in _MEANINGS:
        match = re.search(pattern, output)
        if match:
            told = Unverifiable if kind is Damaged and messages.holds_servers_words(output) else kind
            start = output.rfind("\n", 0, match.start()) + 1
            return told(f"{failure.name}: {said(output[start:].splitlines()[0])}. {advice}")
    return failure


def warnings(name: str, output: str) -> List[str]:
    """The warnings that a PostgreSQL program wrote, each with the program's name."""
    if name not in _PROGRAMS:
        return []
    found = [line.partition(": warning: ") for line in messages.of_program(name, output).splitlines()]
    return [f"{name}: {warning}" for _program, mark, warning in found if mark]


def said(line: str) -> str:
    """A line of a program's output, as it may be shown and without the program's name."""
    shown = messages.of_line(line)
    return re.sub(r"^\S+ (?:error: |fatal: )?", "", shown).rstrip(".") or messages.WITHHELD


_PROGRAMS = ("pg_dump", "pg_dumpall", "pg_restore")

_DAMAGE = (
    "could not read from input file|input file is too short|does not appear to be a valid archive|corrupt"
    "|did not find magic string|unexpected end of file|unrecognized data block type|found unexpected block ID"
)
_MEANINGS: Sequence[Tuple[str, Type[EngineError], str]] = (
    (r"permission denied (for|to) ", PermissionDenied, "Grant what is missing, or log in as the owner or a superuser."),
    (r"must be (owner of|superuser|member of|able to)", PermissionDenied, "Log in as a superuser, or give owner."),
    (r"query would be affected by row-level security", PermissionDenied, "Log in as a role with BYPASSRLS."),
    # pg_dump limits the statement that locks tables, and no other one.
    (r"lock timeout|could not obtain lock|canceling statement due to statement timeout", Contended,
     "Another session holds the table; find it in pg_stat_activity."),
    (r"pg_dump: .*(cache lookup failed for|could not open relation with OID|relation .* does not exist)", Contended,
     "Somebody changed it during the backup; run this again."),
    (r"out of shared memory", NoSpace, LOCK_LIMIT),
    (r"No space left on device|could not extend file", NoSpace, "The server's disk is full; free space there."),
    (r'role "[^"]*" does not exist', NotFound, "Restore the globals first, or give owner."),
    (r'tablespace "[^"]*" does not exist', NotFound, "Restore the globals first, or create it."),
    (r'extension "[^"]*" is not available', NotFound, "Install the package that brings it on the database server."),
    (r"unrecognized configuration parameter", MissingTool, "Install the client package of the server's own version."),
    (r'unrecognized parameter "pg_attver"', MissingTool,
     "The backup was made by an outdated pg_dump: restore on a server with the minor release of November 2026."),
    (r"unsupported version .* in file header", MissingTool, "Install the newer client package that made this dump."),
    (_DAMAGE, Damaged, "The dump is damaged or cut short; restore another backup."),
    (r"invalid snapshot identifier|could not import the requested snapshot", Unreachable,
     "The session that held the snapshot broke; run this again."),
    (r"server closed the connection|connection to server|terminating connection|could not connect",
     Unreachable, "See the server's log, and run this again."),
    (r"violates check constraint", Unverifiable,
     "It may read what is loaded later. With on_error continue, such tables are loaded again."),
    (r"violates (foreign key|unique|not-null|exclusion) constraint|could not create unique index",
     Unverifiable,
     "The source may be corrupt. Restore an older backup, or see with on_error continue what else comes back."),
)  # fmt: skip


def _candidates(name: str) -> List[str]:
    directories = [path for base, pattern in _PACKAGE_DIRECTORIES for path in sorted(Path(base).glob(pattern))]
    directories += [Path(part) for part in os.environ.get("PATH", "").split(os.pathsep) if part]
    found = []
    for directory in directories:
        path = directory / name
        # Debian's /usr/bin/pg_dump is a script that chooses a version by a cluster's configuration.
        if os.access(path, os.X_OK) and path.is_file() and path.resolve().name != "pg_wrapper":
            found.append(str(path))
    return found


def _order(version: str) -> Tuple[int, ...]:
    return tuple(int(number) for number in _NUMBER.findall(version))


def _listed(found: Sequence[Tool]) -> str:
    if not found:
        return "none is installed"
    return (
        "only " + " and ".join(tool.version for tool in found) + (" is" if len(found) == 1 else " are") + " installed"
    )


def _install(major: int) -> str:
    """The package that helps. A release of Debian has one version, and PostgreSQL's own repository has them all."""
    return (
        f"Install postgresql-client-{major} (Debian, Ubuntu; from apt.postgresql.org where the release has another "
        f"version) or postgresql{major} (RHEL; from yum.postgresql.org)."
    )
