# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Jobs as the inventory says them, turned into the files that a host gets; a wrong one fails on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
name: job_files
author:
  - The fleet.backup contributors (@fleet-backup)
version_added: 0.1.0
short_description: Turn jobs of the inventory into the files that a host gets
description:
  - Checks every job as the agent on the host will, and leaves its secrets out, which
    P(fleet.backup.secret_files#filter) has.
  - Fails with the name of the host, the job and the option where a job cannot be used.
options:
  _input:
    description: The jobs, each a dictionary of the options that role P(fleet.backup.agent#role) documents.
    type: list
    elements: dict
    required: true
  host:
    description: What the host is called, for messages and as the default of C(source_host).
    type: str
    required: true
  directory:
    description: The directory of the agent's settings on the host.
    type: path
    default: /etc/fleet-backup
  keys:
    description:
      - The keys that role P(fleet.backup.keys#role) brings to the host. A job names them in C(encryption.recipients).
    type: list
    elements: dict
    default: []
positional: host, directory, keys
"""

EXAMPLES = r"""
- name: The jobs of this host can be used
  ansible.builtin.debug:
    msg: "{{ fleet_backup_jobs | fleet.backup.job_files(inventory_hostname) | map(attribute='path') }}"
"""

RETURN = r"""
_value:
  description: A dictionary with C(path) and C(content) for each file, in the order of the jobs' names.
  type: list
  elements: dict
"""

import json
import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from ansible_collections.fleet.backup.plugins.filter.notification_files import is_web_address
from ansible_collections.fleet.backup.plugins.filter.recipient_files import (
    is_private,
    recipient_paths,
    resolve_recipients,
)
from ansible_collections.fleet.backup.plugins.module_utils._engine.agent.config.reading import read_job
from ansible_collections.fleet.backup.plugins.module_utils._engine.errors import BadInput
from ansible_collections.fleet.backup.plugins.plugin_utils.refusal import Refusal

#: Where a job may have a secret: the option of the inventory, within another one or not, and the option of the file.
_SECRETS = (
    ((), "login_password", "login_password"),
    (("encryption",), "passphrase", "passphrase"),
    (("verify", "scratch"), "login_password", "scratch_password"),
    ((), "heartbeat", "heartbeat"),
)


def job_files(jobs: Any, host: str, directory: str = "/etc/fleet-backup", keys: Any = None) -> list[dict[str, str]]:
    """The files of a host's jobs, in the order of their names. They hold no secret."""
    return [file for file, _secrets in _files(jobs, host, directory, keys)]


def secret_files(jobs: Any, host: str, directory: str = "/etc/fleet-backup", keys: Any = None) -> list[dict[str, str]]:
    """The files with the secrets of a host's jobs."""
    return [secret for _file, secrets in _files(jobs, host, directory, keys) for secret in secrets]


def _files(jobs: Any, host: str, directory: str, keys: Any) -> Iterator[tuple[dict[str, str], list[dict[str, str]]]]:
    # As the host tells its paths, which are compared with these.
    directory = posixpath.normpath(directory)
    if not isinstance(jobs, list) or not all(isinstance(job, Mapping) for job in jobs):
        raise Refusal(f"{host}: the jobs must be a list of dictionaries.")
    names = [str(job.get("name") or "") for job in jobs]
    for name in names:
        if not name:
            raise Refusal(f"{host}: a job has no name. Give each a name of its own.")
        if names.count(name) > 1:
            raise Refusal(f'{host}: two jobs are named "{name}". Rename one of them.')
    paths = recipient_paths(keys or [], host, f"{directory}/keys")
    for job in sorted(jobs, key=lambda job: str(job["name"])):
        document = json.loads(json.dumps({key: value for key, value in job.items() if key != "name"}, default=str))
        name = str(job["name"])
        secrets = _part_secrets(document, f"{directory}/secrets/{name}", f"{host}: job {name}")
        document.setdefault("source_host", host)
        try:
            read_job(document, name, f"{host}: job {name}", host)
        except BadInput as error:
            raise Refusal(str(error)) from None
        _settle_readers(document, f"{host}: job {name}: encryption", paths, f"{directory}/keys")
        content = json.dumps(document, indent=2, sort_keys=True) + "\n"
        yield {"path": f"{directory}/jobs.d/{name}.json", "content": content}, secrets


def _settle_readers(document: dict[str, Any], where: str, paths: Mapping[str, tuple[str, str]], directory: str) -> None:
    """See that somebody can read what the job writes, by keys that the host has; and that it gets no private one."""
    encryption = document.get("encryption") or {}
    if any(is_private(identity) for identity in encryption.get("identities") or []):
        raise Refusal(
            f"{where}.identities: this is a private key itself, which would be readable in the job's file. "
            "Give the path of its file on a host that restores."
        )
    if encryption.get("recipients"):
        encryption["recipients"] = resolve_recipients(encryption, f"{where}.recipients", paths, directory)
    elif encryption.get("method") != "none" and "passphrase" not in document:
        raise Refusal(
            f"{where}.recipients: there is none, and no passphrase, so that nobody could read the backups. "
            "Name keys of fleet_backup_keys, or give public keys."
        )


def _part_secrets(document: dict[str, Any], beginning: str, where: str) -> list[dict[str, str]]:
    """Put the places of a job's secrets where the secrets were; the files that hold them."""
    files = []
    for within, option, purpose in _SECRETS:
        parent: Any = document
        for step in within:
            parent = parent.get(step) if isinstance(parent, dict) else None
        value = parent.pop(option, None) if isinstance(parent, dict) else None
        if value == "":
            raise Refusal(f"{where}: {'.'.join([*within, option])} is empty. See where it should come from.")
        if option == "heartbeat" and isinstance(value, str) and not is_web_address(value):
            raise Refusal(f"{where}: heartbeat is no URL that begins with https:// or http://. Correct it.")
        if isinstance(value, str):
            path = f"{beginning}.{purpose}"
            files.append({"path": path, "content": f"{value}\n"})
            value = {"file": path}
        if value is not None:
            document[purpose] = value
    return files


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        """By name."""
        return {"job_files": job_files, "secret_files": secret_files}
