"""The whole application over HTTP, in this process, with keys of the Kodey surface."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import httpx
import pytest
from starlette.applications import Starlette

from api.app import create_app
from shared.postgres.pool import Database
from shared.service.accounts import create_api_key, create_tenant, create_user
from shared.settings import Settings
from shared.turn.model import CredentialKind

PRIMARY = "/api/v1/chat"
RATES = ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")


class Client(httpx.AsyncClient):
    """Asks with one key."""

    def __init__(self, app: Starlette, secret: str, header: str = "x-api-key") -> None:
        super().__init__(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False),
            base_url="http://test",
            headers={header: secret},
            timeout=30,
        )
        self.secret = secret

    async def chat(self, agent: str = "default", **fields: Any) -> str:
        """A new chat's id."""
        answered = await self.post("/chat", json={"agentId": agent, **fields})
        assert answered.status_code == 200, answered.text
        return str(answered.json()["id"])

    async def say(self, chat_id: str, content: str, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        body = {"content": content, "role": "user"}
        return await self.post(f"/chat/{chat_id}/message", json=body, headers=named)

    async def said(self, chat_id: str) -> list[tuple[str, str]]:
        """Role and content of all messages."""
        answered = await self.get(f"/chat/{chat_id}/message")
        assert answered.status_code == 200, answered.text
        return [(m["role"], m["content"]) for m in answered.json()["messages"]]


class Member:
    """A user of a team, with one key of each kind."""

    def __init__(
        self, app: Starlette, tenant_id: UUID, user_id: UUID, secrets: dict[CredentialKind, str]
    ) -> None:
        self.tenant_id = tenant_id
        self.user_id = user_id
        self.secret = Client(app, secrets[CredentialKind.KODEY_SECRET])
        self.publishable = Client(app, secrets[CredentialKind.KODEY_PUBLISHABLE])
        self.primary = Client(
            app, f"Bearer {secrets[CredentialKind.API_KEY]}", header="authorization"
        )

    @property
    def clients(self) -> tuple[Client, ...]:
        return self.secret, self.publishable, self.primary


KINDS = (CredentialKind.KODEY_SECRET, CredentialKind.KODEY_PUBLISHABLE, CredentialKind.API_KEY)


async def new_secret(
    database: Database, settings: Settings, tenant_id: UUID, user_id: UUID, kind: CredentialKind
) -> str:
    return await create_api_key(
        database,
        tenant_id=tenant_id,
        user_id=user_id,
        name="test",
        pepper=settings.key_pepper.get_secret_value().encode(),
        kind=kind,
    )


@pytest.fixture
async def open_app(settings: Settings) -> AsyncIterator[Callable[..., Awaitable[Starlette]]]:
    """Opens applications: `await open_app(kodey_wait_s=0.5)`."""
    async with AsyncExitStack() as stack:

        async def open_one(**overrides: Any) -> Starlette:
            app = create_app(settings.model_copy(update=overrides))
            await stack.enter_async_context(app.router.lifespan_context(app))
            return app

        yield open_one


@pytest.fixture
def overrides() -> dict[str, Any]:
    """Settings of the application; a module or a test may have others."""
    return {}


@pytest.fixture
async def app(
    open_app: Callable[..., Awaitable[Starlette]], overrides: dict[str, Any]
) -> Starlette:
    return await open_app(**overrides)


AddMember = Callable[..., Awaitable[Member]]


@pytest.fixture
async def add_member(app: Starlette, settings: Settings) -> AsyncIterator[AddMember]:
    """Makes members: `await add_member()` of a team of their own, or `add_member(tenant_id=…)`."""
    made: list[Member] = []
    database = app.state.database

    async def add(tenant_id: UUID | None = None, app: Starlette = app) -> Member:
        tenant_id = tenant_id or await create_tenant(database, "Team")
        user_id = await create_user(database, tenant_id, f"u{len(made)}@example.org", "User")
        secrets = {
            kind: await new_secret(database, settings, tenant_id, user_id, kind) for kind in KINDS
        }
        made.append(Member(app, tenant_id, user_id, secrets))
        return made[-1]

    yield add
    for member in made:
        for client in member.clients:
            await client.aclose()


@pytest.fixture
async def member(add_member: AddMember) -> Member:
    return await add_member()
