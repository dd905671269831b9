# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Restores of SQLite databases: checked beside the target, and swapped in whole or not at all."""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import signal
import sqlite3
import stat
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional

import pytest

from _engine.databases.sqlite import swap
from _engine.databases.sqlite.tables import count_tables
from _engine.errors import (
    BadInput,
    BadManifest,
    Locked,
    Mismatch,
    NoSpace,
    NotADatabase,
    NotFound,
    PermissionDenied,
    Refused,
    TargetExists,
)
from _engine.model import FingerprintKind
from sqlite_processes import as_nobody, crash_after, engine_for, holding, in_child, listing, manifest_of, options, rows

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes to another account, which only root may")

NEW = [(number,) for number in (101, 102, 103)]
OLD = [(number,) for number in (1, 2, 3)]


@pytest.fixture(autouse=True)
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap, "LOCK_WAIT", 0.4)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every account can reach."""
    directory = Path(tempfile.mkdtemp(prefix="sqlite-test-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The backup: a database in WAL mode."""
    path = tmp_path_factory.mktemp("dump") / "dump.db"
    with closing(sqlite3.connect(str(path), isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (a)")
        connection.executemany("INSERT INTO t VALUES (?)", NEW)
    return path


def old_database(path: Path, mode: str = "DELETE") -> Path:
    with closing(sqlite3.connect(str(path), isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute("CREATE TABLE t (a)")
        connection.executemany("INSERT INTO t VALUES (?)", OLD)
    return path


def crashed_wal(path: Path) -> Path:
    """The old database, of which all but the first page is only in its log."""
    crash_after(
        path,
        "PRAGMA journal_mode = WAL",
        "CREATE TABLE t (a)",
        "INSERT INTO t VALUES (1), (2)",
        "INSERT INTO t VALUES (3)",
    )
    assert Path(f"{path}-wal").stat().st_size > 0
    return path


def crashed_journal(path: Path) -> Path:
    """The old database with a half-done transaction in its file, and the journal that undoes it."""
    old_database(path)
    with closing(sqlite3.connect(str(path), isolation_level=None)) as connection:
        connection.execute("CREATE TABLE more (a)")
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO more VALUES (?)", (("x" * 500,) for _number in range(200)))
        connection.execute("COMMIT")
    crash_after(path, "PRAGMA cache_size = 5", "BEGIN", "UPDATE t SET a = 0", "UPDATE more SET a = 'torn' || a")
    assert Path(f"{path}-journal").read_bytes()[:1] == b"\xd9"
    return path


def restore(
    target: Path, dump: Path, replace: bool = True, keep: bool = False, owner: Optional[str] = None, **properties: Any
) -> Optional[str]:
    manifest = manifest_of(str(target), dump.stat().st_size, **properties)
    engine_for(target).check_restore(manifest, replace, owner)
    with engine_for(target).stage(manifest, owner, 1) as staging:
        assert isinstance(staging.load, Path)
        shutil.copyfile(dump, staging.load)
        staging.loaded()
        staging.check_integrity()
        return staging.promote(replace, keep)


def content(path: Path) -> List[Any]:
    return rows(path, "SELECT a FROM t ORDER BY a")


def test_a_missing_database_is_restored(tmp_path: Path, dump: Path) -> None:
    target = tmp_path / "shop.db"
    assert restore(target, dump, replace=False, mode="0640") is None
    assert listing(tmp_path) == ["shop.db"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert target.read_bytes() == dump.read_bytes()
    assert content(target) == NEW


def test_an_existing_database_is_only_replaced_when_asked(tmp_path: Path, dump: Path) -> None:
    target = old_database(tmp_path / "shop.db")
    before = target.read_bytes()
    with pytest.raises(TargetExists, match="Set replace to replace it"):
        engine_for(target).check_restore(manifest_of(), replace=False, owner=None)
    with engine_for(target).stage(manifest_of(), None, 1) as staging:
        shutil.copyfile(dump, staging.load)
        with pytest.raises(TargetExists, match="Set replace to replace it"):
            staging.promote(replace=False, keep_replaced=False)
    assert listing(tmp_path) == ["shop.db"]
    assert target.read_bytes() == before
    restore(target, dump)
    assert content(target) == NEW


def test_a_database_that_appears_meanwhile_is_not_replaced(
    tmp_path: Path, dump: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "shop.db"
    real = os.link

    def late(source: Any, destination: Any) -> None:
        old_database(target)
        real(source, destination)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(TargetExists):
        restore(target, dump, replace=True)
    assert content(target) == OLD
    assert listing(tmp_path) == ["shop.db"]


@pytest.mark.parametrize("make", [old_database, crashed_wal, crashed_journal])
def test_the_replaced_database_is_kept_whole(tmp_path: Path, dump: Path, make: Callable[[Path], Path]) -> None:
    target = make(tmp_path / "shop.db")
    kept = restore(target, dump, keep=True)
    assert kept is not None
    assert kept.startswith(f"{target}.replaced-")
    assert listing(tmp_path) == ["shop.db", Path(kept).name]
    assert content(target) == NEW
    assert content(Path(kept)) == OLD
    with engine_for(target).snapshot(options()):
        pass
    assert Path(kept).exists()


@pytest.mark.parametrize("make", [old_database, crashed_wal, crashed_journal])
def test_no_log_of_the_old_database_reaches_the_new_one(
    tmp_path: Path, dump: Path, make: Callable[[Path], Path]
) -> None:
    target = make(tmp_path / "shop.db")
    restore(target, dump)
    assert listing(tmp_path) == ["shop.db"]
    assert target.read_bytes() == dump.read_bytes()


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("make", [crashed_wal, crashed_journal])
def test_stale_logs_are_never_applied_to_the_restored_database(
    tmp_path: Path, dump: Path, make: Callable[[Path], Path], exists: bool
) -> None:
    target = make(tmp_path / "shop.db")
    if exists:
        shutil.copyfile(dump, target)  # whose pages the logs would overwrite
    else:
        target.unlink()
    restore(target, dump)
    assert listing(tmp_path) == ["shop.db"]
    assert target.read_bytes() == dump.read_bytes()
    assert content(target) == NEW


def test_an_index_and_a_finished_journal_without_a_log_are_removed_too(tmp_path: Path, dump: Path) -> None:
    target = old_database(tmp_path / "shop.db", "PERSIST")
    assert Path(f"{target}-journal").stat().st_size > 0
    Path(f"{target}-shm").write_bytes(os.urandom(32768))
    restore(target, dump)
    assert listing(tmp_path) == ["shop.db"]


@pytest.mark.parametrize("ruin", [b"", b"not a database any more", bytes(8192), os.urandom(4096)])
def test_a_ruined_database_is_replaced(tmp_path: Path, dump: Path, ruin: bytes) -> None:
    target = tmp_path / "shop.db"
    target.write_bytes(ruin)
    Path(f"{target}-wal").write_bytes(os.urandom(5000))
    Path(f"{target}-shm").write_bytes(os.urandom(32768))
    kept = restore(target, dump, keep=True)
    assert kept is not None
    assert Path(kept).read_bytes() == ruin
    assert content(target) == NEW


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_a_database_in_use_is_not_replaced_and_its_user_is_named(tmp_path: Path, dump: Path, mode: str) -> None:
    target = old_database(tmp_path / "shop.db", mode)
    with holding(target, "SELECT * FROM t") as process:
        before = listing(tmp_path)
        with pytest.raises(Locked, match=rf"in use by python.* \(process {process.pid}\).*Stop the application"):
            restore(target, dump)
        assert listing(tmp_path) == before
        assert content(target) == OLD
    restore(target, dump)
    assert content(target) == NEW


def test_a_restore_waits_for_the_last_user_to_leave(
    tmp_path: Path, dump: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swap, "LOCK_WAIT", 30.0)
    target = old_database(tmp_path / "shop.db", "WAL")
    with holding(target, "INSERT INTO t VALUES (4)") as process:
        real, calls = swap._own, []

        def watched(*arguments: Any) -> List[str]:
            users = real(*arguments)
            calls.append(users)
            if len(calls) == 3:
                process.kill()
                process.wait()
            return users

        monkeypatch.setattr(swap, "_own", watched)
        kept = restore(target, dump, keep=True)
    assert kept is not None
    assert content(Path(kept)) == [*OLD, (4,)]
    assert content(target) == NEW


def test_nobody_can_open_the_old_database_while_it_is_replaced(
    tmp_path: Path, dump: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = crashed_wal(tmp_path / "shop.db")
    real = swap._replace
    seen = []

    def watched(*arguments: Any) -> Any:
        with closing(sqlite3.connect(str(target), timeout=0)) as connection:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                connection.execute("SELECT * FROM t")
            seen.append(1)
        return real(*arguments)

    monkeypatch.setattr(swap, "_replace", watched)
    restore(target, dump)
    assert seen == [1]
    assert content(target) == NEW


def test_a_user_that_comes_at_the_last_moment_stops_the_swap(
    tmp_path: Path, dump: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = crashed_wal(tmp_path / "shop.db")
    real, users = swap._keep, []

    def late(path: Path, old: int) -> Path:
        # Open, and not yet locked: so far comes whoever looked the name up just before the swap.
        with open(path, "rb") as file:
            users.append(subprocess.Popen(["sleep", "60"], stdin=file))
        return real(path, old)

    monkeypatch.setattr(swap, "_keep", late)
    try:
        with pytest.raises(Locked, match=r"in use by sleep \(process [0-9]+\)"):
            restore(target, dump, keep=True)
    finally:
        for process in users:
            process.kill()
            process.wait()
    assert listing(tmp_path) == ["shop.db"]
    assert content(target) == OLD


def test_the_old_file_stays_locked_while_a_latecomer_has_it_open(
    tmp_path: Path, dump: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = old_database(tmp_path / "shop.db")
    real, users, waited = os.rename, [], []

    def late(source: Any, destination: Any) -> None:
        with open(destination, "rb") as old:
            users.append(subprocess.Popen(["sleep", "60"], stdin=old))
        real(source, destination)

    monkeypatch.setattr(os, "rename", late)
    seen = swap.users_of
    monkeypatch.setattr(swap, "users_of", lambda old: waited.append(seen(old)) or waited[-1])
    try:
        restore(target, dump)
    finally:
        for process in users:
            process.kill()
            process.wait()
    assert sum(1 for names in waited if names and "sleep" in names[0]) > 2
    assert content(target) == NEW


def test_a_file_system_without_hard_links_keeps_a_copy_and_restores_a_missing_one(
    tmp_path: Path, dump: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = old_database(tmp_path / "shop.db")

    def refuse(source: Any, destination: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")  # what link(2) says on vfat

    monkeypatch.setattr(os, "link", refuse)
    target.chmod(0o640)
    kept = restore(target, dump, keep=True)
    assert kept and content(Path(kept)) == OLD and content(target) == NEW
    assert Path(kept).stat().st_mode == target.stat().st_mode
    assert listing(tmp_path) == ["shop.db", Path(kept).name]
    Path(kept).unlink()
    target.unlink()
    restore(target, dump, replace=False)
    assert content(target) == NEW
    assert listing(tmp_path) == ["shop.db"]


def test_nothing_is_replaced_where_nothing_shows_who_uses_it(
    tmp_path: Path, dump: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container without /proc, or with that of other processes."""
    target = old_database(tmp_path / "shop.db")
    for seen in ([], [1, 2]):
        monkeypatch.setattr("_engine.databases.sqlite.lock._processes", lambda seen=seen: seen)
        with pytest.raises(Refused, match="Nothing shows which programs have the database open: /proc"):
            restore(target, dump)
        assert content(target) == OLD
        assert listing(tmp_path) == ["shop.db"]


def test_a_link_to_the_database_stays_a_link(tmp_path: Path, dump: Path) -> None:
    (tmp_path / "data").mkdir()
    target = old_database(tmp_path / "data" / "shop.db")
    (tmp_path / "shop.db").symlink_to("data/shop.db")
    restore(tmp_path / "shop.db", dump)
    assert (tmp_path / "shop.db").is_symlink()
    assert content(target) == NEW
    assert listing(tmp_path / "data") == ["shop.db"]


@pytest.mark.parametrize("name", ["with space.db", "a?b#c%41.db", 'it\'s "quoted"', "你好.db", "ü" * 120])
def test_a_database_of_any_name_is_restored(tmp_path: Path, dump: Path, name: str) -> None:
    target = old_database(tmp_path / name)
    kept = restore(target, dump, keep=True)
    assert content(target) == NEW
    assert kept is not None
    assert content(Path(kept)) == OLD


def test_checking_and_querying_the_copy_changes_and_leaves_nothing(tmp_path: Path, dump: Path) -> None:
    target = tmp_path / "shop.db"
    with engine_for(target).stage(manifest_of(), None, 1) as staging:
        assert isinstance(staging.load, Path)
        shutil.copyfile(dump, staging.load)
        staging.loaded()
        staging.check_integrity()
        like = count_tables(dump, FingerprintKind.DIGEST)
        assert staging.fingerprint(like) == like
        assert staging.query("SELECT sum(a) FROM t") == [(306,)]
        for wrong in ("SELECT * FROM missing", "DELETE FROM t", "SELECT 1; SELECT 2", "CREATE TABLE u (a)"):
            with pytest.raises(Mismatch, match="The query was"):
                staging.query(wrong)
        assert listing(tmp_path) == [staging.load.name]
        assert staging.load.read_bytes() == dump.read_bytes()
        assert stat.S_IMODE(staging.load.stat().st_mode) == 0o600
    assert listing(tmp_path) == []


@pytest.mark.parametrize("ruin", [b"", b"text" * 2000, b"SQLite format 3\0" + os.urandom(4080)])
def test_a_copy_that_is_no_sound_database_is_a_mismatch(tmp_path: Path, dump: Path, ruin: bytes) -> None:
    damaged = bytearray(dump.read_bytes())
    damaged[-4096:] = os.urandom(4096)
    for content_ in (ruin, bytes(damaged), dump.read_bytes()[:-4096]):
        with engine_for(tmp_path / "shop.db").stage(manifest_of(), None, 1) as staging:
            Path(str(staging.load)).write_bytes(content_)
            staging.loaded()
            with pytest.raises(Mismatch):
                staging.check_integrity()
        with engine_for(tmp_path / "shop.db").examine(manifest_of()) as examination:
            assert isinstance(examination.load, Path)
            assert stat.S_IMODE(examination.load.parent.stat().st_mode) == 0o700
            examination.load.write_bytes(content_)
            with pytest.raises(Mismatch):
                examination.conclude()
        assert not examination.load.parent.exists()
    assert listing(tmp_path) == []


def test_a_sound_dump_passes_its_examination(tmp_path: Path, dump: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def die() -> None:
        with engine_for(tmp_path / "shop.db").examine(manifest_of()):
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(die) == -signal.SIGKILL
    assert len(listing(tmp_path)) == 1
    with engine_for(tmp_path / "shop.db").examine(manifest_of()) as examination:
        assert isinstance(examination.load, Path)
        assert listing(tmp_path) == [examination.load.parent.name]
        shutil.copyfile(dump, examination.load)
        with engine_for(tmp_path / "shop.db").examine(manifest_of()):
            assert len(listing(tmp_path)) == 2
        examination.conclude()
    assert listing(tmp_path) == []


def refused(
    target: Path,
    kind: type,
    says: str,
    replace: bool = True,
    owner: Optional[str] = None,
    size: int = 1,
    **properties: Any,
) -> None:
    before = listing(target.parent) if target.parent.is_dir() else []
    with pytest.raises(kind, match=says):
        engine_for(target).check_restore(manifest_of(size=size, **properties), replace, owner)
    assert (listing(target.parent) if target.parent.is_dir() else []) == before


def test_each_bad_target_gets_its_own_error(tmp_path: Path) -> None:
    target = old_database(tmp_path / "shop.db")
    refused(tmp_path / "missing" / "shop.db", NotFound, "there is no directory .*missing")
    refused(tmp_path, NotADatabase, "is not a file")
    refused(target / "shop.db", NotFound, "there is no directory")
    refused(target, BadInput, "no user or group", owner="nobody-of-this-name")
    refused(target, BadInput, "no user or group", owner="root:nobody-of-this-name")
    refused(target, BadInput, "no user or group", owner="")
    refused(target, NoSpace, r"needs .* are free", size=1 << 60)
    refused(target, BadManifest, "not an octal number", mode="rwx")
    refused(target, BadManifest, "not an octal number", mode=384)
    with pytest.raises(NotFound, match="there is no directory"):
        with engine_for(tmp_path / "missing" / "shop.db").stage(manifest_of(), None, 1):
            pass
    assert engine_for(target).check_restore(manifest_of(), True, None).exists
    assert not engine_for(tmp_path / "new.db").check_restore(manifest_of(), False, None).exists


@as_root
def test_who_may_not_write_there_is_told_before_anything_is_done(open_directory: Path, dump: Path) -> None:
    target = old_database(open_directory / "shop.db")

    as_nobody(lambda: refused(target, PermissionDenied, "may not write the directory"))
    open_directory.chmod(0o777)
    as_nobody(lambda: refused(target, PermissionDenied, "only root can give it to its owner, user 0"))
    as_nobody(lambda: refused(open_directory / "new.db", PermissionDenied, "only root", owner="root"))
    copy = Path(shutil.copyfile(dump, open_directory / "dump.db"))

    def swap() -> None:
        with engine_for(target).stage(manifest_of(), None, 1) as staging:
            shutil.copyfile(copy, staging.load)
            with pytest.raises(PermissionDenied):
                staging.promote(replace=True, keep_replaced=False)
        restore(open_directory / "new.db", copy, replace=False)

    as_nobody(swap)
    assert content(target) == OLD
    assert (open_directory / "new.db").stat().st_uid == 65534


@as_root
def test_owner_group_and_mode_are_those_of_the_replaced_database(tmp_path: Path, dump: Path) -> None:
    target = old_database(tmp_path / "shop.db")
    os.chown(target, 65534, 12345)
    target.chmod(0o664)
    restore(target, dump, mode="0600")
    status = target.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (65534, 12345, 0o664)


@as_root
def test_the_access_is_set_before_the_database_has_its_name(
    tmp_path: Path, dump: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = old_database(tmp_path / "shop.db")
    os.chown(target, 65534, 65534)
    real, seen = os.rename, []

    def watched(source: Any, destination: Any) -> None:
        seen.append(os.stat(source).st_uid)
        real(source, destination)

    monkeypatch.setattr(os, "rename", watched)
    restore(target, dump)
    assert seen == [65534]


@as_root
@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize(("owner", "group"), [("nobody", None), ("nobody:daemon", "daemon"), ("65534:1", "daemon")])
def test_an_owner_that_was_asked_for_wins(
    tmp_path: Path, dump: Path, exists: bool, owner: str, group: Optional[str]
) -> None:
    target = tmp_path / "shop.db"
    nobody, daemon = pwd.getpwnam("nobody"), pwd.getpwnam("daemon")
    if exists:
        os.chown(old_database(target), 7, 7)
    restore(target, dump, owner=owner)
    expected = daemon.pw_gid if group else (7 if exists else nobody.pw_gid)
    assert (target.stat().st_uid, target.stat().st_gid) == (nobody.pw_uid, expected)


@as_root
def test_a_new_database_restored_by_root_belongs_to_the_directory_owner(tmp_path: Path, dump: Path) -> None:
    os.chown(tmp_path, 65534, 12345)
    restore(tmp_path / "shop.db", dump, mode="4775")
    status = (tmp_path / "shop.db").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (65534, 12345, 0o755)


@as_root
@pytest.mark.parametrize(
    ("directory", "owner", "mode"), [(0o777, None, 0o775), (0o1777, None, 0o755), (0o775, "7", 0o755)]
)
def test_a_manifest_lets_none_write_to_a_new_database_who_cannot_replace_it(
    tmp_path: Path, dump: Path, directory: int, owner: Optional[str], mode: int
) -> None:
    tmp_path.chmod(directory)
    restore(tmp_path / "shop.db", dump, owner=owner, mode="0777")
    assert stat.S_IMODE((tmp_path / "shop.db").stat().st_mode) == mode


@as_root
def test_access_control_lists_of_the_replaced_database_stay(tmp_path: Path, dump: Path) -> None:
    target = old_database(tmp_path / "shop.db")
    # Version 2: owner rw, user 65534 rw, group r, mask rw, others none.
    entries = ((1, 6, 0xFFFFFFFF), (2, 6, 65534), (4, 4, 0xFFFFFFFF), (16, 6, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF))
    packed = b"\x02\0\0\0" + b"".join(
        tag.to_bytes(2, "little") + bits.to_bytes(2, "little") + who.to_bytes(4, "little") for tag, bits, who in entries
    )
    try:
        os.setxattr(target, "system.posix_acl_access", packed)
    except OSError:
        pytest.skip("this file system has no access control lists")
    restore(target, dump)
    assert os.getxattr(target, "system.posix_acl_access") == packed


#: What changes a file or a name; a crash can come before and after each.
STEPS = ("open", "link", "rename", "unlink", "fsync", "ftruncate", "pwrite", "fchown", "fchmod")


def die_at(step: int) -> None:
    """Kill this process at the n-th of the moments before and after each call that changes something."""
    moments = iter(range(1, 1_000_000))

    def killing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if next(moments) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*arguments, **named)
            if next(moments) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for name in STEPS:
        setattr(os, name, killing(getattr(os, name)))


@pytest.mark.parametrize("keep", [False, True], ids=["dropped", "kept"])
@pytest.mark.parametrize("state", ["missing", "closed", "crashed_wal", "crashed_journal", "stale"])
def test_a_kill_at_any_step_leaves_the_old_database_whole_or_the_new_one(
    tmp_path: Path, dump: Path, state: str, keep: bool
) -> None:
    template = tmp_path / "template"
    template.mkdir()
    if state in ("crashed_wal", "stale"):
        crashed_wal(template / "shop.db")
        if state == "stale":
            (template / "shop.db").unlink()
    elif state == "crashed_journal":
        crashed_journal(template / "shop.db")
    elif state == "closed":
        old_database(template / "shop.db", "WAL")
    outcomes = []
    for step in range(1, 1000):
        directory = tmp_path / f"step-{step}"
        shutil.copytree(template, directory)
        target = directory / "shop.db"

        def work(target: Path = target, step: int = step) -> None:
            with engine_for(target).stage(manifest_of(), None, 1) as staging:
                shutil.copyfile(dump, staging.load)
                die_at(step)
                staging.promote(replace=True, keep_replaced=keep)
            os._exit(0)

        status = in_child(work)
        assert status in (0, -signal.SIGKILL)
        outcomes.append(what_is_there(target, directory, tmp_path / "seen"))
        assert outcomes[-1] in ("old", "new") or (outcomes[-1] == "none" and state in ("missing", "stale"))
        clean_up_and_succeed(target, directory, dump)
        shutil.rmtree(directory)
        if status == 0:
            break
    else:
        raise AssertionError("the work never came to its end")
    assert outcomes[-1] == "new"
    assert outcomes == sorted(outcomes, key=("none", "old", "new").index), "once new, it stays new"
    assert len(outcomes) > 10


def what_is_there(target: Path, directory: Path, seen: Path) -> str:
    """What an application would find that opened the database right after the crash."""
    if not target.exists():
        return "none"
    seen.mkdir()
    for suffix in ("", "-wal", "-journal"):
        if Path(f"{target}{suffix}").exists():
            shutil.copy(f"{target}{suffix}", seen / f"shop.db{suffix}")
    found = content(seen / "shop.db")
    shutil.rmtree(seen)
    return {str(OLD): "old", str(NEW): "new"}.get(str(found), f"neither: {found}")


def clean_up_and_succeed(target: Path, directory: Path, dump: Path) -> None:
    """The next run removes what the killed one left, and does the work."""
    with engine_for(target).stage(manifest_of(), None, 1) as staging:
        left = [name for name in listing(directory) if name.startswith(".")]
        assert left == [Path(str(staging.load)).name]
        if target.exists():
            assert target.stat().st_nlink == 1
        shutil.copyfile(dump, staging.load)
        staging.promote(replace=True, keep_replaced=False)
    assert content(target) == NEW
    for name in listing(directory):
        if name.startswith("shop.db.replaced-"):
            assert content(directory / name) in (OLD, NEW)
