# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A database that a restore fills lets no other login in, and ends with the privileges that the backup has."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator, List, Set

import psycopg2
import pytest

from _engine.databases.postgresql import definition, promotion
from _engine.databases.postgresql.connection import Access, Connection
from _engine.model import FingerprintKind, Level, Outcome
from postgres import Cluster, dump, options, restore
from world import World

ROLES = ("banker", "teller", "guard", "stranger")
#: Who may connect to a database, who granted it, and what a new one of the same owner has.
PRIVILEGES = "SELECT datacl::text, acldefault('d', datdba)::text FROM pg_database WHERE datname = '{}'"


@pytest.fixture
def bank(cluster: Cluster, database: str) -> Iterator[str]:
    """A database that only some roles may enter, one of them by the grant of another."""
    for role in ROLES:
        cluster.sql(f"CREATE ROLE {database}_{role} LOGIN PASSWORD 'x'")
    cluster.sql("CREATE TABLE accounts AS SELECT 1 AS a; GRANT SELECT ON accounts TO PUBLIC", database)
    cluster.sql(f"ALTER DATABASE {database} OWNER TO {database}_banker")
    cluster.sql(
        f"ALTER SCHEMA public OWNER TO {database}_banker; ALTER TABLE accounts OWNER TO {database}_banker", database
    )
    yield database
    for found in cluster.databases():
        if found.startswith(database):
            cluster.sql(f'DROP DATABASE "{found}" WITH (FORCE)')
    for role in ROLES:
        cluster.sql(f"DROP ROLE {database}_{role}")


def narrow(cluster: Cluster, bank: str) -> None:
    cluster.sql(f"REVOKE ALL ON DATABASE {bank} FROM PUBLIC; GRANT CONNECT ON DATABASE {bank} TO {bank}_guard")
    cluster.sql(f"GRANT CONNECT ON DATABASE {bank} TO {bank}_teller WITH GRANT OPTION")
    cluster.sql(f"GRANT CONNECT ON DATABASE {bank} TO {bank}_guard", user=f"{bank}_teller")


class Strangers:
    """Logins that try to enter every database that a restore fills, before each statement of the restore."""

    def __init__(self, cluster: Cluster, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tried = 0
        self.inside: List[str] = []
        self.answers: Set[str] = set()
        self._cluster = cluster
        self._users = [f"{database}_{role}" for role in ROLES]
        run, connect = Connection.run, Access.connect

        def running(connection: Connection, *arguments: Any) -> None:
            self.knock()
            run(connection, *arguments)

        def connecting(access: Access, *arguments: Any, **named: Any) -> Connection:
            self.knock()
            return connect(access, *arguments, **named)

        # Until the swap: a login that comes then waits for its end.
        swap = promotion.swap

        def swapping(*arguments: Any) -> None:
            self._users = []
            swap(*arguments)

        monkeypatch.setattr(promotion, "swap", swapping)
        monkeypatch.setattr(Connection, "run", running)
        monkeypatch.setattr(Access, "connect", connecting)

    def knock(self) -> None:
        for name in self._cluster.databases():
            if "__restoring_" in name:
                for user in self._users:
                    self._enter(name, user)

    def _enter(self, name: str, user: str) -> None:
        self.tried += 1
        try:
            self._cluster.connect(name, user).close()
        except psycopg2.OperationalError as error:
            self.answers.add("permission denied" if "permission denied for database" in str(error) else "not yet")
            assert "permission denied for database" in str(error) or "not currently accepting" in str(error)
        else:
            self.inside.append(user)


@pytest.mark.parametrize("narrowed", [True, False])
def test_no_other_login_enters_until_the_swap_and_the_privileges_come_back(
    cluster: Cluster, bank: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, narrowed: bool
) -> None:
    if narrowed:
        narrow(cluster, bank)
    ((before, default),) = cluster.sql(PRIVILEGES.format(bank))
    assert (before is None) is not narrowed
    engine = cluster.engine(bank)
    backup = dump(engine, tmp_path, options(FingerprintKind.COUNTS))
    strangers = Strangers(cluster, bank, monkeypatch)
    aside = restore(engine, backup, replace=True, keep_replaced=True)
    assert (strangers.inside, strangers.answers) == ([], {"permission denied", "not yet"})
    assert strangers.tried > 20
    # Who had granted what is the same again, and what was replaced is no more open than it was.
    ((after, _default),) = cluster.sql(PRIVILEGES.format(bank))
    assert sorted(after[1:-1].split(",")) == sorted((before or default)[1:-1].split(","))
    assert cluster.sql(PRIVILEGES.format(aside)) == [(before, default)]
    with engine._access.connect(bank) as inside:
        assert definition.read(inside) == definition.from_manifest(backup.manifest.properties, "it")


def test_a_login_without_power_keeps_strangers_out_as_well(
    cluster: Cluster, bank: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow(cluster, bank)
    backup = dump(cluster.engine(bank), tmp_path, options(FingerprintKind.COUNTS))
    modest = f"{bank}_modest"
    cluster.sql(f"CREATE ROLE {modest} LOGIN CREATEDB PASSWORD 'x' IN ROLE {bank}_banker")
    try:
        cluster.sql(f"GRANT SELECT ON accounts TO {modest}", bank)
        engine = cluster.engine(f"{bank}_copy", user=modest, password="x")
        strangers = Strangers(cluster, f"{bank}_copy", monkeypatch)
        strangers._users = [f"{bank}_{role}" for role in ROLES]
        with engine.stage(backup.manifest, None, 1) as staging:
            staging.promote(False, False)
            (note,) = staging.notes
        assert strangers.inside == []
        assert "permission denied" in strangers.answers
        assert f"{bank}_teller" in note
        ((after, _default),) = cluster.sql(PRIVILEGES.format(f"{bank}_copy"))
        assert sorted(after[1:-1].split(",")) == sorted(
            [f"{bank}_banker=CTc/{bank}_banker", f"{bank}_teller=c*/{bank}_banker", f"{bank}_guard=c/{bank}_banker"]
        )
    finally:
        cluster.sql(f"DROP DATABASE IF EXISTS {bank}_copy")
        cluster.sql(f"DROP OWNED BY {modest}", bank)
        cluster.sql(f"DROP ROLE {modest}")


def test_a_verification_on_a_named_server_lets_no_other_login_in(
    tmp_path: Path, cluster: Cluster, bank: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path / "world")
    world.database = cluster.database(bank)
    world.backup()
    strangers = Strangers(cluster, bank, monkeypatch)
    (check,) = world.verify(level=Level.RESTORE, scratch=cluster.as_scratch).checks
    assert (check.outcome, check.detail) == (Outcome.PASSED, "")
    assert strangers.inside == []
    assert "permission denied" in strangers.answers
