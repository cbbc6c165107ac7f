"""A thread's agent spec changes what its turns do: from accept to a worker, on real servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from shared.service.agent_specs import AgentSpecService, agent_catalogue
from shared.service.threads import ThreadService
from shared.turn.events import ToolCall, ToolResult
from shared.turn.model import NewTurn, Principal, Redo, Turn
from shared.turn.state import TurnStatus
from tests.chaos.fake_provider import run_provider
from tests.chaos.provider_text import Behaviour, Directive
from tests.fixtures.system import Api, StartWorker, events, follow_all
from tests.fixtures.waiting import wait_until
from tests.integration.worker.test_approvals import decide, parked


def markdown(slug: str = "a", body: str = "Answer in verse.", **more: str) -> str:
    head = {"name": "A", "slug": slug, "mode": "primary", "tools": "[calculator]"} | more
    return "---\n" + "".join(f"{k}: {v}\n" for k, v in head.items()) + f"---\n{body}\n"


class Agents:
    """Specs of one tenant, and threads that have them."""

    def __init__(self, api: Api, principal: Principal) -> None:
        self.specs = AgentSpecService(api.database, agent_catalogue(api.settings))
        self.threads = ThreadService(api.database, api.cancels)
        self.principal = principal

    async def add(self, *args: str, **more: str) -> UUID:
        row = await self.specs.create(self.principal, markdown(*args, **more))
        spec_id: UUID = row["id"]
        return spec_id

    async def thread(self, spec_id: UUID | None, prompt: str | None = None) -> UUID:
        row = await self.threads.create(
            self.principal, title=None, system_prompt=prompt, metadata={}, agent_spec_id=spec_id
        )
        thread_id: UUID = row["id"]
        return thread_id


@pytest.fixture
def agents(api: Api, principal: Principal) -> Agents:
    return Agents(api, principal)


def without_model(new: NewTurn, default: str = "scripted") -> NewTurn:
    return replace(new, model_id=default, names_model=False)


async def messages_of(admin: Any, turn: Turn) -> list[Any]:
    rows: list[Any] = await admin.fetch(
        "select role, content from messages where turn_id = $1 order by seq", turn.id
    )
    return rows


async def test_an_accept_freezes_the_version_and_the_model(
    api: Api, agents: Agents, make_turn: Any
) -> None:
    spec_id = await agents.add(model="scripted")
    thread = await agents.thread(spec_id)
    first = await api.submit(without_model(make_turn(thread=thread), "local:x"))
    assert (first.agent_spec_id, first.agent_spec_version) == (spec_id, 1)
    assert first.model_id == "scripted", "the spec's, before the deployment's default"
    changed = markdown(body="Answer in prose.")
    await agents.specs.update(agents.principal, spec_id, markdown=changed, make_default=False)
    second = await api.submit(without_model(make_turn(thread=thread), "local:x"))
    assert (second.agent_spec_version, second.model_id) == (2, "local:x")
    assert (await api.reload(first)).agent_spec_version == 1
    named = await api.submit(replace(make_turn(thread=thread), model_id="local:y"))
    assert named.model_id == "local:y", "the request's, before the spec's"


async def test_a_thread_without_a_living_spec_has_the_tenants_default(
    api: Api, agents: Agents, make_turn: Any, admin: Any
) -> None:
    await admin.execute("update users set is_admin = true")  # who may choose the default
    alone = await agents.thread(None)
    assert (await api.submit(make_turn(thread=alone))).agent_spec_id is None, "none seeded yet"
    spec_id = await agents.add()
    default_id = await agents.add("chosen")
    await agents.specs.update(agents.principal, default_id, markdown=None, make_default=True)
    assert (await api.submit(make_turn(thread=alone))).agent_spec_id == default_id
    thread = await agents.thread(spec_id)
    await agents.specs.delete(agents.principal, spec_id)
    assert (await api.submit(make_turn(thread=thread))).agent_spec_id == default_id


async def test_a_batch_gives_each_turn_its_own_threads_spec(
    api: Api, agents: Agents, make_turn: Any, admin: Any
) -> None:
    ids = [await agents.add(f"s{number}") for number in range(3)]
    threads = [await agents.thread(spec_id) for spec_id in ids]
    turns = [await api.submit(make_turn(thread=thread)) for thread in threads]
    assert [turn.agent_spec_id for turn in turns] == ids


async def test_a_regenerating_turn_has_the_agent_of_its_own_accept(
    api: Api, agents: Agents, make_turn: Any, start_worker: StartWorker
) -> None:
    spec_id = await agents.add(model="scripted")
    thread = await agents.thread(spec_id)
    await start_worker()
    first = await api.end_of(await api.submit(make_turn(thread=thread)))
    changed = markdown(body="Answer in prose.", model="scripted")
    await agents.specs.update(agents.principal, spec_id, markdown=changed, make_default=False)
    again = replace(without_model(make_turn(thread=thread), "local:x"), redo=Redo(None))
    second = await api.submit(again)
    assert (second.agent_spec_id, second.agent_spec_version) == (spec_id, 2)
    assert second.model_id == "scripted", "the spec's, before the deployment's default"
    assert (await api.reload(second)).agent_spec_version == 2
    assert second.input_message_id == first.input_message_id
    await api.end_of(second)
    named = replace(make_turn(thread=thread), model_id="local:y", redo=Redo(None))
    assert (await api.submit(named)).model_id == "local:y", "the request's, before the spec's"


async def test_a_script_really_calls_the_agents_tools(
    api: Api, agents: Agents, make_turn: Any, start_worker: StartWorker, admin: Any
) -> None:
    thread = await agents.thread(await agents.add(tools="[calculator, approval]"))
    script = {
        "toolCalls": [
            {"name": "calculator", "args": {"expression": "0.1 + 0.2"}},
            {"name": "calculator", "args": {"expression": "1/0"}},
            {"name": "current_time"},
            {"name": "approval", "args": {"reason": "x"}},
        ]
    }
    await start_worker()
    turn = await api.submit(make_turn(thread=thread, **script))
    seen = events(await follow_all(api.hub, turn))
    assert [e.name for e in seen if isinstance(e, ToolCall)] == [
        "calculator", "calculator", "current_time", "approval",
    ]  # fmt: skip
    results = [e for e in seen if isinstance(e, ToolResult)]
    assert results[0].result == {"result": "0.3"}
    assert results[1].error == "Division by zero"
    assert results[2].error == "The agent has no tool current_time"
    assert "needs an approval" in (results[3].error or "")
    assert (await api.end_of(turn)).status is TurnStatus.COMPLETED
    rows = await messages_of(admin, turn)
    assert [row["role"] for row in rows] == ["user", "assistant", "tool", "assistant"]
    assert '{"result":"0.3"}' in rows[2]["content"]


async def test_a_deleted_specs_turn_runs_as_it_was_accepted(
    api: Api, agents: Agents, make_turn: Any, start_worker: StartWorker
) -> None:
    spec_id = await agents.add()
    call = {"name": "calculator", "args": {"expression": "6*7"}}
    new = make_turn(thread=await agents.thread(spec_id), toolCalls=[call])
    turn = await api.submit(new)
    await agents.specs.update(
        agents.principal, spec_id, markdown=markdown(tools="[]"), make_default=False
    )
    await agents.specs.delete(agents.principal, spec_id)
    await start_worker()
    seen = events(await follow_all(api.hub, turn))
    assert [e.result for e in seen if isinstance(e, ToolResult)] == [{"result": "42"}]


class Seen:
    """What a model was asked."""

    def __init__(self) -> None:
        self.instructions: list[str] = []
        self.tools: list[set[str]] = []
        self.settings: list[dict[str, Any]] = []

    async def stream(self, messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        self.instructions.append(info.instructions or "")
        self.tools.append({tool.name for tool in info.function_tools})
        self.settings.append(dict(info.model_settings or {}))
        if info.function_tools and len(messages) == 1:
            yield {0: DeltaToolCall("calculator", '{"expression": "6*7"}', tool_call_id="c")}
        else:
            yield "42"


async def start_with(model: FunctionModel, start_worker: StartWorker, **settings: Any) -> Any:
    worker = await start_worker(local_llm_url="http://127.0.0.1:1/v1", **settings)

    async def give(_: str) -> FunctionModel:
        return model

    worker.parts.engines._agent._models = type("Models", (), {"model": staticmethod(give)})()
    return worker


async def test_instructions_tools_and_sampling_reach_the_model(
    api: Api, agents: Agents, make_turn: Any, start_worker: StartWorker, admin: Any
) -> None:
    await admin.execute(
        "update users set name = 'Ada', timezone = 'Asia/Tokyo' where id = $1",
        agents.principal.user_id,
    )
    spec_id = await agents.add(model_settings="{temperature: 0.5, max_tokens: 99}")
    thread = await agents.thread(spec_id, prompt="Thread says.")
    seen = Seen()
    await start_with(FunctionModel(stream_function=seen.stream), start_worker, local_llm_tools=True)
    new = replace(
        make_turn("What is 6*7?", thread=thread), model_id="local:x", system_prompt="Turn says.",
        settings={"temperature": 0.1},
    )  # fmt: skip
    turn = await api.end_of(await api.submit(new))
    assert turn.status is TurnStatus.COMPLETED
    told = seen.instructions[0]
    places = [
        told.index(text) for text in ("in verse", "Thread says", "Turn says", "Ada", "It is ")
    ]
    assert places == sorted(places)
    assert "Test" in told, "the organization"
    assert "Asia/Tokyo (UTC+09:00)" in told
    assert seen.tools[0] == {"calculator"}
    assert seen.settings[0]["temperature"] == 0.1, "the turn's own goes first"
    assert seen.settings[0]["max_tokens"] == 99
    assert [row["content"] for row in await messages_of(admin, turn)] == [
        "What is 6*7?", "", '{"result":"42"}', "42",
    ]  # fmt: skip


async def test_who_owns_a_thread_is_not_told_where_somebody_else_talks(
    api: Api, agents: Agents, make_turn: Any, start_worker: StartWorker, admin: Any
) -> None:
    await admin.execute(
        "update users set name = 'Ada', timezone = 'Asia/Tokyo' where id = $1",
        agents.principal.user_id,
    )
    thread = await agents.thread(await agents.add())
    seen = Seen()
    await start_with(FunctionModel(stream_function=seen.stream), start_worker)
    for is_anonymous in (True, False):
        settings = {"isAnonymous": is_anonymous}
        new = replace(make_turn("x", thread=thread), model_id="local:x", settings=settings)
        turn = await api.end_of(await api.submit(new))
        assert turn.status is TurnStatus.COMPLETED
        told = seen.instructions[-1]
        assert ("Ada" in told) is ("@" in told) is not is_anonymous
        assert ("UTC (UTC+00:00)" in told) is is_anonymous


async def test_a_plain_turn_asks_postgres_nothing_more_than_before(
    api: Api, agents: Agents, make_turn: Any, start_worker: StartWorker
) -> None:
    await agents.specs.list_specs(agents.principal, mode=None, limit=1, offset=0)
    thread = await agents.thread(None)
    worker = await start_worker()
    asked: list[str] = []
    fetch_one = worker.parts.database.fetch_one

    async def spy(name: str, *args: Any) -> Any:
        asked.append(name)
        return await fetch_one(name, *args)

    worker.parts.database.fetch_one = spy  # type: ignore[method-assign]
    for _ in range(3):
        await api.end_of(await api.submit(make_turn(thread=thread)))
    assert asked.count("get_agent_spec_version") == 1, "once per version and worker"
    assert "get_profile" not in asked


async def test_the_real_path_calls_a_tool_over_http(
    api: Api, agents: Agents, make_turn: Any, start_worker: StartWorker
) -> None:
    asks = Behaviour(do="call", value=("calculator", '{"expression": "6*7"}'))
    fails = Behaviour(do="call", value=("calculator", '{"expression": "x"}'))
    prompt = Directive("t", calls=(asks, fails, Behaviour(deltas=2))).prompt()
    async with run_provider() as provider:
        await start_worker(local_llm_url=provider.url, local_llm_tools=True)
        thread = await agents.thread(await agents.add())
        new = replace(make_turn(prompt, thread=thread), model_id="local:x", settings={})
        turn = await api.submit(new)
        results = [
            event
            for event in events(await follow_all(api.hub, turn))
            if isinstance(event, ToolResult)
        ]
        assert (await api.end_of(turn)).status is TurnStatus.COMPLETED
    assert results[0].result == {"result": "42"}
    assert "Only numbers" in (results[1].error or "")
    first, second, third = (call.body["messages"] for call in provider.calls)
    assert first[0]["role"] == "system"
    assert "in verse" in first[0]["content"]
    assert (second[-1]["role"], "42" in second[-1]["content"]) == ("tool", True)
    assert "Only numbers" in third[-1]["content"]


NEEDS = {
    "approval": ({"tools": "[approval]"}, '{"reason": "Send it"}', {"approved": True}),
    "calculator": (
        {"permissions": "{require_approval: [calculator]}"}, '{"expression": "6*7"}',
        {"result": "42"},
    ),
}  # fmt: skip
"""Tool → what makes an agent ask for it, arguments, and what an approved call gives."""


@pytest.mark.parametrize("approved", [True, False])
@pytest.mark.parametrize("tool", NEEDS)
async def test_a_turn_is_parked_until_somebody_has_decided_on_its_agents_tool(
    api: Api,
    agents: Agents,
    make_turn: Any,
    start_worker: StartWorker,
    tool: str,
    approved: bool,
) -> None:
    head, arguments, gives = NEEDS[tool]
    thread = await agents.thread(await agents.add(**head))

    async def stream(messages: list[ModelMessage], _: AgentInfo) -> AsyncIterator[Any]:
        if len(messages) == 1:
            yield {0: DeltaToolCall(tool, arguments, tool_call_id="c")}
        else:
            yield "done"

    worker = await start_with(
        FunctionModel(stream_function=stream), start_worker, local_llm_tools=True
    )
    new = replace(make_turn(thread=thread), model_id="local:x", settings={})
    turn = await parked(api, await api.submit(new))
    assert [asked.tool_name for asked in turn.approvals] == [tool]
    await wait_until(lambda: not len(worker.parts.held), "no worker holds it", 5)
    await decide(api, turn, approved=approved, reason=None if approved else "Not today")
    ended = await api.end_of(turn)
    assert (ended.status, ended.error) == (TurnStatus.COMPLETED, None)
    (result,) = [e for e in events(await follow_all(api.hub, ended)) if isinstance(e, ToolResult)]
    if approved:
        assert (result.result, result.error) == (gives, None)
    else:
        assert (result.denied, result.error) == (True, "Not today")
