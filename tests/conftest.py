# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every test can rely on: the engine imports as ``_engine``, and SIGINT interrupts.

Hypothesis leaves nothing in the checkout but in its ignored directory, and Ansible packs each module once.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent

os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(ROOT / ".cache" / "hypothesis"))

# No test is timed: other work may keep the machine busy.
settings.register_profile("full", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# For another Python, on which the same examples were tried in full.
settings.register_profile("brief", settings.get_profile("full"), max_examples=20)
settings.load_profile("full")

sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "plugins" / "module_utils"))
sys.path.append(str(ROOT / "plugins"))

# A shell that runs the tests in the background has them ignore SIGINT, nohup(1) SIGHUP, and tests send both.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Workers inherit it. No test changes a module, so what one run of Ansible packs, all others of the session can send.
if "FLEET_BACKUP_PACKED_MODULES" not in os.environ:
    os.environ["FLEET_BACKUP_PACKED_MODULES"] = tempfile.mkdtemp(prefix="packed-modules-")
    os.environ["PATH"] = os.pathsep.join([str(ROOT / "tests" / "programs"), os.environ["PATH"]])
    atexit.register(shutil.rmtree, os.environ["FLEET_BACKUP_PACKED_MODULES"])
