"""pydantic-ai behind the seam, on its own test models: no socket is opened here."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

import anyio
import pytest
from pydantic_ai import exceptions as ai
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart, DeltaToolCall, FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.toolsets import FunctionToolset
from pydantic_ai.usage import RunUsage

from shared.errors import TurnFailed
from shared.turn.events import MessageDelta, ReasoningDelta, ToolCall, ToolResult
from worker.engine import agent_task
from worker.engine.agent import AgentEngine, Deadlines
from worker.engine.agent_errors import turn_failure
from worker.engine.agent_history import load_history
from worker.engine.agent_result import usage_of
from worker.engine.base import EngineEvent, EngineRequest, EngineRun
from worker.engine.scripted import ScriptedEngine

TURN = UUID("018f0000-0000-7000-8000-000000000001")
THREAD = UUID("018f0000-0000-7000-8000-000000000002")
Stream = Callable[[list[ModelMessage], AgentInfo], AsyncIterator[Any]]


class OneModel:
    def __init__(self, model: Model) -> None:
        self._model = model

    async def model(self, model_id: str) -> Model:
        return self._model


def start(model: Model, *, toolsets: Any = (), **changes: Any) -> EngineRun:
    values: dict[str, Any] = {
        "turn_id": TURN,
        "thread_id": THREAD,
        "tenant_id": THREAD,
        "model_id": "openai:test",
        "settings": {},
        "instructions": None,
        "history": [],
        "prompt": "hello",
    } | changes
    engine = AgentEngine(OneModel(model), Deadlines(5, 5, 5), toolsets)
    return engine.start(EngineRequest(**values))


async def collect(run: EngineRun) -> list[EngineEvent]:
    return [event async for event in run.events()]


async def test_no_text_is_lost_and_the_result_holds_only_the_answer() -> None:
    run = start(TestModel(custom_output_text="first second third"))
    events = await collect(run)
    deltas = [event.text for event in events if isinstance(event, MessageDelta)]
    assert len(deltas) == len(events) > 1
    assert "".join(deltas) == "first second third"
    (message,) = run.result().messages
    assert (message.role, message.content) == ("assistant", "first second third")
    assert message.raw["run_id"] == str(TURN)
    assert message.raw["conversation_id"] == str(THREAD)
    assert message.raw["state"] == "complete"
    assert run.result().usage.output_tokens > 0


async def _thinks_then_calls(messages: list[ModelMessage], _: AgentInfo) -> AsyncIterator[Any]:
    if len(messages) == 1:
        yield {0: DeltaThinkingPart(content="let ")}
        yield {0: DeltaThinkingPart(content="me see")}
        yield {1: DeltaToolCall(name="add", json_args='{"a":1,', tool_call_id="c1")}
        yield {1: DeltaToolCall(json_args='"b":2}')}
        yield {2: DeltaToolCall(name="nothing", json_args="{}", tool_call_id="c2")}
    else:
        yield "it is "
        yield "3"


def _tools() -> FunctionToolset[None]:
    tools: FunctionToolset[None] = FunctionToolset()

    @tools.tool_plain
    def add(a: int, b: int) -> dict[str, Any]:
        return {"sum": a + b, "note": None}

    @tools.tool_plain
    def nothing() -> None:
        return None

    return tools


async def test_reasoning_tools_and_text_in_order_and_round_trip() -> None:
    run = start(FunctionModel(stream_function=_thinks_then_calls), toolsets=[_tools()])
    events = await collect(run)
    assert events[:2] == [ReasoningDelta(text="let "), ReasoningDelta(text="me see")]
    assert [e for e in events if isinstance(e, ToolCall)] == [
        ToolCall(tool_call_id="c1", name="add", args={"a": 1, "b": 2}),
        ToolCall(tool_call_id="c2", name="nothing", args={}),
    ]
    results = {e.tool_call_id: e for e in events if isinstance(e, ToolResult)}
    assert results["c1"] == ToolResult(tool_call_id="c1", result={"sum": 3, "note": None})
    assert results["c2"] == ToolResult(tool_call_id="c2", result=None)
    assert events[-2:] == [MessageDelta(text="it is "), MessageDelta(text="3")]
    messages = run.result().messages
    assert [m.role for m in messages] == ["assistant", "tool", "assistant"]
    assert messages[1].content == '{"sum":3,"note":null}\nnull'
    loaded = ModelMessagesTypeAdapter.validate_python([m.raw for m in messages])
    part = loaded[1].parts[0]
    assert isinstance(part, ToolReturnPart)
    assert part.content == {"sum": 3, "note": None}


async def test_a_run_stopped_between_two_responses_is_marked_interrupted() -> None:
    async def stream(messages: list[ModelMessage], _: AgentInfo) -> AsyncIterator[Any]:
        if len(messages) == 1:
            yield {0: DeltaToolCall(name="nothing", json_args="{}", tool_call_id="c1")}
        else:
            reached.set()
            await asyncio.Event().wait()
            yield "never"

    reached = asyncio.Event()
    run = start(FunctionModel(stream_function=stream), toolsets=[_tools()])
    task = asyncio.create_task(collect(run))
    async with asyncio.timeout(5):
        await reached.wait()
    messages = run.result().messages
    task.cancel()
    await asyncio.wait([task])
    assert [m.role for m in messages] == ["assistant", "tool"]
    assert messages[0].raw["state"] == "interrupted"


async def test_a_failed_tool_is_an_error_result() -> None:
    tools: FunctionToolset[None] = FunctionToolset()

    @tools.tool_plain
    def add(a: int) -> int:
        raise ai.ToolFailed("the shop is closed")

    async def stream(messages: list[ModelMessage], _: AgentInfo) -> AsyncIterator[Any]:
        if len(messages) == 1:
            yield {0: DeltaToolCall(name="add", json_args='{"a":1}', tool_call_id="c1")}
        else:
            yield "sorry"

    events = await collect(start(FunctionModel(stream_function=stream), toolsets=[tools]))
    (result,) = [e for e in events if isinstance(e, ToolResult)]
    assert result.result is None
    assert "the shop is closed" in str(result.error)


async def test_instructions_history_and_settings_reach_the_model() -> None:
    seen: dict[str, Any] = {}

    async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        seen.update(messages=messages, settings=info.model_settings, said=info.instructions)
        yield "ok"

    history = ModelMessagesTypeAdapter.dump_python(
        [
            ModelRequest(parts=[UserPromptPart("before")]),
            ModelResponse(parts=[TextPart("half an ans")], state="interrupted"),
        ],
        mode="json",
    )
    settings = {
        "temperature": 0.5, "maxTokens": 9, "topP": 1, "seed": 7, "stopSequences": ["x"], "odd": 1,
    }  # fmt: skip
    run = start(
        FunctionModel(stream_function=stream),
        history=history,
        instructions="be brief",
        settings=settings,
    )
    await collect(run)
    prompts = [p.content for m in seen["messages"] for p in m.parts]
    assert prompts == ["before", "half an ans", "hello"]
    assert seen["said"] == "be brief"
    expected = {
        "temperature": 0.5, "max_tokens": 9, "top_p": 1, "seed": 7, "stop_sequences": ["x"],
        "max_retries": 0, "timeout": 5, "first_event_timeout": 5,
    }  # fmt: skip
    assert seen["settings"] == expected
    assert [m.content for m in run.result().messages] == ["ok"]


@pytest.mark.parametrize(
    "settings", [{"temperature": "hot"}, {"seed": True}, {"stopSequences": "x"}]
)
def test_known_settings_of_a_wrong_type_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(TurnFailed) as caught:
        start(TestModel(), settings=settings)
    assert caught.value.error_code == "invalid_settings"


async def _stuck_behind_text(_: list[ModelMessage], __: AgentInfo) -> AsyncIterator[Any]:
    yield {0: DeltaThinkingPart(content="hm")}
    yield "one "
    yield "two"
    await asyncio.Event().wait()


@pytest.mark.parametrize("cancelled", [True, False])
async def test_partial_result_while_running_and_after_cancel(cancelled: bool) -> None:
    run = start(FunctionModel(stream_function=_stuck_behind_text))
    assert run.result().messages == []
    reached = asyncio.Event()

    async def read() -> None:
        async for event in run.events():
            if event == MessageDelta(text="two"):
                reached.set()

    task = asyncio.create_task(read())
    async with asyncio.timeout(5):
        await reached.wait()
    if cancelled:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    (message,) = run.result().messages
    assert (message.role, message.content) == ("assistant", "one two")
    assert message.raw["state"] == "interrupted"
    assert [p["part_kind"] for p in message.raw["parts"]] == ["thinking", "text"]
    ModelMessagesTypeAdapter.validate_python([message.raw])
    task.cancel()
    await asyncio.wait([task])


async def _calls_then_answers(messages: list[ModelMessage], _: AgentInfo) -> AsyncIterator[Any]:
    if len(messages) == 1:
        yield {0: DeltaToolCall(name="nothing", json_args="{}", tool_call_id="c1")}
    else:
        yield "done"


async def test_a_run_cancelled_at_any_step_leaves_no_task() -> None:
    model, tools = FunctionModel(stream_function=_calls_then_answers), _tools()
    for step in itertools.count():
        before = asyncio.all_tasks()
        run = start(model, toolsets=[tools])
        task = asyncio.create_task(collect(run))
        for _ in range(step):
            await asyncio.sleep(0)
        if not task.cancel():
            assert step > 50, "too few steps for two requests and a round of tools"
            break
        await asyncio.wait([task])
        assert task.cancelled()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before, f"cancelled at step {step}"


@pytest.mark.parametrize("times", [1, 3])
async def test_a_run_unwinds_in_peace_however_often_it_is_cancelled(times: int) -> None:
    reached, closing, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def stream(_: list[ModelMessage], __: AgentInfo) -> AsyncIterator[Any]:
        yield "text"
        try:
            reached.set()
            await asyncio.Event().wait()
        finally:
            closing.set()
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0.05)
                closed.set()

    run = start(FunctionModel(stream_function=stream))
    task = asyncio.create_task(collect(run))
    async with asyncio.timeout(5):
        await reached.wait()
        for _ in range(times):
            task.cancel()
            await closing.wait()
    await asyncio.wait([task])
    assert task.cancelled()
    assert closed.is_set()
    assert [(m.content, m.raw["state"]) for m in run.result().messages] == [("text", "interrupted")]


async def test_a_run_that_does_not_unwind_is_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_task, "UNWIND_TIMEOUT_S", 0.05)
    reached, cut = asyncio.Event(), asyncio.Event()

    async def stream(_: list[ModelMessage], __: AgentInfo) -> AsyncIterator[Any]:
        yield "text"
        try:
            with anyio.CancelScope(shield=True):
                reached.set()
                await asyncio.Event().wait()
        finally:
            cut.set()

    run = start(FunctionModel(stream_function=stream))
    task = asyncio.create_task(collect(run))
    async with asyncio.timeout(5):
        await reached.wait()
        task.cancel()
        await asyncio.wait([task])
        await cut.wait()
    assert task.cancelled()


async def test_the_whole_turn_has_a_deadline() -> None:
    engine = AgentEngine(
        OneModel(FunctionModel(stream_function=_stuck_behind_text)), Deadlines(5, 5, 0.05)
    )
    run = engine.start(EngineRequest(TURN, THREAD, THREAD, "openai:x", {}, None, [], "hello"))
    with pytest.raises(TurnFailed) as caught:
        await collect(run)
    assert caught.value.error_code == "timeout"
    assert [m.content for m in run.result().messages] == ["one two"]


ERRORS = [
    (ai.ModelRateLimitError("m", "sk-key"), "rate_limited"),
    (ai.ModelQuotaExceededError("m", "sk-key"), "rate_limited"),
    (ai.ModelOverloadedError("m", "sk-key"), "rate_limited"),
    (ai.ModelAuthenticationError("m", "sk-key"), "model_auth"),
    (ai.ModelContextWindowExceededError("m", "sk-key"), "context_too_long"),
    (
        ai.ModelRequestRejectedError("m", "x", provider_error_type="exceed_context_size_error"),
        "context_too_long",
    ),
    (ai.ContentFilterError("sk-key"), "content_filter"),
    (ai.OutputTokenLimitExceeded("sk-key"), "output_limit"),
    (ai.ModelRequestTimeout("m", 1), "timeout"),
    (ai.ModelTimeoutError("m", "sk-key"), "timeout"),
    (ai.RunTimedOut("sk-key"), "timeout"),
    (ai.ModelConnectionError("m", "sk-key"), "model_error"),
    (ai.ModelHTTPError(418, "m"), "model_error"),
    (ai.UnexpectedModelBehavior("sk-key"), "model_error"),
    (ai.UserError("sk-key"), "model_error"),
]


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=lambda value: type(value).__name__)
async def test_errors_become_codes_and_safe_sentences(error: Exception, code: str) -> None:
    async def stream(_: list[ModelMessage], __: AgentInfo) -> AsyncIterator[Any]:
        yield "partial"
        raise error

    run = start(FunctionModel(stream_function=stream))
    with pytest.raises(TurnFailed) as caught:
        await collect(run)
    assert caught.value.error_code == code
    assert "sk-key" not in caught.value.message
    assert [(m.content, m.raw["state"]) for m in run.result().messages] == [
        ("partial", "interrupted")
    ]


async def test_a_defect_of_ours_is_not_dressed_up_as_a_failure_of_the_model() -> None:
    assert turn_failure(RuntimeError("ours")) is None

    async def stream(_: list[ModelMessage], __: AgentInfo) -> AsyncIterator[Any]:
        yield "x"
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        await collect(start(FunctionModel(stream_function=stream)))


def _history(*messages: ModelMessage) -> list[dict[str, Any]]:
    dumped: list[dict[str, Any]] = ModelMessagesTypeAdapter.dump_python(list(messages), mode="json")
    return dumped


def test_orphans_unreadable_and_empty_messages_do_not_reach_the_model() -> None:
    call, result = ToolCallPart("f", {}, "a"), ToolReturnPart("f", 1, "a")
    raws = _history(
        ModelRequest(parts=[ToolReturnPart("f", 1, "cut")]),
        ModelRequest(parts=[UserPromptPart("hi"), ToolReturnPart("f", 1, "cut")]),
        ModelResponse(parts=[TextPart("x"), call, ToolCallPart("f", {}, "lost")]),
        ModelRequest(parts=[result]),
        ModelRequest(parts=[ToolReturnPart("f", "again", "a")]),
        ModelResponse(parts=[ToolCallPart("f", {}, "a")]),
        ModelResponse(parts=[], state="interrupted"),
    )
    kept = load_history([*raws[:2], {"kind": "nonsense"}, *raws[2:]])
    assert [[p.part_kind for p in m.parts] for m in kept] == [
        ["user-prompt"],
        ["text", "tool-call"],
        ["tool-return"],
    ]


def test_a_result_follows_its_call_and_bears_its_name() -> None:
    """What callers stored may be in any order; providers refuse what stands in between."""
    call, result = ToolCallPart("f", {}, "a"), ToolReturnPart("other", 1, "a")
    hi = ModelRequest(parts=[UserPromptPart("hi")])
    kept = load_history(_history(hi, ModelResponse(parts=[call]), ModelRequest(parts=[result])))
    (part,) = kept[2].parts
    assert isinstance(part, ToolReturnPart)
    assert part.tool_name == "f"
    for between in (hi, ModelResponse(parts=[TextPart("x")])):
        apart = (hi, ModelResponse(parts=[call]), between, ModelRequest(parts=[result]))
        kinds = [p.part_kind for m in load_history(_history(*apart)) for p in m.parts]
        assert kinds == ["user-prompt", between.parts[0].part_kind]
    two = (ToolCallPart("f", {}, "a"), ToolCallPart("g", {}, "b"))
    results = [ModelRequest(parts=[ToolReturnPart("g", 2, "b")]), ModelRequest(parts=[result])]
    assert len(load_history(_history(hi, ModelResponse(parts=two), *results))) == 4


async def test_what_a_stopped_script_left_behind_can_be_continued_by_a_model() -> None:
    script = {"toolCalls": [{"name": "f", "result": 1}] * 2, "deltas": 3, "intervalMs": 0}
    for stop_behind in range(1, 8):
        request = EngineRequest(
            THREAD, THREAD, THREAD, "scripted", {"script": script}, None, [], ""
        )
        scripted = ScriptedEngine().start(request)
        events = scripted.events()
        for _ in range(stop_behind):
            await anext(events)
        raws = [message.raw for message in scripted.result().messages]
        run = start(TestModel(custom_output_text="on"), history=raws)
        await collect(run)
        assert [m.content for m in run.result().messages] == ["on"]


@pytest.mark.parametrize(
    ("model_id", "cost", "expected"),
    [
        ("openai:x", Decimal("0.0000012"), "0.0000012"),
        ("openai:x", None, None),
        ("local:x", None, "0"),
    ],
)
def test_cost_is_a_plain_decimal_unknown_or_zero(
    model_id: str, cost: Decimal | None, expected: str | None
) -> None:
    usage = usage_of(RunUsage(input_tokens=5, cache_read_tokens=3, cost=cost), model_id)
    assert (usage.total_cost, usage.cached_input_tokens) == (expected, 3)


def test_importing_the_engines_imports_no_model_library() -> None:
    code = (
        "import sys, worker.engine.registry\n"
        "bad = {'pydantic_ai', 'openai', 'anthropic', 'google.genai'} & set(sys.modules)\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
