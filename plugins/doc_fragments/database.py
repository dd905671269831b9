# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""The options that say which database is meant and how to reach it."""

from __future__ import annotations


class ModuleDocFragment:
    """Read by ansible-doc."""

    DOCUMENTATION = r"""
options:
  engine:
    description: The kind of database.
    type: str
    required: true
    choices: [sqlite, postgresql]
  database:
    description: The name of the database; for SQLite the absolute path of its file.
    type: str
    required: true
  become_user:
    description:
      - For SQLite, the account that works on the database's file. By default, the owner of the directory that it is in.
      - For PostgreSQL, the account that connects to the server's socket, for peer authentication.
      - Only root can become another account. The backups belong to the account that runs the task.
    type: str
  login_host:
    description:
      - The host of the database server.
      - Without it, the client library's own default is used, which is a Unix socket.
    type: str
  login_port:
    description: The port of the database server.
    type: int
  login_user:
    description: The user to log in as.
    type: str
  login_password:
    description: The password to log in with. It reaches no argument, environment, file on disk or log.
    type: str
  login_unix_socket:
    description: The directory of the server's Unix socket, in place of O(login_host).
    type: path
  ssl_mode:
    description: Whether the connection must be encrypted and the server known, as libpq's C(sslmode).
    type: str
    choices: [disable, allow, prefer, require, verify-ca, verify-full]
  ca_cert:
    description: The certificates to know the server by, as libpq's C(sslrootcert).
    type: path
"""
