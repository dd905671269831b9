# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A restore that a server would refuse in its middle is refused before anything is changed, with its fix."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator

import pytest

from _engine.errors import BadInput, EngineError, NotFound, PermissionDenied
from _engine.model import FingerprintKind, Level, Outcome, Scratch
from world import World

if TYPE_CHECKING:
    from postgres import Cluster

#: Each needs a right or a thing that the server of a restore need not have.
DEMANDING = """
CREATE FUNCTION seen() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION seen();
CREATE PUBLICATION everything FOR ALL TABLES;
CREATE PUBLICATION one_schema FOR TABLES IN SCHEMA public;
CREATE FUNCTION lower_c(text) RETURNS text LANGUAGE internal IMMUTABLE STRICT AS 'lower';
CREATE FUNCTION plain(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE COLLATION own (LC_COLLATE = 'C.UTF-8', LC_CTYPE = 'C.UTF-8');
CREATE TABLE names (name text COLLATE "C.utf8", other text COLLATE own);
INSERT INTO names VALUES ('a', 'b');
CREATE EXTENSION postgres_fdw;
CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw;
CREATE USER MAPPING FOR {mapped} SERVER elsewhere;
CREATE SUBSCRIPTION feed CONNECTION 'dbname=x port=1' PUBLICATION p WITH (connect = false, slot_name = NONE);
"""


@pytest.fixture
def plain(cluster: Cluster, database: str) -> Iterator[str]:
    """A role that may create databases and nothing else."""
    role = f"{database}_drill"
    cluster.sql(f"CREATE ROLE {role} LOGIN CREATEDB PASSWORD 'sesame'")
    yield role
    for name in cluster.databases():
        if name.startswith(database):
            cluster.sql(f'ALTER DATABASE "{name}" OWNER TO postgres')
            cluster.sql(f'ALTER DATABASE "{name}" RESET ALL')
            cluster.sql(f"DROP OWNED BY {role}", name)
    cluster.sql(f"DROP ROLE {role}")


@pytest.fixture
def world(tmp_path: Path, cluster: Cluster, database: str) -> World:
    made = World(tmp_path / "world")
    made.database = cluster.database(database)
    return made


def test_what_only_some_servers_and_users_can_restore_is_named_beforehand(
    world: World, cluster: Cluster, database: str, plain: str
) -> None:
    mapped = f"{database}_mapped"
    cluster.sql(f"CREATE ROLE {mapped}")
    for statement in DEMANDING.format(mapped=mapped).strip().split(";\n"):
        cluster.sql(statement, database)
    manifest = world.backup().manifest
    cluster.sql("ALTER SUBSCRIPTION feed DISABLE; DROP SUBSCRIPTION feed", database)
    demands = json.loads(json.dumps(manifest.properties))
    assert demands["for_superusers"] == [
        "event trigger watch", "function public.lower_c(text)", "publication everything", "publication one_schema",
        "subscription feed",
    ]  # fmt: skip
    assert demands["mapped_roles"] == [mapped]
    assert (demands["collations"], demands["locales"]) == (["C.utf8"], [{"collate": "C.UTF-8", "ctype": "C.UTF-8"}])
    copy = f"{database}_copy"

    def check(match: str, error: type[EngineError], owner: Any = None, login: Any = None, **changed: Any) -> None:
        properties = {**demands, **changed}
        user = {"user": plain, "password": "sesame"} if login else {}
        before = cluster.databases()
        with pytest.raises(error, match=match):
            cluster.engine(copy, **user).check_restore(replace(manifest, properties=properties), False, owner)
        assert cluster.databases() == before

    try:
        cluster.engine(copy).check_restore(replace(manifest, properties=demands), False, None)
        check("lacks the locale of the database, xx_XX.*locale-gen", NotFound, collate="xx_XX.UTF-8")
        check("lacks the collation xx_XX of columns.*on_error", NotFound, collations=["C.utf8", "xx_XX"])
        locales = [{"collate": "xx_XX", "ctype": "C"}]
        check("lacks the locale xx_XX of a collation", NotFound, locales=locales)
        labels = [{"provider": "selinux", "label": "x"}]
        check('security label of "selinux".*shared_preload', NotFound, security_labels=labels)
        setting = {"role": None, "name": "lc_monetary", "value": "xx_XX"}
        check("does not accept the setting lc_monetary of the database", NotFound, settings=[setting])
        check("is no superuser.*event trigger watch; function public.lower_c.*on_error", PermissionDenied, owner=plain)
        check("create the extension postgres_fdw", PermissionDenied, owner=plain, for_superusers=[])
        refused = {"owner": plain, "login": True, "extensions": [], "for_superusers": []}
        custom = [{"role": None, "name": "app.x", "value": "1"}]
        check(
            "may not make the setting app.x.*GRANT SET ON PARAMETER app.x", PermissionDenied, settings=custom, **refused
        )
        above = [{"role": None, "name": "session_replication_role", "value": "replica"}]
        check("may not make the setting session_replication_role", PermissionDenied, settings=above, **refused)
        cluster.sql(f"DROP USER MAPPING FOR {mapped} SERVER elsewhere", database)
    finally:
        cluster.sql(f"DROP OWNED BY {mapped}; DROP ROLE {mapped}", database)
    # A user mapping names its role whatever owner says.
    check(f"lacks roles that .* needs: {mapped}", NotFound, owner="postgres")
    (check_of_all,) = world.verify(level=Level.RESTORE).checks
    assert check_of_all.outcome is Outcome.PASSED, check_of_all.detail


def test_a_login_with_createdb_alone_proves_a_database_with_settings_of_its_own(
    world: World, cluster: Cluster, database: str, plain: str
) -> None:
    for statement in (
        f"ALTER DATABASE {database} SET app.factor = '3'",
        f"ALTER DATABASE {database} SET app.word TO 'it''s a b\\c'",
        f"ALTER ROLE postgres IN DATABASE {database} SET app.factor = '4'",
        "CREATE TABLE t (n int, m numeric GENERATED ALWAYS AS (n) STORED)",
        "INSERT INTO t SELECT generate_series(1, 10)",
        "CREATE MATERIALIZED VIEW v AS SELECT n * current_setting('app.factor')::int AS product FROM t",
    ):
        cluster.sql(statement, database)
    backup = world.backup(fingerprint=FingerprintKind.DIGEST)
    scratch = Scratch(server=replace(cluster.server, user=plain, password="sesame"))
    (check,) = world.verify(level=Level.RESTORE, scratch=scratch).checks
    assert check.outcome is Outcome.PASSED, check.detail
    assert [name for name in cluster.databases() if name.startswith(database)] == [database]
    # A real restore by that login would lack the settings: it says so, or does without and names them.
    target = {"database": cluster.database(f"{database}_copy", user=plain, password="sesame"), "owner": plain}
    with pytest.raises(PermissionDenied, match="GRANT SET ON PARAMETER app.factor"):
        world.restore(source_database=database, **target)
    with pytest.raises(EngineError):
        world.restore(source_database=database, tolerant=True, **{**target, "owner": None})
    result = world.restore(source_database=database, tolerant=True, **target)
    assert result.failure is not None and result.failure.code == "incomplete"
    assert any(one.startswith("the setting app.factor: ") for one in result.missing)
    assert cluster.sql("SELECT count(*) FROM t", f"{database}_copy") == [(10,)]
    cluster.sql(f"GRANT SET ON PARAMETER app.factor, app.word TO {plain}")
    world.restore(source_database=database, replace=True, **target)
    cluster.sql(f"REVOKE SET ON PARAMETER app.factor, app.word FROM {plain}")
    assert cluster.sql("SELECT sum(product) FROM v", f"{database}_copy") == [(165,)]
    assert backup.warnings == ()


def test_privileges_of_dropped_roles_are_told_and_asked_for(world: World, cluster: Cluster, database: str) -> None:
    cluster.sql("CREATE TABLE t (n int)", database)
    role = f"{database}_gone"
    cluster.sql(f"CREATE ROLE {role}; GRANT SELECT ON t TO {role}", database)
    number = str(cluster.value(f"SELECT oid FROM pg_roles WHERE rolname = '{role}'"))
    # As after two sessions that did not see each other.
    cluster.sql(f"DELETE FROM pg_shdepend WHERE refobjid = {number}")
    cluster.sql(f"DROP ROLE {role}")
    (warning,) = world.backup().warnings
    assert f"roles that were dropped: {number}" in warning and "Revoke" in warning
    copy = {"database": cluster.database(f"{database}_copy"), "source_database": database}
    with pytest.raises(NotFound, match=f"lacks roles that .* needs: {number}.*or give owner"):
        world.restore(**copy)
    (check,) = world.verify(level=Level.RESTORE).checks
    assert check.outcome is Outcome.PASSED, check.detail
    world.restore(owner="postgres", **copy)


def test_a_connection_limit_below_what_a_backup_takes_is_said_before_it(
    world: World, cluster: Cluster, database: str, plain: str
) -> None:
    cluster.sql(f"ALTER DATABASE {database} CONNECTION LIMIT 1")
    world.database = cluster.database(database, user=plain, password="sesame")
    with pytest.raises(BadInput, match="CONNECTION LIMIT of 1 applies.*takes 3 sessions"):
        world.backup()
    world.database = cluster.database(database)
    cluster.sql(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    world.backup()
    world.restore(replace=True)
    found = "SELECT datconnlimit FROM pg_database WHERE datname = current_database()"
    assert cluster.sql(found, database) == [(1,)]
    assert cluster.sql("SHOW default_transaction_read_only", database) == [("on",)]


def test_collations_in_expressions_and_tablespaces_are_asked_for_beforehand(
    world: World, cluster: Cluster, database: str, plain: str
) -> None:
    space, directory = f"{database}_space", cluster.directory / f"{database}_space"
    cluster.make_directory(directory)
    cluster.sql(f"CREATE TABLESPACE {space} LOCATION '{directory}'")
    for statement in (
        """CREATE TABLE e (t text DEFAULT lower('A' COLLATE "da-x-icu"), CHECK ((t COLLATE "de-x-icu") < 'z'))""",
        """CREATE INDEX ON e (lower(t COLLATE "el-x-icu"))""",
        """CREATE VIEW v AS SELECT max(t COLLATE "es-x-icu") FROM e""",
        """CREATE FUNCTION f(text) RETURNS bool LANGUAGE sql RETURN $1 < 'a' COLLATE "fi-x-icu" """,
        """CREATE POLICY p ON e USING (t > 'a' COLLATE "fr-x-icu")""",
        """CREATE STATISTICS s ON (lower(t COLLATE "hu-x-icu")), t FROM e""",
        f"CREATE TABLE apart (n int) TABLESPACE {space}",
    ):
        cluster.sql(statement, database)
    manifest = world.backup().manifest
    used = [f"{one}-x-icu" for one in ("da", "de", "el", "es", "fi", "fr", "hu")]
    facts = json.loads(json.dumps(manifest.properties))
    assert (facts["collations"], facts["tablespaces"]) == (used, [space])
    target = cluster.engine(f"{database}_copy", user=plain, password="sesame")

    def check(**changed: Any) -> None:
        target.check_restore(replace(manifest, properties={**facts, **changed}), False, plain)

    with pytest.raises(NotFound, match="lacks the collation xx-x-icu"):
        check(collations=["xx-x-icu"], tablespaces=[])
    with pytest.raises(PermissionDenied, match=f'"{plain}" may not create anything in the tablespace {space}'):
        check()
    with pytest.raises(PermissionDenied, match="this user may not create anything"):
        check(tablespaces=[], tablespace=space)
    cluster.sql(f"GRANT CREATE ON TABLESPACE {space} TO {plain}")
    check()
    check(tablespaces=[], tablespace=space)
    cluster.sql(f"REVOKE ALL ON TABLESPACE {space} FROM {plain}")
    cluster.sql("DROP TABLE apart", database)
    cluster.sql(f"DROP TABLESPACE {space}")


def test_a_role_whose_name_is_nothing_in_the_encoding_is_told_and_restored_with_an_owner(
    world: World, cluster: Cluster, database: str
) -> None:
    name, role = f"{database}_jp", f"{database}_日本"
    cluster.sql(f'CREATE ROLE "{role}" LOGIN')
    cluster.sql(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'EUC_JP' LOCALE 'C' OWNER \"{role}\"")
    cluster.sql("CREATE TABLE t AS SELECT 1 AS n", name, user=role)
    world.database = cluster.database(name)
    result = world.backup()
    assert [role in one and "EUC_JP" in one for one in result.warnings] == [True]
    copy = {"database": cluster.database(f"{name}_copy"), "source_database": name}
    with pytest.raises(NotFound, match=f"nothing in EUC_JP: {role}.*Give owner"):
        world.restore(**copy)
    (check,) = world.verify(level=Level.RESTORE).checks
    assert check.outcome is Outcome.UNVERIFIABLE and role in check.detail
    world.restore(owner="postgres", **copy)
    assert cluster.sql("SELECT n FROM t", f"{name}_copy") == [(1,)]
    cluster.sql(f"DROP DATABASE {name}")
    cluster.sql(f'DROP ROLE "{role}"')
