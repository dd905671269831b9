# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Backups of plain SQLite databases that others use meanwhile."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Callable, Iterator

import pytest

from _engine.databases.sqlite.copy import _Watch
from _engine.databases.sqlite.tables import problems
from _engine.errors import Damaged, EngineError, Interrupted, Locked, NoSpace, NotADatabase, PermissionDenied
from _engine.interrupts import interruptible
from _engine.model import FingerprintKind
from sqlite_processes import (
    as_nobody,
    crash_after,
    engine_for,
    holding,
    in_child,
    listing,
    options,
    rows,
    writing,
)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes to another account, which only root may")


def committed(path: Path) -> int:
    with closing(sqlite3.connect(str(path), timeout=60)) as connection:
        return connection.execute("SELECT max(n) FROM numbers").fetchone()[0]


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every account can reach."""
    directory = Path(tempfile.mkdtemp(prefix="sqlite-test-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.parametrize(("mode", "backups"), [("WAL", 50), ("DELETE", 20), ("TRUNCATE", 5), ("PERSIST", 5)])
def test_every_backup_during_writing_is_sound_and_holds_what_was_committed_and_nothing_half(
    tmp_path: Path, mode: str, backups: int
) -> None:
    path = tmp_path / "shop.db"
    with writing(path, mode):
        for _number in range(backups):
            before = committed(path)
            with engine_for(path).snapshot(options()) as snapshot:
                copy = Path(shutil.copy(snapshot.dump, tmp_path / "copy.db"))
                fingerprint = snapshot.fingerprint()
            after = committed(path)
            with closing(sqlite3.connect(f"file://{copy}?immutable=1", uri=True)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                numbers = [n for (n,) in connection.execute("SELECT n FROM numbers ORDER BY n")]
                twins = [n for (n,) in connection.execute("SELECT n FROM twins ORDER BY n")]
            assert numbers == twins == list(range(1, len(numbers) + 1))
            assert before <= len(numbers) <= after
            assert fingerprint is not None
            assert {name: table.rows for name, table in fingerprint.tables.items()} == {
                "numbers": len(numbers),
                "twins": len(numbers),
            }
    assert [name for name in listing(tmp_path) if name.startswith(".")] == []


def test_a_writer_in_wal_mode_goes_on_while_the_copy_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "shop.db"
    seen = []
    with writing(path, "WAL"):
        monkeypatch.setattr("_engine.databases.sqlite.copy._PAGES_PER_STEP", 1)
        real = sqlite3.connect

        class Watched(sqlite3.Connection):
            def backup(self, target, *, pages=-1, progress=None, **more):  # type: ignore[no-untyped-def]
                def watch(status: int, remaining: int, total: int) -> None:
                    begun = committed(path)
                    while committed(path) == begun:
                        pass
                    seen.append(committed(path))
                    progress(status, remaining, total)

                super().backup(target, pages=pages, progress=watch, **more)

        monkeypatch.setattr(sqlite3, "connect", lambda *args, **named: real(*args, **{"factory": Watched, **named}))
        with engine_for(path).snapshot(options()) as snapshot:
            (held,) = rows(snapshot.dump, "SELECT max(n) FROM numbers")[0]
    assert len(seen) > 2
    assert held < seen[0] < seen[-1]


WRITE = "BEGIN IMMEDIATE; INSERT INTO t SELECT max(a) + 1 FROM t; COMMIT"


def write_from_outside(path: Path, patience: float = 2.0) -> None:
    """Commit a row in another process, which waits this long for readers."""
    script = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=float(sys.argv[2])).executescript(sys.argv[3])"
    subprocess.run([sys.executable, "-c", script, str(path), str(patience), WRITE], check=True)


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database in a rollback mode that counts as large, and is copied page by page."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(str(path))) as connection:
        connection.executescript("PRAGMA journal_mode = DELETE; CREATE TABLE t (a); CREATE TABLE f (x)")
        connection.executescript("INSERT INTO t VALUES (1); INSERT INTO f VALUES (randomblob(100000))")
    monkeypatch.setattr("_engine.databases.sqlite.copy._BRIEF", 0)
    monkeypatch.setattr("_engine.databases.sqlite.copy._PAGES_PER_STEP", 4)
    return path


def watched(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """Do something after each step of a copy that lets writers in; it gets the number of the step."""
    real, steps = _Watch.__call__, itertools.count(1)

    def watch(self: _Watch, status: int, remaining: int, total: int) -> None:
        real(self, status, remaining, total)
        act(next(steps))

    monkeypatch.setattr(_Watch, "__call__", watch)


def test_a_writer_in_a_rollback_mode_commits_while_a_large_database_is_copied(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched(monkeypatch, lambda step: write_from_outside(large) if step in (2, 5) else None)
    with engine_for(large).snapshot(options()) as snapshot:
        assert rows(snapshot.dump, "SELECT max(a) FROM t") == [(3,)]
        assert snapshot.facts.warnings == ()
        assert snapshot.fingerprint()


def test_a_database_that_is_written_all_the_time_is_copied_under_one_lock_and_that_is_told(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched(monkeypatch, lambda step: write_from_outside(large))
    with engine_for(large).snapshot(options()) as snapshot:
        (held,) = rows(snapshot.dump, "SELECT max(a) FROM t")[0]
        assert held == rows(large, "SELECT max(a) FROM t")[0][0] > 3
        (warning,) = snapshot.facts.warnings
        assert "its writers had to wait" in warning and "journal_mode = WAL" in warning
        assert snapshot.fingerprint()


def test_a_lock_that_comes_in_the_middle_of_a_copy_and_stays_is_told(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        watched(monkeypatch, lambda step: stack.enter_context(holding(large, "BEGIN EXCLUSIVE")) if step == 2 else None)
        with pytest.raises(Locked, match=r"stayed locked for 0\.3 seconds"):
            with engine_for(large).snapshot(options(lock_timeout=0.3)):
                pass
    assert listing(large.parent) == ["shop.db"]


def test_reading_an_idle_wal_database_leaves_no_log_behind(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(str(path))) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (a)")
    before = path.read_bytes()
    with engine_for(path).snapshot(options()) as snapshot:
        assert listing(tmp_path) == [snapshot.dump.name, "shop.db"]
    assert listing(tmp_path) == ["shop.db"]
    assert path.read_bytes() == before


def test_the_logs_of_a_database_in_use_stay(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with holding(path, "PRAGMA journal_mode = WAL", "CREATE TABLE t (a)"):
        with engine_for(path).snapshot(options()):
            pass
        assert listing(tmp_path) == ["shop.db", "shop.db-shm", "shop.db-wal"]


def test_what_a_crashed_application_had_committed_to_its_log_is_in_the_backup(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    crash_after(path, "PRAGMA journal_mode = WAL", "CREATE TABLE t (a)", "INSERT INTO t VALUES (1), (2), (3)")
    for gone in ((), ("-shm",)):
        for suffix in gone:
            os.unlink(f"{path}{suffix}")
        log = Path(f"{path}-wal").read_bytes()
        with engine_for(path).snapshot(options()) as snapshot:
            fingerprint = snapshot.fingerprint()
            assert fingerprint is not None
            assert fingerprint.tables["t"].rows == 3
        assert Path(f"{path}-wal").read_bytes() == log


def test_a_transaction_that_a_crash_cut_off_is_rolled_back_first(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(str(path))) as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.executemany("INSERT INTO t VALUES (?)", (("x" * 500,) for _number in range(2000)))
        connection.commit()
    # With so small a cache, the half-done transaction is in the file already.
    crash_after(path, "PRAGMA cache_size = 5", "BEGIN", "UPDATE t SET a = 'torn' || a")
    assert Path(f"{path}-journal").stat().st_size > 0
    assert engine_for(path).inspect().exists
    assert Path(f"{path}-journal").stat().st_size > 0, "inspection must change nothing"
    with engine_for(path).snapshot(options()) as snapshot:
        assert rows(snapshot.dump, "SELECT count(*), sum(a LIKE 'torn%') FROM t") == [(2000, 0)]


def test_a_lock_that_stays_is_named_with_how_long_was_waited(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with holding(path, "CREATE TABLE t (a)", "BEGIN EXCLUSIVE"):
        with pytest.raises(Locked, match=r"shop\.db stayed locked for 0\.3 seconds.*lock_timeout"):
            with engine_for(path).snapshot(options(lock_timeout=0.3)):
                pass
    assert listing(tmp_path) == ["shop.db"]


@pytest.mark.parametrize("after", [0.05, 0.1, 0.26, 0.32, 0.38, 0.41, 0.59])
def test_a_signal_ends_the_wait_for_a_lock_whenever_it_comes(tmp_path: Path, after: float) -> None:
    """Each try ends with an error, and no signal may come while one is dealt with: there must be moments in between."""
    path = tmp_path / "shop.db"
    with holding(path, "CREATE TABLE t (a)", "BEGIN EXCLUSIVE"):
        sender = threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT))
        sender.start()
        with pytest.raises(Interrupted), interruptible(), engine_for(path).snapshot(options(lock_timeout=after + 3)):
            pass
        sender.join()


def test_a_lock_that_is_let_go_in_time_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with holding(path, "CREATE TABLE t (a)", "BEGIN EXCLUSIVE") as process:
        killer = subprocess.Popen(["sh", "-c", 'sleep 0.5; kill -9 "$1"', "sh", str(process.pid)])
        with engine_for(path).snapshot(options()) as snapshot:
            assert snapshot.fingerprint() is not None
        killer.wait()


def test_copies_of_killed_runs_are_removed_and_those_of_living_ones_are_not(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(str(path))) as connection:
        connection.execute("CREATE TABLE t (a)")

    def die() -> None:
        with engine_for(path).snapshot(options()):
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(die) == -signal.SIGKILL
    (left,) = (name for name in listing(tmp_path) if name != "shop.db")
    innocent = [".shop.db.backup-notes", ".shop.db.backup-1234567", "shop.db.backup-12345678", ".a.db.backup-12345678"]
    for name in innocent:
        (tmp_path / name).touch()
    with engine_for(path).snapshot(options()) as living, engine_for(path).snapshot(options()):
        assert left not in listing(tmp_path)
        assert living.dump.exists()
    assert listing(tmp_path) == sorted(["shop.db", *innocent])


@pytest.mark.parametrize(
    "name", ["with space.db", 'it\'s "quoted".db', "a?b#c%41&mode=x.db", "Größe-你好.db", "-rf", "a\nb.db", "ü" * 120]
)
def test_a_database_of_any_name_is_backed_up(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with closing(sqlite3.connect(str(path))) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (a)")
        connection.execute("INSERT INTO t VALUES (1)")
        connection.commit()
    with engine_for(path).snapshot(options()) as snapshot:
        fingerprint = snapshot.fingerprint()
        assert fingerprint is not None
        assert fingerprint.totals.rows == 1
    assert listing(tmp_path) == [name]


def test_a_name_that_is_not_utf8_is_backed_up(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/sh\xffp.db"))
    shutil.copy(make(tmp_path / "a.db"), path)
    with engine_for(path).snapshot(options()) as snapshot:
        assert snapshot.fingerprint() is not None


def make(path: Path, count: int = 3000) -> Path:
    with closing(sqlite3.connect(str(path))) as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.execute("CREATE INDEX i ON t (a)")
        connection.executemany("INSERT INTO t VALUES (?)", ((f"{n:0200}",) for n in range(count)))
        connection.commit()
    return path


def test_a_damaged_database_is_not_backed_up_in_silence(tmp_path: Path) -> None:
    path = make(tmp_path / "shop.db")
    whole = path.read_bytes()
    pages = len(whole) // 4096
    for page in range(1, pages, pages // 12):
        changed = bytearray(whole)
        changed[page * 4096 : page * 4096 + 64] = b"\xa5" * 64
        path.write_bytes(bytes(changed))
        for kind in FingerprintKind:
            with pytest.raises(Damaged, match=r"shop\.db is damaged\. SQLite's quick_check says"):
                with engine_for(path).snapshot(options(kind=kind)) as snapshot:
                    snapshot.fingerprint()
    assert listing(tmp_path) == ["shop.db"]


@pytest.mark.parametrize("size", [100, 4096, 5000, 4096 * 30])
def test_a_database_cut_short_is_not_backed_up(tmp_path: Path, size: int) -> None:
    path = make(tmp_path / "shop.db")
    os.truncate(path, size)
    with pytest.raises((Damaged, NotADatabase), match=r"shop\.db"):
        with engine_for(path).snapshot(options()) as snapshot:
            snapshot.fingerprint()
    assert listing(tmp_path) == ["shop.db"]


def test_no_fingerprint_is_none_on_a_sound_database(tmp_path: Path) -> None:
    with engine_for(make(tmp_path / "shop.db")).snapshot(options(kind=FingerprintKind.NONE)) as snapshot:
        assert snapshot.fingerprint() is None


@as_root
def test_who_may_not_read_the_database_is_told(open_directory: Path) -> None:
    path = make(open_directory / "shop.db")
    path.chmod(0o600)

    def look() -> None:
        for attempt in (engine_for(path).inspect, lambda: engine_for(path).check_dump(options())):
            with pytest.raises(PermissionDenied, match=r"Cannot read .*shop\.db: permission denied"):
                attempt()

    as_nobody(look)


@as_root
def test_who_may_not_enter_the_directory_is_told(open_directory: Path) -> None:
    make(open_directory / "shop.db")
    open_directory.chmod(0o700)

    def look() -> None:
        with pytest.raises(PermissionDenied, match="permission denied"):
            engine_for(open_directory / "shop.db").inspect()

    as_nobody(look)


@as_root
@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_who_may_only_read_names_a_directory_for_the_copy(
    open_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    path = open_directory / "shop.db"
    private = open_directory / "private"
    private.mkdir()
    os.chown(private, 65534, 65534)

    def refused() -> None:
        with pytest.raises(PermissionDenied, match="may not write the directory .*SQLITE_TMPDIR"):
            engine_for(path).check_dump(options())

    def copied() -> None:
        monkeypatch.setenv("SQLITE_TMPDIR", str(private))
        with engine_for(path).snapshot(options()) as snapshot:
            assert snapshot.dump.parent == private
            fingerprint = snapshot.fingerprint()
            assert fingerprint is not None
            assert fingerprint.tables["t"].rows == 1

    with holding(path, f"PRAGMA journal_mode = {mode}", "CREATE TABLE t (a)", "INSERT INTO t VALUES (1)"):
        as_nobody(refused)
        as_nobody(copied)
    assert listing(private) == []


@as_root
def test_who_may_only_read_is_told_when_sqlite_would_have_to_write(
    open_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = open_directory / "shop.db"
    with closing(sqlite3.connect(str(path))) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (a)")
    (open_directory / "private").mkdir()
    os.chown(open_directory / "private", 65534, 65534)
    monkeypatch.setenv("SQLITE_TMPDIR", str(open_directory / "private"))

    def tried() -> None:
        with pytest.raises(PermissionDenied, match="owner or as root"):
            with engine_for(path).snapshot(options()):
                pass

    as_nobody(tried)
    assert listing(open_directory / "private") == []


@as_root
def test_the_logs_that_a_backup_by_root_makes_belong_to_the_database_owner(open_directory: Path) -> None:
    path = make(open_directory / "shop.db")
    with closing(sqlite3.connect(str(path))) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    for entry in (open_directory, path):
        os.chown(entry, 65534, 65534)
    with engine_for(path).snapshot(options()):
        pass

    def write() -> None:
        with closing(sqlite3.connect(str(path))) as connection:
            connection.execute("INSERT INTO t VALUES (1)")
            connection.commit()

    as_nobody(write)


@as_root
def test_a_full_disk_is_told_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small)], check=True)
    try:
        monkeypatch.setenv("SQLITE_TMPDIR", str(small))
        path = make(tmp_path / "shop.db")
        with pytest.raises(NoSpace, match="needs .* free"):
            engine_for(path).check_dump(options())
        monkeypatch.setattr("_engine.databases.sqlite.engine.require_space", lambda *_: None)
        with pytest.raises(NoSpace, match="Free some space"), engine_for(path).snapshot(options()):
            pass
        assert listing(small) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_the_copy_is_removed_whatever_happens_in_between(tmp_path: Path) -> None:
    path = make(tmp_path / "shop.db")
    with pytest.raises(EngineError, match="stored nowhere"), engine_for(path).snapshot(options()):
        raise EngineError("stored nowhere")
    assert listing(tmp_path) == ["shop.db"]


def test_the_copy_opens_with_the_command_line_shell(tmp_path: Path) -> None:
    path = make(tmp_path / "shop.db")
    with engine_for(path).snapshot(options()) as snapshot:
        assert problems(snapshot.dump, complete=True) == []
        done = subprocess.run(
            ["sqlite3", str(snapshot.dump), "SELECT count(*) FROM t"], stdout=subprocess.PIPE, check=True
        )
    assert done.stdout == b"3000\n"
