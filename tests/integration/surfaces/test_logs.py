"""No surface writes down what was said, with which secret, or what a thread is called."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import structlog

from shared.service.credentials import Credentials
from tests.fixtures.system import StartWorker
from tests.integration.surfaces.conftest import Person

APP = "/api/v1/app"
CANARY = "canary-7f3a"


@pytest.fixture
def written() -> Iterator[list[Any]]:
    """All that is logged, also what no level lets through."""
    lines: list[Any] = []

    def keep(_: Any, name: str, event: Any) -> Any:
        lines.append({"level": name, **event})
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.processors.format_exc_info, keep],
        wrapper_class=structlog.make_filtering_bound_logger(0),
        cache_logger_on_first_use=False,
    )
    yield lines
    structlog.configure(**before)


async def say_everywhere(person: Person) -> list[httpx.Response]:
    """On each surface what is right, and what is not."""
    me = (await person.ask("zylon", "GET", f"{APP}/me")).json()
    path = f"{APP}/project/{me['default_project_id']}"
    thread = await person.made("zylon", f"{path}/thread", name=CANARY, visibility="Public")
    chat = await person.made("publishable", "/chat", agentId="default", userId=CANARY)
    said = [{"role": "user", "content": CANARY}]
    named = {"workspace_id": "default", "app_id": None, "namespace_id": "default"}
    asked: list[tuple[str, str, Any]] = [
        ("zylon", f"{APP}/thread/{thread['id']}/interaction", {"pgpt": {"messages": said}}),
        ("zylon", f"{APP}/chat", {"messages": said}),
        ("zylon", f"{APP}/chat", {"messages": CANARY}),
        ("publishable", f"/chat/{chat['id']}/message", {"content": CANARY}),
        ("publishable", f"/chat/{chat['id']}/message", {"content": [CANARY]}),
        ("publishable", "/agent", {"name": CANARY}),
        ("kodey", "/agent", {"name": CANARY, "systemPrompt": CANARY, "tools": [CANARY]}),
        ("mm", f"{{default}}/{CANARY}/messages", {**named, "thread_id": CANARY, **said[0]}),
        ("mm", f"{{default}}/{CANARY}/messages", {**named, "thread_id": "x", **said[0]}),
        ("primary", "/v1/responses", {"input": CANARY, "instructions": CANARY}),
        ("primary", "/v1/responses", {"input": [CANARY]}),
        ("primary", "/api/v1/agui", {"threadId": CANARY, "runId": CANARY, "messages": said}),
        ("zylon", "/v1/responses", {"input": CANARY}),
    ]
    return [await person.ask(kind, "POST", where, json=body) for kind, where, body in asked]


async def test_nothing_of_it_is_in_a_log(
    owner: Person, start_worker: StartWorker, written: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await start_worker()
    answers = await say_everywhere(owner)
    assert {answer.status_code for answer in answers} >= {200, 201, 400, 401, 403, 422}

    async def break_down(*_: Any) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(Credentials, "require_valid", break_down)
    broken = await owner.ask("primary", "POST", "/v1/responses", json={"input": CANARY})
    assert broken.status_code == 500
    assert "a defect" not in broken.text
    told = json.dumps(written, default=str)
    assert "a defect" in told, "the defect itself is"
    secrets = [client.headers["authorization"].split()[1] for client in owner.clients.values()]
    for hidden in (CANARY, "@example.org", *secrets, *(secret[-20:] for secret in secrets)):
        assert hidden not in told, hidden
