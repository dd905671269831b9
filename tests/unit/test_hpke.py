# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""HPKE against the vectors of RFC 9180, and against the library's own implementation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from _engine import hpke, primitives

VECTORS: List[Dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "hpke_rfc9180_vectors.json").read_text("utf-8")
)["vectors"]

#: Points of small order on Curve25519 (RFC 7748, section 6.1 wants their all-zero result refused).
SMALL_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


def unhex(vector: Dict[str, Any], name: str) -> bytes:
    return bytes.fromhex(vector[name])


def raw_pair() -> Any:
    private = X25519PrivateKey.generate()
    return (
        private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()),
        private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw),
    )


def test_the_vectors_are_those_of_both_aeads() -> None:
    assert [vector["aead_id"] for vector in VECTORS] == [1, 2]
    assert {(vector["mode"], vector["kem_id"], vector["kdf_id"]) for vector in VECTORS} == {(0, 0x20, 1)}


@pytest.mark.parametrize("vector", VECTORS, ids=["aes128gcm", "aes256gcm"])
def test_sealing_gives_what_rfc_9180_prints(vector: Dict[str, Any]) -> None:
    ephemeral = X25519PrivateKey.from_private_bytes(unhex(vector, "skEm"))
    aead = hpke.Aead(vector["aead_id"])
    secret, encapsulated = hpke._encapsulate(ephemeral, unhex(vector, "pkRm"))
    assert secret == unhex(vector, "shared_secret")
    assert encapsulated == unhex(vector, "enc")
    assert hpke._key_schedule(secret, unhex(vector, "info"), aead) == (
        unhex(vector, "key"),
        unhex(vector, "base_nonce"),
    )
    message = vector["encryption"]
    sealed = hpke._seal(
        ephemeral, unhex(vector, "pkRm"), unhex(vector, "info"), unhex(message, "aad"), unhex(message, "pt"), aead
    )
    assert sealed == (unhex(vector, "enc"), unhex(message, "ct"))


@pytest.mark.parametrize("vector", VECTORS, ids=["aes128gcm", "aes256gcm"])
def test_opening_gives_what_rfc_9180_prints(vector: Dict[str, Any]) -> None:
    message = vector["encryption"]
    assert unhex(message, "pt") == hpke.open_sealed(
        unhex(vector, "skRm"),
        unhex(vector, "enc"),
        unhex(vector, "info"),
        unhex(message, "aad"),
        unhex(message, "ct"),
        hpke.Aead(vector["aead_id"]),
    )


def test_a_message_opens_only_with_its_key_info_and_associated_data() -> None:
    private, public = raw_pair()
    stranger, _unused = raw_pair()
    enc, ciphertext = hpke.seal(public, b"info", b"aad", b"secret")
    assert hpke.open_sealed(private, enc, b"info", b"aad", ciphertext) == b"secret"
    wrong = [
        (stranger, enc, b"info", b"aad", ciphertext),
        (private, raw_pair()[1], b"info", b"aad", ciphertext),
        (private, enc, b"Info", b"aad", ciphertext),
        (private, enc, b"info", b"AAD", ciphertext),
        (private, enc, b"info", b"aad", ciphertext[:-1]),
        (private, enc, b"info", b"aad", bytes([ciphertext[0] ^ 1]) + ciphertext[1:]),
        (private, enc[:-1], b"info", b"aad", ciphertext),
    ]
    for arguments in wrong:
        with pytest.raises(hpke.CannotOpen):
            hpke.open_sealed(*arguments)


def test_no_two_messages_share_an_encapsulated_key() -> None:
    _private, public = raw_pair()
    assert len({hpke.seal(public, b"", b"", b"")[0] for _number in range(50)}) == 50


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_a_key_whose_shared_secret_is_zero_is_refused_on_both_sides(point: bytes) -> None:
    with pytest.raises(hpke.BadPublicKey):
        hpke.seal(point, b"", b"", b"secret")
    with pytest.raises(hpke.CannotOpen):
        hpke.open_sealed(raw_pair()[0], point, b"", b"", bytes(48))


def test_a_zero_secret_is_refused_also_where_the_library_lets_it_pass() -> None:
    class Lenient:
        def exchange(self, _public: object) -> bytes:
            return bytes(32)

    with pytest.raises(hpke.BadPublicKey):
        hpke._exchange(Lenient(), raw_pair()[1])  # type: ignore[arg-type]


@pytest.mark.reference
def test_the_library_opens_what_is_sealed_here_and_the_reverse() -> None:
    from cryptography.hazmat.primitives import hpke as reference

    suite = reference.Suite(reference.KEM.X25519, reference.KDF.HKDF_SHA256, reference.AEAD.AES_256_GCM)
    private = X25519PrivateKey.generate()
    raw = private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    enc, ciphertext = hpke.seal(public, b"fleet.backup/v1", b"", b"a data key")
    assert suite.decrypt(enc + ciphertext, private, b"fleet.backup/v1") == b"a data key"
    theirs = suite.encrypt(b"another one", private.public_key(), b"fleet.backup/v1")
    assert hpke.open_sealed(raw, theirs[:32], b"fleet.backup/v1", b"", theirs[32:]) == b"another one"


def test_hkdf_gives_what_rfc_5869_prints() -> None:
    # Appendix A.1, A.2 and A.3.
    cases = [
        (
            b"\x0b" * 22,
            bytes(range(13)),
            bytes(range(0xF0, 0xFA)),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            bytes(range(0x50)),
            bytes(range(0x60, 0xB0)),
            bytes(range(0xB0, 0x100)),
            (
                "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
                "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
            ),
        ),
        (
            b"\x0b" * 22,
            b"",
            b"",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ]
    for input_key, salt, info, expected in cases:
        output = primitives.hkdf_expand(primitives.hkdf_extract(salt, input_key), info, len(expected) // 2)
        assert output.hex() == expected
