# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Databases with Debian's extensions: each with a type, an index or a table of its extension in use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Foreign:
    """A database that uses extensions, and the statements that make it."""

    name: str
    extensions: tuple[str, ...]
    sql: str


#: What postgresql brings by itself: part of ``make test``.
CONTRIB = (
    Foreign(
        "hstore",
        ("hstore",),
        "CREATE TABLE t (id int PRIMARY KEY, h hstore CHECK (h ? 'a'));"
        "CREATE INDEX ON t USING gin (h); CREATE INDEX ON t ((h -> 'a'));"
        "INSERT INTO t SELECT n, hstore('a', n::text) || 'b=>NULL' FROM generate_series(1, 200) n;",
    ),
    Foreign(
        "citext",
        ("citext",),
        "CREATE DOMAIN email AS citext CHECK (VALUE ~ '@');"
        "CREATE TABLE t (mail email UNIQUE, name citext DEFAULT 'Anon');"
        "INSERT INTO t VALUES ('A@x'), ('b@x');"
        "CREATE MATERIALIZED VIEW v AS SELECT mail FROM t WHERE mail = 'a@X';",
    ),
    Foreign(
        "ltree",
        ("ltree",),
        "CREATE TABLE t (path ltree, tags lquery[]); CREATE INDEX ON t USING gist (path);"
        "INSERT INTO t SELECT ('top.n' || n)::ltree, ARRAY['top.*'::lquery] FROM generate_series(1, 200) n;",
    ),
    Foreign(
        "trigrams",
        ("pg_trgm", "fuzzystrmatch", "unaccent"),
        "CREATE TABLE t (word text); CREATE INDEX ON t USING gin (word gin_trgm_ops);"
        "CREATE INDEX ON t USING gist (word gist_trgm_ops (siglen=32));"
        "INSERT INTO t SELECT md5(n::text) FROM generate_series(1, 200) n;"
        "CREATE TEXT SEARCH CONFIGURATION plain (COPY = simple);"
        "ALTER TEXT SEARCH CONFIGURATION plain ALTER MAPPING FOR word WITH unaccent, simple;"
        "CREATE INDEX ON t USING gin (to_tsvector('plain', word));",
    ),
    Foreign(
        "crypto",
        ("pgcrypto", "uuid-ossp"),
        "CREATE TABLE t (id uuid PRIMARY KEY DEFAULT uuid_generate_v4(), other uuid DEFAULT gen_random_uuid(),"
        " secret bytea); INSERT INTO t (secret) SELECT pgp_sym_encrypt(n::text, 'k') FROM generate_series(1, 30) n;",
    ),
    Foreign(
        "gist",
        ("btree_gist", "btree_gin", "intarray", "cube", "earthdistance", "seg", "isn", "bloom"),
        "CREATE TABLE rooms (room int, during tsrange, EXCLUDE USING gist (room WITH =, during WITH &&));"
        "INSERT INTO rooms SELECT n, tsrange(now()::timestamp, NULL) FROM generate_series(1, 50) n;"
        "CREATE TABLE t (a int[], c cube, s seg, i isbn13, n int); CREATE INDEX ON t USING gist (a gist__intbig_ops);"
        "CREATE INDEX ON t USING bloom (n);"
        "INSERT INTO t VALUES ('{1,2}', '(1,2)', '1 .. 2', '978-0-393-04002-9', 7);",
    ),
    Foreign(
        "elsewhere",
        ("postgres_fdw", "file_fdw", "dblink", "lo", "tablefunc"),
        "CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '1');"
        "CREATE USER MAPPING FOR postgres SERVER far OPTIONS (user 'x', password 'y');"
        "CREATE FOREIGN TABLE away (n int) SERVER far; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;"
        "CREATE FOREIGN TABLE hosts (line text) SERVER files OPTIONS (filename '/etc/hosts');"
        "CREATE TABLE t (big lo); CREATE TRIGGER keep BEFORE UPDATE OR DELETE ON t"
        " FOR EACH ROW EXECUTE FUNCTION lo_manage(big);"
        "INSERT INTO t SELECT lo_from_bytea(0, decode(repeat(md5(n::text), 100), 'hex')) FROM generate_series(1, 5) n;",
    ),
)

#: What Debian packages bring: ``make foreign``.
PACKAGED = (
    Foreign(
        "postgis",
        ("postgis", "postgis_topology", "postgis_raster"),
        "CREATE TABLE t (id int PRIMARY KEY, place geometry(Point, 4326), area geography);"
        "CREATE INDEX ON t USING gist (place); CREATE INDEX ON t USING spgist (place);"
        "INSERT INTO t SELECT n, ST_SetSRID(ST_MakePoint(n, n / 2.0), 4326), 'POINT(1 2)'"
        " FROM generate_series(1, 80) n;"
        "INSERT INTO spatial_ref_sys VALUES (990001, 'ours', 1, 'LOCAL_CS[\"x\"]', '+proj=longlat');"
        "SELECT topology.CreateTopology('town', 4326);"
        "CREATE VIEW far AS SELECT id FROM t WHERE ST_X(place) > 40;",
    ),
    Foreign(
        "pg_partman",
        ("pg_partman",),
        "CREATE TABLE logs (at timestamptz NOT NULL, line text) PARTITION BY RANGE (at);"
        "SELECT partman.create_parent('public.logs', 'at', 'native', 'daily');"
        "INSERT INTO logs VALUES (now(), 'now'), ('2001-01-01', 'old');",
    ),
    Foreign(
        "orafce",
        ("orafce",),
        "CREATE TABLE t (a oracle.varchar2(10), b oracle.date, c oracle.nvarchar2(5));"
        "INSERT INTO t VALUES ('x', now(), 'y');"
        "CREATE VIEW v AS SELECT oracle.nvl(a::text, 'n') AS a FROM t, oracle.dual;",
    ),
    Foreign(
        "ip4r",
        ("ip4r",),
        "CREATE TABLE t (net ip4r, six iprange); CREATE INDEX ON t USING gist (net);"
        "ALTER TABLE t ADD EXCLUDE USING gist (six WITH &&); INSERT INTO t VALUES ('10.0.0.0/8', 'fe80::/10');",
    ),
    Foreign(
        "semver",
        ("semver",),
        "CREATE TABLE t (version semver PRIMARY KEY); INSERT INTO t VALUES ('1.2.3'), ('1.2.3-rc.1'), ('10.0.0');",
    ),
    Foreign(
        "unit",
        ("unit",),
        "CREATE TABLE t (size unit); INSERT INTO unit_units VALUES ('parrot', '3 m', 0);"
        "INSERT INTO t VALUES ('9.81 N'), ('3 parrot'); CREATE INDEX ON t (size);",
    ),
    Foreign(
        "periods",
        ("btree_gist", "periods"),
        "CREATE TABLE t (id int PRIMARY KEY, valid_from date, valid_to date, name text);"
        "SELECT periods.add_period('t', 'valid', 'valid_from', 'valid_to');"
        "SELECT periods.add_unique_key('t', ARRAY['id'], 'valid');"
        "SELECT periods.add_system_time_period('t'); SELECT periods.add_for_portion_view('t', 'valid');"
        "INSERT INTO t VALUES (1, '2020-01-01', '2021-01-01', 'a');",
    ),
    Foreign("hypopg", ("hypopg",), "CREATE TABLE t (n int); INSERT INTO t VALUES (1);"),
    Foreign(
        "pgaudit",
        ("pgaudit",),
        "CREATE TABLE t (n int); INSERT INTO t VALUES (1);"
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET pgaudit.log = ''write''', current_database()); END $$;",
    ),
    Foreign(
        "numbers_and_prefixes",
        ("prefix", "numeral", "pg_rational"),
        "CREATE TABLE t (p prefix_range, n numeral, r rational);"
        "INSERT INTO t VALUES ('0800', 'forty-two', '1/3'); CREATE INDEX ON t USING gist (p);",
    ),
    Foreign(
        "plpython",
        ("plpython3u", "hstore", "hstore_plpython3u", "jsonb_plpython3u"),
        "CREATE FUNCTION twice(n int) RETURNS int LANGUAGE plpython3u IMMUTABLE AS 'return 2 * n';"
        "CREATE TABLE t (n int CHECK (twice(n) > 0), m int GENERATED ALWAYS AS (twice(n)) STORED);"
        "CREATE INDEX ON t (twice(n)); INSERT INTO t SELECT generate_series(1, 20);",
    ),
    Foreign(
        "rum",
        ("rum",),
        "CREATE TABLE t (body text, words tsvector, at timestamp);"
        "INSERT INTO t SELECT 'word ' || n, to_tsvector('simple', 'word ' || n), now() FROM generate_series(1, 100) n;"
        "CREATE INDEX ON t USING rum (words rum_tsvector_addon_ops, at) WITH (attach = 'at', to = 'words');",
    ),
    Foreign(
        "sketches",
        ("hll", "tdigest"),
        "CREATE TABLE t (users hll, times tdigest);"
        "INSERT INTO t SELECT hll_add_agg(hll_hash_integer(n)), tdigest(n, 100) FROM generate_series(1, 500) n;"
        "CREATE VIEW v AS SELECT hll_cardinality(users) AS users FROM t;",
    ),
    Foreign(
        "sky",
        ("q3c",),
        "CREATE TABLE t (ra double precision, dec double precision);"
        "INSERT INTO t SELECT n, n / 3.0 FROM generate_series(1, 80) n;"
        "CREATE INDEX ON t (q3c_ang2ipix(ra, dec));",
    ),
    Foreign(
        "numbers",
        ("pgmp", "first_last_agg"),
        "CREATE TABLE t (big mpz PRIMARY KEY, part mpq); INSERT INTO t VALUES (2::mpz ^ 300, '22/7'), (7, '1/3');"
        "CREATE MATERIALIZED VIEW v AS SELECT first(big ORDER BY big) AS big FROM t;",
    ),
    Foreign(
        "jsquery",
        ("jsquery",),
        "CREATE TABLE t (doc jsonb, want jsquery); CREATE INDEX ON t USING gin (doc jsonb_path_value_ops);"
        "INSERT INTO t SELECT jsonb_build_object('n', n), 'n > 5'::jsquery FROM generate_series(1, 50) n;",
    ),
    Foreign(
        "queue",
        ("pgq",),
        "SELECT pgq.create_queue('events'); SELECT pgq.register_consumer('events', 'reader');"
        "SELECT pgq.insert_event('events', 'kind', 'data'); CREATE TABLE t (n int);"
        "CREATE TRIGGER log AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION pgq.logutriga('events');"
        "INSERT INTO t VALUES (1);",
    ),
    Foreign(
        "table_log",
        ("table_log",),
        "CREATE TABLE t (id int PRIMARY KEY, name text);"
        "SELECT table_log_init(5, 'public', 't', 'public', 't_log');"
        "INSERT INTO t VALUES (1, 'a'); UPDATE t SET name = 'b';",
    ),
    Foreign(
        "pgtap",
        ("pgtap", "plpgsql_check"),
        "CREATE FUNCTION tests() RETURNS SETOF text LANGUAGE sql AS 'SELECT pass(''it holds'')';"
        "CREATE TABLE t (n int); INSERT INTO t VALUES (1);",
    ),
    Foreign(
        "shells",
        ("plsh", "pllua"),
        "CREATE FUNCTION greet(name text) RETURNS text LANGUAGE plsh AS E'#!/bin/sh\necho hello $1';"
        "CREATE FUNCTION twice(n int) RETURNS int LANGUAGE pllua IMMUTABLE AS 'return 2 * n';"
        "CREATE TABLE t (n int CHECK (twice(n) > 0)); INSERT INTO t VALUES (1); CREATE INDEX ON t (twice(n));",
    ),
    Foreign(
        "roads",
        ("postgis", "pgrouting", "pointcloud", "pointcloud_postgis"),
        "CREATE TABLE edges (id bigserial PRIMARY KEY, source bigint, target bigint, cost float, way geometry);"
        "INSERT INTO edges (source, target, cost, way) SELECT n, n + 1, 1, ST_MakeLine(ST_MakePoint(n, 0),"
        " ST_MakePoint(n + 1, 0)) FROM generate_series(1, 20) n;"
        "CREATE VIEW v AS SELECT seq, node FROM"
        " pgr_dijkstra('SELECT id, source, target, cost FROM public.edges', 1, 5);",
    ),
    Foreign(
        "foreign_servers",
        ("mysql_fdw", "tds_fdw", "ogr_fdw"),
        "CREATE SERVER far FOREIGN DATA WRAPPER mysql_fdw OPTIONS (host '127.0.0.1', port '1');"
        "CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (username 'a', password 'b');"
        "CREATE FOREIGN TABLE away (n int) SERVER far OPTIONS (dbname 'd', table_name 't');"
        "CREATE SERVER near FOREIGN DATA WRAPPER tds_fdw OPTIONS (servername '127.0.0.1', port '1');"
        "CREATE VIEW v AS SELECT * FROM away; CREATE TABLE t (n int); INSERT INTO t VALUES (1);",
    ),
)
