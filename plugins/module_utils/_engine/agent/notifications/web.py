# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Posting to a URL that is a secret: bounded in time, never redirected, and never told in an error."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from typing import Any, Mapping, Optional
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from ... import __version__
from ..config.secrets import SecretSource
from .base import TIMEOUT, NotSent

#: Some services refuse what calls itself Python's library.
_AGENT = f"fleet-backup/{__version__}"
#: Answers that speak of what was sent, and not of who sent it or where to (RFC 9110, 15.5).
_ABOUT_THE_MESSAGE = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)


@dataclass(frozen=True)
class Address:
    """A URL that is a secret. ``label`` is what messages call it; ``ca_cert`` are certificates to know its host by."""

    url: SecretSource
    label: str
    ca_cert: Optional[str] = None
    #: Whether credentials may cross the network unencrypted.
    allow_http: bool = False

    def post(
        self,
        body: bytes,
        headers: Mapping[str, str],
        suffix: str = "",
        parts: Optional[Mapping[str, str]] = None,
        *,
        secret_headers: Optional[Mapping[str, str]] = None,
    ) -> None:
        """Post to the URL, with ``suffix`` added to its path and ``parts`` in the place of their names in braces.

        ``secret_headers`` hold credentials, which do not cross the network unencrypted.

        Raises NotSent unless the answer is a success, and what ``SecretSource.read`` raises.
        """
        url = self._url(suffix, parts or {}, bool(secret_headers))
        request = Request(url, body, {**headers, **(secret_headers or {}), "User-Agent": _AGENT}, method="POST")
        context = certificates(self.ca_cert, self.label)
        try:
            opener = build_opener(_NoRedirect(), HTTPSHandler(context=context))
            with opener.open(request, timeout=TIMEOUT) as answer:
                status = answer.status
        except HTTPError as error:
            # An answer that is none of success; its words are the receiver's, and may quote the address.
            status = error.code
            error.close()
        except (OSError, HTTPException, ValueError) as error:
            raise NotSent(f"{self.label}: the receiver cannot be reached: {told(error)}") from None
        if not 200 <= status < 300:
            refused = status in _ABOUT_THE_MESSAGE
            raise NotSent(f"{self.label}: the receiver answered {_status(status)}", refused=refused)

    def _url(self, suffix: str, parts: Mapping[str, str], has_credentials: bool) -> str:
        url = self.url.read().strip()
        for name, value in parts.items():
            url = url.replace("{" + name + "}", value)
        try:
            split = urlsplit(url)
            whole = split._replace(path=split.path.rstrip("/") + suffix if suffix else split.path).geturl()
            if split.scheme not in ("http", "https") or not split.hostname or not Request(whole).host:
                raise ValueError
        except ValueError:
            raise NotSent(
                f"{self.label}: the address is no URL that begins with https:// or http://. Correct the secret."
            ) from None
        if split.scheme == "http" and (has_credentials or split.password) and not self.allow_http:
            raise NotSent(
                f"{self.label}: the address begins with http://, so that the token would cross the network "
                "unencrypted. Use https://, or set allow_http to true."
            )
        return whole


class _NoRedirect(HTTPRedirectHandler):
    """What is sent is for one receiver: where that one points elsewhere, the answer counts as a refusal."""

    def redirect_request(self, *_request: Any) -> None:
        return None


def certificates(ca_cert: Optional[str], label: str) -> ssl.SSLContext:
    """TLS that checks the certificate and the host's name. Raises NotSent where ``ca_cert`` cannot be read."""
    try:
        return ssl.create_default_context(cafile=ca_cert)
    except OSError as error:
        reason = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise NotSent(f"{label}: ca_cert {ca_cert} cannot be used: {reason}. Correct it.") from None


def told(error: BaseException) -> str:
    """Why a connection failed, without what the error may quote of an address."""
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return (
            f"its certificate cannot be trusted ({reason.verify_message.rstrip('.')}). "
            "Mend it, or name its authority in ca_cert."
        )
    if isinstance(reason, ssl.SSLError):
        return "TLS could not be agreed on. See whether the port and the protocol are right."
    if isinstance(reason, TimeoutError) or "timed out" in str(reason):
        return f"it did not answer within {TIMEOUT:g} s. See whether it is up, and what is in between."
    if isinstance(reason, OSError) and reason.strerror:
        return f"{reason.strerror}. See whether it is up, and whether this host may reach it."
    return f"what it says is no answer ({type(reason).__name__}). See whether the address is right."


def _status(code: int) -> str:
    try:
        words = f"{code} {HTTPStatus(code).phrase}"
    except ValueError:
        words = str(code)
    if 300 <= code < 400:
        return f"{words}, which points elsewhere and is not followed. Name the final address."
    if code in (401, 403, 404, 410):
        return f"{words}. See whether the address and the token are still right."
    return f"{words}. See the receiver's log."
