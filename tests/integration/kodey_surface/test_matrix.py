"""Errors that are ours, and what is said of wrong values; the rest is in
`tests/security/matrix.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from api.kodey.surface import SURFACE
from api.openapi import Operation
from shared.errors import PostgresUnavailable
from tests.integration.kodey_surface.conftest import RATES, Client, Member

BODIES: dict[str, dict[str, Any] | None] = {
    "POST /chat": {"agentId": "default"},
    "GET /chat": None,
    "GET /chat/{chat_id}": None,
    "DELETE /chat/{chat_id}": None,
    "POST /chat/{chat_id}/message": {"content": "x"},
    "GET /chat/{chat_id}/message": None,
    "POST /agent": {"name": "x"},
    "GET /agent": None,
    "GET /agent/{agent_id}": None,
    "PUT /agent/{agent_id}": {"name": "y"},
    "DELETE /agent/{agent_id}": None,
    "PUT /agent/{agent_id}/rollback": None,
}
"""Route → body of a valid request."""


@dataclass(frozen=True)
class Route:
    name: str
    operation: Operation

    @property
    def is_open(self) -> bool:
        return self.operation.path.startswith("/chat")

    async def ask(self, client: httpx.AsyncClient) -> Any:
        path = self.operation.path.replace("{chat_id}", "x").replace("{agent_id}", "x")
        return await client.request(self.operation.method, path, json=BODIES[self.name])


ROUTES = [Route(f"{o.method} {o.path}", o) for o in SURFACE.operations]


def of(route: Route) -> str:
    return route.name


def require(answered: httpx.Response, status: int, error: str, route: Route) -> Any:
    assert answered.status_code == status, (route.name, answered.text)
    assert answered.headers["content-type"] == "application/json"
    body = answered.json()
    assert body["error"] == error
    assert isinstance(body["message"], str)
    assert all(answered.headers[name].isdigit() for name in RATES)
    assert (answered.headers.get("access-control-allow-origin") == "*") is route.is_open
    return body


def test_no_route_is_missing() -> None:
    assert {route.name for route in ROUTES} == set(BODIES)
    paths = {operation.path for operation in SURFACE.operations if "/chat" in operation.path}
    assert {(route.path, *route.methods) for route in SURFACE.plain_routes} == {  # type: ignore[misc]
        (path, "OPTIONS") for path in {*paths, "/chat/{rest:path}"}
    }


@pytest.mark.parametrize("route", ROUTES, ids=of)
async def test_what_is_away_and_what_is_broken(
    app: Starlette, member: Member, route: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the outermost place that every operation passes."""

    async def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(app.state.credentials, "authenticate", fail)
    error: Exception = PostgresUnavailable("no")
    answered = await route.ask(member.secret)
    require(answered, 503, "Service Unavailable", route)
    assert answered.headers["retry-after"]
    error = RuntimeError("the password is 1234")
    body = require(await route.ask(member.secret), 500, "Internal Server Error", route)
    assert "1234" not in body["message"]


async def test_wrong_values_are_named(member: Member) -> None:
    client: Client = member.secret
    chat_id = await client.chat()
    cases: list[tuple[str, str, Any, str]] = [
        ("POST", "/chat", {"agentId": 1}, "agentId: "),
        ("POST", "/chat", {"agentId": ""}, "agentId: "),
        ("POST", "/chat", {"agentId": "default", "userId": 1}, "userId: "),
        ("POST", "/chat", {"agentId": "default", "metadata": []}, "metadata: "),
        ("POST", "/chat", {"agentId": "default", "metadata": {"a": "x" * 20_000}}, "metadata: "),
        ("GET", "/chat?userId=a&userId=b", None, "userId: "),
        ("GET", "/chat?agentType=%00", None, "agentType: "),
        ("POST", f"/chat/{chat_id}/message", {"content": []}, "content: "),
        ("POST", f"/chat/{chat_id}/message", {"content": " "}, "content: String should not be"),
        ("POST", "/agent", {"name": ""}, "name: "),
        ("POST", "/agent", {"name": "x", "temperature": 3}, "temperature: "),
        ("POST", "/agent", {"name": "x", "temperature": "1"}, "temperature: "),
        ("POST", "/agent", {"name": "x", "tools": ["teleport"]}, "tools.0: There is no such tool"),
        ("POST", "/agent", {"name": "x", "model": "nobody:x"}, "model: "),
        ("PUT", "/agent/default", {"name": None}, "name: "),
    ]
    for method, path, body, place in cases:
        answered = await client.request(method, path, json=body)
        assert answered.status_code == 400, (path, body, answered.text)
        assert answered.json()["error"] == "Bad Request"
        assert answered.json()["message"].startswith(place), answered.text
