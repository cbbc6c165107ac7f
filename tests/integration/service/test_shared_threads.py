"""Shared threads: who finds them, as whom they act, and messages that no turn has made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shared.errors import MessageNotFound, ThreadNotFound
from shared.ids import new_id
from shared.service.accounts import create_user
from shared.service.shared_threads import NewMessage, SharedThreads
from shared.service.threads import ThreadService
from shared.turn.model import Principal
from tests.fixtures.system import Api


@pytest.fixture
def shared_threads(api: Api) -> SharedThreads:
    return SharedThreads(api.database, api.cancels)


@pytest.fixture
async def colleague(api: Api, principal: Principal) -> Principal:
    user_id = await create_user(api.database, principal.tenant_id, "b@example.org", "B")
    return Principal(principal.tenant_id, user_id, new_id())


async def make_thread(api: Api, owner: Principal, admin: Any, *, is_shared: bool) -> Any:
    row = await ThreadService(api.database, api.cancels).create(
        owner, title=None, system_prompt=None, metadata={}
    )
    if is_shared:
        await admin.execute("update threads set visibility = 'shared' where id = $1", row["id"])
    return row["id"]


async def test_a_colleague_acts_as_the_owner_of_what_is_shared(
    api: Api, shared_threads: SharedThreads, principal: Principal, colleague: Principal, admin: Any
) -> None:
    thread_id = await make_thread(api, principal, admin, is_shared=True)
    owner = await shared_threads.find_owner(colleague, thread_id)
    assert (owner.user_id, owner.acts_for) == (principal.user_id, colleague.user_id)
    assert owner.counted_as == colleague.counted_as
    assert await shared_threads.find_owner(principal, thread_id) == principal
    row = await shared_threads.append(owner, thread_id, NewMessage("user", "Hello"))
    assert row["created_by"] == colleague.user_id
    with pytest.raises(ThreadNotFound):
        await shared_threads.find_owner(replace(colleague, tenant_id=new_id()), thread_id)


async def test_a_private_thread_is_found_by_its_owner_alone(
    api: Api, shared_threads: SharedThreads, principal: Principal, colleague: Principal, admin: Any
) -> None:
    thread_id = await make_thread(api, principal, admin, is_shared=False)
    assert await shared_threads.find_owner(principal, thread_id) == principal
    with pytest.raises(ThreadNotFound):
        await shared_threads.find_owner(colleague, thread_id)
    with pytest.raises(ThreadNotFound):
        await shared_threads.append(colleague, thread_id, NewMessage("user", "x"))


async def test_a_colleague_writes_nothing_without_acting_as_the_owner(
    api: Api, shared_threads: SharedThreads, principal: Principal, colleague: Principal, admin: Any
) -> None:
    """The second lock: a statement that asked for the wrong user changes nothing."""
    thread_id = await make_thread(api, principal, admin, is_shared=True)
    for work in (
        shared_threads.append(colleague, thread_id, NewMessage("user", "x")),
        shared_threads.clear(colleague, thread_id),
        shared_threads.delete_message(colleague, thread_id, new_id()),
    ):
        with pytest.raises(ThreadNotFound):
            await work
    assert await admin.fetchval("select count(*) from messages") == 0


async def test_messages_come_and_go_and_the_thread_tells_of_the_last(
    api: Api, shared_threads: SharedThreads, principal: Principal, admin: Any
) -> None:
    thread_id = await make_thread(api, principal, admin, is_shared=False)
    said = ["one", "two", "t" * 200]
    rows = [
        await shared_threads.append(principal, thread_id, NewMessage("user", text)) for text in said
    ]
    await shared_threads.append(principal, thread_id, NewMessage("system", "Be brief."))

    async def last() -> tuple[Any, Any]:
        row = await admin.fetchrow("select * from threads where id = $1", thread_id)
        return row["last_message_preview"], row["last_message_at"]

    assert (await last())[0] == "t" * 139 + "…"
    assert await shared_threads.count_messages(principal, thread_id) == 4
    await shared_threads.delete_message(principal, thread_id, rows[2]["id"])
    assert await last() == ("two", rows[1]["created_at"])
    for absent in (rows[2]["id"], new_id()):
        with pytest.raises(MessageNotFound):
            await shared_threads.delete_message(principal, thread_id, absent)
        with pytest.raises(MessageNotFound):
            await shared_threads.get_message(principal, thread_id, absent)
    assert await last() == ("two", rows[1]["created_at"])
    await shared_threads.clear(principal, thread_id)
    assert await last() == (None, None)
    assert await shared_threads.count_messages(principal, thread_id) == 0
