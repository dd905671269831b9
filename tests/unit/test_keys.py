# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""Key pairs against openssl, the promises of key slots, and key files that no crash and no full disk can lose."""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

from _engine import hpke, keyfile, keys, pem
from _engine.errors import (
    BadInput,
    BadManifest,
    Damaged,
    EngineError,
    NoKey,
    NoSpace,
    NotFound,
    PermissionDenied,
    Refused,
    WrongKey,
)
from _engine.model import KeySlot, Origin, SlotKind

NAME = "shop-20260301T120000Z-h3k7.dump.zst.aes"
ORIGIN = Origin("web1", "postgresql", "shop", NAME)
OTHER = ORIGIN._replace(artefact="other.dump.aes")
DATA = ORIGIN.associated_data
PASSPHRASE = "correct horse battery stäple"
ENGINE = Path(keys.__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """Private keys are read only where none but their owner can read them."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def openssl(*arguments: str, content: bytes = b"") -> bytes:
    done = subprocess.run(["openssl", *arguments], input=content, stdout=subprocess.PIPE, check=True)
    return done.stdout


def pair() -> Tuple[keys.Recipient, keys.Identity]:
    private = keys.generate()
    (recipient,) = keys.load_recipients([keys.public_pem(private).decode("ascii")])
    (identity,) = keys.load_identities([private.decode("ascii")])
    return recipient, identity


def changed(slot: KeySlot, **parameters: Any) -> KeySlot:
    return KeySlot(slot.artefact, slot.kind, slot.recipient, {**slot.parameters, **parameters})


def flipped(text: str) -> str:
    content = bytearray(base64.b64decode(text))
    content[0] ^= 1
    return base64.b64encode(content).decode("ascii")


def refusal(error: type, call: Any, *arguments: Any) -> str:
    with pytest.raises(error) as caught:
        call(*arguments)
    message = str(caught.value)
    assert message.endswith("."), "a message is made of sentences"
    return message


@pytest.fixture(scope="module")
def data_key() -> bytes:
    return keys.new_data_key()


@pytest.fixture(scope="module")
def costly_slot(data_key: bytes) -> KeySlot:
    """A slot for the passphrase as it is written."""
    (slot,) = keys.wrap(data_key, ORIGIN, (), PASSPHRASE)
    return slot


@pytest.fixture(scope="module")
def passphrase_slot(data_key: bytes) -> KeySlot:
    """The same, of which scrypt asks little time: each attempt at another one takes a third of a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys, "_COST", keys._Cost(n=1 << 10, r=8, p=1))
        (slot,) = keys.wrap(data_key, ORIGIN, (), PASSPHRASE)
    return slot


# Key pairs


def test_openssl_reads_the_keys_that_are_generated() -> None:
    private = keys.generate()
    assert b"X25519 Private-Key" in openssl("pkey", "-noout", "-text", content=private)
    assert openssl("pkey", content=private) == private
    public = keys.public_pem(private)
    assert openssl("pkey", "-pubout", content=private) == public
    der = openssl("pkey", "-pubin", "-outform", "DER", content=public)
    assert keys.recipient_id(public) == hashlib.sha256(der).hexdigest()


def test_keys_that_openssl_generates_are_read(tmp_path: Path) -> None:
    private, public = tmp_path / "recovery.pem", tmp_path / "recovery.pub"
    private.write_bytes(openssl("genpkey", "-algorithm", "X25519"))
    public.write_bytes(openssl("pkey", "-in", str(private), "-pubout"))
    (recipient,) = keys.load_recipients([str(public)])
    (identity,) = keys.load_identities([str(private)])
    assert recipient.id == identity.id == keys.recipient_id(public.read_bytes())
    assert (recipient.name, identity.name) == (str(public), "recovery.pem")
    text = openssl("pkey", "-in", str(private), "-noout", "-text").decode("ascii")
    numbers = bytes.fromhex("".join(line.strip().replace(":", "") for line in text.splitlines() if line[:1] == " "))
    assert numbers == identity.private + recipient.public


def test_keys_are_taken_inline_in_files_folded_by_yaml_and_several_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    privates = [keys.generate().decode("ascii") for _number in range(4)]
    publics = [keys.public_pem(private.encode("ascii")).decode("ascii") for private in privates]
    (tmp_path / "team.pem").write_text("The operators:\n" + publics[0] + "Eve:\n" + publics[1])
    folded = " ".join(publics[2].split("\n"))
    items = ["team.pem", folded, publics[3], publics[3].rstrip(), "~/team.pem", f" {tmp_path}/team.pem\n"]
    expected = [keys.recipient_id(public.encode("ascii")) for public in publics]
    assert [recipient.id for recipient in keys.load_recipients(items)] == expected
    (tmp_path / "all.pem").write_text("".join(privates))
    assert [identity.id for identity in keys.load_identities(["./all.pem"])] == expected


def test_a_private_key_as_recipient_is_refused_and_not_shown(tmp_path: Path) -> None:
    private = keys.generate().decode("ascii")
    path = tmp_path / "key.pem"
    path.write_text(private)
    for item in (private, str(path)):
        message = refusal(BadInput, keys.load_recipients, [item])
        assert "is a private key. Give the public one" in message
        assert private.split("\n")[1] not in message
    assert str(path) in message


def test_a_public_key_as_identity_is_refused() -> None:
    public = keys.public_pem(keys.generate()).decode("ascii")
    assert "number 1 is a public key. Give the private key" in refusal(BadInput, keys.load_identities, [public])


@pytest.mark.parametrize(
    ("algorithm", "called"),
    [
        (("RSA", "-pkeyopt", "rsa_keygen_bits:2048"), "RSA"),
        (("ED25519",), "Ed25519"),
        (("X448",), "X448"),
        (("EC", "-pkeyopt", "ec_paramgen_curve:P-256"), "E"),  # EllipticCurve or EC, as the library calls it
    ],
)
def test_a_key_of_another_algorithm_is_refused_by_its_name(
    tmp_path: Path, algorithm: Tuple[str, ...], called: str
) -> None:
    path = tmp_path / "other.pem"
    path.write_bytes(openssl("genpkey", "-algorithm", *algorithm))
    public = openssl("pkey", "-in", str(path), "-pubout").decode("ascii")
    for load, item in ((keys.load_identities, str(path)), (keys.load_recipients, public)):
        message = refusal(BadInput, load, [item])
        assert f"is a key for {called}" in message and ", and aes256-gcm needs one for X25519." in message
        assert "openssl genpkey -algorithm X25519" in message


def test_a_key_of_an_unknown_algorithm_is_refused() -> None:
    der = openssl("pkey", "-pubout", "-outform", "DER", content=keys.generate())
    unknown = base64.b64encode(der.replace(b"\x2b\x65\x6e", b"\x2b\x65\x7f")).decode("ascii")
    item = f"-----BEGIN PUBLIC KEY-----\n{unknown}\n-----END PUBLIC KEY-----\n"
    assert "X25519" in refusal(BadInput, keys.load_recipients, [item])


def test_the_public_key_of_an_identity_is_that_of_its_private_pem() -> None:
    private = keys.generate()
    (identity,) = keys.load_identities([private.decode("ascii")])
    assert pem.public_of(identity).encode("ascii") == keys.public_pem(private)


def test_two_keys_where_one_is_expected_are_refused() -> None:
    private = keys.generate()
    refusal(BadInput, keys.public_pem, private + private)
    refusal(BadInput, keys.recipient_id, keys.public_pem(private) * 2)


def test_other_kinds_of_pem_are_refused_by_their_label(tmp_path: Path) -> None:
    old_rsa = openssl("genrsa", "-traditional", "2048").decode("ascii")
    assert "holds a RSA PRIVATE KEY" in refusal(BadInput, keys.load_identities, [old_rsa])
    certificate = openssl(
        "req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=x", "-keyout", str(tmp_path / "k")
    ).decode("ascii")
    assert "holds a CERTIFICATE" in refusal(BadInput, keys.load_recipients, [certificate])


def test_an_encrypted_private_key_is_refused_with_the_way_out() -> None:
    encrypted = openssl("pkey", "-aes-256-cbc", "-passout", "pass:x", content=keys.generate()).decode("ascii")
    assert "encrypted itself" in refusal(BadInput, keys.load_identities, [encrypted])


def test_a_damaged_pem_is_refused_without_its_content() -> None:
    private = keys.generate().decode("ascii")
    body = private.split("\n")[1]
    for broken in (
        private.replace(body, body[:-4]),
        private.replace(body, "*" + body[1:]),
        private.replace(body, body[:20] + "*" + body[20:]),
        private.replace(body, ""),
        private.replace("-----END PRIVATE KEY-----", ""),
        private + private[:40],
    ):
        message = refusal(BadInput, keys.load_identities, [broken])
        assert "The identity number 1" in message and body[:12] not in message


def test_garbage_in_a_file_is_refused_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    for content in (b"", b"SQLite format 3\x00" * 10, os.urandom(1000), b"age1qyqszqgpqyqszqgp"):
        path.write_bytes(content)
        assert str(path) in refusal(BadInput, keys.load_recipients, [str(path)])
    path.write_bytes(bytes((1 << 20) + 1))
    assert f"{path} is far too long" in refusal(BadInput, keys.load_recipients, [str(path)])
    assert str(tmp_path) in refusal(BadInput, keys.load_recipients, [str(tmp_path)])


def test_a_secret_that_is_neither_pem_nor_path_is_not_repeated() -> None:
    body = keys.generate().decode("ascii").split("\n")[1]
    for secret in (body, "AGE-SECRET-KEY-1QQQQ", "first line\n/second line", "a\0b", "/" + "x" * 5000, ""):
        for load, option in (
            (keys.load_identities, "encryption.identities"),
            (keys.load_recipients, "encryption.recipients"),
        ):
            message = refusal(BadInput, load, [secret])
            assert message.startswith(f"{option}: item 1 is neither a PEM key nor the path of an existing file.")
            assert not secret or secret[:12] not in message


def test_a_missing_file_is_named_and_so_is_its_option(tmp_path: Path) -> None:
    path = tmp_path / "gone.pem"
    message = refusal(NotFound, keys.load_recipients, [str(path)])
    assert f"{path}: there is no such file" in message and "encryption.recipients" in message
    # Ansible masks the whole of an identity's path, as it masks all of that option.
    message = refusal(NotFound, keys.load_identities, [str(path)])
    assert "identity number 1 (gone.pem): there is no such file" in message and "encryption.identities" in message


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become an account that may not read the file")
def test_an_unreadable_file_is_named() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o711)
        path = Path(directory) / "key.pem"
        path.write_bytes(keys.generate())
        path.chmod(0o600)
        os.seteuid(65534)
        try:
            message = refusal(PermissionDenied, keys.load_identities, [str(path)])
        finally:
            os.seteuid(0)
    assert f"number 1 ({path.name}): this account may not" in message


def test_neither_key_nor_passphrase_shows_in_a_representation() -> None:
    recipient, identity = pair()
    assert recipient.id in repr(recipient)
    assert repr(identity.private) not in repr(identity) and "private" not in repr(identity)


# Slots


def test_several_recipients_and_the_passphrase_open_each_alone(data_key: bytes) -> None:
    pairs = [pair() for _number in range(3)]
    slots = keys.wrap(data_key, ORIGIN, [recipient for recipient, _identity in pairs], PASSPHRASE)
    assert [slot.recipient for slot in slots] == [recipient.id for recipient, _identity in pairs] + [""]
    for _recipient, identity in pairs:
        assert keys.unwrap(slots, ORIGIN, [identity], None) == data_key
    assert keys.unwrap(slots, ORIGIN, [], PASSPHRASE) == data_key
    stranger = pair()[1]
    assert keys.unwrap(slots, ORIGIN, [stranger, pairs[2][1]], None) == data_key


def test_each_alone_opens_its_own_slot_when_all_others_are_gone(data_key: bytes) -> None:
    pairs = [pair() for _number in range(2)]
    slots = keys.wrap(data_key, ORIGIN, [recipient for recipient, _identity in pairs], None)
    for slot, (_recipient, identity) in zip(slots, pairs):
        assert keys.unwrap([slot], ORIGIN, [identity], None) == data_key


def test_a_recipient_given_twice_has_one_slot(data_key: bytes) -> None:
    recipient, _identity = pair()
    assert len(keys.wrap(data_key, ORIGIN, [recipient, recipient], None)) == 1


def test_data_keys_are_never_the_same() -> None:
    assert len({keys.new_data_key() for _number in range(100)}) == 100
    assert len(keys.new_data_key()) == 32


def test_slots_hold_plain_json_of_the_documented_shape(data_key: bytes, costly_slot: KeySlot) -> None:
    (slot,) = keys.wrap(data_key, ORIGIN, [pair()[0]], None)
    parameters: Dict[str, Any] = dict(slot.parameters)
    assert len(bytes.fromhex(parameters.pop("hmac"))) == 32
    assert {name: len(base64.b64decode(value)) for name, value in parameters.items()} == {"enc": 32, "ciphertext": 48}
    parameters = dict(costly_slot.parameters)
    assert len(bytes.fromhex(parameters.pop("hmac"))) == 32
    assert [parameters.pop(name) for name in ("n", "r", "p")] == [1 << 17, 8, 1]
    assert {name: len(base64.b64decode(value)) for name, value in parameters.items()} == {
        "salt": 16,
        "nonce": 12,
        "ciphertext": 48,
    }


def test_a_passphrase_slot_is_scrypt_and_aes_gcm_and_nothing_else(data_key: bytes, costly_slot: KeySlot) -> None:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    fields = costly_slot.parameters
    salt, nonce, ciphertext = (base64.b64decode(fields[name]) for name in ("salt", "nonce", "ciphertext"))
    key = Scrypt(salt=salt, length=32, n=fields["n"], r=fields["r"], p=fields["p"]).derive(PASSPHRASE.encode("utf-8"))
    assert AESGCM(key).decrypt(nonce, ciphertext, DATA) == data_key


def test_an_x25519_slot_is_hpke_with_the_documented_info_and_the_name(data_key: bytes) -> None:
    recipient, identity = pair()
    (slot,) = keys.wrap(data_key, ORIGIN, [recipient], None)
    enc, ciphertext = (base64.b64decode(slot.parameters[name]) for name in ("enc", "ciphertext"))
    opened = hpke.open_sealed(identity.private, enc, b"fleet.backup/v1", DATA, ciphertext)
    assert opened == data_key


def test_without_any_key_the_message_says_whose_is_needed(data_key: bytes, passphrase_slot: KeySlot) -> None:
    first, second = sorted((pair()[0], pair()[0]), key=lambda recipient: recipient.id)
    slots = keys.wrap(data_key, ORIGIN, [second, first], None)
    assert refusal(NoKey, keys.unwrap, slots, ORIGIN, [], None) == (
        f"{NAME} is encrypted for {first.id[:16]} and {second.id[:16]}; "
        "give the private key of one of them in encryption.identities."
    )
    assert refusal(NoKey, keys.unwrap, [passphrase_slot], ORIGIN, [], None) == (
        f"{NAME} is encrypted for a passphrase; give the passphrase in encryption.passphrase."
    )
    both = refusal(NoKey, keys.unwrap, [*slots, passphrase_slot], ORIGIN, [], None)
    assert f"{first.id[:16]}, {second.id[:16]} and a passphrase; give the private key" in both
    assert both.endswith("in encryption.identities or the passphrase in encryption.passphrase.")


def test_the_wrong_key_is_told_from_no_key(data_key: bytes, passphrase_slot: KeySlot, tmp_path: Path) -> None:
    recipient, _identity = pair()
    path = tmp_path / "old.pem"
    path.write_bytes(keys.generate())
    strangers = keys.load_identities([str(path)])
    slots = keys.wrap(data_key, ORIGIN, [recipient], None)
    message = refusal(WrongKey, keys.unwrap, slots, ORIGIN, strangers, None)
    assert "tried old.pem" in message and recipient.id[:16] in message and recipient.id not in message
    message = refusal(WrongKey, keys.unwrap, [*slots, passphrase_slot], ORIGIN, strangers, "wrong")
    assert "tried old.pem, the passphrase" in message and "wrong" not in message
    # A passphrase where only keys open, and a key where only a passphrase does.
    refusal(WrongKey, keys.unwrap, slots, ORIGIN, [], PASSPHRASE)
    refusal(WrongKey, keys.unwrap, [passphrase_slot], ORIGIN, strangers, None)


def test_an_altered_slot_is_damaged_and_not_a_wrong_key(data_key: bytes) -> None:
    recipient, identity = pair()
    (slot,) = keys.wrap(data_key, ORIGIN, [recipient], None)
    zero_point = base64.b64encode(bytes(32)).decode("ascii")
    for altered in (
        changed(slot, ciphertext=flipped(slot.parameters["ciphertext"])),
        changed(slot, enc=flipped(slot.parameters["enc"])),
        changed(slot, enc=zero_point),
    ):
        message = refusal(Damaged, keys.unwrap, [altered], ORIGIN, [identity], None)
        assert recipient.id[:16] in message and NAME in message


def test_a_slot_moved_from_another_artefact_does_not_open(data_key: bytes, passphrase_slot: KeySlot) -> None:
    recipient, identity = pair()
    (slot,) = keys.wrap(data_key, OTHER, [recipient], None)
    moved = KeySlot(NAME, slot.kind, slot.recipient, slot.parameters)
    assert "belongs to another artefact" in refusal(Damaged, keys.unwrap, [moved], ORIGIN, [identity], None)
    moved = KeySlot(OTHER.artefact, SlotKind.PASSPHRASE, "", passphrase_slot.parameters)
    refusal(WrongKey, keys.unwrap, [moved], OTHER, [], PASSPHRASE)


def test_slots_of_other_artefacts_are_left_out(data_key: bytes) -> None:
    recipient, identity = pair()
    other = keys.wrap(keys.new_data_key(), OTHER, [recipient], None)
    slots = (*other, *keys.wrap(data_key, ORIGIN, [recipient], None))
    assert keys.unwrap(slots, ORIGIN, [identity], None) == data_key
    assert "has no key slot left" in refusal(NoKey, keys.unwrap, other, ORIGIN, [identity], None)


def test_a_damaged_slot_does_not_hide_another_that_opens(data_key: bytes, passphrase_slot: KeySlot) -> None:
    recipient, identity = pair()
    (slot,) = keys.wrap(data_key, ORIGIN, [recipient], None)
    bad = changed(slot, ciphertext=flipped(slot.parameters["ciphertext"]))
    assert keys.unwrap([bad, passphrase_slot], ORIGIN, [identity], PASSPHRASE) == data_key
    assert keys.unwrap([changed(slot, enc=None), slot], ORIGIN, [identity], None) == data_key
    refusal(Damaged, keys.unwrap, [bad, passphrase_slot], ORIGIN, [identity], "wrong")


@pytest.mark.parametrize(
    "wrong", [{"enc": None}, {"enc": "AAAA"}, {"enc": "*"}, {"enc": "é"}, {"enc": 7}, {"ciphertext": ""}]
)
def test_a_slot_with_senseless_fields_is_a_bad_manifest(data_key: bytes, wrong: Dict[str, Any]) -> None:
    recipient, identity = pair()
    (slot,) = keys.wrap(data_key, ORIGIN, [recipient], None)
    assert NAME in refusal(BadManifest, keys.unwrap, [changed(slot, **wrong)], ORIGIN, [identity], None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n": 1 << 19},
        {"n": 1 << 30},
        {"n": 1 << 62},
        {"n": (1 << 17) - 1},
        {"n": 1},
        {"n": 0},
        {"n": -(1 << 17)},
        {"n": True},
        {"n": 131072.0},
        {"n": "131072"},
        {"n": None},
        {"r": 1 << 20},
        {"r": 17},
        {"n": 2, "r": 1 << 20},
        {"r": 0},
        {"p": 3},
        {"p": True},
        {"p": 1 << 29},
        {"p": 0},
        {"salt": "AAAA"},
        {"nonce": None},
        {"ciphertext": "AAAA"},
    ],
)
def test_a_manifest_cannot_ask_scrypt_for_more_than_a_host_has(
    costly_slot: KeySlot, wrong: Dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing may be computed before it is refused.
    monkeypatch.setattr(hashlib, "scrypt", lambda *_a, **_k: pytest.fail("scrypt was called"))
    message = refusal(BadManifest, keys.unwrap, [changed(costly_slot, **wrong)], ORIGIN, [], PASSPHRASE)
    assert NAME in message and PASSPHRASE not in message


def test_an_empty_passphrase_is_refused_everywhere(data_key: bytes) -> None:
    recipient, identity = pair()
    slots = keys.wrap(data_key, ORIGIN, [recipient], None)
    for call in (
        lambda: keys.wrap(data_key, ORIGIN, [recipient], ""),
        lambda: keys.unwrap(slots, ORIGIN, [identity], ""),
        lambda: keys.rewrap(slots, ORIGIN, data_key, [recipient], ""),
    ):
        assert "encryption.passphrase is empty" in refusal(BadInput, call)
    assert "\\ud800" not in refusal(BadInput, keys.wrap, data_key, ORIGIN, [], "\ud800x")


def test_a_key_for_nobody_is_refused(data_key: bytes) -> None:
    assert "encryption.recipients" in refusal(BadInput, keys.wrap, data_key, ORIGIN, [], None)
    slots = keys.wrap(data_key, ORIGIN, [pair()[0]], None)
    assert "encryption.recipients" in refusal(BadInput, keys.rewrap, slots, ORIGIN, data_key, [], None)


def test_a_recipient_whose_key_protects_nothing_is_refused(data_key: bytes) -> None:
    weak = keys.Recipient("0" * 64, "/etc/weak.pem", bytes(32))
    assert "/etc/weak.pem" in refusal(BadInput, keys.wrap, data_key, ORIGIN, [weak], None)


def test_scrypt_that_cannot_have_its_memory_says_so() -> None:
    script = (
        "import resource, sys; sys.path.insert(0, sys.argv[1])\n"
        "from _engine import errors, keys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (100 << 20, resource.RLIM_INFINITY))\n"
        "try:\n    keys._scrypt('x', bytes(16), keys._COST)\n"
        "except errors.EngineError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(ENGINE)], stdout=subprocess.PIPE, check=True)
    assert b"It takes 128.0 MiB of memory" in done.stdout


def test_the_memory_of_scrypt_is_given_back() -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from _engine import keys\n"
        "def resident(): return int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "from _engine.model import Origin\n"
        "origin = Origin('web1', 'sqlite', 'shop', 'name')\n"
        "keys.wrap(bytes(32), origin, [], 'up')\n"
        "before = resident()\n"
        "keys.wrap(bytes(32), origin, [], 'passphrase')\n"
        "print(before, resident())\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(ENGINE)], stdout=subprocess.PIPE, check=True)
    before, after = map(int, done.stdout.split())
    assert before < 90 << 20 and after - before < 4 << 20


# Changing slots


def garbage(slot: KeySlot) -> KeySlot:
    """A slot under the id of a slot's reader that opens with nothing, as anyone could write it."""
    return changed(slot, ciphertext=base64.b64encode(os.urandom(48)).decode("ascii"))


def test_rewrapping_keeps_the_slots_of_those_who_stay_byte_for_byte(data_key: bytes) -> None:
    (old, old_identity), (stays, stays_identity), (new, new_identity) = pair(), pair(), pair()
    slots = keys.wrap(data_key, ORIGIN, [old, stays], None)
    rewrapped = keys.rewrap(slots, ORIGIN, data_key, [stays, new], None)
    assert rewrapped[0] == slots[1]
    assert [slot.recipient for slot in rewrapped] == [stays.id, new.id]
    for identity in (stays_identity, new_identity):
        assert keys.unwrap(rewrapped, ORIGIN, [identity], None) == data_key
    refusal(WrongKey, keys.unwrap, rewrapped, ORIGIN, [old_identity], None)


def test_rewrapping_writes_a_slot_anew_where_the_one_that_is_there_is_garbage(data_key: bytes) -> None:
    (old, _old_identity), (new, new_identity) = pair(), pair()
    slots = keys.wrap(data_key, ORIGIN, [old, new], None)
    for planted in (garbage(slots[1]), changed(slots[1], hmac="0" * 64), changed(slots[1], hmac=None)):
        for made in (
            keys.rewrap([slots[0], planted], ORIGIN, data_key, [new], None),
            keys.included([slots[0], planted], ORIGIN, data_key, [new]),
        ):
            assert keys.unwrap(made, ORIGIN, [new_identity], None) == data_key
            assert len(keys.authentic(made, NAME, data_key)) == len(made)


def test_a_slot_that_is_written_under_another_data_key_is_not_authentic(data_key: bytes) -> None:
    recipient = pair()[0]
    planted = keys.wrap(keys.new_data_key(), ORIGIN, [recipient], None)
    assert keys.authentic(planted, NAME, data_key) == ()


def test_including_keeps_what_is_authentic_and_nothing_else(data_key: bytes, passphrase_slot: KeySlot) -> None:
    first, second, third = pair()[0], pair()[0], pair()[0]
    slots = keys.wrap(data_key, ORIGIN, [first, second], None)
    made = keys.included([slots[0], garbage(slots[1]), passphrase_slot], ORIGIN, data_key, [third])
    assert made[:2] == (slots[0], passphrase_slot)
    assert [slot.recipient for slot in made[2:]] == [third.id]
    assert keys.included(made, ORIGIN, data_key, [third]) == made


def test_rewrapping_with_the_same_passphrase_keeps_its_slot(data_key: bytes, passphrase_slot: KeySlot) -> None:
    recipient, identity = pair()
    rewrapped = keys.rewrap([passphrase_slot], ORIGIN, data_key, [recipient], PASSPHRASE)
    assert rewrapped[0] is passphrase_slot and rewrapped[1].recipient == recipient.id
    assert keys.unwrap(rewrapped, ORIGIN, [identity], None) == data_key
    # Only the key is named: the passphrase goes.
    assert keys.rewrap(rewrapped, ORIGIN, data_key, [recipient], None) == rewrapped[1:]


def test_rewrapping_under_a_new_passphrase_ends_the_old_one(data_key: bytes, passphrase_slot: KeySlot) -> None:
    rewrapped = keys.rewrap([passphrase_slot], ORIGIN, data_key, [], "another one")
    assert len(rewrapped) == 1
    assert keys.unwrap(rewrapped, ORIGIN, [], "another one") == data_key
    refusal(WrongKey, keys.unwrap, rewrapped, ORIGIN, [], PASSPHRASE)


def test_rewrapping_replaces_a_senseless_passphrase_slot(data_key: bytes, passphrase_slot: KeySlot) -> None:
    recipient = pair()[0]
    slots = (*keys.wrap(data_key, ORIGIN, [recipient], None), changed(passphrase_slot, n=3))
    rewrapped = keys.rewrap(slots, ORIGIN, data_key, [recipient], PASSPHRASE)
    assert rewrapped[0] == slots[0]
    assert keys.unwrap(rewrapped, ORIGIN, [], PASSPHRASE) == data_key


@pytest.mark.parametrize("other", [{"host": "web2"}, {"engine": "sqlite"}, {"database": "bank"}, {"artefact": "x.aes"}])
def test_a_slot_opens_for_its_own_host_engine_database_and_artefact_only(
    data_key: bytes, passphrase_slot: KeySlot, other: Dict[str, str]
) -> None:
    recipient, identity = pair()
    origin = ORIGIN._replace(**other)
    slots = [slot._replace(artefact=origin.artefact) for slot in keys.wrap(data_key, ORIGIN, [recipient], None)]
    refusal(Damaged, keys.unwrap, slots, origin, [identity], None)
    refusal(WrongKey, keys.unwrap, [passphrase_slot._replace(artefact=origin.artefact)], origin, [], PASSPHRASE)


def test_no_two_origins_are_written_the_same() -> None:
    assert Origin("a", 'b","c', "d", "e").associated_data != Origin("a", "b", 'c","d', "e").associated_data
    assert Origin("a\0b", "c", "d", "e").associated_data != Origin("a", "b\0c", "d", "e").associated_data


def test_a_slot_is_removed_by_its_whole_or_short_id_and_the_others_stay(
    data_key: bytes, passphrase_slot: KeySlot
) -> None:
    first, second = pair()[0], pair()[0]
    slots = (*keys.wrap(data_key, ORIGIN, [first, second], None), passphrase_slot)
    assert keys.without(slots, [first.id]) == slots[1:]
    assert keys.without(slots, [first.id[:16], second.id]) == slots[2:]
    assert keys.without(slots, [""]) == slots[:2]
    assert keys.without(slots, []) == slots


def test_a_key_slot_without_an_id_does_not_pass_for_the_passphrase(data_key: bytes) -> None:
    recipient, other = pair()[0], pair()[0]
    slots = keys.wrap(data_key, ORIGIN, [recipient, other], None)
    nameless = KeySlot(NAME, SlotKind.X25519, "", slots[1].parameters)
    refusal(BadInput, keys.without, [slots[0], nameless], [""])


def test_removing_a_slot_that_is_not_there_is_an_error(data_key: bytes) -> None:
    first = pair()[0]
    slots = keys.wrap(data_key, ORIGIN, [first], None)
    for unknown in (pair()[0].id, first.id[:15], ""):
        assert first.id[:16] in refusal(BadInput, keys.without, slots, [unknown])


def test_the_last_slot_of_an_artefact_goes_only_when_it_shall_be_destroyed(data_key: bytes) -> None:
    first, second = pair()[0], pair()[0]
    slots = (
        *keys.wrap(data_key, ORIGIN, [first, second], None),
        *keys.wrap(data_key, ORIGIN._replace(artefact="globals.aes"), [first], None),
    )
    message = refusal(Refused, keys.without, slots, [first.id])
    assert "globals.aes" in message and NAME not in message
    assert keys.without(slots, [first.id], destroy=True) == (slots[1],)
    assert keys.without(slots, [first.id, second.id], destroy=True) == ()


def test_a_hostile_recipient_in_a_manifest_does_not_reach_a_message(data_key: bytes) -> None:
    (slot,) = keys.wrap(data_key, ORIGIN, [pair()[0]], None)
    hostile = KeySlot(NAME, slot.kind, "\x1b[2J" * 20, slot.parameters)
    assert "\x1b" not in refusal(NoKey, keys.unwrap, [hostile], ORIGIN, [], None)


def test_without_the_library_the_package_is_named() -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.modules['cryptography'] = None\n"
        "from _engine import errors, keys\n"
        "from _engine.model import Origin\n"
        "from _engine.stream import tink\n"
        "origin = Origin('web1', 'sqlite', 'shop', 'name')\n"
        "for call in (keys.generate, lambda: keys.load_recipients(['-----BEGIN X-----']),\n"
        "             lambda: keys.load_identities(['-----BEGIN X-----']), lambda: keys.public_pem(b''),\n"
        "             lambda: keys.wrap(bytes(32), origin, [keys.Recipient('', '', b'')], None),\n"
        "             lambda: keys.wrap(bytes(32), origin, [], 'p'), lambda: tink.Encryptor(bytes(32), b'')):\n"
        "    try:\n        call()\n"
        "    except errors.MissingTool as error:\n        assert 'python3-cryptography' in str(error)\n"
        "    else:\n        raise AssertionError(call)\n"
    )
    subprocess.run([sys.executable, "-I", "-c", script, str(ENGINE)], check=True)


# Key files

NOW = datetime(2026, 3, 1, 2, 0, 0, tzinfo=timezone.utc)
NOBODY = 65534


def in_a_child(act: Callable[[], object]) -> int:
    """Run something in a process of its own; its wait status."""
    child = os.fork()
    if child == 0:
        # Whatever happens in here, pytest's own cleaning up must not run twice, nor this be measured.
        sys.settrace(None)
        try:
            act()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def killed_at(number: int, names: Tuple[str, ...], act: Callable[[], object]) -> bool:
    """Run something that kills itself before the given call of these functions of os; False when it ended before."""
    calls = 0

    def run() -> None:
        for name in names:

            def counted(*arguments: Any, real: Callable[..., Any] = getattr(os, name), **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **options)

            setattr(os, name, counted)
        act()

    status = in_a_child(run)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def contents(directory: Path) -> Dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def private_keys(directory: Path) -> List[bytes]:
    """The private keys in a directory, each with the public one beside it, and nothing hidden."""
    found = contents(directory)
    assert [name for name in found if name.startswith(".")] == []
    privates = {name: content for name, content in found.items() if not name.endswith(".pub")}
    assert {f"{name}.pub": keys.public_pem(content) for name, content in privates.items()} == {
        name: content for name, content in found.items() if name.endswith(".pub")
    }
    return list(privates.values())


def fill(directory: Path) -> Path:
    """Leave no free byte."""
    filler = directory / "filler"
    with filler.open("ab", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                return filler


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every account may enter, and only this one may change."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


def as_nobody(call: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """How another account is refused."""
    os.seteuid(NOBODY)
    try:
        with pytest.raises(PermissionDenied) as caught:
            call(*arguments, **options)
    finally:
        os.seteuid(0)
    assert f"may not be used by user {NOBODY}" in str(caught.value)
    return str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another account")
def test_an_account_that_may_not_change_a_key_file_is_told_so(open_directory: Path) -> None:
    path = open_directory / "ops.pem"
    keyfile.ensure(path, dry_run=False)
    before = contents(open_directory)
    for attempt in (keyfile.ensure, keyfile.remove):
        options = {"destroy": True} if attempt is keyfile.remove else {}
        assert str(path) in as_nobody(attempt, path, dry_run=False, **options)
    assert str(path) in as_nobody(keyfile.rotate, path, None, NOW, dry_run=False)
    path.chmod(0o666)
    assert str(path) in as_nobody(keyfile.ensure, path, dry_run=False)
    open_directory.chmod(0o700)
    assert str(path) in as_nobody(keyfile.remove, path, destroy=True, dry_run=True)
    assert contents(open_directory) == before


def test_a_directory_in_the_place_of_a_key_file_is_explained_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "ops.pem"
    path.mkdir()
    for call in (
        lambda: keyfile.ensure(path, dry_run=False),
        lambda: keyfile.rotate(path, None, NOW, dry_run=False),
        lambda: keyfile.remove(path, destroy=True, dry_run=False),
    ):
        assert f"{path} cannot be used: Is a directory. Give the path of a file." in refusal(BadInput, call)
    assert path.is_dir()


def test_a_key_below_a_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    path = tmp_path / "file" / "ops.pem"
    assert f"directory {tmp_path / 'file'} for the key" in refusal(BadInput, keyfile.ensure, path, False)
    assert not keyfile.remove(path, destroy=True, dry_run=False).changed


def test_a_key_on_a_disk_that_is_mounted_read_only_is_explained(small_disk: Path) -> None:
    path = small_disk / "ops.pem"
    keyfile.ensure(path, dry_run=False)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for call in (
        lambda: keyfile.ensure(small_disk / "new.pem", dry_run=False),
        lambda: keyfile.rotate(path, None, NOW, dry_run=False),
        lambda: keyfile.remove(path, destroy=True, dry_run=False),
    ):
        assert "Read-only file system. Mount it writable" in refusal(BadInput, call)


def test_a_full_disk_is_no_space_and_keeps_nothing_of_the_new_key_and_all_of_the_old_one(small_disk: Path) -> None:
    path = small_disk / "ops.pem"
    filler = fill(small_disk)
    assert str(path) in refusal(NoSpace, keyfile.ensure, path, False)
    assert list(contents(small_disk)) == ["filler"]
    filler.unlink()
    keyfile.ensure(path, dry_run=False)
    filler = fill(small_disk)
    before = contents(small_disk)
    assert str(path) in refusal(NoSpace, keyfile.rotate, path, None, NOW, False)
    assert contents(small_disk) == before
    # Room for the new private key, and for one of the two public ones.
    os.truncate(filler, filler.stat().st_size - 2 * 4096)
    refusal(NoSpace, keyfile.rotate, path, None, NOW, False)
    filler.unlink()
    del before["filler"]
    assert contents(small_disk) == before


def test_a_key_of_which_the_disk_takes_only_a_part_is_not_there_at_all(tmp_path: Path) -> None:
    path = tmp_path / "ops.pem"

    def short_of_room() -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, limits[1]))
        try:
            assert str(path) in refusal(EngineError, keyfile.ensure, path, False)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert in_a_child(short_of_room) == 0
    assert contents(tmp_path) == {}


def test_what_a_killed_process_left_of_a_key_goes_with_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "ops.pem"
    for name in ("fsync", "link", "replace", "unlink"):
        assert killed_at(1, (name,), lambda: keyfile.ensure(path, dry_run=False))
        assert [found for found in contents(tmp_path) if found.startswith(".")], f"{name} left nothing to tidy up"
        assert keyfile.ensure(path, dry_run=True).changed or name == "unlink"
        made = keyfile.ensure(path, dry_run=False)
        (private,) = private_keys(tmp_path)
        assert keys.public_pem(private).decode("ascii") == made.public
        keyfile.remove(path, destroy=True, dry_run=False)


def test_a_link_in_the_place_of_a_private_key_lets_no_mode_change_elsewhere(tmp_path: Path) -> None:
    other, path = tmp_path / "other", tmp_path / "key"
    keyfile.ensure(other, dry_run=False)
    other.chmod(0o644)
    path.symlink_to(other)
    with pytest.raises(BadInput):
        keyfile.ensure(path, dry_run=False)
    assert stat.S_IMODE(other.stat().st_mode) == 0o644


def test_check_mode_leaves_what_a_killed_process_left(tmp_path: Path) -> None:
    path = tmp_path / "ops.pem"
    assert killed_at(1, ("unlink",), lambda: keyfile.ensure(path, dry_run=False))
    before = contents(tmp_path)
    keyfile.ensure(path, dry_run=True)
    keyfile.rotate(path, None, NOW, dry_run=True)
    keyfile.remove(path, destroy=True, dry_run=True)
    assert contents(tmp_path) == before


def test_a_key_that_is_destroyed_is_left_in_no_hidden_file(tmp_path: Path) -> None:
    path = tmp_path / "ops.pem"
    assert killed_at(1, ("unlink",), lambda: keyfile.ensure(path, dry_run=False))
    assert keyfile.remove(path, destroy=True, dry_run=False).changed
    assert contents(tmp_path) == {}


def test_what_is_no_leftover_of_this_key_is_never_removed(tmp_path: Path) -> None:
    others = (
        ".other.pem.1.2.partial",
        ".ops.pem.1.partial",
        ".ops.pem.1.2.partial.old",
        "ops.pem.1.2.partial",
        ".opsXpem.1.2.partial",
    )
    for name in others:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "elsewhere").write_bytes(b"")
    (tmp_path / ".ops.pem.3.4.partial").symlink_to("elsewhere")
    (tmp_path / ".ops.pem.5.6.partial").mkdir()
    (tmp_path / ".ops.pem.7.8.partial").write_bytes(b"")
    keyfile.ensure(tmp_path / "ops.pem", dry_run=False)
    assert {path.name for path in tmp_path.iterdir()} == {
        *others,
        "elsewhere",
        ".ops.pem.3.4.partial",
        ".ops.pem.5.6.partial",
        "ops.pem",
        "ops.pem.pub",
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another account")
def test_an_account_leaves_the_leftovers_of_another_alone(open_directory: Path) -> None:
    open_directory.chmod(0o777)
    (open_directory / ".ops.pem.1.2.partial").write_bytes(b"")
    os.seteuid(NOBODY)
    try:
        keyfile.ensure(open_directory / "ops.pem", dry_run=False)
    finally:
        os.seteuid(0)
    assert ".ops.pem.1.2.partial" in contents(open_directory)


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ops.pem"
    script = (
        "import os, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from _engine import keyfile\n"
        "link = os.link\n"
        "def wait(*arguments):\n"
        "    print('ready', flush=True); sys.stdin.read(); return link(*arguments)\n"
        "os.link = wait\n"
        "print(keyfile.ensure(Path(sys.argv[2]), dry_run=False).public)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(ENGINE), str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    (partial,) = contents(tmp_path)
    made = keyfile.ensure(path, dry_run=False)
    assert keyfile.rotate(path, timedelta(days=1), datetime.now(timezone.utc), dry_run=False).public == made.public
    assert partial in contents(tmp_path)
    said = child.communicate()[0].decode("ascii")
    assert said.rstrip() == (made.public or "").rstrip()
    (private,) = private_keys(tmp_path)
    assert keys.public_pem(private).decode("ascii") == made.public


def test_a_file_that_is_taken_for_a_leftover_before_it_is_locked_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, lock, swept = tmp_path / "ops.pem", fcntl.flock, []

    def sweep_first(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        (hidden,) = contents(tmp_path)
        keyfile.remove(path, destroy=False, dry_run=False)
        swept.append(hidden)
        assert contents(tmp_path) == {}
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    made = keyfile.ensure(path, dry_run=False)
    (private,) = private_keys(tmp_path)
    assert keys.public_pem(private).decode("ascii") == made.public
    assert swept


def test_a_disk_that_knows_no_locks_gets_no_key_and_keeps_no_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    # Only some network file systems do that, and only while their lock daemon is down.
    monkeypatch.setattr(fcntl, "flock", refuse)
    assert "No locks available" in refusal(BadInput, keyfile.ensure, tmp_path / "ops.pem", False)
    assert contents(tmp_path) == {}


def test_rotations_in_one_second_keep_every_key_under_a_name_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "ops.pem"
    expected = [keyfile.ensure(path, dry_run=False).public]
    for name in ("", "-2", "-3"):
        previous = tmp_path / f"ops.pem.20260301T020000Z{name}"
        assert keyfile.rotate(path, None, NOW, dry_run=True).previous == previous
        rotated = keyfile.rotate(path, None, NOW, dry_run=False)
        assert rotated.previous == previous
        assert keyfile.public_path(previous).read_text() == expected[-1]
        expected.append(rotated.public)
    assert sorted(keys.public_pem(private).decode("ascii") for private in private_keys(tmp_path)) == sorted(
        public or "" for public in expected
    )


def test_rotations_at_once_keep_every_key(tmp_path: Path) -> None:
    path = tmp_path / "ops.pem"
    made = keyfile.ensure(path, dry_run=False)
    with ThreadPoolExecutor(4) as pool:
        rotated = list(pool.map(lambda _number: keyfile.rotate(path, None, NOW, dry_run=False), range(4)))
    assert len({pair.previous for pair in rotated}) == 4
    found = [keys.public_pem(private).decode("ascii") for private in private_keys(tmp_path)]
    assert len(found) == len(set(found)) == 5
    assert made.public in found


@pytest.mark.parametrize("seconds", [0, 1])
def test_a_rotation_that_is_killed_at_any_moment_loses_no_key_and_the_next_one_completes_it(
    tmp_path: Path, seconds: int
) -> None:
    number = 0
    while True:
        number += 1
        directory = tmp_path / str(number)
        directory.mkdir()
        path = directory / "ops.pem"
        keyfile.ensure(path, dry_run=False)
        old = path.read_bytes()
        killed = killed_at(
            number,
            ("open", "write", "fsync", "link", "replace", "unlink"),
            lambda path=path: keyfile.rotate(path, None, NOW, dry_run=False),
        )
        between = path.read_bytes()
        # At no moment may anything be encrypted for a key that nobody has.
        assert keyfile.public_path(path).read_bytes() in [keys.public_pem(old), keys.public_pem(between)]
        predicted = keyfile.rotate(path, None, NOW + timedelta(seconds=seconds), dry_run=True)
        rotated = keyfile.rotate(path, None, NOW + timedelta(seconds=seconds), dry_run=False)
        assert rotated.previous == predicted.previous
        assert rotated.previous is not None
        assert rotated.previous.read_bytes() == between
        found = private_keys(directory)
        assert sorted(found) == sorted({old, between, path.read_bytes()})
        if not killed:
            break
    assert number > 10


def test_where_no_key_is_a_rotation_makes_the_first_one(tmp_path: Path) -> None:
    path = tmp_path / "ops.pem"
    assert keyfile.rotate(path, None, NOW, dry_run=True).changed
    assert contents(tmp_path) == {}
    made = keyfile.rotate(path, None, NOW, dry_run=False)
    assert (made.changed, made.previous) == (True, None)
    (private,) = private_keys(tmp_path)
    assert keys.public_pem(private).decode("ascii") == made.public


def test_a_file_that_holds_no_key_is_not_rotated_away(tmp_path: Path) -> None:
    path = tmp_path / "ops.pem"
    path.write_bytes(b"garbage")
    refusal(BadInput, keyfile.rotate, path, None, NOW, False)
    assert contents(tmp_path) == {"ops.pem": b"garbage"}


def test_whoever_waited_for_a_rotation_gets_the_new_key(tmp_path: Path) -> None:
    path = tmp_path / "ops.pem"
    keyfile.ensure(path, dry_run=False)
    new = keys.generate()
    (tmp_path / "new").write_bytes(new)
    with path.open("r+b") as held, ThreadPoolExecutor(1) as pool:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = pool.submit(keyfile.ensure, path, False)
        while not is_waited_for(path):
            assert not waiting.done()
        os.replace(tmp_path / "new", path)
        fcntl.flock(held, fcntl.LOCK_UN)
        assert waiting.result().public == keys.public_pem(new).decode("ascii")


def is_waited_for(path: Path) -> bool:
    """Whether somebody waits for the lock on a file (proc(5), /proc/locks)."""
    inode = f":{path.stat().st_ino} "
    return any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())


def test_a_key_that_disappears_meanwhile_is_made_again_or_said_to_be_gone(tmp_path: Path) -> None:
    path = tmp_path / "ops.pem"
    ended = threading.Event()
    said = set()

    def destroy() -> None:
        while not ended.is_set():
            keyfile.remove(path, destroy=True, dry_run=False)

    with ThreadPoolExecutor(1) as pool:
        destroyer = pool.submit(destroy)
        try:
            for _attempt in range(300):
                try:
                    assert keyfile.ensure(path, dry_run=False).public
                except NotFound as error:
                    said.add(str(error))
        finally:
            ended.set()
        destroyer.result()
    assert said <= {f"The key file {path} disappeared meanwhile. See who removes it, and run this again."}


def test_a_key_is_readable_for_nobody_else_whatever_the_umask_says(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        pair = keyfile.ensure(tmp_path / "ops.pem", dry_run=False)
        os.umask(0o777)
        rotated = keyfile.rotate(tmp_path / "ops.pem", None, NOW, dry_run=False)
    finally:
        os.umask(previous)
    assert rotated.previous is not None
    for path, mode in (
        (pair.path, 0o600),
        (pair.public_path, 0o644),
        (rotated.previous, 0o600),
        (keyfile.public_path(rotated.previous), 0o644),
    ):
        assert stat.S_IMODE(path.stat().st_mode) == mode
