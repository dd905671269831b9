# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading jobs: from one JSON file each, ``<directory>/<name>.json``, so that a broken one stops no other one.

The options have the names that they have in the modules.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ...backup import BackupRequest
from ...databases import open_engine
from ...errors import BadInput, EngineError, PermissionDenied
from ...host.small import read_small
from ...host.unexpected import explained
from ...model import (
    Compression,
    Database,
    Encryption,
    EncryptionSettings,
    EngineName,
    FingerprintKind,
    Level,
    Place,
    Policy,
    Scratch,
    Server,
)
from ...names import is_id
from ...nesting import nested
from ...repositories.base import Repository
from ...repositories.local import LocalRepository
from ...retention import check as check_policy
from ...shapes import once
from ...stream.compression import check_level
from ...verify import Assertion, VerifyRequest
from .fields import Fields
from .jobs import Hooks, Job, Limits, Surroundings, Target, Timetable, is_unit
from .schedule import read_schedule
from .secrets import SecretSource, read_secret

#: A job's name is a part of file and unit names.
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")
_COUNTS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_MINUTE = timedelta(minutes=1)
_EPOCH = datetime.fromtimestamp(0, timezone.utc)


@dataclass(frozen=True)
class BrokenJob:
    """A job that cannot be read, and why."""

    name: str
    error: EngineError


def read_jobs(directory: Path, host: str) -> Tuple[Tuple[Job, ...], Tuple[BrokenJob, ...]]:
    """All jobs of a directory in the order of their names, and those that cannot be read.

    Raises BadInput where there is no such directory, and PermissionDenied.
    """
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix == ".json" and path.name[0] != ".")
    except (FileNotFoundError, NotADirectoryError):
        raise BadInput(f"There is no directory {directory} with jobs. Deploy the jobs of this host first.") from None
    except OSError as error:
        raise _unreadable(directory, error) from None
    jobs: List[Job] = []
    broken: List[BrokenJob] = []
    for path in paths:
        try:
            jobs.append(_read_file(path, host))
        except Exception as error:
            # One unforeseen file must not keep all the other jobs from being done.
            broken.append(BrokenJob(path.stem, explained(error, f"Reading {path}")))
    alone, sharing = _apart(jobs, directory)
    return alone, (*broken, *sharing)


def _apart(jobs: Sequence[Job], directory: Path) -> Tuple[Tuple[Job, ...], Tuple[BrokenJob, ...]]:
    """The jobs whose backups are theirs alone, and those that would share a place with one that was there before.

    Two jobs of one database may share its place; those of two servers would mix what they hold.
    """
    first: Dict[Tuple[str, Place], Job] = {}
    sharing: Dict[str, BrokenJob] = {}
    for job in sorted(jobs, key=lambda one: (one.since or _EPOCH, one.name)):
        places = [(os.path.normpath(target.repository.label), job.backup.place) for target in job.targets]
        address = job.database.server.address
        taken = next((one for one in places if one in first and first[one].database.server.address != address), None)
        if taken:
            where = f"{taken[0]}/{taken[1].path}"
            error = BadInput(
                f'{directory / job.name}.json: the job "{first[taken].name}" keeps its backups in the same place, '
                f"{where}, and those are of another server. Give one of the two a source_host of its own; if both are "
                "one server, write its address the same."
            )
            sharing[job.name] = BrokenJob(job.name, error)
            continue
        for place in places:
            first.setdefault(place, job)
    return tuple(job for job in jobs if job.name not in sharing), tuple(sharing.values())


def read_job(document: Any, name: str, where: str, host: str) -> Job:
    """Read a job of the given name. Raises BadInput, which begins with ``where`` and names the option.

    ``host`` is the name under which backups are stored unless the job names another one in ``source_host``.
    """
    if not _NAME.fullmatch(name):
        raise BadInput(
            f'{where}: "{name}" cannot be the name of a job. Use lower-case letters, digits, "-" and "_", at most 63.'
        )
    fields = Fields(document, where)
    job = _job(fields, name, host)
    fields.end()
    return job


def _read_file(path: Path, host: str) -> Job:
    try:
        content = read_small(path)
        since = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        document = json.loads(content, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not JSON: {error}. Deploy the job again, or correct the file.") from None
    return replace(read_job(document, path.stem, str(path), host), since=since)


def _unreadable(path: Path, error: OSError) -> PermissionDenied:
    return PermissionDenied(f"{path} cannot be read: {error.strerror}. Run this as root, or see its permissions.")


def _job(fields: Fields, name: str, host: str) -> Job:
    database = _database(fields)
    targets = _targets(fields)
    repositories = tuple(target.repository for target in targets)
    encryption = replace(
        fields.object("encryption", _encryption) or EncryptionSettings(),
        accepted=fields.choices("accept_encryption", Encryption),
    )
    source_host = fields.text("source_host", host) or host
    passphrase = fields.object("passphrase", partial(read_secret, purpose=f"{name}: passphrase"))
    level = Level.CONTENTS if _can_decrypt(encryption, passphrase) else Level.CHECKSUM
    verification = VerifyRequest(database, repositories, encryption, source_host, level=level)
    password = partial(read_secret, purpose=f"{name}: login_password")
    return Job(
        name=name,
        backup=_backup(fields, BackupRequest(database, repositories, encryption, source_host)),
        verification=fields.object("verify", partial(_verification, default=verification)) or verification,
        targets=targets,
        hooks=fields.object("hooks", _hooks) or Hooks(),
        surroundings=fields.object("restore", _surroundings) or Surroundings(),
        limits=fields.object("health", _limits) or Limits(),
        timetable=fields.object("schedule", _timetable) or Timetable(),
        login_password=fields.object("login_password", password),
        passphrase=passphrase,
        scratch_password=fields.object("scratch_password", partial(read_secret, purpose=f"{name}: scratch_password")),
        notifications=_channels(fields),
        heartbeat=fields.object("heartbeat", partial(read_secret, purpose=f"{name}: heartbeat")),
    )


def _database(fields: Fields) -> Database:
    engine = fields.choice("engine", EngineName)
    database = Database(engine, fields.required("database"), _server(fields))
    if engine is EngineName.SQLITE and database.server != Server(become_user=database.server.become_user):
        raise fields.wrong("login_*", "an SQLite database is a file, and has no server")
    try:
        # The engine refuses a name that can be none.
        open_engine(database)
    except BadInput as error:
        raise BadInput(f"{fields.where}: {error}") from None
    return database


def _server(fields: Fields) -> Server:
    ssl_mode = fields.text("ssl_mode")
    if ssl_mode not in (None, *_SSL_MODES):
        raise fields.wrong("ssl_mode", f'"{ssl_mode}" is none of {", ".join(_SSL_MODES)}')
    return Server(
        host=fields.text("login_host"),
        port=fields.integer("login_port", least=1),
        user=fields.text("login_user"),
        unix_socket=fields.text("login_unix_socket"),
        ssl_mode=ssl_mode,
        ca_cert=fields.text("ca_cert"),
        become_user=fields.text("become_user"),
    )


def _targets(fields: Fields) -> Tuple[Target, ...]:
    default = fields.object("retention", _policy)
    targets = fields.objects("repositories", partial(_target, default=default))
    if not targets:
        raise fields.wrong("repositories", "it is empty, and a backup must go somewhere")
    problem = nested([target.repository.label for target in targets])
    if problem:
        raise fields.wrong("repositories", problem)
    return targets


def _target(fields: Fields, default: Optional[Policy]) -> Target:
    policy = fields.object("retention", _policy)
    return Target(_repository(fields), policy or default)


def _repository(fields: Fields) -> Repository:
    kind = fields.text("type", "local")
    if kind != "local":
        raise fields.wrong("type", f'"{kind}" is no kind of repository that this version knows')
    path = Path(fields.required("path"))
    if not path.is_absolute():
        raise fields.wrong("path", f"{path} is not absolute")
    # For the one who deploys. One that is missing later is a share that is not mounted, and is never made here.
    fields.flag("create", False)
    return LocalRepository(path)


def _policy(fields: Fields) -> Policy:
    policy = Policy(
        **{name: fields.integer(f"keep_{name}", 0, least=-1) or 0 for name in _COUNTS},
        within=fields.span("keep_within"),
        timezone=fields.text("timezone", "UTC") or "UTC",
        minimum_keep=fields.integer("minimum_keep", 1) or 0,
        max_age=fields.span("max_age"),
        protect_proven=fields.flag("protect_proven", True),
    )
    try:
        check_policy(policy)
    except BadInput as error:
        raise BadInput(f"{fields.where}: {error}") from None
    return policy


def _encryption(fields: Fields) -> EncryptionSettings:
    return EncryptionSettings(
        method=fields.choice("method", Encryption, Encryption.AES256_GCM),
        recipients=fields.texts("recipients"),
        identities=fields.texts("identities"),
    )


def _can_decrypt(encryption: EncryptionSettings, passphrase: Optional[SecretSource]) -> bool:
    """Whether this host may open its backups by itself. What gpg's keyring holds is not known here."""
    if encryption.method in (Encryption.NONE, Encryption.GPG):
        return True
    return bool(encryption.identities or passphrase)


def _backup(fields: Fields, request: BackupRequest) -> BackupRequest:
    compression = fields.choice("compression", Compression, Compression.ZSTD)
    level = fields.integer("compression_level", least=1)
    try:
        check_level(compression, level)
    except BadInput as error:
        raise BadInput(f"{fields.where}: {error}") from None
    lock_timeout, timeout = fields.span("lock_timeout", _MINUTE) or _MINUTE, fields.span("timeout")
    return replace(
        request,
        compression=compression,
        compression_level=level,
        tier=fields.text("tier"),
        labels=fields.words("labels"),
        max_age=fields.span("max_age"),
        fingerprint=fields.choice("fingerprint", FingerprintKind, FingerprintKind.COUNTS),
        globals=fields.flag("globals", False),
        exclude_tables=fields.texts("exclude_tables"),
        min_size_ratio=fields.share("min_size_ratio", 0.5),
        lock_timeout=lock_timeout.total_seconds(),
        timeout=timeout.total_seconds() if timeout else None,
    )


def _verification(fields: Fields, default: VerifyRequest) -> VerifyRequest:
    backup = fields.text("backup", "latest") or "latest"
    if backup not in ("latest", "all") and not is_id(backup):
        raise fields.wrong("backup", f'"{backup}" is neither latest, all, nor the id of a backup')
    level = fields.choice("level", Level, default.level)
    assertions = fields.objects("assertions", _assertion)
    if assertions and level is not Level.RESTORE:
        raise fields.wrong("assertions", "they are queries on a restored database, so level must be restore")
    timeout = fields.span("timeout")
    return replace(
        default,
        timeout=timeout.total_seconds() if timeout else None,
        backup=backup,
        sample=fields.integer("sample", least=1),
        level=level,
        assertions=assertions,
        max_age=fields.span("max_age"),
        scratch=fields.object("scratch", partial(_scratch, database=default.database)) or Scratch(),
    )


def _scratch(fields: Fields, database: Database) -> Scratch:
    """Where a verification restores: below a directory; or for PostgreSQL on a server, like the database's own but for
    what is said of it.
    """
    path = fields.text("path")
    if path is not None and not Path(path).is_absolute():
        raise fields.wrong("path", f"{path} is not absolute")
    scratch = Scratch(path=Path(path) if path else None)
    if database.engine is EngineName.SQLITE:
        return scratch
    given = {name: value for name, value in vars(_server(fields)).items() if value is not None}
    become_user = given.get("become_user")
    named = bool(set(given) - {"become_user"})
    if named and path is not None:
        raise fields.wrong("path", "a server is named too, and restores go there; leave out one of them")
    return scratch._replace(
        server=replace(database.server, **given) if named else None,
        become_user=become_user,
        isolated=fields.flag("isolated", True),
        allow_superuser=fields.flag("allow_superuser", False),
    )


def _assertion(fields: Fields) -> Assertion:
    return Assertion(fields.required("sql"), fields.raw("expect"), fields.text("name", "") or "")


def _hooks(fields: Fields) -> Hooks:
    return Hooks(
        before=_commands(fields, "before"), after=_commands(fields, "after"), failure=_commands(fields, "failure")
    )


def _channels(fields: Fields) -> Optional[Tuple[str, ...]]:
    """The names of the channels that hear of the job: all where none is said, and none where the list is empty."""
    given = fields.raw("notifications")
    return None if given is None else Fields({"notifications": given}, fields.where).texts("notifications")


def _commands(fields: Fields, name: str) -> Tuple[Tuple[str, ...], ...]:
    commands: Any = fields.raw(name) or []
    for command in commands if isinstance(commands, list) else [None]:
        if not isinstance(command, list) or not command or not all(isinstance(word, str) for word in command):
            raise fields.wrong(name, "it must be a list of commands, each a list of words")
        if not Path(command[0]).is_absolute():
            raise fields.wrong(name, f"{command[0]} is not the absolute path of a program")
    return tuple(tuple(command) for command in commands)


def _surroundings(fields: Fields) -> Surroundings:
    services = fields.texts("stop_services")
    for service in services:
        if not is_unit(service):
            raise fields.wrong("stop_services", f'"{service}" cannot be the name of a unit of systemd')
    return Surroundings(services, before=_commands(fields, "before"), after=_commands(fields, "after"))


def _limits(fields: Fields) -> Limits:
    room = fields.integer("room", Limits.room)
    return Limits(
        age=fields.span("max_age"),
        proof_age=fields.span("max_proof_age"),
        room=Limits.room if room is None else room,
        free=fields.share("min_free", Limits.free),
    )


def _timetable(fields: Fields) -> Timetable:
    return Timetable(*(fields.object(work, read_schedule) for work in ("backup", "rotate", "verify")))
