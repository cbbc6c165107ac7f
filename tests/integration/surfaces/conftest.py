"""Users of teams, each with a client of every surface, on one application in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import httpx
import pytest
from starlette.applications import Starlette

from shared.service.accounts import create_api_key, create_tenant, create_user
from shared.settings import Settings
from shared.turn.model import CredentialKind
from tests.integration.api_turns.conftest import app

__all__ = ["app"]

KINDS = {
    "primary": CredentialKind.API_KEY,
    "mm": CredentialKind.MECHAMENTAL,
    "kodey": CredentialKind.KODEY_SECRET,
    "publishable": CredentialKind.KODEY_PUBLISHABLE,
    "zylon": CredentialKind.ZYLON,
}


class Person:
    """A user with a client for each kind of credential."""

    def __init__(self, app: Starlette, tenant_id: UUID, user_id: UUID) -> None:
        self.tenant_id, self.user_id = tenant_id, user_id
        self.app = app
        self.clients: dict[str, httpx.AsyncClient] = {}

    def give(self, kind: str, secret: str) -> None:
        self.clients[kind] = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=False),
            base_url="http://test",
            headers={"authorization": f"Bearer {secret}"},
            timeout=30,
        )

    async def ask(self, kind: str, method: str, path: str, **more: Any) -> httpx.Response:
        """`{default}` in a path of MechaMental's is the place of threads without a name."""
        default = f"/v1/orgs/{self.tenant_id}/workspaces/default/namespaces/default/threads"
        return await self.clients[kind].request(method, path.format(default=default), **more)

    async def made(self, kind: str, path: str, **body: Any) -> dict[str, Any]:
        """What a POST has made."""
        answered = await self.ask(kind, "POST", path, json=body)
        assert answered.status_code in (200, 201, 202), answered.text
        told: dict[str, Any] = answered.json()
        return told


AddPerson = Callable[..., Awaitable[Person]]


@pytest.fixture
async def add_person(app: Starlette, settings: Settings) -> AsyncIterator[AddPerson]:
    """`await add_person()` in a team of their own, or `add_person(colleague)` in another's."""
    made: list[Person] = []
    database = app.state.database
    pepper = settings.key_pepper.get_secret_value().encode()

    async def add(of: Person | None = None) -> Person:
        tenant_id = await create_tenant(database, "Team") if of is None else of.tenant_id
        email = f"person{len(made)}@example.org"
        user_id = await create_user(database, tenant_id, email, f"Person {len(made)}")
        person = Person(app, tenant_id, user_id)
        for name, kind in KINDS.items():
            secret = await create_api_key(
                database, tenant_id=tenant_id, user_id=user_id, name=name, pepper=pepper, kind=kind
            )
            person.give(name, secret)
        made.append(person)
        return person

    yield add
    for person in made:
        for client in person.clients.values():
            await client.aclose()


@pytest.fixture
async def owner(add_person: AddPerson) -> Person:
    return await add_person()


@pytest.fixture
async def colleague(add_person: AddPerson, owner: Person) -> Person:
    return await add_person(owner)
