# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The database engines, found by name."""

from __future__ import annotations

from typing import Any, Mapping

from ..model import Database, EngineName
from .base import Engine


def open_engine(database: Database) -> Engine:
    """The engine that protects a database. Nothing is connected yet."""
    if database.engine is EngineName.SQLITE:
        from .sqlite.client import SqliteClient

        return SqliteClient(database)
    from .postgresql.engine import PostgresqlEngine

    return PostgresqlEngine(database)


def check_properties(engine: str, properties: Mapping[str, Any], backup: str) -> None:
    """Raise BadManifest where an engine could not make a database with the properties that a manifest has of it."""
    if engine == EngineName.SQLITE.value:
        from .sqlite.access import parse_mode

        parse_mode(properties)
    elif engine == EngineName.POSTGRESQL.value:
        from .postgresql.definition import from_manifest

        from_manifest(properties, backup)
