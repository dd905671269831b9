# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a query returned is what an assertion expects, whichever database it was asked of."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, List, Tuple

import pytest

from _engine.verify import is_expected

#: What YAML says, what a database answers, and whether that is the same.
VALUES: List[Tuple[Any, Any, bool]] = [
    # PostgreSQL has truth values, SQLite has 1 and 0.
    (True, True, True),
    (True, 1, True),
    (False, False, True),
    (False, 0, True),
    (1, True, True),
    (0, False, True),
    (True, False, False),
    (True, 0, False),
    (True, 5, False),
    (True, -1, False),
    (False, 1, False),
    (5, True, False),
    (True, "1", False),
    (True, "yes", False),
    ("1", True, False),
    ("true", 1, False),
    (True, "True", False),
    ("True", True, False),
    (False, "", False),
    # Numbers are the same however they are written.
    (1, 1, True),
    (1, 2, False),
    (1, 1.0, True),
    (1.0, 1, True),
    (1, Decimal("1"), True),
    (1, Decimal("1.00"), True),
    (0.1, Decimal("0.1"), True),
    (0.1, Decimal("0.10"), True),
    (0.1, 0.1, True),
    (0.3, 0.1 + 0.2, False),
    (10**22, 1e22, True),
    (2**63, Decimal(2**63), True),
    (2**63, 2**63 + 1, False),
    (1, "1", True),
    ("1", 1, True),
    ("100", Decimal("100"), True),
    (float("inf"), Decimal("Infinity"), True),
    (0, float("nan"), False),
    # Strings stay strings.
    ("paid", "paid", True),
    ("paid", "Paid", False),
    ("1.0", 1, False),
    (1, "1.0", False),
    (1, "01", False),
    ("", "", True),
    # NULL is NULL, and nothing else is.
    (None, None, True),
    (None, 0, False),
    (None, "", False),
    (None, False, False),
    (None, "None", False),
    ("None", None, False),
    ("", None, False),
    (0, None, False),
    (False, None, False),
    # What a database makes an array or a document.
    ({"a": 1}, {"a": 1}, True),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
    ({"a": 1}, {"a": 2}, False),
]


@pytest.mark.parametrize(("expected", "found", "same"), VALUES)
def test_a_value_is_compared_by_what_it_means(expected: Any, found: Any, same: bool) -> None:
    assert is_expected(expected, [(found,)]) is same
    assert is_expected([[expected]], [(found,)]) is same
    assert is_expected([["shop", expected]], [("shop", found)]) is same


@pytest.mark.parametrize(
    ("expected", "rows", "same"),
    [
        ([[1, "a"], [2, "b"]], [(1, "a"), (2, "b")], True),
        ([[1, True], [2, None]], [(1, 1), (2, None)], True),
        ([[1, True], [2, None]], [(1, 1), (2, 0)], False),
        ([1, 2], [(1,), (2,)], True),
        ([True, None], [(1,), (None,)], True),
        ([2, 1], [(1,), (2,)], False),
        ([1], [(1,), (2,)], False),
        ([1, 2], [(1,)], False),
        ([[1, 2]], [(1,)], False),
        ([[1]], [(1, 2)], False),
        ([], [], True),
        ([], [(1,)], False),
        ([None], [], False),
        (None, [], False),
        (1, [], False),
        (1, [(1,), (1,)], False),
        (1, [(1, 1)], False),
        ([[[1, 2]]], [([1, 2],)], True),
    ],
)
def test_rows_are_compared_in_their_order_and_number(expected: Any, rows: List[Tuple[Any, ...]], same: bool) -> None:
    assert is_expected(expected, rows) is same
