"""Approvals through pydantic-ai: asked, decided elsewhere, gone on with. No socket is opened."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.toolsets import FunctionToolset

from shared.ids import new_id
from shared.turn.approval import Approval, Decision
from shared.turn.events import MessageDelta, ToolCall, ToolResult
from shared.turn.retell import retell
from shared.turn.text import storable_json
from tests.unit.engine.test_agent_engine import collect, start
from worker.engine.base import EngineResult, Resumption


class Shop:
    """Tools that note who called them: one may be used freely, the other costs money."""

    def __init__(self) -> None:
        self.looked: list[str] = []
        self.paid: list[int] = []
        self.toolset: FunctionToolset[None] = FunctionToolset()

        @self.toolset.tool_plain
        def look(what: str) -> str:
            self.looked.append(what)
            return f"{what} costs 5"

        @self.toolset.tool_plain(requires_approval=True)
        def pay(euros: int) -> str:
            if euros < 0:
                raise ValueError("nonsense")
            self.paid.append(euros)
            return f"paid {euros}"


async def shopper(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
    """Looks and wants to pay twice; then tells what it was told."""
    returns = [p for m in messages for p in m.parts if p.part_kind == "tool-return"]
    if not returns:
        yield "Let me. "
        yield {
            0: DeltaToolCall(name="look", json_args='{"what": "tea"}', tool_call_id="a"),
            1: DeltaToolCall(name="pay", json_args='{"euros": 5}', tool_call_id="b"),
            2: DeltaToolCall(name="pay", json_args='{"euros": 7}', tool_call_id="c"),
        }
    else:
        yield "Told: " + ", ".join(str(part.content) for part in returns)


async def ask(shop: Shop, model: FunctionModel) -> EngineResult:
    run = start(model, toolsets=[shop.toolset])
    events = await collect(run)
    assert [e.tool_call_id for e in events if isinstance(e, ToolCall)] == ["a", "b", "c"]
    result = run.result()
    told = [e for e in events if not isinstance(e, MessageDelta)]
    stored = retell([message.raw for message in result.messages])
    again = [e for e in stored if not isinstance(e, MessageDelta)]
    assert sorted(map(repr, again)) == sorted(map(repr, told)), "what is stored tells the same"
    return result


def resumption(result: EngineResult, *approvals: Approval) -> Resumption:
    """As Postgres gives it back."""
    raws = orjson.loads(orjson.dumps([storable_json(m.raw) for m in result.messages]))
    return Resumption(round=1, messages=raws, approvals=list(approvals))


def decided(call: str, *, approved: bool, reason: str | None = None, **rest: Any) -> Approval:
    return Approval(1, call, Decision(call, approved, reason), **rest)


async def test_a_call_that_needs_approval_ends_the_run_unmade() -> None:
    shop = Shop()
    result = await ask(shop, FunctionModel(stream_function=shopper))
    assert [(c.tool_call_id, c.name, c.args) for c in result.asked] == [
        ("b", "pay", {"euros": 5}), ("c", "pay", {"euros": 7}),
    ]  # fmt: skip
    assert (shop.looked, shop.paid) == (["tea"], [])
    assert [message.role for message in result.messages] == ["assistant", "tool"]
    assert result.messages[0].raw["state"] != "interrupted"


async def test_the_next_run_makes_what_was_approved_and_tells_why_not() -> None:
    shop = Shop()
    model = FunctionModel(stream_function=shopper)
    known = resumption(
        await ask(shop, model),
        decided("b", approved=True),
        decided("c", approved=False, reason="too dear"),
    )
    run = start(model, toolsets=[shop.toolset], resumption=known)
    events = await collect(run)
    assert shop.paid == [5], "made once"
    assert shop.looked == ["tea"], "not again"
    assert not [e for e in events if isinstance(e, ToolCall)], "they were told when asked for"
    results = {e.tool_call_id: e for e in events if isinstance(e, ToolResult)}
    assert (results["b"].result, results["b"].denied) == ("paid 5", None)
    assert (results["c"].error, results["c"].denied) == ("too dear", True)
    result = run.result()
    assert [message.role for message in result.messages] == ["tool", "assistant"]
    assert result.messages[-1].content == "Told: tea costs 5, paid 5, too dear"
    assert not result.asked
    assert result.usage.output_tokens > 0


@pytest.mark.parametrize(
    ("outcome", "told"),
    [({"result": "paid before"}, "paid before"), ({"error": "the till is shut"}, "the till")],
)
async def test_a_call_that_was_made_before_is_not_made_again(
    outcome: dict[str, Any], told: str
) -> None:
    shop = Shop()
    model = FunctionModel(stream_function=shopper)
    known = resumption(
        await ask(shop, model),
        decided("b", approved=True, outcome=outcome),
        decided("c", approved=False),
    )
    run = start(model, toolsets=[shop.toolset], resumption=known)
    await collect(run)
    assert shop.paid == []
    assert told in run.result().messages[-1].content
    assert "denied" in run.result().messages[-1].content


async def test_a_turn_that_asked_is_history_for_the_next_one() -> None:
    shop = Shop()
    model = FunctionModel(stream_function=shopper)
    asked = await ask(shop, model)
    known = resumption(asked, decided("b", approved=True), decided("c", approved=True))
    run = start(model, toolsets=[shop.toolset], resumption=known)
    await collect(run)
    messages = [message.raw for message in [*asked.messages, *run.result().messages]]
    later = start(model, toolsets=[shop.toolset], history=messages, turn_id=new_id())
    await collect(later)
    assert "paid 7" in later.result().messages[-1].content
    assert sorted(shop.paid) == [5, 7], "both at once"


async def test_a_model_without_tools_is_asked_as_before() -> None:
    seen: list[AgentInfo] = []

    async def speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        seen.append(info)
        yield "hello"

    run = start(FunctionModel(stream_function=speak))
    await collect(run)
    assert run.result().messages[-1].content == "hello"
    assert not seen[0].function_tools
    assert not seen[0].output_tools
