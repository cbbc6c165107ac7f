"""A revoked key learns nothing more, not even from a request or a stream that was there before."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.applications import Starlette

from tests.fixtures.waiting import wait_until
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


async def test_an_open_stream_under_a_revoked_key_ends_within_five_seconds(
    user: User, app: Starlette, admin: Any
) -> None:
    turn = (await user.submit(await user.thread())).json()
    path = f"/turns/{turn['id']}/events"
    streams = app.state.admission.streams
    async with asyncio.TaskGroup() as group:
        stream = group.create_task(user.get(path))
        await wait_until(lambda: streams.open == 1, "it is open")
        await revoke_all(admin)
        async with asyncio.timeout(5):
            answered = await stream
    assert answered.status_code == 200
    assert answered.text.endswith("\n\n")
    assert "stream.reconnect" not in answered.text, "it would be told to come again"
    assert (await user.get(path)).status_code == 401
    assert streams.open == 0
