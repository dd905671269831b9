# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Electronic mail, by a server that this host may send through (SMTP, RFC 5321)."""

from __future__ import annotations

import platform
import smtplib
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from enum import Enum
from functools import partial
from typing import Any, Optional, Tuple

from ..config.fields import Fields
from ..config.secrets import SecretSource, read_secret
from .base import TIMEOUT, Channel, NotSent
from .events import Event
from .options import read_ca_cert
from .web import certificates, told


class Tls(str, Enum):
    """How the connection is encrypted: after a greeting (RFC 3207), from the start (RFC 8314, 3.3), or not."""

    STARTTLS = "starttls"
    IMPLICIT = "implicit"
    NONE = "none"


#: The most bytes that a server may say in one connection: a greeting can go on for ever (RFC 5321, 4.2).
_MOST = 256 << 10

_PORTS = {Tls.STARTTLS: 587, Tls.IMPLICIT: 465, Tls.NONE: 25}


@dataclass(frozen=True)
class Email(Channel):
    """Sends through one server."""

    label: str
    host: str
    port: int
    tls: Tls
    sender: str
    to: Tuple[str, ...]
    login_user: Optional[str] = None
    login_password: Optional[SecretSource] = None
    ca_cert: Optional[str] = None

    def send(self, event: Event) -> None:
        message = self._message(event)
        password = self.login_password.read() if self.login_password else None
        try:
            with self._connection() as server:
                if self.login_user and password:
                    self._log_in(server, password)
                refused = server.send_message(message, self.sender, list(self.to))
        except smtplib.SMTPRecipientsRefused as error:
            raise NotSent(f"{self.label}: {self.host} refuses every recipient ({_codes(error)}). Correct to.") from None
        except smtplib.SMTPResponseException as error:
            said = error.smtp_error.decode("utf-8", "replace") if isinstance(error.smtp_error, bytes) else ""
            raise NotSent(
                f"{self.label}: {self.host} refused ({error.smtp_code} {said}). See its log.",
                refused=isinstance(error, smtplib.SMTPDataError),
            ) from None
        except (smtplib.SMTPException, OSError, ValueError) as error:
            raise NotSent(f"{self.label}: {self.host} port {self.port}: {_told(error)}") from None
        if refused:
            # The others have it; to send it again would only bother them.
            raise NotSent(f"{self.label}: {self.host} refuses {', '.join(sorted(refused))}. Correct to.", keep=False)

    def _message(self, event: Event) -> EmailMessage:
        message = EmailMessage()
        message["Subject"] = event.subject
        message["From"] = self.sender
        message["To"] = ", ".join(self.to)
        message["Date"] = format_datetime(event.time)
        message["Message-ID"] = make_msgid(domain=self.sender.rpartition("@")[2])
        # No absence assistant answers to this (RFC 3834, 5).
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(event.text)
        return message

    def _connection(self) -> smtplib.SMTP:
        # Without a name, smtplib asks the name servers for this host's, and waits for them without a limit.
        name = platform.node() or "localhost"
        if self.tls is Tls.IMPLICIT:
            context = certificates(self.ca_cert, self.label)
            return _BriefTls(self.host, self.port, name, timeout=TIMEOUT, context=context)
        server = _Brief(self.host, self.port, name, timeout=TIMEOUT)
        try:
            if self.tls is Tls.STARTTLS:
                server.starttls(context=certificates(self.ca_cert, self.label))
        except BaseException:
            server.close()
            raise
        return server

    def _log_in(self, server: smtplib.SMTP, password: str) -> None:
        try:
            server.login(self.login_user or "", password)
        except (smtplib.SMTPAuthenticationError, smtplib.SMTPServerDisconnected) as error:
            # Some servers hang up on whoever does not know the password.
            why = str(error.smtp_code) if isinstance(error, smtplib.SMTPAuthenticationError) else "it hung up"
            raise NotSent(
                f"{self.label}: {self.host} refuses the login of {self.login_user} ({why}). "
                "Correct login_user or login_password."
            ) from None


class _Few:
    """The lines of a server, and not too much of them."""

    def __init__(self, file: Any) -> None:
        self._file, self._left = file, _MOST

    def readline(self, limit: int) -> bytes:
        line: bytes = self._file.readline(limit)
        self._left -= len(line)
        if self._left < 0:
            raise smtplib.SMTPException("the server says too much")
        return line

    def close(self) -> None:
        self._file.close()


class _Brief(smtplib.SMTP):
    """Reads no answer without end."""

    def getreply(self) -> Tuple[int, bytes]:
        if self.file is None and self.sock is not None:
            self.file = _Few(self.sock.makefile("rb"))
        return super().getreply()


class _BriefTls(_Brief, smtplib.SMTP_SSL):
    """The same, encrypted from the start."""


def _codes(error: smtplib.SMTPRecipientsRefused) -> str:
    return ", ".join(f"{recipient}: {code}" for recipient, (code, _said) in sorted(error.recipients.items()))


def _told(error: BaseException) -> str:
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return "the server does not offer what was asked of it, TLS or a login. See tls and login_user."
    if isinstance(error, smtplib.SMTPServerDisconnected):
        return "the server closed the connection. See its log, and whether tls is right."
    return told(error)


def read_email(fields: Fields, label: str) -> Email:
    """Read the options of electronic mail."""
    tls = fields.choice("tls", Tls, Tls.STARTTLS)
    to = fields.texts("to")
    if not to:
        raise fields.wrong("to", "it names nobody")
    sender = fields.required("from")
    for name, address in [("from", sender), *(("to", one) for one in to)]:
        if "@" not in address or any(not letter.isprintable() or letter in " ,<>" for letter in address):
            raise fields.wrong(name, f'"{address}" is no address, such as ops@example.com')
    user = fields.text("login_user")
    password = fields.object("login_password", partial(read_secret, purpose=f"{label}: login_password"))
    if bool(user) != bool(password):
        raise fields.wrong("login_user", "a login needs login_user and login_password")
    if password and tls is Tls.NONE:
        raise fields.wrong("tls", "without it the password would cross the network in the clear")
    return Email(
        label=label,
        host=fields.required("host"),
        port=fields.integer("port", _PORTS[tls], least=1) or _PORTS[tls],
        tls=tls,
        sender=sender,
        to=to,
        login_user=user,
        login_password=password,
        ca_cert=read_ca_cert(fields),
    )
