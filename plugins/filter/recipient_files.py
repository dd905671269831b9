# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The keys of the inventory, turned into the files that a host gets: public ones, checked on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
name: recipient_files
author:
  - The fleet.backup contributors (@fleet-backup)
version_added: 0.1.0
short_description: Turn keys of the inventory into the files that a host gets
description:
  - Reads public keys on the controller, and checks each. A private key in the place of a public one is refused.
  - Fails with the name of the host, the key and the option where a key cannot be used.
options:
  _input:
    description: The keys, each a dictionary of the options that role P(fleet.backup.keys#role) documents.
    type: list
    elements: dict
    required: true
  host:
    description: What the host is called, for messages.
    type: str
    required: true
  controller_directory:
    description: Where pairs are on the controller, and where relative paths begin.
    type: path
    required: true
  directory:
    description: Where the host has its public keys.
    type: path
    default: /etc/fleet-backup/keys
  warn:
    description: Whether to warn of private keys that lie on the controller in clear.
    type: bool
    default: true
positional: host, controller_directory, directory
"""

EXAMPLES = r"""
- name: The keys of this host can be used
  ansible.builtin.debug:
    msg: "{{ fleet_backup_keys | fleet.backup.recipient_files(inventory_hostname, inventory_dir ~ '/keys') }}"
"""

RETURN = r"""
_value:
  description:
    - A dictionary for each key, with its C(name), and the C(path) of its file on the host.
    - C(content) is the public key, and null while the pair is still to be made.
    - C(private) is the path of the private key on the controller, and null where the pair is not made here.
    - C(in_clear) says whether it is there and not encrypted.
  type: list
  elements: dict
"""

import os
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ansible.utils.display import Display
from ansible_collections.fleet.backup.plugins.module_utils._engine.errors import EngineError
from ansible_collections.fleet.backup.plugins.module_utils._engine.host.private_file import require_private
from ansible_collections.fleet.backup.plugins.module_utils._engine.pem import load_recipients, public_pem
from ansible_collections.fleet.backup.plugins.plugin_utils.refusal import Refusal

#: What a key's file is called on hosts, by the key's type.
_FILE_NAMES = {"x25519": "{}.pem.pub", "gpg": "{}.asc", "age": "{}.age.pub"}
#: Which keys an encryption method uses.
_TYPES = {"aes256-gcm": "x25519", "gpg": "gpg", "age": "age"}
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")
#: In PEM (RFC 7468), OpenPGP's armour (RFC 9580, section 6.2) and OpenSSH's keys; age's is Bech32, of either case.
_PRIVATE = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY|AGE-SECRET-KEY-", re.IGNORECASE)
#: What a bare key looks like, which may be a private one.
_BARE = re.compile(r"[0-9A-Za-z+/_-]{40,}={0,2}")
#: No file of public keys is longer, in bytes.
_LONGEST = 1 << 20


@dataclass(frozen=True)
class _Key:
    """A key of the inventory. ``where`` is what messages about it begin with, ``path`` its file on the host."""

    name: str
    kind: str
    path: str
    where: str
    public: str
    #: The private key on the controller, where the pair is made there.
    private: Path | None


def recipient_files(
    keys: Any,
    host: str,
    controller_directory: str,
    directory: str = "/etc/fleet-backup/keys",
    warn: bool = True,
) -> list[dict[str, Any]]:
    """The files of a host's keys, in the order of the keys."""
    base = Path(controller_directory).expanduser()
    return [_file(key, base, warn) for key in _keys(keys, host, base, directory)]


def _keys(keys: Any, host: str, base: Path, directory: str) -> list[_Key]:
    paths = recipient_paths(keys, host, directory)
    found = []
    for given in keys:
        name, public, generate = str(given["name"]), given.get("public"), given.get("generate")
        kind, path = paths[name]
        where = f"{host}: key {name}"
        if public and generate:
            _refuse(where, "public and generate exclude each other. Leave one of them out.")
        if not public and not generate:
            _refuse(where, "public: it is missing. Give the public key or its path, or have a pair made by generate.")
        if generate and kind != "x25519":
            _refuse(where, f"generate: only x25519 pairs are made. Make the {kind} pair, and give its public key.")
        private = base / f"{name}.pem" if generate else None
        found.append(_Key(name, kind, path, where, str(public or ""), private))
    return found


def recipient_paths(keys: Any, host: str, directory: str) -> dict[str, tuple[str, str]]:
    """The type of each key, and the path of its file on the host. Nothing is read for it."""
    # As the host tells its paths, which are compared with these.
    directory = posixpath.normpath(directory)
    if not isinstance(keys, list) or not all(isinstance(key, Mapping) for key in keys):
        raise Refusal(f"{host}: the keys must be a list of dictionaries.")
    found: dict[str, tuple[str, str]] = {}
    for key in keys:
        name, kind = str(key.get("name") or ""), str(key.get("type") or "x25519")
        if not _NAME.fullmatch(name):
            raise Refusal(
                f'{host}: "{name}" cannot be the name of a key. '
                'Use lower-case letters, digits, "-" and "_", at most 63.'
            )
        if name in found:
            raise Refusal(f'{host}: two keys are named "{name}". Rename one of them.')
        if kind not in _FILE_NAMES:
            raise Refusal(f'{host}: key {name}: type: "{kind}" is none of {", ".join(_FILE_NAMES)}. Correct it.')
        found[name] = (kind, f"{directory}/{_FILE_NAMES[kind].format(name)}")
    return found


def resolve_recipients(
    encryption: Mapping[str, Any], where: str, paths: Mapping[str, tuple[str, str]], directory: str
) -> list[str]:
    """The recipients of a job as its host knows them: names of keys become paths in ``directory``.

    Raises for a key that the host does not get, for one of another method, and for a private key.
    """
    method = str(encryption.get("method") or "aes256-gcm")
    found = []
    for number, recipient in enumerate(encryption["recipients"], 1):
        if is_private(recipient):
            _refuse(where, f"item {number} is a private key, and hosts must not have one. Give the public key.")
        name = next((name for name, (_type, path) in paths.items() if recipient in (name, path)), None)
        if name is not None:
            kind, path = paths[name]
            if _TYPES.get(method) != kind:
                _refuse(where, f'the key "{name}" is of type {kind}, which {method} cannot use. Name another one.')
            found.append(path)
        elif recipient.startswith(f"{directory}/") or (method != "gpg" and not _is_key_or_path(recipient)):
            known = ", ".join(sorted(paths)) or "none"
            _refuse(
                where,
                f"{_called(recipient, number, directory)}. Add it to fleet_backup_keys, or give a public key. "
                f"The keys of this host: {known}.",
            )
        else:
            found.append(recipient)
    return found


def _called(recipient: str, number: int, directory: str) -> str:
    # What is neither a name nor a path may be a bare private key, and is not repeated.
    named = _NAME.fullmatch(recipient) or recipient.startswith(f"{directory}/")
    return f'there is no key "{recipient}"' if named else f"item {number} is no key"


def _is_key_or_path(recipient: str) -> bool:
    return "-----BEGIN" in recipient or recipient.startswith(("/", "~", "age1", "ssh-"))


def is_private(text: str) -> bool:
    """Whether a text holds a private key of any kind that this collection uses."""
    return bool(_PRIVATE.search(text))


def _file(key: _Key, base: Path, warn: bool) -> dict[str, Any]:
    in_clear = False
    if key.private is None:
        text: str | None = _public(key.public, f"{key.where}: public", base)
    else:
        text = _made(key.private, f"{key.where}: generate")
        in_clear = _in_clear(key.private, text, f"{key.where}: generate")
    if text is not None:
        _check(text, key.kind, key.where)
    if in_clear and warn:
        Display().warning(
            f"The private key {key.private} is not encrypted. Run ansible-vault encrypt on it, or set "
            "fleet_backup_keys_vault_password, or move it to a safe place: only the .pub file is needed here."
        )
    return {
        "name": key.name,
        "path": key.path,
        "content": None if text is None else text.strip() + "\n",
        "private": str(key.private) if key.private else None,
        "in_clear": in_clear,
    }


def _public(given: str, where: str, base: Path) -> str:
    """A public key from its text or its path on the controller."""
    if given.startswith(("age1", "ssh-")) or "-----BEGIN" in given or is_private(given) or "\n" in given:
        return given
    if _BARE.fullmatch(given) or "\0" in given:
        _refuse(
            where, "this is no path, and no key with its first and last line. Give the public key whole, or its path."
        )
    return _text(base / Path(given).expanduser(), where)


def _made(private: Path, where: str) -> str | None:
    """The public key of a pair that is made here; None while it is not there.

    A public key alone is a pair whose private key was moved to a safe place: no other one must take its name.
    """
    public = private.with_name(f"{private.name}.pub")
    if os.path.exists(public):
        return _text(public, where)
    if os.path.exists(private) and not is_private(_content(private)):
        _refuse(
            where,
            f"{private} is there, and {public.name} is not; the private key is encrypted, and was left as it is. "
            "Bring the public key back, or write it anew: "
            f"ansible-vault view {private} | openssl pkey -pubout -out {public}",
        )
    return None


def _in_clear(private: Path, public: str | None, where: str) -> bool:
    """Whether a pair's private key is on the controller in clear. It must then belong to the public one."""
    text = _content(private)
    if not is_private(text) or "ENCRYPTED PRIVATE KEY" in text:
        return False
    try:
        require_private(os.stat(private), f"The private key {private}")
    except EngineError as error:
        _refuse(where, str(error))
    try:
        belongs = public is None or public_pem(text.encode()).decode("ascii").split() == public.split()
    except EngineError as error:
        _refuse(where, f"{private}: {error}")
    if not belongs:
        _refuse(
            where,
            f"{private}.pub does not belong to {private}, which could not read what is encrypted for it. "
            "Bring the right one of them back.",
        )
    return True


def _content(private: Path) -> str:
    """What a private key's file holds, however it is encrypted; nothing where it is gone or only others may read it."""
    try:
        return private.read_bytes().decode("latin-1")
    except (FileNotFoundError, PermissionError):
        return ""


def _text(path: Path, where: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST)
    except OSError as error:
        _refuse(where, f"{path} cannot be read on the controller: {error.strerror}. Correct the path, or its mode.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        _refuse(where, f"{path} is no text. Give a key as PEM, in OpenPGP's armour (gpg --armor), or as age writes it.")


def _check(text: str, kind: str, where: str) -> None:
    """Refuse what is no public key of this type."""
    if is_private(text):
        _refuse(
            where,
            "this is a private key, and hosts must not have one. Nothing was copied. Give the public key: "
            "openssl pkey -pubout, gpg --armor --export and age-keygen -y write it.",
        )
    if kind == "gpg":
        # gpg takes one key from a file (gpg(1), --recipient-file), and would leave out the others without a word.
        if text.count("-----BEGIN PGP PUBLIC KEY BLOCK-----") != 1 or "-----END PGP PUBLIC KEY BLOCK-----" not in text:
            _refuse(where, "this is not one whole OpenPGP public key. Give what gpg --armor --export KEY writes.")
    elif kind == "age":
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        if not lines or not all(line.startswith(("age1", "ssh-")) for line in lines):
            _refuse(where, "these are no recipients that age knows. Give what age-keygen -y writes, one a line.")
    elif "-----BEGIN" not in text:
        _refuse(where, "this is no public key in PEM. Give what openssl pkey -pubout writes.")
    else:
        try:
            load_recipients([text])
        except EngineError as error:
            _refuse(where, str(error))


def _refuse(where: str, why: str) -> NoReturn:
    raise Refusal(f"{where}: {why}")


class FilterModule:
    """The filter of this file."""

    def filters(self) -> dict[str, Any]:
        """By name."""
        return {"recipient_files": recipient_files}
