"""Interactions: history, parameters, agents, several messages, cancels, deletes, waits."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import httpx
import pytest
from starlette.applications import Starlette

from shared.ids import new_id
from shared.settings import Settings
from shared.turn.events import START
from tests.chaos.fake_provider import FakeProvider
from tests.fixtures.system import RunningWorker, StartWorker
from tests.fixtures.waiting import wait_until
from tests.integration.zylon_surface.conftest import (
    AddMember,
    Member,
    bare,
    directive,
    frames_of,
    user_says,
)
from tests.integration.zylon_surface.test_transcripts import upload

pytestmark = pytest.mark.timeout(90)  # the first worker of a process imports the model libraries


class TestWithAModel:
    """What reaches a provider, and what its answers become."""

    @pytest.fixture
    def settings(self, settings: Settings, provider: FakeProvider) -> Settings:
        changes = {
            "local_llm_url": provider.url,
            "default_model": "local:tiny",
            "ingestion_poll_s": 0.1,
        }
        return settings.model_copy(update=changes)

    async def test_parameters_reach_the_model(
        self, member: Member, worker: RunningWorker, provider: FakeProvider
    ) -> None:
        chosen = {
            "max_tokens": 120, "temperature": 0.2, "top_p": 0.5, "seed": 7,
            "presence_penalty": 0.1, "frequency_penalty": 0.3,
        }  # fmt: skip
        await member.asked(await member.thread(), pgpt=chosen)
        sent = provider.calls[-1].body
        limit = sent.pop("max_completion_tokens", None) or sent.pop("max_tokens", None)
        assert limit == 120
        assert {name: sent[name] for name in chosen if name != "max_tokens"} == {
            name: value for name, value in chosen.items() if name != "max_tokens"
        }
        senseless = {"max_tokens": 0, "temperature": -1, "frequency_penalty": -2}
        await member.asked(await member.thread(), pgpt=senseless)
        assert not senseless.keys() & provider.calls[-1].body.keys()

    @pytest.mark.parametrize(("reason", "told"), [("stop", "end_turn"), ("length", "max_tokens")])
    async def test_the_stop_reason_is_the_models(
        self, member: Member, worker: RunningWorker, reason: str, told: str
    ) -> None:
        prompt = directive(reason, do="finish", value=reason)
        made = await member.asked(await member.thread(), prompt)
        assert made["assistant_output"]["stop_reason"] == told
        assert made["assistant_output"]["usage"] == {"input_tokens": 11, "output_tokens": 3}
        streamed = await member.get(f"/interaction/{made['id']}/stream")
        delta = dict(frames_of(streamed.text))["message_delta"]
        assert delta["delta"] == {"stop_reason": told}
        chat = await member.post("/chat", json={"messages": [user_says(prompt)]})
        assert chat.json()["stop_reason"] == told
        live = await member.post("/chat", json={"messages": [user_says(prompt)], "stream": True})
        assert dict(frames_of(live.text))["message_delta"]["delta"] == {"stop_reason": told}

    async def test_history_then_all_messages_then_the_last(
        self, member: Member, worker: RunningWorker, provider: FakeProvider
    ) -> None:
        thread = await member.thread()
        first = await member.asked(thread, "FIRST")
        several = [
            {"role": "system", "content": "SYSTEM"},
            user_says("SECOND"),
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm"},
                {"type": "text", "text": "THIRD"},
                {"type": "tool_use", "id": "t1", "name": "look", "input": {"a": 1}},
                {"type": "hologram", "data": 1},
            ]},
            {"role": "tool", "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "FOURTH"},
            ]},
            {"role": "user", "content": "FIFTH"},
        ]  # fmt: skip
        asked = {"messages": several, "system": {"text": "ALSO"}}
        answered = await member.post(f"/thread/{thread}/interaction", json={"pgpt": asked})
        assert answered.status_code == 201, answered.text
        assert answered.json()["user_input"] == user_says("FIFTH")
        sent = provider.calls[-1].body["messages"]
        system = "\n".join(str(m["content"]) for m in sent if m["role"] == "system")
        assert "ALSO\n\nSYSTEM" in system
        talk = [m for m in sent if m["role"] != "system"]
        answer = first["assistant_output"]["content"][0]["text"]
        assert [(m["role"], m["content"]) for m in talk] == [
            ("user", "FIRST"), ("assistant", answer), ("user", "SECOND"), ("assistant", "THIRD"),
            ("tool", "FOURTH"), ("user", "FIFTH"),
        ]  # fmt: skip
        assert talk[3]["tool_calls"][0]["function"]["name"] == "look"
        # What one interaction brought along is part of what later ones are told.
        await member.asked(thread, "SIXTH")
        told = [m["content"] for m in provider.calls[-1].body["messages"] if m["role"] != "system"]
        assert told[:2] == ["FIRST", answer]
        assert told[2:6] == ["SECOND", "THIRD", "FOURTH", "FIFTH"]
        assert told[-1] == "SIXTH"
        shown = (await member.chat.get(f"/threads/{bare(thread)}/messages")).json()["items"]
        assert [m["content"] for m in shown if m["role"] == "user"] == ["FIRST", "FIFTH", "SIXTH"]

    async def test_a_deleted_interaction_is_told_to_no_model(
        self, member: Member, worker: RunningWorker, provider: FakeProvider
    ) -> None:
        thread = await member.thread()
        await member.asked(thread, "KEPT")
        gone = await member.asked(thread, "GONE")
        shown = (await member.chat.get(f"/threads/{bare(thread)}")).json()
        assert (await member.delete(f"/interaction/{gone['id']}")).status_code == 200
        assert (await member.delete(f"/interaction/{gone['id']}")).status_code == 404
        left = (await member.chat.get(f"/threads/{bare(thread)}")).json()
        assert left["lastMessageAt"] < shown["lastMessageAt"]
        listed = (await member.get(f"/thread/{thread}/interaction")).json()
        assert (len(listed["data"]), listed["total_count"]) == (1, 1)
        await member.asked(thread, "LATER")
        assert "GONE" not in str(provider.calls[-1].body)
        assert "KEPT" in str(provider.calls[-1].body)

    async def test_artifacts_are_shown_to_the_model_of_their_interaction(
        self, member: Member, worker: RunningWorker, provider: FakeProvider
    ) -> None:
        thread = await member.thread()
        artifact = await upload(member, b"The code is 4711.")
        await upload(member, b"The colour is red.")
        made = await member.asked(thread, artifact_ids=[artifact["id"]])
        assert made["artifact_ids"] == [artifact["id"]]
        assert "4711" in str(provider.calls[-1].body)
        assert "red" not in str(provider.calls[-1].body)
        everything = await member.asked(thread, all_artifacts=True)
        assert (everything["artifact_ids"], everything["all_artifacts"]) == ([], True)
        assert "4711" in str(provider.calls[-1].body)
        assert "red" in str(provider.calls[-1].body)
        await member.asked(thread)
        assert "4711" not in str(provider.calls[-1].body)

    async def test_the_agent_of_research_is_the_tenants_own(
        self, member: Member, worker: RunningWorker, provider: FakeProvider
    ) -> None:
        thread = await member.thread()
        refused = await member.ask(thread, agent="ProjectDeepResearch")
        assert refused.status_code == 400
        assert "project-deep-research" in refused.json()["error"]["message"]
        markdown = (
            "---\nname: R\nslug: project-deep-research\nmode: primary\ntools: []\n---\nDIG DEEP."
        )
        specs = "http://test/api/v1/agents/specs"
        made = await member.chat.post(specs, json={"markdown": markdown})
        assert made.status_code == 201, made.text
        told = await member.asked(thread, agent="ProjectDeepResearch")
        assert told["agent"] == "ProjectDeepResearch"
        assert "DIG DEEP." in str(provider.calls[-1].body)
        assert (await member.asked(thread))["agent"] == "Default"
        assert "DIG DEEP." not in str(provider.calls[-1].body)

    async def test_a_failed_interaction_says_why(
        self, member: Member, worker: RunningWorker
    ) -> None:
        prompt = directive("failing", do="status", status=400)
        made = await member.asked(await member.thread(), prompt)
        assert made["state"] == "Error"
        output = made["assistant_output"]
        assert output["stop_reason"] == "error"
        (error,) = output["errors"]
        assert error["type"] == "api_error"
        assert error["message"]
        streamed = await member.get(f"/interaction/{made['id']}/stream")
        frames = frames_of(streamed.text)
        assert frames[-2:] == [
            ("error", {"type": "error", "error": error}),
            ("message_stop", {"type": "message_stop"}),
        ]
        chat = await member.post("/chat", json={"messages": [user_says(prompt)]})
        assert chat.status_code == 500
        assert chat.json() == {"type": "error", "error": error}


class TestWithFewAttachments:
    """Of a thread, whoever attaches them."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(
            update={"max_attachments_per_thread": 3, "ingestion_poll_s": 0.1}
        )

    async def test_a_thread_has_so_many_attachments(
        self, member: Member, worker: RunningWorker, admin: Any
    ) -> None:
        """Also where they come at once."""
        thread = await member.thread()
        wanted = [(await upload(member, b"%d" % number))["id"] for number in range(2)]
        asked: dict[str, Any] = {"artifact_ids": wanted, "pgpt": {"stream": True}}
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(member.ask(thread, **asked)) for _ in range(3)]
        answers = [task.result() for task in tasks]
        assert sorted(answer.status_code for answer in answers) == [201, 409, 409]
        (refused, _) = (answer for answer in answers if answer.status_code == 409)
        assert refused.json()["error"]["type"] == "conflict_error"
        assert refused.json()["error"]["message"].startswith("A thread may have at most 3")
        counted = "select attachment_count from threads where id = $1"
        assert await admin.fetchval(counted, UUID(bare(thread))) == 2
        (made,) = (await member.get(f"/thread/{thread}/interaction")).json()["data"]
        assert (await member.delete(f"/interaction/{made['id']}")).status_code == 200
        assert (await member.ask(thread, **asked)).status_code == 201, "there is room again"


async def test_a_body_may_hold_what_an_answer_holds(member: Member, worker: RunningWorker) -> None:
    """Unknown members are ignored, whatever they are called elsewhere."""
    thread = await member.thread()
    more: dict[str, Any] = {
        "status": "x",
        "user_id": 1,
        "usage": {},
        "created_at": "x",
        "correlation_id": "c",
    }
    assert (await member.ask(thread, pgpt=more, **more)).status_code == 201
    told = (await member.get(f"/thread/{thread}")).json()
    changed = await member.put(f"/thread/{thread}", json={**told, "name": "Other"})
    assert (changed.status_code, changed.json()["name"]) == (200, "Other")


@pytest.mark.parametrize("kind", ["unknown", "malformed", "foreign", "other private"])
async def test_an_artifact_that_one_cannot_see_is_not_found(
    member: Member, add_member: AddMember, kind: str, worker: RunningWorker
) -> None:
    wanted = {"unknown": f"artifact_{new_id().hex}", "malformed": "artifact_x"}.get(kind)
    if kind == "foreign":
        wanted = (await upload(await add_member()))["id"]
    elif kind == "other private":
        colleague = await add_member(member)
        colleague.project_id = await colleague.project("Private")
        wanted = (await upload(colleague))["id"]
    refused = await member.ask(await member.thread(), artifact_ids=[wanted])
    assert refused.status_code == 404
    assert refused.json()["error"] == {"type": "not_found_error", "message": "Artifact not found"}


async def test_an_artifact_must_be_ingested(member: Member) -> None:
    """No worker runs: nobody reads it."""
    artifacts = f"/project/{member.project_id}/artifact"
    form = {"data": {"type": "Document"}, "files": {"fileData": ("a.txt", b"x")}}
    made = (await member.post(artifacts, **form)).json()  # type: ignore[arg-type]
    assert made["ingest_status"] == "NotStarted"
    thread = await member.thread()
    for asked in ({"artifact_ids": [made["id"]]}, {"all_artifacts": True}):
        refused = await member.ask(thread, **asked)
        assert refused.status_code == 400
        assert refused.json()["error"]["type"] == "invalid_request_error"
        assert "is not fully ingested" in refused.json()["error"]["message"]


async def again(member: Member, thread: str, **more: Any) -> httpx.Response:
    """Asks under one key; no answer is waited for."""
    body = {"pgpt": {"messages": [user_says("Hello")], "stream": True}, **more}
    path = f"/thread/{thread}/interaction"
    return await member.post(path, json=body, headers={"idempotency-key": "k"})


@pytest.mark.parametrize("gone", ["artifact", "agent", "all read"])
async def test_a_repeated_request_needs_nothing_that_has_gone_since(
    member: Member, worker: RunningWorker, gone: str
) -> None:
    thread = await member.thread()
    specs = "http://test/api/v1/agents/specs"
    markdown = "---\nname: R\nslug: project-deep-research\nmode: primary\ntools: []\n---\nDIG."
    spec = (await member.chat.post(specs, json={"markdown": markdown})).json()["id"]
    artifact = (await upload(member))["id"]
    bodies: dict[str, dict[str, Any]] = {
        "artifact": {"artifact_ids": [artifact]},
        "agent": {"agent": "ProjectDeepResearch"},
        "all read": {"all_artifacts": True},
    }
    asked = bodies[gone]
    first = await again(member, thread, **asked)
    assert first.status_code == 201, first.text
    if gone == "artifact":
        path = f"http://test/api/v1/artifacts/{bare(artifact)}"
        removed = await member.chat.delete(path)
    elif gone == "agent":
        removed = await member.chat.delete(f"{specs}/{spec}")
    else:
        await worker.drain()  # nobody reads what comes now
        form = {"data": {"type": "Document"}, "files": {"fileData": ("a.txt", b"x")}}
        removed = await member.post(f"/project/{member.project_id}/artifact", **form)  # type: ignore[arg-type]
    assert removed.is_success, removed.text
    assert (await member.ask(thread, **asked)).status_code in {400, 404}
    second = await again(member, thread, **asked)
    assert second.status_code == 201, second.text
    assert second.headers["idempotency-replayed"] == "true"
    assert second.json()["id"] == first.json()["id"]


async def test_a_streamed_interaction_is_answered_at_once(member: Member) -> None:
    """No worker runs."""
    made = await member.asked(await member.thread(), pgpt={"stream": True})
    assert made["state"] == "Processing"
    assert "assistant_output" not in made
    assert (await member.get(f"/interaction/{made['id']}")).json() == made


async def test_a_cancelled_interaction_keeps_what_it_said(
    member: Member, worker: RunningWorker, app: Starlette
) -> None:
    thread = await member.thread()
    running = await member.scripted(thread, deltas=5, hangAfter=3)
    path = f"/interaction/{running}"

    async def has_spoken() -> bool:
        batches = await app.state.event_log.read(UUID(bare(running)), START)
        return any(b"w2" in payload for batch in batches for payload in batch.payloads)

    await wait_until(has_spoken, "the model has spoken")
    assert (await member.get(path)).json()["state"] == "Processing"
    cancelled = await member.post(f"{path}/cancel")
    assert (cancelled.status_code, cancelled.content) == (204, b"")
    told = (await member.get(path)).json()
    assert (told["state"], told["assistant_output"]["stop_reason"]) == ("Completed", "cancelled")
    assert told["assistant_output"]["content"] == [{"type": "text", "text": "w0 w1 w2 "}]
    assert "errors" not in told["assistant_output"]
    again = await member.post(f"{path}/cancel")
    assert (again.status_code, again.json()["error"]["type"]) == (409, "conflict_error")


async def test_a_second_interaction_waits_its_turn(member: Member, worker: RunningWorker) -> None:
    thread = await member.thread()
    first = await member.scripted(thread, deltas=20, intervalMs=20)
    second = await member.asked(thread)
    assert second["state"] == "Completed"
    assert (await member.get(f"/interaction/{first}")).json()["state"] == "Completed"
    listed = (await member.get(f"/thread/{thread}/interaction")).json()["data"]
    assert [one["id"] for one in listed] == [first, second["id"]]


async def test_a_deleted_interaction_that_runs_is_cancelled(
    member: Member, worker: RunningWorker
) -> None:
    running = await member.scripted(await member.thread(), deltas=1, hangAfter=1)
    deleted = await member.delete(f"/interaction/{running}")
    assert deleted.status_code == 200
    assert deleted.json()["assistant_output"]["stop_reason"] == "cancelled"
    assert (await member.get(f"/interaction/{running}/stream")).status_code == 404


async def test_a_deleted_thread_takes_its_interactions_along(
    member: Member, worker: RunningWorker
) -> None:
    thread = await member.thread()
    running = await member.scripted(thread, deltas=1, hangAfter=1)
    assert (await member.delete(f"/thread/{thread}")).status_code == 204
    for path in (f"/interaction/{running}", f"/thread/{thread}/interaction"):
        assert (await member.get(path)).status_code == 404
    assert (await member.delete(f"/thread/{thread}")).status_code == 404


class TestSlow:
    """One request does not wait for ever."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"sync_wait_s": 0.3})

    async def test_a_slow_interaction_is_answered_while_it_runs(self, member: Member) -> None:
        """No worker runs yet, so it takes longer than that."""
        made = await member.asked(await member.thread())
        assert made["state"] == "Processing"

    async def test_a_slow_chat_is_given_up(
        self, member: Member, app: Starlette, admin: Any
    ) -> None:
        refused = await member.post("/chat", json={"messages": [user_says("Hello")]})
        assert (refused.status_code, refused.json()["error"]["type"]) == (504, "timeout_error")
        assert await admin.fetchval("select count(*) from messages") == 0


async def test_who_leaves_does_not_cancel(
    member: Member, start_worker: StartWorker, app: Starlette
) -> None:
    thread = await member.thread()
    asking = asyncio.create_task(member.ask(thread))

    async def is_accepted() -> bool:
        told = (await member.get(f"/thread/{thread}/interaction")).json()
        return bool(told["total_count"] == 1)

    await wait_until(is_accepted, "the interaction was accepted")
    asking.cancel()
    await asyncio.wait([asking])
    await start_worker()

    async def is_over() -> bool:
        (one,) = (await member.get(f"/thread/{thread}/interaction")).json()["data"]
        return bool(one["state"] == "Completed")

    await wait_until(is_over, "the interaction has ended")


async def test_a_process_that_leaves_answers_at_once(member: Member, app: Starlette) -> None:
    thread = await member.thread()
    asking = [asyncio.create_task(member.ask(thread))]
    asking += [asyncio.create_task(member.post("/chat", json={"messages": [user_says("Hello")]}))]
    await wait_until(lambda: app.state.admission.polls.open == 2, "both wait")
    app.state.draining = True
    app.state.hub.drain()
    async with asyncio.timeout(5):
        interaction, chat = [await task for task in asking]
    assert interaction.status_code == 201
    assert interaction.json()["state"] == "Processing"
    assert chat.status_code == 503
    assert chat.json()["error"]["type"] == "overloaded_error"
    assert int(chat.headers["retry-after"]) > 0
