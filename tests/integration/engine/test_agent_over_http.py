"""The engine against a real HTTP server: streams, refusals, cut connections, hang-ups."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from shared.errors import TurnFailed
from shared.settings import Settings
from shared.turn.events import MessageDelta
from tests.chaos.fake_provider import FakeProvider, run_provider
from tests.chaos.provider_text import Behaviour, Schedule, Word, word
from tests.fixtures.waiting import wait_until
from worker.engine.base import EngineEvent, EngineRequest, EngineRun
from worker.engine.registry import Engines

REQUEST = EngineRequest(
    turn_id=UUID(int=1), thread_id=UUID(int=2), tenant_id=UUID(int=3), model_id="local:tiny",
    settings={"temperature": 0}, instructions="be kind", history=[], prompt="hello",
)  # fmt: skip


def settings_for(url: str | None, **more: Any) -> Settings:
    values: dict[str, Any] = {
        "database_url": "postgresql://nowhere/x",
        "redis_url": "redis://nowhere",
        "key_pepper": "0123456789abcdef",
        "local_llm_url": url,
        "openai_chat_base_url": url,
        "OPENAI_API_KEY": None,
        "ANTHROPIC_API_KEY": None,
        "GEMINI_API_KEY": None,
        "first_token_timeout_s": 1,
        "idle_timeout_s": 1,
    }
    return Settings(**values | more)


def always(behaviour: Behaviour) -> Schedule:
    return Schedule(0, {behaviour: 1.0})


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with run_provider(schedule=always(Behaviour(deltas=3))) as provider:
        yield provider


@pytest.fixture
async def engines(provider: FakeProvider) -> AsyncIterator[Engines]:
    engines = Engines(settings_for(provider.url))
    yield engines
    await engines.aclose()


def start(engines: Engines, **changes: Any) -> EngineRun:
    request = replace(REQUEST, **changes)
    return engines.engine_for(request.model_id).start(request)


async def collect(run: EngineRun) -> list[EngineEvent]:
    return [event async for event in run.events()]


def said(provider: FakeProvider) -> list[EngineEvent]:
    """What the newest call said, in its words."""
    call = provider.calls[-1]
    origins = [Word(call.canary, call.turn, call.number, n) for n in range(call.deltas)]
    return [MessageDelta(text=word(0, origin)) for origin in origins]


def text_of(events: list[EngineEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, MessageDelta))


async def test_streams_and_reports_messages_and_usage(
    provider: FakeProvider, engines: Engines
) -> None:
    run = start(engines)
    events = await collect(run)
    assert len(events) == 3
    assert events == said(provider)
    result = run.result()
    (message,) = result.messages
    assert (message.role, message.content) == ("assistant", text_of(events))
    assert message.raw["state"] == "complete"
    assert provider.url not in str(message.raw)
    assert result.usage.model_dump() == {
        "input_tokens": 11, "output_tokens": 3, "cached_input_tokens": 4, "total_cost": "0",
    }  # fmt: skip
    body = provider.calls[0].body
    assert (body["model"], body["temperature"], body["stream"]) == ("tiny", 0, True)
    assert [m["content"] for m in body["messages"]] == ["be kind", "hello"]


async def test_turns_share_connections_and_aclose_closes_them(
    provider: FakeProvider, engines: Engines
) -> None:
    for _ in range(3):
        await collect(start(engines))
    assert (len(provider.calls), provider.connections) == (3, 1)
    assert provider.open_connections == 1
    await engines.aclose()
    await wait_until(lambda: not provider.open_connections, "the connection is closed", 2)


async def test_a_compatible_server_never_sees_the_cloud_key(
    provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-cloud")
    for more, key in [({}, "none"), ({"openai_chat_api_key": "mine"}, "mine")]:
        engines = Engines(settings_for(provider.url, **more))
        run = start(engines, model_id="openai-chat:tiny")
        assert await collect(run) == said(provider)
        await engines.aclose()
        assert provider.calls[-1].key == f"bearer {key}"


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (Behaviour("status", status=429, retry_after="30"), "rate_limited"),
        (Behaviour("status", status=500, retry_after="30"), "model_error"),
        (Behaviour("status", status=401), "model_auth"),
        (Behaviour("status", status=404), "model_error"),
        (Behaviour("status", status=400, value="context_length_exceeded"), "context_too_long"),
    ],
)
async def test_refusals_that_last_fail_at_once_without_a_secret(
    provider: FakeProvider, engines: Engines, refusal: Behaviour, code: str
) -> None:
    provider.schedule = always(refusal)
    began = time.monotonic()
    run = start(engines)
    with pytest.raises(TurnFailed) as caught:
        await collect(run)
    assert caught.value.error_code == code
    assert "sk-" not in caught.value.message
    assert "http:" not in caught.value.message
    assert len(provider.calls) == 1
    assert time.monotonic() - began < 5
    assert run.result().messages == []


async def test_a_connection_cut_in_the_middle_keeps_the_partial_text(
    provider: FakeProvider, engines: Engines
) -> None:
    provider.schedule = always(Behaviour("reset", at=3))
    run = start(engines)
    with pytest.raises(TurnFailed) as caught:
        await collect(run)
    assert caught.value.error_code == "model_error"
    (message,) = run.result().messages
    assert (message.content, message.raw["state"]) == (text_of(said(provider)), "interrupted")


async def test_a_server_that_is_not_there(engines: Engines, provider: FakeProvider) -> None:
    absent = Engines(settings_for("http://127.0.0.1:1/v1"))
    with pytest.raises(TurnFailed) as caught:
        await collect(start(absent))
    await absent.aclose()
    assert caught.value.error_code == "model_error"
    assert "127.0.0.1" not in caught.value.message


@pytest.mark.parametrize("at", [-1, 3])
async def test_silence_times_out_and_hangs_up(
    provider: FakeProvider, engines: Engines, at: int
) -> None:
    provider.schedule = always(Behaviour("stall", at=at))
    with pytest.raises(TurnFailed) as caught:
        await collect(start(engines))
    assert caught.value.error_code == "timeout"
    call = provider.calls[0]
    await wait_until(lambda: call.how == "client_closed", "the call is closed", 2)


async def test_cancelling_the_consumer_closes_the_models_stream(
    provider: FakeProvider, engines: Engines
) -> None:
    provider.schedule = always(Behaviour("stall", at=3))
    run = start(engines)
    reached = asyncio.Event()
    heard: list[EngineEvent] = []

    async def read() -> None:
        async for event in run.events():
            heard.append(event)
            if len(heard) == 3:
                reached.set()

    task = asyncio.create_task(read())
    async with asyncio.timeout(5):
        await reached.wait()
    call = provider.calls[0]
    assert not call.is_over
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await wait_until(lambda: call.how == "client_closed", "the call is closed", 0.9)
    (message,) = run.result().messages
    assert (message.content, message.raw["state"]) == (text_of(heard), "interrupted")


@pytest.mark.parametrize("model_id", ["anthropic:x", "openai:x", "google:x", "nothing", "local:"])
async def test_unconfigured_models_are_refused(engines: Engines, model_id: str) -> None:
    with pytest.raises(TurnFailed) as caught:
        engines.engine_for(model_id)
    assert caught.value.error_code == "model_not_configured"


@pytest.mark.parametrize(
    "model_id", ["openai:gpt-5", "anthropic:claude-sonnet-4-5", "google:gemini"]
)
async def test_each_provider_can_be_opened_and_closed(model_id: str) -> None:
    keys = {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k", "GEMINI_API_KEY": "k"}
    engines = Engines(settings_for(None, **keys))
    await engines._providers.model(model_id)
    await engines.aclose()


async def test_preload_never_fails_and_opens_the_default(provider: FakeProvider) -> None:
    for default, opened in [("scripted", []), ("local:tiny", ["local:"]), ("google:x", [])]:
        engines = Engines(settings_for(provider.url, default_model=default))
        await engines.preload()
        assert list(engines._providers._open) == opened
        await engines.aclose()
    assert provider.connections == 0
