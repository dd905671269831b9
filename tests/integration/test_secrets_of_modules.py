# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""No module logs an argument, and none returns a secret, whatever the secret looks like."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, Mapping

import pytest
import yaml
from ansible.module_utils import basic

from _engine import keys
from host_log import HostLog

ROOT = Path(__file__).parents[2]
MODULES = sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("*.py"))

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a /dev/log of its own needs root")

#: How the engine's own line begins, which the audit log has too.
AUDIT = ">fleet-backup["
#: Where an option takes a secret: the names of the options above it, and its own.
Where = tuple[str, ...]


class Secrets:
    """Secrets of the shapes that are hard to mask, and the parts by which each is found again."""

    def __init__(self) -> None:
        self.parts: dict[str, str] = {}
        self._number = 0

    def make(self, where: Where) -> str:
        first, second, third = self._part(where), self._part(where), self._part(where)
        return f"{first}\"'\\{self._part(where)}\\n\n{second}\tä—\u202e{third}'\r\n"

    def private_key(self, where: Where) -> str:
        key = keys.generate().decode()
        self.parts.update((line, ".".join(where)) for line in key.splitlines()[1:-1] if len(line) >= 8)
        return key

    def found(self, text: str) -> list[str]:
        """The options whose secrets are in a text, as they are or in another spelling of the same letters."""
        return sorted({where for part, where in self.parts.items() if part in text})

    def _part(self, where: Where) -> str:
        self._number += 1
        part = f"s3cr3t{self._number:04d}{os.urandom(6).hex()}"
        self.parts[part] = ".".join(where)
        return part


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("collections")
    (directory / "ansible_collections" / "fleet").mkdir(parents=True)
    (directory / "ansible_collections" / "fleet" / "backup").symlink_to(ROOT)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(directory))
        yield directory


def spec_of(name: str) -> Mapping[str, Any]:
    spec = importlib.import_module(f"ansible_collections.fleet.backup.plugins.modules.{name}").SPEC
    options: Mapping[str, Any] = spec if isinstance(spec, Mapping) else spec.options
    return options


def is_secret(name: str, option: Mapping[str, Any]) -> bool:
    return bool(option.get("no_log")) or name == "content"


def secret_options(spec: Mapping[str, Any], above: Where = ()) -> list[Where]:
    found = []
    for name, option in spec.items():
        if is_secret(name, option):
            found.append((*above, name))
        found += secret_options(option.get("options", {}), (*above, name))
    return found


def arguments(spec: Mapping[str, Any], directory: Path, secrets: Secrets, above: Where = ()) -> dict[str, Any]:
    """Arguments that a module takes, with a secret wherever there can be one."""
    given: dict[str, Any] = {}
    simple = {"engine": "postgresql", "database": "shop", "path": str(directory), "login_host": "127.0.0.1"}
    simple.update(login_port=1, backup="latest", keep_last=1, lock_timeout="0s")
    for name, option in spec.items():
        if is_secret(name, option):
            secret = secrets.make((*above, name))
            several = [secret, secrets.private_key((*above, name))]
            given[name] = several if option.get("type") == "list" else secret
        elif "options" in option:
            inner = arguments(option["options"], directory, secrets, (*above, name))
            given[name] = [inner] if option["type"] == "list" else inner
        elif name in simple and (above or name != "path"):
            given[name] = simple[name]
        elif option.get("required"):
            given[name] = str(directory / "other") if name == "path" else "1"
    return given


def run(collections: Path, log: HostLog, name: str, given: Mapping[str, Any], python_path: str = "") -> dict[str, Any]:
    """Run a module as Ansible does on a host, in its most talkative way; what it returns."""
    internal = {"no_log": False, "verbosity": 5, "debug": False, "diff": True, "remote_tmp": "/tmp"}
    if "inject_invocation" in basic.PASS_VARS:
        # Since ansible-core 2.20, arguments are returned to whoever asks for them.
        internal["inject_invocation"] = True
    whole = {**given, **{f"_ansible_{option}": value for option, value in internal.items()}}
    script = ROOT / "plugins" / "modules" / f"{name}.py"
    state = collections / "state"
    done = subprocess.run(
        log.command(sys.executable, str(script)),
        input=json.dumps({"ANSIBLE_MODULE_ARGS": whole}),
        env={**os.environ, "PYTHONPATH": f"{collections}:{python_path}", "FLEET_BACKUP_STATE": str(state)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip(), done.stderr
    assert not done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    result["text"] = done.stdout + json.dumps(result, ensure_ascii=False)
    return result


@pytest.mark.parametrize("journal", [False, True], ids=["syslog", "journal"])
@pytest.mark.parametrize("name", MODULES)
def test_no_argument_reaches_the_hosts_log_and_no_secret_the_result(
    tmp_path: Path, collections: Path, name: str, journal: bool
) -> None:
    secrets, spec = Secrets(), spec_of(name)
    given = arguments(spec, tmp_path, secrets)
    if name == "host_files":
        given["files"][0]["path"] = str(tmp_path / "missing" / "file")
    with HostLog(tmp_path / "host") as log:
        result = run(collections, log, name, given, str(log.with_journal()) if journal else "")
    # It came past the validation of its arguments, after which Ansible logs them.
    (line,) = [line for line in log.lines if AUDIT not in line]
    assert "Invoked" in line
    for word in ("shop", str(tmp_path), "127.0.0.1"):
        assert word not in line.replace(str(ROOT), "")
    assert set(secrets.parts.values()) == {".".join(where) for where in secret_options(spec)}
    assert secrets.found("".join(log.lines)) == []
    assert secrets.found(result["text"]) == []
    assert "exception" not in result


#: Ways to write a secret that no masking by exact values expects.
SHAPES = ["in_one_text", "not_a_dictionary", "misspelt", "where_a_public_key_belongs", "wrong_type"]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_secret_in_a_place_of_another_shape_is_not_returned_either(
    tmp_path: Path, collections: Path, shape: str
) -> None:
    secrets = Secrets()
    one, key = secrets.make((shape,)), secrets.private_key((shape,))
    encryption: dict[str, Any] = {
        "in_one_text": {"identities": one.replace("\n", ",") + "," + one},
        "not_a_dictionary": f"passphrase: {one}",
        "misspelt": {"pasphrase": one},
        "where_a_public_key_belongs": {"recipients": [key]},
        "wrong_type": {"passphrase": {"value": one}, "identities": {"first": [one]}},
    }[shape]
    given = {"engine": "sqlite", "database": str(tmp_path / "shop.db"), "encryption": encryption}
    with HostLog(tmp_path / "host") as log:
        result = run(collections, log, "db_backup", {**given, "repositories": [{"path": str(tmp_path)}]})
    assert result["failed"]
    assert secrets.found(result["text"]) == []
    assert secrets.found("".join(log.lines)) == []


def test_arguments_that_are_no_secret_are_still_returned(tmp_path: Path, collections: Path) -> None:
    given = {"engine": "sqlite", "database": "/nowhere", "encryption": {"method": "none"}}
    with HostLog(tmp_path / "host") as log:
        result = run(collections, log, "db_backup", {**given, "repositories": [{"path": str(tmp_path)}]})
    returned = result["invocation"]["module_args"]
    assert (returned["database"], returned["repositories"][0]["path"]) == ("/nowhere", str(tmp_path))
    assert returned["encryption"]["method"] == "none"


def test_a_playbook_at_its_most_talkative_shows_and_logs_no_secret(tmp_path: Path, collections: Path) -> None:
    secrets = Secrets()
    tasks: list[dict[str, Any]] = []
    for name in MODULES:
        given = arguments(spec_of(name), tmp_path, secrets)
        if name == "host_files":
            given["files"][0]["path"] = str(tmp_path / "missing" / "file")
        tasks.append({"name": name, f"fleet.backup.{name}": given, "ignore_errors": True})
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False}
    included = {"name": "All modules", "ansible.builtin.include_tasks": str(tmp_path / "tasks.json")}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([{**play, "tasks": [included]}]))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment.update(ANSIBLE_COLLECTIONS_PATH=str(collections), ANSIBLE_HOME=str(tmp_path / "ansible"))
    environment.update(ANSIBLE_REMOTE_TMP=str(tmp_path / "ansible" / "tmp"), ANSIBLE_LOG_PATH=str(tmp_path / "log"))
    environment.update(ANSIBLE_PIPELINING="1", FLEET_BACKUP_STATE=str(tmp_path / "state"))
    with HostLog(tmp_path / "host") as log:
        command = log.command("ansible-playbook", "-i", "localhost,", "-vvv", "--diff", str(tmp_path / "play.yml"))
        variables = ["-e", f"ansible_python_interpreter={sys.executable}"]
        done = subprocess.run([*command, *variables], env=environment, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr + (tmp_path / "log").read_text()
    assert done.returncode == 0, output
    assert len([line for line in log.lines if "Invoked" in line and "fleet.backup" in line]) == len(MODULES)
    assert secrets.found(output) == []
    assert secrets.found("".join(log.lines)) == []
