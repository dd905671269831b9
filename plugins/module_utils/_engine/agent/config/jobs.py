# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Jobs: what is to be done for one database. A job's requests are complete but for their secrets."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Optional, Sequence, Tuple

from ...backup import BackupRequest
from ...model import Database, Encryption, Level, Policy
from ...repositories.base import Repository
from ...rotate import RotateRequest
from ...verify import VerifyRequest
from .given import GivenKeys
from .schedule import Schedule, Work
from .secrets import SecretSource


@dataclass(frozen=True)
class Target:
    """A repository of a job, and how long backups are kept in it; without a policy they are kept for ever."""

    repository: Repository
    policy: Optional[Policy]


@dataclass(frozen=True)
class Hooks:
    """Commands around a backup, each a list of arguments. One of ``before`` that fails stops the backup.

    ``after`` runs when the backup has ended, well or not; ``failure`` when it failed.
    """

    before: Tuple[Tuple[str, ...], ...] = ()
    after: Tuple[Tuple[str, ...], ...] = ()
    failure: Tuple[Tuple[str, ...], ...] = ()


#: What systemd takes for a unit's name (systemd.unit(5)), without patterns and without what looks like an option.
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]{0,254}")


def is_unit(name: str) -> bool:
    """Whether a text can be the name of one unit of systemd."""
    return _UNIT.fullmatch(name) is not None


@dataclass(frozen=True)
class Surroundings:
    """What is done around a restore: services of systemd that are stopped for it, and commands as in Hooks.

    ``before`` runs before the services are stopped, and ``after`` when they are started again, well or not.
    """

    stop_services: Tuple[str, ...] = ()
    before: Tuple[Tuple[str, ...], ...] = ()
    after: Tuple[Tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Limits:
    """What is still healthy: how old the newest good backup and the newest proof by restoring may be.

    And for how many more backups of the newest one's size there must be room, and which share of the repository's space
    must be free.
    """

    age: Optional[timedelta] = None
    proof_age: Optional[timedelta] = None
    room: int = 3
    free: float = 0.1


@dataclass(frozen=True)
class Timetable:
    """When a job's work is done; None where only somebody who asks for it starts it."""

    backup: Optional[Schedule] = None
    rotate: Optional[Schedule] = None
    verify: Optional[Schedule] = None

    def entries(self) -> Tuple[Tuple[Work, Schedule], ...]:
        """What the host does by itself, and when."""
        found = ((Work.BACKUP, self.backup), (Work.ROTATE, self.rotate), (Work.VERIFY, self.verify))
        return tuple((work, schedule) for work, schedule in found if schedule)


#: How long a job's work may take where nothing is said of it, in seconds.
DAY = 86400.0


@dataclass(frozen=True)
class Job:
    """One database's job."""

    name: str
    backup: BackupRequest
    verification: VerifyRequest
    targets: Tuple[Target, ...]
    hooks: Hooks = Hooks()
    limits: Limits = Limits()
    timetable: Timetable = Timetable()
    login_password: Optional[SecretSource] = None
    passphrase: Optional[SecretSource] = None
    scratch_password: Optional[SecretSource] = None
    #: The names of the channels that hear of this job; None for all.
    notifications: Optional[Tuple[str, ...]] = None
    #: The URL of a service that hears how each backup begins and ends.
    heartbeat: Optional[SecretSource] = None
    surroundings: Surroundings = Surroundings()
    #: Since when this host has the job as it is; None where that is not known.
    since: Optional[datetime] = None
    given: GivenKeys = field(default_factory=GivenKeys)

    @property
    def database(self) -> Database:
        return self.backup.database

    @property
    def has_keys(self) -> bool:
        """Whether there is a key for what is read: one of the job's own, or one that was given."""
        return bool(self.given or self.backup.encryption.identities or self.passphrase)

    def accepting(self, methods: Sequence[Encryption]) -> Job:
        """This job, to read backups of these encryption methods too. Pure."""
        own = self.backup.encryption
        return replace(self, backup=replace(self.backup, encryption=replace(own, accepted=(*own.accepted, *methods))))

    def seconds_for(self, work: Work) -> float:
        """How long a work of this job may take, all waiting included."""
        given = {Work.BACKUP: self.backup.timeout, Work.VERIFY: self.verification.timeout}
        return given.get(work) or DAY

    def opened(self) -> Job:
        """This job with its secrets. Raises what ``SecretSource.read`` raises."""
        database = _with_password(self.database, self.login_password)
        # One that was given stands in for the job's own, which may be the very thing that was lost.
        passphrase = self.passphrase.read() if self.passphrase and self.given.passphrase is None else None
        encryption = replace(self.backup.encryption, passphrase=passphrase)
        reading = self.given.over(encryption)
        scratch = self.verification.scratch
        if scratch.server is not None:
            password = self.scratch_password.read() if self.scratch_password else database.server.password
            scratch = scratch._replace(server=replace(scratch.server, password=password))
        return replace(
            self,
            backup=replace(self.backup, database=database, encryption=encryption),
            verification=replace(self.verification, database=database, encryption=reading, scratch=scratch),
        )

    def verified(self, given: GivenKeys, level: Optional[Level]) -> Job:
        """This job, to be verified with keys that were given, and at a level that was asked for. Pure.

        Whoever brings a key and names no level wants the backups read: a checksum would not use it.
        """
        own = self.verification
        if level is None:
            level = max(own.level, Level.CONTENTS, key=attrgetter("strength")) if given else own.level
        # Assertions are queries on a restored database.
        assertions = own.assertions if level is Level.RESTORE else ()
        return replace(self, given=given, verification=replace(own, level=level, assertions=assertions))

    def rotations(self) -> Tuple[RotateRequest, ...]:
        """A request for each repository that has a policy."""
        return tuple(
            RotateRequest(
                repositories=(target.repository,),
                source_host=self.backup.source_host,
                policy=target.policy,
                database=self.database,
                engine=self.database.engine.value,
            )
            for target in self.targets
            if target.policy is not None
        )


def _with_password(database: Database, source: Optional[SecretSource]) -> Database:
    return database if source is None else replace(database, server=replace(database.server, password=source.read()))
