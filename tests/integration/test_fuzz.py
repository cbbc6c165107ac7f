"""Requests made from the OpenAPI document, fitting and unfitting, to every operation in it.

No answer may be a defect, nor one that the document does not describe. `-m long` tries each
operation two hundred times as often.
"""

from __future__ import annotations

import asyncio
import string
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any, Final

import httpx
import orjson
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.applications import Starlette

from api import pressure
from api.app import OPERATIONS, create_app
from api.openapi import build_document
from shared.service.api_keys import create_api_key, create_tenant, create_user
from shared.settings import Settings

CHAT: Final = "/api/v1/chat"
CHECKS: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
SCHEMA: Final = schemathesis.openapi.from_dict(
    orjson.loads(orjson.dumps(build_document(OPERATIONS)))
)
OPERATION_OF: Final = {
    result.ok().label: result.ok()
    for result in SCHEMA.get_all_operations()
    if isinstance(result, Ok)
}
_HEADER_BYTES: Final = frozenset(string.printable) - frozenset("\r\n\x0b\x0c")


def test_every_operation_can_be_read() -> None:
    assert len(OPERATION_OF) == len(OPERATIONS)


class Arena:
    """The application in this process; a user has a turn and an automation's run that wait."""

    def __init__(self, settings: Settings) -> None:
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._settings = settings
        self._sent = 0
        self._ids: dict[str, str] = {}
        self._client: httpx.AsyncClient

    def open(self) -> None:
        self._runner.run(self._open())

    async def _open(self) -> None:
        app: Starlette = create_app(self._settings)
        await self._stack.enter_async_context(app.router.lifespan_context(app))
        database = app.state.database
        tenant_id = await create_tenant(database, "Test")
        user_id = await create_user(database, tenant_id, "u@example.org", "User")
        secret = await create_api_key(
            database,
            tenant_id=tenant_id,
            user_id=user_id,
            name="test",
            pepper=self._settings.key_pepper.get_secret_value().encode(),
        )
        self._client = await self._stack.enter_async_context(
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app, raise_app_exceptions=False),
                base_url="http://test",
                timeout=20,
            )
        )
        self._credential = {"authorization": f"Bearer {secret}"}
        await self._settle()

    async def _settle(self) -> None:
        made = await self._client.post(f"{CHAT}/threads", headers=self._credential)
        thread_id = made.json()["id"]
        body = {"message": "x", "modelId": "scripted"}
        url = f"{CHAT}/threads/{thread_id}/turns"
        turn = await self._client.post(url, json=body, headers=self._credential)
        steps = [{"id": "a", "kind": "calculator"}, {"id": "g", "kind": "approval_gate"}]
        url = "/api/v1/automations"
        made = await self._client.post(
            url, json={"name": "x", "config": {"steps": steps}}, headers=self._credential
        )
        automation_id = made.json()["id"]
        run = await self._client.post(f"{url}/{automation_id}/runs", headers=self._credential)
        self._ids = {
            "thread_id": thread_id,
            "turn_id": turn.json()["id"],
            "automation_id": automation_id,
            "run_id": run.json()["id"],
        }

    def send(self, case: Any) -> httpx.Response:
        """Sends a case; most with a good credential, half of them to things that exist."""
        return self._runner.run(self._send(case))

    async def _send(self, case: Any) -> httpx.Response:
        self._sent += 1
        if self._sent % 2:
            case.path_parameters.update(
                {name: id_ for name, id_ in self._ids.items() if name in case.path_parameters}
            )
        request = case.as_transport_kwargs(base_url="http://test")
        headers = {
            name: value
            for name, value in dict(request.get("headers") or {}).items()
            if isinstance(value, str) and set(name + value) <= _HEADER_BYTES
        }
        if self._sent % 7:
            known = {"authorization", "x-api-key"}
            headers = {name: value for name, value in headers.items() if name.lower() not in known}
            headers |= self._credential
        sendable = {name: request[name] for name in ("params", "json") if name in request}
        data = request.get("data")
        if isinstance(data, bytes | str):
            sendable["content"] = data
        response = await self._client.request(
            request["method"], request["url"], headers=headers, **sendable
        )
        if case.method == "DELETE" or "bulk" in case.path:
            await self._settle()
        return response

    def close(self) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()


@pytest.fixture
def arena(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Arena]:
    # Between two requests the loop stands still, which is no sign of load here.
    monkeypatch.setattr(pressure, "MAX_LOOP_LAG_S", 3600.0)
    quick = settings.model_copy(
        update={"stream_max_age_s": 0.05, "keep_alive_s": 0.04, "max_queued_per_key": 0}
    )
    arena = Arena(quick)
    arena.open()
    yield arena
    arena.close()


def fuzz(arena: Arena, label: str, examples: int) -> None:
    operation = OPERATION_OF[label]
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

        @given(case=operation.as_strategy(generation_mode=mode))
        @hypothesis_settings(
            max_examples=examples,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def attack(case: Any) -> None:
            response = arena.send(case)
            case.validate_response(response, checks=CHECKS)

        attack()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("label", sorted(OPERATION_OF))
def test_every_answer_is_described(arena: Arena, label: str) -> None:
    fuzz(arena, label, 5)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("label", sorted(OPERATION_OF))
def test_every_answer_is_described_at_length(arena: Arena, label: str) -> None:
    fuzz(arena, label, 1000)
