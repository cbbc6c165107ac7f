"""Which engine runs a `modelId`. Built once per worker process, closed with it."""

from __future__ import annotations

import structlog

from shared.errors import TurnFailed
from shared.settings import Settings
from worker.engine.agent import AgentEngine, Deadlines, ToolLimits
from worker.engine.base import Engine
from worker.engine.providers import Providers
from worker.engine.scripted import ScriptedEngine

log = structlog.get_logger(__name__)


class Engines:
    """The engines of this deployment."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._providers = Providers(settings)
        self._scripted = ScriptedEngine(settings.tool_timeout_s, settings.tool_max_calls)
        self._agent = AgentEngine(
            self._providers,
            Deadlines(
                first_token_s=settings.first_token_timeout_s,
                idle_s=settings.idle_timeout_s,
                turn_s=settings.turn_timeout_s,
            ),
            tool_limits=ToolLimits(
                call_s=settings.tool_timeout_s,
                calls=settings.tool_max_calls,
                local_models=settings.local_llm_tools,
            ),
        )

    def engine_for(self, model_id: str) -> Engine:
        """The engine that runs `model_id`.

        Raises:
            TurnFailed: `model_not_configured`, this deployment cannot run it.
        """
        if model_id == "scripted":
            return self._scripted
        if not self._settings.runs_model(model_id):
            message = "This deployment cannot run the requested model"
            raise TurnFailed("model_not_configured", message)
        return self._agent

    def offers_tools(self, model_id: str) -> bool:
        """Whether a run of `model_id` may call tools at all."""
        return self._settings.local_llm_tools or not model_id.startswith("local:")

    async def preload(self) -> None:
        """Imports what the default model needs, so that its first turn is as fast as the others.

        Never fails: a worker without its default model still runs the others.
        """
        default = self._settings.default_model
        try:
            if self.engine_for(default) is self._agent:
                await self._providers.load(default)
        except TurnFailed as failure:
            log.warning("engine.default_model_unusable", model_id=default, error=failure.message)

    async def aclose(self) -> None:
        """Closes the providers' connections."""
        await self._providers.aclose()
