"""Threads: made, read, changed, listed, deleted, and seen by nobody else."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from shared.errors import ConcurrencyConflict
from shared.ids import new_id
from shared.postgres.queries import sql
from shared.service import cancel as service
from shared.service.threads import ThreadService
from shared.turn.model import Principal, Turn
from shared.turn.state import TurnStatus
from tests.fixtures.system import Api
from tests.integration.api_crud.conftest import THREADS, AddClient, Client

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


async def test_create_and_get(client: Client) -> None:
    made = await client.post(
        THREADS, json={"title": "T", "systemPrompt": "P", "metadata": {"a": [1, None]}}
    )
    assert made.status_code == 201
    thread = made.json()
    assert made.headers["location"] == f"{THREADS}/{thread['id']}"
    assert TIME.fullmatch(thread["createdAt"])
    assert thread == {
        "id": str(UUID(thread["id"])),
        "title": "T",
        "systemPrompt": "P",
        "agentSpecId": None,
        "metadata": {"a": [1, None]},
        "crystallizeEligible": False,
        "lastMessageAt": None,
        "lastMessagePreview": None,
        "lastTurnId": None,
        "lastTurnStatus": None,
        "createdAt": thread["createdAt"],
        "updatedAt": thread["createdAt"],
    }
    got = await client.get(f"{THREADS}/{thread['id']}")
    assert (got.status_code, got.json()) == (200, thread)
    assert (await client.get(f"{THREADS}/{thread['id'].upper()}")).json() == thread


@pytest.mark.parametrize("body", [None, b"", b"{}"])
async def test_every_field_is_optional(client: Client, body: bytes | None) -> None:
    made = await client.post(THREADS, content=body, headers={"content-type": "application/json"})
    assert made.status_code == 201
    assert made.json()["metadata"] == {}


async def test_hostile_text_is_stored_as_it_is(client: Client) -> None:
    text = "'; drop table threads; -- {{7*7}} ${jndi:ldap://x} %s </script> \r\ndata: x \U0001f600"
    made = (await client.post(THREADS, json={"title": text, "metadata": {text: text}})).json()
    got = (await client.get(f"{THREADS}/{made['id']}")).json()
    assert (got["title"], got["metadata"]) == (text, {text: text})


async def test_an_unknown_agent_spec_is_not_found(client: Client) -> None:
    made = await client.post(THREADS, json={"agentSpecId": str(new_id())})
    assert made.status_code == 404
    assert made.json()["detail"] == "Agent spec not found"


async def test_update(client: Client) -> None:
    thread = (await client.post(THREADS, json={"title": "T", "metadata": {"a": 1}})).json()
    url = f"{THREADS}/{thread['id']}"
    assert (await client.patch(url, json={})).json() == thread
    changed = (await client.patch(url, json={"title": None, "metadata": {"b": 2}})).json()
    assert (changed["title"], changed["metadata"]) == (None, {"b": 2})
    assert changed["updatedAt"] > thread["updatedAt"]
    changed = (await client.patch(url, json={"metadata": None, "systemPrompt": "P"})).json()
    assert (changed["metadata"], changed["systemPrompt"]) == ({}, "P")
    assert (await client.get(url)).json() == changed


async def test_delete_hides_everything(
    client: Client, api: Api, make_turn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "CANCEL_PAGE", 2)
    thread = (await client.post(THREADS)).json()
    url = f"{THREADS}/{thread['id']}"
    who = Principal(client.tenant_id, client.user_id, new_id())
    turns = [
        await api.submit(make_turn(principal=who, thread=UUID(thread["id"]), key=key))
        for key in ("a", "a", "b")
    ]
    assert (await client.delete(url)).status_code == 204
    for method, path in [
        ("GET", url),
        ("DELETE", url),
        ("PATCH", url),
        ("GET", f"{url}/messages"),
    ]:
        assert (await client.request(method, path)).status_code == 404
    assert (await client.get(THREADS)).json()["items"] == []
    database = api.database.for_tenant(who)
    for turn in turns:
        row = await database.fetch_one("get_turn_of_tenant", turn.id, client.tenant_id)
        assert row is not None
        assert row["status"] == TurnStatus.CANCELLED
        assert await database.fetch_one("get_turn", turn.id, who.tenant_id, who.user_id) is None


async def test_a_turn_accepted_during_the_delete_is_cancelled_too(
    client: Client, api: Api, make_turn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread_id = UUID((await client.post(THREADS)).json()["id"])
    who = Principal(client.tenant_id, client.user_id, new_id())
    cancel_all = api.cancels.cancel_all_of_thread
    late: list[Turn] = []

    async def cancel_then_submit(principal: Principal, thread_id: UUID) -> None:
        await cancel_all(principal, thread_id)
        if not late:
            late.append(await api.submit(make_turn(principal=who, thread=thread_id)))

    monkeypatch.setattr(api.cancels, "cancel_all_of_thread", cancel_then_submit)
    await ThreadService(api.database, api.cancels).delete(who, thread_id)
    row = await api.database.for_tenant(who).fetch_one(
        "get_turn_of_tenant", late[0].id, who.tenant_id
    )
    assert row is not None
    assert row["status"] == TurnStatus.CANCELLED


async def test_a_delete_gives_up_when_turns_keep_coming(
    client: Client, api: Api, make_turn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread_id = UUID((await client.post(THREADS)).json()["id"])
    who = Principal(client.tenant_id, client.user_id, new_id())

    cancel = api.cancels.cancel

    async def cancel_and_submit(principal: Principal, turn_id: UUID) -> Turn:
        cancelled = await cancel(principal, turn_id)
        await api.submit(make_turn(principal=who, thread=thread_id))
        return cancelled

    await api.submit(make_turn(principal=who, thread=thread_id))
    monkeypatch.setattr(api.cancels, "cancel", cancel_and_submit)
    with pytest.raises(ConcurrencyConflict):
        await ThreadService(api.database, api.cancels).delete(who, thread_id)
    assert (await client.get(f"{THREADS}/{thread_id}")).status_code == 200


async def test_last_turn_and_message(client: Client, api: Api, make_turn: Any) -> None:
    thread_id = (await client.post(THREADS)).json()["id"]
    who = Principal(client.tenant_id, client.user_id, new_id())
    turn = await api.submit(make_turn("hello  there", principal=who, thread=UUID(thread_id)))
    shown = (await client.get(f"{THREADS}/{thread_id}")).json()
    assert (shown["lastTurnId"], shown["lastTurnStatus"]) == (str(turn.id), "pending")
    assert (shown["title"], shown["lastMessagePreview"]) == ("hello there", "hello there")
    assert TIME.fullmatch(shown["lastMessageAt"])
    assert (await client.get(THREADS)).json()["items"] == [shown]


# -- others


async def test_nobody_else_sees_a_thread(client: Client, add_client: AddClient) -> None:
    """Unknown, another user's of the tenant and another tenant's: the same bytes (A10)."""
    theirs = (await client.post(THREADS, json={"title": "secret"})).json()
    colleague = await add_client(client.tenant_id)
    stranger = await add_client()
    for method, tail, body in [
        ("GET", "", None),
        ("PATCH", "", {"title": "taken"}),
        ("DELETE", "", None),
        ("GET", "/messages", None),
    ]:
        answers = set()
        for who, thread_id in [
            (colleague, theirs["id"]),
            (stranger, theirs["id"]),
            (stranger, str(new_id())),
        ]:
            answer = await who.request(method, f"{THREADS}/{thread_id}{tail}", json=body)
            answers.add((answer.status_code, answer.content, tuple(answer.headers.items())))
        ((status, content, _),) = answers
        assert status == 404
        assert b"Thread not found" in content
    for who in (colleague, stranger):
        assert (await who.get(THREADS)).json() == {"items": [], "nextCursor": None}
    assert (await client.get(f"{THREADS}/{theirs['id']}")).json() == theirs


# -- the list


async def walk(
    client: Client, url: str, cursor: str | None = None, **query: Any
) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    while True:
        page = await client.get(url, params={**query, **({"cursor": cursor} if cursor else {})})
        assert page.status_code == 200
        items += page.json()["items"]
        cursor = page.json()["nextCursor"]
        if cursor is None:
            return items


async def test_newest_activity_first(client: Client, admin: Any) -> None:
    ids = [(await client.post(THREADS)).json()["id"] for _ in range(7)]
    # The same moment for several: the id decides.
    await admin.execute("update threads set created_at = '2026-01-01' where id = any($1)", ids[:4])
    expected = [*reversed(ids[4:]), *sorted(ids[:4], reverse=True)]
    for limit in (1, 2, 3, 6, 7, 100):
        found = [thread["id"] for thread in await walk(client, THREADS, limit=limit)]
        assert found == expected
    await admin.execute("update threads set last_message_at = now() where id = $1", ids[0])
    assert (await client.get(THREADS)).json()["items"][0]["id"] == ids[0]


async def test_walking_while_threads_appear_and_move(client: Client, admin: Any) -> None:
    ids = [(await client.post(THREADS)).json()["id"] for _ in range(6)]
    first = (await client.get(THREADS, params={"limit": 2})).json()
    new = (await client.post(THREADS)).json()["id"]
    await admin.execute("update threads set last_message_at = now() where id = $1", ids[0])
    await client.delete(f"{THREADS}/{ids[1]}")
    rest = await walk(client, THREADS, first["nextCursor"], limit=2)
    seen = [thread["id"] for thread in first["items"]] + [thread["id"] for thread in rest]
    assert seen == [ids[5], ids[4], ids[3], ids[2]]
    assert new not in seen


async def test_default_page(client: Client) -> None:
    for _ in range(21):
        await client.post(THREADS)
    page = (await client.get(THREADS)).json()
    assert len(page["items"]) == 20
    assert page["nextCursor"]
    assert (await client.get(f"{THREADS}?cursor=")).json() == page


@pytest.mark.parametrize("cursor", ["x", "W10", "WzEsMV0", "WzEsIngiXQ", "A" * 600, "%00", "%FF"])
async def test_forged_cursors(client: Client, cursor: str) -> None:
    answer = await client.get(f"{THREADS}?cursor={cursor}")
    assert answer.status_code == 422
    (item,) = answer.json()["detail"]
    assert item["loc"] == ["query", "cursor"]


async def test_a_cursor_shows_only_ones_own(client: Client, add_client: AddClient) -> None:
    for _ in range(3):
        await client.post(THREADS)
    cursor = (await client.get(f"{THREADS}?limit=1")).json()["nextCursor"]
    stranger = await add_client()
    answer = await stranger.get(f"{THREADS}?cursor={cursor}")
    assert answer.json() == {"items": [], "nextCursor": None}


@pytest.mark.parametrize("role", ["none", "turnkeep_tenant"])
async def test_the_list_uses_its_index(client: Client, admin: Any, role: str) -> None:
    """A page of 10,000 threads is read in the order of the index, also under the policies."""
    await admin.execute(
        "insert into threads (id, tenant_id, user_id, last_message_at)"
        " select gen_random_uuid(), $1, $2, case when n % 2 = 0 then now() - n * interval '1 s' end"
        " from generate_series(1, 10000) n",
        client.tenant_id,
        client.user_id,
    )
    await admin.execute("analyze threads")
    await admin.execute("set plan_cache_mode = force_generic_plan")
    for name, value in (("app.tenant", client.tenant_id), ("app.user", client.user_id)):
        await admin.execute("select set_config($1, $2, false)", name, str(value))
    await admin.execute(f"set role {role}")
    statement = await admin.prepare(sql("list_threads", "tenant"))
    last = (datetime.now(UTC) - timedelta(minutes=30), UUID(int=2**128 - 1))
    for place in ((None, None), last):
        arguments = (client.tenant_id, client.user_id, *place, 21)
        plan = str(await statement.explain(*arguments, analyze=True))
        assert "threads_by_activity" in plan
        assert "'Sort'" not in plan
        assert "'Actual Rows': 21" in plan
        assert set(re.findall(r"Rows Removed by \w+(?: \w+)?': ([\d.]+)", plan)) <= {"0", "0.0"}
    await admin.execute("reset role")
