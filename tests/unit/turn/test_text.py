"""What a model says is kept as far as stores and wires can hold it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.turn.text import storable, storable_json


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("a\0b", "a\ufffdb"),
        ("a\ud800b", "a\ufffdb"),
        ("é\ud83d", "é\ufffd"),
        ("😀", "😀"),
        ("", ""),
    ],
)
def test_only_what_cannot_be_carried_is_replaced(said: str, kept: str) -> None:
    assert storable(said) == kept


@given(st.text(st.characters(codec=None)))
def test_the_result_always_encodes_and_has_the_same_length(text: str) -> None:
    kept = storable(text)
    assert len(kept) == len(text)
    assert "\0" not in kept
    assert kept.encode().decode() == kept


def test_nested_values_and_keys_are_reached() -> None:
    value = storable_json({"a\0": ["\ud800", {"b": "c\0"}, 1, None]})
    assert orjson.loads(orjson.dumps(value)) == {"a\ufffd": ["\ufffd", {"b": "c\ufffd"}, 1, None]}


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (2**64 - 1, 2**64 - 1),
        (2**64, "18446744073709551616"),
        (-(2**63) - 1, "-9223372036854775809"),
        (float("nan"), None),
        ([float("inf")], [None]),
        (True, True),
    ],
)
def test_numbers_that_json_cannot_carry(value: Any, kept: Any) -> None:
    assert storable_json(value) == kept
    orjson.dumps(storable_json(value))
