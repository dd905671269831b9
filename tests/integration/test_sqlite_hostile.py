# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Root against the owner of a database's directory, who wants root's files, root's power, or root's agent to hang."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import sqlite3
import stat
import struct
import subprocess
import sys
import tempfile
import threading
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Callable, Iterator

import pytest

from _engine.databases import open_engine
from _engine.errors import EngineError, Interrupted, Locked, NotADatabase, PermissionDenied, Refused, Stopped, TimedOut
from _engine.host import trust
from _engine.host.child import ChildFailed
from _engine.model import Compression, Database, Encryption, EncryptionSettings, EngineName, Level, Server
from _engine.scratch import Purpose, scratch_account, unprivileged_directory
from sqlite_processes import crash_after, holding, in_child, listing, manifest_of
from world import World

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="is about what root may be led to")

#: The owner of the databases, and another account of the host.
OWNER, OTHER = pwd.getpwnam("daemon"), pwd.getpwnam("bin")
SECRET = b"SQLite format 3\0secret of root's" + bytes(68)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of the database's owner, at a path that everybody can reach."""
    top = Path(tempfile.mkdtemp(prefix="sqlite-hostile-"))
    top.chmod(0o755)
    directory = top / "app"
    directory.mkdir(mode=0o755)
    os.chown(directory, OWNER.pw_uid, OWNER.pw_gid)
    yield directory
    shutil.rmtree(top)


@pytest.fixture
def world(tmp_path: Path, place: Path) -> World:
    world = World(tmp_path / "world")
    world.path = place / "shop.db"
    world.database = Database(EngineName.SQLITE, str(world.path))
    # What is at stake shows in the clear.
    world.encryption = EncryptionSettings(Encryption.NONE)
    as_owner(lambda: world.make_shop(200))
    return world


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that root alone can read."""
    path = tmp_path / "authorized_keys"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    return path


def become(account: pwd.struct_passwd) -> None:
    os.setgroups([account.pw_gid])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)


def as_owner(work: Callable[[], object], account: pwd.struct_passwd = OWNER) -> None:
    def run() -> None:
        become(account)
        work()

    assert in_child(run) == 0


@contextmanager
def attacking(attack: Callable[[], None]) -> Iterator[None]:
    """Let the owner attack again and again, until the end of this context."""
    child = os.fork()
    if child == 0:
        try:
            become(OWNER)
            while True:
                try:
                    attack()
                except (OSError, sqlite3.Error):
                    continue
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def signal_children(number: int) -> None:
    """Within ``attacking``: what an account may do to all of its processes, done to those of this test alone."""
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                parent = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
                if parent == os.getppid() and os.stat(f"/proc/{name}").st_uid == OWNER.pw_uid:
                    os.kill(int(name), number)
            except OSError:
                continue


def tried(work: Callable[[], object]) -> str:
    """Do something that may fail, with one of our errors; its code, or an empty string."""
    try:
        work()
    except (EngineError, Stopped) as error:
        return error.code
    return ""


def stored(world: World) -> bytes:
    return b"".join(path.read_bytes() for path in (world.root / "backups").rglob("*.db"))


def forged_journal(path: Path, victim: Path) -> None:
    """A crashed transaction whose journal names a super-journal: who rolls it back deletes that file."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS filler (a)")
        connection.executemany("INSERT INTO filler VALUES (?)", (("x" * 500,) for _number in range(2000)))
        connection.commit()
    crash_after(path, "PRAGMA cache_size = 5", "BEGIN", "UPDATE filler SET a = 'torn' || a")
    name = os.fsencode(victim)
    # "Rollback journals", and pager.c, writeSuperJournal(): page, name, length, sum of the bytes, magic.
    record = struct.pack(">I", 0x40000000 // 4096 + 1) + name + struct.pack(">II", len(name), sum(name))
    with open(f"{path}-journal", "ab") as journal:
        journal.write(record + bytes.fromhex("d9d505f920a163d7"))


def test_a_forged_hot_journal_removes_no_file_of_root(world: World, secret: Path, tmp_path: Path) -> None:
    as_owner(world.path.unlink)
    as_owner(lambda: world.make_shop(50, journal="delete"))
    control = tmp_path / "control"
    control.write_bytes(b"this one is deleted, so that the journal is known to work")
    shutil.copy(world.path, tmp_path / "copy.db")
    forged_journal(tmp_path / "copy.db", control)
    with closing(sqlite3.connect(tmp_path / "copy.db")) as connection:
        connection.execute("SELECT count(*) FROM filler").fetchall()
    assert not control.exists()

    as_owner(lambda: forged_journal(world.path, secret))
    tried(lambda: world.backup(compression=Compression.NONE))
    assert secret.read_bytes() == SECRET
    as_owner(lambda: forged_journal(world.path, secret))
    tried(world.restore)
    assert secret.read_bytes() == SECRET


def test_a_link_swapped_in_while_restoring_leads_root_to_no_other_file(world: World, secret: Path) -> None:
    world.backup(compression=Compression.NONE)

    def swap() -> None:
        for entry in os.listdir(world.path.parent):
            if ".restoring-" in entry or entry == "shop.db":
                path = world.path.parent / entry
                path.unlink()
                path.symlink_to(secret)

    with attacking(swap):
        for _attempt in range(4):
            tried(lambda: world.restore(safety_backup=False))
    assert secret.read_bytes() == SECRET
    status = secret.stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o600)
    assert all((world.path.parent / entry).lstat().st_uid != 0 for entry in os.listdir(world.path.parent))


def test_a_link_swapped_in_while_backing_up_brings_no_file_of_root(world: World, secret: Path) -> None:
    keep = world.path.parent / "real.db"
    as_owner(lambda: shutil.copy(world.path, keep))

    def swap() -> None:
        new = world.path.parent / "new"
        new.symlink_to(secret)
        new.rename(world.path)
        shutil.copy(keep, new)
        new.rename(world.path)

    with attacking(swap):
        for _attempt in range(4):
            tried(lambda: world.backup(compression=Compression.NONE))
    assert SECRET not in stored(world)


def test_a_link_swapped_in_while_a_lock_is_waited_for_brings_no_file_of_root(world: World, secret: Path) -> None:
    as_owner(world.path.unlink)
    as_owner(lambda: world.make_shop(10, journal="delete"))

    def swap() -> None:
        new = world.path.parent / "new"
        new.symlink_to(secret)
        new.rename(world.path)

    with holding(world.path, "BEGIN EXCLUSIVE"):
        swapping = threading.Timer(0.5, lambda: as_owner(swap))
        swapping.start()
        assert tried(lambda: world.backup(compression=Compression.NONE, lock_timeout=3))
        swapping.join()
    assert tried(lambda: world.backup(compression=Compression.NONE)) in ("refused", "permission_denied")
    assert stored(world) == b""


def test_a_link_to_a_file_of_another_owner_is_refused(world: World, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir()
    with closing(sqlite3.connect(private / "secret.db")) as connection:
        connection.execute("CREATE TABLE secrets (a)")
    as_owner(world.path.unlink)
    as_owner(lambda: world.path.symlink_to(private / "secret.db"))
    for work in (world.backup, lambda: open_engine(world.database).inspect(), world.restore):
        with pytest.raises(EngineError) as error:
            work()
        assert error.value.code in ("refused", "not_found")
    with pytest.raises(Refused, match="belongs to daemon, who could lead root to files of its own"):
        world.backup()
    # A link within what is the owner's, and one that root made, are as good as the path itself.
    as_owner(world.path.unlink)
    as_owner(lambda: sqlite3.connect(world.path.with_name("real.db")).execute("CREATE TABLE t (a)"))
    as_owner(lambda: world.path.symlink_to("real.db"))
    assert world.backup().changed
    link = world.path.parent.parent / "by-root.db"
    link.symlink_to(world.path)
    assert open_engine(Database(EngineName.SQLITE, str(link))).inspect().exists


@pytest.mark.parametrize("suffix", ["-journal", "-wal", "-shm", ""])
def test_a_pipe_in_the_place_of_a_file_hangs_nothing(world: World, suffix: str) -> None:
    as_owner(world.path.unlink)
    if suffix:
        as_owner(lambda: world.make_shop(10, journal="delete" if suffix == "-journal" else "wal"))
    as_owner(lambda: os.mkfifo(f"{world.path}{suffix}"))
    for work in (lambda: world.backup(timeout=30), world.backup):
        with pytest.raises(NotADatabase, match="is a pipe"):
            work()


def test_a_hanging_child_ends_with_the_timeout_and_with_sigterm(world: World) -> None:
    """Stopped by its own account, which may do that to all of its processes."""

    def stop_them() -> None:
        signal_children(19)

    with attacking(stop_them):
        with pytest.raises(TimedOut):
            world.backup(timeout=3)
        terminating = threading.Timer(3, os.kill, (os.getpid(), 15))
        terminating.start()
        with pytest.raises((Interrupted, EngineError)):
            world.backup()
        terminating.join()
    world.backup()


def test_a_child_that_is_killed_or_gets_sigbus_fails_its_own_run_alone(world: World, tmp_path: Path) -> None:
    shm = Path(f"{world.path}-shm")

    def truncate() -> None:
        if shm.exists():
            os.truncate(shm, 0)
            os.truncate(shm, 32768)

    with holding(world.path, "SELECT * FROM orders"), attacking(truncate):
        codes = {tried(lambda: world.backup(timeout=30, lock_timeout=1)) for _attempt in range(15)}
    assert codes <= {"", "tool_failed", "locked", "failed", "damaged", "permission_denied", "timeout"}

    def kill_them() -> None:
        signal_children(7)

    with attacking(kill_them), pytest.raises(ChildFailed, match="was killed by SIGBUS"):
        for _attempt in range(50):
            world.backup()
    for path in world.path.parent.iterdir():
        path.unlink()
    as_owner(world.make_shop)
    assert world.backup().changed
    assert world.files() == sorted(set(world.files()))


def test_paths_that_others_can_change_are_refused_with_what_helps(world: World, place: Path) -> None:
    refused = {
        0o777: rf"{place} can be changed by every account.*chmod go-w {place}",
        0o1777: f"{place} can be changed by every account",
        0o2775: None,
    }
    for mode, says in refused.items():
        place.chmod(mode)
        if says:
            with pytest.raises(Refused, match=says):
                world.backup()
    os.chown(place, OWNER.pw_uid, pwd.getpwnam("www-data").pw_gid)
    with pytest.raises(Refused, match=r"changed by the members of group www-data \(www-data\)"):
        world.backup()
    os.chown(place, OWNER.pw_uid, 54321)
    assert world.backup().changed, "no account of this host is in a group that it does not know"
    os.chown(place, OWNER.pw_uid, grp.getgrnam("staff").gr_gid)
    with pytest.raises(Refused, match="by the members of group staff, which a directory service may know"):
        world.backup()
    # Its own group, which has no other member.
    os.chown(place, OWNER.pw_uid, OWNER.pw_gid)
    assert world.backup().changed
    place.parent.chmod(0o1777)
    assert world.backup().changed, "what is only on the way may be sticky"
    place.parent.chmod(0o777)
    with pytest.raises(Refused, match=f"{place.parent} can be changed by every account"):
        world.backup()
    place.parent.chmod(0o755)
    os.chown(place.parent, OTHER.pw_uid, 0)
    with pytest.raises(Refused, match=f"{place.parent} belongs to bin, who could lead daemon to files of its own"):
        world.backup()


@pytest.mark.parametrize("mine", ["root", "daemon"])
def test_a_journal_that_others_can_write_removes_no_file(world: World, place: Path, mine: str) -> None:
    """Others can make no file in the directory: an existing one, which journal_mode=PERSIST leaves, is enough."""
    world.backup()
    account, shared = pwd.getpwnam(mine), grp.getgrnam("www-data").gr_gid
    victim, forged = place.parent / "victims" / "file", place.parent / "forged.db"
    victim.parent.mkdir()
    victim.write_bytes(SECRET)
    shutil.copy(world.path, forged)
    forged_journal(forged, victim)
    journal = Path(f"{world.path}-journal")
    journal.touch()
    for path in (victim.parent, victim, place, world.path, journal):
        os.chown(path, account.pw_uid, account.pw_gid)
    for written in (journal, world.path):
        os.chown(written, account.pw_uid, shared)
        written.chmod(0o660)

        def forge(written: Path = written) -> None:
            os.setgroups([])
            os.setgid(shared)
            os.setuid(OTHER.pw_uid)
            written.write_bytes(Path(str(forged) + str(written)[len(str(world.path)) :]).read_bytes())

        forged.chmod(0o644)
        Path(f"{forged}-journal").chmod(0o644)
        assert in_child(forge) == 0
        for work in (world.backup, world.restore, lambda: open_engine(world.database).inspect()):
            with pytest.raises(Refused, match=f"{written} can be changed by the members of group www-data"):
                work()
        assert victim.read_bytes() == SECRET
        written.chmod(0o640)


@pytest.mark.parametrize("suffix", ["-journal", "-wal", "-shm", ""])
def test_files_that_others_can_write_are_refused_with_what_helps(world: World, suffix: str) -> None:
    as_owner(world.path.unlink)
    as_owner(lambda: world.make_shop(20, journal="wal" if suffix in ("-wal", "-shm") else "persist"))
    holder = closing(sqlite3.connect(world.path)) if suffix in ("-wal", "-shm") else nullcontext()
    with holder as connection:
        if connection is not None:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
        path = Path(f"{world.path}{suffix}")
        if not path.exists():
            as_owner(path.touch)
        os.chown(path, OWNER.pw_uid, OWNER.pw_gid)
        path.chmod(0o666)
        with pytest.raises(Refused, match=f"{path} can be changed by every account.*chmod go-w {path}"):
            open_engine(world.database).inspect()
        path.chmod(0o600)
        os.setxattr(path, "system.posix_acl_access", access_list((0x01, 6, -1), (0x02, 6, OTHER.pw_uid)))
        with pytest.raises(Refused, match=f"{path} can be changed by bin"):
            open_engine(world.database).inspect()
        os.removexattr(path, "system.posix_acl_access")
        os.chown(path, OTHER.pw_uid, OTHER.pw_gid)
        with pytest.raises(Refused, match=f"{path} belongs to bin.*become_user"):
            open_engine(world.database).inspect()
        # Its own group, which has no other member.
        os.chown(path, OWNER.pw_uid, OWNER.pw_gid)
        path.chmod(0o660)
        assert open_engine(world.database).inspect().exists


def test_a_containers_files_are_worked_on_although_their_group_may_write(
    world: World, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (place, world.path):
        os.chown(path, 51234, 51234)
    world.path.chmod(0o664)
    assert world.backup().changed
    # Unless another account of this host may be in that group in a container of its own.
    ranges = tmp_path / "subgid"
    ranges.write_text("odd\ncontainers:51000:234\nbin:51000:65536\n")
    delegated = trust._delegated
    assert delegated(str(ranges), 51234) == {"bin"}
    monkeypatch.setattr(
        trust, "_delegated", lambda path, number: delegated(str(ranges), number) if path == "/etc/subgid" else set()
    )
    with pytest.raises(Refused, match=r"changed by the members of group 51234 \(bin\)"):
        trust.account_for(str(world.path), None)
    # The one whose container it is may be both.
    monkeypatch.setattr(trust, "_delegated", lambda path, number: delegated(str(ranges), number))
    assert trust.account_for(str(world.path), None)


def access_list(*first: tuple[int, int, int]) -> bytes:
    """An access control list (acl(5)) with these entries, the group's, the mask and the others'."""
    entries = (*first, (0x04, 0, -1), (0x10, 7, -1), (0x20, 0, -1))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)


def test_become_user_names_another_account_where_the_path_is_that_accounts(world: World, place: Path) -> None:
    database = Database(EngineName.SQLITE, str(world.path), Server(become_user="bin"))
    with pytest.raises(Refused, match=f"as bin: {place} belongs to daemon"):
        open_engine(database).inspect()
    os.chown(place, 0, 0)
    with pytest.raises(Refused, match="Set become_user to daemon"):
        world.backup()
    named = Database(EngineName.SQLITE, str(world.path), Server(become_user="daemon"))
    assert open_engine(named).inspect().exists


def test_a_new_file_is_the_groups_to_write_where_its_directory_is(world: World, place: Path) -> None:
    world.path.chmod(0o664)
    world.backup()
    for directory, mode in ((0o2775, 0o664), (0o755, 0o644)):
        place.chmod(directory)
        world.path.unlink()
        world.restore()
        status = world.path.stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (OWNER.pw_uid, OWNER.pw_gid, mode)


def test_a_replaced_file_keeps_its_owner_group_and_mode_or_is_refused(world: World, place: Path) -> None:
    world.backup()
    world.path.chmod(0o640)
    world.restore(safety_backup=False)
    status = world.path.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (OWNER.pw_uid, OWNER.pw_gid, 0o640)
    assert listing(place) == ["shop.db"]
    engine = open_engine(world.database)
    os.chown(world.path, OTHER.pw_uid, OWNER.pw_gid)
    with pytest.raises(Refused, match="belongs to bin"):
        engine.check_restore(manifest_of(), True, None)
    for uid, gid, owner in ((OWNER.pw_uid, OTHER.pw_gid, None), (1, 1, "bin")):
        os.chown(world.path, uid, gid)
        with pytest.raises(PermissionDenied, match="restore to"):
            engine.check_restore(manifest_of(), True, owner)
    # What root alone can change is root's to give away.
    os.chown(place, 0, 0)
    world.path.unlink()
    world.restore(owner="bin")
    assert world.path.stat().st_uid == OTHER.pw_uid


def test_verifying_is_the_work_of_an_account_without_rights(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    account = scratch_account()
    assert account.uid not in (0, OWNER.pw_uid)
    world.backup()
    monkeypatch.setenv("TMPDIR", str(world.path.parent.parent))
    with unprivileged_directory(Purpose.VERIFICATION) as directory:
        engine = open_engine(Database(EngineName.SQLITE, str(directory / "scratch.db")))
        with engine.stage(manifest_of(size=10), None, 1) as staging:
            assert Path(staging.label).stat().st_uid == account.uid
    for level in (Level.CONTENTS, Level.RESTORE):
        assert world.verify(level=level).passed
    assert listing(world.path.parent.parent) == ["app"]


def test_a_copy_elsewhere_is_in_no_directory_that_others_can_change(
    world: World, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQLITE_TMPDIR", str(place.parent))
    place.parent.chmod(0o1777)
    with pytest.raises(Refused, match=f"{place.parent} can be changed by every account"):
        world.backup()
    other = place / "private"
    as_owner(lambda: other.mkdir(mode=0o700))
    monkeypatch.setenv("SQLITE_TMPDIR", str(other))
    assert world.backup().changed
    assert listing(other) == []


def test_an_unprivileged_account_works_through_a_child_too(tmp_path: Path) -> None:
    """With the system's Python, as the one that the tests run on may be nobody else's to execute."""
    script = (
        "import sys, os; sys.dont_write_bytecode = True; sys.path[:0] = sys.argv[1:3]\n"
        "from pathlib import Path; from world import World\n"
        "world = World(Path(sys.argv[3]) / 'w'); world.make_shop(); world.backup()\n"
        "world.path.unlink(); world.restore()\n"
        "print(len(world.orders()), world.path.stat().st_uid == os.getuid())\n"
    )
    if not os.path.exists("/usr/bin/python3"):
        pytest.skip("there is no system Python")
    directory = Path(tempfile.mkdtemp(prefix="sqlite-hostile-"))
    os.chown(directory, OWNER.pw_uid, OWNER.pw_gid)
    paths = [str(Path(__file__).resolve().parents[2] / part) for part in ("plugins/module_utils", "tests")]
    try:
        done = subprocess.run(
            ["/usr/bin/python3", "-c", script, *paths, str(directory)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            preexec_fn=lambda: become(OWNER),
        )
    finally:
        shutil.rmtree(directory)
    if "No module named 'cryptography'" in done.stdout:
        pytest.skip("the system Python has no cryptography")
    assert done.stdout == "100 True\n", done.stdout
    assert sys.executable


def test_a_lock_that_its_owner_holds_is_a_lock(world: World) -> None:
    with holding(world.path, "BEGIN IMMEDIATE"):
        world.backup()
        with pytest.raises(Locked, match=r"in use by python.* \(process [0-9]+\)"):
            world.restore(safety_backup=False)
