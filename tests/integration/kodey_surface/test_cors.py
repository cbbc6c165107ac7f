"""Pages of any origin may use the chats, with a key and without cookies; nothing else is open."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import httpx
import pytest
from starlette.applications import Starlette

from shared.ids import new_id
from tests.integration.kodey_surface.conftest import RATES, Member

ORIGIN = {"origin": "https://shop.example"}
ASKED = {
    **ORIGIN,
    "access-control-request-method": "POST",
    "access-control-request-headers": "x-api-key, content-type",
}


@pytest.fixture
def anybody(app: Starlette) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


def cors(answered: httpx.Response) -> dict[str, str]:
    return {k: v for k, v in answered.headers.items() if k.startswith("access-control-")}


UNKNOWN = UUID(int=1)


@pytest.mark.parametrize(
    "path", ["/chat", f"/chat/{UNKNOWN}", f"/chat/{UNKNOWN}/message", "/chat/", "/chat/a/b/c"]
)
async def test_a_preflight_needs_no_key(anybody: httpx.AsyncClient, path: str) -> None:
    answered = await anybody.options(path, headers=ASKED)
    assert answered.status_code == 204
    told = cors(answered)
    assert told["access-control-allow-origin"] == "*"
    assert told["access-control-allow-headers"] == "x-api-key, content-type"
    assert set(told["access-control-allow-methods"].split(", ")) == {"GET", "POST", "DELETE"}
    assert "access-control-allow-credentials" not in told
    assert not set(RATES) & set(answered.headers)


async def test_answers_and_errors_can_be_read(member: Member, anybody: httpx.AsyncClient) -> None:
    chat_id = await member.publishable.chat()
    public = member.publishable
    told = [
        await public.get("/chat", headers=ORIGIN),
        await public.get(f"/chat/{new_id()}", headers=ORIGIN),
        await public.post("/chat", json={}, headers=ORIGIN),
        await public.put("/chat", headers=ORIGIN),
        await public.delete(f"/chat/{chat_id}", headers=ORIGIN),
        await anybody.get("/chat", headers=ORIGIN),
        await anybody.get("/chat/a/b/c/d", headers=ORIGIN),
        await anybody.get("/chat/", headers=ORIGIN),
        await anybody.post("/chat/a/b/c/d", headers=ORIGIN),
    ]
    statuses = [answered.status_code for answered in told]
    assert statuses == [200, 404, 400, 405, 204, 401, 404, 404, 404]
    for answered in told:
        assert cors(answered)["access-control-allow-origin"] == "*"
        assert "x-ratelimit-remaining" in cors(answered)["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answered.headers


@pytest.mark.parametrize("path", ["/agent", "/agent/default", "/chats", "/chat-ui", "/api/v1/chat"])
async def test_nothing_else_is_open(member: Member, anybody: httpx.AsyncClient, path: str) -> None:
    for answered in (
        await anybody.options(path, headers=ASKED),
        await member.publishable.get(path, headers=ORIGIN),
        await anybody.get(path, headers=ORIGIN),
    ):
        assert answered.status_code >= 400
        assert cors(answered) == {}


@pytest.mark.parametrize("path", ["/chats", "/chat-ui", "/agents", "/agentic", "/chatter/x"])
async def test_paths_that_only_begin_like_ours_are_not_ours(member: Member, path: str) -> None:
    answered: Any = (await member.secret.get(path)).json()
    assert answered["detail"] == "Not Found"
