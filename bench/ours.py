# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""This project's side of the benchmark, as a process of its own: one verb of the engine, and what it cost."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "plugins" / "module_utils"))

from _engine.backup import BackupRequest, take_backup
from _engine.info import InfoRequest, inform
from _engine.model import Database, EncryptionSettings, EngineName, Server
from _engine.repositories.local import LocalRepository
from _engine.restore import RestoreRequest, restore
from _engine.state import Host


def database(arguments: argparse.Namespace) -> Database:
    if arguments.engine == "sqlite":
        return Database(EngineName.SQLITE, arguments.database)
    server = Server(unix_socket=arguments.socket, port=arguments.port, user=arguments.user)
    return Database(EngineName.POSTGRESQL, arguments.database, server)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["backup", "restore", "info"])
    for name in ("engine", "database", "source", "repository", "key", "state", "socket", "user"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--port", type=int, default=5432)
    arguments = parser.parse_args()

    host = Host("bench", Path(arguments.state), caches=True)
    repository = LocalRepository(Path(arguments.repository))
    began = time.monotonic()
    stages: dict[str, float] = {}
    counts: dict[str, int] = {}
    if arguments.verb == "backup":
        encryption = EncryptionSettings(recipients=(arguments.key + ".pub",))
        request = BackupRequest(database(arguments), (repository,), encryption, "bench", max_age=timedelta(0))
        stages = dict(take_backup(request, host).manifest.durations)
    elif arguments.verb == "restore":
        encryption = EncryptionSettings(identities=(arguments.key,))
        wanted = RestoreRequest(database(arguments), (repository,), encryption, "bench", arguments.source)
        stages = dict(restore(wanted, host).durations)
    else:
        (listed,) = inform(InfoRequest((repository,)), host).repositories
        counts = {"backups": len(listed.catalogue.backups), "problems": len(listed.problems)}
    seconds = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak_bytes": peak, "stages": stages, **counts}))


if __name__ == "__main__":
    main()
