"""Streams: the full order of events, late readers, several of them, cancels, reconnects, pings."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import httpx
import pytest
from starlette.applications import Starlette

from shared.settings import Settings
from tests.fixtures.system import RunningWorker
from tests.fixtures.waiting import wait_until
from tests.integration.zylon_surface.conftest import Member, bare, frames_of, said_in, user_says


async def stream(member: Member, interaction: str) -> httpx.Response:
    answered = await member.get(f"/interaction/{interaction}/stream")
    assert answered.status_code == 200, answered.text
    return answered


TOOLS = [{"name": "look", "args": {"a": 1}, "result": {"b": 2}}]


async def test_the_full_order_of_events(member: Member, worker: RunningWorker) -> None:
    running = await member.scripted(
        await member.thread(), reasoning=2, toolCalls=TOOLS, deltas=3, startDelayMs=300
    )
    frames = frames_of((await stream(member, running)).text)
    kinds = [kind for kind, _ in frames if kind != "ping"]
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    assert kinds[:1] + kinds[-2:] == ["message_start", "message_delta", "message_stop"]
    blocks = [data for kind, data in frames if kind == "content_block_start"]
    assert [one["content_block"]["type"] for one in blocks] == [
        "thinking", "tool_use", "tool_result", "text",
    ]  # fmt: skip
    assert [one["index"] for one in blocks] == [0, 1, 2, 3]
    assert len({one["block_id"] for one in blocks}) == 4
    for one in blocks:
        own = [(kind, data) for kind, data in frames if data.get("block_id") == one["block_id"]]
        assert [own[0][0], own[-1][0]] == [block[0], block[2]]
        assert {kind for kind, _ in own[1:-1]} <= {block[1]}
        assert {data["index"] for _, data in own} == {one["index"]}
        assert isinstance(own[0][1]["content_block"]["start_timestamp"], float)
        assert isinstance(own[-1][1]["stop_timestamp"], float)
    assert (said_in(frames), said_in(frames, "thinking")) == ("w0 w1 w2 ", "r0 r1 ")
    assert said_in(frames, "partial_json") == '{"a":1}'
    assert blocks[2]["content_block"]["content"] == '{"b":2}'
    ended = dict(frames)["message_delta"]
    assert ended["delta"] == {"stop_reason": "end_turn"}
    told = (await member.get(f"/interaction/{running}")).json()["assistant_output"]
    assert ended["usage"] == told["usage"]
    assert dict(frames)["message_start"]["message"]["id"] == told["id"]
    assert [one["type"] for one in told["content"]] == [
        "thinking", "tool_use", "tool_result", "text",
    ]  # fmt: skip


async def test_late_readers_hear_everything_from_the_start(
    member: Member, worker: RunningWorker
) -> None:
    running = await member.scripted(await member.thread(), deltas=30, intervalMs=20)

    async def read(after_s: float) -> str:
        await asyncio.sleep(after_s)
        return said_in(frames_of((await stream(member, running)).text))

    async with asyncio.TaskGroup() as group:
        readers = [group.create_task(read(after_s)) for after_s in (0, 0.1, 0.3)]
    whole = "".join(f"w{number} " for number in range(30))
    assert [reader.result() for reader in readers] == [whole] * 3
    assert said_in(frames_of((await stream(member, running)).text)) == whole


async def test_a_replay_needs_no_log(member: Member, worker: RunningWorker, app: Starlette) -> None:
    """With the calls of tools, which a lost log took along otherwise."""
    running = await member.scripted(await member.thread(), toolCalls=TOOLS, deltas=2)
    live = frames_of((await stream(member, running)).text)
    log = app.state.event_log
    assert await app.state.redis.call("DEL", log._keys.log(UUID(bare(running)))) == 1
    replayed = frames_of((await stream(member, running)).text)
    shown = [
        [d["content_block"]["type"] for k, d in frames if k == "content_block_start"]
        for frames in (live, replayed)
    ]
    assert shown[0] == shown[1] == ["tool_use", "tool_result", "text"]
    assert said_in(live) == said_in(replayed) == "w0 w1 "
    assert live[-2:] == replayed[-2:]


async def test_a_cancel_ends_the_streams(member: Member, worker: RunningWorker) -> None:
    running = await member.scripted(await member.thread(), deltas=2, hangAfter=2)
    reading = asyncio.create_task(stream(member, running))

    async def runs() -> bool:
        told = (await member.chat.get(f"/turns/{bare(running)}")).json()
        return bool(told["status"] == "running")

    await wait_until(runs, "it runs")
    assert (await member.post(f"/interaction/{running}/cancel")).status_code == 204
    frames = frames_of((await reading).text)
    assert [kind for kind, _ in frames[-2:]] == ["message_delta", "message_stop"]
    assert frames[-2][1]["delta"] == {"stop_reason": "cancelled"}


async def test_a_parked_interaction_goes_on_where_it_was(
    member: Member, worker: RunningWorker
) -> None:
    """Nothing is told twice to who heard the beginning, nor left out for who did not."""
    script = {
        "approval": {"text": "May I? ", "calls": [{"name": "pay", "args": {}, "result": "paid"}]},
        "deltas": 2,
    }
    running = await member.scripted(await member.thread(), **script)
    reading = asyncio.create_task(stream(member, running))
    turn = f"/turns/{bare(running)}"

    async def is_parked() -> dict[str, Any] | None:
        told: dict[str, Any] = (await member.chat.get(turn)).json()
        return told if told["status"] == "awaiting_approval" else None

    parked = await wait_until(is_parked, "it is parked")
    assert (await member.get(f"/interaction/{running}")).json()["state"] == "Processing"
    call_id = parked["approvals"][0]["toolCallId"]
    decided = await member.chat.post(
        f"{turn}/actions", json={"decisions": [{"toolCallId": call_id, "approved": True}]}
    )
    assert decided.status_code == 200, decided.text
    for text in ((await reading).text, (await stream(member, running)).text):
        frames = frames_of(text)
        assert said_in(frames) == "May I? w0 w1 "
        types = [d["content_block"]["type"] for k, d in frames if k == "content_block_start"]
        assert types == ["text", "tool_use", "tool_result", "text"]


class TestSilence:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"keep_alive_s": 0.2, "stream_max_age_s": 1.0})

    async def test_a_silent_stream_pings_and_a_cut_one_says_nothing_of_an_end(
        self, member: Member
    ) -> None:
        """No worker runs, and the stream grows too old."""
        made = await member.asked(await member.thread(), pgpt={"stream": True})
        text = (await stream(member, made["id"])).text
        frames = frames_of(text)
        assert frames[0][0] == "message_start"
        assert {kind for kind, _ in frames[1:]} == {"ping"}
        assert frames[1] == ("ping", {"type": "ping"})
        assert len(frames) > 2
        assert text.endswith("retry: 1000\n: ask again, the stream begins anew\n\n")


async def test_the_default_keep_alive(settings: Settings) -> None:
    assert settings.keep_alive_s == 15


async def test_a_stream_of_a_chat(member: Member, worker: RunningWorker) -> None:
    body = {"messages": [user_says("Hello")], "stream": True}
    answered = await member.post("/chat", json=body)
    assert answered.status_code == 200
    frames = frames_of(answered.text)
    assert [kind for kind, _ in frames if kind != "ping"][-1] == "message_stop"
    assert "Hello" in said_in(frames)
