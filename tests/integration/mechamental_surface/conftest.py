"""MechaMental clients of the whole application, in this process, on a real Postgres and Valkey."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import pytest
from starlette.applications import Starlette

from shared.service.accounts import create_api_key, create_tenant, create_user
from shared.settings import Settings
from shared.turn.model import CredentialKind, Reach
from tests.integration.api_turns.conftest import User, app

__all__ = ["app"]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    # Tests here send many wrong credentials.
    return settings.model_copy(update={"auth_failures_per_minute": 0})


@dataclass(frozen=True)
class Place:
    """Where a thread is; `app` None: paths without one."""

    org: str
    workspace: str = "w"
    app: str | None = "a"
    namespace: str = "n"
    thread: str = "t"

    @property
    def namespace_path(self) -> str:
        app = "" if self.app is None else f"/apps/{self.app}"
        return f"/v1/orgs/{self.org}/workspaces/{self.workspace}{app}/namespaces/{self.namespace}"

    @property
    def path(self) -> str:
        return f"{self.namespace_path}/threads/{self.thread}/messages"

    @property
    def ids(self) -> dict[str, Any]:
        return {
            "workspace_id": self.workspace,
            "app_id": self.app,
            "namespace_id": self.namespace,
            "thread_id": self.thread,
        }


class Mm(httpx.AsyncClient):
    """A client with a token; `chat` is the same user on the primary surface."""

    def __init__(self, app: Starlette, tenant_id: UUID, user_id: UUID, secret: str) -> None:
        super().__init__(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False),
            base_url="http://test",
            headers={"authorization": f"Bearer {secret}"},
        )
        self.tenant_id = tenant_id
        self.user_id = user_id
        self.chat: User

    def place(self, **changes: Any) -> Place:
        return Place(str(self.tenant_id), **changes)

    async def say(self, place: Place, content: str = "Hello", **more: Any) -> dict[str, Any]:
        """Stores a message."""
        body = {**place.ids, "role": "user", "content": content, **more}
        answered = await self.post(place.path, json=body)
        assert answered.status_code == 201, answered.text
        message: dict[str, Any] = answered.json()
        return message

    async def listed(self, place: Place, **query: Any) -> list[str]:
        """Texts of a page of messages."""
        answered = await self.get(place.path, params=query)
        assert answered.status_code == 200, answered.text
        return [message["content"] for message in answered.json()["messages"]]

    async def context(self, place: Place, **more: Any) -> dict[str, Any]:
        answered = await self.post(f"{place.path}/context", json={**place.ids, **more})
        assert answered.status_code == 200, answered.text
        context: dict[str, Any] = answered.json()
        return context


AddMm = Callable[..., Awaitable[Mm]]


@pytest.fixture
async def add_mm(app: Starlette, settings: Settings) -> AsyncIterator[AddMm]:
    """Makes users: `await add_mm()`, `add_mm(tenant_id=…)`, `add_mm(like=mm, reach=Reach(…))`."""
    opened: list[Mm] = []
    database = app.state.database
    pepper = settings.key_pepper.get_secret_value().encode()

    async def add(
        tenant_id: UUID | None = None, *, like: Mm | None = None, reach: Reach | None = None
    ) -> Mm:
        if like is None:
            tenant_id = tenant_id or await create_tenant(database, f"Test {len(opened)}")
            user_id = await create_user(database, tenant_id, f"m{len(opened)}@example.org", "User")
        else:
            tenant_id, user_id = like.tenant_id, like.user_id
        who: dict[str, Any] = {"tenant_id": tenant_id, "user_id": user_id, "pepper": pepper}
        secret = await create_api_key(
            database, **who, name="mm", kind=CredentialKind.MECHAMENTAL, reach=reach
        )
        mm = Mm(app, tenant_id, user_id, secret)
        mm.chat = User(app, tenant_id, await create_api_key(database, **who, name="chat"))
        opened.append(mm)
        return mm

    yield add
    for mm in opened:
        await mm.aclose()
        await mm.chat.aclose()


@pytest.fixture
async def mm(add_mm: AddMm) -> Mm:
    return await add_mm()
