"""Agent specs over HTTP, on a real Postgres."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shared.ids import new_id
from shared.service import agent_specs
from tests.integration.api_crud.conftest import THREADS, AddClient, Client

SPECS = "/api/v1/agents/specs"


def markdown(slug: str = "analyst", body: str = "Be brief.", **more: str) -> str:
    head = {"name": "Analyst", "slug": slug, "mode": "primary", "tools": "[calculator]"} | more
    return "---\n" + "".join(f"{k}: {v}\n" for k, v in head.items()) + f"---\n{body}\n"


async def make(client: Client, *args: str, **more: str) -> dict[str, Any]:
    made = await client.post(SPECS, json={"markdown": markdown(*args, **more)})
    assert made.status_code == 201, made.text
    spec: dict[str, Any] = made.json()
    assert made.headers["location"] == f"{SPECS}/{spec['id']}"
    return spec


def items_of(answer: Any) -> list[dict[str, Any]]:
    assert answer.status_code == 422, answer.text
    items: list[dict[str, Any]] = answer.json()["detail"]
    assert all(item.keys() == {"loc", "msg", "type"} for item in items)
    return items


async def test_a_tenant_without_specs_is_given_a_default(client: Client) -> None:
    listed = (await client.get(SPECS)).json()
    (default,) = listed["specs"]
    assert listed["total"] == 1
    assert default["isDefault"] is True
    assert default["slug"] == "default"
    assert default["createdBy"] is None
    assert (await client.get(SPECS)).json() == listed, "once"


async def test_many_first_looks_make_one_default(client: Client) -> None:
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(client.get(SPECS)) for _ in range(6)]
    assert {task.result().json()["total"] for task in asked} == {1}


async def test_what_is_created_is_read_again(client: Client) -> None:
    spec = await make(client, description="Reads tables", model="scripted")
    assert spec == {
        "id": spec["id"], "name": "Analyst", "slug": "analyst", "mode": "primary",
        "description": "Reads tables",
        "markdown": markdown(description="Reads tables", model="scripted"),
        "frontmatter": {
            "name": "Analyst", "slug": "analyst", "mode": "primary", "tools": ["calculator"],
            "description": "Reads tables", "model": "scripted",
        },
        "version": 1, "isDefault": False, "resources": [], "resourcePreview": [],
        "createdAt": spec["createdAt"], "createdBy": str(client.user_id),
        "updatedAt": spec["updatedAt"], "updatedBy": str(client.user_id),
    }  # fmt: skip
    assert (await client.get(f"{SPECS}/{spec['id']}")).json() == spec


async def test_lists_are_pages_by_slug_and_by_mode(client: Client) -> None:
    for slug in ("b", "a", "c"):
        await make(client, slug, mode="subagent" if slug == "c" else "primary")
    answer = (await client.get(f"{SPECS}?limit=2&offset=1")).json()
    assert [spec["slug"] for spec in answer["specs"]] == ["b", "c"]
    assert answer["total"] == 4
    answer = (await client.get(f"{SPECS}?mode=subagent")).json()
    assert ([spec["slug"] for spec in answer["specs"]], answer["total"]) == (["c"], 1)
    assert (await client.get(f"{SPECS}?offset=99")).json() == {"specs": [], "total": 4}
    for query in ("limit=0", "limit=101", "offset=-1", "mode=x"):
        items_of(await client.get(f"{SPECS}?{query}"))


async def test_a_mistake_is_told_where_it_stands(client: Client) -> None:
    (item,) = items_of(await client.post(SPECS, json={"markdown": markdown(tools="[shell]")}))
    assert item["loc"] == ["body", "markdown", "tools", 0]
    (item,) = items_of(await client.post(SPECS, json={"markdown": markdown(model="gpt-5")}))
    assert item["loc"] == ["body", "markdown", "model"]
    (item,) = items_of(await client.post(SPECS, json={"markdown": markdown(sub_agents="[x]")}))
    assert item["loc"] == ["body", "markdown", "sub_agents", 0]
    http = {"markdown": markdown(tools="[http_request]")}
    (item,) = items_of(await client.post(SPECS, json=http))
    assert "not enabled" in item["msg"]
    (item,) = items_of(await client.post(SPECS, json={}))
    assert (item["loc"], item["type"]) == (["body", "markdown"], "missing")


async def test_sub_agents_are_subagents_of_the_tenant(
    client: Client, add_client: AddClient
) -> None:
    await make(client, "reader", mode="subagent")
    await make(client, "writer")
    await make(await add_client(), "foreign", mode="subagent")
    await make(client, "boss", sub_agents="[reader]")
    for wrong in ("writer", "foreign"):
        items_of(await client.post(SPECS, json={"markdown": markdown(sub_agents=f"[{wrong}]")}))


async def test_a_slug_is_one_living_specs(client: Client, add_client: AddClient) -> None:
    spec = await make(client)
    again = await client.post(SPECS, json={"markdown": markdown()})
    assert again.status_code == 409
    assert "analyst" in again.json()["detail"]
    await make(await add_client())
    other = await make(client, "other")
    taken = await client.patch(f"{SPECS}/{other['id']}", json={"markdown": markdown()})
    assert taken.status_code == 409
    assert (await client.delete(f"{SPECS}/{spec['id']}")).status_code == 204
    await make(client)


async def test_a_change_is_a_new_version(client: Client, admin: Any) -> None:
    spec = await make(client)
    path = f"{SPECS}/{spec['id']}"
    changed = (await client.patch(path, json={"markdown": markdown(body="Be long.")})).json()
    assert changed["version"] == 2
    assert changed["markdown"] == markdown(body="Be long.")
    assert changed["updatedAt"] > spec["updatedAt"]
    same = (await client.patch(path, json={"markdown": changed["markdown"]})).json()
    assert same == changed, "the same again is no version"
    assert (await client.patch(path, json={})).json() == changed
    rows = await admin.fetch(
        "select version, instructions from agent_spec_versions where spec_id = $1 order by 1",
        spec["id"],
    )
    assert [tuple(row) for row in rows] == [(1, "Be brief."), (2, "Be long.")]


async def test_changes_at_once_are_versions_one_after_the_other(client: Client) -> None:
    spec = await make(client)
    path = f"{SPECS}/{spec['id']}"
    async with asyncio.TaskGroup() as group:
        for number in range(6):
            body = {"markdown": markdown(body=f"Be {number}.")}
            group.create_task(client.patch(path, json=body))
    assert (await client.get(path)).json()["version"] == 7


async def test_the_default_moves_and_is_always_one(client: Client) -> None:
    await client.get(SPECS)
    specs = [await make(client, slug) for slug in ("a", "b", "c")]
    async with asyncio.TaskGroup() as group:
        moves = [
            group.create_task(client.patch(f"{SPECS}/{spec['id']}", json={"isDefault": True}))
            for spec in specs
        ]
    assert {task.result().status_code for task in moves} == {200}
    listed = (await client.get(SPECS)).json()["specs"]
    assert [spec["isDefault"] for spec in listed].count(True) == 1
    (default,) = [spec for spec in listed if spec["isDefault"]]
    refused = await client.delete(f"{SPECS}/{default['id']}")
    assert refused.status_code == 409
    items_of(await client.patch(f"{SPECS}/{default['id']}", json={"isDefault": False}))
    body = {"markdown": markdown(default["slug"], mode="subagent")}
    (item,) = items_of(await client.patch(f"{SPECS}/{default['id']}", json=body))
    assert item["loc"] == ["body", "markdown", "mode"]


async def test_a_sub_agent_is_no_default(client: Client) -> None:
    spec = await make(client, "reader", mode="subagent")
    (item,) = items_of(await client.patch(f"{SPECS}/{spec['id']}", json={"isDefault": True}))
    assert item["loc"] == ["body", "isDefault"]
    await make(client, "other")
    both = {"isDefault": True, "markdown": markdown("reader")}
    assert (await client.patch(f"{SPECS}/{spec['id']}", json=both)).json()["isDefault"] is True


async def test_a_colleague_shares_specs_and_a_stranger_learns_nothing(
    client: Client, add_client: AddClient
) -> None:
    spec = await make(client)
    path, unknown = f"{SPECS}/{spec['id']}", f"{SPECS}/{new_id()}"
    colleague, stranger = await add_client(client.tenant_id), await add_client()
    assert (await colleague.get(path)).json() == spec
    for method, body in (("GET", None), ("PATCH", {"isDefault": True}), ("DELETE", None)):
        answers = [await stranger.request(method, place, json=body) for place in (path, unknown)]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert answers[0].content == answers[1].content
    assert (await client.get(path)).json() == spec
    assert (await client.delete(path)).status_code == 204
    assert (await client.get(path)).status_code == 404
    assert (await client.delete(path)).status_code == 404


def assert_forbidden(answer: Any) -> None:
    assert answer.status_code == 403, answer.text
    told = answer.json()
    assert told.keys() == {"detail", "title", "status", "type"}
    assert (told["title"], told["status"]) == ("Forbidden", 403)


async def test_a_member_rewrites_nobody_elses_agent(
    client: Client, add_client: AddClient, admin: Any
) -> None:
    """Least of all the one that runs everybody's threads."""
    member, other = [await add_client(client.tenant_id) for _ in range(2)]
    (default,) = (await member.get(SPECS)).json()["specs"]
    own, theirs = await make(member, "own"), await make(other, "theirs")
    changes: tuple[dict[str, Any], ...] = (
        {"markdown": markdown("stolen")}, {"isDefault": True}, {},
    )  # fmt: skip
    for spec in (default, theirs):
        for body in changes:
            assert_forbidden(await member.patch(f"{SPECS}/{spec['id']}", json=body))
        assert_forbidden(await member.delete(f"{SPECS}/{spec['id']}"))
        assert (await member.get(f"{SPECS}/{spec['id']}")).json() == spec
    assert_forbidden(await member.patch(f"{SPECS}/{own['id']}", json={"isDefault": True}))
    assert (await member.patch(f"{SPECS}/{own['id']}", json=changes[0])).json()["version"] == 2
    # An administrator may do all of it. What they made the default is no longer its maker's alone.
    moved = await client.patch(f"{SPECS}/{own['id']}", json={"isDefault": True})
    assert moved.json()["isDefault"] is True
    assert_forbidden(await member.patch(f"{SPECS}/{own['id']}", json={"markdown": markdown("x")}))
    assert_forbidden(await member.delete(f"{SPECS}/{own['id']}"))
    assert (await client.patch(f"{SPECS}/{theirs['id']}", json=changes[0])).status_code == 409
    assert (await client.delete(f"{SPECS}/{theirs['id']}")).status_code == 204
    await admin.execute("update users set is_admin = true where id = $1", member.user_id)
    back = await member.patch(f"{SPECS}/{default['id']}", json={"isDefault": True})
    assert back.json()["isDefault"] is True
    assert (await member.delete(f"{SPECS}/{own['id']}")).status_code == 204


async def test_the_versions_of_a_spec_are_bounded(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_specs, "MAX_VERSIONS", 2)
    path = f"{SPECS}/{(await make(client))['id']}"
    assert (await client.patch(path, json={"markdown": markdown(body="2")})).status_code == 200
    refused = await client.patch(path, json={"markdown": markdown(body="3")})
    assert refused.status_code == 409
    assert "2 versions" in refused.json()["detail"]
    assert (await client.patch(path, json={"markdown": markdown(body="2")})).status_code == 200


@pytest.mark.parametrize("change", ["create", "update"])
async def test_a_thread_takes_living_entry_points_only(
    client: Client, add_client: AddClient, change: str
) -> None:
    thread = (await client.post(THREADS)).json()

    async def give(spec_id: Any) -> Any:
        body = {"agentSpecId": spec_id}
        if change == "create":
            return await client.post(THREADS, json=body)
        return await client.patch(f"{THREADS}/{thread['id']}", json=body)

    spec = await make(client)
    foreign = await make(await add_client())
    deleted = await make(client, "deleted")
    await client.delete(f"{SPECS}/{deleted['id']}")
    for wrong in (foreign["id"], deleted["id"], str(new_id()), "default"):
        answer = await give(wrong)
        assert (answer.status_code, answer.json()["detail"]) == (404, "Agent spec not found")
    sub = await make(client, "sub", mode="subagent")
    (item,) = items_of(await give(sub["id"]))
    assert item["loc"] == ["body", "agentSpecId"]
    answer = await give(spec["id"])
    assert answer.is_success
    assert answer.json()["agentSpecId"] == spec["id"]
    assert (await give(None)).json()["agentSpecId"] is None


async def test_a_foreign_thread_is_told_of_before_the_spec(
    client: Client, add_client: AddClient
) -> None:
    thread = (await (await add_client()).post(THREADS)).json()
    answer = await client.patch(f"{THREADS}/{thread['id']}", json={"agentSpecId": str(new_id())})
    assert answer.json()["detail"] == "Thread not found"


async def test_an_mcp_server_must_be_the_tenants_own(
    client: Client, add_client: AddClient, admin: Any
) -> None:
    tools = "[calculator, 'mcp:crm']"
    (item,) = items_of(await client.post(SPECS, json={"markdown": markdown(tools=tools)}))
    assert item == {
        "loc": ["body", "markdown", "tools", 1],
        "msg": "There is no MCP server with this name",
        "type": "unknown_tool",
    }
    await admin.execute(
        "insert into mcp_servers (tenant_id, name, url, tool_prefix)"
        " select tenant_id, 'crm', 'https://crm.example/', '' from users where id = $1",
        client.user_id,
    )
    spec = await make(client, tools=tools)
    stranger = await add_client()
    items_of(await stranger.post(SPECS, json={"markdown": markdown(tools=tools)}))
    changed = {"markdown": markdown(tools="['mcp:crm', 'mcp:erp']")}
    (item,) = items_of(await client.patch(f"{SPECS}/{spec['id']}", json=changed))
    assert item["loc"][-1] == 1
