"""A real thread becomes an automation that does the same again, without a model."""

from __future__ import annotations

from typing import Any

import pytest

from shared.ids import new_id
from tests.fixtures.system import StartWorker
from tests.integration.api_turns.conftest import AddUser, User
from tests.integration.automations.conftest import (
    AUTOMATIONS,
    RUNS,
    decide,
    read,
    start,
    statuses,
    until,
)

ARTIFACTS = "http://test/api/v1/artifacts"
SUM = {"name": "calculator", "args": {"expression": "0.1 + 0.2"}}
WRONG = {"name": "calculator", "args": {"expression": "1/0"}}
TIME = {"name": "current_time", "args": {"timezone": "UTC"}}


async def say(user: User, thread: str, *, ends: str = "completed", **script: Any) -> Any:
    """A scripted turn of the thread, once it has ended or is parked."""
    answered = await user.post(
        f"/threads/{thread}/turns",
        json={"message": "x", "modelId": "scripted", "settings": {"script": script}},
        headers={"prefer": "wait=20"},
    )
    assert answered.json()["status"] == ends, answered.text
    return answered.json()


async def crystallize(user: User, thread: str, **body: Any) -> dict[str, Any]:
    made = await user.post(f"/threads/{thread}/crystallize", json=body)
    assert made.status_code == 201, made.text
    assert made.json().keys() == {"automationId"}
    url = f"{AUTOMATIONS}/{made.json()['automationId']}"
    assert f"http://test{made.headers['location']}" == url
    automation: dict[str, Any] = (await user.get(url)).json()
    return automation


async def is_eligible(user: User, thread: str) -> bool:
    """As the thread itself, the list and a change of it tell."""
    path = f"/threads/{thread}"
    listed = (await user.get("/threads")).json()["items"]
    told = [
        (await user.get(path)).json()["crystallizeEligible"],
        next(one for one in listed if one["id"] == thread)["crystallizeEligible"],
        (await user.patch(path, json={})).json()["crystallizeEligible"],
    ]
    assert len(set(told)) == 1, told
    return bool(told[0])


async def refusal(user: User, thread: str) -> tuple[int, str]:
    answered = await user.post(f"/threads/{thread}/crystallize")
    return answered.status_code, answered.json()["detail"]


NOTHING = (409, "Thread has no completed actions to crystallize")


async def test_a_thread_is_done_again_without_a_model(
    user: User, start_worker: StartWorker
) -> None:
    await start_worker()
    thread = await user.thread()
    assert not await is_eligible(user, thread)
    await say(user, thread, toolCalls=[SUM, WRONG, TIME], text="there")
    await say(user, thread, text="no call")
    await say(user, thread, toolCalls=[{"name": "lookup", "args": {"q": "x"}, "error": "no"}])
    assert await is_eligible(user, thread)
    await say(user, thread, toolCalls=[{**SUM, "args": {"expression": "6 * 7"}}])
    automation = await crystallize(user, thread, name="  Again ")
    steps = automation["config"]["steps"]
    assert [(s["id"], s["kind"], s["input"], s["dependsOn"]) for s in steps] == [
        ("step_1", "calculator", {"expression": "0.1 + 0.2"}, []),
        ("step_2", "current_time", {"timezone": "UTC"}, ["step_1"]),
        ("step_3", "calculator", {"expression": "6 * 7"}, ["step_2"]),
    ]
    assert automation["config"]["metadata"] == {
        "sourceThreadId": thread,
        "nonDeterministicSteps": ["step_2"],
    }
    shown = {name: automation[name] for name in ("name", "status", "triggerType", "sourceType")}
    assert shown == {
        "name": "Again", "status": "draft", "triggerType": "manual", "sourceType": "thread",
    }  # fmt: skip
    assert (automation["orchestratorType"], automation["sourceThreadId"]) == ("dag", thread)
    runs = []
    for _ in range(2):
        run_id = await start(user, automation["id"])
        runs.append(await until(user, run_id, "completed", "failed"))
    for run in runs:
        assert run["status"] == "completed"
        assert [one["input"] for one in run["steps"]] == [one["input"] for one in steps]
        assert set(statuses(run).values()) == {"completed"}
        assert run["steps"][0]["output"] == {"result": "0.3"}
        assert run["steps"][2]["output"] == {"result": "42"}
        assert run["durationSeconds"] >= 0
    again = await crystallize(user, thread)
    assert again["id"] != automation["id"]
    assert again["config"] == automation["config"]


async def test_what_no_completed_turn_did_is_no_action(
    user: User, start_worker: StartWorker
) -> None:
    await start_worker()
    thread = await user.thread()
    await say(user, thread, toolCalls=[WRONG])
    await say(user, thread, toolCalls=[SUM], failAfter=1, text="a b c", ends="failed")
    assert not await is_eligible(user, thread)
    assert await refusal(user, thread) == NOTHING
    hangs = await user.submit(thread, settings={"script": {"toolCalls": [SUM], "hangAfter": 0}})
    assert hangs.status_code == 202
    await user.post(f"/threads/{thread}/turns/cancel")
    assert not await is_eligible(user, thread)
    assert await refusal(user, thread) == NOTHING


async def test_an_active_turn_is_waited_for(user: User, start_worker: StartWorker) -> None:
    await start_worker()
    thread = await user.thread()
    await say(user, thread, toolCalls=[SUM])
    running = (await user.submit(thread, settings={"script": {"hangAfter": 0}})).json()
    assert not await is_eligible(user, thread)
    answered = await user.post(f"/threads/{thread}/crystallize")
    assert (answered.status_code, answered.json()["turnId"]) == (409, running["id"])
    waiting = (await user.submit(thread)).json()
    assert (await user.post(f"/turns/{waiting['id']}/cancel")).status_code == 200
    assert not await is_eligible(user, thread), "the one before the last still runs"
    await user.post(f"/threads/{thread}/turns/cancel")
    assert await is_eligible(user, thread)
    await crystallize(user, thread)


async def test_what_was_regenerated_is_no_action(user: User, start_worker: StartWorker) -> None:
    await start_worker()
    thread = await user.thread()
    await say(user, thread, toolCalls=[SUM])
    redone = await user.post(
        f"/threads/{thread}/turns",
        json={"trigger": "regenerate-message", "messages": [], "modelId": "scripted"},
        headers={"prefer": "wait=20"},
    )
    assert redone.json()["status"] == "completed", redone.text
    assert not await is_eligible(user, thread)
    assert await refusal(user, thread) == NOTHING


async def test_a_thread_is_its_users_and_an_automation_the_tenants(
    user: User, add_user: AddUser, start_worker: StartWorker
) -> None:
    await start_worker()
    thread = await user.thread()
    await say(user, thread, toolCalls=[SUM])
    colleague, stranger = await add_user(tenant_id=user.tenant_id), await add_user()
    for who in (colleague, stranger):
        assert await refusal(who, thread) == (404, "Thread not found")
    assert await refusal(user, str(new_id())) == (404, "Thread not found")
    automation = await crystallize(user, thread)
    assert (await user.delete(f"/threads/{thread}")).status_code == 204
    assert await refusal(user, thread) == (404, "Thread not found")
    url = f"{AUTOMATIONS}/{automation['id']}"
    assert (await colleague.get(url)).json() == automation, "the thread's deletion leaves it"
    assert (await stranger.get(url)).status_code == 404
    assert (await until(colleague, await start(colleague, automation["id"]), "completed"))["steps"]


@pytest.mark.parametrize("is_approved", [True, False])
async def test_an_approval_becomes_a_gate(
    user: User, start_worker: StartWorker, is_approved: bool
) -> None:
    await start_worker()
    thread = await user.thread()
    approval = {"calls": [{**SUM, "result": {"result": "0.3"}}]}
    turn = await say(user, thread, toolCalls=[SUM], approval=approval, ends="awaiting_approval")
    call_id = turn["approvals"][0]["toolCallId"]
    assert not await is_eligible(user, thread)
    decided = await user.post(
        f"/turns/{turn['id']}/actions",
        json={"decisions": [{"toolCallId": call_id, "approved": True}]},
    )
    assert decided.status_code == 200
    await user.get(f"/turns/{turn['id']}", headers={"prefer": "wait=20"})
    automation = await crystallize(user, thread)
    assert [(s["id"], s["kind"], s["dependsOn"]) for s in automation["config"]["steps"]] == [
        ("step_1", "calculator", []),
        ("gate_2", "approval_gate", ["step_1"]),
        ("step_2", "calculator", ["gate_2"]),
    ]
    run_id = await start(user, automation["id"])
    parked = await until(user, run_id, "awaiting_approval")
    assert statuses(parked) == {
        "step_1": "completed", "gate_2": "awaiting_approval", "step_2": "pending",
    }  # fmt: skip
    assert parked["steps"][1]["input"] == {"toolName": "calculator", "args": SUM["args"]}
    assert (await decide(user, run_id, gate_2=is_approved)).status_code == 200
    run = await until(user, run_id, "completed", "failed")
    if is_approved:
        assert set(statuses(run).values()) == {"completed"}
        assert run["steps"][2]["output"] == {"result": "0.3"}
    else:
        assert statuses(run)["gate_2"] == "denied"
        assert statuses(run)["step_2"] == "skipped"
        assert run["error"] == {"code": "denied", "message": "Step gate_2 was denied"}
    assert run["steps"][1]["decision"]["reason"] == "because"


async def test_a_call_that_no_step_can_make_is_kept_and_not_run(
    user: User, start_worker: StartWorker
) -> None:
    await start_worker()
    thread = await user.thread()
    await say(user, thread, toolCalls=[{"name": "lookup", "args": {"q": "x"}, "result": 1}])
    automation = await crystallize(user, thread)
    assert automation["config"]["steps"][0]["kind"] == "lookup"
    url = f"{AUTOMATIONS}/{automation['id']}"
    started = await user.post(f"{url}/runs")
    assert started.status_code == 409
    assert "step_1: this deployment runs no steps of kind lookup" in started.json()["detail"]
    activated = await user.patch(url, json={"status": "active"})
    assert activated.status_code == 422
    assert activated.json()["detail"][0]["loc"] == ["body", "config", "steps", 0, "kind"]


async def attachment(user: User, thread: str) -> str:
    """Attaches a text; its attachment's id."""
    artifact = await user.post(ARTIFACTS, json={"kind": "text", "content": "hello", "title": "t"})
    made = await user.post(f"/threads/{thread}/attachments?artifact_id={artifact.json()['id']}")
    return str(made.json()["id"])


async def test_a_step_reads_what_its_thread_has_now(
    user: User, add_user: AddUser, start_worker: StartWorker
) -> None:
    """In runs of who crystallized it: results are the tenant's to see, threads are not."""
    await start_worker()
    thread = await user.thread()
    attached = await attachment(user, thread)
    await say(user, thread, toolCalls=[{"name": "read_attachment", "args": {"name": "t"}}])
    automation = await crystallize(user, thread)

    async def outcome(by: User) -> tuple[str, Any]:
        run = await until(by, await start(by, automation["id"]), "completed", "failed")
        (made,) = run["steps"]
        return run["status"], made["error"] or made["output"]["text"]

    assert await outcome(user) == ("completed", "hello")
    colleague = await add_user(tenant_id=user.tenant_id)
    status, error = await outcome(colleague)
    assert (status, "only in runs of the user who wrote" in error) == ("failed", True)
    assert (await user.delete(f"/attachments/{attached}")).status_code == 204
    status, error = await outcome(user)
    assert (status, "There is no such attachment" in error) == ("failed", True)
    await attachment(user, thread)
    assert await outcome(user) == ("completed", "hello")
    assert (await user.delete(f"/threads/{thread}")).status_code == 204
    status, error = await outcome(user)
    assert (status, "thread whose attachments the step reads is gone" in error) == ("failed", True)


async def test_nobody_reads_anothers_thread_by_a_step_of_their_own_making(
    user: User, add_user: AddUser, start_worker: StartWorker
) -> None:
    await start_worker()
    thread = await user.thread()
    await attachment(user, thread)
    colleague = await add_user(tenant_id=user.tenant_id)
    steps = [
        {"id": "a", "kind": "read_attachment", "input": {"name": "t"},
         "source": {"threadId": thread}},
        {"id": "b", "kind": "search_attachments", "input": {"query": "h"}},
    ]  # fmt: skip
    made = await colleague.post(AUTOMATIONS, json={"name": "x", "config": {"steps": steps}})
    run: dict[str, Any] = {}
    for who, error in ((colleague, "is gone"), (user, "only in runs of the user who wrote")):
        run = await until(who, await start(who, made.json()["id"]), "failed")
        assert error in run["steps"][0]["error"]
        assert run["steps"][0]["output"] is None
        assert "names no thread" in run["steps"][1]["error"]
    assert (await user.get(f"{RUNS}?automationId={made.json()['id']}")).json()["total"] == 2
    assert await read(colleague, run["id"]) == run
