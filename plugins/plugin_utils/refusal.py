# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a filter of this collection refuses, and how its words come through Ansible's own."""

from __future__ import annotations

from ansible.errors import AnsibleFilterError


class Refusal(AnsibleFilterError):
    """Something in the inventory cannot be used. The message names the host and the option, and is told as it is."""


def refusal_within(error: BaseException) -> Refusal | None:
    """The refusal that Ansible wrapped into an error of templating, if it was one.

    Each version of Ansible wraps in words of its own, and all of them keep the chain of exceptions; ``orig_exc`` is how
    those before 2.19 do.
    """
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or one in seen:
            continue
        if isinstance(one, Refusal):
            return one
        seen.append(one)
        waiting += [one.__cause__, one.__context__, getattr(one, "orig_exc", None)]
    return None
