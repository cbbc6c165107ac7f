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
from tests.integration.engine.loopback_provider import LoopbackProvider, loopback_provider
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


@pytest.fixture
async def provider() -> AsyncIterator[LoopbackProvider]:
    async with loopback_provider() as provider:
        yield provider


@pytest.fixture
async def engines(provider: LoopbackProvider) -> AsyncIterator[Engines]:
    engines = Engines(settings_for(provider.url))
    yield engines
    await engines.aclose()


def start(engines: Engines, **changes: Any) -> EngineRun:
    request = replace(REQUEST, **changes)
    return engines.engine_for(request.model_id).start(request)


async def collect(run: EngineRun) -> list[EngineEvent]:
    return [event async for event in run.events()]


HELLO = [MessageDelta(text="Hel"), MessageDelta(text="lo "), MessageDelta(text="you")]


async def test_streams_and_reports_messages_and_usage(
    provider: LoopbackProvider, engines: Engines
) -> None:
    run = start(engines)
    assert await collect(run) == HELLO
    result = run.result()
    (message,) = result.messages
    assert (message.role, message.content) == ("assistant", "Hello you")
    assert message.raw["state"] == "complete"
    assert provider.url not in str(message.raw)
    assert result.usage.model_dump() == {
        "input_tokens": 11, "output_tokens": 3, "cached_input_tokens": 4, "total_cost": "0",
    }  # fmt: skip
    (body,) = provider.requests
    assert (body["model"], body["temperature"], body["stream"]) == ("tiny", 0, True)
    assert [m["content"] for m in body["messages"]] == ["be kind", "hello"]


async def test_turns_share_connections_and_aclose_closes_them(
    provider: LoopbackProvider, engines: Engines
) -> None:
    for _ in range(3):
        await collect(start(engines))
    assert (len(provider.requests), provider.connections) == (3, 1)
    assert not provider.hung_up.is_set()
    await engines.aclose()
    async with asyncio.timeout(2):
        await provider.hung_up.wait()


async def test_a_compatible_server_never_sees_the_cloud_key(
    provider: LoopbackProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-cloud")
    for more, key in [({}, "none"), ({"openai_chat_api_key": "mine"}, "mine")]:
        engines = Engines(settings_for(provider.url, **more))
        run = start(engines, model_id="openai-chat:tiny")
        assert await collect(run) == HELLO
        await engines.aclose()
        assert provider.keys.pop() == f"bearer {key}"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("429", "rate_limited"),
        ("500", "model_error"),
        ("401", "model_auth"),
        ("404", "model_error"),
        ("413", "context_too_long"),
    ],
)
async def test_refusals_fail_at_once_without_a_retry_or_a_secret(
    provider: LoopbackProvider, engines: Engines, status: str, code: str
) -> None:
    provider.behaviour = status
    began = time.monotonic()
    run = start(engines)
    with pytest.raises(TurnFailed) as caught:
        await collect(run)
    assert caught.value.error_code == code
    assert "sk-" not in caught.value.message
    assert "http:" not in caught.value.message
    assert len(provider.requests) == 1
    assert time.monotonic() - began < 5
    assert run.result().messages == []


async def test_a_connection_cut_in_the_middle_keeps_the_partial_text(
    provider: LoopbackProvider, engines: Engines
) -> None:
    provider.behaviour = "reset"
    run = start(engines)
    with pytest.raises(TurnFailed) as caught:
        await collect(run)
    assert caught.value.error_code == "model_error"
    (message,) = run.result().messages
    assert (message.content, message.raw["state"]) == ("Hello you", "interrupted")


async def test_a_server_that_is_not_there(engines: Engines, provider: LoopbackProvider) -> None:
    absent = Engines(settings_for("http://127.0.0.1:1/v1"))
    with pytest.raises(TurnFailed) as caught:
        await collect(start(absent))
    await absent.aclose()
    assert caught.value.error_code == "model_error"
    assert "127.0.0.1" not in caught.value.message


@pytest.mark.parametrize("behaviour", ["mute", "stall"])
async def test_silence_times_out_and_hangs_up(
    provider: LoopbackProvider, engines: Engines, behaviour: str
) -> None:
    provider.behaviour = behaviour
    with pytest.raises(TurnFailed) as caught:
        await collect(start(engines))
    assert caught.value.error_code == "timeout"
    async with asyncio.timeout(2):
        await provider.hung_up.wait()


async def test_cancelling_the_consumer_closes_the_models_stream(
    provider: LoopbackProvider, engines: Engines
) -> None:
    provider.behaviour = "stall"
    run = start(engines)
    reached = asyncio.Event()

    async def read() -> None:
        async for event in run.events():
            if event == HELLO[-1]:
                reached.set()

    task = asyncio.create_task(read())
    async with asyncio.timeout(5):
        await reached.wait()
    assert not provider.hung_up.is_set()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(0.3):
        await provider.hung_up.wait()
    (message,) = run.result().messages
    assert (message.content, message.raw["state"]) == ("Hello you", "interrupted")


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


async def test_preload_never_fails_and_opens_the_default(provider: LoopbackProvider) -> None:
    for default, opened in [("scripted", []), ("local:tiny", ["local:"]), ("google:x", [])]:
        engines = Engines(settings_for(provider.url, default_model=default))
        await engines.preload()
        assert list(engines._providers._open) == opened
        await engines.aclose()
    assert provider.connections == 0
