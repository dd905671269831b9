# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Retention against the real ``restic forget --dry-run``, on thousands of generated pairs of a timeline and a policy.

A restic repository for each timezone holds all timelines, each as a host of its own, so that one run of ``forget``
answers a policy for all of them. The repositories are written directly, as restic's doc/design.rst describes format
version 1: taking that many backups would take hours.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
from base64 import b64encode
from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Dict, List, Mapping, Tuple

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.poly1305 import Poly1305
from zoneinfo import ZoneInfo

from _engine import retention
from _engine.model import Backup, Manifest, Place, Policy
from _engine.names import make_id

UTC = timezone.utc

#: St. John's used to turn its clocks a minute after midnight, back into the day before. Apia left out 30 December 2011.
#: Lord Howe turns them by half an hour. London keeps UTC itself in winter. India turns none, and is half an hour off.
ZONES = (
    "UTC",
    "Europe/Berlin",
    "Europe/London",
    "America/New_York",
    "America/St_Johns",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Pacific/Apia",
)
TIMELINES = 60
POLICIES = 20

#: The schemes that teams use, and spans that end on both sides of a clock change.
SCHEMES = (
    Policy(hourly=24, daily=30, monthly=12),
    Policy(daily=7, weekly=4, monthly=12),
    Policy(daily=30, weekly=12, monthly=12),
    Policy(last=3),
    Policy(weekly=-1),
    Policy(last=1, within=timedelta(hours=1)),
    Policy(last=1, within=timedelta(days=1)),
    Policy(last=1, within=timedelta(days=7, hours=5)),
    Policy(last=1, within=timedelta(hours=23)),
)
WITHIN_DAYS = (0, 1, 7, 30)
WITHIN_HOURS = (0, 1, 5, 23)


# A restic repository, written by hand.


class ResticKey:
    """A key as restic has them: AES-256 in counter mode, and Poly1305-AES over what that gives."""

    def __init__(self, encrypt: bytes, mac: bytes) -> None:
        self._encrypt, self._k = encrypt, mac[:16]
        # The bits that Poly1305 clears in its key; restic wants them cleared in what is stored, too.
        mask = bytes.fromhex("ffffff0ffcffff0ffcffff0ffcffff0f")
        self._r = bytes(have & may for have, may in zip(mac[16:], mask))

    def seal(self, plain: bytes) -> bytes:
        nonce = os.urandom(16)
        stream = Cipher(algorithms.AES(self._encrypt), modes.CTR(nonce)).encryptor()
        sealed = stream.update(plain) + stream.finalize()
        block = Cipher(algorithms.AES(self._k), modes.ECB()).encryptor()
        return nonce + sealed + Poly1305.generate_tag(self._r + block.update(nonce), sealed)

    def to_json(self) -> bytes:
        mac = {"k": b64encode(self._k).decode(), "r": b64encode(self._r).decode()}
        return json.dumps({"mac": mac, "encrypt": b64encode(self._encrypt).decode()}).encode()


class ResticRepository:
    """A restic repository in a directory of its own, to which snapshots of nothing can be added."""

    password = "no secret"

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("data", "index", "keys", "locks", "snapshots"):
            (path / name).mkdir(parents=True)
        self._master = ResticKey(os.urandom(32), os.urandom(32))
        config = {"version": 1, "id": os.urandom(32).hex(), "chunker_polynomial": "25b468838dcb75"}
        (path / "config").write_bytes(self._master.seal(json.dumps(config).encode()))
        # restic derives the key anew at every start: the cheapest parameters that it takes save most of the time.
        salt, n, r, p = os.urandom(64), 2, 1, 1
        derived = Scrypt(salt=salt, length=64, n=n, r=r, p=p).derive(self.password.encode())
        data = ResticKey(derived[:32], derived[32:]).seal(self._master.to_json())
        key = {"kdf": "scrypt", "N": n, "r": r, "p": p, "created": "2024-01-01T00:00:00Z"}
        key.update(salt=b64encode(salt).decode(), data=b64encode(data).decode())
        self._store("keys", json.dumps(key).encode())

    def add_snapshot(self, host: str, local: datetime) -> str:
        """Add a snapshot and return its id. restic counts by the clock of ``local``, offset and all."""
        fields = {"time": local.isoformat(), "tree": None, "paths": ["/"], "hostname": host}
        return self._store("snapshots", self._master.seal(json.dumps(fields).encode()))

    def _store(self, directory: str, content: bytes) -> str:
        name = hashlib.sha256(content).hexdigest()
        (self.path / directory / name).write_bytes(content)
        return name


@dataclass(frozen=True)
class Restic:
    """The installed restic, and where its releases differ in what they keep."""

    program: str
    release: Tuple[int, ...]

    @property
    def keeps_oldest(self) -> bool:
        """Whether the oldest snapshot stays while a count is not used up. Release 0.16 also made -1 mean all."""
        return self.release >= (0, 16)

    @property
    def names_oldest(self) -> bool:
        """Whether the reason says that it is the oldest one."""
        return self.release >= (0, 18)

    def forget(self, repository: ResticRepository, policy: Policy) -> List[Dict[str, Any]]:
        """What ``forget`` would do, a group for each host."""
        unlimited = "unlimited" if self.keeps_oldest else "1000000"
        counts = [(name, unlimited if count == -1 else count) for name, count in policy.counts.items() if count]
        options = [f"--keep-{name}={count}" for name, count in counts]
        if policy.within is not None:
            options.append(f"--keep-within={policy.within.days}d{policy.within.seconds // 3600}h")
        environment = {
            "HOME": str(repository.path),
            "RESTIC_REPOSITORY": str(repository.path),
            "RESTIC_PASSWORD": repository.password,
            "TZ": policy.timezone,
        }
        command = [self.program, "forget", "--dry-run", "--json", "--no-lock", "--no-cache", "--group-by=host"]
        done = subprocess.run([*command, *options], env=environment, stdout=subprocess.PIPE, check=True)
        groups: List[Dict[str, Any]] = json.loads(done.stdout)
        return groups

    def reasons(self, group: Mapping[str, Any], taken: Mapping[str, datetime], within: bool) -> Dict[str, List[str]]:
        """Why each snapshot of a group stays, by its id, as ``daily``, ``oldest daily`` or ``within``; empty: it goes.

        ``taken`` has the times of the snapshots by their ids, ``within`` says whether the policy has such a rule.
        """
        found: Dict[str, List[str]] = {snapshot["id"]: [] for snapshot in group["remove"] or ()}
        for snapshot, kept in zip(group["keep"], group["reasons"]):
            matches = [match.replace(" snapshot", "") for match in kept["matches"]]
            found[snapshot["id"]] = ["within" if match.startswith("within") else match for match in matches]
        if not self.keeps_oldest:
            # What this release reports as left of its counts is what later ones spend on the oldest snapshot.
            ends = [*(group["remove"] or ())[-1:], group["keep"][-1]]
            oldest = found[min((snapshot["id"] for snapshot in ends), key=taken.__getitem__)]
            left = group["reasons"][-1]["counters"]
            oldest.extend(f"oldest {name}" for name in left if name not in oldest)
        # Counted back to a time that clocks skip or show twice, a short span can end at the newest snapshot or after
        # it, and restic then has not even that one within the span. The plan always has.
        newest = max(taken[name] for name in found)
        for name, reasons in found.items():
            if within and taken[name] == newest and "within" not in reasons:
                reasons.append("within")
        return found


# Timelines, newest backup first or in any order.

Timeline = List[datetime]


def clock_changes(zone: ZoneInfo) -> List[datetime]:
    """The minutes of four years at which clocks are turned; where nobody does that, some ordinary hours."""

    def offset(moment: datetime) -> Any:
        return moment.astimezone(zone).utcoffset()

    found = []
    for year in (2005, 2011, 2019, 2024):
        for hour in range(366 * 24):
            moment = datetime(year, 1, 1, tzinfo=UTC) + timedelta(hours=hour)
            if offset(moment) != offset(moment + timedelta(hours=1)):
                minutes = (moment + timedelta(minutes=minute) for minute in range(1, 61))
                found.append(next(minute for minute in minutes if offset(minute) != offset(moment)))
    return found or [datetime(2019, 3, 31, 1, tzinfo=UTC), datetime(2024, 12, 30, tzinfo=UTC)]


def regular(rng: random.Random, newest: datetime, change: datetime, zone: ZoneInfo) -> Timeline:
    """Half-hourly to yearly, started a little late each time."""
    step = timedelta(hours=rng.choice((0.5, 1, 6, 24, 24 * 7, 24 * 30, 24 * 365)))
    count = rng.randint(1, 80) if step.days < 365 else rng.randint(1, 20)
    return [newest - step * number + step * rng.uniform(0, 0.05) for number in range(count)]


def irregular(rng: random.Random, newest: datetime, change: datetime, zone: ZoneInfo) -> Timeline:
    """Gaps from a second to half a year, as when people press a button."""
    found = [newest]
    while len(found) < rng.randint(1, 80) and found[-1].year > 1990:
        found.append(found[-1] - timedelta(seconds=round(10 ** rng.uniform(0, 7.2))))
    return found


def bursts(rng: random.Random, newest: datetime, change: datetime, zone: ZoneInfo) -> Timeline:
    """Several within one second, some at the very same moment."""
    seconds = irregular(rng, newest.replace(microsecond=0), change, zone)[:15]
    return [
        second + timedelta(microseconds=rng.choice((0, 1, 250_000, rng.randrange(1_000_000))))
        for second in seconds
        for _number in range(rng.randint(1, 6))
    ]


def across_a_clock_change(rng: random.Random, newest: datetime, change: datetime, zone: ZoneInfo) -> Timeline:
    """Every few minutes of the hours, or every few hours of the days, before and after clocks are turned."""
    step = timedelta(minutes=rng.choice((7, 10, 30, 60, 360)))
    return [change + step * number for number in range(-rng.randint(1, 30), rng.randint(1, 30))]


def at_the_limit(rng: random.Random, newest: datetime, change: datetime, zone: ZoneInfo) -> Timeline:
    """A newest backup from which a span counts back into the hours in which clocks are turned, and backups there."""
    limit = (change + timedelta(minutes=10 * rng.randint(-12, 12))).astimezone(zone)
    last = (limit + timedelta(days=rng.choice(WITHIN_DAYS))).astimezone(UTC) + timedelta(hours=rng.choice(WITHIN_HOURS))
    minutes = [change + timedelta(minutes=10 * number) for number in range(-30, 30)]
    found = [minute + timedelta(microseconds=rng.choice((-1, 0, 0, 1))) for minute in minutes]
    return [last, *(moment for moment in found if moment < last)]


KINDS = (regular, irregular, bursts, across_a_clock_change, at_the_limit)


def timelines(rng: random.Random, zone: ZoneInfo) -> List[List[Backup]]:
    """As many timelines as there are to be, of all kinds."""
    changes = clock_changes(zone)
    found = []
    for number in range(TIMELINES):
        newest = datetime(2006, 1, 1, tzinfo=UTC) + timedelta(seconds=rng.randrange(18 * 365 * 86400))
        moments = KINDS[number % len(KINDS)](rng, newest, rng.choice(changes), zone)
        found.append([backup_at(moment, position) for position, moment in enumerate(moments, 1)])
    return found


def backup_at(moment: datetime, number: int) -> Backup:
    name = make_id("shop", moment, number)
    manifest = Manifest(name, "host", "sqlite", "shop", started=moment, finished=moment, artefacts=())
    return Backup(Place("host", "sqlite", "shop"), manifest)


def policies(rng: random.Random, zone: str) -> List[Policy]:
    """The known schemes, then generated ones; none has a rule that restic does not know."""
    found = list(SCHEMES)
    while len(found) < POLICIES:
        counts = {name: rng.choice((1, 2, 3, 5, 12, 30, -1)) for name in Policy().counts if rng.random() < 0.4}
        span = timedelta(days=rng.choice(WITHIN_DAYS), hours=rng.choice(WITHIN_HOURS))
        # Never a span alone: where that keeps nothing, newer releases of restic fail for all timelines.
        if counts:
            found.append(Policy(within=span if span and rng.random() < 0.4 else None, **counts))
    return [replace(policy, timezone=zone, minimum_keep=0, protect_proven=False) for policy in found]


# The comparison.


def our_reasons(backups: List[Backup], policy: Policy, restic: Restic) -> Dict[str, List[str]]:
    """Why each backup stays, by its id, in the words of ``Restic.reasons``."""
    found = {}
    for decision in retention.plan(backups, policy, datetime.now(UTC)):
        reasons = decision.reasons if decision.keep else ()
        oldest = r"oldest \1" if restic.names_oldest or not restic.keeps_oldest else r"\1"
        words = [re.sub(r"oldest backup while (\w+) has counts left", oldest, reason) for reason in reasons]
        found[decision.backup.id] = ["within" if word.startswith("within") else word for word in words]
    return found


def disagreement(backups: List[Backup], policy: Policy, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """The policy, and line by line the timeline with both answers."""
    lines = [f"{policy}", f"{'taken':36}{'restic forget':40}plan"]
    for backup in sorted(backups, key=lambda backup: backup.time, reverse=True):
        answers = [", ".join(answer[backup.id]) or "-" for answer in (theirs, ours)]
        local = backup.time.astimezone(ZoneInfo(policy.timezone)).isoformat()
        lines.append(f"{local:36}{answers[0]:40}{answers[1]}" + ("" if answers[0] == answers[1] else "   <<<"))
    return "\n".join(lines)


def by_time(backups: List[Backup], reasons: Mapping[str, List[str]]) -> Counter[Tuple[datetime, Tuple[str, ...]]]:
    """Answers without names: of backups from the very same moment, restic takes any for the newer one."""
    return Counter((backup.time, tuple(sorted(reasons[backup.id]))) for backup in backups)


@pytest.fixture(scope="module")
def restic() -> Restic:
    program = shutil.which("restic")
    if program is None:
        pytest.fail("restic is not installed, so nothing was compared. Install the Debian package restic.")
    said = subprocess.run([program, "version"], stdout=subprocess.PIPE, check=True).stdout.decode()
    found = re.match(r"restic (\d+)\.(\d+)", said)
    assert found, said
    return Restic(program, tuple(int(number) for number in found.groups()))


@pytest.mark.parametrize("zone", ZONES)
def test_plan_keeps_what_restic_forget_keeps_and_for_the_same_reasons(
    restic: Restic, tmp_path: Path, zone: str
) -> None:
    rng = random.Random(f"retention in {zone}")
    repository = ResticRepository(tmp_path / "restic")
    generated = timelines(rng, ZoneInfo(zone))
    backup_of = {
        repository.add_snapshot(str(number), backup.time.astimezone(ZoneInfo(zone))): backup
        for number, backups in enumerate(generated)
        for backup in backups
    }
    taken = {name: backup.time for name, backup in backup_of.items()}
    answers: Counter[str] = Counter()
    pairs = 0
    for policy in policies(rng, zone):
        for group in restic.forget(repository, policy):
            backups = generated[int(group["host"])]
            ours = our_reasons(backups, policy, restic)
            said = restic.reasons(group, taken, policy.within is not None)
            theirs = {backup_of[name].id: reasons for name, reasons in said.items()}
            if by_time(backups, ours) != by_time(backups, theirs):
                pytest.fail(disagreement(backups, policy, ours, theirs))
            answers.update(word for reasons in ours.values() for word in reasons or ["removed"])
            pairs += 1
    assert pairs == TIMELINES * POLICIES
    # Every answer was given often enough to have been compared.
    assert min(answers[word] for word in ("removed", "within", *Policy().counts)) > 100, answers
