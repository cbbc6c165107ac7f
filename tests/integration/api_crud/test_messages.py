"""Messages of a thread, in the order they came."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from shared.ids import new_id
from shared.turn.model import Principal
from tests.fixtures.system import Api
from tests.integration.api_crud.conftest import THREADS, Client
from tests.integration.api_crud.test_threads import walk


@pytest.fixture
async def spoken(client: Client, api: Api, make_turn: Any) -> tuple[str, list[str]]:
    """A thread's messages URL and its five texts."""
    thread_id = (await client.post(THREADS)).json()["id"]
    who = Principal(client.tenant_id, client.user_id, new_id())
    texts = [f"message {number}" for number in range(5)]
    for text in texts:
        await api.submit(make_turn(text, principal=who, thread=UUID(thread_id)))
    return f"{THREADS}/{thread_id}/messages", texts


async def test_a_message(client: Client, spoken: tuple[str, list[str]]) -> None:
    url, _ = spoken
    message = (await client.get(url)).json()["items"][0]
    raw = message["rawData"]
    assert raw["kind"] == "request"
    assert raw["parts"][0]["content"] == "message 0"
    thread = (await client.get(url.removesuffix("/messages"))).json()
    assert message == {
        "id": str(UUID(message["id"])),
        "threadId": thread["id"],
        "turnId": str(UUID(message["turnId"])),
        "role": "user",
        "content": "message 0",
        "format": "pydantic_ai",
        "rawData": raw,
        "createdBy": str(client.user_id),
        "createdAt": message["createdAt"],
        "updatedAt": message["updatedAt"],
    }


@pytest.mark.parametrize("limit", [1, 2, 4, 5, 200])
async def test_both_orders(client: Client, spoken: tuple[str, list[str]], limit: int) -> None:
    url, texts = spoken
    assert [m["content"] for m in await walk(client, url, limit=limit)] == texts
    backwards = [m["content"] for m in await walk(client, url, limit=limit, order="desc")]
    assert backwards == texts[::-1]


async def test_superseded_messages_are_left_out(
    client: Client, spoken: tuple[str, list[str]], admin: Any
) -> None:
    url, texts = spoken
    await admin.execute("update messages set superseded_at = now() where content = $1", texts[2])
    assert [m["content"] for m in await walk(client, url, limit=2)] == texts[:2] + texts[3:]


async def test_messages_that_come_while_walking_are_seen(
    client: Client, spoken: tuple[str, list[str]], api: Api, make_turn: Any
) -> None:
    url, texts = spoken
    first = (await client.get(url, params={"limit": 3})).json()
    who = Principal(client.tenant_id, client.user_id, new_id())
    thread_id = UUID(url.split("/")[-2])
    await api.submit(make_turn("late", principal=who, thread=thread_id))
    rest = await walk(client, url, first["nextCursor"], limit=3)
    assert [m["content"] for m in first["items"] + rest] == [*texts, "late"]


async def test_an_empty_thread(client: Client) -> None:
    thread_id = (await client.post(THREADS)).json()["id"]
    answer = await client.get(f"{THREADS}/{thread_id}/messages")
    assert (answer.status_code, answer.json()) == (200, {"items": [], "nextCursor": None})


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("limit=201", "limit"),
        ("limit=0", "limit"),
        ("order=up", "order"),
        ("cursor=WyJ4Il0", "cursor"),
        ("limit=1&limit=2", "limit"),
    ],
)
async def test_bad_queries(client: Client, query: str, name: str) -> None:
    thread_id = (await client.post(THREADS)).json()["id"]
    answer = await client.get(f"{THREADS}/{thread_id}/messages?{query}")
    assert answer.status_code == 422
    assert [item["loc"] for item in answer.json()["detail"]] == [["query", name]]


async def test_a_cursor_keeps_its_direction(client: Client, spoken: tuple[str, list[str]]) -> None:
    url, _ = spoken
    cursor = (await client.get(url, params={"limit": 2})).json()["nextCursor"]
    answer = await client.get(url, params={"cursor": cursor, "order": "desc"})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", "cursor"]
