"""A revoked key learns nothing more, not even from a request that was already waiting."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.integration.api_turns.conftest import User


async def revoke_all(admin: Any) -> None:
    await admin.execute("update api_keys set revoked_at = now()")


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_long_poll_under_a_revoked_key_shows_nothing(
    user: User, admin: Any, method: str
) -> None:
    thread_id = await user.thread()
    turn = (await user.submit(thread_id)).json()
    path = f"/turns/{turn['id']}" if method == "GET" else f"/threads/{thread_id}/turns"
    body = None if method == "GET" else {"message": "x", "modelId": "scripted"}
    async with asyncio.TaskGroup() as group:
        poll = group.create_task(
            user.request(method, path, json=body, headers={"prefer": "wait=1"})
        )
        await asyncio.sleep(0.2)  # it waits by now; were it not so, it would be refused as well
        await revoke_all(admin)
    assert poll.result().status_code == 401
    assert turn["id"] not in poll.result().text
