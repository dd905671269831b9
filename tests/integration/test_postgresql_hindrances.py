# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a database's owner sets for its sessions, and what other logins lock, hinders no backup and no restore."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

from _engine.databases.postgresql import promotion
from _engine.errors import Locked
from _engine.model import FingerprintKind
from postgres import Cluster, dump, options
from world import World

#: The keys of the advisory locks that are held in the maintenance database, as the functions take them.
HELD = """
SELECT classid::bigint::bit(32)::int, objid::bigint::bit(32)::int FROM pg_locks
 WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = 'postgres')
"""


@pytest.fixture
def plain(cluster: Cluster, database: str) -> Iterator[str]:
    """A login that may create databases, and has no other right."""
    name = f"{database}_plain"
    cluster.sql(f"CREATE ROLE {name} LOGIN CREATEDB PASSWORD 'x'")
    yield name
    for found in cluster.databases():
        if found.startswith(database):
            cluster.sql(f'DROP DATABASE "{found}" WITH (FORCE)')
    cluster.sql(f"DROP ROLE {name}")


def test_a_role_that_a_database_gives_its_sessions_takes_no_rights_from_ours(
    cluster: Cluster, database: str, plain: str, tmp_path: Path
) -> None:
    cluster.sql("CREATE TABLE hidden AS SELECT 1 AS a", database)
    cluster.sql(f"ALTER DATABASE {database} SET role = '{plain}'")
    world = World(tmp_path / "world")
    world.database = cluster.database(database)
    assert world.backup(globals=True).warnings == ()
    assert world.restore(replace=True).warnings == ()
    assert cluster.sql("SELECT current_user", database) == [(plain,)]
    # A role that the login's own administrator gave it is meant, and so is one that has more rights than the login.
    member = f"{database}_member"
    cluster.sql(f"CREATE ROLE {member} LOGIN NOINHERIT PASSWORD 'x' IN ROLE {plain}")
    access = cluster.engine(database, user=member, password="x")._access
    with access.connect(database) as session:
        assert (session.value("SELECT current_user"), session.further.get("role")) == (plain, None)
    cluster.sql(f"ALTER DATABASE {database} RESET role")
    cluster.sql(f"ALTER ROLE {member} INHERIT")
    cluster.sql(f"ALTER ROLE {member} SET role = '{plain}'")
    with access.connect(database) as session:
        assert session.value("SELECT current_user") == plain
    cluster.sql(f"DROP ROLE {member}")


def test_a_lock_that_another_login_takes_stops_no_restore(
    cluster: Cluster, database: str, plain: str, tmp_path: Path
) -> None:
    engine = cluster.engine(database)
    backup = dump(engine, tmp_path, options(FingerprintKind.COUNTS))
    with engine.stage(backup.manifest, None, 1):
        ((space, key),) = cluster.sql(HELD)
        with pytest.raises(Locked, match='already by the role "postgres"'), engine.stage(backup.manifest, None, 1):
            pass
    stranger = cluster.connect("postgres", plain)
    with stranger.cursor() as cursor:
        for number in (key, *range(100)):
            cursor.execute("SELECT pg_advisory_lock(%s, %s)", [space, number])
    with engine.stage(backup.manifest, None, 1) as staging:
        staging.promote(True, False)
    stranger.close()


def test_a_restore_of_another_login_is_not_swept_away(
    cluster: Cluster, database: str, plain: str, tmp_path: Path
) -> None:
    backup = dump(cluster.engine(database), tmp_path, options(FingerprintKind.COUNTS))
    name = f"{database}_copy"
    modest = cluster.engine(name, user=plain, password="x")
    with modest.stage(backup.manifest, plain, 1) as staging:
        # No session is in it at this moment.
        assert cluster.engine(name).sweep(dry_run=False) == []
        assert promotion.beside(name, promotion.RESTORING, backup.manifest.id) in cluster.databases()
        staging.promote(False, False)
