# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Running what is compared, and taking its time."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OURS = Path(__file__).resolve().parent / "ours.py"


@dataclass
class Row:
    """One line of the table: something measured, its yardstick, and the bar for the ratio of the two."""

    what: str
    yardstick: str
    ratio: float | None
    allowed: str
    met: bool | None
    figures: dict[str, Any] = field(default_factory=dict)


def need(*programs: str) -> None:
    """Stop where a program is missing: a yardstick that is left out measures nothing."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        sys.exit(f"The benchmark needs {', '.join(missing)}. Install the Debian package of the same name.")


def timed(act: Callable[[], object]) -> float:
    """How many seconds it takes."""
    os.sync()
    began = time.monotonic()
    act()
    return time.monotonic() - began


def alternating(
    runs: int, ready: Callable[[], object] = lambda: None, **candidates: Callable[[], object]
) -> dict[str, list[float]]:
    """The times of several candidates, taken in turn, so that a machine that gets slower is slower for all.

    ``ready`` makes all ready before each of them, and its time is not taken.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _run in range(runs):
        for name, act in candidates.items():
            ready()
            times[name].append(timed(act))
    return times


def median(times: Sequence[float]) -> float:
    return statistics.median(times)


def shell(pipeline: str, **environment: str) -> None:
    """Run a pipeline as those that are compared with write it."""
    subprocess.run(["bash", "-euo", "pipefail", "-c", pipeline], check=True, env={**os.environ, **environment})


def run(*command: str | Path, **options: Any) -> None:
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, **options)


def ours(verb: str, **options: str | int | Path) -> dict[str, Any]:
    """Run one verb of this project in a process of its own; what it says of its time and memory."""
    flags = [f"--{name}={value}" for name, value in options.items()]
    done = subprocess.run([sys.executable, str(OURS), verb, *flags], check=True, stdout=subprocess.PIPE)
    report: dict[str, Any] = json.loads(done.stdout)
    return report
