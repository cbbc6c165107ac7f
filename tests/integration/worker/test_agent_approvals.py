"""A turn of pydantic-ai with a tool that needs approval, from the submit to the paid bill."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from pydantic_ai.messages import ModelMessage
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from shared.turn.approval import Decision
from shared.turn.state import TurnStatus
from tests.fixtures.system import Api, MakeTurn, RunningWorker, StartWorker
from tests.integration.worker.test_approvals import decide, messages_of, parked, service_of, who
from tests.unit.engine.test_agent_approvals import Shop, shopper
from tests.unit.engine.test_agent_engine import OneModel
from worker.engine.agent import AgentEngine, Deadlines


async def start_shop(start_worker: StartWorker, shop: Shop, speak: Any = shopper) -> RunningWorker:
    worker = await start_worker(openai_api_key="no secret")
    model = OneModel(FunctionModel(stream_function=speak))
    worker.parts.engines._agent = AgentEngine(model, Deadlines(5, 5, 5), [shop.toolset])
    return worker


async def test_what_is_approved_is_made_once_by_another_worker(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, admin: Any
) -> None:
    shop, other_shop = Shop(), Shop()
    worker = await start_shop(start_worker, shop)
    turn = await parked(api, await api.submit(replace(make_turn(), model_id="openai:test")))
    assert turn.usage is not None
    await worker.drain()
    await start_shop(start_worker, other_shop)
    decisions = [Decision("b", True), Decision("c", False, "too dear")]
    assert [asked.tool_call_id for asked in turn.approvals] == ["b", "c"]
    await service_of(api).decide(who(turn), turn.id, decisions)
    ended = await api.end_of(turn)
    assert (ended.status, ended.error) == (TurnStatus.COMPLETED, None)
    assert (shop.looked, shop.paid) == (["tea"], [])
    assert (other_shop.looked, other_shop.paid) == ([], [5])
    *_, answer = await messages_of(api, turn)
    assert answer["content"] == "Told: tea costs 5, paid 5, too dear"
    assert ended.usage is not None
    assert ended.usage.input_tokens > turn.usage.input_tokens, "both attempts"
    billed = await admin.fetchval("select input_tokens from usage")
    assert billed == ended.usage.input_tokens
    rows = await admin.fetch("select outcome from turn_approvals order by place")
    assert [row["outcome"] for row in rows] == ['{"result": "paid 5"}', None]


async def stubborn(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
    yield {0: DeltaToolCall(name="pay", json_args='{"euros": 5}', tool_call_id="call_0")}


async def test_an_id_of_a_call_is_not_taken_twice(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, admin: Any
) -> None:
    """A decision that is sent again must never be taken for one on a call that nobody has seen."""
    shop = Shop()
    await start_shop(start_worker, shop, stubborn)
    turn = await parked(api, await api.submit(replace(make_turn(), model_id="openai:test")))
    await decide(api, turn)
    ended = await api.end_of(turn)
    assert ended.status is TurnStatus.FAILED
    assert ended.error == {
        "code": "model_error", "message": "The model has used the id of a tool call again",
    }  # fmt: skip
    assert shop.paid == [5], "what was approved"
    assert await admin.fetchval("select count(*) from turn_approvals") == 1
