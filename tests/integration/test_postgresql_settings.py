# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Settings and encodings of a database change nothing of what comes back, and come back themselves."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Iterator, List

import pytest

from _engine.databases.postgresql import definition, settings
from _engine.model import FingerprintKind, Level, Outcome
from postgres import Cluster, dump, options, restore, running_cluster, transfer
from world import World

COUNTS = options(FingerprintKind.COUNTS)


@pytest.fixture(scope="module")
def argentine() -> Iterator[Cluster]:
    """A server that knows a locale in which 1.234 is more than a thousand; no test changes the host's own locales."""
    locales = Path(tempfile.mkdtemp(prefix="locales-"))
    locales.chmod(0o755)
    subprocess.run(["localedef", "-i", "es_AR", "-f", "UTF-8", str(locales / "es_AR.UTF-8")], check=True)
    subprocess.run(["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(locales / "de_DE.ISO-8859-1")], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCPATH", str(locales))
        with running_cluster() as running:
            yield running
    shutil.rmtree(locales)


def make(cluster: Cluster, name: str, statements: str, clauses: str = "") -> str:
    cluster.sql(f'DROP DATABASE IF EXISTS "{name}"')
    cluster.sql(f'CREATE DATABASE "{name}" TEMPLATE template0 {clauses}')
    ask(cluster, name, statements)
    return name


def ask(cluster: Cluster, name: str, statement: str) -> List[Any]:
    """The first column of an answer, in UTF-8 whatever the database has as its encoding or setting."""
    # A database may have a limit that no statement of a busy machine keeps.
    session = cluster.connect(name, options="-c statement_timeout=0")
    raw = session.get_parameter_status("server_encoding") == "SQL_ASCII"
    # The driver knows no bytes beyond ASCII there. In LATIN1, each of them is a letter.
    session.set_client_encoding("LATIN1" if raw else "UTF8")
    with session.cursor() as cursor:
        cursor.execute(statement.encode("utf-8").decode("latin-1") if raw else statement)
        rows = [row[0] for row in cursor.fetchall()] if cursor.description else []
    session.close()
    return [row.encode("latin-1").decode("utf-8") for row in rows] if raw else rows


MONEY = (
    "ALTER DATABASE money SET lc_monetary = 'es_AR.UTF-8'; SET lc_monetary = 'C';"
    "CREATE TABLE price (id int PRIMARY KEY, amount money DEFAULT '1.25');"
    "INSERT INTO price VALUES (1, '12.34'), (2, '99.00'), (3, '-0.05')"
)
IN_CENTS = "SELECT array_agg((amount / 0.01::money)::int ORDER BY id) FROM price"


@pytest.mark.parametrize("kind", [FingerprintKind.COUNTS, FingerprintKind.DIGEST])
def test_money_comes_back_the_same_whatever_the_database_thinks_of_commas(
    argentine: Cluster, tmp_path: Path, kind: FingerprintKind
) -> None:
    make(argentine, "money", MONEY)
    backup = dump(argentine.engine("money"), tmp_path, options(kind))
    restore(argentine.engine("money_again"), backup)
    argentine.sql("INSERT INTO price (id) VALUES (4)", "money_again")
    assert argentine.value(IN_CENTS, "money_again") == [1234, 9900, -5, 125]
    assert argentine.value("SHOW lc_monetary", "money_again") == "es_AR.UTF-8"
    argentine.sql("DROP DATABASE money_again")


def test_money_comes_back_the_same_on_a_server_with_another_locale(argentine: Cluster, tmp_path: Path) -> None:
    make(argentine, "money", MONEY.replace("ALTER DATABASE money SET lc_monetary = 'es_AR.UTF-8';", ""))
    backup = dump(argentine.engine("money"), tmp_path, COUNTS)
    argentine.sql("ALTER SYSTEM SET lc_monetary = 'es_AR.UTF-8'")
    argentine.sql("SELECT pg_reload_conf()")
    try:
        while argentine.value("SHOW lc_monetary") != "es_AR.UTF-8":
            pass
        restore(argentine.engine("money_again"), backup)
    finally:
        argentine.sql("ALTER SYSTEM RESET lc_monetary")
        argentine.sql("SELECT pg_reload_conf()")
    assert argentine.value(IN_CENTS, "money_again") == [1234, 9900, -5]
    argentine.sql("DROP DATABASE money_again")


def test_a_database_with_a_locale_of_its_own_encoding_comes_back(argentine: Cluster, tmp_path: Path) -> None:
    make(argentine, "latin", "CREATE TABLE t (a text)", "ENCODING 'LATIN1' LOCALE 'de_DE.ISO-8859-1'")
    backup = dump(argentine.engine("latin"), tmp_path, COUNTS)
    argentine.engine("latin_again").check_restore(backup.manifest, False, None)
    restore(argentine.engine("latin_again"), backup)
    found = "SELECT datcollate FROM pg_database WHERE datname = 'latin_again'"
    assert argentine.value(found) == "de_DE.ISO-8859-1"
    argentine.sql("DROP DATABASE latin_again")


@pytest.mark.parametrize("rows", [3, 200_000])
def test_counts_notice_values_that_were_read_wrongly_in_small_and_large_tables(
    argentine: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    filling = f"INSERT INTO price SELECT n, '12.34', repeat('x', 150) FROM generate_series(4, {rows}) AS n"
    make(argentine, "money", f"{MONEY}; ALTER TABLE price ADD note text; {filling}")
    backup = dump(argentine.engine("money"), tmp_path, COUNTS)
    assert backup.manifest.fingerprint
    assert backup.manifest.fingerprint.tables["public.price"].ends == (0 if rows == 3 else 100)
    monkeypatch.setattr(settings, "for_load", lambda: {"lc_monetary": "es_AR.UTF-8"})
    engine = argentine.engine("money_again")
    with engine.stage(backup.manifest, None, 1) as staging:
        transfer(backup.path, staging.load, engine)
        staging.loaded()
        found = staging.fingerprint(backup.manifest.fingerprint)
    assert backup.manifest.fingerprint.differences(found) == ["table public.price has other contents"]


def test_what_is_computed_while_loading_sees_the_settings_of_the_database(
    cluster: Cluster, database: str, tmp_path: Path
) -> None:
    cluster.sql(
        f"ALTER DATABASE {database} SET app.unit = 'kg'; ALTER DATABASE {database} SET DateStyle = 'German';"
        f"ALTER DATABASE {database} SET array_nulls = off"
    )
    cluster.sql(
        "CREATE TABLE goods (day date, list text[]); INSERT INTO goods VALUES ('2026-01-31', ARRAY['NULL', NULL]);"
        "CREATE MATERIALIZED VIEW seen AS SELECT day::text, current_setting('app.unit') AS unit FROM goods",
        database,
    )
    backup = dump(cluster.engine(database), tmp_path, COUNTS)
    copy = f"{database}_2"
    restore(cluster.engine(copy), backup)
    assert cluster.sql("SELECT day, unit FROM seen", copy) == [("31.01.2026", "kg")]
    assert cluster.value("SELECT list FROM goods", copy) == ["NULL", None]


HINDRANCES = {
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "serializable",
    "statement_timeout": "1",
    "idle_in_transaction_session_timeout": "1",
    "search_path": "nowhere",
    "session_replication_role": "replica",
    "client_encoding": "LATIN1",
}


def test_settings_that_hinder_a_load_come_back_and_do_not_hinder_it(
    cluster: Cluster, database: str, tmp_path: Path
) -> None:
    cluster.sql("CREATE TABLE t (a text); INSERT INTO t VALUES ('grün, €')", database)
    for name, value in HINDRANCES.items():
        cluster.sql(f"ALTER DATABASE {database} SET {name} = '{value}'")
    backup = dump(cluster.engine(database), tmp_path, COUNTS)
    copy = f"{database}_2"
    restore(cluster.engine(copy), backup)
    restore(cluster.engine(copy), backup, replace=True, parallel=2)
    found = cluster.value(
        f"SELECT setconfig FROM pg_db_role_setting s, pg_database d WHERE d.oid = setdatabase AND datname = '{copy}'"
    )
    assert found == [f"{name}={value}" for name, value in HINDRANCES.items()]
    assert ask(cluster, copy, "SELECT a FROM public.t") == ["grün, €"]


def test_what_a_setting_says_reaches_no_terminal(
    cluster: Cluster, database: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    search = "ALTER DATABASE {} SET default_text_search_config = E'\"x\\x1b]0;mine\\x07\\n2026-11-28 shop: ok\\n\"'"
    cluster.sql(search.format(database))
    cluster.sql(f"ALTER DATABASE {database} SET client_min_messages = debug5")
    restore(cluster.engine(f"{database}_2"), dump(cluster.engine(database), tmp_path, COUNTS))
    assert capfd.readouterr() == ("", "")


ODD = (
    'CREATE TABLE "große" (a int); CREATE TABLE klein (a int); INSERT INTO klein VALUES (1);'
    "DO $$ BEGIN EXECUTE format('COMMENT ON DATABASE %I IS %L', current_database(), 'größer');"
    " EXECUTE format('ALTER DATABASE %I SET app.greeting = %L', current_database(), 'grüß dich'); END $$"
)


@pytest.mark.parametrize("name", ["plain", "größe"])
@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP"])
def test_names_comments_and_settings_come_back_in_any_encoding(
    cluster: Cluster, tmp_path: Path, encoding: str, name: str
) -> None:
    name = f"{name}_{encoding}"
    statements = ODD.replace("ß", "ア").replace("ö", "日").replace("ü", "本") if encoding == "EUC_JP" else ODD
    table = "groアe" if encoding == "EUC_JP" else "große"
    make(cluster, name, statements, f"ENCODING '{encoding}' LOCALE 'C'")
    facts = (
        "SELECT shobj_description(oid, 'pg_database') || current_setting('app.greeting')"
        " FROM pg_database WHERE datname = current_database()"
    )
    everything = dump(cluster.engine(name), tmp_path / "all", COUNTS)
    assert everything.manifest.fingerprint and f'public."{table}"' in everything.manifest.fingerprint.tables
    partly = dump(cluster.engine(name), tmp_path / "part", options(exclude_tables=[table]))
    assert partly.warnings == ()
    for backup, expected in ((everything, [table, "klein"]), (partly, ["klein"])):
        restore(cluster.engine(name), backup, replace=True)
        listing = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        assert sorted(ask(cluster, name, listing)) == sorted(expected)
        assert ask(cluster, name, facts) == ["gr日アergr本ア dich" if encoding == "EUC_JP" else "größergrüß dich"]
    cluster.sql(f'DROP DATABASE "{name}"')


# In EUC_JP, no program can send such a name: its bytes are not valid there.
@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "UTF8"])
def test_roles_keep_their_names_in_databases_of_any_encoding(
    cluster: Cluster, database: str, tmp_path: Path, encoding: str
) -> None:
    name, role = f"{database}_{encoding.lower()}", f"{database}_größe'日本\\ \"%s"
    quoted = '"' + role.replace('"', '""') + '"'
    cluster.sql(f"CREATE ROLE {quoted} LOGIN")
    cluster.sql(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C' OWNER {quoted}")
    cluster.sql(f"GRANT CONNECT ON DATABASE {name} TO {quoted} WITH GRANT OPTION")
    cluster.sql(f"ALTER ROLE {quoted} IN DATABASE {name} SET work_mem = '1MB'")
    cluster.sql("CREATE TABLE t AS SELECT 1 AS n", name, user=role)
    world = World(tmp_path / "world")
    world.database = cluster.database(name)
    facts = world.backup().manifest.properties
    assert (facts["owner"], facts["roles"]) == (role, (role,))
    (check,) = world.verify(level=Level.RESTORE).checks
    assert check.outcome is Outcome.PASSED, check.detail
    copy = f"{name}_copy"
    world.restore(database=cluster.database(copy), source_database=name)
    world.restore(database=cluster.database(f"{name}_owned"), source_database=name, owner=role)
    for one in (copy, f"{name}_owned"):
        owners = "SELECT relowner::int8 FROM pg_class WHERE relname = 't' UNION ALL SELECT datdba FROM pg_database"
        (table,), (whole,) = cluster.sql(f"{owners} WHERE datname = current_database()", one)
        assert table == whole == cluster.sql(f"SELECT oid FROM pg_roles WHERE rolname LIKE '{database}%'")[0][0]
    shared = (
        "SELECT setconfig::text || coalesce(datacl::text, '') FROM pg_database d JOIN pg_db_role_setting s"
        " ON s.setdatabase = d.oid AND s.setrole = datdba WHERE datname = '{}'"
    )
    assert cluster.value(shared.format(copy)) == cluster.value(shared.format(name))
    for one in (copy, f"{name}_owned", name):
        cluster.sql(f"DROP DATABASE {one}")
    cluster.sql(f"DROP ROLE {quoted}")


def test_a_name_that_is_no_text_at_all_is_backed_up_and_can_be_left_out(
    cluster: Cluster, database: str, tmp_path: Path
) -> None:
    name = f"{database}_raw"
    cluster.sql(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    session = cluster.connect(name)
    session.set_client_encoding("LATIN1")
    with session.cursor() as cursor:
        cursor.execute('CREATE TABLE "gro\xdfe" (a int); INSERT INTO "gro\xdfe" VALUES (1)')
        cursor.execute(f"COMMENT ON DATABASE {name} IS 'gr\xf6\xdfer'")
    session.close()
    backup = dump(cluster.engine(name), tmp_path / "all")
    assert backup.manifest.fingerprint and list(backup.manifest.fingerprint.tables) == ['public."gro\\xdfe"']
    restore(cluster.engine(name), backup, replace=True)
    assert (
        dump(cluster.engine(name), tmp_path / "part", options(exclude_tables=["gro*e"])).manifest.fingerprint.tables
        == {}
    )


def test_a_label_of_the_database_is_kept_and_its_module_is_asked_for(
    cluster: Cluster, database: str, tmp_path: Path
) -> None:
    cluster.sql(
        "SET allow_system_table_mods = on; INSERT INTO pg_shseclabel SELECT oid, 'pg_database'::regclass, 'selinux',"
        f" 'it''s secret' FROM pg_database WHERE datname = '{database}'"
    )
    try:
        backup = dump(cluster.engine(database), tmp_path)
    finally:
        cluster.sql("SET allow_system_table_mods = on; DELETE FROM pg_shseclabel")
    assert backup.manifest.properties["security_labels"] == [{"provider": "selinux", "label": "it's secret"}]
    properties = definition.from_manifest(backup.manifest.properties, "x")
    assert "SECURITY LABEL FOR" in definition.preparation(properties, None)[-1]
