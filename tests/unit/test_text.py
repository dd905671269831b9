# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Texts of others are shown whole, and steer neither a terminal nor a reader."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _engine.text import bounded, shortened, shown, shown_in_line, shown_json, shown_lines, shown_values

#: Every kind of text that could do something where it is shown.
HOSTILE = {
    "a control sequence": ("\x1b[2Jgone", "\\x1b[2Jgone"),
    "a control sequence of C1": ("\x9b2Jgone", "\\x9b2Jgone"),
    "a bell and a backspace": ("a\a\bb", "a\\x07\\x08b"),
    "a deletion": ("a\x7fb", "a\\x7fb"),
    "another line": ("a\nb: fine\r\nc", "a\\nb: fine\\r\\nc"),
    "another line of Unicode": ("a\u2028b\u2029c\x85d", "a\\u2028b\\u2029c\\x85d"),
    "the other direction": ("a\u202egnp.exe\u2066b", "a\\u202egnp.exe\\u2066b"),
    "nothing to see": ("a\u200bb\ufeffc\u00add", "a\\u200bb\\ufeffc\\xadd"),
    "tags": ("a\U000e0041b", "a\\U000e0041b"),
    "bytes that are no UTF-8": (b"caf\xe9".decode("utf-8", "surrogateescape"), "caf\\udce9"),
}
KINDS = pytest.mark.parametrize(("text", "expected"), HOSTILE.values(), ids=HOSTILE)


@KINDS
def test_what_could_steer_a_reader_is_written_as_an_escape(text: str, expected: str) -> None:
    assert shown(text) == expected


def test_every_letter_and_space_stays_as_it_is() -> None:
    for text in ("shop", "Größe über 5 €", "顧客\u3000データ", "заказы", "a\u00a0b", "C:\\shop\\x1b", "🟢 👍"):
        assert shown(text) == shown_lines(text) == text
        assert json.dumps(text, ensure_ascii=False) == shown_json(text)


def test_a_message_of_several_lines_becomes_one_that_steers_nobody() -> None:
    assert shown_in_line("failed:\n no \x1b[1mspace\u2028left") == "failed:  no \\x1b[1mspace left"


def test_a_text_of_several_lines_keeps_them_and_nothing_else() -> None:
    assert shown_lines("one\n\ttwo\x1b[1m\r\n") == "one\n\ttwo\\x1b[1m\\r\n"


@KINDS
def test_json_keeps_the_exact_text_without_showing_it_raw(text: str, expected: str) -> None:
    written = shown_json({text: [text]})
    assert json.loads(written) == {text: [text]}
    assert all(character == "\n" or character.isprintable() for character in written)


def test_values_are_shown_at_any_depth() -> None:
    document = {"a\x1b": [("b\x9b", 1), {"c": "d\u202e"}], "none": None, "yes": True, "size": 1.5}
    expected = {"a\\x1b": [["b\\x9b", 1], {"c": "d\\u202e"}], "none": None, "yes": True, "size": 1.5}
    assert shown_values(document) == expected


@given(st.text())
def test_no_text_gets_through_that_is_not_for_reading(text: str) -> None:
    for made, kept in ((shown(text), ""), (shown_lines(text), "\n\t"), (shown_json(text), "\n")):
        made.encode("utf-8")
        unsafe = [one for one in made if one not in kept and unicodedata.category(one)[0] == "C"]
        assert not unsafe and "\u2028" not in made and "\u2029" not in made


def test_a_message_for_another_program_has_an_end_and_steers_nothing() -> None:
    assert bounded("a\x1b\nb") == "a\\x1b\nb"
    assert bounded("\x00" * 1_000_000).startswith("\\x00")
    assert [len(bounded(text)) for text in ("\x00" * 1_000_000, "ä" * 1_000_000, "ä" * 8_000)] == [8_000] * 3


def test_of_many_reports_ten_are_told_and_the_rest_is_counted() -> None:
    many = [f"{number} is wrong." for number in range(20_000)]
    assert shortened(many[:10]) == many[:10]
    assert shortened(many) == [*many[:10], "There are 19990 more like these."]
