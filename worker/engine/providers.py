"""Which provider a `modelId` means, with one HTTP connection pool per provider and process.

pydantic-ai and each provider's SDK are imported at first use, in a thread: a worker pays 1 to 2 s
and some 30 MB only for the providers it really talks to, and keeps its heartbeat meanwhile.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from pydantic import SecretStr

from shared.errors import TurnFailed
from shared.settings import Settings

if TYPE_CHECKING:
    import httpx2
    from pydantic_ai.models import Model
    from pydantic_ai.providers import Provider

_ADAPTERS: Final = {
    "openai:": "pydantic_ai.models.openai",
    "openai-chat:": "pydantic_ai.models.openai",
    "local:": "pydantic_ai.models.openai",
    "anthropic:": "pydantic_ai.models.anthropic",
    "google:": "pydantic_ai.models.google",
}
_NO_KEY: Final = "none"
"""Sent to servers without a key. Without it the SDK would send them the key of its own cloud."""


class Providers:
    """Models by `modelId`, on providers that are opened once and shared by all turns."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open: dict[str, Provider[Any]] = {}
        self._opening = asyncio.Lock()
        self._stack = AsyncExitStack()

    async def model(self, model_id: str) -> Model:
        """The model behind `model_id`.

        Raises:
            TurnFailed: `model_not_configured`, the prefix is unknown or lacks a key, URL or SDK.
        """
        prefix, name = _split(model_id)
        provider = self._open.get(prefix) or await self._open_once(prefix)
        return _make_model(prefix, name, provider)

    async def load(self, model_id: str) -> None:
        """Imports what `model_id` needs and opens its provider; sends nothing.

        Raises:
            TurnFailed: as `model` does.
        """
        prefix, _ = _split(model_id)
        await self._open_once(prefix)

    async def aclose(self) -> None:
        """Closes every connection. The providers cannot be used afterwards."""
        self._open.clear()
        await self._stack.aclose()

    async def _open_once(self, prefix: str) -> Provider[Any]:
        async with self._opening:
            if (provider := self._open.get(prefix)) is None:
                make = self._factory(prefix)
                try:
                    await asyncio.to_thread(_import_adapter, prefix)
                except ImportError as error:
                    raise _not_configured(prefix, "its client library is not installed") from error
                client = await self._stack.enter_async_context(self._client())
                provider = await self._stack.enter_async_context(make(client))
                self._open[prefix] = provider
            return provider

    def _client(self) -> httpx2.AsyncClient:
        from worker.engine.answer_limits import AnswerLimits, bounded_client

        return bounded_client(AnswerLimits.for_log(self._settings.event_log_max_bytes))

    def _factory(self, prefix: str) -> Callable[[httpx2.AsyncClient], Provider[Any]]:
        """How to make the provider; checks first that it is configured."""
        settings = self._settings
        match prefix:
            case "openai:":
                key = _required(prefix, settings.openai_api_key)
                return partial(_openai, key)
            case "openai-chat:" if settings.openai_chat_base_url:
                url = settings.openai_chat_base_url
                return partial(_compatible, "openai-chat", url, settings.openai_chat_api_key)
            case "openai-chat:":
                key = _required(prefix, settings.openai_api_key)
                return partial(_openai, key)
            case "local:" if settings.local_llm_url:
                url = settings.local_llm_url
                return partial(_compatible, "local", url, None)
            case "anthropic:":
                key = _required(prefix, settings.anthropic_api_key)
                return partial(_anthropic, key)
            case "google:":
                key = _required(prefix, settings.google_api_key)
                return partial(_google, key)
            case _:
                raise _not_configured(prefix, "it has no address")


def is_free(model_id: str) -> bool:
    """Whether the model runs on our own machine, so that a turn costs nothing."""
    return model_id.startswith("local:")


def _split(model_id: str) -> tuple[str, str]:
    provider, colon, name = model_id.partition(":")
    prefix = provider + colon
    if prefix not in _ADAPTERS or not name:
        raise TurnFailed("model_not_configured", "This deployment cannot run the requested model")
    return prefix, name


def _required(prefix: str, key: SecretStr | None) -> str:
    if key is None or not key.get_secret_value():
        raise _not_configured(prefix, "it has no API key")
    return key.get_secret_value()


def _not_configured(prefix: str, why: str) -> TurnFailed:
    message = f"Models of {prefix!r} are not configured in this deployment: {why}"
    return TurnFailed("model_not_configured", message)


def _import_adapter(prefix: str) -> None:
    import pydantic_ai

    pydantic_ai.BANNER_ENABLED = False
    importlib.import_module("pydantic_ai.agent")
    importlib.import_module(_ADAPTERS[prefix])


def _make_model(prefix: str, name: str, provider: Provider[Any]) -> Model:
    match prefix:
        case "openai:":
            from pydantic_ai.models.openai import OpenAIResponsesModel

            return OpenAIResponsesModel(name, provider=provider)
        case "anthropic:":
            from pydantic_ai.models.anthropic import AnthropicModel

            return AnthropicModel(name, provider=provider)
        case "google:":
            from pydantic_ai.models.google import GoogleModel

            return GoogleModel(name, provider=provider)
        case _:
            from pydantic_ai.models.openai import OpenAIChatModel

            return OpenAIChatModel(name, provider=provider)


def _openai(key: str, client: httpx2.AsyncClient) -> Provider[Any]:
    from pydantic_ai.providers.openai import OpenAIProvider

    return OpenAIProvider(api_key=key, http_client=client)


def _compatible(
    name: str, url: str, key: SecretStr | None, client: httpx2.AsyncClient
) -> Provider[Any]:
    from pydantic_ai.profiles.openai import OpenAIModelProfile
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

    secret = key.get_secret_value() if key else ""
    return OpenAICompatibleProvider(
        name,
        base_url=url,
        api_key=secret or _NO_KEY,
        http_client=client,
        # A proxy can end a broken answer in good order; half of it must not pass for the whole.
        profile=OpenAIModelProfile(openai_chat_streaming_requires_finish_reason=True),
    )


def _anthropic(key: str, client: httpx2.AsyncClient) -> Provider[Any]:
    from pydantic_ai.providers.anthropic import AnthropicProvider

    return AnthropicProvider(api_key=key, http_client=client)


def _google(key: str, client: httpx2.AsyncClient) -> Provider[Any]:
    from pydantic_ai.providers.google import GoogleProvider

    return GoogleProvider(api_key=key, http_client=client)
