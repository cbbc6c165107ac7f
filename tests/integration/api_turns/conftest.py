"""The whole application over HTTP, in this process, on a real Postgres and Valkey."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import httpx
import pytest
from starlette.applications import Starlette

from api.app import create_app
from shared.service.accounts import create_api_key, create_tenant, create_user
from shared.settings import Settings

CHAT = "/api/v1/chat"


class User(httpx.AsyncClient):
    """A user's client."""

    def __init__(self, app: Starlette, tenant_id: UUID, secret: str) -> None:
        super().__init__(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False),
            base_url=f"http://test{CHAT}",
            headers={"authorization": f"Bearer {secret}"},
        )
        self.tenant_id = tenant_id

    async def thread(self) -> str:
        """A new thread's id."""
        answered = await self.post("/threads")
        assert answered.status_code == 201
        return str(answered.json()["id"])

    async def submit(self, thread_id: str, **body: Any) -> httpx.Response:
        """Submits a scripted turn."""
        return await self.post(
            f"/threads/{thread_id}/turns", json={"message": "x", "modelId": "scripted", **body}
        )


AddUser = Callable[..., Awaitable[User]]


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[Starlette]:
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def add_user(app: Starlette, settings: Settings) -> AsyncIterator[AddUser]:
    """Makes users: `await add_user()` in a tenant of their own, or `add_user(tenant_id=…)`."""
    opened: list[User] = []
    database = app.state.database

    async def add(tenant_id: UUID | None = None) -> User:
        tenant_id = tenant_id or await create_tenant(database, "Test")
        user_id = await create_user(database, tenant_id, f"u{len(opened)}@example.org", "User")
        secret = await create_api_key(
            database,
            tenant_id=tenant_id,
            user_id=user_id,
            name="test",
            pepper=settings.key_pepper.get_secret_value().encode(),
        )
        opened.append(User(app, tenant_id, secret))
        return opened[-1]

    yield add
    for user in opened:
        await user.aclose()


@pytest.fixture
async def user(add_user: AddUser) -> User:
    return await add_user()
