"""Our tools through pydantic-ai, and what a run may cost; no socket is opened here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from pydantic import JsonValue
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models import Model
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.usage import RequestUsage

from shared.errors import TurnFailed
from shared.turn.approval import Approval, Decision
from shared.turn.events import MessageDelta, ToolCall, ToolResult
from tests.unit.engine.test_agent_engine import THREAD, TURN, OneModel, collect
from tests.unit.tools.test_tools import CONTEXT, Odd
from worker.engine.agent import AgentEngine, Deadlines, ToolLimits
from worker.engine.base import EngineRequest, EngineRun, Resumption
from worker.tools.base import OfferedTool
from worker.tools.registry import TOOLS


def start(
    model: Model, *tools: OfferedTool, limits: ToolLimits | None = None, **more: Any
) -> EngineRun:
    engine = AgentEngine(OneModel(model), Deadlines(5, 5, 5), tool_limits=limits)
    request = EngineRequest(
        turn_id=TURN, thread_id=THREAD, tenant_id=THREAD, model_id=more.pop("model_id", "openai:x"),
        settings={}, instructions=None, history=[], prompt="hello", tools=tools,
        tool_context=CONTEXT, **more,
    )  # fmt: skip
    return engine.start(request)


def offered(name: str) -> OfferedTool:
    return OfferedTool(TOOLS[name], requires_approval=False)


def calls(*asked: tuple[str, str]) -> FunctionModel:
    """A model that calls tools, then says how many messages it has seen."""

    async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        assert {tool.name for tool in info.function_tools}
        if len(messages) == 1:
            for number, (name, arguments) in enumerate(asked):
                yield {number: DeltaToolCall(name, arguments, tool_call_id=f"c{number}")}
        else:
            yield "done"

    return FunctionModel(stream_function=stream)


async def test_a_model_calls_our_tools_and_reads_their_results() -> None:
    model = calls(("calculator", '{"expression": "6*7"}'), ("current_time", "{}"))
    run = start(model, offered("calculator"), offered("current_time"))
    events = await collect(run)
    assert [e.name for e in events if isinstance(e, ToolCall)] == ["calculator", "current_time"]
    results = {e.tool_call_id: e.result for e in events if isinstance(e, ToolResult)}
    assert results["c0"] == {"result": "42"}
    assert results["c1"]["timezone"] == "America/Denver"
    assert events[-1] == MessageDelta(text="done")
    assert [m.role for m in run.result().messages] == ["assistant", "tool", "assistant"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ('{"expression": "1/0"}', "Division by zero"),
        ('{"expr": "1"}', "Wrong arguments"),
        ("{}", "expression: Field required"),
    ],
)
async def test_a_failed_call_is_told_to_the_model_and_the_turn_goes_on(
    arguments: str, told: str
) -> None:
    run = start(calls(*[("calculator", arguments)] * 4), offered("calculator"))
    events = await collect(run)
    errors = [e.error for e in events if isinstance(e, ToolResult)]
    assert len(errors) == 4
    assert all(error is not None and told in error for error in errors)
    assert events[-1] == MessageDelta(text="done")


async def test_a_tool_that_hangs_does_not_hang_the_turn() -> None:
    async def hang() -> JsonValue:
        await asyncio.Event().wait()
        return None

    run = start(calls(("odd", "{}")), OfferedTool(Odd(hang), False), limits=ToolLimits(call_s=0.02))
    events = await collect(run)
    (result,) = [e for e in events if isinstance(e, ToolResult)]
    assert "0.02 s" in (result.error or "")
    assert events[-1] == MessageDelta(text="done")


async def test_a_run_may_not_call_tools_for_ever() -> None:
    async def stream(messages: list[ModelMessage], _: AgentInfo) -> AsyncIterator[Any]:
        arguments = '{"expression": "1"}'
        yield {0: DeltaToolCall("calculator", arguments, tool_call_id=f"c{len(messages)}")}

    model = FunctionModel(stream_function=stream)
    run = start(model, offered("calculator"), limits=ToolLimits(calls=3))
    with pytest.raises(TurnFailed) as failed:
        await collect(run)
    assert failed.value.error_code == "output_limit"


async def test_local_models_are_offered_tools_only_where_the_operator_says_so() -> None:
    seen: list[int] = []

    async def stream(_: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        seen.append(len(info.function_tools))
        yield "hi"

    for allowed in (False, True):
        limits = ToolLimits(local_models=allowed)
        model = FunctionModel(stream_function=stream)
        await collect(start(model, offered("calculator"), limits=limits, model_id="local:x"))
    assert seen == [0, 1]


# -- cost


class Priced(FunctionModel):
    """Says that it is a model with a known price; each response costs a cent and more."""

    @property
    def model_name(self) -> str:
        return "gpt-5"

    @property
    def system(self) -> str:
        return "openai"


def expensive() -> Priced:
    async def stream(messages: list[ModelMessage], _: AgentInfo) -> AsyncIterator[Any]:
        if len(messages) < 7:
            arguments = '{"expression": "1"}'
            yield {0: DeltaToolCall("calculator", arguments, tool_call_id=f"c{len(messages)}")}
        else:
            yield "done"

    return Priced(stream_function=stream)


async def test_a_run_that_has_cost_too_much_asks_the_model_nothing_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "pydantic_ai.models.function._estimate_usage",
        lambda _: RequestUsage(input_tokens=10_000, output_tokens=10, cost=Decimal("0.01")),
        raising=True,
    )
    run = start(expensive(), offered("calculator"), max_cost=Decimal("0.015"))
    with pytest.raises(TurnFailed) as failed:
        await collect(run)
    assert failed.value.error_code == "cost_limit"
    assert "0.015" in failed.value.message
    result = run.result()
    assert result.usage.total_cost is not None
    assert Decimal("0.015") < Decimal(result.usage.total_cost) < Decimal("0.05")


async def test_a_limit_that_nobody_could_keep_is_refused_before_the_first_request() -> None:
    run = start(calls(), offered("calculator"), max_cost=Decimal(1))
    with pytest.raises(TurnFailed) as failed:
        await collect(run)
    assert failed.value.error_code == "cost_limit"
    assert run.result().messages == []


async def test_a_model_of_our_own_costs_nothing() -> None:
    run = start(
        calls(("calculator", '{"expression": "1"}')), offered("calculator"),
        max_cost=Decimal("0.000001"), model_id="local:x",
    )  # fmt: skip
    assert (await collect(run))[-1] == MessageDelta(text="done")


# -- a turn that was parked


def parked_after(rounds: int) -> FunctionModel:
    """Calculates so often, asks for leave, and goes on calculating."""

    async def stream(messages: list[ModelMessage], _: AgentInfo) -> AsyncIterator[Any]:
        number = sum(message.kind == "response" for message in messages)
        asks = number == rounds
        name, arguments = ("approval", '{"reason": "x"}') if asks else SUM
        yield {0: DeltaToolCall(name, arguments, tool_call_id=f"c{number}")}

    return FunctionModel(stream_function=stream)


SUM = ("calculator", '{"expression": "1"}')
TOOLSET = (offered("calculator"), OfferedTool(TOOLS["approval"], requires_approval=True))


async def resumption_of(run: EngineRun, **more: Any) -> Resumption:
    await collect(run)
    result = run.result()
    (asked,) = result.asked
    decision = Decision(asked.tool_call_id, approved=True)
    return Resumption(
        round=1,
        messages=[message.raw for message in result.messages],
        approvals=[Approval(1, asked.tool_call_id, decision)],
        **more,
    )


@pytest.mark.parametrize(("most", "made"), [(2, 0), (3, 1), (5, 3)])
async def test_a_parked_turn_has_no_new_budget_of_calls(most: int, made: int) -> None:
    limits, model = ToolLimits(calls=most), parked_after(2)
    resumption = await resumption_of(start(model, *TOOLSET, limits=limits))
    run = start(model, *TOOLSET, limits=limits, resumption=resumption)
    events: list[Any] = []

    async def collect_until_it_fails() -> None:
        async for event in run.events():
            events.append(event)

    with pytest.raises(TurnFailed) as failed:
        await collect_until_it_fails()
    assert failed.value.error_code == "output_limit"
    assert sum(isinstance(event, ToolResult) for event in events) == made, "2 before the parking"


async def test_a_parked_turn_has_no_new_budget_of_money(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pydantic_ai.models.function._estimate_usage",
        lambda _: RequestUsage(input_tokens=10_000, output_tokens=10, cost=Decimal("0.01")),
        raising=True,
    )
    function = parked_after(1).stream_function
    assert function is not None
    model, most = Priced(stream_function=function), Decimal("0.05")
    known = await resumption_of(start(model, *TOOLSET, max_cost=most), spent=Decimal("0.02"))
    run = start(model, *TOOLSET, max_cost=most, resumption=known)
    with pytest.raises(TurnFailed) as failed:
        await collect(run)
    assert failed.value.error_code == "cost_limit"
    assert "0.05" in failed.value.message, "what the spec says, not what was left"
    cost = Decimal(run.result().usage.total_cost or 0)
    assert cost == Decimal("0.04"), "0.02 before the parking, and the one call that crosses"
