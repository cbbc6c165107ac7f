"""The scripted model: exact deltas, planned failures, honest partial results."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import UUID

import pytest

from shared.errors import InvalidRequest, TurnFailed
from shared.turn.events import MessageDelta, ReasoningDelta, ToolCall, ToolResult
from shared.turn.script import validate_script
from worker.engine.base import EngineEvent, EngineRequest, EngineRun
from worker.engine.scripted import ScriptedEngine

TURN = UUID("018f0000-0000-7000-8000-000000000001")
THREAD = UUID("018f0000-0000-7000-8000-000000000002")


def request(
    script: dict[str, Any] | None, prompt: str = "one two", history: Any = ()
) -> EngineRequest:
    settings = {} if script is None else {"script": script}
    return EngineRequest(TURN, THREAD, THREAD, "scripted", settings, None, list(history), prompt)


def start(script: dict[str, Any] | None, **more: Any) -> EngineRun:
    if script is not None:
        script = {"intervalMs": 0, **script}
    return ScriptedEngine().start(request(script, **more))


async def collect(run: EngineRun) -> list[EngineEvent]:
    return [event async for event in run.events()]


async def collect_into(seen: list[EngineEvent], run: EngineRun) -> None:
    async for event in run.events():
        seen.append(event)


def texts(events: list[EngineEvent]) -> list[str]:
    return [event.text for event in events if isinstance(event, MessageDelta)]


async def test_deltas_are_numbered_words_and_usage_counts_them() -> None:
    run = start({"deltas": 3}, history=[{"kind": "request", "parts": [{"content": "a b c"}]}])
    assert await collect(run) == [MessageDelta(text=f"w{n} ") for n in range(3)]
    result = run.result()
    assert [(m.role, m.content) for m in result.messages] == [("assistant", "w0 w1 w2 ")]
    assert result.messages[0].raw["state"] == "complete"
    assert result.usage.model_dump() == {
        "input_tokens": 5, "output_tokens": 3, "cached_input_tokens": 0, "total_cost": "0",
    }  # fmt: skip


async def test_text_is_split_into_words_that_join_to_the_text() -> None:
    assert texts(await collect(start({"text": " a  b\nc"}))) == [" ", "a  ", "b\n", "c"]


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [(0, []), (1, ["a "]), (5, ["a ", "b ", "a ", "b ", "a "])],
)
async def test_deltas_limit_or_repeat_the_words_of_text(deltas: int, expected: list[str]) -> None:
    assert texts(await collect(start({"text": "a b", "deltas": deltas}))) == expected


async def test_deltas_of_an_empty_text_are_none() -> None:
    run = start({"text": "", "deltas": 5})
    assert await collect(run) == []
    assert run.result().messages == []


async def test_without_a_script_it_answers_about_the_prompt_and_takes_its_time() -> None:
    began = time.monotonic()
    first = texts(await collect(start(None, prompt="tell me of bees")))
    assert 0.2 < time.monotonic() - began < 10
    assert "tell me of bees" in "".join(first)
    assert 15 <= len(first) <= 35


async def test_interval_paces_the_deltas() -> None:
    began = time.monotonic()
    await collect(start({"deltas": 6, "intervalMs": 20}))
    assert 0.1 <= time.monotonic() - began < 10


async def test_without_interval_others_get_their_turn() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    ticker = asyncio.create_task(tick())
    await collect(start({"deltas": 6400}))
    ticker.cancel()
    assert ticks >= 90


@pytest.mark.parametrize("place", [0, 2, 3])
async def test_fail_after(place: int) -> None:
    run = start({"deltas": 3, "failAfter": place, "failWith": "rate_limited"})
    seen: list[EngineEvent] = []
    with pytest.raises(TurnFailed) as caught:
        await collect_into(seen, run)
    assert (len(seen), caught.value.error_code) == (place, "rate_limited")
    assert [m.raw["state"] for m in run.result().messages] == ["interrupted"] * bool(place)


async def test_fail_defaults_to_model_error_and_beyond_the_end_never_happens() -> None:
    with pytest.raises(TurnFailed) as caught:
        await collect(start({"deltas": 1, "failAfter": 1}))
    assert caught.value.error_code == "model_error"
    assert len(await collect(start({"deltas": 1, "failAfter": 2}))) == 1


async def _read_until_stuck(run: EngineRun, count: int) -> asyncio.Task[list[EngineEvent]]:
    reached = asyncio.Event()
    seen: list[EngineEvent] = []

    async def read() -> list[EngineEvent]:
        async for event in run.events():
            seen.append(event)
            if len(seen) == count:
                reached.set()
        return seen

    task = asyncio.create_task(read())
    async with asyncio.timeout(2):
        await reached.wait()
    return task


async def test_hang_after_stops_until_cancelled_and_keeps_the_partial() -> None:
    run = start({"deltas": 5, "hangAfter": 2})
    task = await _read_until_stuck(run, 2)
    done, _ = await asyncio.wait([task], timeout=0.05)
    assert not done
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    result = run.result()
    assert [(m.content, m.raw["state"]) for m in result.messages] == [("w0 w1 ", "interrupted")]
    assert result.usage.output_tokens == 2


async def test_hang_ms_goes_on_afterwards() -> None:
    assert len(await collect(start({"deltas": 5, "hangAfter": 2, "hangMs": 10}))) == 5


async def test_ignore_cancel_lingers_then_gives_way() -> None:
    run = start({"deltas": 5, "hangAfter": 1, "ignoreCancelMs": 100})
    task = await _read_until_stuck(run, 1)
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert 0.08 <= time.monotonic() - began < 10


TOOLS: dict[str, Any] = {
    "reasoning": "let me see",
    "toolCalls": [
        {"name": "look", "args": {"q": 1}, "result": {"found": [1, None]}},
        {"name": "fail", "error": "no such thing"},
    ],
    "text": "done now",
}


async def test_order_is_reasoning_tools_text() -> None:
    run = start(TOOLS)
    events = await collect(run)
    first, second = (f"call_{TURN.hex}_{n}" for n in range(2))
    assert events == [
        ReasoningDelta(text="let "),
        ReasoningDelta(text="me "),
        ReasoningDelta(text="see"),
        ToolCall(tool_call_id=first, name="look", args={"q": 1}),
        ToolResult(tool_call_id=first, result={"found": [1, None]}),
        ToolCall(tool_call_id=second, name="fail", args={}),
        ToolResult(tool_call_id=second, error="no such thing"),
        MessageDelta(text="done "),
        MessageDelta(text="now"),
    ]
    assert [(m.role, m.content) for m in run.result().messages] == [
        ("assistant", ""),
        ("tool", '{"found":[1,null]}\nno such thing'),
        ("assistant", "done now"),
    ]


async def test_reasoning_may_be_a_number() -> None:
    events = await collect(start({"reasoning": 2, "deltas": 0}))
    assert events == [ReasoningDelta(text="r0 "), ReasoningDelta(text="r1 ")]


def _contains(whole: Any, part: Any) -> bool:
    """Whether every value of `part` stands unchanged in `whole`, which may say more."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            k in whole and _contains(whole[k], v) for k, v in part.items()
        )
    if isinstance(part, list):
        return len(whole) == len(part) and all(map(_contains, whole, part))
    return bool(whole == part)


@pytest.mark.parametrize("stop_behind", [1, 3, 4, 5, 6, 7, 8, 99])
async def test_messages_survive_pydantic_ai_at_every_point(stop_behind: int) -> None:
    from pydantic_ai.messages import ModelMessagesTypeAdapter

    run = start(TOOLS)
    events = run.events()
    for _ in range(stop_behind):
        if await anext(events, None) is None:
            break
    result = run.result()
    raws = [message.raw for message in result.messages]
    loaded = ModelMessagesTypeAdapter.validate_python(raws)
    dumped = ModelMessagesTypeAdapter.dump_python(loaded, mode="json")
    assert _contains(dumped, raws)
    assert ModelMessagesTypeAdapter.validate_python(dumped) == loaded
    last = [message for message in result.messages if message.role == "assistant"][-1]
    assert last.raw["state"] == ("complete" if stop_behind == 99 else "interrupted")


@pytest.mark.parametrize(
    ("script", "place"),
    [
        ("text", ()),
        ({"delta": 1}, ("delta",)),
        ({"deltas": -1}, ("deltas",)),
        ({"deltas": 1_000_001}, ("deltas",)),
        ({"deltas": "3"}, ("deltas",)),
        ({"deltas": True}, ("deltas",)),
        ({"intervalMs": float("nan")}, ("intervalMs",)),
        ({"ignoreCancelMs": 60_001}, ("ignoreCancelMs",)),
        ({"failWith": "whatever"}, ("failWith",)),
        ({"toolCalls": [{"name": "x", "result": 1, "error": "e"}]}, ("toolCalls", 0)),
        ({"toolCalls": [{"name": "a b"}]}, ("toolCalls", 0, "name")),
    ],
)
def test_a_bad_script_is_refused_with_its_place(script: Any, place: tuple[str | int, ...]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate_script({"script": script})
    assert caught.value.loc == ("body", "settings", "script", *place)
    with pytest.raises(TurnFailed) as failed:
        ScriptedEngine().start(request(script))
    assert failed.value.error_code == "invalid_settings"


@pytest.mark.parametrize("settings", [{}, {"script": None}, {"script": {}}, {"temperature": 1}])
def test_a_script_is_optional(settings: dict[str, Any]) -> None:
    validate_script(settings)
