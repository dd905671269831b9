# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever depends on a table that is left out: the backup is refused, or its restore works."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Optional

from _engine.errors import BadInput
from _engine.model import Level, Outcome
from postgres import Cluster, options
from world import World

#: What depends on the table ``{t}``, by its kind.
DEPENDENTS: Dict[str, str] = {
    "view": "CREATE VIEW {t}_v AS SELECT * FROM {t}",
    "materialized_view": "CREATE MATERIALIZED VIEW {t}_v AS SELECT * FROM {t}",
    "rule": "CREATE TABLE {t}_o (n int); CREATE RULE log AS ON INSERT TO {t}_o DO ALSO INSERT INTO {t} VALUES (1)",
    "rule_of_its_own": "CREATE RULE log AS ON DELETE TO {t} DO INSTEAD NOTHING",
    "foreign_key": "CREATE TABLE {t}_o (n int REFERENCES {t})",
    "foreign_key_of_its_own": "CREATE TABLE {t}_o (n int PRIMARY KEY);"
    "ALTER TABLE {t} ADD FOREIGN KEY (n) REFERENCES {t}_o",
    "child": "CREATE TABLE {t}_o (m int) INHERITS ({t})",
    "parent": "CREATE TABLE {t}_p (n int, t text); ALTER TABLE {t} INHERIT {t}_p",
    "function_with_an_sql_body": "CREATE FUNCTION {t}_f() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM {t}; END",
    "function_with_a_text_body": "CREATE FUNCTION {t}_f() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM {t}'",
    "function_of_its_rows": "CREATE FUNCTION {t}_f({t}) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "function_that_returns_its_rows": "CREATE FUNCTION {t}_f() RETURNS SETOF {t} LANGUAGE sql AS 'SELECT * FROM {t}'",
    "publication": "CREATE PUBLICATION {t}_p FOR TABLE {t} WHERE (n > 1); CREATE TABLE {t}_o (n int);"
    "ALTER PUBLICATION {t}_p ADD TABLE {t}_o",
    "statistics": "CREATE STATISTICS {t}_s ON n, t FROM {t}",
    "statistics_elsewhere": "CREATE SCHEMA {t}_s; CREATE STATISTICS {t}_s.s ON (n + 1), t FROM {t}",
    "sequence_owned_by_it": "CREATE SEQUENCE {t}_q OWNED BY {t}.n",
    "default_of_its_sequence": "CREATE SEQUENCE {t}_q OWNED BY {t}.n;"
    "CREATE TABLE {t}_o (n int DEFAULT nextval('{t}_q'))",
    "identity": "ALTER TABLE {t} ADD i int GENERATED ALWAYS AS IDENTITY",
    "default_of_its_identity": "ALTER TABLE {t} ADD i int GENERATED ALWAYS AS IDENTITY;"
    "CREATE TABLE {t}_o (n int DEFAULT nextval('{t}_i_seq'))",
    "policy": "CREATE TABLE {t}_o (n int); CREATE POLICY p ON {t}_o USING (EXISTS (SELECT FROM {t}))",
    "policy_of_its_own": "CREATE POLICY p ON {t} USING (true)",
    "trigger_of_its_own": "CREATE TRIGGER g BEFORE UPDATE ON {t} FOR EACH ROW"
    " EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "constraint_trigger": "CREATE TABLE {t}_o (n int); CREATE CONSTRAINT TRIGGER g AFTER UPDATE ON {t}_o FROM {t}"
    " FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "trigger_whose_function_reads_it": "CREATE TABLE {t}_o (n int);"
    "CREATE FUNCTION {t}_f() RETURNS trigger LANGUAGE plpgsql"
    " AS 'BEGIN PERFORM FROM {t}; RETURN NULL; END'; CREATE TRIGGER g AFTER INSERT ON {t}_o EXECUTE FUNCTION {t}_f()",
    "column_of_its_type": "CREATE TABLE {t}_o (x {t})",
    "column_of_an_array_of_its_type": "CREATE TABLE {t}_o (x {t}[])",
    "domain_over_its_type": "CREATE DOMAIN {t}_d AS {t}",
    "type_of_its_type": "CREATE TYPE {t}_c AS (x {t})",
    "default_of_its_type": "CREATE TABLE {t}_o (x text DEFAULT (ROW(1, 'a')::{t})::text)",
    "check_of_its_type": "CREATE TABLE {t}_o (x text CHECK ((ROW(1, x)::{t}) IS NOT NULL))",
    "index_of_its_type": "CREATE TABLE {t}_o (x int); CREATE INDEX ON {t}_o (((ROW(x, 'a')::{t}).n))",
    "cast_of_its_type": "CREATE FUNCTION {t}_f({t}) RETURNS int LANGUAGE sql AS 'SELECT 1';"
    "CREATE CAST ({t} AS int) WITH FUNCTION {t}_f({t})",
    "comment": "COMMENT ON COLUMN {t}.n IS 'x'; CREATE INDEX ON {t} (t)",
    "typed_table": "CREATE TYPE {t}_c AS (n int); CREATE TABLE {t}_o OF {t}_c",
}
PARTITIONED = """
CREATE TABLE parts (n int PRIMARY KEY) PARTITION BY RANGE (n);
CREATE TABLE low PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE TABLE high PARTITION OF parts FOR VALUES FROM (10) TO (20);
INSERT INTO parts VALUES (1), (11);
"""


def refusal(cluster: Cluster, database: str, *tables: str) -> Optional[str]:
    """Why a backup without these tables is refused."""
    try:
        cluster.engine(database).check_dump(options(exclude_tables=tables))
    except BadInput as error:
        return str(error)
    return None


def test_a_backup_without_a_table_is_refused_or_can_be_restored(
    cluster: Cluster, database: str, tmp_path: Path
) -> None:
    taken = []
    for kind, sql in DEPENDENTS.items():
        table = f"t_{kind}"
        cluster.sql(f"CREATE TABLE {table} (n int PRIMARY KEY, t text); {sql.format(t=table)}", database)
        said = refusal(cluster, database, table)
        if said is None:
            taken.append(table)
        else:
            assert said.startswith(f"exclude_tables: table public.{table} cannot be left out"), said
            assert "Leave out" in said
    cluster.sql(PARTITIONED, database)
    assert refusal(cluster, database, "parts") is refusal(cluster, database, "high") is None
    cluster.sql("CREATE TABLE into_parts (n int REFERENCES parts); INSERT INTO into_parts VALUES (11)", database)
    assert "foreign key" in str(refusal(cluster, database, "high"))
    assert "t_rule" not in taken and "t_constraint_trigger" not in taken and "t_statistics" in taken
    world = World(tmp_path / "world")
    world.database = cluster.database(database)
    world.backup(exclude_tables=tuple(taken))
    (check,) = world.verify(level=Level.RESTORE).checks
    assert check.outcome is Outcome.PASSED, check.detail
    world.restore(database=cluster.database(f"{database}_copy"), source_database=database)
    found = {name for (name,) in cluster.sql("SELECT relname FROM pg_class", f"{database}_copy")}
    assert not found & set(taken) and {"t_view", "t_view_v", "low", "high"} <= found
