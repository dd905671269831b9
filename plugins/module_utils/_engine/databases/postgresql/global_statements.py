# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The statements that ``pg_dumpall --globals-only`` writes, and no others. Pure functions.

A superuser runs them, and anyone who can write to a repository might have written them. So each one must be of a form
listed here (pg_dumpall.c and dumputils.c, PostgreSQL 13 to 18), and what is run is written anew from its parts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Iterator, List, NamedTuple, Optional, Tuple

from ...errors import Damaged, Refused
from ...timespan import format_size

#: Each letter can be matched in one way only, so that what is not closed is found out in linear time.
#: Plain strings as standard_conforming_strings reads them, or with doubled backslashes where it is off. pg_dumpall
#: doubles each backslash in an E'' string, and writes no other escape.
_TOKEN = re.compile(
    r"""
      (?P<space> [ \t\r\n]+ | --[^\n]* )
    | (?P<restrict> ^\\(?:un)?restrict[ ][A-Za-z0-9]+$ )
    | (?P<escaped> E'[^'\\]*(?:(?:''|\\\\)[^'\\]*)*' )
    | (?P<string> '[^']*(?:''[^']*)*' )
    | (?P<name> "(?!"(?!"))[^"]*(?:""[^"]*)*" )
    | (?P<word> [A-Za-z_][A-Za-z0-9_]* )
    | (?P<number> -?[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)? )
    | (?P<sign> [;,()=] )
    """,
    re.VERBOSE | re.MULTILINE,
)
#: An unquoted name as pg_dumpall writes it (fmtId).
_PLAIN_NAME = re.compile("[a-z_][a-z0-9_]*")
#: What a session's settings in a script may be; they are ours to make when it is run.
_SETTINGS = {
    "default_transaction_read_only": ("off",),
    "escape_string_warning": ("off",),
    "standard_conforming_strings": ("on", "off"),
}
_ROLE_FLAGS = ("SUPERUSER", "INHERIT", "CREATEROLE", "CREATEDB", "LOGIN", "REPLICATION", "BYPASSRLS")
#: How many characters of a statement are read: ten thousand schemas in a search_path take 300 KB.
_LONGEST = 512 << 10
#: How GRANT calls all roles. It is reserved: no role has that name.
PUBLIC = "public"


class _Token(NamedTuple):
    kind: str
    #: A word as it is written; of a name or string what it means.
    value: str


@dataclass(frozen=True)
class Statement:
    """A statement to run. ``role`` or ``tablespace`` is what it is about; ``membership`` is a role and its member.

    ``receiver`` is whose rights it changes, where that is not about a tablespace.
    """

    sql: str
    #: What it does and to what, for messages.
    label: str
    role: Optional[str] = None
    tablespace: Optional[str] = None
    membership: Optional[Tuple[str, str]] = None
    receiver: Optional[str] = None


class _About(NamedTuple):
    """What a statement is about, as ``Statement`` has it."""

    role: Optional[str] = None
    tablespace: Optional[str] = None
    membership: Optional[Tuple[str, str]] = None
    receiver: Optional[str] = None


def statements(script: str) -> Iterator[Statement]:
    """The statements of a script, one by one. Raises Refused at one that pg_dumpall does not write, and Damaged."""
    tokens: List[_Token] = []
    escapes, length = False, 0
    for token in _tokens(script):
        if token != ("sign", ";"):
            tokens.append(_doubled(token) if escapes else token)
            length += len(token.value)
            if length > _LONGEST:
                raise _too_long(tokens)
            continue
        parser = _Parser(tokens)
        statement = parser.statement()
        escapes = escapes if parser.escapes is None else parser.escapes
        if statement:
            yield statement
        tokens, length = [], 0
    if tokens:
        raise Damaged("The globals end in the middle of a statement. Restore them from another backup.")


def _tokens(script: str) -> Iterator[_Token]:
    position = 0
    while position < len(script):
        match = _TOKEN.match(script, position)
        if match is None:
            raise Refused(
                f"The globals hold what pg_dumpall does not write, at character {position + 1}. "
                "Nothing of them was run. Find out who wrote this backup."
            )
        kind, text = str(match.lastgroup), match.group()
        position = match.end()
        if kind == "escaped":
            yield _Token("string", text[2:-1].replace("''", "'").replace("\\\\", "\\"))
        elif kind == "string":
            yield _Token(kind, text[1:-1].replace("''", "'"))
        elif kind == "name":
            yield _Token(kind, text[1:-1].replace('""', '"'))
        elif kind not in ("space", "restrict"):
            yield _Token(kind, text)


def _doubled(token: _Token) -> _Token:
    """A token of a script whose plain strings have doubled backslashes."""
    return _Token(token.kind, token.value.replace("\\\\", "\\")) if token.kind == "string" else token


class _Parser:
    """Reads one statement from its tokens, and writes it anew as far as it is read."""

    def __init__(self, tokens: List[_Token]) -> None:
        self._tokens, self._at = tokens, 0
        self._written: List[str] = []
        #: What the statement says of backslashes in plain strings, where it does.
        self.escapes: Optional[bool] = None

    def statement(self) -> Optional[Statement]:
        """The statement, or None where there is nothing to run. Raises Refused."""
        if self._accept("SET"):
            self._setting()
            return self._end(None)
        if self._accept("RESET", "SESSION", "AUTHORIZATION"):
            return self._end(None)
        if self._accept("CREATE", "ROLE"):
            about = _About(role=self._name())
        elif self._accept("ALTER", "ROLE"):
            about = _About(role=self._name())
            self._role_setting() if self._accept("SET") else self._role_options()
        elif self._accept("CREATE", "TABLESPACE"):
            about = _About(tablespace=self._name())
            self._expect("OWNER")
            self._name()
            self._expect("LOCATION")
            self._string()
        elif self._accept("ALTER", "TABLESPACE"):
            about = _About(tablespace=self._name())
            self._expect("SET")
            self._tablespace_options()
        elif self._accept("COMMENT", "ON"):
            about = self._described()
        elif self._accept("SECURITY", "LABEL", "FOR"):
            self._name()
            self._expect("ON")
            about = self._described()
        elif self._accept("GRANT"):
            about = self._grant()
        elif self._accept("REVOKE"):
            self._accept("GRANT", "OPTION", "FOR")
            about = self._privileges("FROM")
        else:
            raise self._refused()
        return self._end(about)

    def _end(self, about: Optional[_About]) -> Optional[Statement]:
        if self._at != len(self._tokens):
            raise self._refused()
        if about is None:
            return None
        verb = self._tokens[0].value
        named = (("ROLE", about.role), ("TABLESPACE", about.tablespace))
        subject = next((f" {kind} {name}" for kind, name in named if name is not None), "")
        return Statement(" ".join(self._written), f"{verb}{subject}", *about)

    def _setting(self) -> None:
        """A setting of the script's own session; it says how the script is written, and is not run."""
        if self._accept("SESSION", "AUTHORIZATION"):
            # Before a grant of another grantor; it becomes one of the role that restores.
            self._name()
            return
        if self._accept("client_encoding"):
            self._expect("=")
            if self._string() != "UTF8":
                raise self._refused()
            return
        for name, values in _SETTINGS.items():
            if self._accept(name):
                self._expect("=")
                value = self._one_of(*values)
                if name == "standard_conforming_strings":
                    self.escapes = value == "off"
                return
        raise self._refused()

    def _role_setting(self) -> None:
        self._name()
        self._expect("TO")
        self._string()
        while self._accept(","):
            self._string()

    def _role_options(self) -> None:
        self._expect("WITH")
        self._one_of(*_flags())
        while self._at < len(self._tokens):
            if self._accept("CONNECTION", "LIMIT"):
                self._number()
            elif self._accept("PASSWORD") or self._accept("VALID", "UNTIL"):
                self._string()
            else:
                self._one_of(*_flags())

    def _tablespace_options(self) -> None:
        self._expect("(")
        while True:
            self._name()
            self._expect("=")
            self._number()
            if self._one_of(",", ")") == ")":
                return

    def _described(self) -> _About:
        """What a comment or label is about: a role or a tablespace."""
        kind = self._one_of("ROLE", "TABLESPACE")
        name = self._name()
        self._expect("IS")
        self._string()
        return _About(role=name) if kind == "ROLE" else _About(tablespace=name)

    def _grant(self) -> _About:
        """A membership, or privileges on a tablespace or parameter."""
        if not self._is_membership():
            return self._privileges("TO")
        group = self._name()
        self._expect("TO")
        member = self._name()
        if self._accept("WITH"):
            self._membership_option()
            while self._accept(","):
                self._membership_option()
        if self._accept("GRANTED", "BY"):
            self._name()
        return _About(membership=(group, member), receiver=member)

    def _is_membership(self) -> bool:
        following = self._tokens[self._at + 1 : self._at + 2]
        return following == [_Token("word", "TO")]

    def _membership_option(self) -> None:
        kind = self._one_of("ADMIN", "INHERIT", "SET")
        self._one_of("OPTION", *(("TRUE", "FALSE") if kind != "ADMIN" else ()))

    def _privileges(self, direction: str) -> _About:
        """Privileges on a tablespace or on a parameter."""
        privileges = ("ALL", "CREATE", "SET", "ALTER")
        while True:
            if self._one_of(*privileges) == "ALTER":
                self._expect("SYSTEM")
            if not self._accept(","):
                break
        self._expect("ON")
        kind = self._one_of("TABLESPACE", "PARAMETER")
        name = self._name()
        self._expect(direction)
        receiver = PUBLIC if self._accept("PUBLIC") else self._name()
        if direction == "TO":
            self._accept("WITH", "GRANT", "OPTION")
        return _About(tablespace=name) if kind == "TABLESPACE" else _About(receiver=receiver)

    def _accept(self, *values: str) -> bool:
        """Read these words or signs, where they come next."""
        following = self._tokens[self._at : self._at + len(values)]
        if [token.value for token in following] != list(values) or any(
            token.kind not in ("word", "sign") for token in following
        ):
            return False
        self._at += len(values)
        self._written += values
        return True

    def _expect(self, *values: str) -> None:
        if not self._accept(*values):
            raise self._refused()

    def _one_of(self, *values: str) -> str:
        for value in values:
            if self._accept(value):
                return value
        raise self._refused()

    def _name(self) -> str:
        token = self._take("name", "word")
        if token.kind == "word" and not _PLAIN_NAME.fullmatch(token.value):
            raise self._refused()
        # Quoted always: so no name can be a keyword, such as all or current_user.
        self._written.append('"' + token.value.replace('"', '""') + '"')
        return token.value

    def _string(self) -> str:
        value = self._take("string").value
        quoted = value.replace("'", "''")
        self._written.append("E'" + quoted.replace("\\", "\\\\") + "'" if "\\" in value else f"'{quoted}'")
        return value

    def _number(self) -> None:
        self._written.append(self._take("number").value)

    def _take(self, *kinds: str) -> _Token:
        if self._at == len(self._tokens) or self._tokens[self._at].kind not in kinds:
            raise self._refused()
        self._at += 1
        return self._tokens[self._at - 1]

    def _refused(self) -> Refused:
        return _refused(self._tokens)


def _flags() -> Iterator[str]:
    for flag in _ROLE_FLAGS:
        yield flag
        yield f"NO{flag}"


def _refused(tokens: List[_Token]) -> Refused:
    return Refused(
        f"The globals hold a statement that pg_dumpall does not write ({_beginning(tokens)}). "
        "Nothing of them was run. Find out who wrote this backup."
    )


def _too_long(tokens: List[_Token]) -> Refused:
    return Refused(
        f"The globals hold a statement of more than {format_size(_LONGEST)} ({_beginning(tokens)}). Nothing of them "
        "was run. Decrypt and read them; if they are genuine, restore them with psql."
    )


def _beginning(tokens: List[_Token]) -> str:
    """The first words of a statement, and nothing that could be a secret."""
    words = []
    for token in tokens[:2]:
        if token.kind != "word":
            break
        words.append(token.value[:30])
    return f'"{" ".join(words)} …"'
