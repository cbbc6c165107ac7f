"""What a run of pydantic-ai has produced, as it is stored: of one that was stopped or failed, too.

Pure, but for the library's types: what was streamed and what it has recorded go in, messages and
usage come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from shared.turn.events import MessageDelta, ReasoningDelta, Usage
from worker.engine.base import (
    AskedCall,
    EngineEvent,
    EngineMessage,
    EngineRequest,
    EngineResult,
    as_text,
)
from worker.engine.providers import is_free

if TYPE_CHECKING:
    from pydantic_ai.agent import AgentRun
    from pydantic_ai.messages import ModelMessage, ModelResponse, ModelResponsePart
    from pydantic_ai.usage import RunUsage

_PRIVATE: Final = frozenset({"provider_url", "failed_attempts"})
"""Not stored with a message: where our servers are, and what a provider said in its errors."""
_COUNT_MAX: Final = 2**53 - 1
"""Of tokens: the largest number that every reader of JSON can hold."""


def result_of(
    request: EngineRequest,
    run: AgentRun[None, Any] | None,
    told: Sequence[EngineEvent],
    asked: list[AskedCall],
    *,
    is_over: bool,
) -> EngineResult:
    """`run` is None before it has begun, `told` are the events that were taken from it.

    Unless it `is_over`, the last assistant message is marked as interrupted.
    """
    if run is None:
        return EngineResult(usage=usage_of(None, request.model_id))
    produced = run.new_messages()
    if not is_over:
        produced = _with_unrecorded(produced, told, request)
    messages = [_message(m) for m in produced if m.parts and not _is_prompt(m)]
    answers = [message for message in messages if message.role == "assistant"]
    if answers and not is_over:
        answers[-1].raw["state"] = "interrupted"
    return EngineResult(messages, usage_of(run.usage, request.model_id), asked)


def usage_of(usage: RunUsage | None, model_id: str) -> Usage:
    """What a run has used so far; None: it has asked nothing yet."""
    if usage is None:
        return Usage(total_cost="0" if is_free(model_id) else None)
    cost = "0" if is_free(model_id) else None if usage.cost is None else format(usage.cost, "f")
    return Usage(
        input_tokens=_count(usage.input_tokens),
        output_tokens=_count(usage.output_tokens),
        cached_input_tokens=_count(usage.cache_read_tokens),
        total_cost=cost,
    )


def _with_unrecorded(
    recorded: list[ModelMessage], told: Sequence[EngineEvent], request: EngineRequest
) -> list[ModelMessage]:
    """Adds the response under way: pydantic-ai records one only when it ends or is cancelled.

    What was streamed and what is recorded are compared, so nothing is lost or doubled, and
    what is recorded alone, one event at most, is left out.
    """
    from pydantic_ai.messages import ModelResponse, TextPart, ThinkingPart

    text = "".join(e.text for e in told if isinstance(e, MessageDelta))
    reasoning = "".join(e.text for e in told if isinstance(e, ReasoningDelta))
    recorded = _cut(recorded, len(text), len(reasoning))
    known_text, known_reasoning = _said(recorded, "text"), _said(recorded, "thinking")
    parts: list[ThinkingPart | TextPart] = []
    if len(reasoning) > len(known_reasoning) and reasoning.startswith(known_reasoning):
        parts.append(ThinkingPart(reasoning[len(known_reasoning) :]))
    if len(text) > len(known_text) and text.startswith(known_text):
        parts.append(TextPart(text[len(known_text) :]))
    if not parts:
        return recorded
    response = ModelResponse(
        parts=parts,
        model_name=request.model_id.partition(":")[2],
        run_id=str(request.turn_id),
        conversation_id=str(request.thread_id),
        state="interrupted",
    )
    return [*recorded, response]


def _cut(
    messages: Sequence[ModelMessage], text_chars: int, reasoning_chars: int
) -> list[ModelMessage]:
    """The messages with so much text and reasoning at most, counted from the first."""
    left = {"text": text_chars, "thinking": reasoning_chars}
    cut: list[ModelMessage] = []
    for message in messages:
        if message.kind == "request":
            cut.append(message)
            continue
        parts: list[ModelResponsePart] = []
        for part in message.parts:
            if part.part_kind == "text" or part.part_kind == "thinking":
                kept = part.content[: left[part.part_kind]]
                left[part.part_kind] -= len(kept)
                if len(kept) < len(part.content):
                    parts += [replace(part, content=kept)] if kept else []
                    continue
            parts.append(part)
        cut.append(replace(message, parts=parts))
    return cut


def _is_prompt(message: ModelMessage) -> bool:
    """Whether the message only repeats the user's: the thread holds that one already."""
    return message.kind == "request" and not any(
        part.part_kind in {"tool-return", "retry-prompt"} for part in message.parts
    )


def _message(message: ModelMessage) -> EngineMessage:
    from pydantic_ai.messages import ModelMessagesTypeAdapter

    dumped = ModelMessagesTypeAdapter.dump_python([message], mode="json")[0]
    # Only the outermost None: a tool's result may be None and has to stay.
    raw = {k: v for k, v in dumped.items() if v is not None and k not in _PRIVATE}
    if message.kind == "response":
        return EngineMessage("assistant", _said([message], "text"), raw)
    contents = [as_text(part.get("content")) for part in raw["parts"]]
    return EngineMessage("tool", "\n".join(contents), raw)


def _said(messages: Sequence[ModelMessage], kind: str) -> str:
    responses: list[ModelResponse] = [m for m in messages if m.kind == "response"]
    return "".join(
        part.content
        for response in responses
        for part in response.parts
        if part.part_kind in {"text", "thinking"} and part.part_kind == kind
    )


def _count(told: Any) -> int:
    """A provider's number of tokens; 0 for what can be none."""
    return told if isinstance(told, int) and 0 <= told <= _COUNT_MAX else 0
