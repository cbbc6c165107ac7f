"""What is in a Private project stays its maker's on every surface, also threads that are Public."""

from __future__ import annotations

from uuid import UUID

import pytest

from shared.ids import new_id
from tests.integration.surfaces.conftest import Person

APP = "/api/v1/app"


async def make_thread(owner: Person, project_visibility: str) -> str:
    """A Public thread with an agent and a message, in a project; its bare id."""
    project = await owner.made("zylon", f"{APP}/project", name="P", visibility=project_visibility)
    thread = await owner.made(
        "zylon", f"{APP}/project/{project['id']}/thread", name="T", visibility="Public"
    )
    thread_id = str(UUID(thread["id"].removeprefix("thread_")))
    specs = await owner.ask("primary", "GET", "/api/v1/agents/specs")
    spec_id = specs.json()["specs"][0]["id"]
    changed = await owner.ask(
        "primary", "PATCH", f"/api/v1/chat/threads/{thread_id}", json={"agentSpecId": spec_id}
    )
    assert changed.status_code == 200, changed.text
    said = await owner.ask(
        "mm", "POST", f"{{default}}/{thread_id}/messages",
        json={
            "workspace_id": "default", "app_id": None, "namespace_id": "default",
            "thread_id": thread_id, "role": "user", "content": "secret",
        },
    )  # fmt: skip
    assert said.status_code == 201, said.text
    return thread_id


REQUESTS = {
    "read messages": ("mm", "GET", "{{default}}/{thread}/messages"),
    "get a chat": ("kodey", "GET", "/chat/{thread}"),
    "read a chat": ("kodey", "GET", "/chat/{thread}/message"),
    "get a thread": ("zylon", "GET", APP + "/thread/{thread}"),
    "list interactions": ("zylon", "GET", APP + "/thread/{thread}/interaction"),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_public_thread_of_a_private_project_is_its_makers(
    owner: Person, colleague: Person, name: str
) -> None:
    kind, method, path = REQUESTS[name]
    unknown = await colleague.ask(kind, method, path.format(thread=new_id()))
    assert unknown.status_code == 404
    for visibility, status in (("Public", 200), ("Private", 404)):
        thread = await make_thread(owner, visibility)
        for who, expected in ((owner, 200), (colleague, status)):
            told = await who.ask(kind, method, path.format(thread=thread))
            assert told.status_code == expected, (visibility, told.text)
            assert ("secret" not in told.text) or expected == 200


async def test_no_list_of_a_colleague_has_it(owner: Person, colleague: Person) -> None:
    threads = {v: await make_thread(owner, v) for v in ("Public", "Private")}
    for who, sees_both in ((owner, True), (colleague, False)):
        for query in ("", "?agentType=primary"):
            listed = await who.ask("kodey", "GET", f"/chat{query}")
            found = {chat["id"] for chat in listed.json()["chats"]}
            assert threads["Public"] in found
            assert (threads["Private"] in found) is sees_both


async def test_nobody_else_writes_into_it(owner: Person, colleague: Person) -> None:
    thread = await make_thread(owner, "Private")
    refused = await colleague.ask("mm", "DELETE", f"{{default}}/{thread}/messages")
    assert refused.status_code in (404, 405), refused.text
    refused = await colleague.ask("kodey", "DELETE", f"/chat/{thread}")
    assert refused.status_code == 404
    refused = await colleague.ask("kodey", "POST", f"/chat/{thread}/message", json={"content": "x"})
    assert refused.status_code == 404
    told = await owner.ask("kodey", "GET", f"/chat/{thread}/message")
    assert [message["content"] for message in told.json()["messages"]] == ["secret"]


async def test_nor_does_making_it_public_later_show_it(owner: Person, colleague: Person) -> None:
    thread = await make_thread(owner, "Private")
    path = f"{APP}/thread/{thread}"
    for visibility in ("Private", "Public"):
        changed = await owner.ask("zylon", "PUT", path, json={"visibility": visibility})
        assert (changed.status_code, changed.json()["visibility"]) == (200, visibility)
        for kind, shown in (("mm", f"{{default}}/{thread}/messages"), ("kodey", f"/chat/{thread}")):
            assert (await owner.ask(kind, "GET", shown)).status_code == 200
            assert (await colleague.ask(kind, "GET", shown)).status_code == 404
