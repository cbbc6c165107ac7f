"""Stored messages as the events that told of them: for attempts that go on, and lost logs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from shared.turn.events import MessageDelta, ReasoningDelta, ToolCall, ToolResult

ToldEvent = MessageDelta | ReasoningDelta | ToolCall | ToolResult


def retell(raws: Iterable[Mapping[str, Any] | None]) -> list[ToldEvent]:
    """One event per part of each pydantic-ai ModelMessage (JSON object); a text is one delta."""
    return [event for raw in raws if raw for event in _tell(raw)]


def _tell(raw: Mapping[str, Any]) -> Iterator[ToldEvent]:
    for part in raw.get("parts", ()):
        match part.get("part_kind"):
            case "text" if part["content"]:
                yield MessageDelta(part["content"])
            case "thinking" if part["content"]:
                yield ReasoningDelta(part["content"])
            case "tool-call":
                yield ToolCall(
                    tool_call_id=part["tool_call_id"],
                    name=part["tool_name"],
                    args=_arguments(part.get("args")),
                )
            case "tool-return":
                yield _result(part)
            case "retry-prompt" if part.get("tool_name"):
                yield ToolResult(tool_call_id=part["tool_call_id"], error=_text(part["content"]))
            case _:
                pass


def _arguments(args: Any) -> dict[str, Any]:
    """Providers send arguments as an object or as its JSON text."""
    if isinstance(args, str):
        try:
            args = orjson.loads(args)
        except orjson.JSONDecodeError:
            return {"INVALID_JSON": args}
    return args if isinstance(args, dict) else {}


def _result(part: Mapping[str, Any]) -> ToolResult:
    call, content = part["tool_call_id"], part.get("content")
    match part.get("outcome", "success"):
        case "success":
            return ToolResult(tool_call_id=call, result=content)
        case "denied":
            return ToolResult(tool_call_id=call, error=_text(content), denied=True)
        case _:
            return ToolResult(tool_call_id=call, error=_text(content))


def _text(content: Any) -> str:
    return content if isinstance(content, str) else orjson.dumps(content).decode()
