# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Showing: everything that is known of one backup, in each repository that has it."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import PurePath
from typing import Any, Dict, Iterator, List, Tuple

from ...catalogue import place_of, read_place, whole
from ...choosing import choose
from ...documents import backup_document
from ...errors import EngineError, NotFound
from ...keys import short_id
from ...model import Artefact, Backup, Manifest, Proof, SlotKind
from ...repositories.base import Repository
from ...state import Host
from ...timespan import format_size, format_span, format_time
from ..config.jobs import Job
from ..console.exits import Exit
from ..console.facts import age_of, facts, proof_of
from ..console.printing import put, put_json, put_line, table
from ..console.selection import select

#: The most tables that are shown to people; the largest come first.
_TABLES = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("job", metavar="JOB", help="the job's name")
    parser.add_argument(
        "--backup", metavar="ID", default="latest", help="latest (the default), an id, or a file's name"
    )


def act(parsed: argparse.Namespace) -> Exit:
    """Show it; FAILED where a repository could not be read."""
    selection = select(argparse.Namespace(config=parsed.config, jobs=[parsed.job]))
    if selection.broken:
        raise selection.broken[0].error
    now = selection.host.now()
    found, problems = _find(selection.jobs[0], PurePath(parsed.backup).name, selection.host)
    if not found:
        raise problems[0]
    serious = [problem for problem in problems if not isinstance(problem, NotFound)]
    if parsed.json:
        copies = [
            dict(backup_document(backup), repository=repository.label, **_more(backup)) for repository, backup in found
        ]
        put_json({"backups": copies, "problems": [str(problem) for problem in serious]})
    else:
        put(_text(found, now))
        for problem in serious:
            put_line(str(problem))
    return Exit.FAILED if serious else Exit.FINE


def _find(job: Job, wanted: str, host: Host) -> Tuple[List[Tuple[Repository, Backup]], List[EngineError]]:
    """The backup in each repository that has it, and why others could not be asked. The newest one of all is latest."""
    place = place_of(job.backup.source_host, job.database)
    found: List[Tuple[Repository, Backup]] = []
    problems: List[EngineError] = []
    for target in job.targets:
        try:
            target.repository.check(writing=False)
            catalogue = read_place(host, target.repository, place)
            if wanted == "latest" and catalogue.eligible:
                # Shown as it is, bad or not: to look at it is no use of it.
                found.append((target.repository, catalogue.eligible[-1]))
            else:
                found.append((target.repository, choose(catalogue, target.repository, place, wanted, None, host.now())))
        except EngineError as error:
            problems.append(error)
    newest = max((backup.time for _repository, backup in found), default=None)
    return [(repository, whole(repository, backup)) for repository, backup in found if backup.time == newest], problems


def _more(backup: Backup) -> Dict[str, Any]:
    """What a list of backups leaves out."""
    manifest = backup.manifest
    tables = manifest.fingerprint.tables if manifest.fingerprint else {}
    return {
        "key_slots": [
            {"artefact": slot.artefact, "kind": slot.kind.value, "recipient": slot.recipient or None}
            for slot in backup.key_slots
        ],
        "tool_versions": dict(manifest.tool_versions),
        "fingerprint_tables": {name: counted.rows for name, counted in sorted(tables.items())},
        "proofs": [_proof_document(proof) for proof in backup.proofs],
    }


def _proof_document(proof: Proof) -> Dict[str, Any]:
    return {
        "time": format_time(proof.time),
        "level": proof.level.value,
        "outcome": proof.outcome.value,
        "host": proof.host,
        "seconds": proof.seconds,
        "detail": proof.detail,
    }


def _text(found: List[Tuple[Repository, Backup]], now: datetime) -> str:
    """What all copies share, and then each copy: its proofs, and the key slots, which can differ."""
    backup = found[0][1]
    parts = [facts(list(_facts(backup, now))), _artefacts(backup.manifest), _tables(backup.manifest)]
    for repository, copy in found:
        rows = [("repository", repository.label), ("proof", proof_of(copy)), *_slots(copy)]
        parts.append(facts(rows) + _proofs(copy))
    return "\n".join(part for part in parts if part)


def _facts(backup: Backup, now: datetime) -> Iterator[Tuple[str, str]]:
    manifest = backup.manifest
    took = format_span(manifest.finished - manifest.started)
    stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in manifest.durations.items())
    yield "backup", backup.id
    yield "database", f"{manifest.database} ({manifest.engine} {manifest.server_version}) of {manifest.host}"
    yield (
        "taken",
        f"{format_time(backup.time)}, {age_of(backup, now)} ago, in {took}" + (f" ({stages})" if stages else ""),
    )
    plain = sum(artefact.plain_bytes for artefact in manifest.artefacts)
    yield "size", f"{format_size(manifest.bytes)}, of {format_size(plain)}"
    yield "tier", manifest.tier or "-"
    yield "labels", ", ".join(f"{name}={value}" for name, value in sorted(manifest.labels.items())) or "-"
    yield "previous", manifest.previous.id if manifest.previous else "-"
    yield "made by", ", ".join(f"{tool} {version}" for tool, version in sorted(manifest.tool_versions.items())) or "-"
    if manifest.opaque:
        yield "contents", "encrypted by the application; what is in it cannot be known"
    yield "counted", _counted(manifest)


def _counted(manifest: Manifest) -> str:
    if manifest.totals is None:
        return "nothing"
    kind, tables, rows = manifest.totals
    said = f"{rows} {'row' if rows == 1 else 'rows'} in {tables} {'table' if tables == 1 else 'tables'}"
    return f"{said} ({kind.value})"


def _artefacts(manifest: Manifest) -> str:
    rows = [_artefact(artefact) for artefact in manifest.artefacts]
    return table(("ARTEFACT", "SIZE", "PLAIN", "COMPRESSION", "ENCRYPTION", "SHA-256"), rows, right=(1, 2))


def _artefact(artefact: Artefact) -> Tuple[str, ...]:
    sizes = format_size(artefact.bytes), format_size(artefact.plain_bytes)
    return (artefact.name, *sizes, artefact.compression.value, artefact.encryption.value, artefact.sha256)


def _tables(manifest: Manifest) -> str:
    if manifest.fingerprint is None or not manifest.fingerprint.tables:
        return ""
    counted = sorted(manifest.fingerprint.tables.items(), key=lambda item: (-item[1].rows, item[0]))
    rows = [(name, str(one.rows)) for name, one in counted[:_TABLES]]
    rest = f"and {len(counted) - _TABLES} more tables; --json names all\n" if len(counted) > _TABLES else ""
    return table(("TABLE", "ROWS"), rows, right=(1,)) + rest


def _slots(backup: Backup) -> Iterator[Tuple[str, str]]:
    """Who can read it, each once."""
    readers: List[str] = []
    for slot in backup.key_slots:
        readers.append("a passphrase" if slot.kind is SlotKind.PASSPHRASE else short_id(slot.recipient))
    if readers:
        yield "readable by", ", ".join(dict.fromkeys(readers))


def _proofs(backup: Backup) -> str:
    rows = [
        (
            format_time(proof.time),
            proof.level.value,
            proof.outcome.value,
            f"{proof.seconds:.1f} s",
            proof.host,
            proof.detail,
        )
        for proof in reversed(backup.proofs)
    ]
    return table(("VERIFIED", "LEVEL", "OUTCOME", "TIME", "HOST", ""), rows, right=(3,)) if rows else ""
