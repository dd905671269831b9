# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One verb, one kind of fault, at one call after the other: what must hold after each, whatever the engine."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from typing import Any

import pytest

from injection import Ended, Fault, Mode, moments
from sites import BACKED_UP, KILLED, Site

KILLS = (Fault(Mode.KILL), Fault(Mode.LEADER), Fault(Mode.TEAR), Fault(Mode.SHORT))
FAILURES = (
    Fault(Mode.FAIL, errno.EIO),
    Fault(Mode.FAIL, errno.EINTR),
    Fault(Mode.FAIL, errno.ENOSPC, lasting=True),
    Fault(Mode.FAIL, errno.EDQUOT),
    Fault(Mode.FAIL, errno.EROFS, lasting=True),
)
FAULTS = KILLS + FAILURES


@dataclass(frozen=True)
class Verb:
    """What is run, from which kept site, and what it may change."""

    name: str
    arguments: tuple[str, ...]
    start: str = BACKED_UP
    #: How many backups it may add.
    adds: int = 0
    #: Whether it removes backups, or replaces the database.
    removes: bool = False
    replaces: bool = False
    #: What the audit log calls it.
    action: str = ""


VERBS = (
    Verb("run", ("run", "shop"), adds=1, action="backup"),
    Verb("restore", ("restore", "shop", "--yes", "--replace"), adds=1, replaces=True, action="restore"),
    Verb(
        "restore-keeping",
        ("restore", "shop", "--yes", "--replace", "--keep-replaced", "--no-safety-backup"),
        replaces=True,
        action="restore",
    ),
    Verb("rotate", ("rotate", "shop"), removes=True, action="rotate"),
    Verb("verify", ("verify", "shop", "--level", "restore"), action="verify"),
    Verb("unlock", ("unlock",), start=KILLED),
    # A function of rekeying.py.
    Verb("rekey", ("include_another",), action="rekey"),
)


def sweep(site: Site, verb: Verb, fault: Fault) -> None:
    """Try the fault at the calls of the verb. What broke is named with its call."""
    most = site.most if fault.mode is Mode.KILL else max(1, site.most // 3)
    site.reset(verb.start)
    old, known = site.content(), site.ids()
    calls, new = _sound(site, verb)
    broken = []
    for number in moments(calls, most, FAULTS.index(fault)):
        site.reset(verb.start)
        ended = _run(site, verb, fault=fault, number=number)
        if not ended.call:
            continue
        try:
            _check(site, verb, ended, old, new, known, cleared=number % 2 == 0)
        except AssertionError as error:
            broken.append(
                f"{fault} at call {number}, {ended.call}: {_short(str(error))}; it said {_short(ended.output, 700)}"
            )
    if broken:
        pytest.fail(f"{len(broken)} of {calls} calls:\n" + "\n".join(broken).replace(str(site.root), ""), False)


def _run(site: Site, verb: Verb, **how: Any) -> Ended:
    if verb.name == "rekey":
        return site.call("rekeying", verb.arguments[0], how, root=str(site.root))
    return site.agent(*verb.arguments, **how)


def _sound(site: Site, verb: Verb) -> tuple[int, Any]:
    """How many calls the verb makes where nothing fails, and what the database holds then."""
    if verb not in site.sound:
        clean = _run(site, verb)
        assert clean.status == 0, clean.output
        assert clean.orphans == []
        assert clean.calls > 20
        site.sound[verb] = clean.calls, site.content()
    return site.sound[verb]


def _short(text: str, most: int = 300) -> str:
    """A message in a line; of a traceback its end, and the last place in the engine."""
    if "Traceback" in text:
        places = [line.split("_engine/")[-1] for line in text.splitlines() if "_engine/" in line]
        text = f"{text.strip().splitlines()[-1]} in {places[-1] if places else '?'}"
    return " ".join(text.split())[:most] or "nothing"


def _check(site: Site, verb: Verb, ended: Ended, old: Any, new: Any, known: list[str], cleared: bool) -> None:
    assert ended.orphans == [], "orphans"
    assert "Traceback" not in ended.output
    kept = known[-2:] if verb.removes else known
    site.expect_whole(kept, more=len(known) - len(kept) if verb.removes else verb.adds)
    site.expect_no_plaintext()
    assert site.content() in ((old, new) if verb.replaces else (old,)), "the database is neither old nor new"
    told = [line for line in site.audit() if line["action"] == verb.action]
    if ended.killed and verb.action:
        assert site.traces() or told or not site.changed_since(verb.start), "nothing tells of it"
    elif ended.status == 0 and verb.replaces:
        assert site.content() == new, "it says that it restored"
    if ended.status > 0:
        _expect_explained(ended)
    if cleared and verb.name != "unlock":
        # What the run left is known to unlock, all of it.
        unlocked = site.agent("unlock")
        assert unlocked.status == 0, f"unlock fails: {unlocked.output}"
        assert site.content() in ((old, new) if verb.replaces else (old,)), "after unlock"
    else:
        again = _run(site, verb)
        assert again.status == 0, f"the next run fails: {again.output}"
        assert site.content() == (new if verb.replaces else old), "after the next run"
    site.expect_clean()


def _expect_explained(ended: Ended) -> None:
    """A run that failed says where, why, and what to do."""
    assert not re.search(r"Please report|Errno|\b0x[0-9a-f]{6}", ended.output), "it says what helps nobody"
    assert ended.output.strip(), "it says nothing"
    assert ended.output.rstrip().endswith((".", ")")), "it says no next step"
