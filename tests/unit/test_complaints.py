# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What could not be restored is tried again, as often as that helps a true dump."""

from __future__ import annotations

from typing import List, Tuple

import pytest

from _engine.command import Argument, Command
from _engine.databases.postgresql import complaints
from _engine.databases.postgresql.complaints import Complaint


def test_a_dump_of_which_one_more_object_succeeds_each_time_is_not_tried_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs: List[Command] = []

    def failing(command: Command) -> List[Complaint]:
        runs.append(command)
        return [Complaint(number, "INDEX public i owner", "error") for number in range(len(runs), 1000)]

    def command(arguments: Tuple[Argument, ...]) -> Command:
        return Command("pg_restore", arguments)

    monkeypatch.setattr(complaints, "run_through", failing)
    left = complaints.load(command, ())
    assert len(runs) == 9
    assert len(left) == 1000 - len(runs)
