"""What a body may be, and what it may not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request

from api import body as body_module
from api.body import MAX_DEPTH, parse_json, read_body, read_model
from api.problems import InvalidFields
from shared.errors import InvalidRequest

JSON = "application/json"


class Wanted(BaseModel):
    text: str = ""
    count: int = Field(default=0, alias="itemCount")
    status: str | None = None


class Bare(BaseModel):
    text: str = ""


def make_request(
    chunks: Iterable[bytes] | None = (),
    content_type: str | None = JSON,
    max_body_bytes: int = 1000,
    **headers: str,
) -> Request:
    """A request whose body arrives in `chunks`; with None it never arrives."""
    pending = None if chunks is None else iter(chunks)

    async def receive() -> dict[str, Any]:
        if pending is None:
            await asyncio.sleep(3600)
            raise AssertionError
        part = next(pending, None)
        return {"type": "http.request", "body": part or b"", "more_body": part is not None}

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    if content_type is not None:
        raw.append((b"content-type", content_type.encode()))

    class State:
        settings = type("S", (), {"max_body_bytes": max_body_bytes})

    app = type("A", (), {"state": State})
    scope = {"type": "http", "method": "POST", "headers": raw, "app": app, "path": "/"}
    return Request(scope, receive)


# -- strict JSON

REFUSED = {
    "nothing": b"",
    "word": b"hello",
    "two values": b"{} {}",
    "trailing comma": b'{"a":1,}',
    "comment": b'{"a":1/**/}',
    "single quotes": b"{'a':1}",
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":-Infinity}',
    "overflow": b'{"a":1e999}',
    "5000 digits": b'{"a":' + b"1" * 5000 + b"}",
    "2^64": b'{"a":18446744073709551616}',
    "below -2^63": b'{"a":[-9223372036854775809]}',
    "duplicate key": b'{"model":"a","model":"b"}',
    "duplicate key deep": b'{"a":[{"k":1,"j":{"x":1,"x" \t\n:2}}]}',
    "duplicate key escaped": b'{"ab":1,"\\u0061b":2}',
    "duplicate key hidden by quotes": b'{"a":"\\":","a":":"}',
    "duplicate empty key": b'{"":1,"":2}',
    "invalid UTF-8": b'{"a":"\xff\xfe"}',
    "overlong": b'{"a":"\xc0\xaf"}',
    "truncated UTF-8": b'{"a":"\xe2\x82"}',
    "UTF-8 surrogate": b'{"a":"\xed\xa0\x80"}',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "BOM": b"\xef\xbb\xbf{}",
    "lone high surrogate": b'{"a":"\\ud800"}',
    "lone low surrogate": b'{"a":"\\udc00"}',
    "swapped surrogates": b'{"a":"\\ude00\\ud83d"}',
    "surrogate key": b'{"\\ud800":1}',
    "raw NUL": b'{"a":"\x00"}',
    "NUL": b'{"a":"x\\u0000y"}',
    "NUL in key": b'{"a\\u0000":1}',
    "NUL in list": b'{"a":[["\\u0000"]]}',
    "NUL alone": b'"\\u0000"',
    "NUL in top list": b'[[],["\\u0000"]]',
    "deep lists": b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
    "deep objects": b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1),
    "1000 lists": b"[" * 1000 + b"]" * 1000,
    "million brackets": b"[" * 1_000_000,
    "10000 objects": b'{"a":' * 10_000,
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_json(REFUSED[name])
    assert caught.value.type == "json_invalid"
    root, position = caught.value.loc
    assert root == "body"
    assert isinstance(position, int)


TAKEN = {
    "empty object": (b"{}", {}),
    "numbers": (b"[0,-0,1.5,1e3,18446744073709551615]", [0, 0, 1.5, 1000.0, 2**64 - 1]),
    "long fraction": (b"[0.12345678901234567890123]", [0.12345678901234568]),
    "digits in a string": (b'{"a":"12345678901234567890123"}', {"a": "12345678901234567890123"}),
    "colons in strings": (b'{"a":"\\":","b":":"}', {"a": '":', "b": ":"}),
    "escaped backslash": (b'{"a\\\\":"\\\\u0000"}', {"a\\": "\\u0000"}),
    "same key, other objects": (b'[{"a":1},{"a":2}]', [{"a": 1}, {"a": 2}]),
    "emoji": (b'{"a":"\\ud83d\\ude00"}', {"a": "😀"}),
    "whitespace": (b' \r\n\t{ "a" : 1 } ', {"a": 1}),
    "depth": (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, json.loads("[" * 32 + "]" * 32)),
}


@pytest.mark.parametrize("name", TAKEN)
def test_takes(name: str) -> None:
    data, value = TAKEN[name]
    assert parse_json(data) == value


scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text()
values = st.recursive(
    scalars | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


@given(values)
def test_any_clean_value_survives(value: Any) -> None:
    def dirty(node: Any) -> bool:
        if isinstance(node, str):
            return "\0" in node
        if isinstance(node, dict):
            return any(dirty(key) or dirty(item) for key, item in node.items())
        return isinstance(node, list) and any(dirty(item) for item in node)

    data = json.dumps(value, ensure_ascii=True).encode()
    if dirty(value):
        with pytest.raises(InvalidRequest):
            parse_json(data)
    else:
        assert parse_json(data) == value


# -- reading


async def test_reads_chunks() -> None:
    assert await read_body(make_request([b'{"a"', b":1}"]), 100) == b'{"a":1}'


@pytest.mark.parametrize("length", ["1001", "10000000000", "9" * 5000])
async def test_declared_size_is_refused_before_reading(length: str) -> None:
    request = make_request(None, content_length=length)
    with pytest.raises(HTTPException) as caught:
        await read_body(request, 1000)
    assert caught.value.status_code == 413
    assert (caught.value.headers or {})["connection"] == "close"


async def test_real_size_is_refused() -> None:
    with pytest.raises(HTTPException) as caught:
        await read_body(make_request([b"x" * 600, b"x" * 401]), 1000)
    assert caught.value.status_code == 413
    assert len(await read_body(make_request([b"x" * 600, b"x" * 400]), 1000)) == 1000


async def test_slow_body_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_module, "RECEIVE_TIMEOUT_S", 0.01)
    with pytest.raises(HTTPException) as caught:
        await read_body(make_request(None), 1000)
    assert caught.value.status_code == 408


@pytest.mark.parametrize(
    "kind",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/json; charset=utf-7",
        "application/json; charset=utf-16",
        "application/json; v=1; charset=utf-7",
        "application/json; v=1; charset = utf-7",
        "application/json; " + "a" * 60_000 + " " * 60_000,
        "application/json; charset=utf-8; charset=utf-7",
        "application/json; ;" + " " * 60_000 + "x",
        "application/jsonp",
        "text/json",
        "application/json, text/plain",
    ],
)
async def test_other_types_are_refused(kind: str | None) -> None:
    with pytest.raises(HTTPException) as caught:
        await read_body(make_request([b"{}"], kind), 1000)
    assert caught.value.status_code == 415


@pytest.mark.parametrize(
    "kind",
    [
        JSON,
        "Application/JSON",
        "application/json;charset=UTF-8",
        'application/json; charset="utf-8"',
        "application/vnd.api+json",
        "application/json; odata=minimal",
        'application/json; charset=us-ascii; v=1; profile="a;b"',
        "application/json;",
        "application/json; charset = utf-8",
    ],
)
async def test_json_types_are_taken(kind: str) -> None:
    assert await read_body(make_request([b"{}"], kind), 1000) == b"{}"


async def test_compressed_bodies_are_refused() -> None:
    with pytest.raises(HTTPException) as caught:
        await read_body(make_request([b"\x1f\x8b"], content_encoding="gzip"), 1000)
    assert caught.value.status_code == 415


# -- models


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", JSON])
async def test_an_empty_body_is_an_empty_object(kind: str | None) -> None:
    assert await read_model(make_request([], kind), Wanted) == Wanted()


async def test_model_errors_have_three_keys() -> None:
    request = make_request([b'{"text":1,"itemCount":"x","tenantId":"t","other":2}'])
    with pytest.raises(InvalidFields) as caught:
        await read_model(request, Wanted)
    assert caught.value.items == [
        {
            "loc": ["body", "tenantId"],
            "msg": "Extra inputs are not permitted",
            "type": "extra_forbidden",
        },
        {"loc": ["body", "text"], "msg": "Input should be a valid string", "type": "string_type"},
        {
            "loc": ["body", "itemCount"],
            "msg": "Input should be a valid integer, unable to parse string as an integer",
            "type": "int_parsing",
        },
    ]


@pytest.mark.parametrize("name", sorted(body_module.RESERVED))
async def test_reserved_fields_are_refused(name: str) -> None:
    data = json.dumps({"text": "hi", name: None}).encode()
    with pytest.raises(InvalidFields) as caught:
        await read_model(make_request([data]), Bare)
    assert [item["loc"] for item in caught.value.items] == [["body", name]]
    assert caught.value.items[0]["type"] == "extra_forbidden"


async def test_other_unknown_fields_are_ignored() -> None:
    parsed = await read_model(make_request([b'{"text":"hi","color":"red","id":"1"}']), Bare)
    assert parsed == Bare(text="hi")


async def test_a_model_may_want_a_reserved_name() -> None:
    parsed = await read_model(make_request([b'{"status":"x"}']), Wanted)
    assert parsed.status == "x"


@pytest.mark.parametrize("data", [b"[]", b"1", b'"x"', b"null"])
async def test_a_body_that_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidFields) as caught:
        await read_model(make_request([data]), Bare)
    (item,) = caught.value.items
    assert (item["loc"], item["type"]) == (["body"], "dict_type")
    assert "Bare" not in item["msg"]
