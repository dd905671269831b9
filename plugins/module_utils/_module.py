# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where Ansible ends and the engine begins: argument specs, options as types, errors as failures."""

from __future__ import annotations

import platform
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence, Tuple

from ._engine.crypto.signing import Signing
from ._engine.errors import BadInput, BadManifest, EngineError, Stopped
from ._engine.host.apart import apart
from ._engine.interrupts import interruptible
from ._engine.model import Database, Encryption, EncryptionSettings, EngineName, Problem, Server
from ._engine.repositories.base import Repository
from ._engine.repositories.local import LocalRepository
from ._engine.state import Host, default_state
from ._engine.text import shown
from ._engine.timespan import parse_span, parse_time
from ._quiet import QuietModule, bug_of


@dataclass(frozen=True)
class ArgumentSpec:
    """A module's options, or a part of them that several modules share."""

    options: Mapping[str, Any] = field(default_factory=dict)
    required_if: Sequence[Any] = ()
    required_together: Sequence[Any] = ()
    required_one_of: Sequence[Any] = ()
    mutually_exclusive: Sequence[Any] = ()
    required_by: Mapping[str, Any] = field(default_factory=dict)

    def merge(self, other: ArgumentSpec) -> ArgumentSpec:
        """Both parts together; ``other`` wins where an option is in both."""
        return ArgumentSpec(
            {**self.options, **other.options},
            [*self.required_if, *other.required_if],
            [*self.required_together, *other.required_together],
            [*self.required_one_of, *other.required_one_of],
            [*self.mutually_exclusive, *other.mutually_exclusive],
            {**self.required_by, **other.required_by},
        )

    def create_module(self) -> QuietModule:
        """The AnsibleModule of these options."""
        return QuietModule(
            argument_spec=deepcopy(dict(self.options)),
            required_if=self.required_if,
            required_together=self.required_together,
            required_one_of=self.required_one_of,
            mutually_exclusive=self.mutually_exclusive,
            required_by=self.required_by,
            supports_check_mode=True,
        )


_SERVER = {
    "login_host": {"type": "str"},
    "login_port": {"type": "int"},
    "login_user": {"type": "str"},
    "login_password": {"type": "str", "no_log": True},
    "login_unix_socket": {"type": "path"},
    "ssl_mode": {"type": "str", "choices": ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]},
    "ca_cert": {"type": "path"},
}

_REPOSITORY = {
    "type": {"type": "str", "choices": ["local"], "default": "local"},
    "path": {"type": "path"},
}
_REPOSITORY_REQUIRED = [("type", "local", ["path"])]

DATABASE = ArgumentSpec(
    {
        "engine": {"type": "str", "required": True, "choices": [name.value for name in EngineName]},
        "database": {"type": "str", "required": True},
        "become_user": {"type": "str"},
        **_SERVER,
    }
)

#: For modules that can work on all databases of a host: which one is then a filter.
DATABASE_FILTER = ArgumentSpec(
    {
        "engine": {"type": "str", "choices": [name.value for name in EngineName]},
        "database": {"type": "str"},
    }
)

REPOSITORIES = ArgumentSpec(
    {
        "repositories": {
            "type": "list",
            "elements": "dict",
            "required": True,
            "options": _REPOSITORY,
            "required_if": _REPOSITORY_REQUIRED,
        }
    }
)

REPOSITORY = ArgumentSpec(
    {
        "repository": {
            "type": "dict",
            "options": _REPOSITORY,
            "required_if": _REPOSITORY_REQUIRED,
        }
    }
)

ENCRYPTION = ArgumentSpec(
    {
        "encryption": {
            "type": "dict",
            "options": {
                "method": {
                    "type": "str",
                    "choices": [method.value for method in Encryption],
                    "default": Encryption.AES256_GCM.value,
                },
                "recipients": {"type": "list", "elements": "str", "default": []},
                "passphrase": {"type": "str", "no_log": True},
                "identities": {"type": "list", "elements": "str", "default": [], "no_log": True},
            },
        }
    }
)

#: For modules that read backups.
ACCEPT_ENCRYPTION = ArgumentSpec(
    {
        "accept_encryption": {
            "type": "list",
            "elements": "str",
            "choices": [method.value for method in Encryption],
            "default": [],
        }
    }
)

#: For modules that read or write backups.
SIGNING = ArgumentSpec(
    {
        "signing": {
            "type": "dict",
            "options": {
                # Its path: the key itself never leaves its file.
                "key": {"type": "path", "no_log": False},
                "allowed_signers": {"type": "path"},
                "required": {"type": "bool"},
            },
        }
    }
)

_DEEDS = {"db_backup": "The backup", "db_restore": "The restore", "backup_verify": "The verification"}

SCRATCH_OPTIONS = {
    "path": {"type": "path"},
    "become_user": {"type": "str"},
    "isolated": {"type": "bool", "default": True},
    "allow_superuser": {"type": "bool", "default": False},
    **_SERVER,
}


class Options:
    """A module's options with the engine's types. Methods raise BadInput, which names the option."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._params = params

    def value(self, name: str) -> Any:
        """An option as Ansible read it."""
        return self._params[name]

    def database(self) -> Database:
        """The shared options ``database``."""
        return Database(EngineName(self._params["engine"]), self._database_name(), read_server(self._params))

    def database_filter(self) -> Optional[Database]:
        """The one database that was named, or None for all of them."""
        if self._params["database"] is None:
            return None
        if self._params["engine"] is None:
            raise BadInput("database is given without engine. Name the engine too.")
        return Database(EngineName(self._params["engine"]), self._database_name())

    def repositories(self) -> Tuple[Repository, ...]:
        """The shared option ``repositories``."""
        return tuple(_read_repository(item) for item in self._params["repositories"])

    def one_or_all_repositories(self) -> Tuple[Repository, ...]:
        """The shared option ``repository``, or without it ``repositories``."""
        one = self._params["repository"]
        return (_read_repository(one),) if one else self.repositories()

    def encryption(self) -> EncryptionSettings:
        """The shared option ``encryption``, with ``accept_encryption``; without it, aes256-gcm and no key."""
        given = self._params["encryption"]
        accepted = tuple(Encryption(method) for method in self._params.get("accept_encryption") or ())
        if given is None:
            return EncryptionSettings(accepted=accepted)
        return EncryptionSettings(
            method=Encryption(given["method"]),
            recipients=tuple(given["recipients"]),
            passphrase=given["passphrase"],
            identities=tuple(given["identities"]),
            accepted=accepted,
        )

    def signing(self) -> Signing:
        """The shared option ``signing``; without it, nothing is signed and no signature is looked at."""
        given = self._params.get("signing") or {}
        return Signing(given.get("key"), given.get("allowed_signers"), given.get("required"))

    def span(self, name: str) -> Optional[timedelta]:
        """A duration such as ``26h``."""
        return None if self._params[name] is None else parse_span(self._params[name], name)

    def time(self, name: str) -> Optional[datetime]:
        """A time such as ``2026-03-01T12:00:00Z``."""
        return None if self._params[name] is None else parse_time(self._params[name], name)

    def source_host(self) -> str:
        """The host whose backups are meant: this one, unless another is named."""
        return self._params["source_host"] or this_host().name

    def _database_name(self) -> str:
        name: str = self._params["database"]
        if not name or "\0" in name:
            raise BadInput("database is empty. Give its name, or for SQLite its absolute path.")
        if self._params["engine"] == EngineName.SQLITE.value and not Path(name).is_absolute():
            raise BadInput(f"database {name} is not an absolute path. For SQLite, give the whole path.")
        return name


@dataclass(frozen=True)
class Outcome:
    """What a module returns. ``failure`` makes it fail, with all the rest still in its result."""

    changed: bool
    values: Mapping[str, Any]
    before: Any = ""
    after: Any = ""
    warnings: Sequence[str] = ()
    failure: Optional[str] = None
    error: Optional[str] = None


def disorder(problems: Sequence[Problem]) -> Mapping[str, Any]:
    """The failure in an Outcome for what cannot be read or is not in order; empty where there is no such thing.

    A result that passed for complete would hide the very backups that somebody damaged.
    """
    if not problems:
        return {}
    more = f" {len(problems) - 1} more files are not in order; see problems." if len(problems) > 1 else ""
    return {"failure": f"Not everything could be read. {problems[0].reason}{more}", "error": BadManifest.code}


def _refuse_empty(options: Mapping[str, Any], where: str = "") -> None:
    """Raise BadInput for an option that is an empty text: a variable that is empty is not one that is left out.

    Without ``source_database``, for example, a restore would take another database's backup. Labels may be empty.
    """
    for name, value in options.items():
        if isinstance(value, dict) and name != "labels":
            _refuse_empty(value, f"{where}{name}.")
        for item in value if isinstance(value, list) else [value]:
            if item == "":
                raise BadInput(f"{where}{name} is empty. Give a value, or leave it out (default(omit)).")
            if isinstance(item, dict) and isinstance(value, list):
                _refuse_empty(item, f"{where}{name}.")


def run_module(spec: ArgumentSpec, act: Callable[[Options, Host, bool], Outcome]) -> None:
    """Run ``act`` with the module's options, the host and whether this is check mode, and report to Ansible.

    It runs in a child, so that the module answers in time whatever becomes of it.
    """
    module = spec.create_module()

    def work() -> Mapping[str, Any]:
        with interruptible():
            _refuse_empty(module.params)
            options = Options(module.params)
            host = replace(this_host(module.check_mode), signing=options.signing())
            return asdict(act(options, host, module.check_mode))

    try:
        outcome = Outcome(**apart(work, _label(module), _seconds(module.params.get("timeout"))))
    except (EngineError, Stopped) as error:
        module.fail_json(msg=str(error), error=error.code)
    except Exception as error:
        # Its message may quote a secret or a row, and is not told.
        module.fail_json(msg=bug_of(error), error=EngineError.code)
    for warning in outcome.warnings:
        module.warn(shown(warning))
    result = dict(outcome.values, changed=outcome.changed)
    if module._diff:
        result["diff"] = {"before": outcome.before, "after": outcome.after}
    if outcome.failure:
        module.fail_json(msg=outcome.failure, error=outcome.error, **result)
    module.exit_json(**result)


def _label(module: QuietModule) -> str:
    """What the module does, for messages about its end."""
    name = module._name.rpartition(".")[2]
    database = module.params.get("database")
    return f"{_DEEDS[name]} of {database}" if name in _DEEDS and database else f"The module {name}"


def _seconds(timeout: Optional[str]) -> Optional[float]:
    """A timeout in seconds; None where there is none, or none that can be read: then the work itself says so."""
    try:
        return parse_span(timeout, "timeout").total_seconds() if timeout else None
    except BadInput:
        return None


def this_host(check_mode: bool = False) -> Host:
    """The host that the module runs on."""
    return Host(platform.node() or "localhost", default_state(), caches=not check_mode)


def read_server(params: Mapping[str, Any]) -> Server:
    """The login options that the database modules share."""
    return Server(
        host=params["login_host"],
        port=params["login_port"],
        user=params["login_user"],
        password=params["login_password"],
        unix_socket=params["login_unix_socket"],
        ssl_mode=params["ssl_mode"],
        ca_cert=params["ca_cert"],
        become_user=params.get("become_user"),
    )


def _read_repository(item: Mapping[str, Any]) -> Repository:
    path = Path(item["path"])
    if not path.is_absolute():
        raise BadInput(f"The repository path {path} is not absolute. Give the whole path.")
    return LocalRepository(path)
