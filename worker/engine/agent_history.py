"""History on its way into pydantic-ai: stored JSON to ModelMessages that any provider accepts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
import structlog
from pydantic import ValidationError

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelMessage, ModelRequestPart, ModelResponsePart

log = structlog.get_logger(__name__)


def load_history(raws: list[dict[str, Any]]) -> list[ModelMessage]:
    """The messages that can be read, without tool calls or results that lack their other half.

    A thread must not die of one bad row, nor of a history cut in the middle of a tool call:
    providers answer 400 to either half alone.
    """
    from pydantic_ai.messages import ModelMessagesTypeAdapter

    try:
        messages = ModelMessagesTypeAdapter.validate_json(orjson.dumps(raws))
    except ValidationError:
        messages = [message for raw in raws for message in _load_one(raw)]
    return _without_orphans(messages)


def _load_one(raw: dict[str, Any]) -> list[ModelMessage]:
    from pydantic_ai.messages import ModelMessagesTypeAdapter

    try:
        return ModelMessagesTypeAdapter.validate_json(orjson.dumps([raw]))
    except ValidationError as error:
        log.warning("engine.history_message_dropped", errors=error.error_count())
        return []


def _without_orphans(messages: list[ModelMessage]) -> list[ModelMessage]:
    """Drops each call without a later result, each result without an earlier call, and the empty.

    A call and its result are paired by id and in order, so an id that comes twice does no harm.
    """
    paired = _paired_parts(messages)
    kept: list[ModelMessage] = []
    for message in messages:
        parts = [part for part in message.parts if not _is_tool(part) or id(part) in paired]
        if len(parts) == len(message.parts) and parts:
            kept.append(message)
        elif parts:
            # mypy cannot see that a response keeps response parts, a request request parts.
            kept.append(replace(message, parts=parts))  # type: ignore[arg-type]
    return kept


def _paired_parts(messages: list[ModelMessage]) -> set[int]:
    from pydantic_ai.messages import ToolCallPart

    open_calls: dict[str, int] = {}
    paired: set[int] = set()
    for message in messages:
        for part in message.parts:
            if isinstance(part, ToolCallPart):
                open_calls[part.tool_call_id] = id(part)
            elif _is_tool(part):
                call = open_calls.pop(_tool_call_id(part), None)
                if call is not None:
                    paired |= {call, id(part)}
    return paired


def _is_tool(part: ModelRequestPart | ModelResponsePart) -> bool:
    """Whether the part is one half of a function tool's call and result."""
    return part.part_kind in {"tool-call", "tool-return"} or (
        part.part_kind == "retry-prompt" and part.tool_name is not None
    )


def _tool_call_id(part: ModelRequestPart | ModelResponsePart) -> str:
    return str(getattr(part, "tool_call_id", ""))
