"""An id opens what it is the id of, and nothing that has been private since."""

from __future__ import annotations

import itertools
from typing import Any
from uuid import UUID

from shared.ids import new_id
from tests.integration.surfaces.conftest import Person

APP = "/api/v1/app"
SCOPE = {"workspace_id": "default", "app_id": None, "namespace_id": "default"}


async def say(person: Person, thread: str, content: str) -> int:
    body = {**SCOPE, "thread_id": thread, "role": "user", "content": content}
    answered = await person.ask("mm", "POST", f"{{default}}/{thread}/messages", json=body)
    return answered.status_code


async def test_nobody_takes_the_id_of_a_private_thread_as_a_name(
    owner: Person, colleague: Person
) -> None:
    """It was Public once, so the id is known; what its owner goes on to say is not."""
    me = (await owner.ask("zylon", "GET", f"{APP}/me")).json()
    path = f"{APP}/project/{me['default_project_id']}/thread"
    made = await owner.made("zylon", path, name="T", visibility="Public")
    thread = str(UUID(made["id"].removeprefix("thread_")))
    assert await say(owner, thread, "one") == await say(colleague, thread, "two") == 201
    path = f"{APP}/thread/{made['id']}"
    hidden = await owner.ask("zylon", "PUT", path, json={"visibility": "Private"})
    assert hidden.status_code == 200
    await say(colleague, thread, "mine")
    assert await say(owner, thread, "three") == 201
    told = await owner.ask("mm", "GET", f"{{default}}/{thread}/messages")
    assert [m["content"] for m in told.json()["messages"]] == ["one", "two", "three"]
    told = await colleague.ask("mm", "GET", f"{{default}}/{thread}/messages")
    assert "three" not in told.text


async def test_an_id_of_one_kind_is_none_of_another(owner: Person) -> None:
    me = (await owner.ask("zylon", "GET", f"{APP}/me")).json()
    project = me["default_project_id"]
    path = f"{APP}/project/{project}"
    thread = await owner.made("zylon", f"{path}/thread", name="T", visibility="Public")
    asked = await owner.made(
        "zylon", f"{APP}/thread/{thread['id']}/interaction",
        pgpt={"messages": [{"role": "user", "content": "x"}], "stream": True},
    )  # fmt: skip
    sent = await owner.ask("zylon", "POST", f"{path}/artifact", files={"fileData": ("a.txt", b"x")})
    ids = {
        "project": project, "thread": thread["id"], "interaction": asked["id"],
        "artifact": sent.json()["id"],
    }  # fmt: skip
    words = [text.partition("_")[0] for text in ids.values()]
    for (kind, own), (other, foreign) in itertools.product(ids.items(), ids.items()):
        uuid = foreign.partition("_")[2]
        for text in (foreign, uuid, *(f"{word}_{uuid}" for word in words)):
            answered = await owner.ask("zylon", "GET", f"{APP}/{kind}/{text}")
            is_it = kind == other and text in (own, uuid)
            assert answered.status_code == (200 if is_it else 404), (kind, text)
    response = await owner.made("primary", "/v1/responses", input="x", background=True)
    conversation = response["conversation"]["id"]
    known = {"responses": response["id"], "conversations": conversation}
    for kind, own in known.items():
        for text in (*known.values(), f"resp_{new_id().hex}", own.partition("_")[2], own.upper()):
            answered = await owner.ask("primary", "GET", f"/v1/{kind}/{text}")
            assert answered.status_code == (200 if text == own else 404), (kind, text)


async def test_a_chat_without_a_thread_leaves_no_arguments_of_its_calls(
    owner: Person, admin: Any
) -> None:
    thread = await owner.made("primary", "/api/v1/chat/threads")
    turn = await owner.made(
        "primary", f"/api/v1/chat/threads/{thread['id']}/turns", message="x", modelId="scripted"
    )
    await admin.execute("update threads set is_transient = true where id = $1", UUID(thread["id"]))
    await admin.execute(
        "insert into turn_approvals"
        " (turn_id, tenant_id, round, place, tool_call_id, tool_name, args)"
        " values ($1, $2, 1, 1, 'call', 'pay', '{\"to\": \"secret\"}')",
        UUID(turn["id"]), owner.tenant_id,
    )  # fmt: skip
    path = f"/api/v1/chat/threads/{thread['id']}/turns/cancel"
    assert (await owner.ask("primary", "POST", path)).status_code == 204
    app: Any = owner.app
    await app.state.transient_threads.remove(UUID(thread["id"]))
    assert await admin.fetchval("select count(*) from turn_approvals") == 0
    assert await admin.fetchval("select count(*) from messages") == 0
