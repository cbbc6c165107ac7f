"""The seam behind which models live: a turn's request in, an async stream of events out."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol
from uuid import UUID

from shared.turn.approval import Approval
from shared.turn.events import MessageDelta, ReasoningDelta, ToolCall, ToolResult, Usage
from worker.tools.base import OfferedTool, ToolContext

EngineEvent = MessageDelta | ReasoningDelta | ToolCall | ToolResult


@dataclass(frozen=True, slots=True)
class Resumption:
    """What a turn that was parked goes on from.

    `messages` are its own so far, behind the user's, as in `EngineRequest.history`. The calls at
    their end that have no result yet are those of `approvals`, all of them decided.
    """

    round: int
    """How often the turn was parked."""
    messages: list[dict[str, Any]]
    approvals: list[Approval]
    spent: Decimal = Decimal()
    """US dollars, of its model calls so far."""


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One attempt at one turn.

    `history` holds the thread's earlier messages, oldest first, each one pydantic-ai ModelMessage
    as a JSON object; `prompt` is the user's text of this turn.
    """

    turn_id: UUID
    thread_id: UUID
    tenant_id: UUID
    model_id: str
    settings: dict[str, Any]
    instructions: str | None
    history: list[dict[str, Any]]
    prompt: str
    tools: tuple[OfferedTool, ...] = ()
    tool_context: ToolContext | None = None
    """Set wherever `tools` may be called."""
    max_cost: Decimal | None = None
    """US dollars, of all model calls of the turn; None: no limit."""
    resumption: Resumption | None = None


@dataclass(frozen=True, slots=True)
class EngineMessage:
    """One message the run produced. `raw` is one pydantic-ai ModelMessage as a JSON object."""

    role: str
    content: str
    raw: dict[str, Any]


@dataclass(frozen=True, slots=True)
class AskedCall:
    """A tool call that waits for somebody's approval."""

    tool_call_id: str
    name: str
    args: dict[str, Any]


@dataclass(frozen=True, slots=True)
class EngineResult:
    """What a run has produced so far: whole after its last event, partial before.

    A run that has `asked` ends there; another one goes on once all of it is decided.
    """

    messages: list[EngineMessage] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    asked: list[AskedCall] = field(default_factory=list)


class EngineRun(Protocol):
    """One attempt under way."""

    def events(self) -> AsyncGenerator[EngineEvent, None]:
        """Events in order. Cancelling the consumer closes the model's HTTP stream.

        Raises:
            TurnFailed: the provider or the script failed.
        """
        ...

    def result(self) -> EngineResult:
        """Messages and usage so far; callable at any time, also after a failure or a cancel.

        Before the end, the last assistant message carries `"state": "interrupted"` in `raw`.
        """
        ...


class Engine(Protocol):
    """Runs turns whose `modelId` starts with one of its prefixes."""

    def start(self, request: EngineRequest) -> EngineRun:
        """Prepares a run; nothing leaves the process before `events` is consumed.

        Raises:
            TurnFailed: settings or history make no sense to this engine.
        """
        ...


def as_text(content: Any) -> str:
    """A tool's result as the text of its message: a text as it is, all else as JSON."""
    if isinstance(content, str):
        return content
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))
