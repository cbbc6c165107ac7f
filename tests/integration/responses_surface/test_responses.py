"""What a response is to the rest of the product, and what a request leaves behind."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import httpx
import pytest
from starlette.applications import Starlette

from api.app import create_app
from shared.errors import QueueFull
from shared.ids import new_id
from shared.service.shared_threads import NewMessage
from shared.settings import Settings
from shared.turn.model import Principal
from tests.fixtures.system import StartWorker
from tests.integration.files.test_effect import file_part, message
from tests.integration.responses_surface.conftest import (
    CONVERSATIONS,
    RESPONSES,
    User,
    create,
    require_error,
    scripted,
    text_of,
)


def turn_of(response: Any) -> str:
    return str(response["id"].removeprefix("resp_"))


async def test_a_response_is_a_turn_on_every_surface(user: User, start_worker: StartWorker) -> None:
    await start_worker()
    made = await create(user, "Hello", instructions="Be kind.")
    turn = (await user.get(f"/turns/{turn_of(made)}")).json()
    assert turn["status"] == "completed"
    thread_id = turn["threadId"]
    assert thread_id.replace("-", "") == made["conversation"]["id"].removeprefix("conv_")
    told = (await user.get(f"/threads/{thread_id}/messages")).json()["items"]
    assert [message["content"] for message in told] == ["Hello", "ok"]
    thread = (await user.get(f"/threads/{thread_id}")).json()
    assert thread["title"] == "Hello"
    other = await user.submit(thread_id, settings={"script": {"text": "from there"}})
    body = {"input": "x", "previous_response_id": "resp_" + other.json()["id"].replace("-", "")}
    going_on = await create(user, **body)
    assert going_on["conversation"] == made["conversation"]
    shown = (await user.get(f"{RESPONSES}/{body['previous_response_id']}")).json()
    assert (text_of(shown), shown["background"], shown["metadata"]) == ("from there", False, {})


async def test_messages_brought_along_stand_before_the_answer(
    user: User, start_worker: StartWorker
) -> None:
    await start_worker()
    items = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "one two"}]},
        {"type": "message", "role": "assistant",
         "content": [{"type": "output_text", "text": "three", "annotations": []}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"role": "user", "content": "four"},
    ]  # fmt: skip
    made = await create(user, items)
    assert made["usage"]["input_tokens"] == 6
    listed = (await user.get(f"{RESPONSES}/{made['id']}/input_items?order=asc")).json()
    assert [i["role"] for i in listed["data"]] == ["system", "user", "assistant", "user"]
    assert [i["content"][0]["type"] for i in listed["data"]][2] == "output_text"
    newest = (await user.get(f"{RESPONSES}/{made['id']}/input_items?limit=1")).json()
    assert (newest["data"][0]["content"][0]["text"], newest["has_more"]) == ("four", True)
    rest = await user.get(f"{RESPONSES}/{made['id']}/input_items?after={newest['last_id']}")
    assert [i["id"] for i in rest.json()["data"]] == [i["id"] for i in listed["data"][2::-1]]
    longer = [{"role": "assistant", "content": "x"}, {"role": "user", "content": "five"}]
    forked = await create(user, longer, previous_response_id=made["id"])
    assert forked["conversation"] != made["conversation"]
    assert forked["usage"]["input_tokens"] == 9
    body = {"input": longer, "conversation": made["conversation"]["id"], **scripted("no")}
    require_error(await user.post(RESPONSES, json=body), 400)


async def test_a_response_under_way_is_followed_by_another_on_its_thread(user: User) -> None:
    """Behind the newest one waits in line; from an older one nobody can go on yet."""
    first = await create(user, background=True)
    second = await create(user, background=True, previous_response_id=first["id"])
    assert second["conversation"] == first["conversation"]
    body = {"input": "x", "previous_response_id": first["id"], **scripted("no")}
    require_error(await user.post(RESPONSES, json=body), 409)


async def test_two_that_go_on_from_one_response_never_stand_behind_each_other(
    user: User, start_worker: StartWorker
) -> None:
    await start_worker()
    first = await create(user, "one two")
    async with asyncio.TaskGroup() as group:
        made = [
            group.create_task(create(user, "x", previous_response_id=first["id"])) for _ in range(6)
        ]
    responses = [task.result() for task in made]
    conversations = [response["conversation"]["id"] for response in responses]
    assert len(set(conversations)) == 6
    assert conversations.count(first["conversation"]["id"]) == 1
    assert {response["usage"]["input_tokens"] for response in responses} == {4}


async def test_what_is_refused_leaves_no_thread(
    user: User, app: Starlette, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: object) -> None:
        raise QueueFull("full", reason="x", retry_after_s=1)

    monkeypatch.setattr(app.state.turns, "submit", refuse)
    body = {"input": "x", **scripted("no")}
    require_error(await user.post(RESPONSES, json=body), 429)
    assert (await user.get("/threads")).json()["items"] == []


async def test_a_deleted_response_leaves_no_thread_that_it_has_made(
    user: User, start_worker: StartWorker
) -> None:
    await start_worker()
    alone = await create(user)
    await user.delete(f"{RESPONSES}/{alone['id']}")
    assert (await user.get("/threads")).json()["items"] == []
    kept = (await user.post(CONVERSATIONS, json={})).json()
    inside = await create(user, conversation=kept["id"])
    deleted = (await user.delete(f"{RESPONSES}/{inside['id']}")).json()
    assert deleted == {"id": inside["id"], "object": "response", "deleted": True}
    (thread,) = (await user.get("/threads")).json()["items"]
    assert thread["lastMessagePreview"] is None
    assert (await user.get(f"/threads/{thread['id']}/messages")).json()["items"] == []
    require_error(await user.get(f"{RESPONSES}/{inside['id']}"), 404, "response_not_found")
    require_error(await user.post(f"{RESPONSES}/{inside['id']}/cancel"), 404)
    running = await create(user, background=True, **scripted(hangAfter=1))
    await user.delete(f"{RESPONSES}/{running['id']}")
    require_error(await user.get(f"{RESPONSES}/{running['id']}?stream=true"), 404)


async def test_a_conversation_goes_on_from_the_response_before_a_deleted_one(
    user: User, start_worker: StartWorker
) -> None:
    await start_worker()
    first = await create(user, "one")
    second = await create(user, "two", previous_response_id=first["id"])
    await user.delete(f"{RESPONSES}/{second['id']}")
    third = await create(user, "three", previous_response_id=first["id"])
    assert third["conversation"] == first["conversation"]
    assert third["usage"]["input_tokens"] == 3, "one, ok, three"


async def test_a_conversation_without_its_only_response_takes_several_messages_again(
    user: User, start_worker: StartWorker
) -> None:
    await start_worker()
    conversation = (await user.post(CONVERSATIONS, json={})).json()["id"]
    only = await create(user, conversation=conversation)
    await user.delete(f"{RESPONSES}/{only['id']}")
    several = [{"role": "assistant", "content": "one"}, {"role": "user", "content": "two"}]
    again = await create(user, several, conversation=conversation)
    assert again["conversation"]["id"] == conversation


async def test_what_a_deleted_response_was_shown_is_detached(user: User, admin: Any) -> None:
    thread = await user.thread()
    said = message(file_part(b"x", "a.txt"), modelId="scripted")
    turn = (await user.post(f"/threads/{thread}/turns", json=said)).json()
    attachments = f"/threads/{thread}/attachments"
    assert len((await user.get(attachments)).json()) == 1
    await user.delete(f"{RESPONSES}/resp_{turn['id'].replace('-', '')}")
    assert (await user.get(attachments)).json() == []
    counted = "select attachment_count from threads where id = $1"
    assert await admin.fetchval(counted, UUID(thread)) == 0


async def test_input_items_are_what_stood_there_before_the_answer(
    user: User, app: Starlette, admin: Any
) -> None:
    """Not what another surface has stored in the thread since."""
    several = [{"role": "assistant", "content": "one"}, {"role": "user", "content": "two"}]
    made = await create(user, several, background=True)
    thread_id = UUID(made["conversation"]["id"].removeprefix("conv_"))
    owner_id = await admin.fetchval("select user_id from threads where id = $1", thread_id)
    owner = Principal(user.tenant_id, owner_id, new_id())
    await app.state.shared_threads.append(owner, thread_id, NewMessage("user", "later"))
    listed = (await user.get(f"{RESPONSES}/{made['id']}/input_items?order=asc")).json()
    assert [item["content"][0]["text"] for item in listed["data"]] == ["one", "two"]
    said_by = await admin.fetch("select created_by from messages order by seq")
    assert [row["created_by"] for row in said_by] == [None, owner_id, owner_id]


async def test_a_repeated_request_does_not_need_what_it_went_on_from(user: User) -> None:
    first = await create(user, background=True)
    body = {"input": "y", "background": True, "previous_response_id": first["id"]}
    body |= scripted("ok")
    key = {"idempotency-key": "k"}
    second = (await user.post(RESPONSES, json=body, headers=key)).json()
    assert (await user.delete(f"{RESPONSES}/{first['id']}")).status_code == 200
    require_error(await user.post(RESPONSES, json=body), 400, "previous_response_not_found")
    repeated = await user.post(RESPONSES, json=body, headers=key)
    assert repeated.status_code == 200, repeated.text
    assert repeated.json()["id"] == second["id"]


async def test_it_waits_only_so_long(
    settings: Settings, user: User, start_worker: StartWorker
) -> None:
    await start_worker()
    impatient = create_app(settings.model_copy(update={"sync_wait_s": 0.2}))
    async with impatient.router.lifespan_context(impatient):
        user._transport = httpx.ASGITransport(impatient)
        await cancel_what_takes_long(user)


async def cancel_what_takes_long(user: User) -> None:
    made = await create(user, **scripted(deltas=1000, intervalMs=100))
    assert made["status"] in {"queued", "in_progress"}
    assert (await user.post(f"{RESPONSES}/{made['id']}/cancel")).json()["status"] == "cancelled"
