# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Backups of encrypted databases, without their key, while SQLCipher uses them: Debian's old one and the newest."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List

import pytest

from _engine.databases.base import Snapshot
from _engine.databases.sqlite import opaque
from _engine.errors import Damaged, Locked, Refused, Unverifiable
from _engine.model import FingerprintKind
from sqlite_processes import engine_for, listing, manifest_of, options

#: A raw key, for which SQLCipher derives nothing, so that opening is quick.
KEY = "\"x'2b7e151628aed2a6abf7158809cf4f3c2b7e151628aed2a6abf7158809cf4f3c'\""

#: Reads statements, one on each line, and answers each with its rows on one line.
MODULE = """
import sys
from sqlcipher3 import dbapi2
connection = dbapi2.connect(sys.argv[1], isolation_level=None, timeout=60)
for line in sys.stdin:
    try:
        print("|".join(str(value) for row in connection.execute(line) for value in row), flush=True)
    except dbapi2.Error as error:
        print("error:", error, flush=True)
"""

#: Commits numbers and their twins for ever; says how far it is where a shell command can be run.
NUMBERS = """
import sys
key, mode, marker = sys.argv[1:]
print(f"PRAGMA key = {key};\\nPRAGMA journal_mode = {mode};\\nPRAGMA synchronous = OFF;")
print("PRAGMA wal_autocheckpoint = 40;\\n.timeout 60000")
print("CREATE TABLE numbers (n INTEGER PRIMARY KEY, filler);\\nCREATE TABLE twins (n INTEGER PRIMARY KEY);")
n = 0
while True:
    n += 1
    print(f"BEGIN IMMEDIATE; INSERT INTO numbers VALUES ({n}, '{'x' * (n * 37 % 900)}');")
    print(f"INSERT INTO twins VALUES ({n}); COMMIT;")
    if n == 50:
        print(f".shell touch {marker}", flush=True)
"""


class Cipher:
    """A connection with the key, in a process of its own."""

    def __init__(self, program: str, path: Path, *setup: str) -> None:
        self._shell = program == "shell"
        command = ["sqlcipher", "-batch", str(path)] if self._shell else [sys.executable, "-c", MODULE, str(path)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for statement in (f"PRAGMA key = {KEY}", *setup):
            self.run(statement)

    def run(self, statement: str) -> List[str]:
        """The values that a statement returns."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        # The shell's output is only flushed at a dot command that changes it.
        ending = ";\n.print \x04\n.output stdout\n" if self._shell else "\n"
        self.process.stdin.write(statement + ending)
        self.process.stdin.flush()
        if not self._shell:
            line = self.process.stdout.readline().rstrip("\n")
            return line.split("|") if line else []
        values: List[str] = []
        while not values or values[-1] != "\x04":
            values.extend(self.process.stdout.readline().rstrip("\n").split("|"))
        return values[:-1]

    def kill(self) -> None:
        self.process.kill()
        self.close()

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        self.process.wait()

    def __enter__(self) -> Cipher:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


@pytest.fixture(params=["shell", pytest.param("module", marks=pytest.mark.reference)])
def program(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def answer(program: str, path: Path, *statements: str) -> List[str]:
    """What the last statement returns on a database that must be sound."""
    with Cipher(program, path) as cipher:
        assert cipher.run("PRAGMA integrity_check") == ["ok"]
        return [cipher.run(statement) for statement in statements][-1]


def copied(snapshot: Snapshot, into: Path) -> Path:
    assert snapshot.facts.opaque
    assert snapshot.fingerprint() is None
    assert set(snapshot.facts.properties) == {"mode"}
    assert isinstance(snapshot.dump, Path)
    return Path(shutil.copy(snapshot.dump, into))


def filled(program: str, path: Path, mode: str = "WAL") -> Cipher:
    """A connection to a new database of three rows, the last two of which are only in the log in WAL mode."""
    return Cipher(
        program,
        path,
        f"PRAGMA journal_mode = {mode}",
        "CREATE TABLE t (a)",
        "INSERT INTO t VALUES (1)",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "INSERT INTO t VALUES (2)",
        "INSERT INTO t VALUES (3)",
    )


@contextmanager
def numbering(program: str, path: Path, mode: str, marker: Path) -> Iterator[None]:
    script = NUMBERS if program == "shell" else NUMBERS.replace("print(", "run(").replace("import sys\n", RUN)
    arguments = [sys.executable, "-c", script, KEY, mode, str(marker)]
    feeder = subprocess.Popen(
        arguments if program == "shell" else [*arguments, str(path)],
        stdout=subprocess.PIPE if program == "shell" else subprocess.DEVNULL,
    )
    writer = feeder
    if program == "shell":
        writer = subprocess.Popen(["sqlcipher", "-batch", str(path)], stdin=feeder.stdout, stdout=subprocess.DEVNULL)
    try:
        while not marker.exists():
            assert writer.poll() is None
            time.sleep(0.01)
        yield
        assert writer.poll() is None, "the writer failed"
    finally:
        for process in (writer, feeder):
            process.kill()
            process.wait()
        if feeder.stdout is not None:
            feeder.stdout.close()


#: Executes what the other script would print.
RUN = """
import pathlib, sys
from sqlcipher3 import dbapi2
connection = dbapi2.connect(sys.argv.pop(), isolation_level=None, timeout=60)
def run(text, flush=False):
    if ".shell" in text:
        pathlib.Path(sys.argv[3]).touch()
        return
    for statement in text.replace("\\n.timeout 60000", "").split(";"):
        connection.execute(statement).fetchall()
"""


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_every_copy_during_writing_opens_with_the_key_and_holds_what_was_committed(
    tmp_path: Path, program: str, mode: str
) -> None:
    path = tmp_path / "secret.db"
    previous = 0
    with numbering(program, path, mode, tmp_path / "writing"):
        for number in range(12):
            with engine_for(path).snapshot(options(lock_timeout=60)) as snapshot:
                copy = copied(snapshot, tmp_path / f"copy-{number}.db")
            with Cipher(program, copy) as cipher:
                assert cipher.run("PRAGMA integrity_check") == ["ok"]
                count, last = map(int, cipher.run("SELECT count(*), max(n) FROM numbers"))
                assert cipher.run("SELECT count(*), max(n) FROM twins") == [str(count), str(last)]
            assert count == last >= previous >= 0
            previous = last
    assert previous > 50


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_copy_of_an_open_database_has_the_commits_of_its_log(tmp_path: Path, program: str, mode: str) -> None:
    path = tmp_path / "secret.db"
    with filled(program, path, mode) as cipher:
        cipher.run("BEGIN")
        cipher.run("INSERT INTO t VALUES (99)")
        with engine_for(path).snapshot(options()) as snapshot:
            copy = copied(snapshot, tmp_path / "copy.db")
        cipher.run("COMMIT")
        assert cipher.run("SELECT count(*) FROM t") == ["4"]
    assert answer(program, copy, "SELECT group_concat(a) FROM t") == ["1,2,3"]
    assert [name for name in listing(tmp_path) if name.startswith(".")] == []


def test_a_writer_in_wal_mode_goes_on_while_the_copy_is_made_and_is_not_in_it(
    tmp_path: Path, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret.db"
    real = opaque._copy_file
    with filled(program, path) as cipher:
        cipher.run("PRAGMA busy_timeout = 0")

        def slow(database: int, copy: int) -> None:
            real(database, copy)
            assert cipher.run("INSERT INTO t VALUES (4)") == []
            # Whatever the application tries, the log is neither brought home nor begun anew.
            cipher.run("PRAGMA wal_checkpoint(TRUNCATE)")
            assert cipher.run("INSERT INTO t SELECT a + 4 FROM t") == []

        monkeypatch.setattr(opaque, "_copy_file", slow)
        with engine_for(path).snapshot(options()) as snapshot:
            copy = copied(snapshot, tmp_path / "copy.db")
        assert cipher.run("SELECT count(*) FROM t") == ["8"]
        assert cipher.run("PRAGMA wal_checkpoint(TRUNCATE)")[0] == "0"
    assert answer(program, copy, "SELECT group_concat(a) FROM t") == ["1,2,3"]
    assert answer(program, path, "SELECT count(*) FROM t") == ["8"]


def test_a_log_begun_anew_is_not_mixed_with_the_one_before(tmp_path: Path, program: str) -> None:
    path = tmp_path / "secret.db"
    with filled(program, path) as cipher:
        cipher.run("PRAGMA wal_checkpoint(FULL)")
        for number in range(4, 8):
            with engine_for(path).snapshot(options()) as snapshot:
                copy = copied(snapshot, tmp_path / f"copy-{number}.db")
            assert answer(program, copy, "SELECT max(a) FROM t") == [str(number - 1)]
            cipher.run(f"INSERT INTO t VALUES ({number})")


def test_an_application_that_starts_during_the_copy_makes_it_start_again(
    tmp_path: Path, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret.db"
    with filled(program, path):
        pass
    real, calls = opaque._copy_file, []

    def interrupted(database: int, copy: int) -> None:
        real(database, copy)
        calls.append(1)
        if len(calls) == 1:
            with Cipher(program, path) as cipher:
                cipher.run("INSERT INTO t VALUES (4)")
                cipher.run("PRAGMA wal_checkpoint(PASSIVE)")

    monkeypatch.setattr(opaque, "_copy_file", interrupted)
    with engine_for(path).snapshot(options()) as snapshot:
        copy = copied(snapshot, tmp_path / "copy.db")
    assert len(calls) == 2
    assert answer(program, copy, "SELECT group_concat(a) FROM t") == ["1,2,3,4"]


def test_a_database_that_is_opened_all_the_time_is_given_up_after_the_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret.db"
    with filled("shell", path):
        pass
    real = opaque._copy_file

    def interrupted(database: int, copy: int) -> None:
        real(database, copy)
        os.utime(path)

    monkeypatch.setattr(opaque, "_copy_file", interrupted)
    with pytest.raises(Locked, match="all the time for 0.3 seconds"):
        with engine_for(path).snapshot(options(lock_timeout=0.3)):
            pass
    assert listing(tmp_path) == ["secret.db"]


@pytest.mark.parametrize("without", [(), ("-shm",)])
def test_what_a_crashed_application_had_committed_is_in_the_copy(tmp_path: Path, program: str, without: str) -> None:
    path = tmp_path / "secret.db"
    filled(program, path).kill()
    for suffix in without:
        os.unlink(f"{path}{suffix}")
    files = {name: (tmp_path / name).read_bytes() for name in listing(tmp_path)}
    assert "secret.db-wal" in files
    with engine_for(path).snapshot(options()) as snapshot:
        copy = copied(snapshot, tmp_path / "copy.db")
    assert answer(program, copy, "SELECT group_concat(a) FROM t") == ["1,2,3"]
    assert {name: (tmp_path / name).read_bytes() for name in files} == files


def test_a_transaction_that_a_crash_cut_off_needs_the_application(tmp_path: Path, program: str) -> None:
    path = tmp_path / "secret.db"
    cipher = filled(program, path, "DELETE")
    for statement in (
        "INSERT INTO t SELECT hex(randomblob(400)) FROM t a, t b, t c, t d, t e",
        "PRAGMA cache_size = 5",
        "BEGIN",
        "UPDATE t SET a = 'torn'",
    ):
        cipher.run(statement)
    cipher.kill()
    journal = (tmp_path / "secret.db-journal").read_bytes()
    assert journal[0]
    with pytest.raises(Locked, match="Open the database once with its application"):
        with engine_for(path).snapshot(options()):
            pass
    assert (tmp_path / "secret.db-journal").read_bytes() == journal
    with engine_for(path).stage(manifest_of(opaque=True), None, 1) as staging:
        shutil.copyfile(path, staging.load)
        with pytest.raises(Refused, match="move both files away"):
            staging.promote(replace=True, keep_replaced=False)
    assert answer(program, path, "SELECT count(*) FROM t WHERE a = 'torn'") == ["0"]
    with engine_for(path).snapshot(options()) as snapshot:
        assert answer(program, copied(snapshot, tmp_path / "copy.db"), "SELECT count(*) FROM t") == ["246"]


def test_the_journal_of_a_living_writer_is_no_crash(tmp_path: Path, program: str) -> None:
    path = tmp_path / "secret.db"
    with filled(program, path, "PERSIST") as cipher:
        # Otherwise the journal gets its header only when the file is about to be written.
        cipher.run("PRAGMA synchronous = OFF")
        cipher.run("BEGIN IMMEDIATE")
        cipher.run("UPDATE t SET a = 7")
        assert Path(f"{path}-journal").read_bytes()[:1] == b"\xd9"
        with engine_for(path).snapshot(options()) as snapshot:
            copy = copied(snapshot, tmp_path / "copy.db")
        cipher.run("COMMIT")
        with engine_for(path).snapshot(options()) as snapshot:
            later = copied(snapshot, tmp_path / "later.db")
    assert answer(program, copy, "SELECT sum(a) FROM t") == ["6"]
    assert answer(program, later, "SELECT sum(a) FROM t") == ["21"]


def test_a_long_reader_in_a_rollback_mode_stands_in_no_way(tmp_path: Path, program: str) -> None:
    path = tmp_path / "secret.db"
    with filled(program, path, "DELETE") as cipher:
        cipher.run("BEGIN")
        cipher.run("SELECT count(*) FROM t")
        with engine_for(path).snapshot(options(lock_timeout=0.3)) as snapshot:
            copy = copied(snapshot, tmp_path / "copy.db")
    assert answer(program, copy, "SELECT sum(a) FROM t") == ["6"]


def test_a_lock_that_stays_is_named_with_its_holder(tmp_path: Path, program: str) -> None:
    path = tmp_path / "secret.db"
    with filled(program, path, "DELETE") as cipher:
        cipher.run("BEGIN EXCLUSIVE")
        with pytest.raises(Locked, match=rf"0\.3 seconds by .*process {cipher.process.pid}\)"):
            with engine_for(path).snapshot(options(lock_timeout=0.3)):
                pass


def test_a_log_whose_checksums_are_not_sqlites_is_not_left_out(tmp_path: Path) -> None:
    path = tmp_path / "secret.db"
    with filled("shell", path):
        log = Path(f"{path}-wal")
        changed = bytearray(log.read_bytes())
        changed[32 + 24 + 100] ^= 1
        log.write_bytes(bytes(changed))
        with pytest.raises(Damaged, match="cannot be read without its key"):
            with engine_for(path).snapshot(options()):
                pass
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", tmp_path / f"crashed.db{suffix}")
    with pytest.raises(Damaged, match="cannot be read without its key"):
        with engine_for(tmp_path / "crashed.db").snapshot(options()):
            pass
    with engine_for(tmp_path / "crashed.db").stage(manifest_of(opaque=True), None, 1) as staging:
        with pytest.raises(Refused, match="cannot be read without its key"):
            staging.promote(replace=True, keep_replaced=False)


@pytest.mark.reference
def test_a_header_in_the_clear_does_not_make_it_plain(tmp_path: Path) -> None:
    path = tmp_path / "secret.db"
    clear = ("PRAGMA cipher_plaintext_header_size = 32", "PRAGMA cipher_salt = \"x'00112233445566778899aabbccddeeff'\"")
    with Cipher("module", path, *clear, "CREATE TABLE t (a)", "INSERT INTO t VALUES (7)"):
        pass
    assert path.read_bytes().startswith(b"SQLite format 3\0")
    with engine_for(path).snapshot(options()) as snapshot:
        copy = copied(snapshot, tmp_path / "copy.db")
    with Cipher("module", copy, *clear) as cipher:
        assert cipher.run("SELECT a FROM t") == ["7"]


def test_an_encrypted_backup_is_unverifiable_and_can_be_restored_over_one_with_a_log(
    tmp_path: Path, program: str
) -> None:
    path, other = tmp_path / "secret.db", tmp_path / "other.db"
    with filled(program, path):
        with engine_for(path).snapshot(options(kind=FingerprintKind.DIGEST)) as snapshot:
            copy = copied(snapshot, tmp_path / "copy.db")
    cipher = filled(program, other)
    cipher.run("INSERT INTO t VALUES (4)")
    cipher.process.send_signal(signal.SIGKILL)
    cipher.close()
    manifest = manifest_of(opaque=True)
    with engine_for(other).stage(manifest, None, 1) as staging:
        shutil.copyfile(copy, staging.load)
        staging.loaded()
        with pytest.raises(Unverifiable, match="without that key"):
            staging.check_integrity()
        with pytest.raises(Unverifiable, match="without that key"):
            staging.query("SELECT 1")
        kept = staging.promote(replace=True, keep_replaced=True)
    assert kept is not None
    assert answer(program, other, "SELECT group_concat(a) FROM t") == ["1,2,3"]
    assert answer(program, Path(kept), "SELECT group_concat(a) FROM t") == ["1,2,3,4"]
    with engine_for(other).examine(manifest) as examination:
        shutil.copyfile(copy, examination.load)
        with pytest.raises(Unverifiable, match="without that key"):
            examination.conclude()
