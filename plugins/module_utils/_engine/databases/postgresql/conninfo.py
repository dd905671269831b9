# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How connection strings and password files are written.

Sources: PostgreSQL manual, "Connection Strings" and "The Password File".
"""

from __future__ import annotations

from typing import Dict, Tuple

from ...command import Secret
from ...model import Server

#: A server that asks gets no password, no certificate and no ticket: neither the caller's nor from a file of its own.
#: What is not a file is passed over in silence; of what is one and no plain file, libpq complains.
WITHOUT_SECRETS = {"password": "", "passfile": "/dev/null/none", "sslmode": "disable", "gssencmode": "disable"}
_KNOWS_REQUIRE_AUTH = 16_00_00


def only_without_login(libpq: int) -> str:
    """What ends a session of which the server wants any login, where this version of libpq can."""
    return " require_auth='none'" if libpq >= _KNOWS_REQUIRE_AUTH else ""


def tls(server: Server) -> Tuple[Tuple[str, str], ...]:
    """What was asked for of TLS, by libpq's names."""
    said = {"sslmode": server.ssl_mode, "sslrootcert": server.ca_cert}
    return tuple((key, value) for key, value in said.items() if value)


def written(parameters: Dict[str, str]) -> str:
    """A connection string; PostgreSQL manual, "Keyword/Value Connection Strings"."""
    quoted = {key: value.replace("\\", "\\\\").replace("'", "\\'") for key, value in parameters.items()}
    return " ".join(f"{key}='{value}'" for key, value in quoted.items())


def password_file(password: str) -> Secret:
    """A password file for whatever server."""
    escaped = password.replace("\\", "\\\\").replace(":", "\\:")
    return Secret(f"*:*:*:*:{escaped}\n".encode())
