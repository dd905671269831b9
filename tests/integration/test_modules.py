# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The modules as a playbook uses them: idempotent, honest in check and diff mode, and silent about secrets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from _engine.state import Host
from world import World

if TYPE_CHECKING:
    from postgres import Cluster

ROOT = Path(__file__).parents[2]


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "world")
    # Modules, which share its state, have this machine's clock.
    made.host = Host("web1", made.root / "state")
    made.make_shop()
    return made


class Ansible:
    """Runs tasks against this machine with the collection as it is in the checkout."""

    def __init__(self, directory: Path, world: World) -> None:
        self._directory, self._world = directory, world
        parent = directory / "collections" / "ansible_collections" / "fleet"
        parent.mkdir(parents=True)
        (parent / "backup").symlink_to(ROOT)
        (directory / "ops.pem").write_text(world.private)
        (directory / "ops.pem").chmod(0o600)
        (directory / "ops.pub").write_text(world.public)
        self.output = ""
        self.defaults: dict[str, Any] = {
            "repositories": [{"path": world.repository.label}],
            "source_host": "web1",
            "encryption": {"recipients": [str(directory / "ops.pub")], "identities": [str(directory / "ops.pem")]},
        }

    def run(self, *tasks: dict[str, Any], options: tuple[str, ...] = (), fails: bool = False) -> list[dict[str, Any]]:
        """Run tasks; the result of each that ran, in their order."""
        play = {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "module_defaults": {"group/fleet.backup.backup": self.defaults},
            "environment": {"FLEET_BACKUP_STATE": str(self._world.host.state)},
            "tasks": [{"name": "task", **task} for task in tasks],
        }
        path = self._directory / "play.yml"
        path.write_text(yaml.safe_dump([play]))
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
            "ANSIBLE_COLLECTIONS_PATH": str(self._directory / "collections"),
            "ANSIBLE_HOME": str(self._directory / "ansible"),
            "ANSIBLE_REMOTE_TMP": str(self._directory / "ansible" / "tmp"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
            "ANSIBLE_LOG_PATH": str(self._directory / "ansible.log"),
        }
        command = ["ansible-playbook", "-i", "localhost,", "-vvv", "-e", f"ansible_python_interpreter={sys.executable}"]
        done = subprocess.run(
            [*command, *options, str(path)], env=environment, capture_output=True, text=True, check=False
        )
        self.output = done.stdout + done.stderr + (self._directory / "ansible.log").read_text()
        assert (done.returncode != 0) == fails, self.output
        return _results(done.stdout)


def _results(output: str) -> list[dict[str, Any]]:
    """The results in the default callback's verbose output, which are JSON after ``=>``."""
    decoder, found, start = json.JSONDecoder(), [], 0
    while True:
        start = output.find("=> {", start)
        if start < 0:
            return found
        document, _end = decoder.raw_decode(output[start + 3 :])
        found.append(document)
        start += 3


@pytest.fixture
def ansible(tmp_path: Path, world: World) -> Ansible:
    return Ansible(tmp_path, world)


def backup(world: World, **options: Any) -> dict[str, Any]:
    return {"fleet.backup.db_backup": {"engine": "sqlite", "database": str(world.path), **options}}


def restore(world: World, **options: Any) -> dict[str, Any]:
    return {"fleet.backup.db_restore": {"engine": "sqlite", "database": str(world.path), **options}}


def verify(world: World, **options: Any) -> dict[str, Any]:
    return {"fleet.backup.backup_verify": {"engine": "sqlite", "database": str(world.path), **options}}


def rotate(**options: Any) -> dict[str, Any]:
    return {"fleet.backup.backup_rotate": options}


def ignored(task: dict[str, Any]) -> dict[str, Any]:
    """A task that may fail, so that a play tells of several failures."""
    return {**task, "ignore_errors": True}


INFO: dict[str, Any] = {"fleet.backup.backup_info": {}}
CHECK = ("--check", "--diff")


def examples(heading: str) -> list[Any]:
    """The plays in a chapter of the README, without the tasks that need a host of their own."""
    chapter = (ROOT / "README.md").read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    plays = [one for block in chapter.split("```yaml\n")[1:] for one in yaml.safe_load(block.split("```")[0])]
    for one in plays:
        # tests/fleet runs these too, word for word.
        own_host = ("ansible.builtin.package", "ansible.builtin.user")
        one["tasks"] = [task for task in one["tasks"] if not any(module in task for module in own_host)]
    return plays


def play(directory: Path, world: World, host: str, plays: list[Any]) -> str:
    """Run a playbook from an empty directory on this machine, as ``host`` in the group of its letters."""
    book = directory / "playbooks" / "play.yml"
    book.parent.mkdir(exist_ok=True)
    book.write_text(yaml.safe_dump(plays))
    inventory = directory / "inventory"
    python = f"ansible_connection=local ansible_become=false ansible_python_interpreter={sys.executable}"
    inventory.write_text(f"localhost {python}\n[{host.rstrip('0123456789')}]\n{host} {python}\n")
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(directory / "collections"),
        "FLEET_BACKUP_STATE": str(world.host.state),
    }
    command = ["ansible-playbook", "-i", str(inventory), str(book)]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def adapted(plays: list[Any], **changes: str) -> list[Any]:
    """The plays with other paths and words, as YAML."""
    text = json.dumps(plays)
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    adapted_plays: list[Any] = json.loads(text)
    return adapted_plays


def test_the_first_example_of_the_readme_runs_from_nothing_and_then_changes_nothing(
    tmp_path: Path, world: World, ansible: Ansible
) -> None:
    paths = {"/srv/backups": world.repository.label, "/srv/shop/shop.db": str(world.path)}
    plays = adapted(examples("SQLite"), **paths)
    Path(world.repository.label).rmdir()
    assert re.search(r"web1 .*changed=2 .*failed=0", play(tmp_path, world, "web1", plays))
    assert re.findall(r"changed=(\d+)", play(tmp_path, world, "web1", plays)) == ["0", "0"]


def test_the_postgresql_examples_of_the_readme_back_up_prove_and_restore(
    tmp_path: Path, world: World, ansible: Ansible, cluster: Cluster, empty_cluster: Cluster
) -> None:
    cluster.sql("CREATE ROLE backup SUPERUSER LOGIN PASSWORD 'sesame'")
    empty_cluster.sql("CREATE ROLE drill CREATEDB LOGIN PASSWORD 'sesame'")
    cluster.sql("CREATE DATABASE orders")
    cluster.sql("CREATE TABLE customers AS SELECT 1 AS id", "orders")
    keys = tmp_path / "playbooks" / "keys"
    keys.mkdir(parents=True)
    (keys / "operators.pem").write_text(world.private)
    (keys / "operators.pem.pub").write_text(world.public)
    login = {"login_host": "127.0.0.1", "login_password": "sesame"}
    plays = adapted(examples("PostgreSQL"), **{"/srv/backups": world.repository.label, "2026-03-01T": "2999-03-01T"})
    for task in [task for one in plays for task in one["tasks"]]:
        for module in (name for name in task if name.startswith("fleet.backup.")):
            if task[module].pop("become_user", None):
                task[module].update(login, login_user="backup", login_port=cluster.port)
            if "level" in task[module]:
                task[module]["scratch"] = {**login, "login_user": "drill", "login_port": empty_cluster.port}
    try:
        said = play(tmp_path, world, "db1", plays)
        assert cluster.sql("SELECT count(*) FROM customers", "orders") == [(1,)]
    finally:
        cluster.sql("DROP DATABASE IF EXISTS orders")
        cluster.sql("DROP ROLE backup")
        empty_cluster.sql("DROP ROLE drill")
    assert re.search(r"db1 .*failed=0", said) and said.count("changed: [db1]") >= 3
    assert "sesame" not in said


def test_repositories_and_keys_are_set_once_for_all_modules(world: World, ansible: Ansible) -> None:
    wanted = world.orders()
    taken, verified, restored, listed, rotated, keyed = ansible.run(
        backup(world, tier="daily"),
        verify(world, level="restore"),
        restore(world, replace=True),
        INFO,
        rotate(keep_last=1),
        {"fleet.backup.backup_key": {"path": str(world.root / "new.pem")}},
    )
    assert taken["changed"]
    assert taken["backup"]["rows"] == 100
    assert verified["checks"][0]["outcome"] == "passed"
    assert restored["backup"]["id"] == taken["backup"]["id"]
    assert restored["safety_backup"]
    assert listed["changed"] is False
    assert listed["summary"]["backups"] == 1
    assert listed["repositories"][0]["backups"][0]["proof"]["level"] == "restore"
    assert rotated["changed"] is False
    assert keyed["public_key"].startswith("-----BEGIN PUBLIC KEY-----")
    assert world.orders() == wanted


def test_the_second_run_with_max_age_changes_nothing(world: World, ansible: Ansible) -> None:
    ansible.run(backup(world))
    before = _kept(world)
    (again,) = ansible.run(backup(world, max_age="1h"))
    assert again["changed"] is False
    assert "changed=0" in ansible.output
    assert _kept(world) == before


def _kept(world: World) -> dict[str, Any]:
    """All files but locks, and what was read of manifests, which is kept to be quicker the next time."""
    return {name: what for name, what in world.picture().items() if not {"locks", "cache"} & set(Path(name).parts)}


def test_check_mode_changes_no_byte_and_predicts_what_the_run_does(world: World, ansible: Ansible) -> None:
    world.backup()
    world.backup()
    tasks = (backup(world), restore(world, replace=True), verify(world), rotate(keep_last=1))
    before = world.picture()
    predicted = ansible.run(*tasks, options=CHECK)
    assert world.picture() == before
    done = ansible.run(*tasks[1:], options=("--diff",))
    assert [one["changed"] for one in predicted[1:]] == [one["changed"] for one in done]
    assert predicted[0]["changed"]
    assert predicted[1]["replaced"]
    assert [item["id"] for item in predicted[3]["rotations"][0]["removed"]]


def test_check_mode_fails_where_the_run_would(world: World, ansible: Ansible) -> None:
    before = world.picture()
    missing, other = ansible.run(
        ignored(restore(world)), backup(world, database="/nonexistent/shop.db"), options=CHECK, fails=True
    )
    assert missing["error"] == "not_found"
    assert other["error"] == "not_found"
    assert world.picture() == before


def test_a_failure_names_its_kind_and_says_what_to_do(world: World, ansible: Ansible) -> None:
    world.backup()
    exists, empty, within, odd, key, relative = ansible.run(
        ignored(restore(world)),
        ignored(restore(world, replace=True, source_database="")),
        ignored(backup(world, repositories=[{"path": ""}])),
        ignored(backup(world, max_age="tomorrow")),
        ignored({"fleet.backup.backup_key": {"path": "keys/ops.pem"}}),
        backup(world, database="shop.db"),
        fails=True,
    )
    assert exists["error"] == "target_exists"
    assert "replace" in exists["msg"]
    assert "source_database is empty. Give a value" in empty["msg"]
    assert "repositories.path is empty." in within["msg"]
    assert (odd["error"], "max_age" in odd["msg"]) == ("bad_input", True)
    assert key["msg"] == "path: keys/ops.pem is not absolute. Give the whole path of the private key."
    assert "not an absolute path" in relative["msg"]


def test_a_verification_that_does_not_pass_fails_and_still_tells_all(world: World, ansible: Ansible) -> None:
    artefact = world.artefact(world.backup())
    artefact.write_bytes(b"x" * artefact.stat().st_size)
    (failed,) = ansible.run(verify(world), fails=True)
    assert failed["error"] == "damaged"
    assert failed["checks"][0]["outcome"] == "failed"
    assert "1 of 1 verifications did not pass" in failed["msg"]


def test_a_backup_that_cannot_be_read_is_no_success_of_any_module(world: World, ansible: Ansible) -> None:
    backups = [world.backup().manifest.id for _backup in range(3)]
    (world.directory / f"{backups[0]}.manifest.json").write_bytes(b"{}")
    found, removed, checked = ansible.run(
        ignored(INFO), ignored(rotate(keep_last=1)), verify(world, backup="all"), fails=True
    )
    assert found["error"] == "bad_manifest" and backups[0] in found["msg"]
    assert found["summary"]["backups"] == 2 and len(found["repositories"][0]["problems"]) == 1
    assert removed["error"] == "bad_manifest" and backups[0] in removed["msg"]
    assert removed["changed"] and [one["id"] for one in removed["rotations"][0]["removed"]] == [backups[1]]
    assert backups[0] in checked["msg"]


def test_no_secret_is_in_any_output_even_where_the_task_fails(world: World, ansible: Ansible) -> None:
    secret = 'p4ss "word" $x'
    encryption = {"method": "aes256-cbc", "passphrase": secret}
    inline = {"identities": [world.private], "recipients": [world.public]}
    _taken, _restored, wrong, *_inline = ansible.run(
        backup(world, encryption=encryption),
        restore(world, replace=True, encryption=encryption),
        ignored(restore(world, replace=True, encryption={"passphrase": "wr0ng-one"})),
        backup(world, encryption=inline),
        restore(world, replace=True, encryption=inline),
        options=("--diff",),
    )
    assert wrong["error"]
    for needle in ("p4ss", "wr0ng-one", world.private.splitlines()[1]):
        assert needle not in ansible.output
    for path in world.root.rglob("*"):
        if path.is_file() and path.name != "ops.pem":
            assert secret.encode() not in path.read_bytes()


def test_no_secret_is_in_any_process_list_while_modules_run(world: World, ansible: Ansible) -> None:
    secret = "pr0cess-s3cret"
    world.make_shop(20_000)
    watcher = Watcher([secret.encode(), world.private.splitlines()[1].encode()])
    with watcher:
        methods = ("aes256-cbc", "gpg", "age", "aes256-gcm")
        settings = [{"method": method, "passphrase": secret} for method in methods]
        ansible.run(
            *[
                task
                for encryption in settings
                for task in (
                    backup(world, encryption=encryption),
                    verify(world, level="restore", encryption=encryption),
                )
            ]
        )
    assert watcher.looked > 100
    assert watcher.programs >= {"openssl", "gpg", "age", "zstd"}
    assert watcher.found == []


class Watcher:
    """Reads the arguments and environments of all new processes, hundreds of times a second, and notes a secret."""

    def __init__(self, secrets: list[bytes]) -> None:
        self._secrets = secrets
        self._before = set(os.listdir("/proc"))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.found: list[str] = []
        self.programs: set[str] = set()
        self.looked = 0

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.looked += 1
            for process in filter(str.isdigit, set(os.listdir("/proc")) - self._before):
                self._look_at(Path("/proc") / process)
            # A program lives for some more of them, and should not have to share its core.
            time.sleep(0.002)

    def _look_at(self, process: Path) -> None:
        for name in ("cmdline", "environ"):
            try:
                content = (process / name).read_bytes()
            except OSError:
                return
            if name == "cmdline":
                self.programs.add(os.path.basename(content.split(b"\0")[0].decode(errors="replace")))
            if any(secret in content for secret in self._secrets):
                self.found.append(f"{process}/{name}: {content!r}")


def test_the_demo_of_the_readme_shows_what_it_promises(tmp_path: Path, ansible: Ansible) -> None:
    """As make demo runs it, which also builds the collection and installs it from its tarball."""
    directory = tmp_path / "demo"
    directory.mkdir()
    done = subprocess.run(
        ["ansible-playbook", "fleet.backup.demo", "--extra-vars", json.dumps({"demo_directory": str(directory)})],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "failed=0" in done.stdout and (directory / "summary.txt").read_text()
