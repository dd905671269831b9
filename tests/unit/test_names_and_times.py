# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names lead nowhere and stand for one thing each; times and spans are read as they are written."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _engine.errors import BadInput
from _engine.names import id_of_file, is_component, is_id, make_id, order_of, safe_name
from _engine.timespan import format_size, format_span, format_time, parse_span, parse_time

MOMENT = datetime(2026, 3, 1, 2, 0, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize("name", ["shop", "web1.example.com", "my_db-2", "0"])
def test_a_plain_name_stands_for_itself(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name", ["Shop", "a b", 'a"b', "ü", "../x", "a/b", "", ".", "..", "-x", "x" * 300, "a\nb", "\udcff"]
)
def test_any_other_name_is_made_safe_and_stays_apart_from_all_others(name: str) -> None:
    safe = safe_name(name)
    assert is_component(safe)
    assert safe == safe.lower()
    assert safe != safe_name(name + "x")


def test_of_a_path_the_last_part_stays_readable() -> None:
    assert safe_name("/srv/shop/Shop Data.db").startswith("shop-data.db-")
    assert safe_name("/srv/a/shop.db") != safe_name("/srv/b/shop.db")


@given(st.text(), st.text())
def test_two_names_never_share_a_directory(one: str, two: str) -> None:
    assert is_component(safe_name(one))
    assert (one == two) == (safe_name(one) == safe_name(two))


def test_a_name_cannot_pose_as_the_safe_form_of_another() -> None:
    safe = safe_name("Shop")
    assert safe_name(safe) != safe


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a\\b", "a\0b", "a\n", "x" * 201, "ü", "-rf"])
def test_what_could_lead_elsewhere_is_no_component(name: str) -> None:
    assert not is_component(name)


@given(st.text(min_size=1), st.none() | st.integers(0, (1 << 20) - 1))
def test_an_id_is_found_again_in_the_names_of_its_files(database: str, tail: int | None) -> None:
    backup_id = make_id(database, MOMENT, tail)
    assert is_id(backup_id)
    for suffix in (".dump.zst.aes", ".manifest.json", ".proof.20260301T020000Z-h3k7.json", ".globals.sql", ""):
        assert id_of_file(backup_id + suffix) == backup_id


@given(st.timedeltas(timedelta(0), timedelta(40_000)), st.timedeltas(timedelta(milliseconds=1), timedelta(1)))
def test_ids_sort_by_their_time(since: timedelta, later: timedelta) -> None:
    first, second = make_id("shop", MOMENT + since), make_id("shop", MOMENT + since + later)
    assert order_of(first) < order_of(second) and first < second


def test_two_writers_do_not_take_the_same_id() -> None:
    assert len({make_id("shop", MOMENT) for _writer in range(20)}) > 10


@pytest.mark.parametrize(
    "text",
    [
        "",
        "shop",
        "shop-2026",
        "shop-20260301T020000Z",
        "shop-20260301T020000Z-2",
        "shop-20260301T020000Z-H3K7",
        "shop-20260301T020000Z-h3k0",
        "shop-20260301T020000Z-h3k7x",
        "../shop-20260301T020000Z-h3k7",
    ],
)
def test_what_is_no_id_is_told(text: str) -> None:
    assert not is_id(text)


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("26h", timedelta(hours=26)),
        ("7d", timedelta(days=7)),
        ("1d12h", timedelta(days=1.5)),
        (" 2w ", timedelta(weeks=2)),
    ],
)
def test_spans_are_read(text: str, span: timedelta) -> None:
    assert parse_span(text, "max_age") == span


@pytest.mark.parametrize("text", ["", "7", "d", "7 days", "-1h", "1.5h", "1h2", "9" * 30 + "d", "7D"])
def test_what_is_no_span_is_refused_with_the_option_and_an_example(text: str) -> None:
    with pytest.raises(BadInput, match="max_age: .*Write "):
        parse_span(text, "max_age")


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-01T02:00:00Z",
        "2026-03-01T03:00:00+01:00",
        "2026-03-01 02:00:00",
        "2026-03-01T02:00",
        "2026-03-01t02:00:00z",
    ],
)
def test_times_are_read_in_any_zone(text: str) -> None:
    assert parse_time(text.upper(), "before") == MOMENT


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-13-01", "01.03.2026", "0001-01-01T00:00+23:59", "9999-12-31T23:59-23:59"]
)
def test_what_is_no_time_is_refused_with_the_option_and_an_example(text: str) -> None:
    with pytest.raises(BadInput, match="before: .*Write for example"):
        parse_time(text, "before")


def test_times_spans_and_sizes_are_written_for_people() -> None:
    assert format_time(MOMENT.astimezone(timezone(timedelta(hours=5)))) == "2026-03-01T02:00:00Z"
    assert [format_span(timedelta(seconds=s)) for s in (0, 59, 3600, 3661, 93784, -5)] == [
        "0s",
        "59s",
        "1h",
        "1h 1m",
        "1d 2h",
        "0s",
    ]
    assert [format_size(n) for n in (0, 1023, 1536, 5 << 30, 3 << 50)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 GiB",
        "3072.0 TiB",
    ]
