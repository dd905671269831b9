# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host with an agent, a job and backups that is put back as it was before each run, and what must hold after one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator

from _engine import keys
from _engine.catalogue import Catalogue, place_of, scan, whole
from _engine.cipher import opening
from _engine.model import Database, EncryptionSettings, EngineName, Place
from _engine.repositories.local import LocalRepository
from injection import Ended, Fault, Forge, Mode, forge, locked_file

if TYPE_CHECKING:
    from postgres import Cluster

#: Stands in every row, so that rows in plain are found wherever they are.
MARK = "plain-row-of-the-shop"
#: What SQLite keeps beside an open database.
_SIDECARS = ("-wal", "-shm")
#: The sites that are kept: a sound one, and one where runs were killed.
BACKED_UP, KILLED = "backed up", "killed"


class Site:
    """Everything lives below ``root``, which is put back from ``template``; a test's class says what a database is."""

    def __init__(self, base: Path, forge: Forge) -> None:
        self.base, self.root, self.forge = base, base / "site", forge
        #: What a verb does here where nothing fails: how many calls it makes, and what the database holds then.
        self.sound: dict[Any, tuple[int, Any]] = {}
        self.private = keys.generate().decode()
        self.public = keys.public_pem(self.private.encode()).decode()
        self.repository = LocalRepository(self.root / "backups")
        for name in ("backups", "data", "etc/jobs.d", "tmp"):
            (self.root / name).mkdir(parents=True)
        (self.root / "etc" / "key.pem").write_text(self.private)
        (self.root / "etc" / "key.pub").write_text(self.public)
        (self.root / "etc" / "other.pub").write_bytes(keys.public_pem(keys.generate()))
        (self.root / "etc" / "key.pem").chmod(0o600)
        settings = {"host": "web1", "state": str(self.root / "state")}
        (self.root / "etc" / "agent.json").write_text(json.dumps(settings))
        (self.root / "etc" / "jobs.d" / "shop.json").write_text(json.dumps({**self.job, **self.database}))

    #: What of the job is the engine's own.
    database: dict[str, Any]
    #: At how many calls of a verb to try a kill, and at a third of them each other fault, unless all are asked for.
    most = 6

    @property
    def job(self) -> dict[str, Any]:
        return {
            "repositories": [{"path": str(self.root / "backups"), "retention": {"keep_last": 2}}],
            "encryption": {
                "recipients": [str(self.root / "etc" / "key.pub")],
                "identities": [str(self.root / "etc" / "key.pem")],
            },
            "health": {"room": 0, "min_free": 0.0},
        }

    # Running

    def agent(self, *arguments: str, **how: Any) -> Ended:
        """Run the agent's command in a fork of the warm process."""
        config = str(self.root / "etc" / "agent.json")
        environment = {"TMPDIR": str(self.root / "tmp")}
        return self.forge.run("agent", [*arguments, "--config", config], environment=environment, **how)

    def call(self, module: str, function: str, how: dict[str, Any] | None = None, **arguments: Any) -> Ended:
        """Call a function of a test's module in a fork of the warm process."""
        order = {"module": module, "function": function, **arguments}
        return self.forge.run("call", order, environment={"TMPDIR": str(self.root / "tmp")}, **(how or {}))

    # Putting back

    def keep(self, name: str) -> None:
        """Keep the site as it is now under a name."""
        shutil.copytree(self.root, self.base / name, symlinks=True)

    def reset(self, name: str) -> None:
        """Put the site back as it was when it was kept."""
        shutil.rmtree(self.root)
        shutil.copytree(self.base / name, self.root, symlinks=True)
        self.reset_database()

    def keep_database(self) -> None:
        """Keep what of a database is not below the root."""

    def reset_database(self) -> None:
        """Put back what of a database is not below the root."""

    # What must hold

    def content(self) -> Any:
        """All that the database holds, as its application sees it; the site stays as it is."""
        raise NotImplementedError

    @property
    def place(self) -> Place:
        raise NotImplementedError

    def beside(self) -> list[str]:
        """What is beside the database that is not the database."""
        raise NotImplementedError

    @property
    def directory(self) -> Path:
        return self.root / "backups" / self.place.path

    def catalogue(self) -> Catalogue:
        return scan(self.repository, self.place, datetime.now(timezone.utc))

    def ids(self) -> list[str]:
        return [backup.id for backup in self.catalogue().backups]

    def expect_whole(self, known: list[str], more: int = 1) -> None:
        """What is listed is whole, in bytes and in keys; it is ``known``, and at most so many ``more``."""
        catalogue = self.catalogue()
        listed = [backup.id for backup in catalogue.backups]
        assert set(known) <= set(listed)
        assert len(listed) <= len(known) + more
        settings = EncryptionSettings(identities=(self.private,))
        for backup in catalogue.backups:
            assert backup.known_bad is None
            for artefact in backup.manifest.artefacts:
                stored = (self.directory / artefact.name).read_bytes()
                assert (len(stored), hashlib.sha256(stored).hexdigest()) == (artefact.bytes, artefact.sha256)
                with opening(settings, whole(self.repository, backup), artefact):
                    pass

    def expect_no_plaintext(self) -> None:
        """No row lies in plain where it may never be: in the repository, the state and the logs."""
        for directory in ("backups", "state", "etc"):
            for path in (self.root / directory).rglob("*"):
                if path.is_file():
                    assert MARK.encode() not in path.read_bytes(), path

    def expect_clean(self) -> None:
        """Nothing tells of a run that was killed."""
        assert self.catalogue().problems == ()
        hidden = [str(path) for path in (self.root / "backups").rglob(".*")]
        assert hidden == []
        assert [path.name for path in (self.root / "tmp").iterdir() if not _is_probe(path)] == []
        assert self.beside() == []
        status = self.root / "state" / "status"
        assert [path.name for path in status.iterdir()] == [] if status.exists() else True
        locks = self.root / "state" / "locks"
        assert [path.name for path in locks.glob("*.lock") if locked_file(path)] == []
        self.expect_no_plaintext()

    def audit(self) -> list[dict[str, Any]]:
        """The lines of the audit log that can be read."""
        path = self.root / "state" / "audit.jsonl"
        found = []
        for line in path.read_bytes().splitlines() if path.exists() else ():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def traces(self) -> list[str]:
        """What tells that a run did not end: its status, or its name on its lock."""
        state = self.root / "state"
        found = [str(path) for path in (state / "status").glob("*")]
        return found + [str(path) for path in (state / "locks").glob("*.lock") if path.read_bytes()]

    def changed_since(self, name: str) -> list[str]:
        """The files of the repository and beside the database that differ from a kept site's."""
        return sorted(_tree(self.root) ^ _tree(self.base / name))


def _tree(root: Path) -> set[str]:
    found = set()
    for part in ("backups", "data"):
        for path in (root / part).rglob("*"):
            if path.is_file() and not path.name.endswith(_SIDECARS):
                found.add(f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}")
    return found


class SqliteSite(Site):
    """The shop's database is a file in WAL mode, and a crash has left commits in its log."""

    @property
    def path(self) -> Path:
        return self.root / "data" / "shop.db"

    @property
    def database(self) -> dict[str, Any]:  # type: ignore[override]
        return {"engine": "sqlite", "database": str(self.path)}

    @property
    def place(self) -> Place:
        return place_of("web1", Database(EngineName.SQLITE, str(self.path)))

    def write(self, orders: int) -> None:
        """Write orders as an application that crashes before it closes the database."""
        scratch = self.base / "writing"
        scratch.mkdir()
        for path in (self.root / "data").iterdir():
            shutil.copy(path, scratch)
        with closing(sqlite3.connect(scratch / "shop.db")) as connection:
            connection.execute("PRAGMA journal_mode = wal")
            connection.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, item TEXT)")
            items = [(f"{MARK}-{os.urandom(20).hex()}",) for _order in range(orders)]
            connection.executemany("INSERT INTO orders (item) VALUES (?)", items)
            connection.commit()
            for path in scratch.iterdir():
                shutil.copy(path, self.root / "data")
        shutil.rmtree(scratch)

    def content(self) -> Any:
        with tempfile.TemporaryDirectory(dir=self.base) as copy:
            for path in (self.root / "data").iterdir():
                shutil.copy(path, copy)
            with closing(sqlite3.connect(Path(copy) / "shop.db")) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                return connection.execute("SELECT * FROM orders ORDER BY id").fetchall()

    def beside(self) -> list[str]:
        names = sorted(path.name for path in (self.root / "data").iterdir())
        asked_for = ("shop.db", *_SIDECARS)
        return [name for name in names if not name.endswith(asked_for) and ".replaced-" not in name]


class PostgresqlSite(Site):
    """The shop's database is on a real server, beside a copy that it is put back from."""

    most = 3

    def __init__(self, base: Path, forge: Forge, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        cluster.sql(f"CREATE DATABASE {name}")
        cluster.sql("CREATE TABLE orders (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item text)", name)
        super().__init__(base, forge)

    @property
    def database(self) -> dict[str, Any]:  # type: ignore[override]
        login = {"login_unix_socket": str(self.cluster.directory), "login_port": self.cluster.port}
        return {"engine": "postgresql", "database": self.name, "login_user": "postgres", **login}

    @property
    def place(self) -> Place:
        return place_of("web1", Database(EngineName.POSTGRESQL, self.name))

    def write(self, orders: int) -> None:
        self.cluster.sql(
            f"INSERT INTO orders (item) SELECT '{MARK}-' || md5(random()::text) FROM generate_series(1, {orders})",
            self.name,
        )

    def keep_database(self) -> None:
        """Let this be what the database is put back to."""
        self.cluster.sql(f"CREATE DATABASE {self.name}_kept TEMPLATE {self.name}")

    def reset_database(self) -> None:
        for found in self.cluster.databases():
            if found.startswith(self.name) and found != f"{self.name}_kept":
                self.cluster.sql(f'DROP DATABASE "{found}" WITH (FORCE)')
        self.cluster.sql(f"CREATE DATABASE {self.name} TEMPLATE {self.name}_kept")

    def content(self) -> Any:
        return self.cluster.sql("SELECT id, item FROM orders ORDER BY id", self.name)

    def beside(self) -> list[str]:
        asked_for = (self.name, f"{self.name}_kept", "postgres", "template0", "template1")
        return [name for name in self.cluster.databases() if name not in asked_for and "__replaced_" not in name]


def _is_probe(path: Path) -> bool:
    """Whether it is Python's own: tempfile.gettempdir() tries a directory by writing this into it."""
    return path.is_file() and path.read_bytes() in (b"", b"bl", b"blat")


@contextmanager
def base_directory() -> Iterator[Path]:
    """A directory that is quick to put back: in memory where that is possible."""
    memory = Path("/dev/shm")
    where = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="faults-site-", dir=where) as made:
        # The account of a scratch cluster passes through.
        os.chmod(made, 0o755)
        yield Path(made)


@contextmanager
def sqlite_site() -> Iterator[SqliteSite]:
    """A shop in SQLite."""
    with base_directory() as base, forge(base / "site") as running:
        yield _settled(SqliteSite(base, running))


@contextmanager
def postgresql_site() -> Iterator[PostgresqlSite]:
    """A shop in PostgreSQL, of whose runs also what they send to the server is counted."""
    from postgres import make_scratch_account, running_cluster

    make_scratch_account()
    with running_cluster() as cluster, base_directory() as base, forge(base / "site", ("socket:",)) as running:
        site = PostgresqlSite(base, running, cluster, "shop")
        yield _settled(site)


def _settled(site: Any) -> Any:
    """With three backups, the oldest of which retention would remove, and with leftovers of runs that were killed."""
    for orders in (300, 40, 40):
        site.write(orders)
        ended = site.agent("run", "shop")
        assert ended.status == 0, ended.output
    site.write(40)
    site.keep_database()
    site.keep(BACKED_UP)
    for arguments in (("run", "shop"), ("restore", "shop", "--yes", "--replace"), ("verify", "shop")):
        calls = site.agent(*arguments, "--dry-run").calls
        site.agent(*arguments, fault=Fault(Mode.KILL), number=calls + 40)
    site.keep(KILLED)
    return site
