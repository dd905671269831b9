# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Manifests and proofs as JSON (schema version 1; docs/formats.md). Reading trusts nothing. Pure functions."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, TypeVar

from .errors import BadInput, BadManifest
from .model import (
    Artefact,
    Compression,
    Content,
    Encryption,
    Fingerprint,
    FingerprintKind,
    KeySlot,
    Level,
    Manifest,
    Outcome,
    Previous,
    Proof,
    SlotKind,
    TableFingerprint,
)
from .names import is_id, require_component
from .timespan import format_time, parse_time

SCHEMA = 1
#: No manifest is larger than this (a database of 100,000 tables makes one of about 10 MB).
MANIFEST_LIMIT = 64 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_T = TypeVar("_T")


def write_manifest(manifest: Manifest) -> bytes:
    """A manifest as JSON, for people too: indented, in the order of docs/formats.md."""
    document: Dict[str, Any] = {
        "schema": SCHEMA,
        "id": manifest.id,
        "host": manifest.host,
        "engine": manifest.engine,
        "database": manifest.database,
        "tier": manifest.tier,
        "started": _precise(manifest.started),
        "finished": _precise(manifest.finished),
        "artefacts": [_artefact_document(artefact) for artefact in manifest.artefacts],
        "key_slots": _slots_document(manifest.key_slots),
        "server_version": manifest.server_version,
        "tool_versions": dict(manifest.tool_versions),
        "fingerprint": _fingerprint_document(manifest.fingerprint),
        "opaque": manifest.opaque,
        "properties": dict(manifest.properties),
        "durations": dict(manifest.durations),
        "previous": {"id": manifest.previous.id, "sha256": manifest.previous.sha256} if manifest.previous else None,
        "labels": dict(manifest.labels),
    }
    document.update(manifest.unknown)
    return _dump(document)


def read_manifest(content: bytes, where: str) -> Manifest:
    """Read a manifest. Raises BadManifest, whose message begins with ``where``: what the caller read."""
    fields = _Fields(_parse(content, where), where)
    schema = fields.take("schema", int)
    if schema > SCHEMA:
        raise BadManifest(
            f"{where} has schema {schema}, and this version reads up to {SCHEMA}. Update fleet.backup on this host."
        )
    backup_id = fields.take("id", str)
    if not is_id(backup_id):
        raise BadManifest(f"{where} names the backup {backup_id!r}, which is not an id. Find out who wrote that file.")
    artefacts = tuple(_read_artefact(item, where, backup_id) for item in fields.take("artefacts", list))
    if sum(artefact.content is Content.DATABASE for artefact in artefacts) != 1:
        raise BadManifest(
            f"{where} does not name one artefact that holds the database. Restore from another repository."
        )
    return Manifest(
        id=backup_id,
        host=fields.take("host", str),
        engine=fields.take("engine", str),
        database=fields.take("database", str),
        tier=fields.maybe("tier", str),
        started=fields.time("started"),
        finished=fields.time("finished"),
        artefacts=artefacts,
        key_slots=tuple(_read_slot(item, where, artefacts) for item in fields.maybe("key_slots", list) or ()),
        server_version=fields.maybe("server_version", str) or "",
        tool_versions=fields.maybe("tool_versions", dict) or {},
        fingerprint=_read_fingerprint(fields.maybe("fingerprint", dict), where),
        opaque=fields.maybe("opaque", bool) or False,
        properties=fields.maybe("properties", dict) or {},
        durations=fields.maybe("durations", dict) or {},
        previous=_read_previous(fields.maybe("previous", dict), where),
        labels=fields.maybe("labels", dict) or {},
        unknown=fields.left(),
    )


def with_key_slots(content: bytes, slots: Sequence[KeySlot], where: str) -> bytes:
    """A manifest with other key slots; everything else in it, known or not, at any depth, stays as it is."""
    document = dict(_parse(content, where))
    document["key_slots"] = _slots_document(slots)
    return _dump(document)


def write_proof(proof: Proof) -> bytes:
    """A proof as one line of JSON, without its end of line."""
    document = {
        "level": proof.level.value,
        "outcome": proof.outcome.value,
        "time": _precise(proof.time),
        "host": proof.host,
        "seconds": round(proof.seconds, 3),
        "detail": proof.detail,
    }
    return json.dumps(document, ensure_ascii=False).encode("utf-8")


def read_proofs(content: bytes) -> Tuple[Proof, ...]:
    """The proofs of a file. A line that is not whole (a crash cut it short) proves nothing and is passed over."""
    proofs = []
    for line in content.splitlines():
        try:
            fields = _Fields(_parse(line, "proof"), "proof")
            proofs.append(
                Proof(
                    level=fields.choice("level", Level),
                    outcome=fields.choice("outcome", Outcome),
                    time=fields.time("time"),
                    host=fields.take("host", str),
                    detail=fields.maybe("detail", str) or "",
                    seconds=float(fields.maybe("seconds", (int, float)) or 0.0),
                )
            )
        except (BadManifest, OverflowError):
            continue
    return tuple(proofs)


class _Fields:
    """The fields of a JSON object, taken one by one with their types; what is not taken is left."""

    def __init__(self, document: Mapping[str, Any], where: str) -> None:
        self._document, self._where = dict(document), where

    def take(self, name: str, kind: Any) -> Any:
        value = self.maybe(name, kind)
        if value is None:
            raise BadManifest(f"{self._where} has no {name}. The file is damaged; restore from another repository.")
        return value

    def maybe(self, name: str, kind: Any) -> Any:
        value = self._document.pop(name, None)
        # bool is a subclass of int, and "true" is no number of bytes.
        if value is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
            raise BadManifest(f"{self._where} has a {name} of the wrong type. The file is damaged or forged.")
        return value

    def time(self, name: str) -> datetime:
        try:
            moment = parse_time(self.take(name, str), name)
        except (BadInput, OverflowError):
            raise BadManifest(f"{self._where} has a {name} that is no time. The file is damaged or forged.") from None
        # Times at the ends of the calendar cannot be brought into another zone.
        if not 1970 <= moment.year <= 9000:
            raise BadManifest(f"{self._where} has a {name} of no age of backups. The file is damaged or forged.")
        return moment

    def choice(self, name: str, choices: Callable[[str], _T]) -> _T:
        value = self.take(name, str)
        try:
            return choices(value)
        except ValueError:
            raise BadManifest(
                f"{self._where} has the {name} {value!r}, which this version does not know. "
                "Update fleet.backup on this host."
            ) from None

    def count(self, name: str) -> int:
        value: int = self.take(name, int)
        if value < 0:
            raise BadManifest(f"{self._where} has a negative {name}. The file is damaged or forged.")
        return value

    def left(self) -> Dict[str, Any]:
        return self._document


def _parse(content: bytes, where: str) -> Mapping[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise BadManifest(
            f"{where} is not whole JSON: it is cut short or damaged. Restore from another repository."
        ) from None
    if b"\\ud" in content or b"\\uD" in content:
        # JSON can hold halves of characters, which no name and no file can.
        try:
            json.dumps(document, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise BadManifest(f"{where} holds what is no text. The file is damaged or forged.") from None
    if not isinstance(document, dict):
        raise BadManifest(f"{where} is not a JSON object. Find out who wrote that file.")
    return document


def _precise(moment: datetime) -> str:
    """RFC 3339 in UTC, with microseconds where there are any: a time that is read back is the time that was written."""
    text = format_time(moment)
    return text if not moment.microsecond else f"{text[:-1]}.{moment.microsecond:06d}Z"


def _artefact_document(artefact: Artefact) -> Dict[str, Any]:
    return {
        "name": artefact.name,
        "content": artefact.content.value,
        "bytes": artefact.bytes,
        "sha256": artefact.sha256,
        "plain_bytes": artefact.plain_bytes,
        "compression": artefact.compression.value,
        "encryption": artefact.encryption.value,
    }


def _read_artefact(item: Any, where: str, backup_id: str) -> Artefact:
    fields = _Fields(_object(item, where), where)
    name = require_component(fields.take("name", str), where)
    if not name.startswith(backup_id + "."):
        raise BadManifest(f"{where} claims the file {name}, which belongs to another backup. Nothing was read.")
    sha256 = fields.take("sha256", str)
    if not _SHA256.fullmatch(sha256):
        raise BadManifest(f"{where} has a sha256 that is none. The file is damaged or forged.")
    return Artefact(
        name=name,
        bytes=fields.count("bytes"),
        sha256=sha256,
        plain_bytes=fields.count("plain_bytes"),
        compression=fields.choice("compression", Compression),
        encryption=fields.choice("encryption", Encryption),
        content=Content.DATABASE if (content := fields.maybe("content", str)) is None else _content(content, where),
    )


def _content(value: str, where: str) -> Content:
    return _Fields({"content": value}, where).choice("content", Content)


def _read_slot(item: Any, where: str, artefacts: Tuple[Artefact, ...]) -> KeySlot:
    fields = _Fields(_object(item, where), where)
    artefact = fields.take("artefact", str)
    if artefact not in [known.name for known in artefacts]:
        raise BadManifest(f"{where} has a key slot for {artefact!r}, which is not of this backup. The file is damaged.")
    return KeySlot(
        artefact=artefact,
        kind=fields.choice("kind", SlotKind),
        recipient=fields.maybe("recipient", str) or "",
        parameters=fields.left(),
    )


def _slots_document(slots: Sequence[KeySlot]) -> List[Dict[str, Any]]:
    return [
        {"artefact": slot.artefact, "kind": slot.kind.value, "recipient": slot.recipient, **slot.parameters}
        for slot in slots
    ]


def _dump(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode("utf-8")


def _fingerprint_document(fingerprint: Optional[Fingerprint]) -> Optional[Dict[str, Any]]:
    if fingerprint is None:
        return None
    tables: Dict[str, Dict[str, Any]] = {}
    for name, table in sorted(fingerprint.tables.items()):
        tables[name] = {"rows": table.rows}
        if table.digest is not None:
            tables[name]["digest"] = table.digest
    return {"kind": fingerprint.kind.value, "tables": tables}


def _read_fingerprint(document: Optional[Mapping[str, Any]], where: str) -> Optional[Fingerprint]:
    if document is None:
        return None
    fields = _Fields(document, where)
    tables = {}
    for name, item in fields.take("tables", dict).items():
        table = _object(item, where)
        rows, digest = table.get("rows"), table.get("digest")
        # Told apart by hand: a listing reads this for every table of every backup.
        if (
            not isinstance(rows, int)
            or isinstance(rows, bool)
            or rows < 0
            or not (digest is None or isinstance(digest, str))
        ):
            raise BadManifest(f"{where} has a fingerprint of {name} that is none. The file is damaged or forged.")
        tables[name] = TableFingerprint(rows, digest)
    return Fingerprint(kind=fields.choice("kind", FingerprintKind), tables=tables)


def _read_previous(document: Optional[Mapping[str, Any]], where: str) -> Optional[Previous]:
    if document is None:
        return None
    fields = _Fields(document, where)
    return Previous(id=fields.take("id", str), sha256=fields.take("sha256", str))


def _object(item: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(item, dict):
        raise BadManifest(f"{where} holds {type(item).__name__} where an object belongs. The file is damaged.")
    return item
