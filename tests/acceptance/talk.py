"""What every scenario says to the API: make threads, submit turns, follow them, look at them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from datetime import datetime
from typing import Any, TypeVar

from tests.acceptance.client import Answer, Client, Frame, Told, check_told

V = TypeVar("V")

CHAT = "/api/v1/chat"
TERMINAL = {"completed", "failed", "cancelled", "expired"}


async def all_of(work: Iterable[Coroutine[Any, Any, V]]) -> list[V]:
    """Results of everything at once, in order; the first failure ends the rest."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in work]
    return [task.result() for task in tasks]


async def make_thread(client: Client) -> str:
    answer = await client.post(f"{CHAT}/threads", {})
    assert answer.status == 201, answer.body
    return str(answer.json["id"])


def turn_body(script: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A submit of a scripted turn."""
    settings = {} if script is None else {"script": script}
    return {"message": "go", "modelId": "scripted", "settings": settings, **fields}


async def submit(
    client: Client, script: dict[str, Any], *, thread: str | None = None, **fields: Any
) -> dict[str, Any]:
    """An accepted turn, in a thread of its own unless one is given."""
    thread = thread or await make_thread(client)
    answer = await client.post(f"{CHAT}/threads/{thread}/turns", turn_body(script, **fields))
    assert answer.status == 202, answer.body
    turn: dict[str, Any] = answer.json
    return turn


async def get_turn(client: Client, turn_id: str) -> dict[str, Any]:
    answer = await client.get(f"{CHAT}/turns/{turn_id}")
    assert answer.status == 200, answer.body
    turn: dict[str, Any] = answer.json
    return turn


async def await_end(client: Client, turn_id: str) -> dict[str, Any]:
    """The turn once it has ended, by long polls."""
    while True:
        answer = await client.get(f"{CHAT}/turns/{turn_id}", Prefer="wait=20")
        assert answer.status == 200, answer.body
        if answer.json["status"] in TERMINAL:
            turn: dict[str, Any] = answer.json
            return turn


def events_path(turn_id: str) -> str:
    return f"{CHAT}/turns/{turn_id}/events"


async def follow(client: Client, turn_id: str) -> Told:
    """What one reader is told from the first event to the end, on one connection."""
    return check_told(await read_frames(client, turn_id))


async def read_frames(client: Client, turn_id: str) -> list[Frame]:
    async with client.stream(events_path(turn_id)) as stream:
        assert stream.status == 200, stream.body
        return await stream.rest()


async def follow_with_reconnects(client: Client, turn_id: str) -> Told:
    """The same as an EventSource reads it: goes on at its cursor whenever a stream ends early."""
    frames: list[Frame] = []
    cursor = "0-0"
    while not frames or frames[-1].event != "turn.ended":
        async with client.stream(events_path(turn_id), Last_Event_ID=cursor) as stream:
            assert stream.status == 200, stream.body
            async for frame in stream:
                if frame.event.startswith("stream."):
                    continue
                if frame.event and frame.id:
                    frames.append(frame)
                cursor = frame.id or cursor
    return check_told(frames)


async def output_text(client: Client, turn: dict[str, Any]) -> str:
    """What the thread keeps of a turn's answer."""
    answer = await client.get(f"{CHAT}/threads/{turn['threadId']}/messages?limit=200")
    assert answer.status == 200, answer.body
    kept = [m for m in answer.json["items"] if m["turnId"] == turn["id"]]
    return "".join(m["content"] for m in kept if m["role"] == "assistant")


def seconds(turn: dict[str, Any], field: str) -> float:
    return datetime.fromisoformat(turn[field]).timestamp()


def require_problem(answer: Answer, status: int) -> Any:
    """The one error shape of each status; returns `detail`."""
    assert answer.status == status, (answer.status, answer.body[:300])
    assert answer.headers["content-type"].startswith("application/json")
    if status != 422:
        assert set(answer.json) >= {"detail", "title", "status", "type"}, answer.json
        assert answer.json["status"] == status
        return answer.json["detail"]
    assert set(answer.json) == {"detail"}
    for item in answer.json["detail"]:
        assert set(item) == {"loc", "msg", "type"}, item
    return answer.json["detail"]
