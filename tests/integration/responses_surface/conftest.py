"""The surface in this process, and behind a bad link in a process of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from openai import AsyncOpenAI
from pydantic import SecretStr
from starlette.applications import Starlette

from deploy.configuration import free_port
from shared.postgres.pool import Database
from shared.service.accounts import create_api_key, create_tenant, create_user
from shared.settings import Settings
from tests.acceptance.product import Api
from tests.fixtures.proxy import Link, Upstream, open_link
from tests.integration.api_turns.conftest import AddUser, User, add_user, app, user

__all__ = ["AddUser", "User", "add_user", "app", "user"]

RESPONSES = "http://test/v1/responses"
CONVERSATIONS = "http://test/v1/conversations"


def scripted(text: str | None = None, **script: Any) -> dict[str, Any]:
    """What makes the scripted model say `text`."""
    said = {} if text is None else {"text": text}
    return {"model": "scripted", "settings": {"script": {"intervalMs": 0, **said, **script}}}


async def create(user: User, input_: Any = "x", **body: Any) -> Any:
    """Creates a response and waits for it."""
    wanted = {"input": input_, **scripted("ok"), **body}
    answered = await user.post(RESPONSES, json=wanted)
    assert answered.status_code == 200, answered.text
    return answered.json()


def text_of(response: Any) -> str:
    """As `output_text` of the official client."""
    return "".join(
        part["text"]
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
    )


def require_error(answered: httpx.Response, status: int, code: str | None = None) -> Any:
    """An error in the dialect of the surface."""
    assert answered.status_code == status, (answered.status_code, answered.text)
    assert answered.headers["content-type"] == "application/json"
    error = answered.json()
    assert set(error) == {"error"}
    assert set(error["error"]) == {"message", "type", "param", "code"}
    assert isinstance(error["error"]["message"], str)
    if code is not None:
        assert error["error"]["code"] == code, error
    return error["error"]


@pytest.fixture
async def client(app: Starlette, user: User) -> AsyncIterator[AsyncOpenAI]:
    """The official client of a user of the application in this process."""
    secret = user.headers["authorization"].removeprefix("Bearer ")
    async with AsyncOpenAI(
        base_url="http://test/v1",
        api_key=secret,
        max_retries=0,
        http_client=httpx2.AsyncClient(transport=httpx2.ASGITransport(app)),
    ) as client:
        yield client


@dataclass(frozen=True)
class Served:
    """An API process behind a link."""

    link: Link
    client: AsyncOpenAI


@pytest.fixture
async def served(settings: Settings, database: Database, tmp_path: Path) -> AsyncIterator[Served]:
    """`python -m api`, and the official client of a user there."""
    port = free_port()
    given = settings.model_dump(exclude_unset=True)
    texts = {
        f"TURNKEEP_{name.upper()}": str(
            value.get_secret_value() if isinstance(value, SecretStr) else value
        )
        for name, value in given.items()
    }
    process = Api("api", texts | {"TURNKEEP_PORT": str(port)}, tmp_path / "api.log")
    try:
        await process.ready()
        tenant_id = await create_tenant(database, "Test")
        secret = await create_api_key(
            database,
            tenant_id=tenant_id,
            user_id=await create_user(database, tenant_id, "u@example.org", "User"),
            name="test",
            pepper=settings.key_pepper.get_secret_value().encode(),
        )
        async with open_link(Upstream(None, port=port)) as link:
            url = f"http://127.0.0.1:{link.port}/v1"
            async with AsyncOpenAI(base_url=url, api_key=secret, max_retries=0) as client:
                yield Served(link, client)
    finally:
        process.end_now()
