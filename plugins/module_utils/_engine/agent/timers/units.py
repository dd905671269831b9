# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The units of systemd that do a host's work: a service and a timer for each work of each job. Pure functions.

Services run as root, since only root can read every database, and with little else of root: see systemd.exec(5) for
each setting. Drop-ins (systemd.unit(5)) change what one job needs differently.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator, List, Mapping, Optional, Sequence, Tuple

from ...errors import BadInput
from ...model import EngineName, Level
from ...repositories.local import LocalRepository
from ..config.jobs import Job
from ..config.schedule import Expression, Schedule, Work, seed_of
from ..config.secrets import SecretKind

#: The first line of every file that is made, by which it is known again.
MARK = "# Made by fleet.backup"
DIRECTORY = "/etc/fleet-backup"
COMMAND = "/usr/local/bin/fleet-backup"
#: What systemd takes for a path without quotes.
_PLAIN = re.compile(r"[A-Za-z0-9_@+=:,./-]+")
_UNSAFE = re.compile(r'["\\\x00-\x1f\x7f]')
_CREDENTIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SETTING = re.compile(r"[A-Z][A-Za-z0-9]*")
_TEMPORARY = ("/tmp", "/var/tmp")
_WORDS = {
    Work.BACKUP: ("run", "Back up {}"),
    Work.ROTATE: ("rotate", "Remove old backups of {}"),
    Work.VERIFY: ("verify", "Verify backups of {}"),
}
#: Root without these may not read a file of somebody else, and SQLite could not give its files to their owner.
_READING = ("CAP_DAC_READ_SEARCH",)
_WRITING = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER")
#: What it takes to start a program as another account, and to end it.
_BECOMING = ("CAP_KILL", "CAP_SETGID", "CAP_SETUID")
_SANDBOX = """\
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProcSubset=pid
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
""".splitlines()
#: How long the look after the health of all backups may take, and what a run may need beyond its timeout, in seconds.
_HEALTH, _EXTRA = 3600.0, 180
#: Backups leave the processor and the disk to who needs them first.
_MODEST = ("Nice=10", "IOSchedulingClass=best-effort", "IOSchedulingPriority=7")


@dataclass(frozen=True)
class UnitFile:
    """A unit. ``calendar`` is an expression that only systemd can judge, and ``origin`` where it was given."""

    name: str
    content: str
    calendar: Optional[str] = None
    origin: str = ""


@dataclass(frozen=True)
class UnitOptions:
    """What units say besides what their jobs do.

    ``health`` is when the host looks after its backups' health. ``credentials`` are the files of the credentials that
    jobs name, and ``settings`` further ones for each service, which override those that are here.
    """

    host: str
    directory: str = DIRECTORY
    command: str = COMMAND
    health: Optional[Schedule] = None
    credentials: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Tuple[str, ...]] = field(default_factory=dict)


def units(jobs: Sequence[Job], options: UnitOptions) -> Tuple[UnitFile, ...]:
    """All units of a host. Raises BadInput, which names the host, the job and the option."""
    made: List[UnitFile] = []
    for job in jobs:
        for work, schedule in job.timetable.entries():
            made += _pair(job, work, schedule, options)
    if jobs and options.health:
        made += _health(jobs, options.health, options)
    return tuple(made)


def _pair(job: Job, work: Work, schedule: Schedule, options: UnitOptions) -> Iterator[UnitFile]:
    where = f"{options.host}: job {job.name}"
    verb, description = _WORDS[work]
    seconds = job.seconds_for(work)
    lines = _beginning(f"{_path(options.command, where)} {verb} {job.name}", seconds, options, where)
    lines += [*_MODEST, *_temporary(job), *_files(job, work, where), *_rights(job, work)]
    lines += _credentials(job, work, options, where)
    name = f"fleet-backup-{work.value}-{job.name}"
    about = description.format(job.name)
    yield UnitFile(f"{name}.service", _service(about, _order(job, work, where), [*lines, *_added(options, where)]))
    yield _timer(name, about, schedule, seed_of(options.host, job.name, work), f"{where}: schedule.{work.value}")


def _health(jobs: Sequence[Job], schedule: Schedule, options: UnitOptions) -> Iterator[UnitFile]:
    where = f"{options.host}: schedule_health"
    lines = _beginning(f"{_path(options.command, where)} status --notify", _HEALTH, options, where)
    lines += [*_temporary(*jobs), *_capabilities(_READING)]
    about = "Check the health of this host's backups"
    name = "fleet-backup-health"
    yield UnitFile(f"{name}.service", _service(about, _late(), [*lines, *_added(options, where)]))
    yield _timer(name, about, schedule, f"{options.host}/health", where)


def _timer(name: str, about: str, schedule: Schedule, seed: str, where: str) -> UnitFile:
    calendar = schedule.systemd(seed)
    if calendar is None:
        raise BadInput(f"{where}: cron alone is given, and systemd needs calendar. Add it, or schedule with cron.")
    timer = [
        f"OnCalendar={calendar}",
        # Each host has a second of its own, and keeps to it; what it slept through is caught up with.
        "AccuracySec=1s",
        "Persistent=true",
        f"Unit={name}.service",
    ]
    sections = {"Unit": [f"Description={about}, on time"], "Timer": timer, "Install": ["WantedBy=timers.target"]}
    judged = calendar if isinstance(schedule, Expression) else None
    return UnitFile(f"{name}.timer", _unit(sections), judged, f"{where}: calendar")


def _service(about: str, order: Sequence[str], lines: Sequence[str]) -> str:
    return _unit({"Unit": [f"Description={about}", *order], "Service": lines})


def _unit(sections: Mapping[str, Sequence[str]]) -> str:
    parts = ["\n".join([f"[{name}]", *lines, ""]) for name, lines in sections.items()]
    return f"{MARK}\n" + "\n".join(parts)


def _order(job: Job, work: Work, where: str) -> List[str]:
    repositories = _local(job)
    order = _late()
    if len(job.targets) == len(repositories) == 1:
        # Without its share, the directory below it would take the backup. With several repositories, the others still
        # get theirs, and the agent says which one is missing.
        order.append(f"RequiresMountsFor={_path(repositories[0], where)}")
    if work is not Work.BACKUP and job.timetable.backup:
        # Where a host catches up with all of them at once, the new backup comes first.
        order.append(f"After=fleet-backup-{Work.BACKUP.value}-{job.name}.service")
    return order


def _late() -> List[str]:
    # When a host catches up at its start, its databases shall be running first. Debian's postgresql.service does not
    # wait for its clusters, but the target does.
    return ["Wants=network-online.target", "After=network-online.target remote-fs.target multi-user.target"]


def _beginning(command: str, seconds: float, options: UnitOptions, where: str) -> List[str]:
    # The agent ends its work itself, cleans up, and notifies. Systemd ends an agent that cannot even do that.
    lines = ["Type=oneshot", f"ExecStart={command}", f"TimeoutStartSec={int(seconds) + _EXTRA}", "TimeoutStopSec=2min"]
    # A core file would hold keys and rows.
    lines.append("LimitCORE=0")
    if options.directory != DIRECTORY:
        config = f"{options.directory}/agent.json"
        lines.append(f'Environment="FLEET_BACKUP_CONFIG={_path(config, where).strip(chr(34))}"')
    # Root's home is where libpq and gpg look for what was set up by hand. And /tmp can be memory, too small for a
    # database.
    lines += ["Environment=HOME=/root TMPDIR=/var/tmp", "UMask=0077"]
    lines += ["StateDirectory=fleet-backup", "StateDirectoryMode=0700"]
    return [*lines, "LogsDirectory=fleet-backup", "LogsDirectoryMode=0700", *_SANDBOX]


def _temporary(*jobs: Job) -> List[str]:
    """Who works for a job that keeps something among the temporary files must see them."""
    named: List[str] = []
    for job in jobs:
        named += [*_local(job), *_keys_and_sockets(job)]
        if job.database.engine is EngineName.SQLITE:
            named.append(job.database.name)
        if job.verification.scratch.path:
            named.append(str(job.verification.scratch.path))
    if any(_is_below(path, directory) for path in named for directory in _TEMPORARY):
        return ["PrivateTmp=no", *(f"ReadWritePaths={directory}" for directory in _TEMPORARY)]
    return ["PrivateTmp=yes"]


def _keys_and_sockets(job: Job) -> Iterator[str]:
    encryption = job.backup.encryption
    yield from (key for key in (*encryption.recipients, *encryption.identities) if key.startswith("/"))
    for server in (job.database.server, job.verification.scratch.server):
        if server:
            yield from filter(None, (server.unix_socket, server.host, server.ca_cert))
    for secret in (job.login_password, job.passphrase, job.scratch_password):
        if secret and secret.kind is SecretKind.FILE:
            yield secret.name


def _files(job: Job, work: Work, where: str) -> List[str]:
    """What the work writes to. One that is missing is left to the agent, which says so better than systemd."""
    written = _local(job)
    if work is Work.BACKUP and job.database.engine is EngineName.SQLITE:
        # Even who only reads a database in WAL mode writes to the index beside it (sqlite.org/wal.html).
        written.append(str(Path(job.database.name).parent))
    if work is Work.VERIFY and job.verification.scratch.path:
        written.append(str(job.verification.scratch.path))
    return [f"ReadWritePaths=-{_path(path, where)}" for path in dict.fromkeys(written)]


def _rights(job: Job, work: Work) -> List[str]:
    servers = (job.database.server, job.verification.scratch.server)
    # For SQLite, the agent becomes the owner of the database's directory, or who verifies without rights.
    becomes = job.database.engine is EngineName.SQLITE or any(server and server.become_user for server in servers)
    if work is Work.VERIFY and _rehearses(job):
        return _confining(job)
    if work is Work.ROTATE or not becomes:
        return [*_capabilities(_WRITING), "SystemCallFilter=@chown"]
    return [*_capabilities((*_WRITING, *_BECOMING)), "SystemCallFilter=@chown @setuid"]


def _rehearses(job: Job) -> bool:
    """Whether its verifications restore into a throwaway cluster of PostgreSQL."""
    verification = job.verification
    is_restored = job.database.engine is EngineName.POSTGRESQL and verification.level is Level.RESTORE
    return is_restored and verification.scratch.server is None


def _confining(job: Job) -> List[str]:
    """What it takes to run a server as another account, in namespaces of its own: more power, to give it less."""
    if not job.verification.scratch.isolated:
        return [*_capabilities((*_WRITING, *_BECOMING)), "SystemCallFilter=@chown @setuid"]
    return [
        *_capabilities((*_WRITING, *_BECOMING, "CAP_SYS_ADMIN")),
        "RestrictNamespaces=ipc mnt net pid",
        "SystemCallFilter=@chown @mount @setuid unshare",
        # A new /proc cannot be mounted where parts of the host's are covered.
        "ProcSubset=all",
        "ProtectKernelTunables=no",
    ]


def _capabilities(names: Sequence[str]) -> List[str]:
    return [f"CapabilityBoundingSet={' '.join(sorted(names))}"]


def _credentials(job: Job, work: Work, options: UnitOptions, where: str) -> List[str]:
    lines: List[str] = []
    for name in credentials_of(job, work):
        path = options.credentials.get(name)
        if path is None:
            raise BadInput(
                f'{where}: nothing says where the credential "{name}" is. Add it to schedule_credentials with the path '
                "of its file on the host."
            )
        if not _CREDENTIAL.fullmatch(name):
            raise BadInput(f'{where}: "{name}" cannot be the name of a credential. Use letters, digits, "_", "-", ".".')
        # Systemd keeps encrypted ones in directories of this name (systemd.exec(5)).
        setting = "LoadCredentialEncrypted" if "credstore.encrypted" in Path(path).parts else "LoadCredential"
        # The rest of the line is the path, and quotes would be part of it.
        lines.append(f"{setting}={name}:{_path(path, where).strip(chr(34))}")
    return lines


def credentials_of(job: Job, work: Work) -> Tuple[str, ...]:
    """The names of the credentials by which systemd hands secrets to this work."""
    secrets = [job.heartbeat]
    if work is not Work.ROTATE:
        secrets += [job.login_password, job.passphrase, job.scratch_password]
    return tuple(dict.fromkeys(one.name for one in secrets if one and one.kind is SecretKind.CREDENTIAL))


def _added(options: UnitOptions, where: str) -> Iterator[str]:
    for name, values in options.settings.items():
        for value in values:
            if not _SETTING.fullmatch(name) or "\n" in value:
                raise BadInput(f"{where}: schedule_service_options: {name} is no setting of a service. Correct it.")
            yield f"{name}={value}"


def _local(job: Job) -> List[str]:
    return [target.repository.label for target in job.targets if isinstance(target.repository, LocalRepository)]


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory}/")


def _path(path: str, where: str) -> str:
    """A path as a unit has it (systemd.syntax(7))."""
    if not path.startswith("/") or _UNSAFE.search(path):
        raise BadInput(f"{where}: {path!r} cannot be a path in a unit of systemd. Use an absolute one of usual names.")
    escaped = path.replace("%", "%%")
    return escaped if _PLAIN.fullmatch(path) else f'"{escaped}"'
