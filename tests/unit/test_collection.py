# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the collection says of itself is true."""

from __future__ import annotations

import ast
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
import yaml

import _engine
from _engine.catalogue import Catalogue
from _engine.documents import (
    backup_document,
    check_document,
    manifest_document,
    rekeyed_document,
    repository_document,
    rotation_document,
    summary_document,
)
from _engine.info import InfoResult, RepositoryInfo, judge
from _engine.model import (
    Artefact,
    Backup,
    Compression,
    Decision,
    Encryption,
    Level,
    Manifest,
    Outcome,
    Place,
    Problem,
    Proof,
    Space,
)
from _engine.rekey import Rekeyed
from _engine.rotate import PlaceRotation
from _engine.state import Host, Progress, running
from _engine.verify import Check

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "plugins" / "modules").glob("*.py"))


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_engine_and_the_collection_are_of_one_version() -> None:
    assert read("galaxy.yml")["version"] == _engine.__version__


def test_the_action_group_has_every_module_about_backups_and_no_other() -> None:
    group = read("meta/runtime.yml")["action_groups"]["backup"]
    assert sorted([*group, "host_files"]) == [path.stem for path in MODULES]
    assert len(set(group)) == len(group)


NOW = datetime(2026, 3, 1, 2, 0, 0, tzinfo=timezone.utc)
PLACE = Place("web1", "sqlite", "shop")
ARTEFACT = Artefact("shop-20260301T020000Z-h3k7.db.zst.aes", 1, "00" * 32, 1, Compression.ZSTD, Encryption.AES256_GCM)
#: What users name themselves, such as labels, is left empty, so that no key of it is taken for one of ours.
MANIFEST = Manifest("shop-20260301T020000Z-h3k7", "web1", "sqlite", "/srv/shop.db", NOW, NOW, (ARTEFACT,))
BACKUP = Backup(PLACE, MANIFEST, (Proof(Level.RESTORE, Outcome.PASSED, NOW, "web1"),))
PROBLEM = Problem(PLACE, "stray", "It is not a file of a backup.")
INFO = RepositoryInfo("/srv/backups", Catalogue((BACKUP,), ()), tuple(judge([BACKUP], NOW)), Space(1, 1), (PROBLEM,))
DECISIONS = (Decision(BACKUP, True, ("daily",)), Decision(BACKUP, False, ("removed",)))

#: What a module returns under a name, by the function that makes it.
RETURNED: List[Tuple[str, str, Dict[str, Any]]] = [
    ("db_backup", "backup", manifest_document(MANIFEST, ())),
    ("db_restore", "backup", backup_document(BACKUP)),
    ("backup_info", "repositories", repository_document(INFO)),
    ("backup_info", "summary", summary_document(InfoResult((INFO,), ()))),
    (
        "backup_rotate",
        "rotations",
        rotation_document(PlaceRotation("/srv/backups", PLACE, DECISIONS, ("leftover",), (PROBLEM,))),
    ),
    ("backup_verify", "checks", check_document(Check("/srv/backups", BACKUP.id, Level.RESTORE, Outcome.PASSED))),
    ("backup_key", "backups", rekeyed_document(Rekeyed("/srv/backups", BACKUP, ()))),
]


def documented(module: str, name: str) -> Any:
    """The keys that a module's documentation gives for a return value, nested as they are."""
    tree = ast.parse((ROOT / "plugins" / "modules" / f"{module}.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "RETURN":
            return contained(yaml.safe_load(ast.literal_eval(node.value))[name])
    raise AssertionError(f"{module} documents no return values")


def contained(field: Dict[str, Any]) -> Any:
    return {name: contained(inner) for name, inner in field["contains"].items()} if "contains" in field else None


def keys_of(value: Any) -> Any:
    """The keys of a returned value, nested as they are; None for what is no dictionary, or an empty one."""
    if isinstance(value, list) and value:
        return keys_of(value[0])
    return {name: keys_of(inner) for name, inner in value.items()} if isinstance(value, dict) and value else None


@pytest.mark.parametrize(("module", "name", "document"), RETURNED, ids=[f"{case[0]}.{case[1]}" for case in RETURNED])
def test_what_a_module_returns_is_what_it_documents(module: str, name: str, document: Dict[str, Any]) -> None:
    assert documented(module, name) == keys_of(document)


def test_the_work_that_goes_on_is_returned_as_documented(tmp_path: Path) -> None:
    host = Host("web1", tmp_path / "state")
    with Progress(host, "backup", "web1/sqlite/shop") as progress:
        progress.stage("dump")
        assert documented("backup_info", "running") == keys_of(running(host))
