# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The restore as a conversation: which job, which backup, with which key, and whether that is really meant.

It decides nothing that the options of the command could not say, and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import List, Optional, Sequence, Tuple, Union

from ...catalogue import in_future, place_of, read_place
from ...errors import BadInput, EngineError, NoKey, NotFound, PermissionDenied, Refused, WrongKey
from ...model import Backup, Database, Encryption, EngineName
from ...repositories.base import Repository
from ...state import Host
from ...timespan import format_size, format_time
from ..config.given import GivenKeys, identity_at
from ..config.jobs import Job
from ..work.restoring import Prospect, RestoreOptions, prospect_of, repositories_of
from .facts import age_of, brief_proof_of, facts, proof_of, safety_of, time_of
from .printing import table
from .selection import Selection
from .terminal import ask, ask_secret, count_down, say, say_line

#: So many backups are shown at once; the older ones when somebody asks for them.
_SHOWN = 20
_TRIES = 3
_SECONDS = 5


@dataclass(frozen=True)
class _Offer:
    """A backup in one repository. One without a number can be had only by its id."""

    number: Optional[int]
    backup: Backup
    repository: Repository


def choose_job(selection: Selection) -> Job:
    """Which job. Raises Interrupted, and NotFound where there is none."""
    for broken in selection.broken:
        say_line(str(broken.error))
    if not selection.jobs:
        raise NotFound("This host has no job that can be used. Deploy the jobs of this host first.")
    rows = [
        (str(number), job.name, job.database.engine.value, job.database.name) for number, job in _counted(selection)
    ]
    say(table(("", "JOB", "ENGINE", "DATABASE"), rows, right=(0,)))
    known = {**{str(number): job for number, job in _counted(selection)}, **{job.name: job for job in selection.jobs}}
    while True:
        answer = ask("Restore which job (its number or name; q ends this)? ")
        if answer in known:
            return known[answer]
        say_line(f"There is no job {answer!r}.")


def choose_backup(job: Job, options: RestoreOptions, host: Host) -> RestoreOptions:
    """Which backup, of those of the repositories that are meant. Raises Interrupted, and NotFound."""
    offers = _offers(job, options, host)
    if not offers:
        raise NotFound(f"There is no backup of job {job.name}. See with fleet-backup list which ones there are.")
    shown = _SHOWN
    _show(offers[:shown], host)
    while True:
        older = f", a for {len(offers) - shown} older ones" if len(offers) > shown else ""
        answer = ask(f"Restore which backup (its number or id{older}; q ends this)? ")
        if older and answer == "a":
            shown = len(offers)
            _show(offers, host)
            continue
        for offer in offers:
            if answer and answer in (str(offer.number), offer.backup.id):
                return replace(options, backup=offer.backup.id, repository=offer.repository.label)
        say(f"There is no backup {answer!r} here.\n" if answer else "")


def agree(job: Job, options: RestoreOptions, host: Host) -> Tuple[Prospect, RestoreOptions]:
    """What would be done, shown; asks for a key where one is needed. What exists may be replaced: that is asked next.

    Raises Interrupted, and what the restore would raise.
    """
    options = replace(options, replace=True)
    if job.backup.encryption.method is Encryption.GPG and not job.has_keys and not options.given:
        options = replace(options, given=_ask_key(job))
    found = _attempt(job, options, host)
    tries = 1
    while isinstance(found, EngineError):
        if tries == _TRIES:
            raise found
        say_line(str(found))
        options = replace(options, given=_ask_key(job))
        found = _attempt(job, options, host)
        tries += 1
    say(_plan_text(job, found, host))
    # What is agreed on is this backup, whatever is taken meanwhile.
    plan = found.plan
    return found, replace(options, backup=plan.backup.id, before=None, repository=plan.repository.label)


def confirm(prospect: Prospect) -> None:
    """Have the database's name typed, and let time pass. Raises Interrupted, and Refused for another name."""
    name = _spoken_name(prospect.request.database)
    does = "replace" if prospect.plan.replaces else "make"
    typed = ask(f'To {does} it, type the name of the database, "{name}": ')
    if typed != name:
        raise Refused(f'"{typed}" is not "{name}". Nothing was changed.')
    count_down(_SECONDS, "The restore begins.")


def _attempt(job: Job, options: RestoreOptions, host: Host) -> Union[Prospect, EngineError]:
    """What would be done, or why no key opens the backup. It is returned: while an error is dealt with, no signal comes
    through (see ``interrupts``), and the next question could not be left."""
    try:
        return prospect_of(job, options, host)
    except (NoKey, WrongKey) as error:
        return error


def _counted(selection: Selection) -> Sequence[Tuple[int, Job]]:
    return tuple(enumerate(selection.jobs, 1))


def _offers(job: Job, options: RestoreOptions, host: Host) -> List[_Offer]:
    """What there is, newest first, numbered but for what must not be counted on."""
    database = replace(job.database, name=options.source_database or job.database.name)
    encryption = job.accepting(options.accepted).backup.encryption
    place = place_of(options.source_host or job.backup.source_host, database)
    found: List[Tuple[Backup, Repository]] = []
    for repository in repositories_of(job, options.repository):
        try:
            repository.check(writing=False)
            found += [(backup, repository) for backup in read_place(host, repository, place).backups]
        except EngineError as error:
            say_line(str(error))
    found.sort(key=lambda item: (item[0].time, item[0].id), reverse=True)
    offers: List[_Offer] = []
    number = 0
    for backup, repository in found:
        bad = backup.known_bad is not None or backup.foreign or in_future(backup, host.now())
        usable = not bad and encryption.accepts(backup.manifest)
        number += usable
        offers.append(_Offer(number if usable else None, backup, repository))
    return offers


def _show(offers: Sequence[_Offer], host: Host) -> None:
    now = host.now()
    rows = [
        (
            str(offer.number or "-"),
            offer.backup.id,
            age_of(offer.backup, now),
            format_size(offer.backup.manifest.bytes),
            offer.backup.manifest.tier or "-",
            offer.repository.label,
            brief_proof_of(offer.backup),
        )
        for offer in offers
    ]
    say(table(("", "BACKUP", "AGE", "SIZE", "TIER", "REPOSITORY", "PROOF"), rows, right=(0, 2, 3)))
    if any(offer.number is None for offer in offers):
        say(
            "Those without a number are known to be bad, dated in the future, or not encrypted as the job says; "
            "name one by its id to choose it.\n"
        )


def _ask_key(job: Job) -> GivenKeys:
    """A key, asked for. Raises Interrupted."""
    own_ring = job.backup.encryption.method is Encryption.GPG
    while True:
        path = ask("Path of the private key's file (Enter where a passphrase opens it): ")
        try:
            identities = (identity_at(path),) if path else ()
        except (BadInput, PermissionDenied) as error:
            say_line(str(error))
            continue
        if identities and not own_ring:
            return GivenKeys(identities)
        # A private key of gpg can have a passphrase itself, and so can one in the account's own keyring.
        passphrase = ask_secret("Passphrase (Enter for none): " if own_ring else "Passphrase: ")
        if passphrase or own_ring:
            return GivenKeys(identities, passphrase or None)


def _plan_text(job: Job, prospect: Prospect, host: Host) -> str:
    plan, request = prospect.plan, prospect.request
    manifest = plan.backup.manifest
    rows = [
        ("backup", plan.backup.id),
        ("", f"of {format_time(plan.backup.time)}, {age_of(plan.backup, host.now())} old, {proof_of(plan.backup)}"),
        ("repository", plan.repository.label),
        ("into", _target_text(prospect)),
        ("space", f"about {format_size(manifest.main.plain_bytes)} beside it"),
        ("time", time_of(plan.expected_seconds)),
        ("safety", safety_of(plan.replaces, prospect.saves, plan.repository.label)),
    ]
    rows += [
        ("stops", _service_text(service.unit, service.running, service.installed)) for service in prospect.services
    ]
    rows += [("before", " ".join(words)) for words in job.surroundings.before]
    rows += [("after", " ".join(words)) for words in job.surroundings.after]
    warnings = "".join(f"{warning}\n" for warning in plan.warnings)
    owner = [("owner", request.owner)] if request.owner else []
    return f"\n{facts([*rows, *owner])}{warnings}\n"


def _target_text(prospect: Prospect) -> str:
    name = prospect.request.database.name
    if not prospect.plan.replaces:
        return f"{name}, which does not exist"
    kept = "REPLACED, and kept under another name" if prospect.request.keep_replaced else "REPLACED"
    return f"{name}, which exists ({format_size(prospect.plan.target.bytes)}) and will be {kept}"


def _service_text(unit: str, running: bool, installed: bool) -> str:
    if not installed:
        return f"{unit}: is not installed, so left alone"
    return f"{unit}, and starts it again" if running else f"{unit}: does not run, so left alone"


def _spoken_name(database: Database) -> str:
    """What is to be typed: for a file its name without the way to it, which nobody types by heart."""
    return Path(database.name).name if database.engine is EngineName.SQLITE else database.name
