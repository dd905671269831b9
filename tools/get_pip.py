# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stands in for pip's bootstrap script (get-pip.py), which ansible-test would download, where only PyPI is reached.

Like that script, it takes pip's own options and requirements, and the two switches that leave packages out.
"""

from __future__ import annotations

import subprocess
import sys


def main() -> int:
    wanted = [argument for argument in sys.argv[1:] if argument not in ("--no-setuptools", "--no-wheel")]
    # As a process of its own: once ensurepip has run, this one still has the pip that it carries.
    subprocess.run([sys.executable, "-m", "ensurepip", "--default-pip"], check=True, stdout=subprocess.DEVNULL)
    return subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
