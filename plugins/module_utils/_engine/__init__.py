# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The engine of fleet.backup: plain Python, no Ansible, and only the standard library until a feature needs more."""

from __future__ import annotations

__version__ = "0.1.0"
