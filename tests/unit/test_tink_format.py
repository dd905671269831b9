# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""The streaming format against the Tink library, and against everything that can happen to a stored file."""

from __future__ import annotations

import io
import os
from typing import Any, List, Sequence, Tuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from _engine.errors import Damaged
from _engine.stream import tink as ours
from _engine.stream.tink import Decryptor, Encryptor
from tink_library import reference

KEY = bytes(range(32))
NAME = b"shop-20260301T120000Z-h3k7.dump.zst.aes"
MIB = 1 << 20
HEADER = 40
TAG = 16
#: Plain bytes in the first segment, and in each one after it.
FIRST = MIB - HEADER - TAG
NEXT = MIB - TAG
#: Nothing compressible, nothing periodic by segment: a block in the wrong place shows.
PLAIN = os.urandom(3 * MIB + 12345)

SIZES = [
    0,
    1,
    15,
    16,
    17,
    FIRST - 1,
    FIRST,
    FIRST + 1,
    MIB,
    FIRST + NEXT - 1,
    FIRST + NEXT,
    FIRST + NEXT + 1,
    len(PLAIN),
]


def encrypt(plain: bytes, associated_data: bytes = NAME, key: bytes = KEY, block: int = MIB) -> bytes:
    encryptor = Encryptor(key, associated_data)
    done = [encryptor.update(plain[at : at + block]) for at in range(0, len(plain), block)]
    return b"".join([*done, encryptor.finish()])


def decrypt(stored: bytes, associated_data: bytes = NAME, key: bytes = KEY, block: int = MIB) -> bytes:
    decryptor = Decryptor(key, associated_data, "shop.aes")
    done = [decryptor.update(stored[at : at + block]) for at in range(0, len(stored), block)]
    return b"".join([*done, decryptor.finish()])


def segments(stored: bytes) -> List[bytes]:
    """Header and ciphertext segments."""
    return [stored[:HEADER], stored[HEADER:MIB], *(stored[at : at + MIB] for at in range(MIB, len(stored), MIB))]


class Kept(io.BytesIO):
    """Tink closes what it writes to."""

    content = b""

    def close(self) -> None:
        if not self.closed:
            self.content = self.getvalue()
        super().close()


@pytest.mark.reference
@pytest.mark.parametrize("size", SIZES)
def test_tink_reads_what_is_written_here(size: int) -> None:
    stored = encrypt(PLAIN[:size])
    with reference(KEY).new_decrypting_stream(io.BytesIO(stored), NAME) as stream:
        assert stream.read() == PLAIN[:size]


@pytest.mark.reference
@pytest.mark.parametrize("size", SIZES)
def test_what_tink_writes_is_read_here(size: int) -> None:
    target = Kept()
    with reference(KEY).new_encrypting_stream(target, NAME) as stream:
        stream.write(PLAIN[:size])
    assert len(target.content) == len(encrypt(PLAIN[:size]))
    assert decrypt(target.content) == PLAIN[:size]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("block", [65536, MIB, 5 * MIB])
def test_every_size_comes_back_with_every_block_size(size: int, block: int) -> None:
    assert decrypt(encrypt(PLAIN[:size], block=block), block=block) == PLAIN[:size]


@given(
    writes=st.lists(st.integers(0, len(PLAIN)), max_size=20),
    reads=st.lists(st.integers(0, len(PLAIN)), max_size=20),
    size=st.sampled_from(SIZES),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_how_the_stream_is_cut_into_blocks_makes_no_difference(writes: List[int], reads: List[int], size: int) -> None:
    stored = run_in_one_buffer(Encryptor(KEY, NAME), PLAIN[:size], writes)
    assert len(stored) == HEADER + size + TAG * len(segments(stored)[1:])
    assert run_in_one_buffer(Decryptor(KEY, NAME), stored, reads) == PLAIN[:size]


def run_in_one_buffer(transform: Any, content: bytes, cuts: Sequence[int]) -> bytes:
    """Feed blocks through one buffer that is overwritten after each, as readinto() does."""
    buffer = bytearray(len(content))
    done: List[bytes] = []
    borders = sorted({0, len(content), *(cut for cut in cuts if cut < len(content))})
    for start, end in zip(borders, borders[1:]):
        view = memoryview(buffer)[: end - start]
        view[:] = content[start:end]
        done.append(transform.update(view))
        view[:] = bytes(end - start)
    return b"".join([*done, transform.finish()])


def test_what_is_returned_is_not_changed_by_what_follows() -> None:
    encryptor, plain = Encryptor(KEY, NAME), PLAIN
    returned = [encryptor.update(plain[at : at + MIB]) for at in range(0, len(plain), MIB)]
    copies = [bytes(bytearray(block)) for block in returned]
    encryptor.finish()
    assert returned == copies
    assert all(isinstance(block, bytes) for block in returned)


def test_two_streams_of_the_same_bytes_share_neither_salt_nor_ciphertext() -> None:
    first, second = encrypt(PLAIN[:100]), encrypt(PLAIN[:100])
    assert first[:1] == second[:1] == bytes([HEADER])
    assert first[1:33] != second[1:33] and first[33:40] != second[33:40] and first[40:] != second[40:]


def cut_points() -> List[Tuple[int, int]]:
    """(size of the plain stream, where the stored one is cut): around every border there is."""
    found = []
    for size in (0, 1, FIRST, FIRST + 1, FIRST + NEXT, len(PLAIN)):
        length = len(encrypt(PLAIN[:size]))
        borders = {0, 1, HEADER, HEADER + TAG, length, *range(MIB, length + 1, MIB)}
        cuts = {border + offset for border in borders for offset in (-TAG - 1, -TAG, -1, 0, 1, TAG)}
        found += [(size, cut) for cut in sorted(cuts) if 0 <= cut < length]
    return found


def test_a_stream_cut_short_anywhere_around_a_border_is_damaged() -> None:
    stored = {size: encrypt(PLAIN[:size]) for size, _cut in cut_points()}
    for size, cut in cut_points():
        with pytest.raises(Damaged):
            decrypt(stored[size][:cut])
            pytest.fail(f"a stream of {size} bytes was read although it was cut at {cut}")


@pytest.mark.parametrize("size", [0, 1, FIRST, FIRST + 1, FIRST + NEXT])
@pytest.mark.parametrize("more", [1, TAG, MIB])
def test_appended_bytes_are_damage(size: int, more: int) -> None:
    with pytest.raises(Damaged):
        decrypt(encrypt(PLAIN[:size]) + bytes(more))


def test_a_stream_appended_to_itself_is_damaged() -> None:
    stored = encrypt(PLAIN)
    for longer in (stored + stored, stored + stored[HEADER:], stored + segments(stored)[-1]):
        with pytest.raises(Damaged):
            decrypt(longer)


def test_segments_in_another_order_missing_or_doubled_are_damage() -> None:
    header, first, second, third, last = segments(encrypt(PLAIN[: FIRST + 2 * NEXT + 999]))
    assert decrypt(header + first + second + third + last) == PLAIN[: FIRST + 2 * NEXT + 999]
    for parts in (
        (header, first, third, second, last),
        (header, first, third, last),
        (header, first, second, last),
        (header, first, second, second, third, last),
        (header, second, first, third, last),
        (header, last),
    ):
        with pytest.raises(Damaged):
            decrypt(b"".join(parts))


def test_a_segment_of_another_stream_under_the_same_key_is_damage() -> None:
    header, first, second, last = segments(encrypt(PLAIN[: FIRST + NEXT + 5]))
    other = segments(encrypt(PLAIN[: FIRST + NEXT + 5]))
    for parts in ((other[0], first, second, last), (header, first, other[2], last), (header, first, second, other[3])):
        with pytest.raises(Damaged):
            decrypt(b"".join(parts))


def test_one_flipped_bit_anywhere_is_damage() -> None:
    stored = encrypt(PLAIN[: FIRST + NEXT + 100])
    places = {*range(HEADER), HEADER, MIB - TAG, MIB - 1, MIB, 2 * MIB - 1, 2 * MIB, len(stored) - TAG, len(stored) - 1}
    for place in sorted(places):
        altered = bytearray(stored)
        altered[place] ^= 1 << (place % 8)
        with pytest.raises(Damaged):
            decrypt(bytes(altered))
            pytest.fail(f"bit {place % 8} of byte {place} was flipped unnoticed")


def test_another_name_or_key_is_damage() -> None:
    stored = encrypt(PLAIN[:1000])
    with pytest.raises(Damaged):
        decrypt(stored, associated_data=NAME + b"2")
    with pytest.raises(Damaged):
        decrypt(stored, key=bytes(32))


def test_what_comes_out_before_the_damage_is_a_true_beginning_and_no_byte_more() -> None:
    stored = bytearray(encrypt(PLAIN))
    stored[2 * MIB + 7] ^= 0x10
    decryptor = Decryptor(KEY, NAME)
    done = b""
    with pytest.raises(Damaged):
        for at in range(0, len(stored), 4096):
            done += decryptor.update(bytes(stored[at : at + 4096]))
    assert done == PLAIN[: FIRST + NEXT]


def test_damage_names_the_file_and_what_to_do() -> None:
    with pytest.raises(Damaged, match=r"^shop\.aes was altered.*segment 0 is not authentic.*another backup\.$"):
        decrypt(encrypt(PLAIN[: FIRST + 1]), associated_data=b"other")
    with pytest.raises(Damaged, match="its end is missing or not authentic"):
        decrypt(encrypt(PLAIN)[:MIB])
    with pytest.raises(Damaged, match="ends too early"):
        decrypt(b"")
    with pytest.raises(Damaged, match="header"):
        decrypt(b"SQLite format 3\x00" * 100)


def test_a_finished_or_damaged_stream_takes_nothing_more() -> None:
    encryptor = Encryptor(KEY, NAME)
    stored = encryptor.finish()
    for call in (encryptor.finish, lambda: encryptor.update(b"more")):
        with pytest.raises(RuntimeError):
            call()
    whole, broken = Decryptor(KEY, NAME), Decryptor(KEY, NAME)
    whole.update(stored)
    assert whole.finish() == b""
    broken.update(stored[:-1])
    with pytest.raises(Damaged):
        broken.finish()
    for decryptor in (whole, broken):
        with pytest.raises(RuntimeError):
            decryptor.update(b"more")
        with pytest.raises(RuntimeError):
            decryptor.finish()


def test_a_key_of_another_length_is_refused() -> None:
    for key in (b"", bytes(16), bytes(33)):
        with pytest.raises(ValueError, match="32 bytes"):
            Encryptor(key, NAME)
        with pytest.raises(ValueError, match="32 bytes"):
            Decryptor(key, NAME)


def test_the_format_ends_before_a_nonce_could_come_again() -> None:
    segments_of_a_stream = ours._Segments(KEY, bytes(32), bytes(7), NAME)
    segments_of_a_stream.count = (1 << 32) - 1
    segments_of_a_stream.encrypt([memoryview(b"x")], last=False)
    with pytest.raises(Exception, match="format requires"):
        segments_of_a_stream.encrypt([memoryview(b"x")], last=False)


def test_little_waits_whatever_the_size() -> None:
    encryptor = Encryptor(KEY, NAME)
    decryptor = Decryptor(KEY, NAME)
    block, held = PLAIN[:MIB], 0
    for _number in range(8):
        stored = encryptor.update(block)
        decryptor.update(stored)
        held = max(held, encryptor._waiting.size, decryptor._waiting.size)
        # What waits refers to the blocks it came in; no more than two may be held by it.
        assert len(encryptor._waiting._blocks) <= 2 and len(decryptor._waiting._blocks) <= 2
    assert held <= MIB


def test_very_small_blocks_do_not_wait_one_by_one() -> None:
    encryptor, plain = Encryptor(KEY, NAME), PLAIN[:5000]
    for byte in plain:
        assert encryptor.update(b"") == encryptor.update(bytes([byte])) == b""
        assert len(encryptor._waiting._blocks) <= ours._PIECES
    assert decrypt(encryptor.finish(), block=1) == plain
