# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every method of encryption is undone by its stock tool, and every way to fail to decrypt is told from the others."""

from __future__ import annotations

import ast
import fcntl
import io
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Callable, Iterator

import pytest

from _engine import keys
from _engine.backup import BackupResult, plan_backup
from _engine.command import Command
from _engine.errors import BadInput, Damaged, EngineError, NoKey, ToolFailed, WrongKey
from _engine.model import Compression, Encryption, EncryptionSettings
from _engine.process import Process
from _engine.stream import age
from _engine.stream import gpg as openpgp
from _engine.stream.age_header import AgeHeader
from tink_library import reference
from world import World

PASSPHRASE = 'a "quoted" pässphrase $HOME'
ENGINE = Path(keys.__file__).resolve().parent.parent
NAME = "shop-20260301T120000Z-h3k7.db.zst"


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """Private keys are read only where none but their owner can read them."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "world")
    made.make_shop()
    return made


@pytest.fixture(scope="session")
def gnupg_keys() -> Iterator[Path]:
    """A home with two key pairs, which take seconds to make."""
    with tempfile.TemporaryDirectory(prefix="gnupg-") as home:
        for name in ("ops@example.com", "other@example.com"):
            gpg("--homedir", home, "--passphrase", "", "--quick-gen-key", name, "default", "default", "never")
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)
        yield Path(home)


@pytest.fixture
def gnupg(gnupg_keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    home = Path("/tmp") / f"gnupg-{os.getpid()}-{tmp_path.name[:20]}"
    shutil.copytree(gnupg_keys, home, ignore=shutil.ignore_patterns("S.*", "*.lock"))
    monkeypatch.setenv("GNUPGHOME", str(home))
    yield home
    subprocess.run(["gpgconf", "--kill", "all"], check=True)
    subprocess.run(["rm", "-rf", str(home)], check=True)


def gpg(*arguments: str, feed: bytes = b"") -> bytes:
    command = ["gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", *arguments]
    return subprocess.run(command, input=feed, check=True, stdout=subprocess.PIPE).stdout


def settings(method: Encryption, **fields: object) -> EncryptionSettings:
    return EncryptionSettings(method=method, **fields)  # type: ignore[arg-type]


def unpacked(compressed: bytes, tmp_path: Path) -> int:
    """How many orders there are in what the stock tool made of an artefact."""
    plain = subprocess.run(["zstd", "-dc"], input=compressed, check=True, stdout=subprocess.PIPE).stdout
    path = tmp_path / "unpacked.db"
    path.write_bytes(plain)
    return int(sqlite3.connect(path).execute("SELECT count(*) FROM orders").fetchone()[0])


def restored(world: World, result: BackupResult, encryption: EncryptionSettings) -> int:
    target = replace(world.database, name=str(world.root / "data" / "restored.db"))
    world.restore(
        database=target,
        source_database=world.database.name,
        backup=result.manifest.id,
        encryption=encryption,
        safety_backup=False,
    )
    return len(world.orders(Path(target.name)))


def refused(world: World, result: BackupResult, encryption: EncryptionSettings) -> str:
    """The error class and message of a restore that must fail, which must leave nothing behind."""
    before = world.picture()
    target = replace(world.database, name=str(world.root / "data" / "restored.db"))
    try:
        world.restore(
            database=target,
            source_database=world.database.name,
            backup=result.manifest.id,
            encryption=encryption,
            safety_backup=False,
        )
    except (WrongKey, NoKey, Damaged, BadInput) as error:
        after = {name: what for name, what in world.picture().items() if not name.startswith("state")}
        assert after == {name: what for name, what in before.items() if not name.startswith("state")}
        return f"{type(error).__name__}: {error}"
    raise AssertionError("it was restored")


def test_gpg_to_recipients_is_undone_by_gpg(world: World, gnupg: Path, tmp_path: Path) -> None:
    public = gpg("--armor", "--export", "other@example.com").decode()
    encryption = settings(Encryption.GPG, recipients=("ops@example.com", public))
    result = world.backup(encryption=encryption)
    assert result.manifest.main.name.endswith(".db.zst.gpg")
    assert unpacked(gpg("--decrypt", str(world.artefact(result))), tmp_path) == 100
    assert restored(world, result, settings(Encryption.GPG)) == 100


def test_gpg_decrypts_with_private_keys_that_are_in_no_keyring(world: World, gnupg: Path, tmp_path: Path) -> None:
    private = gpg("--armor", "--export-secret-keys", "ops@example.com").decode()
    other = tmp_path / "other.asc"
    other.write_bytes(gpg("--armor", "--export-secret-keys", "other@example.com"))
    result = world.backup(encryption=settings(Encryption.GPG, recipients=("ops@example.com",)))
    subprocess.run(["gpgconf", "--kill", "all"], check=True)
    subprocess.run(["rm", "-rf", str(gnupg / "private-keys-v1.d")], check=True)
    assert "WrongKey" in refused(world, result, settings(Encryption.GPG))
    assert "WrongKey" in refused(world, result, settings(Encryption.GPG, identities=(str(other),)))
    assert "BadInput" in refused(world, result, settings(Encryption.GPG, identities=("/nonexistent.asc",)))
    assert restored(world, result, settings(Encryption.GPG, identities=(private,))) == 100
    assert homes_with(gnupg) == []


def test_gpg_under_a_passphrase_is_undone_by_gpg(world: World, gnupg: Path, tmp_path: Path) -> None:
    result = world.backup(encryption=settings(Encryption.GPG, passphrase=PASSPHRASE))
    plain = gpg("--passphrase-fd", "0", "--decrypt", str(world.artefact(result)), feed=PASSPHRASE.encode() + b"\n")
    assert unpacked(plain, tmp_path) == 100
    assert restored(world, result, settings(Encryption.GPG, passphrase=PASSPHRASE)) == 100
    assert "WrongKey" in refused(world, result, settings(Encryption.GPG, passphrase="wrong"))
    assert "NoKey" in refused(world, result, settings(Encryption.GPG))


def test_gpg_to_a_recipient_it_does_not_know_is_refused_before_anything_is_written(world: World, gnupg: Path) -> None:
    with pytest.raises(BadInput, match='no public key for the recipient "nobody@example.com"'):
        world.backup(encryption=settings(Encryption.GPG, recipients=("nobody@example.com",)))
    assert world.files() == []


def through(command: Command, content: bytes) -> bytes:
    """What a program makes of the content. Raises ToolFailed."""
    feed, product = os.memfd_create("feed"), os.memfd_create("product")
    try:
        with os.fdopen(os.dup(feed), "wb") as file:
            file.write(content)
        os.lseek(feed, 0, os.SEEK_SET)
        failure = Process(command, feed, product).failure()
        if failure:
            raise failure
        return os.pread(product, os.fstat(product).st_size, 0)
    finally:
        os.close(feed)
        os.close(product)


def gpg_makes(content: bytes, *recipients: str, passphrase: str | None = None) -> bytes:
    with openpgp.encrypting(recipients, passphrase) as command:
        return through(command, content)


def gpg_opens(content: bytes, *identities: str, passphrase: str | None = None) -> bytes | str:
    """What gpg makes of an artefact, or the class and message of what the engine says about its failure."""
    with openpgp.decrypting(passphrase, identities) as command:
        try:
            return through(command, content)
        except ToolFailed as failure:
            return described(openpgp.explain_decryption(failure, NAME))


def test_a_key_of_the_keyring_does_not_pass_for_a_passphrase_or_an_identity(gnupg: Path) -> None:
    """Whoever knows the public key makes such an artefact."""
    planted = gpg_makes(b"planted", "ops@example.com")
    assert gpg_opens(planted) == b"planted"
    assert str(gpg_opens(planted, passphrase=PASSPHRASE)).startswith("WrongKey")
    other = gpg("--armor", "--export-secret-keys", "other@example.com").decode()
    for passphrase in (None, PASSPHRASE):
        assert str(gpg_opens(planted, other, passphrase=passphrase)).startswith("WrongKey")
    assert gpg_opens(gpg_makes(b"mine", passphrase=PASSPHRASE), passphrase=PASSPHRASE) == b"mine"


def described(error: EngineError) -> str:
    return f"{type(error).__name__}: {error}"


def tree(home: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Every file with its inode, mode, time of change and content; the directory itself is the empty name."""
    found = {}
    for path in [home, *sorted(home.rglob("*"))]:
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        name = "" if path == home else str(path.relative_to(home))
        found[name] = (status.st_ino, status.st_mode, status.st_mtime_ns, content)
    return found


def processes_of(home: Path | str) -> list[str]:
    """The command lines of the daemons that work for a gpg home."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"--daemon" in line and os.fsencode(home) in line:
            found.append(b" ".join(line).decode())
    return found


def wait_until(reached: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def homes_with(gnupg: Path) -> list[Path]:
    """The homes for gpg in which a private key of this account's is left behind."""
    private = {path.name for path in gnupg.glob("private-keys-v1.d/*.key")}
    return [path for path in Path("/dev/shm").glob("fleet-backup-*/private-keys-v1.d/*") if path.name in private]


def test_key_ids_of_the_accounts_keyring_change_no_byte_of_it(world: World, gnupg: Path) -> None:
    gpg("--armor", "--export", "ops@example.com")
    subprocess.run(["gpgconf", "--kill", "all"], check=True)
    wait_until(lambda: not list(gnupg.glob("S.*")))
    # gpg would make these at its next chance.
    (gnupg / "trustdb.gpg").unlink()
    (gnupg / "random_seed").unlink(missing_ok=True)
    encryption = settings(Encryption.GPG, recipients=("ops@example.com",))
    before = tree(gnupg)
    plan_backup(world.backup_request(encryption=encryption), world.host)
    assert tree(gnupg) == before
    world.backup(encryption=encryption)
    assert tree(gnupg) == before
    result = world.backup(encryption=settings(Encryption.GPG, passphrase=PASSPHRASE))
    assert restored(world, result, settings(Encryption.GPG, passphrase=PASSPHRASE)) == 100
    assert tree(gnupg) == before


def test_an_account_without_a_gpg_home_knows_no_key_id_and_gets_no_home(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GNUPGHOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    encryption = settings(Encryption.GPG, recipients=("ops@example.com",))
    for attempt in (
        lambda: plan_backup(world.backup_request(encryption=encryption), world.host),
        lambda: gpg_makes(b"x", "ops@example.com"),
    ):
        with pytest.raises(BadInput, match='no public key for the recipient "ops@example.com"'):
            attempt()
    result = world.backup(encryption=settings(Encryption.GPG, passphrase=PASSPHRASE))
    assert restored(world, result, settings(Encryption.GPG, passphrase=PASSPHRASE)) == 100
    assert "NoKey" in refused(world, result, settings(Encryption.GPG))
    assert list((tmp_path / "home").iterdir()) == []


def test_a_keyring_that_only_the_accounts_gpg_conf_names_is_used_and_no_other_one_is_made(
    gnupg: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["gpgconf", "--kill", "all"], check=True)
    own = tmp_path / "own"
    own.mkdir(mode=0o700)
    (own / "gpg.conf").write_text(f"keyring {gnupg / 'pubring.kbx'}\n")
    before = tree(own)
    with monkeypatch.context() as changed:
        changed.setenv("GNUPGHOME", str(own))
        openpgp.check_recipients(["ops@example.com"])
        artefact = gpg_makes(b"content", "ops@example.com")
        with pytest.raises(BadInput, match="nobody@example.com"):
            openpgp.check_recipients(["nobody@example.com"])
    assert tree(own) == before
    assert gpg_opens(artefact) == b"content"


def test_a_key_that_has_expired_is_refused_and_not_looked_for_in_the_network(world: World, gnupg: Path) -> None:
    make = ("--passphrase", "", "--quick-gen-key", "old@example.com", "default", "default", "1d")
    gpg("--faked-system-time", "20200101T000000", *make)
    subprocess.run(["gpgconf", "--kill", "all"], check=True)
    wait_until(lambda: not list(gnupg.glob("S.*")))
    before = tree(gnupg)
    with pytest.raises(BadInput, match=r"recipient: old@example.com: skipped: .*has not expired"):
        world.backup(encryption=settings(Encryption.GPG, recipients=("ops@example.com", "old@example.com")))
    assert processes_of(gnupg) == []
    assert tree(gnupg) == before


def test_a_recipient_for_whom_gpg_cannot_encrypt_is_refused_before_anything_is_written(
    world: World, gnupg: Path, tmp_path: Path
) -> None:
    gpg("--passphrase", "", "--quick-gen-key", "signer@example.com", "default", "sign", "never")
    garbage = tmp_path / "garbage.asc"
    garbage.write_text("garbage")
    private = tmp_path / "private.asc"
    private.write_bytes(gpg("--armor", "--export-secret-keys", "ops@example.com"))
    cut = gpg("--armor", "--export", "ops@example.com").decode()[:300]
    for recipient in ("signer@example.com", str(garbage), str(private), cut, "/nonexistent.asc", ""):
        with pytest.raises(BadInput, match="recipient"):
            world.backup(encryption=settings(Encryption.GPG, recipients=("ops@example.com", recipient)))
    assert world.files() == []


def test_a_gpg_that_does_not_work_is_not_an_unknown_recipient(world: World, gnupg: Path) -> None:
    (gnupg / "gpg.conf").write_text("digest-algo nonsense\n")
    for recipients in (("ops@example.com",), ("nobody@example.com",)):
        with pytest.raises(ToolFailed, match="selected digest algorithm is invalid"):
            world.backup(encryption=settings(Encryption.GPG, recipients=recipients))
    with openpgp.encrypting(["ops@example.com"], None) as command:
        with pytest.raises(ToolFailed) as caught:
            through(command, b"x")
    assert openpgp.explain_encryption(caught.value) is caught.value
    assert world.files() == []


def test_an_identity_that_a_passphrase_locks_opens_with_it_and_says_when_it_is_missing_or_wrong(
    gnupg: Path, tmp_path: Path
) -> None:
    gpg("--passphrase", PASSPHRASE, "--quick-gen-key", "locked@example.com", "default", "default", "never")
    private = tmp_path / "locked.asc"
    export = ("--armor", "--passphrase", PASSPHRASE, "--export-secret-keys", "locked@example.com")
    private.write_bytes(gpg(*export))
    artefact = gpg_makes(b"content", "locked@example.com")
    assert gpg_opens(artefact, str(private), passphrase=PASSPHRASE) == b"content"
    missing = gpg_opens(artefact, str(private))
    assert isinstance(missing, str)
    assert missing.startswith("NoKey: ")
    assert "encryption.passphrase" in missing
    wrong = gpg_opens(artefact, str(private), passphrase="wrong")
    assert isinstance(wrong, str)
    assert wrong.startswith("WrongKey: ")
    assert "passphrase" in wrong


def test_an_agent_that_cannot_start_is_not_a_wrong_key(
    gnupg: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artefact = gpg_makes(b"content", "ops@example.com")
    subprocess.run(["gpgconf", "--kill", "all"], check=True)
    # A socket's name has at most 107 bytes (unix(7)).
    long = tmp_path / ("x" * 100)
    subprocess.run(["cp", "-r", str(gnupg), str(long)], check=True)
    with monkeypatch.context() as changed:
        changed.setenv("GNUPGHOME", str(long))
        changed.setenv("HOME", "/nonexistent")
        said = gpg_opens(artefact)
    assert isinstance(said, str)
    assert said.startswith("ToolFailed: gpg ended with status 2")
    assert "agent" in said


def test_an_agent_that_cannot_start_is_no_bad_identity(gnupg: Path, tmp_path: Path) -> None:
    private, long = tmp_path / "ops.asc", tmp_path / ("x" * 100)
    private.write_bytes(gpg("--armor", "--export-secret-keys", "ops@example.com"))
    long.mkdir()
    script = (
        "import os; os.environ['TMPDIR'] = sys.argv[3]\n"
        "try:\n"
        "    with gpg.decrypting(None, [sys.argv[2]]): pass\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "print(os.listdir(sys.argv[3]))\n"
    )
    # Without a place in memory, the home is made in the one for temporary files.
    no_memory = ["-t", "tmpfs", "-o", "ro", "tmpfs", "/dev/shm"]
    said = in_own_mounts(no_memory, script, str(private), str(long))
    assert said.startswith("ToolFailed gpg ended with status 2")
    assert "agent" in said
    assert said.endswith("\n[]\n")


def test_a_gpg_that_was_killed_says_nothing_about_the_backup_or_the_recipients() -> None:
    failure = ToolFailed("gpg", -9, "[GNUPG:] BEGIN_DECRYPTION")
    assert openpgp.explain_decryption(failure, NAME) is failure
    assert openpgp.explain_encryption(failure) is failure


def test_a_home_with_private_keys_that_cannot_be_removed_is_an_error_that_names_it(gnupg: Path, tmp_path: Path) -> None:
    private = tmp_path / "ops.asc"
    private.write_bytes(gpg("--armor", "--export-secret-keys", "ops@example.com"))
    script = (
        "import os\n"
        "try:\n"
        "    with gpg.decrypting(None, [sys.argv[2]]) as command:\n"
        "        home = command.arguments[2]\n"
        "        os.mkdir(home + '/busy')\n"
        "        subprocess.run(['mount', '-t', 'tmpfs', 'tmpfs', home + '/busy'], check=True)\n"
        "except Exception as error: print(home in str(error), type(error).__name__, error)\n"
        "print(os.listdir(home))\n"
    )
    said = in_own_mounts(["-t", "tmpfs", "tmpfs", "/dev/shm"], script, str(private))
    assert said.startswith("True EngineError /dev/shm/fleet-backup-gpg-")
    assert "Remove it: it may hold decrypted data or private keys." in said
    assert sorted(ast.literal_eval(said.splitlines()[-1])) == ["busy", "lock"]


def test_an_artefact_that_gpg_did_not_write_like_that_is_damaged(gnupg: Path) -> None:
    content = os.urandom(50_000)
    private = gpg("--armor", "--export-secret-keys", "ops@example.com").decode()
    for artefact, opens in (
        (gpg_makes(content, "ops@example.com"), {}),
        (gpg_makes(content, passphrase=PASSPHRASE), {"passphrase": PASSPHRASE}),
    ):
        assert gpg_opens(artefact, private, **opens) == content
        flipped = bytearray(artefact)
        flipped[25_000] ^= 1
        for broken in (bytes(flipped), artefact[:25_000], artefact[:-1], b"", b"SQLite format 3\0" * 10):
            assert (
                gpg_opens(broken, private, **opens) == f"Damaged: {NAME} is not what gpg wrote. Restore another backup."
            )


def test_an_identity_that_is_none_is_refused(gnupg: Path, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.asc"
    garbage.write_text("garbage")
    private = gpg("--armor", "--export-secret-keys", "ops@example.com").decode()
    for identity in (str(garbage), private[:300]):
        with pytest.raises(BadInput, match="no private key that gpg reads"):
            gpg_opens(b"", identity)
    for identity in ("/nonexistent.asc", str(tmp_path)):
        with pytest.raises(BadInput, match=f"identity {Path(identity).name} cannot be read"):
            gpg_opens(b"", identity)


DECRYPTING = """
import sys
sys.path.insert(0, sys.argv[1])
from _engine.stream import gpg
with gpg.decrypting(None, sys.argv[2:]) as command:
    print(command.arguments[2], flush=True)
    sys.stdin.read()
"""


@contextmanager
def decrypting_child(*identities: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process that is about to decrypt, and gpg's home of it."""
    command = [sys.executable, "-c", DECRYPTING, str(ENGINE), *identities]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        home = Path(child.stdout.readline().decode().strip())
        yield child, home
        child.communicate()


def test_private_keys_that_a_killed_process_left_in_memory_go_with_the_next_run_and_a_living_ones_stay(
    gnupg: Path, tmp_path: Path
) -> None:
    private = tmp_path / "ops.asc"
    private.write_bytes(gpg("--armor", "--export-secret-keys", "ops@example.com"))
    artefact = gpg_makes(b"content", "ops@example.com")
    with decrypting_child(str(private)) as (killed, dead), decrypting_child(str(private)) as (_child, alive):
        for home in (dead, alive):
            assert list(home.glob("private-keys-v1.d/*.key"))
            assert processes_of(home)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert gpg_opens(artefact, str(private)) == b"content"
        assert not dead.exists()
        wait_until(lambda: not processes_of(dead))
        assert list(alive.glob("private-keys-v1.d/*.key"))
        assert processes_of(alive)
    assert not alive.exists()
    wait_until(lambda: not processes_of(alive))
    assert homes_with(gnupg) == []


def test_a_home_that_is_taken_for_a_dead_ones_before_it_is_locked_is_made_again(
    gnupg: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = gpg("--armor", "--export-secret-keys", "ops@example.com").decode()
    artefact = gpg_makes(b"content", "ops@example.com")
    lock, swept = fcntl.flock, []

    def sweep_first(descriptor: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX and not swept:
            swept.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            gpg_makes(b"", passphrase="x")
            assert not os.path.exists(swept[0])
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    assert gpg_opens(artefact, private) == b"content"
    assert swept


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make the directory of another account")
def test_the_homes_of_other_accounts_and_what_is_none_are_left_alone() -> None:
    names = ("fleet-backup-gpg-a", "fleet-backup-gpg-b", "fleet-backup-gpg-c", "other")
    other, link, file, own = (Path("/dev/shm") / f"{name}-{os.getpid()}" for name in names)
    try:
        own.mkdir(mode=0o700)
        other.mkdir(mode=0o700)
        os.chown(other, 65534, 65534)
        link.symlink_to(other)
        file.write_bytes(b"")
        gpg_makes(b"", passphrase="x")
        assert other.is_dir()
        assert link.is_symlink()
        assert file.is_file()
        assert own.is_dir()
    finally:
        own.rmdir()
        link.unlink()
        file.unlink()
        other.rmdir()


def in_own_mounts(mount: list[str], script: str, *arguments: str) -> str:
    """What a Python script prints that runs with a file system of its own mounted."""
    program = (
        "import subprocess, sys; sys.path.insert(0, sys.argv[1])\n"
        f"subprocess.run({['mount', *mount]!r}, check=True)\n"
        "from _engine.stream import gpg\n"
        "from _engine.process import run\n" + script
    )
    command = ["unshare", "--mount", sys.executable, "-c", program, str(ENGINE), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def test_nothing_stays_in_the_runtime_directory_of_a_session(gnupg: Path, tmp_path: Path) -> None:
    private = tmp_path / "ops.asc"
    private.write_bytes(gpg("--armor", "--export-secret-keys", "ops@example.com"))
    script = (
        "import os\n"
        "session = f'/run/user/{os.getuid()}'\n"
        "os.mkdir(session, 0o700)\n"
        "with gpg.decrypting(None, [sys.argv[2]]):\n"
        "    print(len(os.listdir(f'{session}/gnupg')))\n"
        "with gpg.encrypting([], 'x') as command:\n"
        "    run(command)\n"
        "print(os.listdir(f'{session}/gnupg'))\n"
    )
    assert in_own_mounts(["-t", "tmpfs", "tmpfs", "/run/user"], script, str(private)) == "1\n[]\n"


def test_memory_that_has_no_room_for_gpg_is_no_space_and_no_bad_identity(gnupg: Path, tmp_path: Path) -> None:
    private = tmp_path / "ops.asc"
    private.write_bytes(gpg("--armor", "--export-secret-keys", "ops@example.com"))
    script = (
        "try:\n"
        "    with gpg.decrypting(None, [sys.argv[2]]): pass\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "import os; print(os.listdir('/dev/shm'))\n"
    )
    for limit in ("nr_inodes=1", "nr_inodes=3", "size=4k"):
        said = in_own_mounts(["-t", "tmpfs", "-o", limit, "tmpfs", "/dev/shm"], script, str(private))
        assert said.startswith("NoSpace ")
        assert "/dev/shm" in said
        assert said.endswith("\n[]\n")


def age_key(tmp_path: Path, name: str) -> tuple[str, Path]:
    path = tmp_path / name
    subprocess.run(["age-keygen", "-o", str(path)], check=True, capture_output=True)
    return subprocess.run(
        ["age-keygen", "-y", str(path)], check=True, capture_output=True, text=True
    ).stdout.strip(), path


def test_age_to_recipients_is_undone_by_age(world: World, tmp_path: Path) -> None:
    ops, ops_key = age_key(tmp_path, "ops")
    other, other_key = age_key(tmp_path, "other")
    _third, third_key = age_key(tmp_path, "third")
    (tmp_path / "other.pub").write_text(other + "\n")
    result = world.backup(encryption=settings(Encryption.AGE, recipients=(ops, str(tmp_path / "other.pub"))))
    for key in (ops_key, other_key):
        command = ["age", "-d", "-i", str(key), str(world.artefact(result))]
        assert unpacked(subprocess.run(command, check=True, capture_output=True).stdout, tmp_path) == 100
        assert restored(world, result, settings(Encryption.AGE, identities=(key.read_text(),))) == 100
    assert "WrongKey" in refused(world, result, settings(Encryption.AGE, identities=(str(third_key),)))
    assert "NoKey" in refused(world, result, settings(Encryption.AGE))


def test_age_under_a_passphrase_comes_back(world: World) -> None:
    result = world.backup(encryption=settings(Encryption.AGE, passphrase=PASSPHRASE))
    assert world.artefact(result).read_bytes().startswith(b"age-encryption.org/v1\n-> scrypt ")
    assert restored(world, result, settings(Encryption.AGE, passphrase=PASSPHRASE)) == 100
    assert "WrongKey" in refused(world, result, settings(Encryption.AGE, passphrase="wrong"))
    assert "NoKey" in refused(world, result, settings(Encryption.AGE))


def test_age_to_no_recipient_is_refused(world: World) -> None:
    for recipients in (("age1nonsense",), ("/nonexistent.pub",)):
        with pytest.raises(BadInput, match="encryption.recipients"):
            world.backup(encryption=settings(Encryption.AGE, recipients=recipients))
    assert world.files() == []


def age_opens(content: bytes, *identities: str, passphrase: str | None = None) -> bytes | str:
    """What age makes of an artefact, or the class and message of what the engine says about its failure."""
    try:
        return through(age.decrypting(passphrase, identities), content)
    except ToolFailed as failure:
        return described(age.explain_decryption(failure, NAME))


def test_an_identity_that_is_none_of_age_is_refused_and_not_shown(tmp_path: Path) -> None:
    ops, _key = age_key(tmp_path, "ops")
    artefact = through(age.encrypting([ops], None), b"content")
    garbage, empty = (tmp_path / name for name in ("garbage", "empty"))
    garbage.write_text("garbage\n")
    empty.write_text("")
    openssh = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----"
    for identity in ("AGE-SECRET-KEY-1QQQQ", openssh, str(garbage), str(empty)):
        said = age_opens(artefact, identity)
        assert said == "BadInput: An item of encryption.identities is no age identity. Give what age-keygen writes."
    for identity in ("/nonexistent.key", str(tmp_path)):
        with pytest.raises(BadInput, match=f"identity {Path(identity).name} cannot be read"):
            age_opens(artefact, identity)


def test_an_identity_file_that_is_encrypted_itself_is_refused_with_the_way_out(tmp_path: Path) -> None:
    ops, key = age_key(tmp_path, "ops")
    artefact = through(age.encrypting([ops], None), b"content")
    locked = tmp_path / "locked.age"
    locked.write_bytes(through(age.encrypting([], PASSPHRASE), key.read_bytes()))
    said = age_opens(artefact, str(locked))
    assert isinstance(said, str)
    assert said.startswith("BadInput: ")
    assert "encrypted itself" in said


def test_what_age_did_not_write_like_that_is_damaged(tmp_path: Path) -> None:
    ops, key = age_key(tmp_path, "ops")
    content = os.urandom(200_000)
    for artefact, opens, identities in (
        (through(age.encrypting([ops], None), content), {}, [str(key)]),
        (through(age.encrypting([], PASSPHRASE), content), {"passphrase": PASSPHRASE}, []),
    ):
        assert age_opens(artefact, *identities, **opens) == content
        flipped, header = bytearray(artefact), bytearray(artefact)
        flipped[100_000] ^= 1
        # The last character of the header's code (RFC 4648, section 4): its lowest two bits count for nothing.
        header[artefact.index(b"\n--- ") + 10] ^= 1
        for broken in (
            bytes(flipped),
            bytes(header),
            artefact[:100_000],
            artefact[:-1],
            artefact[:100],
            b"",
            b"x" * 99,
        ):
            said = age_opens(broken, *identities, **opens)
            assert said == f"Damaged: {NAME} is not what age wrote. Restore another backup.", broken[:200]


def test_a_passphrase_that_takes_more_work_than_age_ever_asks_for_is_refused_before_it_is_tried() -> None:
    """2^22, which age follows, takes 4 GiB; and what is armoured would hide it."""
    true = through(age.encrypting([], PASSPHRASE), b"content")
    assert b" 18\n" in true
    for step in (1, 7, 1 << 20):
        header = AgeHeader(NAME)
        blocks = [header.update(true[start : start + step]) for start in range(0, len(true), step)]
        assert b"".join(blocks) + header.finish() == true
    for planted in (
        true.replace(b" 18\n", b" 22\n"),
        true.replace(b" 18\n", b" 1800\n"),
        true.replace(b" 18\n", b"\n"),
        b"-----BEGIN AGE ENCRYPTED FILE-----\n",
        b"age-encryption.org/v1\n" + b"-> X25519 " + b"A" * (300 << 10),
    ):
        with pytest.raises(Damaged, match="is not what age wrote"):
            AgeHeader(NAME).update(planted)


def test_keys_where_a_passphrase_opens_and_the_reverse_are_the_wrong_key(tmp_path: Path) -> None:
    ops, key = age_key(tmp_path, "ops")
    for artefact, opens, identities in (
        (through(age.encrypting([], PASSPHRASE), b"content"), {}, [str(key)]),
        (through(age.encrypting([ops], None), b"content"), {"passphrase": PASSPHRASE}, []),
    ):
        said = age_opens(artefact, *identities, **opens)
        assert isinstance(said, str)
        assert said.startswith("WrongKey: ")


def test_an_age_that_was_killed_says_nothing_about_the_backup() -> None:
    failure = ToolFailed("age", -9, "")
    assert age.explain_decryption(failure, NAME) is failure
    assert age.explain_encryption(failure) is failure


def test_a_private_key_as_a_recipient_of_age_is_refused_and_not_shown(tmp_path: Path) -> None:
    _ops, key = age_key(tmp_path, "ops")
    secret = key.read_text().splitlines()[-1]
    garbage = tmp_path / "garbage"
    garbage.write_text("garbage\n")
    for recipient in (key.read_text(), secret, "no key, no path", "", str(key), str(garbage), str(tmp_path)):
        with pytest.raises(BadInput, match="encryption.recipients") as caught:
            age_makes_nothing(recipient)
        assert secret not in str(caught.value)


def age_makes_nothing(recipient: str) -> None:
    try:
        through(age.encrypting([recipient], None), b"content")
    except ToolFailed as failure:
        raise age.explain_encryption(failure) from None


def test_aes256_cbc_is_undone_by_openssl(world: World, tmp_path: Path) -> None:
    result = world.backup(encryption=settings(Encryption.AES256_CBC, passphrase=PASSPHRASE))
    command = [
        "openssl",
        "enc",
        "-d",
        "-aes-256-cbc",
        "-pbkdf2",
        "-iter",
        "600000",
        "-md",
        "sha256",
        "-pass",
        "stdin",
        "-in",
    ]
    done = subprocess.run(
        [*command, str(world.artefact(result))], input=PASSPHRASE.encode(), check=True, capture_output=True
    )
    assert unpacked(done.stdout, tmp_path) == 100
    assert restored(world, result, settings(Encryption.AES256_CBC, passphrase=PASSPHRASE)) == 100
    assert "NoKey" in refused(world, result, settings(Encryption.AES256_CBC))


@pytest.mark.parametrize("compression", list(Compression))
def test_aes256_cbc_with_a_wrong_passphrase_is_a_wrong_key_whatever_notices_first(
    world: World, compression: Compression
) -> None:
    encryption = settings(Encryption.AES256_CBC, passphrase=PASSPHRASE)
    result = world.backup(encryption=encryption, compression=compression)
    for attempt in range(3):
        assert "WrongKey" in refused(world, result, replace(encryption, passphrase=f"wrong {attempt}"))


def test_aes256_gcm_opens_for_each_recipient_alone_and_for_the_passphrase(world: World) -> None:
    second = keys.generate().decode()
    recipients = (world.public, keys.public_pem(second.encode()).decode())
    result = world.backup(encryption=settings(Encryption.AES256_GCM, recipients=recipients, passphrase=PASSPHRASE))
    for opens in ({"identities": (world.private,)}, {"identities": (second,)}, {"passphrase": PASSPHRASE}):
        assert restored(world, result, settings(Encryption.AES256_GCM, **opens)) == 100
    stranger = keys.generate().decode()
    assert "WrongKey" in refused(world, result, settings(Encryption.AES256_GCM, identities=(stranger,)))
    assert "WrongKey" in refused(world, result, settings(Encryption.AES256_GCM, passphrase="wrong"))
    assert "NoKey" in refused(world, result, settings(Encryption.AES256_GCM))


def test_aes256_gcm_opens_with_the_tink_library_and_the_unwrapped_key(world: World, tmp_path: Path) -> None:
    result = world.backup()
    origin = result.manifest.origin(result.manifest.main.name)
    data_key = keys.unwrap(result.slots, origin, keys.load_identities((world.private,)), None)
    stored = io.BytesIO(world.artefact(result).read_bytes())
    plain = reference(data_key).new_decrypting_stream(stored, origin.associated_data).read()
    assert unpacked(plain, tmp_path) == 100


def test_plain_backups_are_made_only_when_asked_for_by_name(world: World) -> None:
    with pytest.raises(BadInput, match="Only encryption.method none stores plain backups"):
        world.backup(encryption=EncryptionSettings())
    assert world.files() == []
    result = world.backup(encryption=settings(Encryption.NONE))
    assert result.manifest.main.name.endswith(".db.zst")
    assert restored(world, result, settings(Encryption.NONE)) == 100


@pytest.mark.parametrize(
    ("encryption", "message"),
    [
        (settings(Encryption.NONE, passphrase="x"), "method is none, but recipients or a passphrase are given"),
        (settings(Encryption.AES256_CBC, recipients=("x",)), "aes256-cbc knows no recipients"),
        (settings(Encryption.AES256_CBC), "aes256-cbc needs encryption.passphrase"),
        (settings(Encryption.AGE), "age needs encryption.recipients or encryption.passphrase"),
        (settings(Encryption.GPG), "gpg needs encryption.recipients or encryption.passphrase"),
        (settings(Encryption.AGE, recipients=("x",), passphrase="x"), "either recipients or a passphrase"),
        (settings(Encryption.AES256_CBC, passphrase="two\nlines"), "holds a line break"),
        (settings(Encryption.AGE, passphrase="Tr0ub\x15"), "control character"),
        (settings(Encryption.AGE, passphrase="x" * 1001), "longer than 1000 bytes"),
        (settings(Encryption.AES256_GCM, recipients=("/nonexistent.pub",)), "nonexistent.pub"),
    ],
)
def test_settings_that_cannot_encrypt_are_refused_before_anything_is_written(
    world: World, encryption: EncryptionSettings, message: str
) -> None:
    before = world.picture()
    with pytest.raises(Exception, match=message):
        world.backup(encryption=encryption)
    assert {n: w for n, w in world.picture().items() if not n.startswith("state")} == {
        n: w for n, w in before.items() if not n.startswith("state")
    }
