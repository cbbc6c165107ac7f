"""The text that a reader saw of a cancelled turn: whose counts, until when, and of which turns."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from tests.fixtures.system import StartWorker
from tests.fixtures.waiting import wait_until
from tests.integration.api_turns.conftest import User

HANGING = {"script": {"text": "server's text", "intervalMs": 0, "hangAfter": 1}}


async def answer_of(user: User, thread: str) -> dict[str, Any] | None:
    """The thread's only answer."""
    items = (await user.get(f"/threads/{thread}/messages")).json()["items"]
    answers: list[dict[str, Any]] = [item for item in items if item["role"] == "assistant"]
    assert len(answers) <= 1
    return answers[0] if answers else None


async def stop(user: User, thread: str, text: Any) -> None:
    answered = await user.post(f"/threads/{thread}/turns/cancel", json={"partialText": text})
    assert (answered.status_code, answered.content) == (204, b"")


async def run(user: User, thread: str) -> str:
    turn = (await user.submit(thread, settings=HANGING)).json()["id"]

    async def is_running() -> bool:
        return bool((await user.get(f"/turns/{turn}")).json()["status"] == "running")

    await wait_until(is_running, "it runs")
    return str(turn)


@pytest.mark.parametrize(
    ("text", "kept"), [(None, "server's "), ("", "server's "), ("mine", "mine"), (" ", " ")]
)
async def test_the_clients_text_or_else_the_servers(
    user: User, start_worker: StartWorker, text: str | None, kept: str
) -> None:
    await start_worker()
    thread = await user.thread()
    turn_id = await run(user, thread)
    await stop(user, thread, text)
    turn = (await user.get(f"/turns/{turn_id}")).json()
    assert turn["status"] == "cancelled"
    assert turn["completedAt"]
    answer = await answer_of(user, thread)
    assert answer is not None
    assert (answer["id"], answer["content"]) == (turn["outputMessageId"], kept)
    assert answer["rawData"]["state"] == "interrupted"
    assert answer["rawData"]["kind"] == "response"
    # Said already: what comes later changes nothing.
    await stop(user, thread, "later")
    assert await answer_of(user, thread) == answer


async def test_neither_said_anything(user: User) -> None:
    thread = await user.thread()
    turn = (await user.submit(thread)).json()["id"]
    await stop(user, thread, "")
    assert (await user.get(f"/turns/{turn}")).json()["outputMessageId"] is None
    assert await answer_of(user, thread) is None
    # A new turn may start at once.
    assert (await user.submit(thread, onConflict="reject")).status_code == 202


@pytest.mark.parametrize("url", ["/threads/{thread}/turns/cancel", "/turns/{turn}/cancel"])
@pytest.mark.parametrize(("age_s", "kept"), [(1, "mine"), (29, "mine"), (31, None)])
async def test_a_text_may_come_half_a_minute_late(
    user: User, admin: Any, url: str, age_s: int, kept: str | None
) -> None:
    thread = await user.thread()
    turn = (await user.submit(thread)).json()["id"]
    await stop(user, thread, None)
    await admin.execute(
        "update turns set ended_at = now() - make_interval(secs => $2) where id = $1",
        UUID(turn), age_s,
    )  # fmt: skip
    late = await user.post(url.format(thread=thread, turn=turn), json={"partialText": "mine"})
    assert late.status_code in {200, 204}
    answer = await answer_of(user, thread)
    assert (answer and answer["content"]) == kept
    output_id = (await user.get(f"/turns/{turn}")).json()["outputMessageId"]
    assert output_id == (answer and answer["id"])


async def test_only_the_last_turn_takes_a_late_text(user: User) -> None:
    thread = await user.thread()
    first = (await user.submit(thread)).json()["id"]
    await user.post(f"/turns/{first}/cancel")
    second = (await user.submit(thread)).json()["id"]
    await user.post(f"/turns/{second}/cancel")
    await user.post(f"/turns/{first}/cancel", json={"partialText": "mine"})
    assert await answer_of(user, thread) is None
    await stop(user, thread, "mine")
    answer = await answer_of(user, thread)
    assert answer is not None
    assert answer["turnId"] == second


@pytest.mark.parametrize("fails", [False, True])
async def test_a_turn_that_ended_by_itself_takes_none(
    user: User, start_worker: StartWorker, fails: bool
) -> None:
    await start_worker()
    thread = await user.thread()
    script = {"text": "all of it", "intervalMs": 0, **({"failAfter": 0} if fails else {})}
    ended = await user.post(
        f"/threads/{thread}/turns",
        json={"message": "x", "modelId": "scripted", "settings": {"script": script}},
        headers={"prefer": "wait=10"},
    )
    before = await user.get(f"/threads/{thread}/messages")
    await stop(user, thread, "mine")
    shown = await user.post(f"/turns/{ended.json()['id']}/cancel", json={"partialText": "mine"})
    assert shown.json() == ended.json()
    assert (await user.get(f"/threads/{thread}/messages")).content == before.content


@pytest.mark.parametrize(
    ("text", "type_"),
    [("t" * 200_001, "string_too_long"), (7, "string_type"), ("\0", "json_invalid")],
)
async def test_what_is_refused(user: User, text: Any, type_: str) -> None:
    thread = await user.thread()
    turn = (await user.submit(thread)).json()["id"]
    url = f"/threads/{thread}/turns/cancel"
    refused = await user.post(url, json={"partialText": text})
    assert refused.status_code == 422
    assert [item["type"] for item in refused.json()["detail"]] == [type_]
    assert (await user.get(f"/turns/{turn}")).json()["status"] == "pending"
    assert (await user.post(url, json={"partialText": "t" * 200_000})).status_code == 204


async def test_nothing_to_stop(user: User) -> None:
    thread = await user.thread()
    await stop(user, thread, "x")
    assert (await user.post(f"/threads/{thread}/turns/cancel")).status_code == 204
    assert (await user.get(f"/threads/{thread}/messages")).json()["items"] == []
