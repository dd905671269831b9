# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Channels of notifications as the inventory says them, turned into the files that a host gets."""

from __future__ import annotations

DOCUMENTATION = r"""
name: notification_files
author:
  - The fleet.backup contributors (@fleet-backup)
version_added: 0.1.0
short_description: Turn channels of notifications into the file that a host gets
description:
  - Checks every channel as the agent on the host will, and leaves its secrets out, which
    P(fleet.backup.notification_secrets#filter) has.
  - Fails with the name of the host, the channel and the option where a channel cannot be used, and where a job names a
    channel that is not there.
options:
  _input:
    description: The channels, each a dictionary of the options that role P(fleet.backup.monitoring#role) documents.
    type: list
    elements: dict
    required: true
  host:
    description: What the host is called, for messages.
    type: str
    required: true
  jobs:
    description: The jobs of the host.
    type: list
    elements: dict
    default: []
  directory:
    description: The directory of the agent's settings on the host.
    type: path
    default: /etc/fleet-backup
positional: host, jobs, directory
"""

EXAMPLES = r"""
- name: The channels of this host can be used
  ansible.builtin.debug:
    msg: "{{ fleet_backup_notifications | fleet.backup.notification_files(inventory_hostname) | length }}"
"""

RETURN = r"""
_value:
  description: A list with one dictionary, C(path) and C(content) of the file; empty where there are no channels.
  type: list
  elements: dict
"""

import json
import posixpath
from collections.abc import Mapping
from typing import Any

from ansible_collections.fleet.backup.plugins.module_utils._engine.agent.notifications.reading import channels_of
from ansible_collections.fleet.backup.plugins.plugin_utils.refusal import Refusal

#: The options that are secrets.
_SECRETS = ("url", "login_password", "token", "signing_key")


def notification_files(
    channels: Any, host: str, jobs: Any = None, directory: str = "/etc/fleet-backup"
) -> list[dict[str, str]]:
    """The file with a host's channels, which holds no secret."""
    documents, _secrets = _parted(channels, host, jobs, directory)
    if not documents:
        return []
    content = json.dumps({"channels": documents}, indent=2, sort_keys=True) + "\n"
    return [{"path": f"{posixpath.normpath(directory)}/notifications.json", "content": content}]


def notification_secrets(
    channels: Any, host: str, jobs: Any = None, directory: str = "/etc/fleet-backup"
) -> list[dict[str, str]]:
    """The files with the secrets of a host's channels."""
    return _parted(channels, host, jobs, directory)[1]


def is_web_address(value: str) -> bool:
    """Whether a text can be the URL of a receiver."""
    return value.startswith(("https://", "http://")) and value.isprintable() and " " not in value


def _parted(channels: Any, host: str, jobs: Any, directory: str) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """The channels without their secrets, and those; all of it checked."""
    # As the host tells its paths, which are compared with these.
    directory = posixpath.normpath(directory)
    if not isinstance(channels, list) or not all(isinstance(channel, Mapping) for channel in channels):
        raise Refusal(f"{host}: the channels of notifications must be a list of dictionaries.")
    documents: list[dict[str, Any]] = []
    secrets: list[dict[str, str]] = []
    for number, channel in enumerate(channels):
        # What is not said is not there: the argument specification of the role may have put null in its place.
        document = {
            key: value for key, value in json.loads(json.dumps(channel, default=str)).items() if value is not None
        }
        where = f"{host}: channel {document.get('name') or number}"
        secrets += _part_secrets(document, where, f"{directory}/notification-secrets/{document.get('name')}")
        documents.append(document)
    found = channels_of({"channels": documents}, host)
    if found.problems:
        raise Refusal(found.problems[0])
    _check_names(jobs or [], host, found.names)
    return documents, secrets


def _part_secrets(document: dict[str, Any], where: str, beginning: str) -> list[dict[str, str]]:
    files = []
    for option in _SECRETS:
        value = document.get(option)
        if isinstance(value, dict) and "credential" in value:
            # Every work of the host, and commands by hand, tell through a channel; credentials belong to services.
            raise Refusal(
                f"{where}: {option}: systemd hands credentials to the services of jobs alone. Name a file, or give the "
                "secret itself, which gets a file that only root reads."
            )
        if not isinstance(value, str):
            continue
        if not value.strip():
            raise Refusal(f"{where}: {option} is empty. See where it should come from.")
        if option == "url" and document.get("type") != "apprise" and not is_web_address(value):
            raise Refusal(f"{where}: url is no URL that begins with https:// or http://. Correct it.")
        if option == "url" and _is_exposed(document, value):
            raise Refusal(
                f"{where}: url begins with http://, so that the token would cross the network unencrypted. "
                "Use https://, or set allow_http to true."
            )
        path = f"{beginning}.{option}"
        files.append({"path": path, "content": f"{value}\n"})
        document[option] = {"file": path}
    return files


def _is_exposed(document: Mapping[str, Any], url: str) -> bool:
    """Whether a credential would be sent unencrypted, and nobody asked for that."""
    secret = document.get("token") or "@" in url.partition("//")[2].partition("/")[0]
    return url.startswith("http://") and bool(secret) and document.get("allow_http") is not True


def _check_names(jobs: Any, host: str, names: tuple[str, ...]) -> None:
    for job in jobs:
        for name in job.get("notifications") or []:
            if name not in names:
                known = ", ".join(names) or "none"
                where = f"{host}: job {job.get('name')}: notifications"
                raise Refusal(f'{where}: there is no channel "{name}". The channels: {known}.')


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        """By name."""
        return {"notification_files": notification_files, "notification_secrets": notification_secrets}
