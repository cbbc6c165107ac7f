"""Automations over HTTP: written, checked, versioned, activated, listed, deleted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.integration.api_turns.conftest import AddUser, User
from tests.integration.automations.conftest import AUTOMATIONS, RUNS, read, start, statuses, step

Automate = Callable[..., Awaitable[str]]
CONFIG = {"steps": [step("a")]}


async def test_a_draft_is_written_and_read(user: User) -> None:
    body = {"name": " A ", "description": "d", "config": {"steps": [step("b", "a"), step("a")]}}
    made = await user.post(AUTOMATIONS, json=body)
    assert made.status_code == 201
    automation = made.json()
    told = {name: automation[name] for name in automation if name not in {"id", "config"}}
    at = automation["createdAt"]
    assert told == {
        "tenantId": str(user.tenant_id), "name": "A", "description": "d", "status": "draft",
        "triggerType": "manual", "orchestratorType": "dag", "sourceType": "manual",
        "sourceThreadId": None, "sourceAgentRunId": None, "sourceAgentSpecId": None,
        "templateId": None, "versionNumber": 1, "activeVersionNumber": None,
        "versionsSummary": {"count": 1, "activeCount": 0, "hasDraft": True}, "latestRun": None,
        "createdBy": automation["createdBy"], "updatedBy": automation["createdBy"],
        "createdAt": at, "updatedAt": at,
    }  # fmt: skip
    assert [one["id"] for one in automation["config"]["steps"]] == ["b", "a"], "as written"
    url = f"{AUTOMATIONS}/{automation['id']}"
    assert made.headers["location"] in url
    assert (await user.get(url)).json() == automation
    run = await read(user, await start(user, automation["id"]))
    assert [one["id"] for one in run["steps"]] == ["a", "b"], "as it is run"
    assert (await user.get(url)).json()["latestRun"] == {
        "id": run["id"], "status": "pending", "startedAt": None, "completedAt": None,
        "versionNumber": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "loc"),
    [
        ({"name": ""}, ["name"]),
        ({"name": "  "}, ["name"]),
        ({"name": "x" * 256}, ["name"]),
        ({"name": None}, ["name"]),
        ({"config": None}, ["config"]),
        ({"config": {"steps": []}}, ["config", "steps"]),
        ({"config": {"steps": [step("a")], "x": 1}}, ["config", "x"]),
        ({"config": {"steps": [step("a", kind="x")]}}, ["config", "steps", 0, "kind"]),
        (
            {"config": {"steps": [step("a", kind="http_request")]}},
            ["config", "steps", 0, "kind"],
        ),
        (
            {"config": {"steps": [step("a"), step("b", "x")]}},
            ["config", "steps", 1, "dependsOn", 0],
        ),
        (
            {"config": {"steps": [step("a", "b"), step("b", "a")]}},
            ["config", "steps", 0, "dependsOn"],
        ),
        ({"triggerType": "schedule"}, ["triggerType"]),
        ({"triggerType": "webhook"}, ["triggerType"]),
        ({"orchestratorType": "local"}, ["orchestratorType"]),
        ({"templateId": "x"}, ["templateId"]),
        ({"status": "active"}, ["status"]),
        ({"description": "x" * 4001}, ["description"]),
    ],
)
async def test_what_cannot_be_run_is_refused(
    user: User, change: dict[str, Any], loc: list[Any]
) -> None:
    refused = await user.post(AUTOMATIONS, json={"name": "x", "config": CONFIG} | change)
    assert refused.status_code == 422, refused.text
    first = refused.json()["detail"][0]
    assert first["loc"] == ["body", *loc]
    assert first.keys() == {"loc", "msg", "type"}
    assert (await user.get(AUTOMATIONS)).json() == {"items": [], "total": 0}


async def test_an_active_version_runs_until_another_is_activated(
    user: User, automate: Automate
) -> None:
    automation_id = await automate(step("first"))
    url = f"{AUTOMATIONS}/{automation_id}"

    async def change(**body: Any) -> dict[str, Any]:
        changed = await user.patch(url, json=body)
        assert changed.status_code == 200, changed.text
        assert changed.json() == (await user.get(url)).json()
        told: dict[str, Any] = changed.json()
        return told

    async def runs(**body: Any) -> list[str]:
        return list(statuses(await read(user, await start(user, automation_id, **body))))

    assert (await user.patch(url, json={"status": "paused"})).status_code == 409
    await change(status="active")
    second = await change(config={"steps": [step("second")]}, description="d")
    assert (second["versionNumber"], second["activeVersionNumber"]) == (2, 1)
    assert second["versionsSummary"] == {"count": 2, "activeCount": 1, "hasDraft": True}
    assert second["status"] == "active"
    assert await runs() == ["first"]
    assert await runs(versionNumber=2) == ["second"], "the next one can be tried"
    assert (await user.post(f"{url}/runs", json={"versionNumber": 3})).status_code == 422
    assert (await change())["updatedAt"] == second["updatedAt"]
    assert (await change(config=second["config"]))["versionNumber"] == 2, "nothing has changed"
    active = await change(status="active", name="B", description=None)
    assert (active["activeVersionNumber"], active["name"]) == (2, "B")
    assert active["description"] is None
    assert await runs() == ["second"]
    await change(status="paused")
    refused = await user.post(f"{url}/runs")
    assert (refused.status_code, refused.json()["detail"]) == (409, "The automation is paused")
    assert (await change(status="draft"))["activeVersionNumber"] is None
    assert await runs(versionNumber=1) == ["first"]
    refused_changes: list[dict[str, Any]] = [
        {"triggerType": "schedule"}, {"config": {"steps": []}}, {"status": "error"},
    ]  # fmt: skip
    for wrong in refused_changes:
        assert (await user.patch(url, json=wrong)).status_code == 422
    assert (await change(triggerType="manual"))["versionNumber"] == 2


async def test_lists_are_the_tenants_newest_first(
    user: User, add_user: AddUser, automate: Automate
) -> None:
    colleague, stranger = await add_user(tenant_id=user.tenant_id), await add_user()
    ids = [await automate(step("a"), by=who) for who in (user, colleague, user)]
    await automate(step("a"), by=stranger)
    await user.patch(f"{AUTOMATIONS}/{ids[1]}", json={"status": "active"})
    runs = [await start(colleague, automation_id) for automation_id in ids]

    async def listed(url: str, **query: Any) -> tuple[list[str], int]:
        page = (await user.get(url, params=query)).json()
        assert page.keys() == {"items", "total"}
        return [one["id"] for one in page["items"]], page["total"]

    assert await listed(AUTOMATIONS) == (ids[::-1], 3)
    assert await listed(AUTOMATIONS, limit=1, offset=1) == ([ids[1]], 3)
    assert await listed(AUTOMATIONS, offset=9) == ([], 3)
    assert await listed(AUTOMATIONS, status="active") == ([ids[1]], 1)
    assert await listed(AUTOMATIONS, status="paused") == ([], 0)
    assert await listed(RUNS) == (runs[::-1], 3)
    assert await listed(RUNS, limit=1, offset=2) == ([runs[0]], 3)
    assert await listed(RUNS, offset=9) == ([], 3)
    assert await listed(RUNS, automationId=ids[0]) == ([runs[0]], 1)
    assert await listed(RUNS, status="completed") == ([], 0)
    assert await listed(RUNS, status="pending", automationId=ids[2]) == ([runs[2]], 1)
    for url in (AUTOMATIONS, RUNS):
        for query in ({"limit": 0}, {"limit": 1001}, {"status": "x"}, {"offset": -1}):
            assert (await user.get(url, params=query)).status_code == 422


async def test_a_long_config_is_left_out_of_lists(user: User) -> None:
    long = step("a", kind="search_attachments") | {"input": {"query": "x" * 10_000}}
    body = {"name": "x", "config": {"steps": [long]}}
    automation = (await user.post(AUTOMATIONS, json=body)).json()
    (listed,) = (await user.get(AUTOMATIONS)).json()["items"]
    assert listed == automation | {"config": None}


async def test_a_deleted_automation_is_gone_with_its_runs(user: User, automate: Automate) -> None:
    automation_id, other_id = await automate(step("a")), await automate(step("a"))
    run_id, other_run = await start(user, automation_id), await start(user, other_id)
    url = f"{AUTOMATIONS}/{automation_id}"
    assert (await user.delete(url)).status_code == 204
    for answered in (
        await user.get(url), await user.patch(url, json={}), await user.delete(url),
        await user.post(f"{url}/runs"),
    ):  # fmt: skip
        assert (answered.status_code, answered.json()["detail"]) == (404, "Automation not found")
    told = await user.get(f"{RUNS}/{run_id}")
    assert (told.status_code, told.json()["detail"]) == (404, "Automation run not found")
    assert (await user.post(f"{RUNS}/{run_id}/cancel")).status_code == 404
    assert [one["id"] for one in (await user.get(RUNS)).json()["items"]] == [other_run]


async def test_a_tenant_has_so_many_open_runs(
    user: User, automate: Automate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.service.automation_runs.MAX_OPEN_RUNS", 2)
    automation_id = await automate(step("a"))
    first = await start(user, automation_id)
    await start(user, automation_id)
    refused = await user.post(f"{AUTOMATIONS}/{automation_id}/runs")
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "10"
    assert (await user.post(f"{RUNS}/{first}/cancel")).json()["status"] == "cancelled"
    await start(user, automation_id)
