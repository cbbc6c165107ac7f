"""Agents: agent specs seen as single fields."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fixtures.system import StartWorker
from tests.integration.kodey_surface.conftest import AddMember, Member
from tests.integration.kodey_surface.test_chats import SPECS

RICH = """\
---
name: Analyst
slug: analyst
mode: primary
model_settings: {top_p: 0.5, temperature: 0.1}
tools: [calculator, current_time]
permissions: {max_cost_per_run: 0.25, require_approval: [current_time]}
---
You answer questions.
---
And this line, too.
"""


async def test_an_agent_is_a_spec(member: Member, start_worker: StartWorker) -> None:
    body: dict[str, Any] = {
        "name": 'Q: "what" \n---\nmode: subagent # ü 😀',
        "description": "null",
        "systemPrompt": "---\nBe kind.\n---\n  And brief.",
        "model": "scripted",
        "temperature": 0.3,
        "tools": ["calculator", "current_time"],
        "type": "true",
    }
    made = (await member.secret.post("/agent", json=body)).json()
    assert {name: made[name] for name in body} == body
    assert made["version"] == 1
    spec = (await member.primary.get(f"{SPECS}/{made['id']}")).json()
    assert (spec["mode"], spec["name"], spec["slug"]) == ("primary", body["name"], made["slug"])
    assert spec["frontmatter"]["model_settings"] == {"temperature": 0.3}
    await start_worker()
    answered = await member.secret.say(await member.secret.chat(made["slug"]), "Hello")
    assert answered.status_code == 200


async def test_only_a_name_is_needed_and_it_may_be_anothers(member: Member) -> None:
    first = (await member.secret.post("/agent", json={"name": "Sales"})).json()
    second = (await member.secret.post("/agent", json={"name": "Sales"})).json()
    assert first["slug"] == "sales"
    assert second["slug"].startswith("sales-")
    assert first["systemPrompt"] == ""
    assert (first["model"], first["temperature"], first["tools"]) == (None, None, [])
    assert (await member.secret.post("/agent", json={"name": "日本"})).json()["slug"] == "agent"
    assert (await member.secret.get("/agent/sales")).json()["id"] == first["id"]
    assert (await member.secret.post("/agent", json={})).status_code == 400


async def test_a_change_keeps_what_it_does_not_name(member: Member) -> None:
    made = (await member.primary.post(SPECS, json={"markdown": RICH})).json()
    path = f"/agent/{made['id']}"
    got = (await member.secret.get(path)).json()
    assert got["systemPrompt"] == "You answer questions.\n---\nAnd this line, too."
    assert got["temperature"] == 0.1
    changed = (await member.secret.put(path, json={"temperature": None, "name": "A"})).json()
    assert changed == got | {
        "temperature": None, "name": "A", "version": 2, "updatedAt": changed["updatedAt"],
    }  # fmt: skip
    head = (await member.primary.get(f"{SPECS}/{made['id']}")).json()["frontmatter"]
    assert head["model_settings"] == {"top_p": 0.5}
    assert head["permissions"] == {"max_cost_per_run": 0.25, "require_approval": ["current_time"]}
    same = (await member.secret.put(path, json={"name": "A", "unknown": 1})).json()
    assert same["version"] == 2, "nothing has changed"
    refused = await member.secret.put(path, json={"tools": []})
    assert refused.status_code == 400, "an approval of a tool that it has no longer"
    assert "require_approval" in refused.json()["message"]


async def test_a_rollback_is_the_version_before(member: Member) -> None:
    made = (await member.secret.post("/agent", json={"name": "A", "systemPrompt": "1"})).json()
    path = f"/agent/{made['id']}"
    refused = await member.secret.put(f"{path}/rollback")
    assert (refused.status_code, refused.json()["message"]) == (
        400,
        "id: There is no earlier version",
    )
    await member.secret.put(path, json={"systemPrompt": "2"})
    rolled = (await member.secret.put(f"{path}/rollback")).json()
    assert (rolled["id"], rolled["version"]) == (made["id"], 3)
    assert (await member.secret.get(path)).json()["systemPrompt"] == "1"
    await member.secret.put(f"{path}/rollback")
    assert (await member.secret.get(path)).json()["systemPrompt"] == "2", "undone once more"


async def test_whose_agent_it_is_counts(member: Member, add_member: AddMember) -> None:
    made = (await member.secret.post("/agent", json={"name": "A"})).json()
    colleague, stranger = await add_member(member.tenant_id), await add_member()
    path = f"/agent/{made['id']}"
    assert (await colleague.secret.get(path)).status_code == 200
    refusals = [
        await colleague.secret.put(path, json={"name": "B"}),
        await colleague.secret.delete(path),
        await colleague.secret.put("/agent/default", json={"name": "B"}),
    ]
    for refused in refusals:
        assert (refused.status_code, refused.json()["error"]) == (403, "Forbidden")
        assert "allowedEndpoints" not in refused.json()
    for method, rest in (("GET", ""), ("PUT", ""), ("DELETE", ""), ("PUT", "/rollback")):
        body = {"name": "B"} if (method, rest) == ("PUT", "") else None
        foreign = await stranger.secret.request(method, path + rest, json=body)
        assert foreign.status_code == 404, (method, rest)
    assert (await member.secret.get(path)).json() == made


async def test_the_default_is_not_deleted_and_a_deleted_one_leaves_its_chats(
    member: Member, start_worker: StartWorker
) -> None:
    await start_worker()
    refused = await member.secret.delete("/agent/default")
    assert (refused.status_code, refused.json()["error"]) == (409, "Conflict")
    made = (await member.secret.post("/agent", json={"name": "A"})).json()
    chat_id = await member.secret.chat("a")
    assert (await member.secret.delete("/agent/a")).status_code == 204
    assert (await member.secret.post("/chat", json={"agentId": "a"})).status_code == 404
    assert (await member.secret.get(f"/chat/{chat_id}")).json()["agentId"] == made["id"]
    assert (await member.secret.say(chat_id, "x")).status_code == 200


@pytest.mark.parametrize("body", [{"tools": ["calculator", "calculator"]}, {"tools": [1]}])
async def test_what_is_no_agent_is_refused(member: Member, body: dict[str, Any]) -> None:
    refused = await member.secret.post("/agent", json={"name": "A", **body})
    assert (refused.status_code, refused.json()["error"]) == (400, "Bad Request")
    assert refused.json()["message"].startswith("tools")
