# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""PostgreSQL: backups against pg_dump to nowhere and against the old pipeline, restores against pg_restore."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measure import Row, alternating, median, need, ours, run, shell, timed

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]
#: About how many bytes a row of the orders takes, and one step of pgbench's scale, with their indexes.
ROW, SCALE = 230, 15_600_000


def demoted() -> dict[str, Any]:
    """initdb and the server refuse to run as root."""
    return {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


@contextmanager
def cluster(directory: Path) -> Iterator[dict[str, Any]]:
    """A server of one's own, tuned like none in particular; how to reach it."""
    data, programs = directory / "pgdata", PROGRAMS[0]
    data.mkdir()
    if os.geteuid() == 0:
        shutil.chown(data, "postgres", "postgres")
    directory.chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run(programs / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync", cwd="/", **demoted())
    options = f"-p {port} -k {data} -c listen_addresses= -c fsync=off -c shared_buffers=1GB -c max_wal_size=8GB"
    run(programs / "pg_ctl", "-D", data, "-w", "-l", data / "log", "-o", options, "start", cwd="/", **demoted())
    try:
        yield {"socket": str(data), "port": port, "user": "postgres"}
    finally:
        run(programs / "pg_ctl", "-D", data, "-m", "immediate", "stop", cwd="/", **demoted())


def fill(reach: dict[str, Any], size: int) -> None:
    """Make the database shop of about ``size`` bytes: half of it pgbench's, half orders.

    pgbench pads its rows with blanks, which every compressor takes in at once; orders have dates, digests, words and
    JSON, as tables in the field do.
    """
    connection = _connection(reach)
    run(PROGRAMS[0] / "createdb", *connection, "shop")
    scale = str(max(1, size // 2 // SCALE))
    run(PROGRAMS[0] / "pgbench", *connection, "-q", "-i", "-s", scale, "shop", stderr=subprocess.DEVNULL)
    orders = (
        "CREATE TABLE orders AS SELECT n AS id, (random() * 1e6)::int AS customer, "
        "timestamptz '2026-01-01' + n * interval '1 second' AS placed, md5(n::text) AS reference, "
        "repeat('tea and biscuits ', 1 + n % 4) || (random() * 1e9)::bigint AS items, "
        "jsonb_build_object('price', n % 977, 'paid', n % 3 = 0) AS details "
        f"FROM generate_series(1, {size // 2 // ROW}) AS n"
    )
    indexes = ("ALTER TABLE orders ADD PRIMARY KEY (id)", "CREATE INDEX ON orders (customer)")
    # What the server still has to write would be written while the first runs are measured.
    for statement in (orders, *indexes, "VACUUM ANALYZE orders", "CHECKPOINT"):
        run(PROGRAMS[0] / "psql", *connection, "-qX", "-d", "shop", "-c", statement)


def _connection(reach: dict[str, Any]) -> list[str]:
    return ["-h", reach["socket"], "-p", str(reach["port"]), "-U", "postgres"]


def measure(directory: Path, size: int, runs: int, peers: bool) -> list[Row]:
    """All rows for PostgreSQL."""
    need("zstd", "gzip", "openssl")
    with cluster(directory) as reach:
        print(f"==> Filling a PostgreSQL database of {size >> 20} MiB", flush=True)
        fill(reach, size)
        rows = _backups(directory, reach, runs)
        rows += _restores(directory, reach, runs)
        if peers:
            rows += _peers(directory, reach, runs)
        return rows


def _checkpoint(reach: dict[str, Any]) -> None:
    """Let the server write what is waiting, so that none of the candidates does it for the one before."""
    run(PROGRAMS[0] / "psql", *_connection(reach), "-qX", "-c", "CHECKPOINT")


def _client(reach: dict[str, Any], program: str) -> str:
    return f"{PROGRAMS[0] / program} -h {reach['socket']} -p {reach['port']} -U postgres"


def _backups(directory: Path, reach: dict[str, Any], runs: int) -> list[Row]:
    print("==> Backing it up", flush=True)
    dump = _client(reach, "pg_dump")
    options = _options(directory, reach, database="shop")
    reports: list[dict[str, Any]] = []
    times = alternating(
        runs,
        lambda: _checkpoint(reach),
        limit=lambda: shell(f"{dump} -Fc -Z0 shop >/dev/null"),
        ours=lambda: reports.append(ours("backup", **options)),
    )
    old = timed(
        lambda: shell(
            f"{dump} shop | gzip -9 | "
            f"openssl enc -aes-256-cbc -pbkdf2 -iter 600000 -pass env:KEY -out {directory}/old.enc",
            KEY="benchmark",
        )
    )
    own, limit = median(times["ours"]), median(times["limit"])
    peak = max(report["peak_bytes"] for report in reports)
    figures = {"ours_s": times["ours"], "limit_s": times["limit"], "stages": reports[-1]["stages"]}
    return [
        Row(
            "PostgreSQL backup",
            "pg_dump -Fc -Z0 > /dev/null",
            own / limit,
            "at most 1.25",
            own / limit <= 1.25,
            figures,
        ),
        Row(
            "PostgreSQL backup, times as fast",
            "pg_dump | gzip -9 | openssl enc",
            old / own,
            "at least 2.5",
            old / own >= 2.5,
            {"old_s": old},
        ),
        _memory("peak memory of that backup", peak),
    ]


def _restores(directory: Path, reach: dict[str, Any], runs: int) -> list[Row]:
    print("==> Restoring it", flush=True)
    shell(f"{_client(reach, 'pg_dump')} -Fc -Z0 shop >{directory}/shop.dump")
    create, drop = _client(reach, "createdb"), f"{_client(reach, 'dropdb')} --if-exists"
    load = f"{_client(reach, 'pg_restore')} --exit-on-error -d copy {directory}/shop.dump"
    options = _options(directory, reach, source="shop")
    reports: list[dict[str, Any]] = []

    def plain() -> None:
        shell(f"{create} -T template0 copy; {load}")

    def own() -> None:
        reports.append(ours("restore", database="copy2", **options))

    def ready() -> None:
        shell(f"{drop} copy 2>/dev/null; {drop} copy2 2>/dev/null")
        _checkpoint(reach)

    times = alternating(runs, ready, plain=plain, ours=own)
    ready()
    ratio = median(times["ours"]) / median(times["plain"])
    figures = {"ours_s": times["ours"], "pg_restore_s": times["plain"], "stages": reports[-1]["stages"]}
    return [
        Row(
            "PostgreSQL restore, with all checks",
            "pg_restore of the same dump",
            ratio,
            "at most 1.10",
            ratio <= 1.10,
            figures,
        ),
        _memory("peak memory of that restore", max(report["peak_bytes"] for report in reports)),
    ]


def _peers(directory: Path, reach: dict[str, Any], runs: int) -> list[Row]:
    """restic and borg take the dump from a pipe, as their users do it; pgBackRest copies the cluster's files."""
    need("restic", "borg", "pgbackrest")
    print("==> Backing it up with restic, borg and pgBackRest", flush=True)
    dump = f"{_client(reach, 'pg_dump')} -Fc -Z0 shop"
    home = directory / "peers"
    home.mkdir()
    environment = {"RESTIC_PASSWORD": "x", "BORG_PASSPHRASE": "x", "HOME": str(home), "BORG_BASE_DIR": str(home)}
    options = _options(directory, reach, database="shop")
    numbers = iter(range(1000))
    times = alternating(
        max(1, runs - 1),
        ours=lambda: ours("backup", **options),
        # A fresh repository each time: neither may save work that the others have to do.
        restic=lambda: shell(
            f"rm -rf {home}/restic; restic -q init -r {home}/restic; "
            f"{dump} | restic -q -r {home}/restic backup --stdin",
            **environment,
        ),
        borg=lambda: shell(
            f"rm -rf {home}/borg; borg init -e repokey {home}/borg 2>/dev/null; "
            f"{dump} | borg create -C zstd,3 {home}/borg::{next(numbers)} -",
            **environment,
        ),
    )
    times["pgbackrest"] = _pgbackrest(home, reach, max(1, runs - 1))
    own = median(times["ours"])
    return [
        Row("PostgreSQL backup, times as fast", peer, median(times[peer]) / own, "", None, {"peer_s": times[peer]})
        for peer in ("restic", "borg", "pgbackrest")
    ]


def _pgbackrest(home: Path, reach: dict[str, Any], runs: int) -> list[float]:
    """pgBackRest's full backups of the whole cluster, encrypted, with zstd on two processes."""
    repository = home / "pgbackrest"
    repository.mkdir()
    if os.geteuid() == 0:
        shutil.chown(repository, "postgres", "postgres")
        shutil.chown(home, "postgres", "postgres")
    common = [
        "--stanza=bench", f"--pg1-path={reach['socket']}", f"--pg1-port={reach['port']}",
        f"--pg1-socket-path={reach['socket']}", f"--repo1-path={repository}", f"--log-path={home}",
        f"--lock-path={home}", "--repo1-cipher-type=aes-256-cbc", "--config=/dev/null", "--log-level-console=error",
        "--log-level-stderr=error",
    ]  # fmt: skip
    environment = {**os.environ, "PGBACKREST_REPO1_CIPHER_PASS": "benchmark"}
    options = {"env": environment, "cwd": "/", **demoted()}
    run("pgbackrest", *common, "--no-online", "stanza-create", **options)
    # Offline and forced while the server runs: it copies the same files, and no archive has to be set up for it.
    backup = [*common, "--compress-type=zst", "--process-max=2", "--no-online", "--force", "--type=full", "backup"]
    return [timed(lambda: run("pgbackrest", *backup, **options)) for _run in range(runs)]


def _options(directory: Path, reach: dict[str, Any], **database: str) -> dict[str, Any]:
    own = {"repository": directory / "backups", "key": directory / "key.pem", "state": directory / "state"}
    return {"engine": "postgresql", **own, **reach, **database}


def _memory(what: str, peak: int) -> Row:
    allowed = 150_000_000
    return Row(what, "150 MB", peak / allowed, "at most 1", peak <= allowed, {"peak_bytes": peak})
