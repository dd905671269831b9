# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What follows when a job has ended: who is to be told, telling them, and saying in the report what could not be told.

Nothing here fails or delays the work: messages are sent by threads beside it, wait in the outbox when they cannot be,
and whatever goes wrong becomes a warning of the report and a line of the audit log.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from typing import Dict, List, Optional, Sequence, Tuple

from ...catalogue import place_of, read_place
from ...errors import EngineError, Interrupted, Stopped
from ...host.unexpected import explained
from ...interrupts import interruptible
from ...state import Host, audit, locked
from ..config.jobs import Job, Target
from ..config.secrets import SecretSource
from ..config.settings import Settings
from ..notifications.base import Route
from ..notifications.courier import Courier, Parcel
from ..notifications.events import Event, Kind, LastGood
from ..notifications.heartbeat import Heartbeat
from ..notifications.memory import Memory, decide, path_of, recall, remember
from ..notifications.outbox import Letter, and_more, note_failure, post, take
from ..notifications.reading import Channels, read_channels
from ..notifications.web import Address
from .apart import look
from .running import Report

#: How long the end of a command waits for all messages that are on their way, in seconds.
_PATIENCE = 15.0
#: How long a signal waits for what is being sent, in seconds.
_GRACE = 1.0
#: How long another run of the same job may take to decide what it tells, in seconds.
_LOCK_TIMEOUT = 5.0
#: How many channels that are gone a warning names.
_NAMED = 5
_NEVER = datetime.min.replace(tzinfo=timezone.utc)


def conclude(job: Optional[Job], report: Report, settings: Settings) -> Report:
    """Tell how one job ended; its report, with warnings of what could not be told. Not for dry runs.

    ``job`` is None where it could not be read. Raises nothing that the engine explains.
    """
    with Concluding(settings) as concluding:
        return concluding.deliver([concluding.conclude(job, report)])[0]


class Concluding:
    """The notifications of one command, which may be about several jobs.

    ``begin`` before each job's work, ``conclude`` after it, and at the end ``deliver``, which waits for what is on its
    way. A dry run uses none of it.
    """

    def __init__(self, settings: Settings) -> None:
        self._host = settings.host
        self._channels = read_channels(settings.notifications)
        self._couriers: Dict[str, Courier] = {}
        #: What concerns no job in particular.
        self._warnings: List[str] = []
        #: Whether somebody would not wait for what is on its way.
        self._interrupted = False

    def __enter__(self) -> Concluding:
        """Send what waits in the outbox, beside the work."""
        try:
            self._send_what_waits()
        except Exception as error:
            self._warn("outbox", _unforeseen("Looking into the outbox", error), self._warnings)
        return self

    def _send_what_waits(self) -> None:
        letters, given_up = take(self._host.state, self._host.now())
        routes = {route.name: route for route in self._channels.routes}
        gone: List[Letter] = []
        for letter in letters:
            if letter.channel in routes:
                self._courier(routes[letter.channel]).hand(Parcel(letter.event, letter))
            elif letter.channel in self._channels.names or self._channels.problems:
                # The channel is there, or may be, and cannot be used today.
                letter.kept()
            else:
                letter.sent()
                gone.append(letter)
        if gone:
            named = ", ".join(sorted({letter.channel for letter in gone})[:_NAMED])
            given_up.append(f"'{gone[-1].event.subject}'{and_more(gone)} was for a channel that is gone: {named}.")
        for sentence in given_up:
            self._warn("outbox", sentence, self._warnings)

    def __exit__(self, *_exception: object) -> None:
        for courier in self._couriers.values():
            courier.end()

    def begin(self, job: Job, verb: str) -> None:
        """Tell those who wait for a backup that it begins."""
        event = Event(Kind.START, self._host.name, job.name, verb, self._host.now())
        for route in self._heartbeats(job, job.name, verb):
            self._courier(route).hand(Parcel(event))

    def conclude(self, job: Optional[Job], report: Report) -> Report:
        """Decide who is to be told, and begin to. What is on its way survives the end of this process."""
        try:
            return self._conclude(job, report)
        except Exception as error:
            # What follows one job must not keep the next one from being done.
            return replace(report, warnings=(*report.warnings, _unforeseen(f"Notifying about {report.job}", error)))

    def _conclude(self, job: Optional[Job], report: Report) -> Report:
        now = self._host.now()
        kind = Kind.SUCCESS if report.error is None else Kind.FAILURE
        event = Event(
            kind, self._host.name, report.job, report.verb, now, report.text, report.error, causes=report.causes
        )
        for route in self._heartbeats(job, report.job, report.verb):
            self._courier(route).hand(Parcel(event))
        warnings = [*self._channels.problems, *self._unknown_names(job)]
        routes = [
            route for route in self._channels.routes if not route.channel.heartbeat and _hears(route, job, report.job)
        ]
        if routes:
            self._tell(routes, job, event, warnings)
        return replace(report, warnings=(*report.warnings, *warnings))

    def deliver(self, reports: Sequence[Report]) -> List[Report]:
        """Wait for what is on its way, for a bounded time; the reports, with warnings of what did not arrive."""
        self.__exit__()
        deadline = time.monotonic() + _PATIENCE
        try:
            with interruptible():
                for courier in self._couriers.values():
                    courier.wait(deadline)
        except Interrupted:
            # What was to be done is done; messages that are not sent yet wait for the next run. One that is being sent
            # right now would come twice.
            self._interrupted = True
            deadline = time.monotonic() + _GRACE
            for courier in self._couriers.values():
                courier.wait(deadline)
        concluded = list(reports)
        for courier in self._couriers.values():
            concluded = self._account(courier, concluded)
        if self._warnings and concluded:
            concluded[0] = replace(concluded[0], warnings=(*concluded[0].warnings, *self._warnings))
        return concluded

    def _tell(self, routes: Sequence[Route], job: Optional[Job], event: Event, warnings: List[str]) -> None:
        path = path_of(self._host.state, event.job, event.verb)
        parcels: Optional[List[Tuple[Route, Parcel]]] = None
        try:
            with locked(self._host, f"notify/{event.job}.{event.verb}", _LOCK_TIMEOUT):
                before = recall(path)
                parcels, memory = self._decide(before, routes, job, event, warnings)
                if memory != before:
                    remember(path, memory)
        except EngineError as error:
            # To be told twice is better than not to be told.
            self._warn("state", f"What was told of {event.job} is not remembered, and is told again: {error}", warnings)
            if parcels is None:
                parcels, _memory = self._decide(Memory(), routes, job, event, warnings)
        for route, parcel in parcels:
            self._courier(route).hand(parcel)

    def _decide(
        self, memory: Memory, routes: Sequence[Route], job: Optional[Job], event: Event, warnings: List[str]
    ) -> Tuple[List[Tuple[Route, Parcel]], Memory]:
        """What is to be sent, put into the outbox already, and what is to be remembered."""
        began = memory.since or event.time
        memory = replace(memory, since=began if event.error else None)
        wanted: List[Tuple[Route, Kind]] = []
        for route in routes:
            kind, memory = decide(memory, route, event.reasons, event.time)
            wanted += [(route, kind)] if kind else []
        kinds = {kind for _route, kind in wanted}
        good = self._last_good(job) if Kind.FAILURE in kinds else None
        parcels: List[Tuple[Route, Parcel]] = []
        for route, kind in wanted:
            told = replace(event, kind=kind, since=None if kind is Kind.SUCCESS else began, last_good=good)
            letter: Optional[Letter] = None
            try:
                letter = post(self._host, route.name, told)
            except EngineError as error:
                self._warn(route.name, f"A message to {route.name} is sent once and not kept: {error}", warnings)
            parcels.append((route, Parcel(told, letter)))
        return parcels, memory

    def _last_good(self, job: Optional[Job]) -> LastGood:
        """The newest good backup in any repository of a job."""
        if job is None:
            return LastGood(unknown="the job cannot be read")
        found: List[LastGood] = []
        unknown = ""
        for target in job.targets:
            try:
                good = look(target.repository, partial(_newest_good, job, target, self._host), patient=True)
                found += [LastGood(name, datetime.fromtimestamp(seconds, timezone.utc)) for name, seconds in good]
            except (EngineError, Stopped) as error:
                unknown = str(error)
        newest = max(found, key=lambda one: one.time or _NEVER, default=None)
        return newest or LastGood(unknown=unknown)

    def _heartbeats(self, job: Optional[Job], name: str, verb: str) -> List[Route]:
        """Those who wait for a job's backup; a rotation that went well is no backup."""
        if verb != "backup":
            return []
        routes = [route for route in self._channels.routes if route.channel.heartbeat and _hears(route, job, name)]
        if job is not None and job.heartbeat is not None:
            routes.append(own_heartbeat(job.name, job.heartbeat))
        return routes

    def _unknown_names(self, job: Optional[Job]) -> List[str]:
        return unknown_channels(job, self._channels) if job is not None else []

    def _courier(self, route: Route) -> Courier:
        if route.name not in self._couriers:
            self._couriers[route.name] = Courier(route.name, route.channel)
        return self._couriers[route.name]

    def _account(self, courier: Courier, reports: Sequence[Report]) -> List[Report]:
        """Add what a channel could not send to the reports that it was about, to the audit log, and for ``status``."""
        failed = [parcel for parcel in list(courier.parcels) if parcel.failure or not parcel.done]
        if self._interrupted and failed and not any(parcel.failure for parcel in failed):
            # Whether the channel can be reached is not known.
            sentence = "Sending notifications was interrupted; the next run sends what is left."
            self._warnings += [] if sentence in self._warnings else [sentence]
            return list(reports)
        if not failed:
            if not courier.channel.heartbeat:
                self._note(courier.name, None)
            return list(reports)
        reason = next((parcel.failure for parcel in failed if parcel.failure), None) or (
            f"channel {courier.name}: it took longer than {_PATIENCE:g} s. See what keeps the receiver busy."
        )
        if not courier.channel.heartbeat:
            self._note(courier.name, reason)
            kept = sum(parcel.letter is not None and parcel.letter.path.exists() for parcel in failed)
            reason += f" {kept} messages wait for the next run." if kept > 1 else ""
            reason += " The message waits for the next run." if kept == 1 else ""
        about = {(parcel.event.job, parcel.event.verb) for parcel in failed}
        concerned = [report for report in reports if (report.job, report.verb) in about]
        self._warn(courier.name, reason, [] if concerned else self._warnings)
        return [
            replace(report, warnings=(*report.warnings, reason)) if report in concerned else report
            for report in reports
        ]

    def _note(self, channel: str, reason: Optional[str]) -> None:
        """Keep for ``status`` whether a channel can be reached."""
        try:
            note_failure(self._host.state, channel, reason, self._host.now())
        except EngineError as error:
            self._warnings.append(str(error))

    def _warn(self, channel: str, sentence: str, warnings: List[str]) -> None:
        """Keep a warning, and have it in the audit log too."""
        warnings.append(sentence)
        try:
            audit(self._host, "notify", channel, "failed", {"reason": sentence})
        except EngineError as error:
            if str(error) not in self._warnings:
                self._warnings.append(str(error))


def _unforeseen(what: str, error: Exception) -> str:
    return str(explained(error, what))


def _newest_good(job: Job, target: Target, host: Host) -> List[Tuple[str, float]]:
    """The id and the time of the newest good backup in a repository, where there is one."""
    target.repository.check(writing=False)
    good = read_place(host, target.repository, place_of(job.backup.source_host, job.database)).good
    return [(backup.id, backup.time.timestamp()) for backup in good[-1:]]


def own_heartbeat(job: str, url: SecretSource) -> Route:
    """The heartbeat that a job itself names."""
    label = f"{job}: heartbeat"
    return Route(label, Heartbeat(Address(url, label)), jobs=frozenset({job}))


def unknown_channels(job: Job, channels: Channels) -> List[str]:
    """What is wrong with the channels that a job names, in sentences."""
    known = ", ".join(channels.names) or "none"
    return [
        f'notifications: there is no channel "{name}" on this host. The channels: {known}.'
        for name in job.notifications or ()
        if name not in channels.names
    ]


def _hears(route: Route, job: Optional[Job], name: str) -> bool:
    return route.hears(name, None if job is None else job.notifications)
