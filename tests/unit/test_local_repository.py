# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A local repository holds a file whole or not at all, follows no link, and tidies away only what a crash left."""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Callable, Collection, Iterator, Type

import pytest

from _engine.errors import Damaged, EngineError, NoSpace, NotFound, RepositoryUnusable, TargetExists
from _engine.host import mounts, trust
from _engine.model import Place
from _engine.repositories import local, local_files
from _engine.repositories.local import LocalRepository

PLACE = Place("web1", "sqlite", "shop")
#: Another account of the host, whose group is its own.
OWNER = pwd.getpwnam("daemon")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs two accounts")
ID, OTHER = "shop-20260301T020000Z-h3k7", "shop-20260301T020000Z-h3k6"
PROVEN = "20260301T030000Z-abcd"
ENGINE = Path(__file__).parents[2] / "plugins" / "module_utils"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "backups"
    path.mkdir()
    return path


@pytest.fixture
def repository(root: Path) -> LocalRepository:
    return LocalRepository(root)


def put(repository: LocalRepository, name: str, content: bytes = b"content") -> None:
    with repository.create(PLACE, name) as writer:
        writer.write(content)
        writer.finish()
        writer.commit()


def test_a_large_file_is_whole_although_its_pages_are_let_go_while_it_is_written(repository: LocalRepository) -> None:
    block = os.urandom(1 << 20)
    with repository.create(PLACE, "large") as writer:
        for number in range(11):
            writer.write(block[number:] + block[:number])
        writer.finish()
        writer.commit()
    with repository.open(PLACE, "large") as reader:
        content = b"".join(iter(lambda: reader.read(1 << 20), b""))
    assert content == b"".join(block[number:] + block[:number] for number in range(11))


def names(repository: LocalRepository) -> list[str]:
    return [entry.name for entry in repository.entries(PLACE) if entry.regular]


def everything(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*") if path.is_file())


def test_a_committed_file_is_there_with_its_size_and_nobody_else_may_read_it(
    repository: LocalRepository, root: Path
) -> None:
    put(repository, f"{ID}.db", b"12345")
    (entry,) = repository.entries(PLACE)
    assert (entry.name, entry.bytes) == (f"{ID}.db", 5)
    path = root / PLACE.path / entry.name
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {stat.S_IMODE(parent.stat().st_mode) for parent in list(path.parents)[:3]} == {0o700}
    assert repository.read(PLACE, entry.name, 100) == b"12345"
    assert list(repository.places()) == [PLACE]


def test_a_file_that_is_locked_between_the_look_for_leftovers_and_their_removal_is_nobodys_leftover(
    repository: LocalRepository, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(repository, f"{ID}.db")
    path = root / PLACE.path / f".{ID}-2.db.partial"
    path.touch()
    look = local._leftovers
    with path.open("wb") as writer:

        def looked(directory: int, spared: Collection[str]) -> list[str]:
            found = look(directory, spared)
            fcntl.flock(writer, fcntl.LOCK_EX)
            return found

        with monkeypatch.context() as patch:
            patch.setattr(local, "_leftovers", looked)
            assert repository.tidy(PLACE, dry_run=False) == []
        assert path.exists()
    assert repository.tidy(PLACE, dry_run=False) == [path.name]
    assert not path.exists()


def test_a_name_that_is_published_between_two_looks_at_it_is_not_written_again(
    repository: LocalRepository, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = local_files.LocalWriter._take_name

    def late(writer: local_files.LocalWriter, taken: Type[EngineError]) -> int:
        monkeypatch.setattr(local_files.LocalWriter, "_take_name", real)
        put(repository, "a", b"the first")
        return real(writer, taken)

    monkeypatch.setattr(local_files.LocalWriter, "_take_name", late)
    with pytest.raises(TargetExists):
        put(repository, "a", b"the second")
    assert repository.read(PLACE, "a", 100) == b"the first"
    assert everything(root) == ["a"]


def test_a_file_that_is_not_committed_is_never_seen_and_leaves_nothing(repository: LocalRepository, root: Path) -> None:
    with pytest.raises(RuntimeError), repository.create(PLACE, "a") as writer:
        writer.write(b"half")
        writer.finish()
        assert names(repository) == []
        raise RuntimeError("crash")
    assert everything(root) == []


def test_a_name_can_be_taken_once(repository: LocalRepository) -> None:
    put(repository, "a", b"first")
    with pytest.raises(TargetExists), repository.create(PLACE, "a"):
        pass
    with repository.create(PLACE, "b"), pytest.raises(TargetExists, match="another process is writing b"):
        with repository.create(PLACE, "b"):
            pass
    assert repository.read(PLACE, "a", 100) == b"first"


def test_what_a_killed_writer_left_does_not_stop_the_next_one(repository: LocalRepository, root: Path) -> None:
    kill_while_writing(root, "a")
    assert everything(root) == [".a.partial"]
    put(repository, "a", b"second")
    assert repository.read(PLACE, "a", 100) == b"second"


def test_a_living_writer_is_left_alone_by_tidy_and_a_dead_one_is_tidied(
    repository: LocalRepository, root: Path
) -> None:
    kill_while_writing(root, f"{ID}.db")
    with repository.create(PLACE, "living") as writer:
        assert repository.tidy(PLACE, dry_run=True) == [f".{ID}.db.partial"]
        assert everything(root) == [".living.partial", f".{ID}.db.partial"]
        assert repository.tidy(PLACE, dry_run=False) == [f".{ID}.db.partial"]
        writer.commit()
    assert everything(root) == ["living"]


def test_artefacts_that_appeared_before_a_crash_at_the_manifest_are_tidied(
    repository: LocalRepository, root: Path
) -> None:
    put(repository, f"{ID}.db.zst")
    put(repository, "shop-20260301T010000Z-h3k7.db.zst")
    put(repository, "shop-20260301T010000Z-h3k7.manifest.json")
    kill_while_writing(root, f"{ID}.manifest.json")
    doomed = [f"{ID}.db.zst", f".{ID}.manifest.json.partial"]
    assert repository.tidy(PLACE, dry_run=False) == doomed
    assert names(repository) == ["shop-20260301T010000Z-h3k7.db.zst", "shop-20260301T010000Z-h3k7.manifest.json"]


def test_an_artefact_whose_manifest_is_gone_for_another_reason_is_never_tidied(repository: LocalRepository) -> None:
    put(repository, f"{ID}.db.zst")
    assert repository.tidy(PLACE, dry_run=False) == []
    assert names(repository) == [f"{ID}.db.zst"]


def test_what_was_to_replace_a_manifest_goes_also_where_its_backup_is_spared(
    repository: LocalRepository, root: Path
) -> None:
    kill_while_writing(root, f"{ID}.manifest.json")
    assert repository.tidy(PLACE, dry_run=False, spared=(ID,)) == []
    (root / PLACE.path / f"{ID}.manifest.json").touch()
    assert repository.tidy(PLACE, dry_run=False, spared=(ID,)) == [f".{ID}.manifest.json.partial"]


def test_a_removal_that_a_crash_interrupted_is_finished_by_tidy(repository: LocalRepository, root: Path) -> None:
    for suffix in ("manifest.json", "db.zst", f"proof.{PROVEN}.json"):
        put(repository, f"{ID}.{suffix}")
        put(repository, f"{OTHER}.{suffix}")
    directory = root / PLACE.path
    os.rename(directory / f"{ID}.manifest.json", directory / f".{ID}.manifest.json.deleting")
    repository.tidy(PLACE, dry_run=False)
    assert everything(root) == [f"{OTHER}.db.zst", f"{OTHER}.manifest.json", f"{OTHER}.proof.{PROVEN}.json"]


def test_a_backup_is_removed_with_its_manifest_first(repository: LocalRepository, root: Path) -> None:
    for name in (f"{ID}.manifest.json", f"{ID}.db.zst"):
        put(repository, name)
    repository.remove_backup(PLACE, f"{ID}.manifest.json", [f"{ID}.db.zst", f"{ID}.proof.{PROVEN}.json"])
    assert everything(root) == []
    repository.remove_backup(PLACE, f"{ID}.manifest.json", [f"{ID}.db.zst"])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_backup_is_removed_from_a_disk_that_has_no_room_for_a_mark(
    repository: LocalRepository, root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(number, os.strerror(number))

    for name in (f"{ID}.manifest.json", f"{ID}.db.zst"):
        put(repository, name)
    monkeypatch.setattr(os, "rename", full)
    repository.remove_backup(PLACE, f"{ID}.manifest.json", [f"{ID}.db.zst"])
    assert everything(root) == []


def test_what_was_not_published_yet_is_removed_also_where_nothing_can_be_made_durable(
    repository: LocalRepository, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    put(repository, f"{ID}.db.zst")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(NoSpace):
            repository.remove_backup(PLACE, f"{ID}.manifest.json", [f"{ID}.db.zst"])
    assert everything(root) == []


def test_a_file_that_cannot_be_locked_is_not_left_behind(
    repository: LocalRepository, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    put(repository, "name")
    monkeypatch.setattr("_engine.repositories.local_files.lock", fail)
    with pytest.raises(EngineError):
        repository.clock(PLACE)
    assert everything(root) == ["name"]


def test_what_cannot_be_removed_is_named_and_hides_no_other_error(
    repository: LocalRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with pytest.raises(RepositoryUnusable, match=r"mounted read-only.*Mount it writable\."):
        with repository.create(PLACE, "name"):
            monkeypatch.setattr(os, "unlink", read_only)


def test_a_small_file_is_stored_once_and_never_again(repository: LocalRepository) -> None:
    repository.store(PLACE, "p", b"one")
    with pytest.raises(TargetExists):
        repository.store(PLACE, "p", b"two")
    assert repository.read(PLACE, "p", 100) == b"one"


def test_a_file_larger_than_any_such_file_is_not_read(repository: LocalRepository) -> None:
    put(repository, "m", b"x" * 101)
    with pytest.raises(Damaged, match="larger than 100 bytes"):
        repository.read(PLACE, "m", 100)


def test_a_file_that_is_not_there_is_not_found(repository: LocalRepository) -> None:
    with pytest.raises(NotFound):
        repository.read(PLACE, "m", 100)
    put(repository, "other")
    with pytest.raises(NotFound, match="web1/sqlite/shop/m does not exist"):
        repository.read(PLACE, "m", 100)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))


def unix_socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


def link(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("plant", [fifo, device, unix_socket, link, Path.mkdir])
def test_what_is_no_file_is_never_opened_read_or_written_to(
    repository: LocalRepository, root: Path, plant: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(repository, "a")
    path = root / PLACE.path / f"{ID}.proof.{PROVEN}.json"
    plant(path)
    opened: list[object] = []
    real = os.open

    def watch(name: object, *arguments: object, **named: object) -> int:
        opened.append(name)
        return real(name, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", watch)
    with pytest.raises(EngineError):
        repository.read(PLACE, path.name, 100)
    with pytest.raises(EngineError), repository.open(PLACE, path.name):
        pass
    with pytest.raises(EngineError):
        repository.store(PLACE, path.name, b"content")
    assert path.name not in opened


def test_what_no_backup_needs_is_discarded_and_nothing_else(repository: LocalRepository, root: Path) -> None:
    put(repository, "a")
    put(repository, "b")
    repository.discard(PLACE, ["a", "gone"])
    assert everything(root) == ["b"]


def test_links_inside_are_not_followed(repository: LocalRepository, root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("outside")
    put(repository, "a")
    (root / PLACE.path / "link").symlink_to(tmp_path / "secret")
    assert names(repository) == ["a"]
    assert [entry.name for entry in repository.entries(PLACE) if not entry.regular] == ["link"]
    with pytest.raises(RepositoryUnusable, match="Links are not followed"):
        repository.read(PLACE, "link", 100)
    (tmp_path / "elsewhere").mkdir()
    (root / "web1" / "postgresql").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RepositoryUnusable, match="Links are not followed"):
        repository.entries(Place("web1", "postgresql", "x"))
    assert [place.engine for place in repository.places()] == ["sqlite"]


def test_a_pipe_under_the_name_of_an_artefact_blocks_nobody(repository: LocalRepository, root: Path) -> None:
    put(repository, "a")
    os.mkfifo(root / PLACE.path / "fifo")
    with pytest.raises(RepositoryUnusable, match="not a regular file"):
        repository.read(PLACE, "fifo", 100)


def _missing(path: Path) -> None:
    path.rmdir()


def _file(path: Path) -> None:
    path.rmdir()
    path.write_text("")


def _link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to(path.with_name("real"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_missing, "does not exist. Mount the share that should be there, or create the directory"),
        (_file, "is not a directory"),
        (_link, "is a symbolic link to .*/real. Links are not followed"),
    ],
)
def test_a_repository_that_is_none_is_explained(root: Path, spoil: object, message: str) -> None:
    spoil(root)  # type: ignore[operator]
    repository = LocalRepository(root)
    for attempt in (lambda: repository.check(writing=False), lambda: put(repository, "a"), repository.space):
        with pytest.raises(RepositoryUnusable, match=message):
            attempt()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_is_no_space_and_leaves_nothing_of_the_file(small_disk: Path) -> None:
    repository = LocalRepository(small_disk)
    put(repository, "a", b"x" * 1000)
    with pytest.raises(NoSpace, match="is full: b could not be written"):
        put(repository, "b", b"x" * 1_000_000)
    assert everything(small_disk) == ["a"]
    space = repository.space()
    assert space is not None and 200_000 < space.free <= space.total


def test_a_disk_that_is_mounted_read_only_is_explained(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    repository = LocalRepository(small_disk)
    repository.check(writing=False)
    for attempt in (lambda: repository.check(writing=True), lambda: put(repository, "a")):
        with pytest.raises(RepositoryUnusable, match="read-only"):
            attempt()


@pytest.fixture
def open_root() -> Iterator[Path]:
    """A repository that every account can look at."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        path = Path(directory) / "backups"
        path.mkdir(mode=0o755)
        yield path


def test_an_account_without_access_is_told_so(open_root: Path) -> None:
    script = (
        f"import os, sys; sys.path.insert(0, {str(ENGINE)!r})\n"
        "from pathlib import Path\n"
        "from _engine.repositories.local import LocalRepository\n"
        "os.setgid(65534); os.setuid(65534)\n"
        f"try: LocalRepository(Path({str(open_root)!r})).check(writing=True)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("PermissionDenied Repository")
    assert "cannot be written by user 65534" in done.stdout


def test_no_descriptor_stays_open(repository: LocalRepository) -> None:
    put(repository, "a")
    before = len(os.listdir("/proc/self/fd"))
    for _attempt in range(3):
        put(repository, f"b{_attempt}")
        repository.store(PLACE, f"c{_attempt}", b"x")
        repository.tidy(PLACE, dry_run=False)
        list(repository.places())
        for name in ("missing", "a"):
            try:
                with repository.create(PLACE, name), repository.open(PLACE, name):
                    pass
            except EngineError:
                pass
    assert len(os.listdir("/proc/self/fd")) == before


def kill_while_writing(root: Path, name: str) -> None:
    """Leave what a writer leaves that is killed before it commits."""
    script = (
        f"import os, signal, sys; sys.path.insert(0, {str(ENGINE)!r})\n"
        "from pathlib import Path\n"
        "from _engine.model import Place\n"
        "from _engine.repositories.local import LocalRepository\n"
        f"with LocalRepository(Path({str(root)!r})).create(Place{('web1', 'sqlite', 'shop')!r}, {name!r}) as writer:\n"
        "    writer.write(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.fixture
def foreign() -> Iterator[Path]:
    """A directory of another account's, at a path that it can reach."""
    top = Path(tempfile.mkdtemp(prefix="local-repository-"))
    top.chmod(0o755)
    directory = top / "app"
    directory.mkdir(mode=0o755)
    os.chown(directory, OWNER.pw_uid, OWNER.pw_gid)
    yield directory
    shutil.rmtree(top)


def as_other(work: Callable[[], object]) -> None:
    """Do something as the other account."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(OWNER.pw_gid)
            os.setuid(OWNER.pw_uid)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def writings(repository: LocalRepository) -> dict[str, Callable[[], object]]:
    return {
        "check": lambda: repository.check(writing=True),
        "create": lambda: put(repository, f"{ID}.other"),
        "store": lambda: repository.store(PLACE, f"{ID}.small", b"content"),
        "discard": lambda: repository.discard(PLACE, ["small"]),
        "remove": lambda: repository.remove_backup(PLACE, f"{ID}.manifest.json", [f"{ID}.db"]),
        "tidy": lambda: repository.tidy(PLACE, dry_run=False),
        "clock": lambda: repository.clock(PLACE),
    }


@as_root
def test_a_link_that_another_account_made_above_leads_to_no_other_repository(foreign: Path) -> None:
    (foreign / "data" / "backups").mkdir(parents=True)
    os.chown(foreign / "data", OWNER.pw_uid, OWNER.pw_gid)
    nas = foreign.parent / "nas"
    (nas / "backups").mkdir(parents=True)
    put(LocalRepository(nas / "backups"), f"{ID}.db")
    before = sorted(nas.rglob("*"))
    as_other(lambda: (foreign / "data").rename(foreign / "was"))
    as_other(lambda: (foreign / "data").symlink_to(nas))
    repository = LocalRepository(foreign / "data" / "backups")
    reading = {"entries": lambda: repository.entries(PLACE), "places": lambda: list(repository.places())}
    for name, work in {**writings(repository), **reading}.items():
        with pytest.raises(RepositoryUnusable, match=f"a symbolic link that user {OWNER.pw_uid} made"):
            work()
        assert sorted(nas.rglob("*")) == before, name
    # One that root made is as good as the path itself.
    (foreign.parent / "link").symlink_to(nas)
    assert LocalRepository(foreign.parent / "link" / "backups").entries(PLACE)


@as_root
def test_a_directory_that_others_could_exchange_is_not_written(foreign: Path) -> None:
    """Without any link: the owner of the directory above renames one repository to the other's name."""
    os.chown(foreign, 0, 0)
    for name in ("one", "two"):
        (foreign / name).mkdir(mode=0o700)
        put(LocalRepository(foreign / name), f"{ID}.db", name.encode())
    os.chown(foreign, OWNER.pw_uid, OWNER.pw_gid)
    repository = LocalRepository(foreign / "one")
    as_other(lambda: (foreign / "one").rename(foreign / "was"))
    as_other(lambda: (foreign / "two").rename(foreign / "one"))
    for work in writings(repository).values():
        with pytest.raises(RepositoryUnusable, match=f"{foreign} belongs to daemon, who could put another repository"):
            work()
    assert (foreign / "one" / PLACE.path / f"{ID}.db").read_bytes() == b"two"
    os.chown(foreign, 0, 0)
    for mode in (0o777, 0o775):
        os.chown(foreign, 0, grp.getgrnam("www-data").gr_gid)
        foreign.chmod(mode)
        with pytest.raises(
            RepositoryUnusable,
            match=f"{foreign} can be changed by .*Run chmod go-w {foreign}, give {foreign} itself .*, or move",
        ):
            repository.check(writing=True)
        # To restore from it is no worse than what another account can write there anyway.
        assert repository.entries(PLACE)
    for mode in (0o755, 0o1777):
        foreign.chmod(mode)
        repository.check(writing=True)


@as_root
def test_a_share_whose_root_others_can_change_is_written(foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine that keeps a share decides on its modes, and many show it as open to all."""
    os.chown(foreign, 0, 0)
    share, elsewhere = foreign / "nas", foreign.parent / "elsewhere"
    for path in (share / "fleet", elsewhere / "fleet"):
        path.mkdir(parents=True)
    table = foreign.parent / "mountinfo"
    monkeypatch.setattr(mounts, "_TABLE", table)
    number = foreign.stat().st_dev
    table.write_text(f"9 1 {os.major(number)}:{os.minor(number)} / {share} rw shared:7 - nfs4 nas:/v rw,vers=4.1\n")
    for user, mode in ((0, 0o777), (1000, 0o755), (0, 0o2775)):
        os.chown(share, user, grp.getgrnam("www-data").gr_gid)
        share.chmod(mode)
        LocalRepository(share / "fleet").check(writing=True)
    # What led out of the share when it was opened is on another device than the share.
    opened = os.stat_result((*os.stat(share / "fleet")[:2], number + 1, *os.stat(share / "fleet")[3:]))
    assert trust.objection_to(str(share / "fleet"), opened)
    table.unlink()
    with pytest.raises(RepositoryUnusable, match=f"{share} can be changed by"):
        LocalRepository(share / "fleet").check(writing=True)
    LocalRepository(share).check(writing=True)


LINES = """\
22 28 0:20 / /proc rw,nosuid - proc proc rw
28 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
60 28 0:43 / /mnt/nas rw,relatime shared:220 - nfs 10.0.0.5:/volume1/backup rw,vers=3,proto=tcp
61 28 0:44 / /mnt/a\\040share rw,relatime shared:221 master:3 - cifs //nas/fleet rw,vers=3.1.1,uid=0,dir_mode=0777
62 28 0:45 / /mnt/ssh rw,nosuid - fuse.sshfs backup@nas:/ rw,user_id=0,allow_other
63 28 0:46 / /mnt/pool rw - fuse.mergerfs a:b rw,allow_other
64 28 0:47 / /data rw - virtiofs share rw
65 28 0:48 / /mnt/usb rw - fuseblk /dev/sdb1 rw
66 28 0:49 / /mnt/odd rw - ext4 nfs rw
cut off 0:50
"""


@pytest.mark.parametrize(
    ("device", "remote"),
    [((0, minor), minor in (43, 44, 45, 47)) for minor in range(43, 52)] + [((254, 1), False)],
)
def test_only_file_systems_of_other_machines_are_shares(device: tuple[int, int], remote: bool) -> None:
    assert mounts.is_remote(LINES, os.makedev(*device)) is remote


@as_root
def test_an_accounts_own_repository_is_written_by_it_and_by_root(foreign: Path) -> None:
    own = foreign / "backups"
    as_other(lambda: own.mkdir(mode=0o700))
    foreign.chmod(0o775)
    repository = LocalRepository(own)
    for work in writings(repository).values():
        work()
    shutil.rmtree(own / "web1")
    as_other(lambda: put(repository, f"{ID}.db"))
    as_other(lambda: repository.remove_backup(PLACE, f"{ID}.manifest.json", [f"{ID}.db"]))
    # In a directory of root's, the repository itself may belong to another account, and be written by many.
    os.chown(foreign, 0, 0)
    foreign.chmod(0o755)
    own.chmod(0o777)
    repository.check(writing=True)
