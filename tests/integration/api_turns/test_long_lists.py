"""Long lists by cursor while others write: nothing comes twice, nothing that stayed is missed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID

import pytest
from starlette.applications import Starlette

from shared.ids import new_id
from tests.fixtures.chance import seeded
from tests.integration.api_turns.conftest import User

ROWS = 10_000


async def walk_while(
    write: Callable[[], Coroutine[Any, Any, None]], user: User, url: str, **query: Any
) -> list[dict[str, Any]]:
    """All items of the list; during each page there are two writes."""
    items: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(user.get(url, params={**query, "cursor": cursor}))
            for _ in range(2):
                group.create_task(write())
        assert reading.result().status_code == 200, reading.result().text
        page = reading.result().json()
        assert len(page["items"]) <= query["limit"]
        items += page["items"]
        cursor = page["nextCursor"]
    return items


@pytest.mark.timeout(120)
@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_messages(user: User, admin: Any, order: str) -> None:
    thread = await user.thread()
    await admin.execute(
        # All of the same moment, so that only the sequence can tell them apart.
        "insert into messages (id, tenant_id, thread_id, role, content, format)"
        " select gen_random_uuid(), $1, $2, 'user', n::text, 'text' from generate_series(1, $3) n",
        user.tenant_id, UUID(thread), ROWS,
    )  # fmt: skip
    written = []

    async def write() -> None:
        answered = await user.submit(thread, message=f"late {new_id()}")
        written.append(answered.status_code)

    url = f"/threads/{thread}/messages"
    found = [m["content"] for m in await walk_while(write, user, url, limit=200, order=order)]
    assert 202 in written
    assert len(set(found)) == len(found), "one came twice"
    there = [content for content in found if not content.startswith("late")]
    wanted = [str(number) for number in range(1, ROWS + 1)]
    assert there == (wanted if order == "asc" else wanted[::-1])


@pytest.mark.timeout(120)
async def test_threads(app: Starlette, user: User, admin: Any) -> None:
    """Those that nobody touches come once each; touched ones move to the top, and never twice."""
    chance = seeded(19)
    ids = [new_id() for _ in range(ROWS)]
    owner = await admin.fetchval("select id from users where tenant_id = $1", user.tenant_id)
    await admin.execute(
        # A hundred of each moment: ties are broken by the id.
        "insert into threads (id, tenant_id, user_id, created_at)"
        " select id, $2, $3, '2026-01-01'::timestamptz + make_interval(secs => place / 100)"
        " from unnest($1::uuid[]) with ordinality as rows (id, place)",
        ids, user.tenant_id, owner,
    )  # fmt: skip
    touchable = chance.sample(ids, ROWS // 2)
    untouched = set(map(str, set(ids) - set(touchable)))

    async def write() -> None:
        match chance.randrange(3):
            case 0:
                await user.thread()
            case 1:
                await user.submit(str(chance.choice(touchable)))
            case _:
                await user.delete(f"/threads/{touchable.pop()}")

    found = [thread["id"] for thread in await walk_while(write, user, "/threads", limit=100)]
    assert len(set(found)) == len(found), "one came twice"
    assert untouched <= set(found), "one was missed"
    assert len(found) > len(untouched)
