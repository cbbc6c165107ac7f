"""Approvals over HTTP: Get Turn shows them, two ways decide them, streams end and go on."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.fixtures.system import StartWorker
from tests.fixtures.waiting import wait_until
from tests.integration.api_turns.conftest import CHAT, AddUser, User

PAY = {"name": "pay", "args": {"euros": 5}, "result": "paid"}
SCRIPT = {"approval": {"text": "Let me. ", "calls": [PAY]}, "text": "Done.", "intervalMs": 0}


def frames_of(body: bytes) -> list[Any]:
    frames = [part.removeprefix(b"data: ") for part in body.split(b"\n\n") if part]
    return ["[DONE]" if frame == b"[DONE]" else orjson.loads(frame) for frame in frames]


def kinds(frames: list[Any]) -> list[str]:
    return [frame if isinstance(frame, str) else frame["type"] for frame in frames]


async def stream(user: User, thread: str, **script: Any) -> list[Any]:
    body = {"message": "x", "modelId": "scripted", "settings": {"script": {**SCRIPT, **script}}}
    answered = await user.post(f"/threads/{thread}/turns/stream", json=body)
    assert answered.status_code == 200
    return frames_of(answered.content)


async def get_turn(user: User, turn_id: str) -> dict[str, Any]:
    turn: dict[str, Any] = (await user.get(f"/turns/{turn_id}")).json()
    return turn


def follow_up(frames: list[Any], **approval: Any) -> dict[str, Any]:
    """What `useChat` of AI SDK 6 sends once its user has decided."""
    calls = [f for f in frames if f != "[DONE]" and f["type"] == "tool-input-available"]
    parts = [
        {"type": "step-start"},
        {"type": "text", "text": "Let me. ", "state": "done"},
        *(
            {
                "type": f"tool-{call['toolName']}",
                "toolCallId": call["toolCallId"],
                "state": "approval-responded",
                "input": call["input"],
                "approval": {"id": call["toolCallId"], **approval},
            }
            for call in calls
        ),
    ]
    return {
        "id": "chat",
        "trigger": "submit-message",
        "messageId": frames[0]["messageId"],
        "messages": [
            {"id": "u", "role": "user", "parts": [{"type": "text", "text": "x"}]},
            {"id": frames[0]["messageId"], "role": "assistant", "parts": parts},
        ],
    }


async def test_use_chat_asks_decides_and_goes_on_in_the_same_message(
    user: User, start_worker: StartWorker
) -> None:
    await start_worker()
    thread = await user.thread()
    asked = await stream(user, thread)
    assert kinds(asked)[-4:] == ["tool-approval-request", "finish-step", "finish", "[DONE]"]
    answered = await user.post(
        f"/threads/{thread}/turns/stream", json=follow_up(asked, approved=True)
    )
    assert answered.status_code == 200
    told = frames_of(answered.content)
    assert told[0]["messageId"] == asked[0]["messageId"], "AI SDK goes on in this message"
    assert kinds(told) == [
        "start", "tool-output-available", "start-step", "text-start", "text-delta", "text-end",
        "finish-step", "finish", "[DONE]",
    ]  # fmt: skip
    turn_id = asked[0]["messageMetadata"]["turnId"]
    assert answered.headers["location"] == f"{CHAT}/turns/{turn_id}"
    turn = await get_turn(user, turn_id)
    assert (turn["status"], turn["attempt"], turn["approvals"]) == ("completed", 2, [])
    again = await user.post(f"/threads/{thread}/turns/stream", json=follow_up(asked, approved=True))
    assert kinds(frames_of(again.content)) == kinds(told), "sent again, told again, run once"
    assert (await get_turn(user, turn_id))["attempt"] == 2
    other = await user.post(
        f"/threads/{thread}/turns/stream", json=follow_up(asked, approved=False)
    )
    assert (other.status_code, other.json()["turnId"]) == (409, turn_id)


async def test_a_denial_is_told_as_such(user: User, start_worker: StartWorker) -> None:
    await start_worker()
    thread = await user.thread()
    asked = await stream(user, thread)
    body = follow_up(asked, approved=False, reason="too dear")
    answered = await user.post(f"/threads/{thread}/turns/stream", json=body)
    assert kinds(frames_of(answered.content))[:2] == ["start", "tool-output-denied"]
    messages = (await user.get(f"/threads/{thread}/messages")).json()["items"]
    assert [m["role"] for m in messages] == ["user", "assistant", "tool", "assistant"]
    assert messages[2]["content"] == "too dear"


async def test_get_turn_shows_what_is_open_and_actions_decide(
    user: User, start_worker: StartWorker
) -> None:
    await start_worker()
    thread = await user.thread()
    asked = await stream(user, thread)
    turn_id = asked[0]["messageMetadata"]["turnId"]
    turn = await get_turn(user, turn_id)
    assert (turn["status"], turn["completedAt"]) == ("awaiting_approval", None)
    (approval,) = turn["approvals"]
    call = next(f for f in asked if f["type"] == "tool-approval-request")["toolCallId"]
    assert (approval["toolCallId"], approval["toolName"]) == (call, "pay")
    assert approval["args"] == {"euros": 5}
    assert approval["askedAt"].endswith("Z")
    assert approval["expiresAt"].endswith("Z")
    (listed,) = (await user.get(f"/threads/{thread}/turns")).json()["items"]
    assert listed["approvals"] == turn["approvals"]
    shown = (await user.get(f"/threads/{thread}")).json()
    assert (shown["lastTurnStatus"], shown["lastMessagePreview"]) == (
        "awaiting_approval", "Let me.",
    )  # fmt: skip

    path = f"/turns/{turn_id}/actions"
    missing = await user.post(path, json={"decisions": []})
    assert missing.status_code == 422
    (problem,) = missing.json()["detail"]
    assert set(problem) == {"loc", "msg", "type"}
    assert call in problem["msg"]
    decision = {"toolCallId": call, "approved": True}
    for _ in range(2):
        answered = await user.post(path, json={"decisions": [decision]})
        assert answered.status_code == 200
        assert answered.json()["status"] in {"pending", "running", "completed"}
    conflict = await user.post(path, json={"decisions": [{**decision, "approved": False}]})
    assert conflict.status_code == 409

    async def ended() -> bool:
        return bool((await get_turn(user, turn_id))["status"] == "completed")

    await wait_until(ended, "the turn has ended")


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({}, ["body", "decisions"]),
        ({"decisions": None}, ["body", "decisions"]),
        ({"decisions": [{"approved": True}]}, ["body", "decisions", 0, "toolCallId"]),
        ({"decisions": [{"toolCallId": "x"}]}, ["body", "decisions", 0, "approved"]),
        (
            {"decisions": [{"toolCallId": "x", "approved": "true"}]},
            ["body", "decisions", 0, "approved"],
        ),
        (
            {"decisions": [{"toolCallId": "x", "approved": 1}]},
            ["body", "decisions", 0, "approved"],
        ),
    ],
)
async def test_a_wrong_body_is_refused_before_anything_is_looked_up(
    user: User, body: Any, loc: list[Any]
) -> None:
    path = "/turns/018f0000-0000-7000-8000-000000000001/actions"
    answered = await user.post(path, json=body)
    assert (answered.status_code, answered.json()["detail"][0]["loc"]) == (422, loc)


async def test_another_users_turn_looks_like_none(
    user: User, add_user: AddUser, start_worker: StartWorker
) -> None:
    await start_worker()
    thread = await user.thread()
    asked = await stream(user, thread)
    turn_id = asked[0]["messageMetadata"]["turnId"]
    call = next(f for f in asked if f["type"] == "tool-approval-request")["toolCallId"]
    body = {"decisions": [{"toolCallId": call, "approved": True}]}
    for stranger in (await add_user(), await add_user(user.tenant_id)):
        answered = await stranger.post(f"/turns/{turn_id}/actions", json=body)
        unknown = await stranger.post(f"/turns/{thread}/actions", json=body)
        assert answered.status_code == 404
        assert answered.content == unknown.content
        streamed = await stranger.post(
            f"/threads/{thread}/turns/stream", json=follow_up(asked, approved=True)
        )
        assert streamed.status_code == 404
    assert (await get_turn(user, turn_id))["status"] == "awaiting_approval"


@pytest.mark.parametrize("approval", [{}, {"approved": "yes"}, {"approved": 1}])
async def test_an_approval_that_is_not_plainly_one_is_refused(
    user: User, start_worker: StartWorker, approval: dict[str, Any]
) -> None:
    await start_worker()
    thread = await user.thread()
    asked = await stream(user, thread)
    answered = await user.post(f"/threads/{thread}/turns/stream", json=follow_up(asked, **approval))
    assert answered.status_code == 422
    loc = answered.json()["detail"][0]["loc"]
    assert loc == ["body", "messages", 1, "parts", 2, "approved"]
    turn_id = asked[0]["messageMetadata"]["turnId"]
    assert (await get_turn(user, turn_id))["status"] == "awaiting_approval"


async def test_calls_that_nobody_asked_for_are_refused(user: User) -> None:
    thread = await user.thread()
    start = {"type": "start", "messageId": "m"}
    call = {"type": "tool-input-available", "toolCallId": "x", "toolName": "pay", "input": {}}
    body = follow_up([start, call], approved=True)
    answered = await user.post(f"/threads/{thread}/turns/stream", json=body)
    assert (answered.status_code, answered.json()["detail"][0]["loc"]) == (
        422, ["body", "messages"],
    )  # fmt: skip


async def test_attaching_to_a_parked_turn_tells_the_approvals_and_ends(
    user: User, start_worker: StartWorker
) -> None:
    await start_worker()
    thread = await user.thread()
    asked = await stream(user, thread)
    attached = await user.get(f"/threads/{thread}/stream")
    assert attached.status_code == 200
    assert kinds(frames_of(attached.content)) == kinds(asked)


async def test_a_thread_with_a_parked_turn_can_be_deleted(
    user: User, start_worker: StartWorker
) -> None:
    await start_worker()
    thread = await user.thread()
    turn_id = (await stream(user, thread))[0]["messageMetadata"]["turnId"]
    assert (await user.delete(f"/threads/{thread}")).status_code == 204
    assert (await user.get(f"/turns/{turn_id}")).status_code == 404


async def test_stop_ends_a_parked_turn(user: User, start_worker: StartWorker) -> None:
    await start_worker()
    thread = await user.thread()
    turn_id = (await stream(user, thread))[0]["messageMetadata"]["turnId"]
    assert (await user.post(f"/threads/{thread}/turns/cancel")).status_code == 204
    turn = await get_turn(user, turn_id)
    assert (turn["status"], turn["approvals"]) == ("cancelled", [])
    assert (await user.get(f"/threads/{thread}/stream")).status_code == 204


async def test_reject_meets_a_parked_turn(user: User, start_worker: StartWorker) -> None:
    await start_worker()
    thread = await user.thread()
    turn_id = (await stream(user, thread))[0]["messageMetadata"]["turnId"]
    refused = await user.submit(thread, onConflict="reject")
    assert (refused.status_code, refused.json()["turnId"]) == (409, turn_id)
