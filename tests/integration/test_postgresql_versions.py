# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""PostgreSQL 13, 15, 17 and 18, by their real programs: each client works with a server to the end, or not at all.

A backup that is taken can be verified and restored by the same host, on every server that is not older. What cannot be
restored is refused before a backup is taken, with the package that helps.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Iterator

import pytest

from _engine.backup import plan_backup
from _engine.databases.postgresql import tools
from _engine.errors import BadInput, MissingTool
from _engine.model import FingerprintKind, Level, Outcome, Scratch
from postgres import Cluster, running_cluster
from world import World

ROOT = Path(__file__).resolve().parents[2]
PACKAGED = Path("/usr/lib/postgresql/15")
VERSIONS = (13, 15, 17, 18)

# One worker starts the servers that these tests share.
pytestmark = pytest.mark.xdist_group("versions of PostgreSQL")

#: Which client is good for which server: pg_dump refuses a newer server, and what clients from 17 on write begins with
#: a setting that servers before 17 do not know.
WORKING = {(13, 13), (15, 13), (15, 15), (17, 17), (18, 17), (18, 18)}
#: And the client that each of the others is told to install.
REFUSED = [(client, server) for client in VERSIONS for server in VERSIONS if (client, server) not in WORKING]

SHOP = """
CREATE SCHEMA shop AUTHORIZATION keeper;
CREATE TYPE shop.state AS ENUM ('new', 'paid');
CREATE TABLE shop.orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item text COLLATE "C" NOT NULL,
    state shop.state DEFAULT 'new', at timestamptz DEFAULT now(), price numeric(10, 2) CHECK (price > 0),
    gross numeric GENERATED ALWAYS AS (price * 1.19) STORED, tags text[], extra jsonb) PARTITION BY HASH (id);
CREATE TABLE shop.orders_0 PARTITION OF shop.orders FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE shop.orders_1 PARTITION OF shop.orders FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE INDEX ON shop.orders USING gin (extra);
CREATE STATISTICS shop.kinds ON item, state FROM shop.orders_0;
INSERT INTO shop.orders (item, price, tags, extra) SELECT 'tea ' || n, n, ARRAY['a', NULL, 'ü'],
    jsonb_build_object('n', n) FROM generate_series(1, 500) n;
CREATE TABLE notes (id int PRIMARY KEY, about int, body bytea);
INSERT INTO notes SELECT n, n, decode(md5(n::text), 'hex') FROM generate_series(1, 100) n;
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
CREATE POLICY keepers ON notes FOR SELECT TO keeper USING (true);
CREATE VIEW dear AS SELECT * FROM shop.orders WHERE price > 100;
CREATE MATERIALIZED VIEW totals AS SELECT state, sum(price) FROM shop.orders GROUP BY 1;
CREATE FUNCTION total() RETURNS numeric LANGUAGE sql STABLE AS 'SELECT sum(price) FROM shop.orders';
CREATE PUBLICATION feed FOR TABLE notes;
GRANT SELECT ON notes TO PUBLIC;
GRANT keeper TO clerk;
SELECT lo_from_bytea(0, 'large');
COMMENT ON TABLE notes IS 'größer';
"""


def _programs() -> Path:
    """Where the programs of other versions are: a place that the account of throwaway servers can enter."""
    places = [ROOT / ".cache" / "servers", Path(pwd.getpwnam("postgres").pw_dir) / "fleet-backup-servers"]
    open_ones = [place for place in places if all(part.stat().st_mode & 1 for part in place.parents if part.exists())]
    done = subprocess.run([ROOT / "tools" / "servers", open_ones[0]], cwd=ROOT, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return open_ones[0]


@pytest.fixture(scope="module")
def programs() -> dict[int, Path]:
    """The directory with bin, by major version; 0 is a 17 with a newer minor release than 17."""
    others = _programs()
    return {**{major: others / str(major) for major in VERSIONS}, 15: PACKAGED, 0: others / "17-updated"}


@pytest.fixture(scope="module")
def servers(programs: dict[int, Path]) -> Iterator[dict[int, Cluster]]:
    """A running server of each version, with the same database."""
    with ExitStack() as stack:
        found = {major: stack.enter_context(running_cluster(programs=programs[major] / "bin")) for major in VERSIONS}
        for cluster in found.values():
            cluster.sql("CREATE ROLE keeper; CREATE ROLE clerk LOGIN PASSWORD 'clerk'")
            cluster.sql("CREATE DATABASE shop OWNER keeper")
            cluster.sql("ALTER DATABASE shop SET app.currency = 'EUR'; ALTER ROLE clerk IN DATABASE shop SET jit = off")
            cluster.sql("GRANT CONNECT ON DATABASE shop TO clerk WITH GRANT OPTION")
            cluster.sql(SHOP, "shop")
        yield found


def only(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Let this host have PostgreSQL's packages of one version, and no other."""
    monkeypatch.setattr(tools, "_PACKAGE_DIRECTORIES", ((str(path), "bin"),))
    without = [part for part in os.environ["PATH"].split(os.pathsep) if not (Path(part) / "initdb").exists()]
    monkeypatch.setenv("PATH", os.pathsep.join(without))


def _world(server: Cluster, path: Path) -> World:
    world = World(path)
    world.database = server.database("shop")
    return world


@pytest.mark.parametrize(("client", "server"), sorted(WORKING))
def test_what_a_client_backs_up_it_brings_back_on_every_server_that_is_not_older(
    client: int,
    server: int,
    servers: dict[int, Cluster],
    programs: dict[int, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    only(monkeypatch, programs[client])
    world = _world(servers[server], tmp_path / "world")
    result = world.backup(fingerprint=FingerprintKind.DIGEST, globals=True)
    assert result.warnings == ()
    assert tools.major_of(result.manifest.tool_versions["pg_dump"]) == client
    # Isolation has tests of its own, and would hide a checkout below /tmp.
    (check,) = world.verify(level=Level.RESTORE, scratch=Scratch(isolated=False)).checks
    assert check.outcome is Outcome.PASSED, check.detail
    name = f"by_{client}_from_{server}"
    for major in (one for one in VERSIONS if one < server):
        with pytest.raises(BadInput, match=f"made on PostgreSQL {server}.*is {major}.*{server} or newer"):
            world.restore(database=servers[major].database(name), source_database="shop")
    for major in sorted({server, VERSIONS[-1]}):
        target = servers[major]
        restored = world.restore(database=target.database(name), source_database="shop", globals=True)
        assert (restored.missing, restored.warnings) == ((), ())
        assert target.value("SELECT (total(), current_setting('app.currency'))::text", name) == "(125250.00,EUR)"
        target.sql(f"DROP DATABASE {name}")


@pytest.mark.parametrize(("client", "server"), REFUSED)
def test_what_could_not_be_restored_is_refused_at_backup_time_with_the_package_that_helps(
    client: int,
    server: int,
    servers: dict[int, Cluster],
    programs: dict[int, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    only(monkeypatch, programs[client])
    world = _world(servers[server], tmp_path / "world")
    for attempt in (lambda: plan_backup(world.backup_request(), world.host), world.backup):
        with pytest.raises(MissingTool, match=f"postgresql-client-{server} .*apt.postgresql.org") as raised:
            attempt()
        assert f"server is PostgreSQL {server}" in str(raised.value)
    assert world.files() == []


def test_a_host_with_several_clients_takes_the_one_that_can_bring_it_back(
    programs: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, PACKAGED)
    monkeypatch.setattr(tools, "_PACKAGE_DIRECTORIES", tuple((str(programs[one]), "bin") for one in (18, 15, 17)))
    for server, expected in ((13, 15), (15, 15), (17, 17), (18, 18)):
        dumper = tools.dumper("pg_dump", server)
        assert (dumper.major, tools.restorer(dumper.version, server).major) == (expected, expected)


def test_a_host_with_a_newer_client_than_the_backups_says_what_brings_it_back(
    servers: dict[int, Cluster], programs: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, PACKAGED)
    world = _world(servers[15], tmp_path / "world")
    world.backup()
    only(monkeypatch, programs[17])
    copy = {"database": servers[15].database("copy"), "source_database": "shop"}
    with pytest.raises(MissingTool, match=r"server is PostgreSQL 15.*pg_restore 17.*postgresql-client-15"):
        world.restore(**copy)
    newer = servers[17].database("copy")
    world.restore(database=newer, source_database="shop")
    assert servers[17].value("SELECT total()", "copy") == 125250
    # The throwaway server is one of this host's, which its client understands.
    (check,) = world.verify(level=Level.RESTORE, scratch=Scratch(isolated=False)).checks
    assert check.outcome is Outcome.PASSED, check.detail


def test_a_client_that_lacks_the_servers_minor_release_is_told_at_backup_time(
    servers: dict[int, Cluster], programs: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, programs[17])
    with running_cluster(programs=programs[0] / "bin") as updated:
        updated.sql("CREATE DATABASE shop")
        updated.sql("CREATE TABLE t AS SELECT 1 AS a", "shop")
        world = _world(updated, tmp_path / "world")
        (warning,) = world.backup().warnings
        assert "Update the package postgresql-client-17" in warning
        world.restore()
        assert updated.value("SELECT a FROM t", "shop") == 1
        with pytest.raises(MissingTool, match="outdated pg_dump: restore on a server with the minor release"):
            world.restore(database=servers[17].database("copy"), source_database="shop")
        only(monkeypatch, programs[0])
        assert world.backup().warnings == ()
        world.restore(database=servers[17].database("copy"), source_database="shop")
