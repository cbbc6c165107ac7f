"""Path and query parameters are read strictly."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from starlette.requests import Request

from api.chat.message_schemas import MessageListQuery
from api.chat.thread_schemas import ThreadListQuery
from api.chat.turn_schemas import TurnListQuery
from api.problems import InvalidFields
from api.validation import path_uuid, read_query
from shared.errors import InvalidRequest

ID = "01900000-0000-7000-8000-00000000000a"


def make_request(query: str = "", **path: str) -> Request:
    return Request(
        {"type": "http", "headers": [], "query_string": query.encode(), "path_params": path}
    )


@pytest.mark.parametrize("text", [ID, ID.upper(), ID.replace("-", ""), f"urn:uuid:{ID}"])
def test_uuid(text: str) -> None:
    assert path_uuid(make_request(thread_id=text), "thread_id") == UUID(ID)


@pytest.mark.parametrize(
    "text", ["1", "x" * 36, ID + "0", ID[:-1], " " + ID, "\0", "é" * 36, "null"]
)
def test_bad_uuid(text: str) -> None:
    with pytest.raises(InvalidFields) as caught:
        path_uuid(make_request(thread_id=text), "thread_id")
    (item,) = caught.value.items
    assert set(item) == {"loc", "msg", "type"}
    assert item["loc"] == ["path", "thread_id"]
    assert item["type"] == "uuid_parsing"


def test_defaults() -> None:
    assert read_query(make_request(), ThreadListQuery).limit == 20
    assert read_query(make_request(), MessageListQuery).limit == 50
    assert read_query(make_request(), TurnListQuery) == TurnListQuery()


def test_values() -> None:
    query = read_query(
        make_request("limit=7&status=running&concurrencyKey=a%20b&cursor=&unknown=1&unknown=2"),
        TurnListQuery,
    )
    assert (query.limit, query.status, query.concurrency_key) == (7, "running", "a b")
    assert query.cursor == ""


@pytest.mark.parametrize(
    ("text", "type_"),
    [
        ("limit=0", "greater_than_equal"),
        ("limit=-1", "greater_than_equal"),
        ("limit=101", "less_than_equal"),
        ("limit=1000000000", "less_than_equal"),
        ("limit=1.5", "int_parsing"),
        ("limit=1.0", "int_parsing"),
        ("limit=1_0", "int_parsing"),
        ("limit=+1", "int_parsing"),
        ("limit=%201", "int_parsing"),
        ("limit=true", "int_parsing"),
        ("limit=", "int_parsing"),
        ("limit=ten", "int_parsing"),
        ("limit=1e1", "int_parsing"),
        ("limit=" + "9" * 5000, "int_parsing"),
        ("limit=%D9%A3", "int_parsing"),
        ("status=done", "enum"),
        ("status=", "enum"),
        ("concurrencyKey=", "string_too_short"),
        ("concurrencyKey=" + "k" * 256, "string_too_long"),
    ],
)
def test_bad_values(text: str, type_: str) -> None:
    with pytest.raises(InvalidFields) as caught:
        read_query(make_request(text), TurnListQuery)
    (item,) = caught.value.items
    assert item["loc"] == ["query", text.partition("=")[0]]
    assert item["type"] == type_


@pytest.mark.parametrize("text", ["limit=1&limit=1", "concurrencyKey=a%00b", "cursor=a&cursor=b"])
def test_repeated_or_nul(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_query(make_request(text), TurnListQuery)
    assert caught.value.loc == ("query", text.partition("=")[0])


def test_bad_order() -> None:
    errors: Any
    with pytest.raises(InvalidFields) as errors:
        read_query(make_request("order=up"), MessageListQuery)
    assert errors.value.items[0]["type"] == "literal_error"
