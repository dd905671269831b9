# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""What all modules of this collection support."""

from __future__ import annotations


class ModuleDocFragment:
    """Read by ansible-doc."""

    DOCUMENTATION = r"""
attributes:
  check_mode:
    description: Changes nothing in check mode, and says what a run would do.
    support: full
  diff_mode:
    description: Says in diff mode what differs before and after.
    support: full
  platform:
    description: Where the module runs.
    support: full
    platforms: posix
"""
