# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The small files of one place: manifests, key slots and proofs, read from the cache or from the repository."""

from __future__ import annotations

import hashlib
from datetime import datetime
from itertools import groupby
from typing import (
    Any,
    Callable,
    Dict,
    Generic,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
    Union,
)

from .crypto import signing
from .crypto.signing import SIGNATURE, Signing
from .crypto.sshsig import SIGNATURE_LIMIT, signer_of
from .databases import check_properties
from .errors import BadSignature, EngineError, NotFound
from .generations import SLOTS_LIMIT, read_generation
from .listing_cache import (
    ListingCache,
    pack,
    pack_generation,
    pack_proof,
    unpack,
    unpack_generation,
    unpack_proof,
)
from .manifest import MANIFEST_LIMIT, skim_manifest
from .model import Generation, Manifest, Place, Proof
from .proofs import PROOF_LIMIT, read_stored
from .repositories.base import Content, Entry, Repository
from .shapes import Misshapen
from .state import Host

_T = TypeVar("_T")
#: How many files are read at once with their signatures.
_FEW = 1000


class Kind(Generic[_T]):
    """A kind of small files: how many bytes one may have, who may sign it, how it is read by its name and cached.

    ``read`` raises an EngineError, or Misshapen, for what is none. ``written`` is when it was, as it says itself.
    """

    def __init__(
        self,
        namespace: str,
        limit: int,
        written: Callable[[_T], datetime],
        read: Callable[[str, bytes], _T],
        pack: Callable[[_T], List[Any]],
        unpack: Callable[..., _T],
    ) -> None:
        self.namespace, self.limit, self.written = namespace, limit, written
        self.read, self.pack, self.unpack = read, pack, unpack


class Skimmed(NamedTuple):
    """A manifest as a listing keeps it, and the SHA-256 of its bytes."""

    digest: str
    manifest: Manifest


def manifests(where: str) -> Kind[Skimmed]:
    """The manifests of a place that messages call ``where``."""

    def read(name: str, content: bytes) -> Skimmed:
        skimmed = skim_manifest(content, f"Manifest {where}/{name}", check_properties)
        return Skimmed(hashlib.sha256(content).hexdigest(), skimmed)

    return Kind(
        signing.MANIFESTS, MANIFEST_LIMIT, lambda one: one.manifest.finished, read, _pack_skimmed, _unpack_skimmed
    )


def _pack_skimmed(skimmed: Skimmed) -> List[Any]:
    return [skimmed.digest, *pack(skimmed.manifest)]


def _unpack_skimmed(digest: str, *values: Any) -> Skimmed:
    return Skimmed(digest, unpack(*values))


PROOFS: Kind[Proof] = Kind(signing.PROOFS, PROOF_LIMIT, lambda one: one.time, read_stored, pack_proof, unpack_proof)
SLOTS: Kind[Generation] = Kind(
    signing.SLOTS, SLOTS_LIMIT, lambda one: one.time, read_generation, pack_generation, unpack_generation
)


def store(host: Host, repository: Repository, place: Place, name: str, content: bytes, namespace: str) -> None:
    """Write a small new file, and before it its signature where this host signs."""
    signature = host.signing.sign(namespace, content)
    if signature:
        repository.store(place, name + SIGNATURE, signature)
    repository.store(place, name, content)


class SmallFiles:
    """The files that were listed of a place, to be read once, and believed where they are signed as they must be."""

    def __init__(
        self,
        repository: Repository,
        place: Place,
        entries: Sequence[Entry],
        signing: Signing,
        cache: Optional[ListingCache],
    ) -> None:
        self._repository, self._place, self._cache, self._signing = repository, place, cache, signing
        self._entries = {entry.name: entry for entry in entries if entry.regular}

    def read(self, names: Sequence[str], kind: Kind[_T]) -> Iterator[Tuple[str, Union[_T, Exception]]]:
        """What each of these files holds, or why that is not known or does not count, in this order.

        What is cached is as it was when the files were listed, even where a file was removed since.
        """
        for cached, some in groupby(names, self._is_cached):
            if cached:
                for name in some:
                    kept = self._recall(name)
                    try:
                        signer, value = bytes.fromhex(kept[0]), kind.unpack(*kept[1:])
                    except (ValueError, TypeError, KeyError, IndexError):
                        yield from self._fetch([name], kind)
                    else:
                        yield name, self._objection(name, signer, kind.namespace, kind.written(value)) or value
                continue
            unread = list(some)
            # Of so many, the signatures are in memory at the same time.
            for start in range(0, len(unread), _FEW):
                yield from self._fetch(unread[start : start + _FEW], kind)

    def _listed(self, name: str) -> List[Entry]:
        """A file and its signature as they were listed; nothing for one that cannot be cached."""
        file, signature = self._entries.get(name), self._entries.get(name + SIGNATURE)
        if file is None or not self._signing.checks:
            return [file] if file else []
        # A file without a signature may have got one since.
        return [file, signature] if signature else []

    def _is_cached(self, name: str) -> bool:
        listed = self._listed(name)
        return bool(self._cache and listed and self._cache.holds(*listed))

    def _recall(self, name: str) -> Any:
        return self._cache.get(*self._listed(name)) if self._cache else None

    def _fetch(self, names: Sequence[str], kind: Kind[_T]) -> Iterator[Tuple[str, Union[_T, Exception]]]:
        signatures: Dict[str, Content] = {}
        if self._signing.checks:
            wanted = [name + SIGNATURE for name in names]
            signatures = dict(self._repository.read_all(self._place, wanted, SIGNATURE_LIMIT))
        for name, content in self._repository.read_all(self._place, names, kind.limit):
            if isinstance(content, EngineError):
                yield name, content
                continue
            try:
                signer = self._signer(name, content, signatures.get(name + SIGNATURE), kind)
                found = kind.read(name, content)
            except (EngineError, Misshapen) as error:
                yield name, error
                continue
            listed = self._listed(name)
            if self._cache and listed:
                self._cache.put([signer.hex(), *kind.pack(found)], *listed)
            yield name, self._objection(name, signer, kind.namespace, kind.written(found)) or found

    def _signer(self, name: str, content: bytes, signature: Optional[Content], kind: Kind[_T]) -> bytes:
        """The key that signed a file; empty where it has no signature. Raises BadSignature."""
        if signature is None or isinstance(signature, NotFound):
            return b""
        if isinstance(signature, EngineError):
            raise BadSignature(f"The signature of {self._where(name)} cannot be read. Find out who wrote it.")
        try:
            return signer_of(signature, kind.namespace, content)
        except BadSignature as error:
            raise BadSignature(f"The signature of {self._where(name)} {error}. Find out who wrote it.") from None

    def _objection(self, name: str, signer: bytes, namespace: str, written: datetime) -> Optional[BadSignature]:
        """Why a file does not count, with the key that signed it, or none; None where it does."""
        if not self._signing.checks or not (signer or self._signing.required):
            return None
        if not signer:
            return BadSignature(
                f"{self._where(name)} is not signed, so it does not count. Find out who wrote it; to use it all the "
                "same, set signing.required to false."
            )
        why = self._signing.objection(signer, self._place.host, namespace, written)
        if why is None:
            return None
        return BadSignature(f"The signature of {self._where(name)} {why}, so it does not count. Find out who wrote it.")

    def _where(self, name: str) -> str:
        return f"{self._repository.label}/{self._place.path}/{name}"
