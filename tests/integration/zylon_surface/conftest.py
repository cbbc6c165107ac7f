"""The workspace surface over HTTP, in this process, with workers where a test starts them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import httpx
import pytest
from starlette.applications import Starlette

from shared.service.accounts import create_api_key, create_tenant, create_user
from shared.settings import Settings
from shared.turn.model import CredentialKind
from tests.chaos.fake_provider import FakeProvider, run_provider
from tests.chaos.provider_text import Behaviour, Directive, Schedule
from tests.fixtures.system import RunningWorker, StartWorker
from tests.integration.api_turns.conftest import User, app

__all__ = ["app"]

APP = "/api/v1/app"


class Member(httpx.AsyncClient):
    """Somebody's client of the workspace, and of the primary surface (`chat`)."""

    def __init__(
        self, app: Starlette, tenant_id: UUID, user_id: UUID, token: str, chat: User
    ) -> None:
        super().__init__(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False),
            base_url=f"http://test{APP}",
            headers={"authorization": f"Bearer {token}"},
            timeout=60,
        )
        self.tenant_id, self.user_id, self.token, self.chat = tenant_id, user_id, token, chat
        self.project_id = ""

    async def project(self, visibility: str = "Public") -> str:
        made = await self.post("/project", json={"name": "P", "visibility": visibility})
        assert made.status_code == 201, made.text
        return str(made.json()["id"])

    async def thread(
        self, visibility: str = "Private", project: str | None = None, name: str = "Weekly"
    ) -> str:
        path = f"/project/{project or self.project_id}/thread"
        made = await self.post(path, json={"name": name, "visibility": visibility})
        assert made.status_code == 201, made.text
        return str(made.json()["id"])

    async def ask(self, thread: str, text: str = "Hello", **more: Any) -> httpx.Response:
        """An interaction; `pgpt` members in `pgpt`, the others beside it."""
        pgpt = {"messages": [user_says(text)], **more.pop("pgpt", {})}
        return await self.post(f"/thread/{thread}/interaction", json={"pgpt": pgpt, **more})

    async def asked(self, thread: str, text: str = "Hello", **more: Any) -> dict[str, Any]:
        answered = await self.ask(thread, text, **more)
        assert answered.status_code == 201, answered.text
        told: dict[str, Any] = answered.json()
        return told

    async def scripted(self, thread: str, **script: Any) -> str:
        """A turn of the primary surface with a script, as an interaction."""
        submitted = await self.chat.submit(bare(thread), settings={"script": script})
        assert submitted.status_code == 202, submitted.text
        return f"inter_{UUID(submitted.json()['id']).hex}"


def user_says(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text}]}


def bare(prefixed: str) -> str:
    """The UUID as the primary surface writes it."""
    return str(UUID(prefixed.rpartition("_")[2]))


AddMember = Callable[..., Awaitable[Member]]


@pytest.fixture
async def add_member(app: Starlette, settings: Settings) -> AsyncIterator[AddMember]:
    """`await add_member()` in a tenant of their own, or `add_member(colleague)` in another's."""
    opened: list[Member] = []
    database = app.state.database
    pepper = settings.key_pepper.get_secret_value().encode()

    async def add(of: Member | None = None) -> Member:
        tenant_id = await create_tenant(database, "Acme") if of is None else of.tenant_id
        name = f"u{len(opened)}"
        user_id = await create_user(database, tenant_id, f"{name}@example.org", name)
        token, key = [
            await create_api_key(
                database, tenant_id=tenant_id, user_id=user_id, name="test", pepper=pepper,
                kind=kind,
            )
            for kind in (CredentialKind.ZYLON, CredentialKind.API_KEY)
        ]  # fmt: skip
        member = Member(app, tenant_id, user_id, token, User(app, tenant_id, key))
        me = await member.get("/me")
        assert me.status_code == 200, me.text
        member.project_id = me.json()["default_project_id"]
        opened.append(member)
        return member

    yield add
    for member in opened:
        await member.chat.aclose()
        await member.aclose()


@pytest.fixture
async def member(add_member: AddMember) -> Member:
    return await add_member()


@pytest.fixture
async def worker(start_worker: StartWorker) -> RunningWorker:
    return await start_worker()


def frames_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The named events of a stream; comments are left out."""
    found = []
    for frame in text.split("\n\n"):
        lines = [line for line in frame.split("\n") if line and not line.startswith((":", "retry"))]
        if not lines:
            continue
        assert [line.partition(": ")[0] for line in lines] == ["event", "data"], frame
        kind, data = lines[0][len("event: ") :], json.loads(lines[1][len("data: ") :])
        assert data["type"] == kind
        found.append((kind, data))
    return found


def said_in(frames: list[tuple[str, dict[str, Any]]], kind: str = "text") -> str:
    """What a reader of a stream shows: a new start voids what came before it."""
    text = ""
    for name, data in frames:
        if name == "message_start":
            text = ""
        elif name == "content_block_delta":
            text += data["delta"].get(kind, "")
    return text


# -- models that do what their prompt says


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with run_provider(schedule=Schedule(0, {Behaviour(deltas=3): 1.0})) as provider:
        yield provider


def directive(name: str, **behaviour: Any) -> str:
    """A prompt that has the provider behave so."""
    return Directive(name, calls=(Behaviour(**behaviour),)).prompt()
