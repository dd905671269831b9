# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What stock ``pg_dump | pg_restore`` brings, and that a backup brings the same."""

from __future__ import annotations

import difflib
import hashlib
import subprocess
from pathlib import Path

from _engine.model import FingerprintKind, Level, Outcome
from extensions import Foreign
from postgres import SUPERUSER, Cluster
from world import World

_TABLES = """
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1
"""


def make(cluster: Cluster, foreign: Foreign) -> None:
    """Make a foreign database."""
    cluster.sql(f"CREATE DATABASE {foreign.name}")
    for extension in foreign.extensions:
        schema = ""
        if extension == "pg_partman":
            cluster.sql("CREATE SCHEMA partman", foreign.name)
            schema = " SCHEMA partman"
        cluster.sql(f'CREATE EXTENSION IF NOT EXISTS "{extension}"{schema}', foreign.name)
    cluster.sql(foreign.sql, foreign.name)


def expect_same_as_stock(cluster: Cluster, name: str, directory: Path) -> None:
    """Back a database up, verify it by restoring, restore it, and compare with what stock tools bring."""
    world = World(directory)
    world.database = cluster.database(name)
    world.backup(fingerprint=FingerprintKind.COUNTS)
    (check,) = world.verify(level=Level.RESTORE).checks
    assert check.outcome is Outcome.PASSED, check.detail
    ours, stock = f"{name}_ours", f"{name}_stock"
    world.restore(database=cluster.database(ours), source_database=name)
    _stock(cluster, name, stock)
    difference = list(difflib.unified_diff(schema(cluster, stock), schema(cluster, ours), "stock", "ours", n=1))
    assert difference == [], "\n".join(difference)
    assert digests(cluster, ours) == digests(cluster, stock)


def _stock(cluster: Cluster, name: str, target: str) -> None:
    cluster.program("createdb", "--template=template0", target)
    login = [f"--host={cluster.directory}", f"--port={cluster.port}", f"--username={SUPERUSER}"]
    with subprocess.Popen(
        [str(cluster.programs / "pg_dump"), *login, "--format=custom", name], stdout=subprocess.PIPE
    ) as dumping:
        restoring = [str(cluster.programs / "pg_restore"), *login, "--exit-on-error", f"--dbname={target}"]
        subprocess.run(restoring, stdin=dumping.stdout, check=True)
    assert dumping.returncode == 0
    # pg_restore brings a database's own settings only with --create, which can give it no other name.
    settings = "SELECT unnest(setconfig) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase"
    for (setting,) in cluster.sql(f"{settings} WHERE datname = '{name}' AND setrole = 0"):
        option, _equal, value = setting.partition("=")
        cluster.sql(f"ALTER DATABASE {target} SET {option} = '{value}'")


def schema(cluster: Cluster, name: str) -> list[str]:
    """The schema as pg_dump writes it, without the tokens that it makes up for each dump (\\restrict)."""
    script = cluster.program("pg_dump", "--schema-only", name)
    return [line for line in script.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]


def digests(cluster: Cluster, name: str) -> dict[str, str]:
    """A digest of the rows of each table, whatever their order, and of all sequences and large objects."""
    found = {}
    for (table,) in cluster.sql(_TABLES, name):
        rows = cluster.sql(f"SELECT md5(t::text) FROM ONLY {table} t ORDER BY 1", name)
        found[table] = hashlib.sha256(repr(rows).encode()).hexdigest()
    sequences = "SELECT schemaname, sequencename, last_value, increment_by FROM pg_sequences ORDER BY 1, 2"
    found["sequences"] = repr(cluster.sql(sequences, name))
    objects = "SELECT oid, md5(lo_get(oid)) FROM pg_largeobject_metadata ORDER BY 1"
    found["large objects"] = repr(cluster.sql(objects, name))
    return found
