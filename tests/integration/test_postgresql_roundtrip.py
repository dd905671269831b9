# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A PostgreSQL database comes back as it was: everything in it, and everything that it is."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from _engine.command import Command
from _engine.databases.postgresql import definition
from _engine.model import FingerprintKind
from postgres import PASSWORD, Cluster, dump, options, restore, transfer

#: One of everything that a dump can hold, under names that careless quoting breaks.
ODD = r'''
CREATE SCHEMA "Große Daten"; CREATE SCHEMA "semi;colon"; CREATE SCHEMA plain AUTHORIZATION "odd ""owner""";
CREATE EXTENSION hstore; CREATE EXTENSION citext SCHEMA plain; CREATE EXTENSION pgcrypto; CREATE EXTENSION pg_trgm;
COMMENT ON EXTENSION hstore IS 'kept';
CREATE TYPE plain.mood AS ENUM ('sad', 'it''s ok', 'happy');
CREATE DOMAIN plain.positive AS integer CHECK (VALUE > 0);
CREATE TYPE plain.pair AS (a integer, b text);
CREATE TABLE "Große Daten"."Kunden "" 1" (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "Name mit Leerzeichen" text NOT NULL, email plain.citext UNIQUE, "UPPER" integer DEFAULT 7,
    doubled integer GENERATED ALWAYS AS ("UPPER" * 2) STORED, gone text, feeling plain.mood, tags hstore,
    "both" plain.pair, price numeric(12, 4), fast double precision, raw bytea, at timestamptz, span interval,
  doc jsonb,
    list integer[], cost money, CONSTRAINT "c h e c k" CHECK (length("Name mit Leerzeichen") > 0));
INSERT INTO "Große Daten"."Kunden "" 1" ("Name mit Leerzeichen", email, "UPPER", gone, feeling, tags, "both",
  price, fast,
    raw, at, span, doc, list, cost)
  SELECT 'näme ' || n || E'\n\t"\\', n || '@Example.org', nullif(n % 5, 0), 'x', 'it''s ok', hstore('k', n::text),
  (n, 'b')::plain.pair,
         n / 7.0, n / 7.0::float8, decode(lpad(to_hex(n), 8, '0'), 'hex'),
  '2026-03-29 01:30+00'::timestamptz + n * interval '1 h',
         n * interval '1 month 2 days', jsonb_build_object('n', n), ARRAY[n, NULL], n FROM generate_series(1, 500) n;
ALTER TABLE "Große Daten"."Kunden "" 1" DROP COLUMN gone;
COMMENT ON TABLE "Große Daten"."Kunden "" 1" IS 'it''s; a "table"';
  COMMENT ON COLUMN "Große Daten"."Kunden "" 1"."UPPER" IS 'ü';
CREATE INDEX "idx ü" ON "Große Daten"."Kunden "" 1" USING gin ("Name mit Leerzeichen" public.gin_trgm_ops);
CREATE TABLE plain.orders (id serial PRIMARY KEY,
  customer bigint REFERENCES "Große Daten"."Kunden "" 1" ON DELETE CASCADE,
    amount plain.positive, placed date NOT NULL);
INSERT INTO plain.orders (customer, amount, placed) SELECT 1 + n % 500, n,
  date '2026-01-01' + n % 365 FROM generate_series(1, 2000) n;
ALTER TABLE plain.orders ADD CONSTRAINT later CHECK (amount < 100) NOT VALID;
CREATE TABLE plain.events (at timestamptz NOT NULL, what text) PARTITION BY RANGE (at);
CREATE TABLE plain.events_2025 PARTITION OF plain.events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE plain.events_2026 PARTITION OF plain.events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO plain.events SELECT '2025-06-01'::timestamptz + n * interval '6 h', 'e' || n FROM generate_series(1,
  1000) n;
CREATE TABLE plain.parent (a integer, b text); CREATE TABLE plain.child (z integer) INHERITS (plain.parent);
ALTER TABLE plain.parent ADD COLUMN added text DEFAULT 'late';
INSERT INTO plain.child VALUES (1, 'b', 2, 'c'); INSERT INTO plain.parent VALUES (3, 'd', 'e');
CREATE UNLOGGED TABLE plain.scratch AS SELECT generate_series(1, 10) AS n;
CREATE TABLE plain.nothing (); INSERT INTO plain.nothing DEFAULT VALUES;
CREATE TABLE plain."order" AS SELECT 'pg_class'::regclass AS relation, 'plain.orders'::regclass AS qualified;
CREATE MATERIALIZED VIEW plain.totals AS SELECT customer, sum(amount) AS total FROM plain.orders GROUP BY 1;
CREATE UNIQUE INDEX ON plain.totals (customer);
CREATE VIEW plain.secured WITH (security_barrier) AS SELECT * FROM plain.orders WHERE amount > 10;
CREATE FUNCTION plain.touch() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN NEW.placed = NEW.placed; RETURN NEW;
  END $body$;
CREATE TRIGGER touched BEFORE UPDATE ON plain.orders FOR EACH ROW EXECUTE FUNCTION plain.touch();
CREATE PROCEDURE plain.nop() LANGUAGE sql AS ''; REVOKE ALL ON PROCEDURE plain.nop() FROM PUBLIC;
CREATE FUNCTION plain.watch() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN NULL; END $$;
CREATE EVENT TRIGGER watcher ON ddl_command_end EXECUTE FUNCTION plain.watch();
ALTER TABLE plain.orders ENABLE ROW LEVEL SECURITY; ALTER TABLE plain.orders FORCE ROW LEVEL SECURITY;
CREATE POLICY only_mine ON plain.orders FOR SELECT TO "odd reader" USING (customer = 1);
GRANT USAGE ON SCHEMA plain TO "odd reader"; GRANT SELECT ON plain.orders TO "odd reader" WITH GRANT OPTION;
GRANT UPDATE (amount) ON plain.orders TO PUBLIC;
  ALTER DEFAULT PRIVILEGES IN SCHEMA plain GRANT SELECT ON TABLES TO "odd reader";
ALTER TABLE plain.events OWNER TO "odd ""owner"""; ALTER TABLE plain.events_2026 OWNER TO "odd ""owner""";
CREATE PUBLICATION "pub ü" FOR TABLE plain.orders;
  CREATE STATISTICS plain.stats ON customer, amount FROM plain.orders;
CREATE SEQUENCE plain.counted START 5 INCREMENT 3 CACHE 4; SELECT nextval('plain.counted');
CREATE COLLATION plain.german (provider = icu, locale = 'de-DE');
  CREATE AGGREGATE plain.product(integer) (SFUNC = int4mul, STYPE = integer);
CREATE RULE quiet AS ON INSERT TO plain.secured DO INSTEAD NOTHING;
CREATE TABLE plain.clock (room int4range, EXCLUDE USING gist (room WITH &&));
  INSERT INTO plain.clock VALUES ('[1,5)');
SELECT lo_from_bytea(70001, 'small'), lo_from_bytea(70002, ''), lo_from_bytea(70003,
  convert_to(repeat('0123456789', 250000), 'UTF8'));
COMMENT ON LARGE OBJECT 70001 IS 'large'; GRANT SELECT ON LARGE OBJECT 70001 TO "odd reader";
'''


@pytest.fixture
def odd(cluster: Cluster, database: str) -> str:
    """The odd database, with everything that is not inside it."""
    for role in ('"odd ""owner"""', '"odd reader"', "odd_setter"):
        cluster.sql(f"DO $$ BEGIN CREATE ROLE {role}; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    cluster.sql(ODD, database)
    for statement in (
        f'ALTER DATABASE {database} SET search_path = plain, "$user", "Große Daten"',
        f"ALTER DATABASE {database} SET work_mem = '7MB'",
        f"ALTER DATABASE {database} SET statement_timeout = 5000",
        f"ALTER DATABASE {database} SET DateStyle = 'German'",
        f"ALTER DATABASE {database} SET \"my.setting\" = 'it''s \\ a=b, c'",
        f"ALTER ROLE odd_setter IN DATABASE {database} SET search_path = ''",
        f"COMMENT ON DATABASE {database} IS 'it''s \\ the \"shop\"'",
        f"REVOKE CONNECT ON DATABASE {database} FROM PUBLIC",
        f'GRANT CONNECT, CREATE ON DATABASE {database} TO "odd reader" WITH GRANT OPTION',
        f'ALTER DATABASE {database} OWNER TO "odd ""owner"""',
        f"ALTER DATABASE {database} CONNECTION LIMIT 40",
    ):
        cluster.sql(statement)
    return database


def schema(cluster: Cluster, name: str) -> str:
    """What pg_dump says the database is, without what differs from call to call."""
    text = cluster.program("pg_dump", "--schema-only", "--create", name)
    return re.sub(r"\\(un)?restrict \S+", "", text)


@pytest.mark.parametrize("parallel", [1, 2])
def test_an_odd_database_comes_back_with_the_same_schema_contents_and_properties(
    cluster: Cluster, odd: str, tmp_path: Path, parallel: int
) -> None:
    engine = cluster.engine(odd)
    before, sequence = schema(cluster, odd), cluster.sql("SELECT last_value, is_called FROM plain.counted", odd)
    engine.check_dump(options())
    backup = dump(engine, tmp_path)
    cluster.sql('DELETE FROM plain.orders; DROP TABLE plain."order"; SELECT lo_unlink(70001)', odd)
    assert restore(engine, backup, replace=True, parallel=parallel) is None
    assert schema(cluster, odd) == before
    assert cluster.sql("SELECT last_value, is_called FROM plain.counted", odd) == sequence
    assert dump(engine, tmp_path / "again").manifest.fingerprint == backup.manifest.fingerprint
    with engine._access.connect(odd) as connection:
        properties = definition.read(connection)
    assert properties == definition.from_manifest(backup.manifest.properties, "it")
    assert cluster.databases().count(odd) == 1
    assert not [name for name in cluster.databases() if name.startswith(odd + "__")]


def test_a_database_of_an_icu_locale_that_is_a_template_and_has_no_public_schema_comes_back(
    cluster: Cluster, database: str, tmp_path: Path
) -> None:
    name = database + "_icu"
    cluster.sql(
        f"CREATE DATABASE {name} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'de-AT'"
        " LC_COLLATE 'C' LC_CTYPE 'C.UTF-8' IS_TEMPLATE true CONNECTION LIMIT 9"
    )
    cluster.sql("DROP SCHEMA public; CREATE SCHEMA own; CREATE TABLE own.t AS SELECT 'ä'::text AS c", name)
    engine, before = cluster.engine(name), schema(cluster, name)
    backup = dump(engine, tmp_path)
    try:
        restore(engine, backup, replace=True)
        assert schema(cluster, name) == before
        assert cluster.sql("SELECT 1 FROM pg_namespace WHERE nspname = 'public'", name) == []
        with engine._access.connect(name) as connection:
            properties = definition.read(connection)
        assert properties == definition.from_manifest(backup.manifest.properties, "it")
        assert (properties.locale, properties.is_template, properties.connection_limit) == ("de-AT", True, 9)
        # A template can be replaced as well, although PostgreSQL drops none.
        restore(engine, backup, replace=True)
    finally:
        cluster.sql(f"ALTER DATABASE {name} IS_TEMPLATE false")


def test_the_fingerprint_counts_every_table_and_the_large_objects(cluster: Cluster, odd: str, tmp_path: Path) -> None:
    fingerprint = dump(cluster.engine(odd), tmp_path).manifest.fingerprint
    assert fingerprint is not None
    rows = {name: table.rows for name, table in fingerprint.tables.items()}
    assert rows == {
        '"Große Daten"."Kunden "" 1"': 500,
        "plain.orders": 2000,
        "plain.events_2025": 855,
        "plain.events_2026": 145,
        "plain.parent": 1,
        "plain.child": 1,
        "plain.scratch": 10,
        "plain.nothing": 1,
        "plain.order": 1,
        "plain.clock": 1,
        "pg_largeobject": 3,
    }
    assert all(table.digest for table in fingerprint.tables.values())


@pytest.mark.parametrize(
    ("change", "table"),
    [
        ("UPDATE plain.orders SET amount = amount + 1 WHERE id = 77", "plain.orders"),
        ("UPDATE plain.parent SET b = NULL WHERE a = 3", "plain.parent"),
        ("UPDATE plain.parent SET b = added, added = b WHERE a = 3", "plain.parent"),
        (
            'UPDATE "Große Daten"."Kunden "" 1" SET raw = decode(\'ff\', \'hex\') WHERE id = 3',
            '"Große Daten"."Kunden "" 1"',
        ),
        ("SELECT lo_put(70003, 2400000, 'x')", "pg_largeobject"),
        ("SELECT lo_unlink(70002), lo_from_bytea(70004, '')", "pg_largeobject"),
        (
            "DELETE FROM plain.orders WHERE id = 5; INSERT INTO plain.orders SELECT 9999, 5, 5, '2026-01-06'",
            "plain.orders",
        ),
    ],
)
def test_a_digest_notices_any_change_of_one_value(
    cluster: Cluster, odd: str, tmp_path: Path, change: str, table: str
) -> None:
    cluster.sql("ALTER TABLE plain.orders DROP CONSTRAINT later", odd)
    before = dump(cluster.engine(odd), tmp_path).manifest.fingerprint
    cluster.sql(change, odd)
    after = dump(cluster.engine(odd), tmp_path).manifest.fingerprint
    assert before is not None and after is not None
    assert before.differences(after) == [f"table {table} has other contents"]


def test_a_digest_does_not_depend_on_settings_or_the_order_of_rows_and_columns(
    cluster: Cluster, odd: str, tmp_path: Path
) -> None:
    before = dump(cluster.engine(odd), tmp_path).manifest.fingerprint
    for setting in (
        "DateStyle = 'SQL, DMY'",
        "IntervalStyle = 'iso_8601'",
        "TimeZone = 'Asia/Tokyo'",
        "bytea_output = 'escape'",
        "extra_float_digits = -10",
        "search_path = 'plain'",
        "quote_all_identifiers = on",
    ):
        cluster.sql(f"ALTER DATABASE {odd} SET {setting}")
    cluster.sql("CLUSTER plain.orders USING orders_pkey; UPDATE plain.events SET what = what", odd)
    cluster.sql("ALTER TABLE plain.parent ADD COLUMN b2 text; UPDATE ONLY plain.parent SET b2 = b", odd)
    cluster.sql("UPDATE plain.child SET b2 = b; ALTER TABLE plain.parent DROP COLUMN b", odd)
    cluster.sql("ALTER TABLE plain.parent RENAME COLUMN b2 TO b", odd)
    assert dump(cluster.engine(odd), tmp_path).manifest.fingerprint == before


def test_the_fingerprint_is_of_the_dumps_snapshot_while_pgbench_writes(
    cluster: Cluster, database: str, tmp_path: Path
) -> None:
    cluster.program("pgbench", "--initialize", "--quiet", "--scale=1", name=database)
    engine = cluster.engine(database)
    arguments = [
        "--client=2",
        "--time=600",
        "--no-vacuum",
        "--host",
        str(cluster.directory),
        "--port",
        str(cluster.port),
    ]
    bench = subprocess.Popen(
        [str(cluster.programs / "pgbench"), *arguments, "--username=postgres", database],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not cluster.value("SELECT count(*) FROM pgbench_history", database):
            pass
        backups = [dump(engine, tmp_path / str(number)) for number in range(3)]
        later = cluster.value("SELECT count(*) FROM pgbench_history", database)
    finally:
        bench.kill()
        bench.wait()
    rows = [
        backup.manifest.fingerprint.tables["public.pgbench_history"].rows
        for backup in backups
        if backup.manifest.fingerprint
    ]
    assert rows[0] < rows[1] < rows[2] < later
    for number, backup in enumerate(backups):
        restore(cluster.engine(f"{database}_{number}"), backup)


def test_tables_left_out_are_named_by_patterns_and_a_pattern_that_matches_nothing_is_said(
    cluster: Cluster, database: str, tmp_path: Path
) -> None:
    cluster.sql(
        'CREATE SCHEMA logs; CREATE TABLE logs.a1 (); CREATE TABLE logs.a2 (); CREATE TABLE logs."B.c" ();'
        "CREATE TABLE kept (id serial); CREATE TABLE a1 (id serial primary key);"
        "CREATE TABLE parts (n integer) PARTITION BY LIST (n);"
        "CREATE TABLE other_name PARTITION OF parts FOR VALUES IN (1); INSERT INTO parts VALUES (1)",
        database,
    )
    engine = cluster.engine(database)
    wanted = options(exclude_tables=("logs.a?", "logs.B.c", "public.a*", "parts", "absent*"))
    engine.check_dump(wanted)
    backup = dump(engine, tmp_path, wanted)
    assert backup.warnings == (
        f'exclude_tables: "absent*" matches no table of database "{database}" on {engine._access.label}.',
    )
    restore(cluster.engine(database + "_copy"), backup)
    found = cluster.sql("SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace::regnamespace::text "
                        "IN ('public', 'logs')", database + "_copy")  # fmt: skip
    assert found == [("kept",)]


@pytest.mark.parametrize(
    "name",
    [
        "a=b",
        "postgres://x",
        'it\'s "quoted"',
        "with space",
        "Größe 日本",
        "UPPER",
        "-leading",
        "back\\slash",
        "x{0}%s",
        "$user",
    ],
)
def test_a_database_of_any_name_is_dumped_restored_and_replaced(cluster: Cluster, tmp_path: Path, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    cluster.sql(f"CREATE DATABASE {quoted}")
    try:
        cluster.sql("CREATE TABLE mine AS SELECT 1 AS n", name)
        engine = cluster.engine(name)
        assert engine.inspect().exists
        backup = dump(engine, tmp_path, options(globals=True))
        cluster.sql("DELETE FROM mine", name)
        kept = restore(engine, backup, replace=True, keep_replaced=True)
        assert kept == f"{name}__replaced_{backup.manifest.id}"
        assert cluster.value("SELECT count(*) FROM mine", name) == 1
        assert cluster.value("SELECT count(*) FROM mine", kept) == 0
    finally:
        for found in cluster.databases():
            if found.startswith(name):
                cluster.sql('DROP DATABASE "' + found.replace('"', '""') + '"')


def test_the_callers_environment_leads_to_no_other_database(
    cluster: Cluster, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = tmp_path / "service"
    service.write_text("[other]\nhostaddr=127.0.0.9\nhost=nowhere.invalid\nport=1\ndbname=postgres\nuser=nobody\n")
    for name, value in {
        "PGHOST": "nowhere.invalid",
        "PGHOSTADDR": "127.0.0.9",
        "PGPORT": "1",
        "PGDATABASE": "postgres",
        "PGUSER": "nobody",
        "PGPASSWORD": "wrong",
        "PGPASSFILE": "/dev/null",
        "PGSERVICE": "other",
        "PGSERVICEFILE": str(service),
        "PGOPTIONS": "-c search_path=nowhere",
        "PGTARGETSESSIONATTRS": "standby",
        "PGCLIENTENCODING": "LATIN1",
        "PGAPPNAME": "other",
    }.items():
        monkeypatch.setenv(name, value)
    engine = cluster.engine(database)
    assert engine.inspect().exists
    with engine._access.connect(database) as connection:
        connection.run("CREATE TABLE public.\"ü\" AS SELECT '日本'::text AS t")
    backup = dump(engine, tmp_path, options(globals=True))
    restore(engine, backup, replace=True)
    monkeypatch.delenv("PGOPTIONS")
    monkeypatch.undo()
    assert cluster.value('SELECT t FROM "ü"', database) == "日本"
    with engine.load_globals() as loading:
        transfer(backup.globals, loading.load, engine)
        loading.loaded()


def test_no_password_shows_in_the_processes_of_a_dump_and_a_restore(
    cluster: Cluster, database: str, tmp_path: Path
) -> None:
    engine = cluster.engine(database)
    backup = dump(engine, tmp_path, options(FingerprintKind.COUNTS))
    with engine.snapshot(options(globals=True)) as snapshot, engine.stage(backup.manifest, None, 1) as staging:
        for command in (snapshot.dump, snapshot.globals, staging.load):
            shown = repr(command)
            assert PASSWORD not in shown and repr(PASSWORD)[1:-1] not in shown and "a:b" not in shown


def test_a_password_of_the_callers_environment_reaches_programs_by_a_file(
    cluster: Cluster, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    engine = cluster.engine(database, password=None)
    with engine.snapshot(options()) as snapshot:
        assert isinstance(snapshot.dump, Command)
        assert "PGPASSWORD" not in snapshot.dump.environment and PASSWORD not in repr(snapshot.dump)
    assert dump(engine, tmp_path).path.stat().st_size > 0


def test_an_examination_reads_a_whole_dump_and_refuses_one_that_is_cut_short(
    cluster: Cluster, odd: str, tmp_path: Path
) -> None:
    from _engine.errors import Damaged

    engine = cluster.engine(odd)
    backup = dump(engine, tmp_path)
    with engine.examine(backup.manifest) as examination:
        transfer(backup.path, examination.load, engine)
        examination.conclude()
    content = backup.path.read_bytes()
    for length in (0, 3, len(content) // 2, len(content) - 2000):
        backup.path.write_bytes(content[:length])
        with pytest.raises(Damaged), engine.examine(backup.manifest) as examination:
            transfer(backup.path, examination.load, engine)
