# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Results as documents of plain values, the same for modules and for the agent's JSON. Pure functions; no secrets."""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

from .info import DatabaseHealth, InfoResult, RepositoryInfo
from .model import Backup, Decision, KeySlot, Level, Manifest, Problem
from .rekey import Rekeyed, readers
from .rotate import PlaceRotation
from .timespan import format_time
from .verify import Check


def manifest_document(manifest: Manifest, slots: Tuple[KeySlot, ...]) -> Dict[str, Any]:
    """What a manifest says, and who can read the backup, without wrapped keys and the fingerprint's many tables."""
    totals = manifest.totals
    return {
        "id": manifest.id,
        "host": manifest.host,
        "engine": manifest.engine,
        "database": manifest.database,
        "tier": manifest.tier,
        "labels": dict(manifest.labels),
        "started": format_time(manifest.started),
        "finished": format_time(manifest.finished),
        "bytes": manifest.bytes,
        "plain_bytes": sum(artefact.plain_bytes for artefact in manifest.artefacts),
        "artefacts": [
            {
                "name": artefact.name,
                "content": artefact.content.value,
                "bytes": artefact.bytes,
                "plain_bytes": artefact.plain_bytes,
                "sha256": artefact.sha256,
                "compression": artefact.compression.value,
                "encryption": artefact.encryption.value,
            }
            for artefact in manifest.artefacts
        ],
        "recipients": readers(slots),
        "server_version": manifest.server_version,
        "opaque": manifest.opaque,
        "fingerprint": totals.kind.value if totals else "none",
        "tables": totals.tables if totals else None,
        "rows": totals.rows if totals else None,
        "durations": dict(manifest.durations),
        "previous": manifest.previous.id if manifest.previous else None,
    }


def backup_document(backup: Backup) -> Dict[str, Any]:
    """A backup as found: its manifest, how far it is proven, and whether it is bad or foreign."""
    return dict(
        manifest_document(backup.manifest, backup.key_slots),
        path=backup.place.path,
        proof=_strongest_proof(backup),
        known_bad=backup.known_bad,
        foreign=backup.foreign,
    )


def repository_document(info: RepositoryInfo) -> Dict[str, Any]:
    """One repository: its backups, the health of its databases, and what is not in order."""
    return {
        "repository": info.repository,
        "free_bytes": info.space.free if info.space else None,
        "total_bytes": info.space.total if info.space else None,
        "backups": [backup_document(backup) for backup in info.catalogue.backups],
        "databases": [_health_document(health) for health in info.health],
        "problems": [problem_document(problem) for problem in info.problems],
    }


def summary_document(result: InfoResult) -> Dict[str, Any]:
    """All repositories in one line's worth of numbers."""
    databases = [health for info in result.repositories for health in info.health]
    oldest = [health.oldest.time for health in databases if health.oldest]
    newest = [health.newest.time for health in databases if health.newest]
    return {
        "backups": sum(health.backups for health in databases),
        "bytes": sum(health.bytes for health in databases),
        "databases": len(databases),
        "bad": sum(health.bad for health in databases),
        "unproven": sum(health.unproven for health in databases),
        "problems": sum(len(info.problems) for info in result.repositories),
        "oldest": format_time(min(oldest)) if oldest else None,
        "newest": format_time(max(newest)) if newest else None,
    }


def problem_document(problem: Problem) -> Dict[str, Any]:
    """Something that is not in order."""
    return {"path": f"{problem.place.path}/{problem.name}", "reason": problem.reason}


def rotation_document(rotation: PlaceRotation) -> Dict[str, Any]:
    """What happened in one place: each backup with the reasons to keep or remove it."""
    return {
        "repository": rotation.repository,
        "path": rotation.place.path,
        "kept": [_decision_document(decision) for decision in rotation.decisions if decision.keep],
        "removed": [_decision_document(decision) for decision in rotation.removed],
        "unknown": list(rotation.unknown),
        "tidied": [*rotation.leftovers, *rotation.superseded],
        "problems": [problem_document(problem) for problem in rotation.problems],
    }


def check_document(check: Check) -> Dict[str, Any]:
    """One verification of one backup."""
    return {
        "repository": check.repository,
        "backup": check.backup,
        "level": check.level.value,
        "outcome": check.outcome.value,
        "detail": check.detail,
        "error": check.code,
        "seconds": check.seconds,
    }


def rekeyed_document(item: Rekeyed) -> Dict[str, Any]:
    """Who can read one backup now."""
    return {
        "id": item.backup.id,
        "repository": item.repository,
        "changed": item.changed,
        "recipients": readers(item.slots),
        "reason": item.reason,
    }


def _decision_document(decision: Decision) -> Dict[str, Any]:
    return {
        "id": decision.backup.id,
        "started": format_time(decision.backup.time),
        "bytes": decision.backup.manifest.bytes,
        "reasons": list(decision.reasons),
    }


def _strongest_proof(backup: Backup) -> Optional[Dict[str, Any]]:
    for level in reversed(Level):
        proof = backup.proven(level)
        if proof:
            return {"level": proof.level.value, "time": format_time(proof.time), "host": proof.host}
    return None


def _health_document(health: DatabaseHealth) -> Dict[str, Any]:
    return {
        "path": health.place.path,
        "database": health.database,
        "backups": health.backups,
        "bytes": health.bytes,
        "bad": health.bad,
        "unproven": health.unproven,
        "oldest": health.oldest.id if health.oldest else None,
        "newest": health.newest.id if health.newest else None,
        "age_seconds": int(health.age.total_seconds()) if health.age is not None else None,
        "size_change": health.size_change,
        "restore_proven": format_time(health.restore_proven) if health.restore_proven else None,
    }
