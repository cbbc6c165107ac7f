"""Real models through pydantic-ai, the only seam to it. Imported lazily: see `providers`."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, cast

import structlog

from shared.errors import TurnFailed
from shared.turn.events import MessageDelta, ReasoningDelta, ToolCall, ToolResult
from worker.engine.agent_approvals import asked_calls, calls_made, run_input
from worker.engine.agent_errors import turn_failure
from worker.engine.agent_result import result_of
from worker.engine.base import (
    AskedCall,
    EngineEvent,
    EngineRequest,
    EngineResult,
    EngineRun,
)
from worker.engine.providers import is_free
from worker.engine.retries import RetryBudget, pause_before_retry

if TYPE_CHECKING:
    from pydantic_ai import Agent
    from pydantic_ai.agent import AgentRetries
    from pydantic_ai.models import Model
    from pydantic_ai.settings import ModelSettings
    from pydantic_ai.toolsets import AbstractToolset
    from pydantic_ai.usage import UsageLimits

    from worker.engine.agent_task import AgentTask

log = structlog.get_logger(__name__)

_NUMBERS: Final = {
    "temperature": ("temperature", (int, float)),
    "topP": ("top_p", (int, float)),
    "presencePenalty": ("presence_penalty", (int, float)),
    "frequencyPenalty": ("frequency_penalty", (int, float)),
    "maxTokens": ("max_tokens", (int,)),
    "topK": ("top_k", (int,)),
    "seed": ("seed", (int,)),
}
_MALFORMED: Final = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What the libraries raise while they read an answer that no specification knows."""
_ARGUMENTS_MAX_CHARS: Final = 1_048_576
"""Of all tool calls of a run. They are not told while they grow, so the log cannot bound them."""


class Models(Protocol):
    """Where an engine finds its models."""

    async def model(self, model_id: str) -> Model:
        """The model behind `model_id`."""
        ...


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Of one run, in seconds: first output, silence between two chunks, everything."""

    first_token_s: float
    idle_s: float
    turn_s: float


@dataclass(frozen=True, slots=True)
class ToolLimits:
    """Of one tool call, and of how many calls a turn may make."""

    call_s: float = 20.0
    calls: int = 50
    local_models: bool = True
    """Whether models of `local:` are offered tools."""


class AgentEngine:
    """Runs every model but `scripted`."""

    def __init__(
        self,
        models: Models,
        deadlines: Deadlines,
        toolsets: Sequence[AbstractToolset[None]] = (),
        tool_limits: ToolLimits | None = None,
    ) -> None:
        self._models = models
        self._deadlines = deadlines
        self._toolsets = toolsets
        self._tool_limits = tool_limits or ToolLimits()
        self._budgets: defaultdict[str, RetryBudget] = defaultdict(RetryBudget)

    def start(self, request: EngineRequest) -> EngineRun:
        """A run of the request's model; imports and sends nothing yet.

        Raises:
            TurnFailed: `invalid_settings`, a known setting has a wrong type.
        """
        settings = _sampling(request.settings)
        budget = self._budgets[request.model_id.partition(":")[0]]
        return _AgentRun(
            request,
            settings,
            self._models,
            self._deadlines,
            self._toolsets,
            self._tool_limits,
            budget,
        )


class _AgentRun:
    def __init__(
        self,
        request: EngineRequest,
        sampling: dict[str, Any],
        models: Models,
        deadlines: Deadlines,
        toolsets: Sequence[AbstractToolset[None]],
        tool_limits: ToolLimits,
        budget: RetryBudget,
    ) -> None:
        self._request = request
        self._sampling = sampling
        self._models = models
        self._deadlines = deadlines
        self._toolsets = list(toolsets)
        self._tool_limits = tool_limits
        self._budget = budget
        self._task: AgentTask | None = None
        self._ended = False
        self._arguments_chars = 0
        self._taken: list[EngineEvent] = []
        self._asked: list[AskedCall] = []
        resumption = request.resumption
        self._told_calls = {a.tool_call_id for a in resumption.approvals} if resumption else set()

    async def events(self) -> AsyncGenerator[EngineEvent, None]:
        due = asyncio.get_running_loop().time() + self._deadlines.first_token_s
        model = await self._models.model(self._request.model_id)
        self._require_price(model)
        agent = self._agent(model)
        self._budget.earn()
        is_retry = False
        while not self._ended:
            try:
                async with aclosing(self._call(agent)) as events:
                    async for event in events:
                        self._taken.append(event)
                        try:
                            yield event
                        except GeneratorExit:
                            # The consumer could not take it: what is stored must be what was told.
                            self._taken.pop()
                            raise
            except RuntimeError as error:  # the root of all errors of pydantic-ai
                failure = self._cost_failure(error) or turn_failure(error)
                if failure is None:
                    raise
                pause_s = None if is_retry else self._pause_before_retry(error, due)
                if pause_s is None:
                    raise failure from error
                is_retry = True
                turn_id = str(self._request.turn_id)
                log.info("engine.retry", turn_id=turn_id, error_code=failure.error_code)
                await asyncio.sleep(pause_s)

    def _pause_before_retry(self, error: Exception, due: float) -> float | None:
        if self._taken:
            return None
        pause_s = pause_before_retry(error, due - asyncio.get_running_loop().time())
        return pause_s if pause_s is not None and self._budget.spend() else None

    async def _call(self, agent: Agent[None, Any]) -> AsyncGenerator[EngineEvent, None]:
        """The run's events. Sends one request, and another one after each round of tools."""
        from worker.engine.agent_task import AgentTask

        request = self._request
        run = agent.iter(
            **run_input(request),
            conversation_id=str(request.thread_id),
            model_settings=self._model_settings(),
            usage_limits=self._usage_limits(),
        )
        async with AgentTask(run, self._deadlines.turn_s) as task:
            self._task = task
            while True:
                try:
                    event = await anext(task)
                except StopAsyncIteration:
                    break
                except _MALFORMED as error:
                    log.warning("engine.answer_malformed", error=repr(error)[:500])
                    message = "The model's answer cannot be used"
                    raise TurnFailed("model_error", message) from error
                if (translated := self._translate(event)) is not None:
                    yield translated
        if task.run is not None and task.run.result is not None:
            self._asked = asked_calls(task.run.result.output)
        self._ended = True

    def _agent(self, model: Model) -> Agent[None, Any]:
        from pydantic_ai import Agent, DeferredToolRequests

        instructions = self._request.instructions
        toolsets = [*self._toolsets, *self._own_toolsets()]
        # A broken call of a tool is the model's to repeat; all else is retried here or nowhere.
        retries: AgentRetries = {"tools": 1 if toolsets else 0, "output": 0}
        return Agent(
            model,
            instructions=instructions,
            toolsets=toolsets,
            output_type=[str, DeferredToolRequests] if toolsets else str,
            retries=retries,
        )

    def _own_toolsets(self) -> list[AbstractToolset[None]]:
        request, limits = self._request, self._tool_limits
        is_local = request.model_id.startswith("local:")
        if not request.tools or request.tool_context is None:
            return []
        if is_local and not limits.local_models:
            return []
        from worker.engine.agent_tools import toolset_of

        return [toolset_of(request.tools, request.tool_context, timeout_s=limits.call_s)]

    # -- what a run may cost

    @property
    def _max_cost(self) -> Decimal | None:
        """What is left for this run of what the turn may cost: it may have been parked before."""
        request = self._request
        if request.max_cost is None or is_free(request.model_id):
            return None
        spent = request.resumption.spent if request.resumption else Decimal()
        return max(Decimal(), request.max_cost - spent)

    def _usage_limits(self) -> UsageLimits:
        """A turn that has reached its cost asks the model nothing more."""
        from pydantic_ai.usage import UsageLimits

        requests, calls = calls_made(self._request.resumption)
        most = self._tool_limits.calls
        return UsageLimits(
            request_limit=max(0, most + 1 - requests),
            tool_calls_limit=max(0, most - calls),
            cost_limit=self._max_cost,
        )

    def _require_price(self, model: Model) -> None:
        """Refuses a limited run whose cost nobody could tell."""
        if self._max_cost is None:
            return
        from genai_prices import Usage as Quantity
        from genai_prices import calc_price

        try:
            calc_price(Quantity(input_tokens=1), model.model_name, provider_id=model.system)
        except LookupError:
            message = "The agent has a cost limit, and the price of this model is not known"
            raise TurnFailed("cost_limit", message) from None

    def _cost_failure(self, error: Exception) -> TurnFailed | None:
        from pydantic_ai.exceptions import UsageLimitExceeded

        run = self._task.run if self._task else None
        if run is None or self._max_cost is None or not isinstance(error, UsageLimitExceeded):
            return None
        cost = run.usage.cost
        if cost is None or cost <= self._max_cost:
            return None
        most = self._request.max_cost
        return TurnFailed("cost_limit", f"The turn has cost more than {most:f} dollars")

    def _model_settings(self) -> ModelSettings:
        # SDK retries hide a 429 for as long as the provider says (14 s were seen): off.
        own: ModelSettings = {
            "max_retries": 0,
            "timeout": self._deadlines.idle_s,
            "first_event_timeout": self._deadlines.first_token_s,
        }
        return cast("ModelSettings", {**self._sampling, **own})

    def _translate(self, event: Any) -> EngineEvent | None:
        # The first chunk of a part travels in its start, the others in deltas.
        match event.event_kind:
            case "part_delta":
                return self._delta(event.delta.part_delta_kind, event.delta)
            case "part_start":
                return self._delta(event.part.part_kind, event.part)
            case "function_tool_call":
                part = event.part
                if part.tool_call_id in self._told_calls:
                    return None  # when it was asked for
                return ToolCall(
                    tool_call_id=part.tool_call_id,
                    name=part.tool_name,
                    args=part.args_as_dict(),
                )
            case "function_tool_result":
                return _tool_result(event.part)
            case _:
                return None

    def _delta(self, kind: str, part: Any) -> MessageDelta | ReasoningDelta | None:
        if kind not in {"text", "thinking"}:
            self._count_arguments(part)
            return None
        chunk = part.content if hasattr(part, "content") else part.content_delta
        if not chunk:
            return None
        return MessageDelta(text=chunk) if kind == "text" else ReasoningDelta(text=chunk)

    def _count_arguments(self, part: Any) -> None:
        arguments = part.args if hasattr(part, "args") else getattr(part, "args_delta", None)
        if isinstance(arguments, str):
            self._arguments_chars += len(arguments)
        if self._arguments_chars > _ARGUMENTS_MAX_CHARS:
            raise TurnFailed("output_limit", "The model's tool calls exceed the size limit")

    def result(self) -> EngineResult:
        run = self._task.run if self._task else None
        return result_of(self._request, run, self._taken, self._asked, is_over=self._ended)


def _sampling(settings: dict[str, Any]) -> dict[str, Any]:
    """pydantic-ai's names for the settings it may see; unknown ones are ignored."""
    chosen: dict[str, Any] = {}
    for ours, (theirs, types) in _NUMBERS.items():
        value = settings.get(ours)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, types):
            raise TurnFailed("invalid_settings", f"settings.{ours}: a number is expected")
        chosen[theirs] = value
    stops = settings.get("stopSequences")
    if stops is not None:
        if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
            raise TurnFailed("invalid_settings", "settings.stopSequences: texts are expected")
        chosen["stop_sequences"] = stops
    return chosen


def _tool_result(part: Any) -> ToolResult:
    if part.outcome == "success":
        content = part.model_response_object() if isinstance(part.content, dict) else part.content
        return ToolResult(tool_call_id=part.tool_call_id, result=_plain(content))
    denied: Literal[True] | None = True if part.outcome == "denied" else None
    return ToolResult(
        tool_call_id=part.tool_call_id, error=part.model_response_str(), denied=denied
    )


def _plain(value: Any) -> Any:
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value, serialize_unknown=True)
