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
    """Drops each call without its result, each result without its call, and the empty.

    A result follows its call with nothing but other results between them, as providers want it,
    and bears the name of what was called. They are paired by id and in order, so an id that comes
    twice does no harm.
    """
    names = _names_of_paired_parts(messages)
    kept: list[ModelMessage] = []
    for message in messages:
        parts = [
            _named(part, names.get(id(part)))
            for part in message.parts
            if not _is_tool(part) or id(part) in names
        ]
        if not parts:
            continue
        if list(map(id, parts)) == list(map(id, message.parts)):
            kept.append(message)
        else:
            # mypy cannot see that a response keeps response parts, a request request parts.
            kept.append(replace(message, parts=parts))  # type: ignore[arg-type]
    return kept


def _names_of_paired_parts(messages: list[ModelMessage]) -> dict[int, str]:
    """The tools that were called, by the identity of the parts that call and that answer."""
    from pydantic_ai.messages import ToolCallPart

    open_calls: dict[str, ToolCallPart] = {}
    names: dict[int, str] = {}
    for message in messages:
        if message.kind == "response":
            open_calls = {}
        for part in message.parts:
            if isinstance(part, ToolCallPart):
                open_calls[part.tool_call_id] = part
            elif _is_tool(part):
                call = open_calls.pop(_tool_call_id(part), None)
                if call is not None:
                    names |= {id(call): call.tool_name, id(part): call.tool_name}
        if message.kind == "request" and not all(map(_is_tool, message.parts)):
            open_calls = {}
    return names


def _named(
    part: ModelRequestPart | ModelResponsePart, name: str | None
) -> ModelRequestPart | ModelResponsePart:
    if name is None or getattr(part, "tool_name", None) == name:
        return part
    return replace(part, tool_name=name)  # type: ignore[arg-type]  # what is paired has a name


def _is_tool(part: ModelRequestPart | ModelResponsePart) -> bool:
    """Whether the part is one half of a function tool's call and result."""
    return part.part_kind in {"tool-call", "tool-return"} or (
        part.part_kind == "retry-prompt" and part.tool_name is not None
    )


def _tool_call_id(part: ModelRequestPart | ModelResponsePart) -> str:
    return str(getattr(part, "tool_call_id", ""))
