# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SQLite: backups against the shell's own .backup with zstd, and against the old pipeline."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

from measure import Row, alternating, median, need, ours, run, shell, timed

ROW = 162


def fill(path: Path, size: int) -> None:
    """Make a database of about ``size`` bytes: orders in words, numbers and digests."""
    connection = sqlite3.connect(path)
    connection.executescript(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; "
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INT, reference TEXT, items TEXT, photo BLOB)"
    )
    rows = (
        (n % 1_000_000, f"{n * 2654435761 % 2**64:016x}", "tea and biscuits " * (1 + n % 8), os.urandom(40))
        for n in range(size // ROW)
    )
    connection.executemany("INSERT INTO orders (customer, reference, items, photo) VALUES (?, ?, ?, ?)", rows)
    connection.commit()
    connection.close()


def measure(directory: Path, size: int, runs: int, peers: bool) -> list[Row]:
    """All rows for SQLite."""
    need("sqlite3", "zstd", "gzip", "openssl")
    path = directory / "shop.db"
    print(f"==> Filling a SQLite database of {size >> 20} MiB", flush=True)
    fill(path, size)
    print("==> Backing it up", flush=True)
    own_place = {"repository": directory / "backups", "key": directory / "key.pem", "state": directory / "state"}
    options = {"engine": "sqlite", "database": path, **own_place}
    reports: list[dict[str, Any]] = []

    def shell_backup() -> None:
        run("sqlite3", path, f".backup {directory}/copy.db")
        shell(f"zstd -q -f -3 -T0 {directory}/copy.db -o {directory}/copy.zst; rm {directory}/copy.db")

    def old() -> None:
        run("sqlite3", path, f".backup {directory}/copy.db")
        shell(
            f"gzip -f {directory}/copy.db; openssl enc -aes-256-cbc -pbkdf2 -iter 600000 -pass env:KEY "
            f"-in {directory}/copy.db.gz -out {directory}/copy.enc; rm {directory}/copy.db.gz",
            KEY="benchmark",
        )

    candidates = {"yardstick": shell_backup, "ours": lambda: reports.append(ours("backup", **options))}
    if os.geteuid() == 0:
        options_as_owner = {**options, "database": _of_another_account(directory, path)}
        candidates["as_owner"] = lambda: reports.append(ours("backup", **options_as_owner))
    times = alternating(runs, **candidates)
    slow, own, yardstick = timed(old), median(times["ours"]), median(times["yardstick"])
    peak = max(report["peak_bytes"] for report in reports)
    figures = {"ours_s": times["ours"], "yardstick_s": times["yardstick"], "stages": reports[-1]["stages"]}
    against = ".backup, then zstd -3 -T0"
    rows = [Row("SQLite backup", against, own / yardstick, "at most 1.00", own / yardstick <= 1, figures)]
    if "as_owner" in times:
        ratio = median(times["as_owner"]) / yardstick
        what = "SQLite backup by root, as the owner of its directory"
        rows.append(Row(what, against, ratio, "at most 1.00", ratio <= 1, {"ours_s": times["as_owner"]}))
    rows += [
        Row("SQLite backup, times as fast", ".backup, gzip, openssl", slow / own, "", None, {"old_s": slow}),
        Row("peak memory of that backup", "150 MB", peak / 150e6, "at most 1", peak <= 150e6, {"peak_bytes": peak}),
    ]
    report = ours("restore", **{**options, "database": directory / "restored.db", "source": path})
    peak = report["peak_bytes"]
    rows.append(Row("peak memory of its restore", "150 MB", peak / 150e6, "at most 1", peak <= 150e6, report))
    (directory / "restored.db").unlink()
    return rows + (_peers(directory, path, own) if peers else [])


def _of_another_account(directory: Path, path: Path) -> Path:
    """A copy of the database in a directory of another account, which root's backup becomes."""
    directory.chmod(0o755)
    copy = directory / "theirs" / path.name
    copy.parent.mkdir()
    shutil.copy(path, copy)
    for owned in (copy.parent, copy):
        shutil.chown(owned, "postgres", "postgres")
    return copy


def _peers(directory: Path, path: Path, own: float) -> list[Row]:
    """restic and borg store the copy that .backup made, as their users do it."""
    need("restic", "borg")
    print("==> Backing it up with restic and borg", flush=True)
    home = directory / "peers-sqlite"
    home.mkdir()
    environment = {"RESTIC_PASSWORD": "x", "BORG_PASSPHRASE": "x", "HOME": str(home), "BORG_BASE_DIR": str(home)}
    shell(f"restic -q init -r {home}/restic; borg init -e repokey {home}/borg 2>/dev/null", **environment)
    copy = f"sqlite3 {path} '.backup {home}/copy.db'"
    peers = {
        "restic": f"{copy}; restic -q -r {home}/restic backup {home}/copy.db; rm {home}/copy.db",
        "borg": f"{copy}; borg create -C zstd,3 {home}/borg::1 {home}/copy.db; rm {home}/copy.db",
    }
    rows = []
    for name, pipeline in peers.items():
        seconds = timed(lambda pipeline=pipeline: shell(pipeline, **environment))
        rows.append(Row("SQLite backup, times as fast", name, seconds / own, "", None, {"peer_s": seconds}))
    return rows
