"""Requests made from the OpenAPI document, fitting and unfitting, to every operation in it.

No answer may be a defect, nor one that the document does not describe. `-m long` tries each
operation two hundred times as often.
"""

from __future__ import annotations

import asyncio
import string
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import httpx
import orjson
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from pydantic import SecretStr
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.applications import Starlette

from api.app import OPERATIONS, create_app
from api.openapi import Operation, build_document
from api.responses import surface as responses
from deploy.configuration import free_port
from shared.postgres.pool import Database
from shared.service.accounts import create_api_key, create_tenant, create_user
from shared.settings import Settings
from tests.acceptance.product import Api

CHAT: Final = "/api/v1/chat"
CHECKS: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
FUZZED: Final = (*OPERATIONS, *responses.SURFACE.operations)
LONG: Final = 1000
"""Examples of each operation in the tests that take hours."""
_HEADER_BYTES: Final = frozenset(string.printable) - frozenset("\r\n\x0b\x0c")


def read_operations(operations: Sequence[Operation]) -> dict[str, Any]:
    """Operations as schemathesis knows them, by method and path."""
    document = orjson.loads(orjson.dumps(build_document(operations)))
    schema = schemathesis.openapi.from_dict(document)
    results = schema.get_all_operations()
    return {result.ok().label: result.ok() for result in results if isinstance(result, Ok)}


OPERATION_OF: Final = read_operations(FUZZED)


def test_every_operation_can_be_read() -> None:
    assert len(OPERATION_OF) == len(FUZZED)


Open = Callable[[Settings, AsyncExitStack], Awaitable[httpx.AsyncClient]]


async def in_process(settings: Settings, stack: AsyncExitStack) -> httpx.AsyncClient:
    """Asks the application in this process."""
    app: Starlette = create_app(settings)
    await stack.enter_async_context(app.router.lifespan_context(app))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    client = httpx.AsyncClient(transport=transport, base_url="http://test", timeout=20)
    return await stack.enter_async_context(client)


async def over_http(settings: Settings, stack: AsyncExitStack) -> httpx.AsyncClient:
    """Asks `python -m api`, a process of its own, on its port."""
    port = free_port()
    given = settings.model_dump(exclude_unset=True, exclude={"state_dir"})
    texts = {
        f"TURNKEEP_{name.upper()}": str(
            value.get_secret_value() if isinstance(value, SecretStr) else value
        )
        for name, value in given.items()
    }
    directory = settings.state_dir
    process = Api(
        "fuzzed",
        texts | {"TURNKEEP_PORT": str(port), "TURNKEEP_STATE_DIR": str(directory)},
        directory / "api.log",
    )
    stack.callback(process.end_now)
    await process.ready()
    client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20)
    return await stack.enter_async_context(client)


class Arena:
    """The application, with a user who has a thread, a turn that waits, and all that has an id."""

    def __init__(self, settings: Settings, open_: Open) -> None:
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._settings = settings
        self._open_client = open_
        self._ids: dict[str, str] = {}
        self._client: httpx.AsyncClient
        self.sent = 0
        self.statuses: Counter[int] = Counter()

    def open(self) -> None:
        self._runner.run(self._open())

    async def _open(self) -> None:
        self._client = await self._open_client(self._settings, self._stack)
        async with Database(self._settings.database_url.get_secret_value(), size=1) as database:
            tenant_id = await create_tenant(database, "Test")
            user_id = await create_user(database, tenant_id, "u@example.org", "User")
            secret = await create_api_key(
                database,
                tenant_id=tenant_id,
                user_id=user_id,
                name="test",
                pepper=self._settings.key_pepper.get_secret_value().encode(),
            )
        self._credential = {"authorization": f"Bearer {secret}"}
        await self._settle()

    async def _settle(self) -> None:
        """Makes one of each thing that has an id; keeps the id of one that may not be made."""
        thread = await self._make("thread_id", f"{CHAT}/threads", {})
        turn = {"message": "x", "modelId": "scripted"}
        turn_id = await self._make("turn_id", f"{CHAT}/threads/{thread}/turns", turn)
        self._ids["response_id"] = "resp_" + turn_id.replace("-", "")
        self._ids["conversation_id"] = "conv_" + thread.replace("-", "")
        text = {"kind": "text", "content": "x"}
        artifact = await self._make("artifact_id", "/api/v1/artifacts", text)
        path = f"{CHAT}/threads/{thread}/attachments?artifact_id={artifact}"
        await self._make("attachment_id", path, {})
        markdown = f"---\nname: A\nslug: of-{thread}\nmode: primary\ntools: []\n---\nBe kind."
        await self._make("spec_id", "/api/v1/agents/specs", {"markdown": markdown})
        await self._make("token_id", "/api/v1/access-tokens", {"name": "x"})
        steps = [{"id": "a", "kind": "calculator"}, {"id": "g", "kind": "approval_gate"}]
        url = "/api/v1/automations"
        automation = await self._make(
            "automation_id", url, {"name": "x", "config": {"steps": steps}}
        )
        await self._make("run_id", f"{url}/{automation}/runs", {})

    async def _make(self, name: str, url: str, body: dict[str, Any]) -> str:
        answer = await self._client.post(url, json=body, headers=self._credential)
        if answer.is_success:
            made = answer.json()
            self._ids[name] = made.get("token", made)["id"]
        return self._ids[name]

    def send(self, case: Any) -> httpx.Response:
        """Sends a case; most with a good credential, half of them to things that exist."""
        return self._runner.run(self._send(case))

    async def _send(self, case: Any) -> httpx.Response:
        self.sent += 1
        if self.sent % 2:
            case.path_parameters.update(
                {name: id_ for name, id_ in self._ids.items() if name in case.path_parameters}
            )
        request = case.as_transport_kwargs(base_url=str(self._client.base_url).rstrip("/"))
        headers = {
            name: value.strip()  # a client refuses to send spaces at the ends
            for name, value in dict(request.get("headers") or {}).items()
            if isinstance(value, str) and set(name + value) <= _HEADER_BYTES
        }
        if self.sent % 7:
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
        self.statuses[response.status_code] += 1
        if case.method == "DELETE" or "bulk" in case.path:
            await self._settle()
        return response

    def close(self) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()


WAYS: Final[dict[str, Open]] = {"in process": in_process, "over HTTP": over_http}


@pytest.fixture(params=["in process"])
def arena(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Arena]:
    quick = settings.model_copy(
        update={
            "stream_max_age_s": 0.05,
            "keep_alive_s": 0.04,
            "max_queued_per_key": 0,
            "sync_wait_s": 0.05,
        }
    )
    arena = Arena(quick, WAYS[request.param])
    arena.open()
    yield arena
    arena.close()


def fuzz(arena: Arena, operation: Any, examples: int, *, is_repeatable: bool = True) -> None:
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

        @given(case=operation.as_strategy(generation_mode=mode))
        @hypothesis_settings(
            max_examples=examples,
            database=None,
            derandomize=is_repeatable,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def attack(case: Any) -> None:
            response = arena.send(case)
            # No worker runs: where the document has a 504, an answer that takes too long is none.
            checks = CHECKS if response.status_code != 504 else CHECKS[1:]
            case.validate_response(response, checks=checks)

        attack()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("label", sorted(OPERATION_OF))
def test_every_answer_is_described(arena: Arena, label: str) -> None:
    fuzz(arena, OPERATION_OF[label], 5)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("arena", ["over HTTP"], indirect=True)
def test_a_process_answers_as_described(arena: Arena) -> None:
    for label in sorted(OPERATION_OF):
        fuzz(arena, OPERATION_OF[label], 1)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("arena", WAYS, indirect=True)
@pytest.mark.parametrize("label", sorted(OPERATION_OF))
def test_every_answer_is_described_at_length(
    arena: Arena, label: str, record_property: Callable[[str, object], None]
) -> None:
    fuzz(arena, OPERATION_OF[label], LONG, is_repeatable=False)
    record_property("requests", arena.sent)
    print(f"fuzz: {label}: {arena.sent} requests, {dict(sorted(arena.statuses.items()))}")
