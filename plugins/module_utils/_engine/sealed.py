# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""JSON files that end with their own SHA-256, so that no single bit of them changes unnoticed. Pure functions."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Dict, Mapping

from .shapes import Misshapen, parse

#: The end of every such file: the SHA-256 of the bytes before it, as the field ``sha256``.
_END = re.compile(rb',\n "sha256": "([0-9a-f]{64})"\n\}\n')
_SIZE = len(b',\n "sha256": ""\n}\n') + 64


def sealed(document: Mapping[str, Any]) -> bytes:
    """An object as JSON, for people too, whose end is the SHA-256 of the bytes before."""
    body = json.dumps(document, indent=1, ensure_ascii=False).encode("utf-8")[: -len(b"\n}")]
    return body + b',\n "sha256": "' + hashlib.sha256(body).hexdigest().encode("ascii") + b'"\n}\n'


def unsealed(content: bytes, limit: int) -> Dict[str, Any]:
    """The object in a file of at most ``limit`` bytes, without its SHA-256. Raises Misshapen unless that is right."""
    if len(content) > limit:
        raise Misshapen(f"is larger than {limit} bytes")
    body, end = content[:-_SIZE], content[-_SIZE:]
    written = _END.fullmatch(end)
    if not written:
        raise Misshapen("does not end with its checksum: it is cut short or damaged")
    if hashlib.sha256(body).hexdigest().encode("ascii") != written.group(1):
        raise Misshapen("does not have the SHA-256 that it ends with")
    document = parse(body + b"\n}\n")
    if not isinstance(document, dict):
        raise Misshapen("is not a JSON object")
    return document
