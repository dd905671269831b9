# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The small files of one place: manifests, key slots and proofs, read from the cache or from the repository."""

from __future__ import annotations

import hashlib
from itertools import groupby
from typing import Any, Callable, Generic, Iterator, List, NamedTuple, Optional, Sequence, Tuple, TypeVar, Union

from .databases import check_properties
from .errors import EngineError
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
from .repositories.base import Entry, Repository
from .shapes import Misshapen

_T = TypeVar("_T")


class Kind(Generic[_T]):
    """A kind of small files: how many bytes one may have, how it is read by its name, and how it is cached.

    ``read`` raises an EngineError, or Misshapen, for what is none.
    """

    def __init__(
        self,
        limit: int,
        read: Callable[[str, bytes], _T],
        pack: Callable[[_T], List[Any]],
        unpack: Callable[..., _T],
    ) -> None:
        self.limit, self.read, self.pack, self.unpack = limit, read, pack, unpack


class Skimmed(NamedTuple):
    """A manifest as a listing keeps it, and the SHA-256 of its bytes."""

    digest: str
    manifest: Manifest


def manifests(where: str) -> Kind[Skimmed]:
    """The manifests of a place that messages call ``where``."""

    def read(name: str, content: bytes) -> Skimmed:
        skimmed = skim_manifest(content, f"Manifest {where}/{name}", check_properties)
        return Skimmed(hashlib.sha256(content).hexdigest(), skimmed)

    return Kind(MANIFEST_LIMIT, read, _pack_skimmed, _unpack_skimmed)


def _pack_skimmed(skimmed: Skimmed) -> List[Any]:
    return [skimmed.digest, *pack(skimmed.manifest)]


def _unpack_skimmed(digest: str, *values: Any) -> Skimmed:
    return Skimmed(digest, unpack(*values))


PROOFS: Kind[Proof] = Kind(PROOF_LIMIT, read_stored, pack_proof, unpack_proof)
SLOTS: Kind[Generation] = Kind(SLOTS_LIMIT, read_generation, pack_generation, unpack_generation)


class SmallFiles:
    """The files that were listed of a place, to be read once."""

    def __init__(
        self, repository: Repository, place: Place, entries: Sequence[Entry], cache: Optional[ListingCache]
    ) -> None:
        self._repository, self._place, self._cache = repository, place, cache
        self._entries = {entry.name: entry for entry in entries if entry.regular}

    def read(self, names: Sequence[str], kind: Kind[_T]) -> Iterator[Tuple[str, Union[_T, Exception]]]:
        """What each of these files holds, or why that is not known, in this order.

        What is cached is as it was when the files were listed, even where a file was removed since.
        """
        for cached, some in groupby(names, self._is_cached):
            if not cached:
                yield from self._fetch(list(some), kind)
                continue
            for name in some:
                found = self._recall(name, kind)
                if found is None:
                    yield from self._fetch([name], kind)
                else:
                    yield name, found

    def _is_cached(self, name: str) -> bool:
        return self._cache is not None and name in self._entries and self._cache.holds(self._entries[name])

    def _recall(self, name: str, kind: Kind[_T]) -> Optional[_T]:
        try:
            return kind.unpack(*self._cache.get(self._entries[name])) if self._cache else None
        except (ValueError, TypeError, KeyError):
            return None

    def _fetch(self, names: Sequence[str], kind: Kind[_T]) -> Iterator[Tuple[str, Union[_T, Exception]]]:
        for name, content in self._repository.read_all(self._place, names, kind.limit):
            if isinstance(content, EngineError):
                yield name, content
                continue
            try:
                found = kind.read(name, content)
            except (EngineError, Misshapen) as error:
                yield name, error
                continue
            if self._cache and name in self._entries:
                self._cache.put(self._entries[name], kind.pack(found))
            yield name, found
