# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Manifests and proofs as JSON (schema version 1; docs/formats.md). Reading trusts nothing. Pure functions."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, TypeVar

from .errors import BadInput, BadManifest
from .model import (
    Artefact,
    Binding,
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
from .names import is_id, require_component, stamp, stamp_of
from .shapes import LARGEST, Fields, Misshapen, boolean, choice, integer, line, mapping, moment, number, parse, sequence
from .shapes import text as text_of
from .timespan import format_time

_T = TypeVar("_T")

SCHEMA = 1
#: No manifest is larger than this (a database of 100,000 tables makes one of about 10 MB).
MANIFEST_LIMIT = 24 << 20
#: No file of proofs is larger than this: some 10,000 verifications of one backup.
PROOFS_LIMIT = 4 << 20

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SALT = re.compile(r"[0-9a-f]{32}")
#: The end of every manifest: the SHA-256 of the bytes before it.
_CHECKSUM = re.compile(rb',\n "sha256": "([0-9a-f]{64})"\n\}\n')
_CHECKSUM_SIZE = len(b',\n "sha256": ""\n}\n') + 64
#: An artefact for the database and one for its globals.
_ARTEFACTS = 2
#: Slots of one artefact: people and escrow, not a crowd; and one passphrase, since to try one takes a second.
_SLOTS, _PASSPHRASES = 64, 1
_TABLES = 200_000
#: What a binding does not cover: slots change with their recipients, and it cannot cover itself.
_UNBOUND = ("key_slots", "binding")
#: zstd writes a block of 128 KiB that repeats one byte in 4 bytes (RFC 8878, 3.1.1.2), and nothing else is denser.
_DENSEST, _SMALL = 1 << 16, 1 << 20
#: Roles and tablespaces are read into memory.
_GLOBALS = 64 << 20

_SIZE = integer()
_WORD = line(200)
_NAME = text_of(10_000)
_DIGEST = text_of(64, _SHA256)
_VERSIONS = mapping(_WORD, 50)
_DURATIONS = mapping(number(0, 1e9), 100)
#: Labels and tiers are checked before a backup is taken too.
LABELS = mapping(text_of(4_000), 100)
TIER = _WORD


def write_manifest(manifest: Manifest) -> bytes:
    """A manifest as JSON, for people too: indented, in the order of docs/formats.md."""
    return sealed(_document(manifest))


def _document(manifest: Manifest) -> Dict[str, Any]:
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
        "binding": [_binding_document(binding) for binding in manifest.binding],
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
    return document


def read_manifest(content: bytes, where: str, tables: bool = True) -> Manifest:
    """Read a manifest. Raises BadManifest, whose message begins with ``where``: what the caller read.

    Without ``tables``, its fingerprint is only summed up (``Manifest.totals``), and fields that this version does not
    know are left out: a listing keeps thousands of manifests, and would keep millions of tables.
    """
    return _told(where, _manifest, content, where, tables)


def _manifest(content: bytes, where: str, tables: bool) -> Manifest:
    document = _parse(content)
    fields = Fields(document)
    schema = fields.take("schema", integer(1))
    if schema > SCHEMA:
        raise BadManifest(
            f"{where} has schema {schema}, and this version reads up to {SCHEMA}. Update fleet.backup on this host."
        )
    backup_id = fields.take("id", text_of(200))
    if not is_id(backup_id):
        raise Misshapen("is not the id of a backup", "id")
    artefacts = fields.take("artefacts", sequence(lambda item: _read_artefact(item, where, backup_id), _ARTEFACTS))
    _check_contents(artefacts)
    slots = fields.maybe("key_slots", sequence(_read_slot, _ARTEFACTS * _SLOTS), ())
    _check_slots(slots, artefacts)
    fingerprint = fields.maybe("fingerprint", _read_fingerprint, None)
    started = fields.take("started", moment)
    if stamp_of(backup_id) != stamp(started):
        raise Misshapen("is not the time in the id", "started")
    return Manifest(
        id=backup_id,
        host=fields.take("host", line(255)),
        engine=fields.take("engine", _WORD),
        database=fields.take("database", _NAME),
        tier=fields.maybe("tier", TIER, None),
        started=started,
        finished=fields.take("finished", moment),
        artefacts=artefacts,
        key_slots=slots,
        binding=fields.maybe("binding", sequence(_read_binding, _ARTEFACTS), ()),
        server_version=fields.maybe("server_version", _WORD, ""),
        tool_versions=fields.maybe("tool_versions", _VERSIONS, {}),
        fingerprint=fingerprint if tables else None,
        summary=fingerprint.totals if fingerprint and not tables else None,
        opaque=fields.maybe("opaque", boolean, False),
        properties=fields.maybe("properties", _PROPERTIES, {}),
        durations=fields.maybe("durations", _DURATIONS, {}),
        previous=fields.maybe("previous", _read_previous, None),
        labels=fields.maybe("labels", LABELS, {}),
        unknown=fields.left() if tables else {},
        facts=_digest_without(document, *_UNBOUND) if tables else "",
    )


def with_key_slots(content: bytes, slots: Sequence[KeySlot], where: str) -> bytes:
    """A manifest with other key slots; everything else in it, known or not, at any depth, stays as it is."""
    document = dict(_told(where, _parse, content))
    document["key_slots"] = _slots_document(slots)
    return sealed(document)


def facts_digest(content: bytes, where: str) -> str:
    """The SHA-256 of all that never changes in a manifest: of everything but its key slots. Raises BadManifest."""
    return _digest_without(_told(where, _parse, content), "key_slots")


def bound_facts(manifest: Manifest) -> str:
    """The SHA-256 of all that is bound in a manifest that is to be written: of everything but slots and binding."""
    return _digest_without(json.loads(json.dumps(_document(manifest))), *_UNBOUND)


def _digest_without(document: Mapping[str, Any], *names: str) -> str:
    """The SHA-256 of an object without some of its fields, in JSON with sorted names and without spaces (RFC 8259)."""
    kept = {name: value for name, value in document.items() if name not in names}
    canonical = json.dumps(kept, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()


def write_proof(proof: Proof) -> bytes:
    """A proof as one line of JSON, without its end of line."""
    return json.dumps(proof_document(proof), ensure_ascii=False).encode("utf-8")


def proof_document(proof: Proof) -> Dict[str, Any]:
    """A proof as plain values."""
    return {
        "level": proof.level.value,
        "outcome": proof.outcome.value,
        "time": _precise(proof.time),
        "host": proof.host,
        "seconds": round(proof.seconds, 3),
        "detail": proof.detail,
    }


#: The most lines of a backup's proofs, and how many of them may be none before the rest is not looked at.
MOST_PROOFS = 20_000
_MOST_UNREADABLE = 100


def read_proofs(content: bytes) -> Tuple[Tuple[Proof, ...], Optional[str]]:
    """The proofs of a file, and why they do not tell how the backup was judged, where one of them cannot be read.

    A line that was damaged, cut or emptied may have been a failure of any level, so that only a restore that passed
    after it settles the matter.
    """
    proofs: List[Proof] = []
    unjudged = None if content else "its proofs are empty"
    lines = content[: -1 if content.endswith(b"\n") else None].split(b"\n", MOST_PROOFS) if content else []
    unreadable = 0
    for number_of, written in enumerate(lines, 1):
        if number_of > MOST_PROOFS or unreadable > _MOST_UNREADABLE:
            return tuple(proofs), f"its proofs are too many, or no proofs from line {number_of} on"
        try:
            proof = read_proof(parse(written))
        except Misshapen as error:
            unjudged = f"line {number_of} of its proofs cannot be read ({error})"
            unreadable += 1
            continue
        proofs.append(proof)
        if proof.outcome is Outcome.PASSED and proof.level is Level.RESTORE:
            unjudged = None
    return tuple(proofs), unjudged


def read_proof(value: Any) -> Proof:
    """One proof. Raises Misshapen."""
    fields = Fields(value)
    return Proof(
        level=fields.take("level", choice(Level)),
        outcome=fields.take("outcome", choice(Outcome)),
        time=fields.take("time", moment),
        host=fields.take("host", text_of(255)),
        detail=fields.maybe("detail", text_of(4_000), ""),
        seconds=fields.maybe("seconds", number(0, 1e9), 0.0),
    )


def _told(where: str, read: Callable[..., _T], *arguments: Any) -> _T:
    """Read, and say where it was that something did not have its shape.

    No context manager: contextlib's own frames would hold the content until the garbage collector comes.
    """
    try:
        return read(*arguments)
    except Misshapen as error:
        raise BadManifest(
            f"{where}: {error}. The file is damaged or forged; restore from another repository."
        ) from None


def _parse(content: bytes) -> Mapping[str, Any]:
    """A manifest as an object, without its checksum, which must be that of its bytes."""
    if len(content) > MANIFEST_LIMIT:
        raise Misshapen(f"is larger than {MANIFEST_LIMIT} bytes")
    body, end = content[:-_CHECKSUM_SIZE], content[-_CHECKSUM_SIZE:]
    checksum = _CHECKSUM.fullmatch(end)
    if not checksum:
        raise Misshapen("does not end with its checksum: it is cut short or damaged")
    if hashlib.sha256(body).hexdigest().encode("ascii") != checksum.group(1):
        raise Misshapen("does not have the SHA-256 that it ends with")
    document = parse(body + b"\n}\n")
    if not isinstance(document, dict):
        raise Misshapen("is not a JSON object")
    return document


def sealed(document: Mapping[str, Any]) -> bytes:
    """An object as the bytes of a manifest, which end with their own SHA-256: it is the field ``sha256``.

    No single bit of a manifest can change without being noticed, whoever reads it.
    """
    body = json.dumps(document, indent=1, ensure_ascii=False).encode("utf-8")[: -len(b"\n}")]
    return body + b',\n "sha256": "' + hashlib.sha256(body).hexdigest().encode("ascii") + b'"\n}\n'


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
    fields = Fields(item)
    name = require_component(fields.take("name", text_of(255)), where)
    if not name.startswith(backup_id + "."):
        raise Misshapen(f"is the file {name}, which belongs to another backup", "name")
    artefact = Artefact(
        name=name,
        bytes=fields.take("bytes", _SIZE),
        sha256=fields.take("sha256", _DIGEST),
        plain_bytes=fields.take("plain_bytes", _SIZE),
        compression=fields.take("compression", choice(Compression)),
        encryption=fields.take("encryption", choice(Encryption)),
        content=fields.maybe("content", choice(Content), Content.DATABASE),
    )
    most = min(LARGEST if artefact.content is Content.DATABASE else _GLOBALS, artefact.bytes * _DENSEST + _SMALL)
    if artefact.plain_bytes > most:
        raise Misshapen(f"is more than {artefact.bytes} stored bytes can hold", "plain_bytes")
    return artefact


def _check_contents(artefacts: Sequence[Artefact]) -> None:
    contents = [artefact.content for artefact in artefacts]
    if contents.count(Content.DATABASE) != 1 or len({artefact.name for artefact in artefacts}) != len(artefacts):
        raise Misshapen("does not name one artefact that holds the database", "artefacts")


def _read_slot(item: Any) -> KeySlot:
    fields = Fields(item)
    return KeySlot(
        artefact=fields.take("artefact", text_of(255)),
        kind=fields.take("kind", choice(SlotKind)),
        recipient=fields.maybe("recipient", line(64), ""),
        parameters=mapping(_read_parameter, 20)(fields.left()),
    )


def _binding_document(binding: Binding) -> Dict[str, Any]:
    salt = {"salt": binding.salt} if binding.salt else {}
    return {"artefact": binding.artefact, **salt, "hmac": binding.hmac}


def _read_binding(item: Any) -> Binding:
    fields = Fields(item)
    return Binding(
        artefact=fields.take("artefact", text_of(255)),
        hmac=fields.take("hmac", _DIGEST),
        salt=fields.maybe("salt", text_of(32, _SALT), ""),
    )


def _read_parameter(value: Any) -> Any:
    return text_of(1_000)(value) if isinstance(value, str) else integer(0, 1 << 32)(value)


def _read_scalar(value: Any) -> Any:
    if isinstance(value, (dict, list)):
        raise Misshapen("is not a single value")
    return text_of(1 << 20)(value) if isinstance(value, str) else value


def _read_property(value: Any) -> Any:
    if not isinstance(value, list):
        return _read_scalar(value)
    of = mapping(_read_scalar, 20) if value and isinstance(value[0], dict) else text_of(10_000)
    return list(sequence(of, 20_000)(value))


#: What an engine keeps, in its widest shape; the engine itself knows the types (databases.check_properties).
_PROPERTIES = mapping(_read_property, 200)


def _check_slots(slots: Sequence[KeySlot], artefacts: Sequence[Artefact]) -> None:
    counts = {artefact.name: dict.fromkeys(SlotKind, 0) for artefact in artefacts}
    for slot in slots:
        if slot.artefact not in counts:
            raise Misshapen(f"has a slot for {slot.artefact!r}, which is not of this backup", "key_slots")
        counts[slot.artefact][slot.kind] += 1
    for count in counts.values():
        if sum(count.values()) > _SLOTS or count[SlotKind.PASSPHRASE] > _PASSPHRASES:
            raise Misshapen("has more slots than one artefact can have", "key_slots")


def _slots_document(slots: Sequence[KeySlot]) -> List[Dict[str, Any]]:
    return [
        {"artefact": slot.artefact, "kind": slot.kind.value, "recipient": slot.recipient, **slot.parameters}
        for slot in slots
    ]


def _fingerprint_document(fingerprint: Optional[Fingerprint]) -> Optional[Dict[str, Any]]:
    if fingerprint is None:
        return None
    tables: Dict[str, Dict[str, Any]] = {}
    for name, table in sorted(fingerprint.tables.items()):
        tables[name] = {"rows": table.rows}
        if table.digest is not None:
            tables[name]["digest"] = table.digest
        if table.ends:
            tables[name]["ends"] = table.ends
    return {"kind": fingerprint.kind.value, "tables": tables}


def _read_fingerprint(value: Any) -> Fingerprint:
    fields = Fields(value)
    kind = fields.take("kind", choice(FingerprintKind))
    return Fingerprint(kind, fields.take("tables", mapping(_read_table, _TABLES, names=10_000)))


def _read_table(item: Any) -> TableFingerprint:
    # Told apart by hand: a listing reads this for every table of every backup.
    if not isinstance(item, dict):
        raise Misshapen("is not an object")
    rows, digest, ends = item.get("rows"), item.get("digest"), item.get("ends", 0)
    if not isinstance(rows, int) or isinstance(rows, bool) or not 0 <= rows <= LARGEST:
        raise Misshapen("is not a number of rows", "rows")
    if digest is not None and (not isinstance(digest, str) or len(digest) > 200):
        raise Misshapen("is invalid", "digest")
    if not isinstance(ends, int) or isinstance(ends, bool) or not 0 <= ends <= 10_000:
        raise Misshapen("is not a number of rows", "ends")
    return TableFingerprint(rows, digest, ends)


def _read_previous(value: Any) -> Previous:
    fields = Fields(value)
    return Previous(id=fields.take("id", text_of(200)), sha256=fields.take("sha256", _DIGEST))


def require_writable(tier: Optional[str], labels: Mapping[str, str]) -> None:
    """Raise BadInput for a tier or labels that no manifest could be read with."""
    try:
        fields = Fields({"tier": tier, "labels": dict(labels)})
        fields.maybe("tier", TIER, None)
        fields.take("labels", LABELS)
    except Misshapen as error:
        raise BadInput(f"{error}. Give a shorter or simpler value.") from None
