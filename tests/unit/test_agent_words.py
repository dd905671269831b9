# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the agent's command says of itself: its manual page, the completion of its words, and its line of progress."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import pytest

from _engine.agent.config.given import GivenKeys
from _engine.agent.config.jobs import is_unit
from _engine.agent.console import progress
from _engine.agent.console.completing import Knowledge, candidates
from _engine.agent.console.exits import Exit
from _engine.agent.console.manual import commands_of, options_of, page
from _engine.agent.console.progress import line_of
from _engine.agent.parser import whole_parser
from _engine.model import Encryption, EncryptionSettings
from _engine.state import Host

ROOT = Path(__file__).resolve().parents[2]


def jobs(_config: Optional[str]) -> Sequence[str]:
    return ["shop", "stock"]


def backups(_config: Optional[str], job: str) -> Sequence[str]:
    return [f"{job}-20260301T020000Z-h3k7"]


def labels(_config: Optional[str], _job: str) -> Sequence[str]:
    return ["/srv/backups"]


KNOWLEDGE = Knowledge(jobs, backups, labels)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("fleet-backup res|", ["restore"]),
        ("fleet-backup --v|", ["--version"]),
        ("fleet-backup config |", ["check"]),
        ("fleet-backup run s|", ["shop", "stock"]),
        ("fleet-backup run shop |", ["stock"]),
        ("fleet-backup show |", ["shop", "stock"]),
        ("fleet-backup show shop |", []),
        ("fleet-backup restore shop --backup |", ["latest", "shop-20260301T020000Z-h3k7"]),
        ("fleet-backup restore shop --backup = s|", ["shop-20260301T020000Z-h3k7"]),
        ("fleet-backup restore --replace stock --backup st|", ["stock-20260301T020000Z-h3k7"]),
        ("fleet-backup restore shop --repository |", ["/srv/backups"]),
        ("fleet-backup restore shop --identity |", []),
        ("fleet-backup restore shop --into x --re|", ["--repository", "--replace"]),
        ("fleet-backup restore shop --replace --re|", ["--repository"]),
        ("fleet-backup restore --identity a --id|", ["--identity"]),
        ("fleet-backup completion |", ["bash", "zsh", "words"]),
        ("fleet-backup nothing |", None),
    ],
)
def test_what_can_stand_at_the_cursor_is_offered(line: str, found: Optional[List[str]]) -> None:
    words = line.rstrip("|").split(" ")
    offered = candidates(whole_parser(), words, len(words) - 1, KNOWLEDGE)
    assert offered == (list(commands_of(whole_parser()).choices) if found is None else found)


def test_the_manual_names_every_command_and_every_option_with_what_it_does() -> None:
    text = page(whole_parser()).replace("\\-", "-")
    for name, command in commands_of(whole_parser()).choices.items():
        (section,) = re.findall(f'^\\.SS "{name}"$(.*?)(?=^\\.S[SH] )', text, re.MULTILINE | re.DOTALL)
        for action in options_of(command):
            assert action.help and "%(" not in action.help, f"{name}: {action.dest} says nothing, or in argparse's way"
            for option in action.option_strings or [str(action.metavar or "")]:
                assert option in section, f"{name}: {option}"
    for status in Exit:
        assert re.search(f"^\\.B {status.value}$", text, re.MULTILINE), status


def pythons() -> List[str]:
    """This Python, and the oldest and the newest one that hosts have, where this machine has them."""
    found = [sys.executable]
    for version in ("3.8", "3.13"):
        done = subprocess.run(
            [str(ROOT / "tools" / "python"), "--quiet", version], stdout=subprocess.PIPE, text=True, check=False
        )
        found += done.stdout.split()
    return found


@pytest.mark.once
def test_the_manual_is_the_same_on_every_python() -> None:
    program = "import sys; sys.path.insert(0, sys.argv[1]); from _engine.agent.cli import main; main(['manual'])"
    pages = {
        subprocess.run(
            [python, "-S", "-B", "-c", program, str(ROOT / "plugins" / "module_utils")],
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        for python in pythons()
    }
    assert len(pages) == 1 and b".TH" in pages.pop()


STATUS: Dict[str, Any] = {"stage": "load", "bytes": 512 << 20, "expected_bytes": 1 << 30, "bytes_per_second": 64 << 20}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "shop: load  [############............]  50%  512.0 MiB of 1.0 GiB  64.0 MiB/s  8s"),
        ({"expected_bytes": 0}, "shop: load  512.0 MiB  64.0 MiB/s  8s"),
        # The last backup, by which it is judged, was smaller.
        ({"expected_bytes": 1 << 20}, "shop: load  512.0 MiB  64.0 MiB/s  8s"),
        ({"bytes": 0, "expected_bytes": 0, "stage": "snapshot"}, "shop: snapshot  8s"),
        ({"stage": "lo\033[2Jad", "bytes": 0, "expected_bytes": 0}, "shop: lo\\x1b[2Jad  8s"),
    ],
)
def test_the_line_says_how_far_it_is_where_that_is_known(changes: Dict[str, Any], line: str) -> None:
    assert line_of("shop", {**STATUS, **changes}, 8.2, 200) == line
    assert len(line_of("shop", {**STATUS, **changes}, 8.2, 20)) <= 20


class Unreadable(Exception):
    pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("trouble", ["a status that cannot be read", "a slow disk"])
def test_the_line_is_cleared_whatever_happens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trouble: str) -> None:
    looked: List[int] = []
    drawn, disk = threading.Event(), threading.Event()

    def running(_host: Host) -> List[Dict[str, Any]]:
        looked.append(1)
        if len(looked) > 1:
            drawn.set()
            if trouble != "a slow disk":
                raise Unreadable
            assert disk.wait(30)
        return [{**STATUS, "pid": os.getpid()}]

    ours, theirs = os.pipe()
    with os.fdopen(theirs, "w") as terminal, os.fdopen(ours, "rb") as screen:
        monkeypatch.setattr(progress, "running", running)
        monkeypatch.setattr(progress, "_can_draw", lambda: True)
        monkeypatch.setattr("sys.stderr", terminal)
        with progress.showing(Host("web1", tmp_path), "shop"):
            assert drawn.wait(30)
            # The disk answers after the work has ended, and later than anybody likes to wait.
            threading.Timer(1.5, disk.set).start()
        os.write(theirs, b"done\n")
        terminal.close()
        assert screen.read().endswith(b"\r\033[Kdone\n")


@pytest.mark.parametrize("name", ["", "-x", "--now", "a b", "shop*", "sh/op", "a" * 256, "shop.service\n"])
def test_no_unit_is_called_so(name: str) -> None:
    assert not is_unit(name)


def test_a_key_that_was_given_stands_in_for_the_hosts_own() -> None:
    own = EncryptionSettings(recipients=("r",), identities=("i",), passphrase="p")
    assert GivenKeys().over(own) is own
    brought = GivenKeys(("j",)).over(own)
    assert (brought.identities, brought.passphrase, brought.recipients) == (("j",), "p", ("r",))
    brought = GivenKeys(passphrase="q").over(own)
    assert (brought.identities, brought.passphrase) == ((), "q")
    ring = EncryptionSettings(Encryption.GPG, identities=("i",))
    assert GivenKeys(passphrase="q").over(ring).identities == ("i",)
    assert "q" not in repr(GivenKeys(passphrase="q"))
