# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services of systemd that must not run meanwhile: stopped, and started again (systemctl(1))."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Sequence, Tuple

from ...command import Command, find_program
from ...errors import EngineError, Stopped, ToolFailed
from ...interrupts import last_part
from ...process import output_of, run
from .hooks import LAST

#: The states in which a unit runs, or is about to (systemctl(1), ActiveState).
_RUNNING = ("active", "activating", "reloading", "refreshing")


@dataclass(frozen=True)
class Service:
    """A unit as systemd knows it."""

    unit: str
    installed: bool
    running: bool


def look(units: Sequence[str]) -> Tuple[Service, ...]:
    """These units as they are now, each once. Changes nothing; raises MissingTool and ToolFailed."""
    return tuple(_look(unit) for unit in dict.fromkeys(units))


def stop(service: Service) -> None:
    """Stop a unit, and wait until it has stopped. Raises ToolFailed."""
    run(_systemctl("stop", service.unit))


def start(service: Service) -> None:
    """Start a unit. Raises ToolFailed, and EngineError where it was started and yet does not run."""
    run(_systemctl("start", service.unit))
    if not _look(service.unit).running:
        raise EngineError(f"{service.unit} was started, and does not run. See why with journalctl -u {service.unit}.")


def start_all(services: Sequence[Service]) -> List[str]:
    """Start units, of which none may keep the next one from starting; why some of them did not start.

    Once the run was told to stop, each has a few seconds.
    """
    failures: List[str] = []
    for service in services:
        try:
            with last_part(LAST):
                start(service)
        except ToolFailed as failure:
            hint = f"See journalctl -u {service.unit}, and start it by hand."
            failures.append(f"{service.unit} did not start again. {failure} {hint}")
        except EngineError as error:
            failures.append(str(error))
        except Stopped as stopped:
            failures.append(
                f"{service.unit} may not have started again. {stopped} See systemctl status {service.unit}."
            )
    return failures


def _look(unit: str) -> Service:
    said = _ask("show", "--property=LoadState,ActiveState", unit)
    state = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    return Service(unit, state.get("LoadState") not in (None, "not-found"), state.get("ActiveState") in _RUNNING)


def _ask(*arguments: str) -> str:
    """What systemctl says."""
    return output_of(_systemctl(*arguments))


def _systemctl(*arguments: str) -> Command:
    program = find_program("systemctl", "systemd", "Stopping services around a restore")
    return Command(f"systemctl {arguments[0]} {arguments[-1]}", (program, "--no-ask-password", *arguments))
