"""A credential that is revoked loses its open streams within 5 s, and the answers it waits for."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import httpx
import pytest

from shared.settings import Settings
from tests.fixtures.waiting import wait_until
from tests.integration.surfaces.conftest import Person

APP = "/api/v1/app"
SEEN_WITHIN_S = 5.0
WAIT_S = 4.0


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"sync_wait_s": WAIT_S, "kodey_wait_s": WAIT_S})


async def ask_zylon(person: Person, *, streams: bool) -> httpx.Response:
    me = (await person.ask("zylon", "GET", f"{APP}/me")).json()
    path = f"{APP}/project/{me['default_project_id']}/thread"
    thread = await person.made("zylon", path, name="T", visibility="Private")
    pgpt = {"messages": [{"role": "user", "content": "secret"}], "stream": streams}
    path = f"{APP}/thread/{thread['id']}/interaction"
    if not streams:
        return await person.ask("zylon", "POST", path, json={"pgpt": pgpt})
    made = await person.made("zylon", path, pgpt=pgpt)
    return await person.ask("zylon", "GET", f"{APP}/interaction/{made['id']}/stream")


async def chat_with_zylon(person: Person, *, streams: bool) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": "secret"}], "stream": streams}
    return await person.ask("zylon", "POST", f"{APP}/chat", json=body)


async def ask_for_response(person: Person, *, streams: bool) -> httpx.Response:
    body = {"input": "secret", "stream": streams}
    return await person.ask("primary", "POST", "/v1/responses", json=body)


async def run_agent(person: Person, *, streams: bool) -> httpx.Response:
    messages = [{"role": "user", "content": "secret"}]
    body = {"threadId": "t", "runId": "r", "messages": messages}
    return await person.ask("primary", "POST", "/api/v1/agui", json=body)


async def say_to_chat(person: Person, *, streams: bool) -> httpx.Response:
    chat = await person.made("publishable", "/chat", agentId="default")
    path = f"/chat/{chat['id']}/message"
    return await person.ask("publishable", "POST", path, json={"content": "secret"})


STREAMS = {
    "zylon": ask_zylon, "zylon chat": chat_with_zylon, "responses": ask_for_response,
    "ag-ui": run_agent,
}  # fmt: skip
WAITS = {
    "zylon": ask_zylon, "zylon chat": chat_with_zylon, "responses": ask_for_response,
    "kodey": say_to_chat,
}  # fmt: skip


async def revoke_when_asked(admin: Any, user_id: UUID) -> None:
    """Once their turn is there, which no worker takes."""
    await wait_until(
        lambda: admin.fetchval("select count(*) from turns where user_id = $1", user_id),
        "there is a turn",
    )
    await asyncio.sleep(0.2)  # the stream opens
    await admin.execute("update api_keys set revoked_at = now() where user_id = $1", user_id)


@pytest.mark.parametrize("name", STREAMS)
async def test_its_streams_end(owner: Person, admin: Any, name: str) -> None:
    stream = asyncio.create_task(STREAMS[name](owner, streams=True))
    await revoke_when_asked(admin, owner.user_id)
    async with asyncio.timeout(SEEN_WITHIN_S):
        answered = await stream
    assert answered.status_code == 200
    assert "text/event-stream" in answered.headers["content-type"]


@pytest.mark.parametrize("name", WAITS)
async def test_what_it_waited_for_is_not_told(owner: Person, admin: Any, name: str) -> None:
    wait = asyncio.create_task(WAITS[name](owner, streams=False))
    await revoke_when_asked(admin, owner.user_id)
    answered = await wait
    assert answered.status_code == 401, answered.text
    assert "secret" not in answered.text
