# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Measures this project against its limits, the pipelines that it replaces, and its peers, as ratios in one run.

Everything is made below a directory that is removed at the end. Results are written to bench/results/ as JSON and
Markdown. Sizes are in MiB.
"""

from __future__ import annotations

import argparse
import compileall
import json
import platform
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import engine
import postgresql
import sqlite
from measure import Row

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "plugins" / "module_utils"))

from _engine import keyfile

RESULTS = Path(__file__).resolve().parent / "results"


def table(rows: list[Row], head: str) -> str:
    """The rows as Markdown."""
    lines = [head, "", "| what | against | ratio | bar | |", "|---|---|---:|---|---|"]
    for row in rows:
        ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
        verdict = {True: "met", False: "**missed**", None: ""}[row.met]
        yardstick = row.yardstick.replace("|", "\\|")
        lines.append(f"| {row.what} | {yardstick} | {ratio} | {row.allowed} | {verdict} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--postgresql", type=int, default=2048, metavar="MIB", help="size of the PostgreSQL database")
    parser.add_argument("--sqlite", type=int, default=1024, metavar="MIB", help="size of the SQLite database")
    parser.add_argument("--runs", type=int, default=3, help="how often each is measured; medians are compared")
    parser.add_argument("--no-peers", action="store_true", help="leave out restic, borg and pgBackRest")
    parser.add_argument(
        "--directory", type=Path, help="where to make it all (default: the system's temporary directory)"
    )
    arguments = parser.parse_args()

    began = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="fleet-backup-bench-", dir=arguments.directory))
    try:
        # The installed agent is compiled too.
        compileall.compile_dir(keyfile.__file__.rpartition("/")[0], quiet=1)
        (directory / "backups").mkdir()
        keyfile.ensure(directory / "key.pem", dry_run=False)
        rows: list[Row] = []
        if arguments.postgresql:
            rows += postgresql.measure(directory, arguments.postgresql << 20, arguments.runs, not arguments.no_peers)
        if arguments.sqlite:
            rows += sqlite.measure(directory, arguments.sqlite << 20, arguments.runs, not arguments.no_peers)
        rows += engine.measure(directory, arguments.runs)
    finally:
        shutil.rmtree(directory)
    head = (
        f"PostgreSQL {arguments.postgresql} MiB, SQLite {arguments.sqlite} MiB, {arguments.runs} runs, "
        f"Python {platform.python_version()}, {time.monotonic() - began:.0f} s in all."
    )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "results.json").write_text(
        json.dumps({"head": head, "rows": [asdict(row) for row in rows]}, indent=1) + "\n"
    )
    (RESULTS / "results.md").write_text(table(rows, head))
    print(table(rows, head))
    sys.exit(any(row.met is False for row in rows))


if __name__ == "__main__":
    main()
