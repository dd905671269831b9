# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A dump restored into a database of its own beside the target, checked there, and put in the target's place.

With ``parallel`` above 1, or where errors are tolerated, pg_restore reads the dump several times and needs it as a
file: a private one in the temporary directory (TMPDIR), which holds the dump unencrypted until it is loaded. Otherwise
nothing is written anywhere but on the server.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Iterator, List, Optional, Tuple

from ...command import Argument, Command
from ...errors import (
    EngineError,
    Locked,
    Mismatch,
    NoSpace,
    PermissionDenied,
    TargetExists,
    Unreachable,
)
from ...host.temporary import temporary_path
from ...interrupts import finish
from ...model import Fingerprint, Manifest
from ...process import memory_file, run
from ...scratch import Purpose, private_directory
from ..base import Save, Staging, differing
from . import (
    catalogue,
    claims,
    complaints,
    definition,
    fingerprint,
    preflight,
    privileges,
    promotion,
    settings,
    subscriptions,
    tools,
)
from .assertion import rows_of
from .connection import Access, Connection
from .copying import Copier
from .definition import Properties
from .failures import sqlstate

#: What CREATE DATABASE answers where there is one of the name, or another session makes it.
_TAKEN = ("42P04", "23505")


class PostgresqlStaging(Staging):
    """See the module. Made by ``prepare``."""

    #: How long a query of the user's may take; 0 is for ever.
    _patience = "0"
    #: Roles that log in besides this login.
    _entering: Tuple[str, ...] = ()

    def __init__(
        self,
        access: Access,
        target: str,
        manifest: Manifest,
        owner: Optional[str],
        parallel: int,
        tolerant: bool = False,
        disposable: bool = False,
    ) -> None:
        self._access, self._target, self._manifest = access, target, manifest
        self._properties: Properties = definition.from_manifest(manifest.properties, manifest.id)
        self._owner, self._parallel, self._tolerant, self._disposable = owner, parallel, tolerant, disposable
        self._staged = promotion.beside(target, promotion.RESTORING, manifest.id)
        self._session: Optional[Connection] = None
        self._spool: Optional[Path] = None
        self._spooling = ExitStack()
        self._here = False
        self.label = f'database "{self._staged}" on {access.label}'

    def create(self) -> None:
        """Claim the name, remove what killed restores left, and create the empty database."""
        control = self._control()
        promotion.sweep(self._access, control, self._target)
        if not claims.claim(control, self._staged):
            by = claims.holder(control, self._staged)
            raise Locked(
                f"Backup {self._manifest.id} is being restored to {self._target} already{by}. Wait for its end."
            )
        if promotion.exists(control, self._staged):
            raise Locked(f"{self.label} is left over, with a session in it, or another login's. Drop it.")
        self._here = True
        if self._tolerant or self._disposable:
            self._leave_out_settings(control)
        self._create_database(control)
        self.load = self._spooled() if self._parallel > 1 or self._tolerant else self._restorer(("--exit-on-error",))

    def _leave_out_settings(self, control: Connection) -> None:
        """Do without the settings that this user may not make; sessions of a disposable copy have them all the same."""
        refused = preflight.refused_settings(control, definition.applicable(self._properties, self._owner))
        if self._disposable:
            session = tuple((one.name, one.value) for one in preflight.for_sessions(control, refused))
            self._access = replace(self._access, session=session)
        else:
            self.missing = tuple(f"the setting {one.name}: {answer}" for one, answer in refused)
        left_out = [one for one, _answer in refused]
        kept = tuple(one for one in self._properties.settings if one not in left_out)
        self._properties = replace(self._properties, settings=kept)

    def loaded(self) -> None:
        if self._spool:
            try:
                self._load_spool(str(self._spool))
            except EngineError as failure:
                raise tools.explained(failure) from failure
            finally:
                self._remove_spool()
        self.notes = tuple(subscriptions.detach(self._access, self._control(), self._staged))
        self._settle()

    def _load_spool(self, spool: str) -> None:
        jobs = (f"--jobs={self._parallel}",) if self._parallel > 1 else ()
        left = complaints.load(lambda further: self._restorer((*further, spool)), jobs)
        left = complaints.located(left, self._listed()) if left else []
        if left and not self._tolerant:
            raise left[0].failure
        self.missing += complaints.named(left)

    def _listed(self, *options: str) -> List[str]:
        """The lines of pg_restore's list of the spooled dump, comments included."""
        return self._read("--list", *options).split("\n")

    def _read(self, *options: Argument) -> str:
        """What pg_restore writes about the spooled dump."""
        tool = tools.restorer(dumped_by(self._manifest), self._control().version // 10000)
        # Before PostgreSQL 12, "-" is the name of a file, and without one it is the standard output.
        output = ("--file=-",) if tool.major >= 12 else ()
        command = Command("pg_restore", (tool.path, *output, *options, str(self._spool)))
        with os.fdopen(memory_file(b""), "rb") as listed:
            run(replace(command, account=self._access.account), stdout=listed.fileno())
            listed.seek(0)
            return listed.read().decode("utf-8", "replace")

    def check_integrity(self) -> None:
        with self._access.connect(self._staged) as inside:
            invalid = catalogue.invalid_indexes(inside)
        if invalid:
            raise Mismatch(
                differing([f"index {name} is not valid" for name in invalid], self.label) + ". Nothing was replaced."
            )

    def fingerprint(self, like: Fingerprint) -> Fingerprint:
        with self._access.connect(self._staged) as inside:
            fingerprint.require_countable(inside, like.kind)
            inside.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            tables = catalogue.select(inside, ()).counted(unlogged=True)
            # A standby has no rows of unlogged tables, so that its backups hold such tables without counting them.
            counted = [table for table in tables if table.counted_as in like.tables or not table.unlogged]
            copier = Copier(self._access, self._staged)
            return inside.interruptibly(lambda: fingerprint.count_like(inside, counted, like, copier))

    def query(self, sql: str) -> List[Tuple[Any, ...]]:
        with self._access.connect(self._staged, own_path=False) as inside:
            try:
                inside.run(f"BEGIN READ ONLY; SET LOCAL statement_timeout = '{self._patience}'")
                rows = inside.interruptibly(lambda: rows_of(inside, sql))
            except Unreachable:
                raise
            except EngineError as error:
                raise Mismatch(f"The query failed on the restored copy: {error}") from error
        if rows is None:
            raise Mismatch(
                "The query returned no rows and no columns: it is no SELECT. Write one that returns what to expect."
            )
        return rows

    def promote(self, replace: bool, keep_replaced: bool, save: Optional[Save] = None) -> Optional[str]:
        control = self._control()
        occupied = promotion.exists(control, self._target)
        if occupied and not replace:
            raise TargetExists(
                f'Cannot restore {self._target}: database "{self._target}" exists on {self._access.label}. '
                "Set replace to replace it, or restore under another name."
            )
        if occupied:
            promotion.require_replaceable(control, self._target)
        # Until it is saved, what is replaced has a name under which no later restore drops it.
        keep = keep_replaced or save is not None
        aside = self._aside(control, promotion.REPLACED if keep else promotion.DISCARDED) if occupied else None
        opening = privileges.settled(self._properties, self._staged, self._owner)
        opening += definition.opening(self._properties, self._staged)
        unkept = privileges.unkept(control, self._properties, self._owner)
        finish()
        promotion.swap(self._access, control, self._staged, self._target, aside, opening)
        self._here = False
        self.notes = (*self.notes, *unkept)
        if aside is None:
            return None
        # No writer knows its name, and none was in it when it got that.
        if save is not None and not self.saved(save, aside):
            return aside
        return aside if keep_replaced else self._discarded(aside)

    def _discarded(self, aside: str) -> Optional[str]:
        """Drop what was replaced; its name, where it is kept because that cannot even begin."""
        control, name = self._control(), aside
        try:
            name = promotion.condemn(control, aside, self._target, self._manifest.id)
            promotion.drop(control, name)
        except EngineError as error:
            # The new database serves.
            if not promotion.is_beside(name, self._target, promotion.DISCARDED):
                return aside
            said = f'What was replaced is not dropped yet, and is left as "{name}": {error}'
            self.notes = (*self.notes, f"{said} The next restore drops it, and so does fleet-backup unlock.")
        return None

    def leave(self) -> None:
        """Remove what was not promoted. Raises a typed error when the server does not let go of it."""
        self._remove_spool()
        try:
            if self._here:
                subscriptions.drop(self._access, self._control(), self._staged)
                promotion.drop(self._control(), self._staged)
        finally:
            if self._session:
                self._session.close()

    def _create_database(self, control: Connection) -> None:
        properties = self._properties
        try:
            control.run(definition.creation(properties, self._staged, self._owner, control.version))
        except EngineError as error:
            # What another login has made since is not this restore's to drop.
            self._here = sqlstate(error) not in _TAKEN
            raise
        control.run(privileges.closed(self._staged, self._owner or properties.owner, self._entering))
        with self._access.connect(self._staged) as inside:
            for statement in definition.preparation(properties, self._owner):
                inside.run(statement)
            if not properties.public_schema:
                inside.run("DROP SCHEMA public")

    def _settle(self) -> None:
        with self._access.connect(self._staged) as inside:
            for statement in definition.settlement(self._properties, self._owner):
                inside.run(statement)

    def _control(self) -> Connection:
        """The session from which databases are created and renamed; opened again when the server ended it."""
        if self._session is None or not self._session.alive:
            lost = self._session is not None
            self._session = self._access.administer(self._target)
            if lost and not claims.claim(self._session, self._staged):
                raise Locked(f"{self.label} was taken over by another restore. Restore again.")
        return self._session

    def _aside(self, control: Connection, purpose: str) -> str:
        return promotion.free_name(control, self._target, purpose, self._manifest.id)

    def _restorer(self, further: Tuple[Argument, ...], access: Optional[Access] = None) -> Command:
        access, control = access or self._access, self._control()
        tool = tools.restorer(dumped_by(self._manifest), control.version // 10000)
        # What this user may set, another one may not.
        session = {**settings.for_load(), **(control.further if access is self._access else {})}
        arguments: List[Argument] = [
            tool.path,
            "--no-password",
            f"--dbname={access.connection_string(self._staged, session)}",
        ]
        if self._owner is not None:
            arguments += ["--no-owner", f"--role={self._owner}", "--no-acl"]
        return access.command("pg_restore", (*arguments, *further))

    def _spooled(self) -> Path:
        """A private file: several jobs of pg_restore cannot read a pipe."""
        try:
            directory = self._spooling.enter_context(private_directory(Purpose.SPOOL))
        except OSError as error:
            raise _no_spool(error) from None
        self._spool = directory / "dump"
        os.close(os.open(self._spool, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        account = self._access.account
        if account is not None:
            # That account may pass through the directory without seeing what is in it, and read this one file.
            directory.chmod(0o711)
            os.chown(self._spool, account.uid, account.gid)
        return self._spool

    def _remove_spool(self) -> None:
        self._spooling.close()
        self._spool = None


def _no_spool(error: OSError) -> EngineError:
    kind = NoSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else PermissionDenied
    return kind(
        f"The temporary file for a restore by several jobs cannot be made in {temporary_path()}: {error.strerror}. "
        "See that there is room, choose another directory in TMPDIR, or set parallel to 1."
    )


@contextmanager
def prepare(
    access: Access,
    target: str,
    manifest: Manifest,
    owner: Optional[str],
    parallel: int,
    tolerant: bool,
    disposable: bool = False,
) -> Iterator[PostgresqlStaging]:
    """An empty database beside the target, which is dropped again unless it is promoted."""
    staging = PostgresqlStaging(access, target, manifest, owner, parallel, tolerant, disposable)
    try:
        staging.create()
        yield staging
    except BaseException:
        # What went wrong first is what to tell. The next restore drops what is left over.
        with suppress(EngineError):
            staging.leave()
        raise
    staging.leave()


def dumped_by(manifest: Manifest) -> str:
    """The version of the pg_dump that made a backup; where a manifest lacks it, the server's, which it is not below."""
    return manifest.tool_versions.get("pg_dump") or manifest.server_version
