"""One turn watched at once through every protocol: each of them tells the same text."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import orjson
import pytest

from tests.fixtures.system import StartWorker
from tests.fixtures.waiting import wait_until
from tests.integration.zylon_surface.conftest import Member

SCRIPT = {
    "deltas": 60,
    "intervalMs": 10,
    "text": "One “two” \n three\\four. ",
    "reasoning": "Let me think about it.",
    "toolCalls": [{"name": "look", "args": {"at": 1}, "result": {"found": True}}],
}


def events_of(answered: httpx.Response) -> list[Any]:
    """What stands in the data of the frames."""
    assert answered.status_code == 200, answered.text
    blocks = answered.content.split(b"\n\n")
    lines = [line for block in blocks for line in block.split(b"\n")]
    data = [line.removeprefix(b"data: ") for line in lines if line.startswith(b"data: ")]
    return [orjson.loads(text) for text in data if text != b"[DONE]"]


def joined(events: list[Any], kind: str, name: str) -> str:
    return "".join(event[name] for event in events if event["type"] == kind)


def deltas(events: list[Any]) -> list[Any]:
    """What the blocks of the workspace's stream grow by."""
    return [event["delta"] for event in events if event["type"] == "content_block_delta"]


@pytest.mark.parametrize("worker_comes_late", [False, True])
async def test_all_protocols_tell_the_same_text(
    member: Member, start_worker: StartWorker, worker_comes_late: bool
) -> None:
    user = member.chat
    if not worker_comes_late:
        await start_worker()
    thread = await user.thread()
    body = {
        "threadId": thread,
        "runId": "run",
        "messages": [{"id": "m", "role": "user", "content": "x"}],
        "forwardedProps": {"modelId": "scripted", "settings": {"script": SCRIPT}},
    }

    async def find() -> Any:
        listed = (await user.get(f"/threads/{thread}/turns")).json()["items"]
        return listed[0]["id"] if listed else None

    async with asyncio.TaskGroup() as group:
        agui = group.create_task(user.post("http://test/api/v1/agui", json=body))
        turn = await wait_until(find, "the turn is there")
        native = group.create_task(user.get(f"/turns/{turn}/events"))
        ui = group.create_task(user.get(f"/threads/{thread}/stream"))
        url = f"http://test/v1/responses/resp_{turn.replace('-', '')}"
        responses = group.create_task(user.get(url, params={"stream": "true"}))
        again = group.create_task(user.post("http://test/api/v1/agui", json=body))
        interaction = f"/interaction/inter_{turn.replace('-', '')}"
        zylon = group.create_task(member.get(f"{interaction}/stream"))
        if worker_comes_late:
            await start_worker()
    texts = {
        "native": joined(events_of(native.result()), "message.delta", "text"),
        "ui": joined(events_of(ui.result()), "text-delta", "delta"),
        "responses": joined(events_of(responses.result()), "response.output_text.delta", "delta"),
        "zylon": joined(deltas(events_of(zylon.result())), "text_delta", "text"),
        "agui": joined(events_of(agui.result()), "TEXT_MESSAGE_CONTENT", "delta"),
        "agui again": joined(events_of(again.result()), "TEXT_MESSAGE_CONTENT", "delta"),
    }
    thoughts = {
        joined(events_of(native.result()), "reasoning.delta", "text"),
        joined(events_of(ui.result()), "reasoning-delta", "delta"),
        joined(events_of(responses.result()), "response.reasoning_summary_text.delta", "delta"),
        joined(deltas(events_of(zylon.result())), "thinking_delta", "thinking"),
        joined(events_of(agui.result()), "REASONING_MESSAGE_CONTENT", "delta"),
    }
    told = (await user.get(f"/threads/{thread}/messages")).json()["items"]
    assert set(texts.values()) == {told[-1]["content"]}, texts
    assert thoughts == {SCRIPT["reasoning"]}
    shown = (await user.get(url)).json()
    assert shown["output"][-1]["content"][0]["text"] == told[-1]["content"]
