# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who may sign what: the file ``allowed_signers`` (ssh-keygen(1), "ALLOWED SIGNERS"). Pure functions.

A line names principals, options and a key. Lines with keys of other kinds than Ed25519, and of authorities, are for
other programs: nothing here is accepted for them. What cannot be read is an error, never a line left out.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime, timezone
from functools import lru_cache
from typing import Dict, List, Mapping, NamedTuple, Optional, Pattern, Sequence, Tuple

from ..errors import BadInput, BadSignature
from .sshsig import KEY_TYPE, key_of_blob

#: A fleet of 10,000 hosts with two keys each has a file of about 4 MB.
SIGNERS_LIMIT = 8 << 20
_KINDS = re.compile(r"(?:ssh|sk-ssh|ecdsa|sk-ecdsa|rsa)[a-z0-9@.-]*")
_OPTION = re.compile(r'([A-Za-z-]+)(?:="([^"]*)")?(?:,|$)')
_TIME = re.compile(r"([0-9]{8})(?:([0-9]{4})([0-9]{2})?)?(Z?)")
_TIMES = ("valid-after", "valid-before")


class Signer(NamedTuple):
    """One line: the key that may sign, as whom, what, and when. Without ``namespaces``, anything."""

    principals: str
    key: bytes
    namespaces: Optional[str] = None
    after: Optional[datetime] = None
    before: Optional[datetime] = None


#: The lines of a file, by their key.
Signers = Mapping[bytes, Sequence[Signer]]


def read_signers(content: bytes, where: str) -> Signers:
    """The lines of the file. Raises BadInput, whose message begins with ``where`` and the line's number."""
    if len(content) > SIGNERS_LIMIT:
        raise BadInput(f"{where} is longer than {SIGNERS_LIMIT} bytes. Check that it is a file of allowed signers.")
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise BadInput(f"{where} is not text in UTF-8. Check that it is a file of allowed signers.") from None
    signers: Dict[bytes, List[Signer]] = {}
    for number, line in enumerate(lines, 1):
        try:
            signer = _signer(line.strip())
        except (ValueError, BadSignature) as error:
            raise BadInput(f"{where}, line {number}: {error}. Correct that line (ssh-keygen(1)).") from None
        if signer:
            signers.setdefault(signer.key, []).append(signer)
    return signers


def objection(signers: Signers, key: bytes, principal: str, namespace: str, at: datetime) -> Optional[str]:
    """Why this key may not sign as this principal, for this namespace, at this time; None where it may."""
    own = signers.get(key, ())
    if not own:
        return "was made with a key that no allowed signer has"
    named = [signer for signer in own if _matches(signer.principals, principal)]
    if not named:
        return f"was made with the key of {_names(own)}, not of {principal}"
    entitled = [one for one in named if one.namespaces is None or _matches(one.namespaces, namespace)]
    if not entitled:
        return f"was made with a key that may not sign for {namespace}"
    if not any((one.after is None or at >= one.after) and (one.before is None or at <= one.before) for one in entitled):
        return "was made with a key that was not valid at its time"
    return None


def _signer(line: str) -> Optional[Signer]:
    """One line; None for a blank line, a comment, and a key of a kind that this program does not accept."""
    if not line or line.startswith("#"):
        return None
    principals, rest = _word(line)
    options: Dict[str, str] = {}
    kind, after = _word(rest)
    if not _KINDS.fullmatch(kind):
        options = _options(kind)
        kind, after = _word(after)
    encoded, _comment = _word(after)
    if not principals or not _KINDS.fullmatch(kind) or not encoded:
        raise ValueError("it is not principals, options, a kind of key and the key")
    try:
        blob = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("its key is not base64") from None
    if kind.encode("ascii") != KEY_TYPE or "cert-authority" in options:
        return None
    times = [_moment(options[name]) if name in options else None for name in _TIMES]
    return Signer(principals, key_of_blob(blob), options.get("namespaces"), *times)


def _word(text: str) -> Tuple[str, str]:
    """The first word of a line, and what follows it. Blanks within quotation marks end no word."""
    quoted = False
    for place, letter in enumerate(text):
        if letter == '"':
            quoted = not quoted
        elif letter in " \t" and not quoted:
            return _bare(text[:place]), text[place:].lstrip(" \t")
    if quoted:
        raise ValueError("a quotation mark has no second one")
    return _bare(text), ""


def _bare(word: str) -> str:
    whole = len(word) > 1 and word.startswith('"') and word.endswith('"') and '"' not in word[1:-1]
    return word[1:-1] if whole else word


def _options(word: str) -> Dict[str, str]:
    found: Dict[str, str] = {}
    place = 0
    while place < len(word):
        match = _OPTION.match(word, place)
        if not match:
            raise ValueError(f"its options {word[:80]!r} cannot be read")
        name, value = match.group(1).lower(), match.group(2)
        if name in found or name not in ("cert-authority", "namespaces", *_TIMES):
            raise ValueError(f"it has the option {name!r} twice, or no such option exists")
        if (value is None) is not (name == "cert-authority") or value == "":
            raise ValueError(f"its option {name!r} has no value, or takes none")
        found[name] = value or ""
        place = match.end()
    return found


def _moment(text: str) -> datetime:
    """A time as ssh-keygen(1) writes it; without a Z, by this host's own clock."""
    match = _TIME.fullmatch(text)
    if not match:
        raise ValueError(f"{text[:40]!r} is not a time such as 20261231Z")
    day, minute, second, utc = match.groups()
    written = day + (minute or "0000") + (second or "00")
    local = datetime.strptime(written, "%Y%m%d%H%M%S").astimezone()
    return local.replace(tzinfo=timezone.utc) if utc else local


def _matches(patterns: str, name: str) -> bool:
    """Whether a name matches a list of patterns (ssh_config(5), PATTERNS)."""
    found = False
    for pattern in patterns.split(","):
        if _pattern(pattern.lstrip("!")).fullmatch(name):
            if pattern.startswith("!"):
                return False
            found = True
    return found


@lru_cache(maxsize=4096)
def _pattern(text: str) -> Pattern[str]:
    return re.compile(re.escape(text).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)


def _names(signers: Sequence[Signer]) -> str:
    names = sorted({signer.principals for signer in signers})
    return ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")
