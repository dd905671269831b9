# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all cryptography here is built on: HKDF-SHA256 from the standard library, and the library for the rest."""

from __future__ import annotations

import hashlib
import hmac
from contextlib import contextmanager
from typing import Iterator

from .errors import MissingTool


@contextmanager
def cryptography_needed() -> Iterator[None]:
    """Around an import of ``cryptography``: raises MissingTool, which names the package, where it cannot be loaded."""
    try:
        yield
    except ImportError as error:
        raise MissingTool(
            f"Encryption aes256-gcm needs the Python library cryptography, which cannot be loaded ({error}). "
            "Install the package python3-cryptography, or choose another encryption.method."
        ) from error


def hkdf_extract(salt: bytes, input_key: bytes) -> bytes:
    """HKDF-Extract with SHA-256 (RFC 5869, section 2.2); 32 bytes."""
    return hmac.new(salt, input_key, hashlib.sha256).digest()


def hkdf_expand(pseudorandom_key: bytes, info: bytes, size: int) -> bytes:
    """HKDF-Expand with SHA-256 (RFC 5869, section 2.3); at most 255 * 32 bytes, beyond which it raises ValueError."""
    output, block, count = b"", b"", 0
    while len(output) < size:
        count += 1
        block = hmac.new(pseudorandom_key, block + info + bytes([count]), hashlib.sha256).digest()
        output += block
    return output[:size]
