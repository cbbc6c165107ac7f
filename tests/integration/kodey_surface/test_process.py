"""Requests that wait, against `python -m api`: who leaves is noticed, who drains answers."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from deploy.configuration import free_port
from shared.postgres.pool import Database
from shared.service.accounts import create_tenant, create_user
from shared.settings import Settings
from shared.turn.model import CredentialKind
from tests.acceptance.product import Api
from tests.fixtures.system import StartWorker
from tests.fixtures.waiting import wait_until
from tests.integration.kodey_surface.conftest import new_secret
from tests.security.wire import Answer, Request, send


@dataclass
class Server:
    api: Api
    key: bytes

    def request(self, method: bytes, path: str, body: Any = None) -> Request:
        request = Request(method, path.encode(), ((b"x-api-key", self.key),))
        if body is None:
            return request
        typed = request.with_headers((b"content-type", b"application/json"))
        return typed.with_body(orjson.dumps(body))

    async def ask(self, method: bytes, path: str, body: Any = None) -> Answer:
        return await send(self.api.port, self.request(method, path, body))

    async def chat(self) -> str:
        answered = await self.ask(b"POST", "/chat", {"agentId": "default"})
        assert answered.status == 200, answered.body
        return str(answered.json["id"])

    async def polls(self) -> float:
        answered = await self.ask(b"GET", "/metrics")
        lines = answered.body.decode().splitlines()
        return float(next(x for x in lines if x.startswith("turnkeep_open_polls ")).split()[1])


@pytest.fixture
async def server(settings: Settings) -> AsyncIterator[Server]:
    given = settings.model_dump(exclude_unset=True, exclude={"state_dir"})
    texts = {
        f"TURNKEEP_{name.upper()}": str(
            value.get_secret_value() if isinstance(value, SecretStr) else value
        )
        for name, value in given.items()
    }
    texts |= {"TURNKEEP_PORT": str(free_port()), "TURNKEEP_STATE_DIR": str(settings.state_dir)}
    api = Api("kodey", texts, settings.state_dir / "api.log")
    try:
        await api.ready()
        async with Database(settings.database_url.get_secret_value(), size=1) as database:
            tenant_id = await create_tenant(database, "Team")
            user_id = await create_user(database, tenant_id, "u@example.org", "U")
            kind = CredentialKind.KODEY_SECRET
            secret = await new_secret(database, settings, tenant_id, user_id, kind)
        yield Server(api, secret.encode())
    finally:
        api.end_now()


@pytest.mark.timeout(120)
async def test_who_leaves_is_noticed_and_the_turn_goes_on(
    server: Server, start_worker: StartWorker, admin: Any
) -> None:
    chat_id = await server.chat()
    _, writer = await asyncio.open_connection("127.0.0.1", server.api.port)
    request = server.request(b"POST", f"/chat/{chat_id}/message", {"content": "x"})
    writer.write(request.encode())

    async def waits() -> bool:
        return await server.polls() == 1

    await wait_until(waits, "the request waits")
    writer.transport.abort()

    async def is_gone() -> bool:
        return await server.polls() == 0

    await wait_until(is_gone, "its seat is free")
    await start_worker()

    async def is_answered() -> bool:
        return list(await admin.fetch("select status from turns")) == [("completed",)]

    await wait_until(is_answered, "the turn has run")
    answered = await server.ask(b"POST", f"/chat/{chat_id}/message", {"content": "x"})
    assert (answered.status, answered.header("idempotency-replayed")) == (200, "true")
    assert await is_answered(), "it was not asked twice"


@pytest.mark.timeout(120)
async def test_a_process_that_ends_answers_who_waits(server: Server) -> None:
    chat_id = await server.chat()
    asked = asyncio.create_task(server.ask(b"POST", f"/chat/{chat_id}/message", {"content": "x"}))

    async def waits() -> bool:
        return await server.polls() == 1

    await wait_until(waits, "the request waits")
    server.api.send(signal.SIGTERM)
    async with asyncio.timeout(5):
        answered = await asked
    assert answered.status == 503
    assert answered.json["error"] == "Service Unavailable"
    assert await asyncio.to_thread(server.api.end_now) == 0
