"""Cursors come back as they went out; everything else is refused, never an error of ours."""

from __future__ import annotations

import base64

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidCursor
from shared.service.page_cursor import decode_cursor, decode_seq, encode_cursor, encode_seq


@given(st.integers(0, 2**63 - 1), st.text(alphabet=st.characters(codec="ascii"), max_size=36))
def test_round_trip(number: int, text: str) -> None:
    cursor = encode_cursor([number, text])
    assert cursor.isascii()
    assert not set("+/=") & set(cursor)
    assert decode_cursor(cursor, (int, str)) == [number, text]


def test_a_place_is_one_in_its_own_list_alone() -> None:
    cursor = encode_seq(7, "asc:a")
    assert decode_seq(cursor, "asc:a") == 7
    with pytest.raises(InvalidCursor):
        decode_seq(cursor, "desc:a")


def wrap(value: object) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(value)).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "!!!!",
        "é",
        " ",
        "A" * 513,
        wrap({}),
        wrap(1),
        wrap([]),
        wrap(["1"]),
        wrap([1.0]),
        wrap([True]),
        wrap([None]),
        wrap([-1]),
        wrap([2**63]),
        wrap([1, 1]),
        wrap([1]) + "\n",
        wrap([1])[:-1] + "+",
        base64.urlsafe_b64encode(b"[" * 200).decode(),
        base64.urlsafe_b64encode(b"\xff\xfe").decode(),
    ],
)
def test_forged(cursor: str) -> None:
    with pytest.raises(InvalidCursor) as caught:
        decode_cursor(cursor, (int,))
    assert caught.value.loc == ("query", "cursor")


@given(st.text(max_size=60))
def test_noise(cursor: str) -> None:
    try:
        keys = decode_cursor(cursor, (int,))
    except InvalidCursor:
        return
    assert 0 <= keys[0] < 2**63
