"""Bad input over HTTP: a 4xx in the surface's own shape, at once, and nothing stored."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.integration.api_crud.conftest import THREADS, Client
from tests.unit.api.test_body import REFUSED

JSON = {"content-type": "application/json"}


def check_422(answer: Any) -> list[dict[str, Any]]:
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) == {"detail"}
    items: list[dict[str, Any]] = answer.json()["detail"]
    assert items
    for item in items:
        assert set(item) == {"loc", "msg", "type"}
        assert item["loc"][0] in {"body", "query", "path", "header"}
    return items


@pytest.mark.parametrize("name", [name for name in REFUSED if name not in {"nothing"}])
async def test_json_that_is_refused(client: Client, admin: Any, name: str) -> None:
    began = time.monotonic()
    answer = await client.post(THREADS, content=REFUSED[name], headers=JSON)
    assert time.monotonic() - began < 5
    (item,) = check_422(answer)
    assert item["type"] == "json_invalid"
    assert await admin.fetchval("select count(*) from threads") == 0


@pytest.mark.parametrize(
    ("body", "loc", "type_"),
    [
        ({"title": 1}, ["body", "title"], "string_type"),
        ({"title": "t" * 256}, ["body", "title"], "string_too_long"),
        ({"metadata": None}, ["body", "metadata"], "dict_type"),
        ({"metadata": {"k": "v" * 16_384}}, ["body", "metadata"], "value_error"),
        ({"status": "completed"}, ["body", "status"], "extra_forbidden"),
        ({"tenantId": "x"}, ["body", "tenantId"], "extra_forbidden"),
        ({"user_id": None}, ["body", "user_id"], "extra_forbidden"),
        ([], ["body"], "dict_type"),
        ("text", ["body"], "dict_type"),
    ],
)
async def test_values_that_are_refused(
    client: Client, admin: Any, body: Any, loc: list[str], type_: str
) -> None:
    (item,) = check_422(await client.post(THREADS, json=body))
    assert (item["loc"], item["type"]) == (loc, type_)
    assert await admin.fetchval("select count(*) from threads") == 0


async def test_several_at_once(client: Client) -> None:
    items = check_422(await client.post(THREADS, json={"title": 1, "metadata": 2, "usage": 3}))
    assert [item["loc"][1] for item in items] == ["usage", "title", "metadata"]


async def test_unknown_fields_that_do_not_matter(client: Client) -> None:
    assert (await client.post(THREADS, json={"color": "red"})).status_code == 201


@pytest.mark.parametrize("thread_id", ["1", "x" * 36, "%00", "null", "..%2f", "%F0%9F%98%80"])
async def test_bad_ids(client: Client, thread_id: str) -> None:
    for method in ("GET", "PATCH", "DELETE"):
        answer = await client.request(method, f"{THREADS}/{thread_id}")
        if answer.status_code == 404:  # a slash makes it another path
            assert "%2f" in thread_id
            continue
        (item,) = check_422(answer)
        assert (item["loc"], item["type"]) == (["path", "thread_id"], "uuid_parsing")


async def test_oversize(client: Client) -> None:
    limit = 1_048_576
    head = b'{"title":"'
    fits = head + b"t" * (limit - len(head) - 2) + b'"}'
    answer = await client.post(THREADS, content=fits, headers=JSON)
    assert check_422(answer)[0]["type"] == "string_too_long"
    for body in (fits + b" ", b" " * (limit + 1)):
        answer = await client.post(THREADS, content=body, headers=JSON)
        assert answer.status_code == 413
        assert answer.json()["detail"] == "Request too large"

    async def chunks() -> Any:
        for _ in range(100):
            yield b" " * 65_536

    answer = await client.post(THREADS, content=chunks(), headers=JSON)
    assert answer.status_code == 413


async def test_other_types(client: Client) -> None:
    for headers in (
        {"content-type": "text/plain"},
        {"content-type": "application/json; charset=utf-7"},
        {**JSON, "content-encoding": "gzip"},
    ):
        answer = await client.post(THREADS, content=b"{}", headers=headers)
        assert answer.status_code == 415
        assert answer.json()["title"] == "Unsupported Media Type"


async def test_wide_bodies(client: Client) -> None:
    wide = json.dumps({"metadata": {f"k{i}": i for i in range(10_000)}}).encode()
    assert check_422(await client.post(THREADS, content=wide, headers=JSON))
    many = b"{" + b",".join(b'"k%d":0' % i for i in range(90_000)) + b"}"
    assert (await client.post(THREADS, content=many, headers=JSON)).status_code == 201
    long_key = json.dumps({"k" * 1_000_000: 1}).encode()
    assert (await client.post(THREADS, content=long_key, headers=JSON)).status_code == 201


@pytest.mark.parametrize("method", ["PUT", "TRACE", "OPTIONS", "PROPFIND"])
async def test_other_methods(client: Client, method: str) -> None:
    answer = await client.request(method, THREADS)
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}
    assert set(answer.json()) == {"detail", "title", "status", "type"}
