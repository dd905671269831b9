# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The audit log: every verb's line, who did it and from where, and no failure to write it that nobody hears of."""

from __future__ import annotations

import grp
import gzip
import json
import os
import pwd
import re
import shutil
import socket
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from _engine import audit as audit_lines
from _engine.audit import unit_of
from _engine.errors import Damaged, EngineError, NotFound, PermissionDenied
from _engine.model import Encryption, EncryptionSettings, Level, Policy
from _engine.pem import load_recipients
from _engine.rekey import RekeyRequest, SlotChange, rekey
from _engine.rotate import RotateRequest, rotate
from _engine.state import Host, audit, audit_path
from world import World

ROOT = Path(__file__).parents[2]


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.make_shop()
    return world


def lines(world: World) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (world.host.state / "audit.jsonl").read_text().splitlines()]


def told(world: World) -> list[tuple[str, str]]:
    return [(line["action"], line["outcome"]) for line in lines(world)]


def test_every_verb_has_its_line_with_the_keys_that_sealed_and_opened(world: World) -> None:
    mine = load_recipients((world.public,))[0].id
    first = world.backup()
    world.backup()
    world.verify(level=Level.RESTORE)
    world.restore(backup=first.manifest.id)
    request = RekeyRequest((world.repository,), SlotChange.EXACTLY, world.encryption, "web1")
    rekey(replace(request, encryption=replace(world.encryption, passphrase="open sesame")), world.host)
    world.rotate(Policy(last=1))
    rotate(RotateRequest((world.repository,), "web1", database=world.database, purge=True), world.host)
    found = told(world)
    assert found[:5] == [
        ("backup", "done"),
        ("backup", "done"),
        ("verify", "passed"),
        ("backup", "done"),
        ("restore", "done"),
    ]
    assert found[5:8] == [("rekey", "changing")] * 3
    assert [line for line in found[8:] if line[0] == "rotate"] == [("rotate", "removing"), ("rotate", "done")]
    assert found[-1] == ("purge", "done")
    by_action = {line["action"]: line for line in lines(world)}
    assert by_action["backup"]["sealed_for"] == [mine]
    assert by_action["verify"]["opened_with"] == [mine] and by_action["verify"]["level"] == "restore"
    assert by_action["restore"]["opened_with"] == [mine] and by_action["restore"]["id"] == first.manifest.id
    assert by_action["rekey"]["opened_with"] == [mine] and "passphrase" in by_action["rekey"]["after"]
    assert by_action["purge"]["removed"] == 2
    content = (world.host.state / "audit.jsonl").read_text()
    assert "open sesame" not in content and "PRIVATE" not in content


def test_what_failed_has_its_line_with_the_reason(world: World) -> None:
    made = world.backup()
    world.artefact(made).write_bytes(b"x" * world.artefact(made).stat().st_size)
    with pytest.raises(Damaged):
        world.restore()
    world.verify()
    with pytest.raises(NotFound):
        world.backup(database=replace(world.database, name="/nowhere/shop.db"))
    assert told(world)[1:] == [("restore", "failed"), ("verify", "failed"), ("backup", "failed")]
    assert all("SHA-256" in line["reason"] for line in lines(world)[1:3])


@pytest.mark.parametrize(
    ("method", "sealed"),
    [(Encryption.AES256_CBC, ["passphrase"]), (Encryption.NONE, []), (Encryption.AGE, ["passphrase"])],
)
def test_a_passphrase_is_said_to_be_one_and_never_told(world: World, method: Encryption, sealed: list[str]) -> None:
    passphrase = None if method is Encryption.NONE else "open sesame"
    encryption = EncryptionSettings(method=method, passphrase=passphrase)
    world.backup(encryption=encryption)
    world.verify(encryption=encryption, level=Level.CONTENTS)
    first, second = lines(world)
    assert first["sealed_for"] == second["opened_with"] == sealed
    assert "open sesame" not in json.dumps([first, second])


def test_who_did_it_and_from_where(world: World) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from _engine.state import Host, audit\n"
        "audit(Host('web1', Path(sys.argv[2])), 'restore', 'shop', 'done')\n"
    )
    arguments = [sys.executable, "-c", program, str(ROOT / "plugins" / "module_utils"), str(world.host.state)]
    given = {"SUDO_USER": "ann", "SSH_CONNECTION": "192.0.2.7 50022 192.0.2.1 22", "INVOCATION_ID": "0f" * 16}
    subprocess.run(arguments, env={**os.environ, **given}, check=True)
    (line,) = lines(world)
    assert (line["sudo_user"], line["address"], line["invocation"]) == ("ann", "192.0.2.7", "0f" * 16)
    assert line["uid"] == os.geteuid() and line["user"] and line["pid"] > 1
    # sudo takes the variable away from what it starts: the process above still has it.
    wrapper = "import subprocess, sys; subprocess.run(sys.argv[1:], env={}, check=True)"
    subprocess.run([sys.executable, "-c", wrapper, *arguments], env={**os.environ, **given}, check=True)
    assert lines(world)[1]["address"] == "192.0.2.7" and "sudo_user" not in lines(world)[1]


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/fleet-backup-backup-shop.service\n", "fleet-backup-backup-shop.service"),
        ("12:pids:/x.service\n1:name=systemd:/system.slice/cron.service\n0::/\n", "cron.service"),
        ("0::/user.slice/user-0.slice/session-3.scope\n", "session-3.scope"),
        ("0::/\n", None),
        ("", None),
    ],
)
def test_the_unit_of_a_process(cgroup: str, unit: str | None) -> None:
    assert unit_of(cgroup) == unit


def test_a_line_is_added_whole_after_one_that_was_cut(world: World) -> None:
    audit(world.host, "backup", "shop", "done")
    path = world.host.state / "audit.jsonl"
    path.write_bytes(path.read_bytes() + b'{"time": "20')
    audit(world.host, "backup", "shop", "done")
    kept = path.read_text().splitlines()
    assert len(kept) == 3 and json.loads(kept[2])["action"] == "backup"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_log_that_cannot_be_written_is_reported_and_removes_nothing(world: World) -> None:
    world.backup()
    world.backup()
    path = world.host.state / "audit.jsonl"
    path.unlink()
    path.mkdir()
    before = world.files()
    with pytest.raises(PermissionDenied, match="The audit log .*audit.jsonl cannot be written"):
        world.rotate(Policy(last=1))
    assert world.files() == before
    with pytest.raises(EngineError, match="There is no database.*The audit log .* cannot be written"):
        world.backup(database=replace(world.database, name="/nowhere/shop.db"))
    with pytest.raises(PermissionDenied, match='the outcome of "backup" for .* is "done" is missing there'):
        world.backup()


def test_the_journal_gets_the_same_line_and_is_not_needed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = tmp_path / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(address))
        journal.settimeout(5)
        monkeypatch.setattr(audit_lines, "JOURNAL", address)
        audit(world.host, "backup", "shop", "done")
        received = journal.recv(65536).decode()
    match = re.fullmatch(r"<86>fleet-backup\[\d+\]: (.*)", received)
    assert match is not None and json.loads(match.group(1)) == lines(world)[0]
    # Now nobody listens there any more.
    audit(world.host, "backup", "shop", "done")
    assert len(lines(world)) == 2


def test_roots_own_log_is_among_those_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert audit_path(Host("web1", Path("/var/lib/fleet-backup"))) == Path("/var/log/fleet-backup/audit.log")
    assert audit_path(Host("web1", tmp_path)) == tmp_path / "audit.jsonl"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert audit_path(Host("web1", Path("/var/lib/fleet-backup"))).parent == Path("/var/lib/fleet-backup")


def test_making_rotating_and_destroying_a_key_has_its_lines(tmp_path: Path) -> None:
    (tmp_path / "collections" / "ansible_collections" / "fleet").mkdir(parents=True)
    (tmp_path / "collections" / "ansible_collections" / "fleet" / "backup").symlink_to(ROOT)
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections"),
        "FLEET_BACKUP_STATE": str(tmp_path / "state"),
    }
    states = ({"state": "present"}, {"state": "present"}, {"state": "rotated"}, {"state": "absent", "destroy": True})
    tasks = [{"fleet.backup.backup_key": {"path": f"{tmp_path}/ops.pem", **options}} for options in states]
    play = tmp_path / "play.yml"
    play.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
    command = ["ansible-playbook", str(play)]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    found = [json.loads(line) for line in (tmp_path / "state" / "audit.jsonl").read_text().splitlines()]
    assert [line["outcome"] for line in found] == ["present", "rotated", "removing"]
    assert found[0]["recipient"] != found[1]["recipient"] and found[1]["previous"].startswith(f"{tmp_path}/ops.pem.")


def test_the_rotation_of_the_log_keeps_every_line(world: World, tmp_path: Path) -> None:
    logrotate = shutil.which("logrotate", path="/usr/sbin:/usr/bin:/sbin")
    assert logrotate, "logrotate is not installed; tests/packages.txt names it"
    log = world.host.state / "audit.jsonl"
    rules = (ROOT / "roles" / "agent" / "files" / "logrotate").read_text()
    # On a host, root's logs are root's; here they are whose test this is.
    owner = f"create 0600 {pwd.getpwuid(os.getuid()).pw_name} {grp.getgrgid(os.getgid()).gr_name}"
    rules = rules.replace("/var/log/fleet-backup/audit.log", str(log)).replace("create 0600 root root", owner)
    # Files that are rotated are named by the day; here they are by the second.
    rules = rules.replace("    dateext\n", "    dateext\n    dateformat -%Y%m%d-%s\n")
    (tmp_path / "rules").write_text(rules)
    (tmp_path / "rules").chmod(0o644)
    subjects = [f"shop-{number}" for number in range(3)]
    for subject in subjects:
        audit(world.host, "backup", subject, "done")
        command = [logrotate, "--force", "--state", str(tmp_path / "state.logrotate"), str(tmp_path / "rules")]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "")
        assert log.read_text() == "" and stat.S_IMODE(log.stat().st_mode) == 0o600
        time.sleep(1.1)
    audit(world.host, "backup", "shop-last", "done")
    packed = sorted(log.parent.glob("audit.jsonl-*.gz"))
    plain = [path for path in sorted(log.parent.glob("audit.jsonl-*")) if path not in packed]
    assert (len(packed), len(plain)) == (2, 1)
    kept = [gzip.decompress(path.read_bytes()) for path in packed]
    kept += [path.read_bytes() for path in [*plain, log]]
    found = [json.loads(line)["subject"] for line in b"".join(kept).splitlines()]
    assert found == [*subjects, "shop-last"]
