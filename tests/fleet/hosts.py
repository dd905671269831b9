# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hosts of a fleet for tests: Debian with systemd, ssh and PostgreSQL, in containers on a network of their own.

Ansible reaches them over ssh, as an administrator who may become root. A test looks at a host from outside instead, by
``Host.run``, which also works where ssh does not.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

import yaml

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ROOT / "tests" / "hosts"
#: The versions of Debian for which there are images.
DEBIANS = (11, 12, 13)
#: Whose containers and networks they are: the process of the test run, so that what a killed one left can be removed.
OWNER = "fleet-backup.owner"
#: Where a fleet's copy of the collection is.
COLLECTION = Path("collections", "ansible_collections", "fleet", "backup")
_SECONDS_TO_START = 90
_RECAP = re.compile(r"^(\S+)\s+:\s+(ok=\d+.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Done:
    """What became of a program."""

    status: int
    output: str
    errors: str


@dataclass(frozen=True)
class Play:
    """What became of a playbook. ``recap`` counts by host: ok, changed, unreachable, failed, skipped, and so on."""

    status: int
    output: str
    recap: Mapping[str, Mapping[str, int]]

    @property
    def changed(self) -> dict[str, int]:
        """How many tasks changed something, by host."""
        return {host: counts["changed"] for host, counts in self.recap.items()}


def podman(*arguments: str, stdin: str | None = None, fails: bool | None = False) -> Done:
    """Run podman; ``fails`` says whether it must, and None that it may."""
    return _run(["podman", *arguments], fails, stdin)


def _run(
    command: Sequence[str],
    fails: bool | None,
    stdin: str | None = None,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Done:
    done = subprocess.run(
        command,
        input=stdin or "",
        # Apart: a line of the one would end up in the midst of a line of the other.
        capture_output=True,
        env={**os.environ, "CONTAINERS_CONF": str(HOSTS / "containers.conf"), **(environment or {})},
        cwd=directory,
        text=True,
        check=False,
    )
    if fails is not None and (done.returncode != 0) is not fails:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return Done(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Host:
    """A host, by its name in the inventory. ``debian`` is the version of Debian."""

    name: str
    debian: int
    container: str
    address: str

    def run(
        self, command: Sequence[str], user: str = "root", stdin: str | None = None, fails: bool | None = False
    ) -> str:
        """Run a program on the host; what it says, with its errors where it fails.

        ``fails`` says whether it must fail, and None that it may.
        """
        done = podman("exec", "--interactive", "--user", user, self.container, *command, stdin=stdin, fails=fails)
        return done.output + (done.errors if done.status else "")

    def agent(self, *arguments: str, fails: bool | None = False) -> str:
        """Run ``fleet-backup``."""
        return self.run(["fleet-backup", *arguments], fails=fails)

    def backups(self, job: str) -> list[dict[str, Any]]:
        """The backups of a job, as the host's agent lists them."""
        listed = json.loads(self.agent("list", job, "--json"))
        assert listed["problems"] == [], listed
        found: list[dict[str, Any]] = listed["backups"]
        return found

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run a statement on the host's own PostgreSQL, as its superuser."""
        command = ["psql", "--no-psqlrc", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1", database]
        return self.run(command, user="postgres", stdin=statement).strip()

    def read(self, path: str) -> str:
        return self.run(["cat", path])

    def write(self, path: str, content: str, mode: str = "0644") -> None:
        self.run(["install", "-D", "--mode", mode, "/dev/stdin", path], stdin=content)

    def files(self, *paths: str) -> dict[str, str]:
        """Everything below the paths that is there, with its mode and its owner, as ``0600 root``."""
        found = self.run(["find", *paths, "-printf", "%p\\t%#m %u\\n"], fails=None)
        rows = [tuple(line.split("\t")) for line in found.splitlines() if "\t" in line]
        return dict(rows)

    def stop(self) -> None:
        """Switch the host off."""
        podman("stop", "--time", "30", self.container)

    def start(self) -> None:
        """Switch the host on, and wait until it runs."""
        podman("start", self.container)
        self.wait()

    def wait(self) -> None:
        """Wait until everything that starts with the host has started."""
        deadline = time.monotonic() + _SECONDS_TO_START
        state = ""
        while time.monotonic() < deadline:
            state = self.run(["systemctl", "is-system-running", "--wait"], fails=None).strip()
            if state == "running":
                return
            time.sleep(0.2)
        failed = self.run(["systemctl", "list-units", "--failed", "--no-legend"], fails=None)
        raise AssertionError(f"{self.name} does not come up: {state}\n{failed}{podman('logs', self.container).output}")


@dataclass
class Fleet:
    """Hosts and their inventory: for the next playbook, ``variables`` of each host, and ``common`` ones of all."""

    directory: Path
    hosts: Mapping[str, Host]
    #: The address at which the hosts reach this machine.
    gateway: str
    variables: dict[str, dict[str, Any]] = field(default_factory=dict)
    common: dict[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Host]:
        return iter(self.hosts.values())

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    @property
    def collection(self) -> Path:
        """The copy of this collection that is deployed."""
        return self.directory / COLLECTION

    def roles(self, *names: str, options: Sequence[str] = (), fails: bool = False, **variables: Any) -> Play:
        """Apply roles of this collection to all hosts."""
        play = {"hosts": "all", "become": True, "roles": [f"fleet.backup.{name}" for name in names]}
        path = self.directory / "roles.yml"
        path.write_text(yaml.safe_dump([play]))
        return self.playbook(str(path), *options, fails=fails, **variables)

    def playbook(self, name: str, *options: str, fails: bool = False, forks: int = 25, **variables: Any) -> Play:
        """Run a playbook, by its path or its name in the collection; ``variables`` go before all others."""
        given = ["--extra-vars", json.dumps(variables)] if variables else []
        command = [
            "ansible-playbook",
            "--inventory",
            str(self._inventory()),
            "--forks",
            str(forks),
            *given,
            *options,
            name,
        ]
        done = _run(command, fails, environment=self._environment(), directory=self.directory)
        counts = {
            host: {word: int(number) for word, number in re.findall(r"(\w+)=(\d+)", words)}
            for host, words in _RECAP.findall(done.output)
        }
        return Play(done.status, done.output + done.errors, counts)

    def _inventory(self) -> Path:
        hosts = {host.name: {"ansible_host": host.address, **self.variables.get(host.name, {})} for host in self}
        common = {
            "ansible_user": "admin",
            "ansible_ssh_private_key_file": str(self.directory / "key"),
            "ansible_python_interpreter": "/usr/bin/python3",
            **self.common,
        }
        path = self.directory / "inventory.yml"
        path.write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": common}}))
        return path

    def _environment(self) -> dict[str, str]:
        return {
            # As a shell says where it is.
            "PWD": str(self.directory),
            "ANSIBLE_COLLECTIONS_PATH": str(self.directory / "collections"),
            "ANSIBLE_PIPELINING": "true",
            "ANSIBLE_HOST_KEY_CHECKING": "false",
            "ANSIBLE_SSH_ARGS": "-o ControlMaster=auto -o ControlPersist=60s -o UserKnownHostsFile=/dev/null",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.directory / "ssh"),
            "ANSIBLE_SSH_CONTROL_PATH": "%(directory)s/%%C",
            # The hosts are not on this machine, where the rest of the tests puts it.
            "ANSIBLE_REMOTE_TMP": "~/.ansible/tmp",
            "ANSIBLE_ASYNC_DIR": "~/.ansible_async",
        }


@contextmanager
def running_fleet(wanted: Mapping[str, int]) -> Iterator[Fleet]:
    """Start hosts of these names and versions of Debian, and remove them and their network afterwards."""
    remove_what_is_left()
    _run([str(HOSTS / "images"), *sorted({str(debian) for debian in wanted.values()})], fails=False, directory=ROOT)
    prefix = f"fleet-backup-{uuid.uuid4().hex[:8]}"
    # A path that is short enough for sockets in it.
    directory = Path(tempfile.mkdtemp(prefix=f"{prefix}-"))
    try:
        network = _network(prefix)
        # The first address is this machine's own.
        gateway, *addresses = (str(network[number]) for number in range(1, len(wanted) + 2))
        hosts = {
            name: Host(name, debian, f"{prefix}-{name}", address)
            for (name, debian), address in zip(wanted.items(), addresses)
        }
        _prepare(directory)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda host: _start(host, prefix, directory), hosts.values()))
        yield Fleet(directory, hosts, gateway)
    finally:
        _remove(prefix)
        shutil.rmtree(directory)


def remove_what_is_left() -> None:
    """Remove hosts and networks whose test run was killed."""
    labelled = ["--filter", f"label={OWNER}", "--format", "json"]
    for container in json.loads(podman("container", "ls", "--all", *labelled).output or "[]"):
        if _is_orphan(container["Labels"]):
            podman("container", "rm", "--force", "--time", "0", container["Id"], fails=None)
    for network in json.loads(podman("network", "ls", *labelled).output or "[]"):
        if _is_orphan(network["labels"]):
            podman("network", "rm", network["name"], fails=None)
            for directory in Path(tempfile.gettempdir()).glob(f"{network['name']}-*"):
                shutil.rmtree(directory, ignore_errors=True)


def _is_orphan(labels: Mapping[str, str]) -> bool:
    return not Path("/proc", labels[OWNER]).exists()


def _network(prefix: str) -> ipaddress.IPv4Network:
    podman("network", "create", "--label", f"{OWNER}={os.getpid()}", prefix)
    described = json.loads(podman("network", "inspect", prefix).output)
    return ipaddress.IPv4Network(described[0]["subnets"][0]["subnet"])


def _prepare(directory: Path) -> None:
    """Make the administrator's key, and the collection's place."""
    _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / "key")], fails=False)
    (directory / "ssh").mkdir(mode=0o700)
    # A copy, which a test can make another version of, and which stays as it is while somebody writes the next one.
    _run([str(ROOT / "tools" / "tree"), str(directory / COLLECTION)], fails=False, directory=ROOT)


def _start(host: Host, prefix: str, directory: Path) -> None:
    image = os.environ.get(f"FLEET_BACKUP_IMAGE_DEBIAN_{host.debian}") or f"localhost/fleet-backup-debian-{host.debian}"
    podman(
        "run",
        "--detach",
        f"--name={host.container}",
        f"--hostname={host.name}",
        f"--label={OWNER}={os.getpid()}",
        f"--network={prefix}",
        f"--ip={host.address}",
        # The same after a restart, or this machine would go on sending to the old one for a while.
        f"--mac-address={_hardware_address(host.address)}",
        f"--volume={directory / 'key.pub'}:/etc/ssh/authorized_keys:ro",
        "--systemd=always",
        "--ulimit=host",
        # Without it, systemd leaves out what shields services, and nothing would show what that keeps them from.
        "--cap-add=SYS_ADMIN",
        image,
        "/lib/systemd/systemd",
    )
    host.wait()


def _hardware_address(address: str) -> str:
    """One of those that nobody administers (IEEE 802, locally administered)."""
    return ":".join(f"{byte:02x}" for byte in (0x02, 0xFB, *ipaddress.IPv4Address(address).packed))


def _remove(prefix: str) -> None:
    listed = podman("ps", "--all", "--filter", f"name=^{prefix}-", "--format", "{{.Names}}")
    if listed.output.split():
        podman("rm", "--force", "--time", "0", *listed.output.split())
    podman("network", "rm", "--force", prefix, fails=None)
