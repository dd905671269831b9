# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SQLite files that other programs made: they come back as SQLite's own ``.backup`` copies them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from _engine.model import FingerprintKind, Level, Outcome
from world import World

FETCHED = Path(__file__).resolve().parents[2] / ".cache" / "foreign" / "files"
PROJ = Path("/usr/share/proj/proj.db")


def _shell(path: Path, *statements: str) -> bytes:
    """What SQLite's shell prints. A table of a module that it lacks is an error of its own, the same for every copy."""
    done = subprocess.run(["sqlite3", str(path), *statements], capture_output=True, check=False)
    return done.stdout + done.stderr.replace(str(path).encode(), b"PATH")


def _expect_same_as_stock(source: Path, directory: Path) -> None:
    world = World(directory / "world")
    shutil.copy(source, world.path)
    world.backup(fingerprint=FingerprintKind.DIGEST)
    (check,) = world.verify(level=Level.RESTORE).checks
    assert (check.outcome, check.detail) == (Outcome.PASSED, "")
    stock = directory / "stock.db"
    _shell(source, f".backup {stock}")
    world.path.unlink()
    world.restore()
    assert _shell(world.path, "PRAGMA integrity_check") == _shell(stock, "PRAGMA integrity_check")
    assert _shell(world.path, ".dump") == _shell(stock, ".dump")
    for setting in ("application_id", "user_version", "page_size", "encoding", "auto_vacuum"):
        assert _shell(world.path, f"PRAGMA {setting}") == _shell(stock, f"PRAGMA {setting}")


def _found() -> list[Path]:
    """Qt's help, ibus's tables, QGIS's catalogues, GeoPackages, and PROJ's database."""
    return [*sorted(FETCHED.glob("*")), PROJ]


@pytest.mark.parametrize("source", _found(), ids=lambda path: path.name)
def test_a_file_of_another_program_comes_back_as_sqlite_copies_it(source: Path, tmp_path: Path) -> None:
    _expect_same_as_stock(source, tmp_path)


def test_files_of_all_kinds_were_fetched() -> None:
    assert {".qch", ".gpkg", ".db"} <= {path.suffix for path in _found()}
    assert {"qgis.db", "srs-template.db"} <= {path.name for path in _found()}
    assert PROJ.exists()


def test_a_spatialite_database_comes_back_as_sqlite_copies_it(tmp_path: Path) -> None:
    made = tmp_path / "spatial.db"
    said = _shell(
        made,
        "SELECT load_extension('mod_spatialite')",
        "SELECT InitSpatialMetaData(1)",
        "CREATE TABLE places (id INTEGER PRIMARY KEY)",
        "SELECT AddGeometryColumn('places', 'geom', 4326, 'POINT', 'XY')",
        "SELECT CreateSpatialIndex('places', 'geom')",
        "INSERT INTO places (geom) VALUES (MakePoint(13.4, 52.5, 4326)), (MakePoint(2.3, 48.9, 4326))",
    )
    assert b"rror" not in said
    _expect_same_as_stock(made, tmp_path)
