# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The AnsibleModule of every module here: it logs no argument and returns no secret, whatever the secret looks like.

Ansible logs a module's arguments in its constructor, after masking each secret as an exact part of the text. A secret
within a dictionary or list is then written by ``repr``, where line feeds, quotes, backslashes and other letters are
escaped: it matches no longer, and arrives in the log. The module's own ``no_log`` cannot prevent this, because Ansible
overwrites it with the task's.
"""

from __future__ import annotations

import json
import os
import traceback
from typing import Any, Iterator, Mapping, Optional

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.parameters import remove_values

from ._engine.text import shown, shown_lines, shown_values

#: What Ansible puts in the place of a secret.
_HIDDEN = "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER"
#: How texts that are a private key give themselves away, in whatever option they were put by mistake.
_PRIVATE = ("PRIVATE KEY-----", "PRIVATE KEY BLOCK-----", "AGE-SECRET-KEY-")
#: A line of a secret that is shorter tells nothing, and would be masked within innocent words.
_LEAST = 8


class QuietModule(AnsibleModule):
    """An AnsibleModule that keeps its arguments to itself."""

    #: Options that may hold secrets and that a diff still has to show; they are left out of the returned arguments.
    unseen: frozenset[str] = frozenset()

    def log(self, msg: object, log_args: Optional[Mapping[str, Any]] = None) -> None:
        """Log nothing. Ansible calls this with arguments, commands and warnings."""

    def _log_invocation(self) -> None:
        super().log("Invoked")

    def _return_formatted(self, kwargs: Mapping[str, Any]) -> None:
        """Return a result, for success and failure alike, without secrets, tracebacks and control characters."""
        for secret in _secrets(self.argument_spec, self.params):
            self.no_log_values.update(_forms(secret))
        told = {name: value for name, value in kwargs.items() if name not in ("exception", "invocation")}
        told["invocation"] = {"module_args": _visible(self.argument_spec, self.params, self.unseen)}
        # Masked first: an escaped secret would no longer match. Ansible then masks its own warnings too.
        super()._return_formatted(shown_values(remove_values(told, self.no_log_values)))


def bug_of(error: BaseException) -> str:
    """A sentence on an error that nobody expects: what kind it is and where it rose, and nothing that it says."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"fleet.backup failed where it should not: {type(error).__name__} in {os.path.basename(where.filename)}, "
        f"line {where.lineno}. Please report this, with that line."
    )


def _secrets(spec: Mapping[str, Any], params: Any) -> Iterator[str]:
    """The texts of all secret options, also where the value does not have the shape that the spec asks for."""
    if not isinstance(params, Mapping):
        # A dictionary that could not be parsed.
        yield from _texts(params)
        return
    for name, value in params.items():
        option = spec.get(name)
        if option is None or option.get("no_log"):
            # An unknown option may be a misspelt secret one.
            yield from _texts(value)
        elif "options" in option and value is not None:
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, Mapping) or _has_secrets(option["options"]):
                    yield from _secrets(option["options"], item)
        else:
            yield from (text for text in _texts(value) if any(mark in text for mark in _PRIVATE))


def _has_secrets(spec: Mapping[str, Any]) -> bool:
    return any(option.get("no_log") or _has_secrets(option.get("options", {})) for option in spec.values())


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for element in value.values():
            yield from _texts(element)
    elif isinstance(value, (list, tuple)):
        for element in value:
            yield from _texts(element)
    elif value is not None and not isinstance(value, bool):
        text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
        if text.strip():
            yield text


def _forms(secret: str) -> Iterator[str]:
    """A secret as messages may quote it: as it is, escaped in every way that is used, and each of its lines alone."""
    for text in (secret, secret.strip(), *(line.strip() for line in secret.splitlines())):
        if text in (secret, secret.strip()) or (len(text) >= _LEAST and not text.startswith("-----")):
            yield text
            for written in (repr(text), json.dumps(text), json.dumps(text, ensure_ascii=False)):
                yield written[1:-1]
            yield from (shown(text), shown_lines(text))


def _visible(spec: Mapping[str, Any], params: Any, unseen: frozenset[str]) -> Any:
    """The arguments as they are returned: without what is secret, unknown, or of another shape than was asked for."""
    if not isinstance(params, Mapping):
        return _HIDDEN
    found = {}
    for name, value in params.items():
        option = spec.get(name)
        if value is None or isinstance(value, bool):
            found[name] = value
        elif option is None or option.get("no_log") or name in unseen:
            found[name] = _HIDDEN if value else value
        elif "options" in option:
            items = [
                _visible(option["options"], item, unseen) for item in (value if isinstance(value, list) else [value])
            ]
            found[name] = items if isinstance(value, list) else items[0]
        else:
            found[name] = value
    return found
