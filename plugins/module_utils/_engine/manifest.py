# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Manifests as JSON (schema version 1; docs/formats.md). Reading trusts nothing. Pure functions."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, TypeVar

from .errors import BadInput, BadManifest
from .model import (
    Artefact,
    Binding,
    Compression,
    Content,
    Encryption,
    Fingerprint,
    FingerprintKind,
    Manifest,
    Previous,
    TableFingerprint,
    Totals,
)
from .names import is_id, require_component, stamp, stamp_of
from .sealed import sealed, unsealed
from .shapes import LARGEST, Fields, Misshapen, boolean, choice, integer, line, mapping, moment, number, sequence
from .shapes import text as text_of
from .timespan import format_precise

_T = TypeVar("_T")
#: Raises BadManifest where an engine, by its name, could not make a database with these properties of this backup.
PropertiesCheck = Callable[[str, Mapping[str, Any], str], None]

SCHEMA = 1
#: No manifest is larger than this (a database of 100,000 tables makes one of about 10 MB).
MANIFEST_LIMIT = 24 << 20

#: An artefact for the database and one for its globals.
_MOST_ARTEFACTS = 2
_MOST_TABLES = 200_000
#: zstd writes a block of 128 KiB that repeats one byte in 4 bytes (RFC 8878, 3.1.1.2), and nothing else is denser.
_DENSEST, _SMALL = 1 << 16, 1 << 20
#: Roles and tablespaces are read into memory.
_GLOBALS = 64 << 20

_SCHEMA = integer(1)
_SIZE = integer()
_SHORT = text_of(200)
_WORD = line(200)
_HOST = line(255)
_FILE = text_of(255)
_NAME = text_of(10_000)
_LONG = text_of(1 << 20)
_DIGEST = text_of(64, re.compile(r"[0-9a-f]{64}"))
_SALT = text_of(32, re.compile(r"[0-9a-f]{32}"))
_COMPRESSION, _ENCRYPTION, _CONTENT = choice(Compression), choice(Encryption), choice(Content)
_KIND = choice(FingerprintKind)
_VERSIONS = mapping(_WORD, 50)
_DURATIONS = mapping(number(0, 1e9), 100)
#: Labels and tiers are checked before a backup is taken too.
LABELS = mapping(text_of(4_000), 100)
TIER = _WORD


def write_manifest(manifest: Manifest) -> bytes:
    """A manifest as JSON, for people too: indented, in the order of docs/formats.md."""
    return sealed(_document(manifest))


def _document(manifest: Manifest) -> Dict[str, Any]:
    return {
        "schema": SCHEMA,
        "id": manifest.id,
        "host": manifest.host,
        "engine": manifest.engine,
        "database": manifest.database,
        "tier": manifest.tier,
        "started": format_precise(manifest.started),
        "finished": format_precise(manifest.finished),
        "artefacts": [_artefact_document(artefact) for artefact in manifest.artefacts],
        "binding": [_binding_document(binding) for binding in manifest.binding],
        "source": manifest.source,
        "server_version": manifest.server_version,
        "tool_versions": dict(manifest.tool_versions),
        "fingerprint": _fingerprint_document(manifest.fingerprint),
        "opaque": manifest.opaque,
        "properties": dict(manifest.properties),
        "durations": dict(manifest.durations),
        "previous": {"id": manifest.previous.id, "sha256": manifest.previous.sha256} if manifest.previous else None,
        "labels": dict(manifest.labels),
    }


def read_manifest(content: bytes, where: str) -> Manifest:
    """Read a manifest. Raises BadManifest, whose message begins with ``where``: what the caller read."""
    return _told(where, _manifest, content, where, None)


def skim_manifest(content: bytes, where: str, check: PropertiesCheck) -> Manifest:
    """The same as a listing keeps it: thousands of whole manifests would be millions of tables.

    Its fingerprint is only summed up (``Manifest.totals``); its properties pass ``check`` and are left out, as are
    fields that this version does not know.
    """
    return _told(where, _manifest, content, where, check)


def _manifest(content: bytes, where: str, check: Optional[PropertiesCheck]) -> Manifest:
    document = unsealed(content, MANIFEST_LIMIT)
    fields = Fields(document)
    schema = fields.take("schema", _SCHEMA)
    if schema > SCHEMA:
        raise BadManifest(
            f"{where} has schema {schema}, and this version reads up to {SCHEMA}. Update fleet.backup on this host."
        )
    backup_id = fields.take("id", _SHORT)
    if not is_id(backup_id):
        raise Misshapen("is not the id of a backup", "id")
    artefacts = fields.take("artefacts", _ARTEFACTS_OF)
    _check_artefacts(artefacts, where, backup_id)
    engine, properties = fields.take("engine", _WORD), fields.maybe("properties", _PROPERTIES, {})
    if check:
        check(engine, properties, backup_id)
        tables, totals = None, fields.maybe("fingerprint", _read_totals, None)
    else:
        tables, totals = fields.maybe("fingerprint", _read_fingerprint, None), None
    started = fields.take("started", moment)
    if stamp_of(backup_id) != stamp(started):
        raise Misshapen("is not the time in the id", "started")
    return Manifest(
        id=backup_id,
        host=fields.take("host", _HOST),
        engine=engine,
        database=fields.take("database", _NAME),
        tier=fields.maybe("tier", TIER, None),
        started=started,
        finished=fields.take("finished", moment),
        artefacts=artefacts,
        binding=fields.maybe("binding", _BINDINGS, ()),
        source=fields.maybe("source", _WORD, ""),
        server_version=fields.maybe("server_version", _WORD, ""),
        tool_versions=fields.maybe("tool_versions", _VERSIONS, {}),
        fingerprint=tables,
        summary=totals,
        opaque=fields.maybe("opaque", boolean, False),
        properties={} if check else properties,
        durations=fields.maybe("durations", _DURATIONS, {}),
        previous=fields.maybe("previous", _read_previous, None),
        labels=fields.maybe("labels", LABELS, {}),
        facts="" if check else _facts(document),
    )


def bound_facts(manifest: Manifest) -> str:
    """The SHA-256 of all that is bound in a manifest that is to be written: of everything but the binding itself."""
    return _facts(json.loads(json.dumps(_document(manifest))))


def _facts(document: Mapping[str, Any]) -> str:
    """The SHA-256 of a manifest without its binding, in JSON with sorted names and without spaces (RFC 8259)."""
    kept = {name: value for name, value in document.items() if name != "binding"}
    canonical = json.dumps(kept, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()


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


def _read_artefact(item: Any) -> Artefact:
    fields = Fields(item)
    artefact = Artefact(
        name=fields.take("name", _FILE),
        bytes=fields.take("bytes", _SIZE),
        sha256=fields.take("sha256", _DIGEST),
        plain_bytes=fields.take("plain_bytes", _SIZE),
        compression=fields.take("compression", _COMPRESSION),
        encryption=fields.take("encryption", _ENCRYPTION),
        content=fields.maybe("content", _CONTENT, Content.DATABASE),
    )
    most = min(LARGEST if artefact.content is Content.DATABASE else _GLOBALS, artefact.bytes * _DENSEST + _SMALL)
    if artefact.plain_bytes > most:
        raise Misshapen(f"is more than {artefact.bytes} stored bytes can hold", "plain_bytes")
    return artefact


def _check_artefacts(artefacts: Sequence[Artefact], where: str, backup_id: str) -> None:
    for place, artefact in enumerate(artefacts):
        if not require_component(artefact.name, where).startswith(backup_id + "."):
            problem = f"is the file {artefact.name}, which belongs to another backup"
            raise Misshapen(problem, f"artefacts[{place}].name")
    contents = [artefact.content for artefact in artefacts]
    if contents.count(Content.DATABASE) != 1 or len({artefact.name for artefact in artefacts}) != len(artefacts):
        raise Misshapen("does not name one artefact that holds the database", "artefacts")


def _binding_document(binding: Binding) -> Dict[str, Any]:
    salt = {"salt": binding.salt} if binding.salt else {}
    return {"artefact": binding.artefact, **salt, "hmac": binding.hmac}


def _read_binding(item: Any) -> Binding:
    fields = Fields(item)
    return Binding(
        artefact=fields.take("artefact", _FILE),
        hmac=fields.take("hmac", _DIGEST),
        salt=fields.maybe("salt", _SALT, ""),
    )


def _read_scalar(value: Any) -> Any:
    if isinstance(value, (dict, list)):
        raise Misshapen("is not a single value")
    return _LONG(value) if isinstance(value, str) else value


def _read_property(value: Any) -> Any:
    if isinstance(value, str):
        return _LONG(value)
    if not isinstance(value, list):
        return _read_scalar(value)
    return list((_OBJECTS if value and isinstance(value[0], dict) else _NAMES)(value))


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
    return Fingerprint(fields.take("kind", _KIND), fields.take("tables", _TABLES))


def _read_totals(value: Any) -> Totals:
    fields = Fields(value)
    kind, rows = fields.take("kind", _KIND), fields.take("tables", _ROWS)
    return Totals(kind, len(rows), sum(rows.values()))


def _read_table(item: Any) -> TableFingerprint:
    return TableFingerprint(_read_rows(item), item.get("digest"), item.get("ends", 0))


def _read_rows(item: Any) -> int:
    """The rows of a table, of which everything is checked."""
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
    return int(rows)


def _read_previous(value: Any) -> Previous:
    fields = Fields(value)
    return Previous(id=fields.take("id", _SHORT), sha256=fields.take("sha256", _DIGEST))


def require_writable(tier: Optional[str], labels: Mapping[str, str]) -> None:
    """Raise BadInput for a tier or labels that no manifest could be read with."""
    try:
        fields = Fields({"tier": tier, "labels": dict(labels)})
        fields.maybe("tier", TIER, None)
        fields.take("labels", LABELS)
    except Misshapen as error:
        raise BadInput(f"{error}. Give a shorter or simpler value.") from None


_ARTEFACTS_OF = sequence(_read_artefact, _MOST_ARTEFACTS)
_BINDINGS = sequence(_read_binding, _MOST_ARTEFACTS)
_TABLES = mapping(_read_table, _MOST_TABLES, names=10_000)
_ROWS = mapping(_read_rows, _MOST_TABLES, names=10_000)
_OBJECTS, _NAMES = sequence(mapping(_read_scalar, 20), 20_000), sequence(_NAME, 20_000)
#: What an engine keeps, in its widest shape; the engine itself knows the types (databases.check_properties).
_PROPERTIES = mapping(_read_property, 200)
