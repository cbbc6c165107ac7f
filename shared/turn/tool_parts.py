"""Tool calls and results between what callers write and pydantic-ai's parts.

Callers write calls as the OpenAI chat API does, `{"id", "type": "function", "function": {"name",
"arguments"}}`, or flat, `{"id", "name", "arguments"}`. What no provider would take is text to us.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from shared.turn.text import is_deep, storable_json

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CALL_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")
"""The narrowest that providers take."""
_UNNAMED: Final = "tool"


def response_with_calls(text: str, calls: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """A ModelResponse with those of the calls that a provider would take; None: there are none."""
    parts = [part for call in calls if (part := _call_part(call)) is not None]
    if not parts:
        return None
    said = [{"part_kind": "text", "content": text}] if text.strip() else []
    return {"kind": "response", "parts": [*said, *parts], "timestamp": _now()}


def result_request(text: str, call_id: str | None, name: str | None) -> dict[str, Any] | None:
    """A ModelRequest with the result of a call; None: a provider would take it as nobody's."""
    if call_id is None or not _CALL_ID.fullmatch(call_id):
        return None
    part = {
        "part_kind": "tool-return",
        "tool_name": name if name and _NAME.fullmatch(name) else _UNNAMED,
        "content": text,
        "tool_call_id": call_id,
        "timestamp": _now(),
    }
    return {"kind": "request", "parts": [part]}


def calls_in(raw: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The calls of a stored message, as the OpenAI chat API writes them."""
    return [
        {
            "id": part.get("tool_call_id"),
            "type": "function",
            "function": {
                "name": part.get("tool_name"),
                "arguments": _arguments_text(part.get("args")),
            },
        }
        for part in _parts(raw, "tool-call")
    ]


def results_in(raw: Mapping[str, Any] | None) -> list[tuple[str | None, str | None, str]]:
    """The results in a stored message: id of the call, name of the tool, text."""
    return [
        (part.get("tool_call_id"), part.get("tool_name"), _text(part.get("content")))
        for part in _parts(raw, "tool-return", "retry-prompt")
        if part.get("tool_name")
    ]


def call_id_of(call: Mapping[str, Any]) -> str | None:
    """The id of a call as a caller has written it."""
    found = call.get("id") or call.get("tool_call_id")
    return found if isinstance(found, str) else None


def _call_part(call: Mapping[str, Any]) -> dict[str, Any] | None:
    function = call.get("function")
    told: Mapping[str, Any] = function if isinstance(function, dict) else call
    call_id, name = call_id_of(call), told.get("name")
    args: Any = next((told[key] for key in ("arguments", "args", "input") if key in told), {})
    if isinstance(args, str):
        try:
            args = orjson.loads(args or "{}")
        except orjson.JSONDecodeError:
            return None
        if is_deep(args):
            return None
        args = storable_json(args)
    is_sound = isinstance(args, dict) and isinstance(name, str) and _NAME.fullmatch(name)
    if not is_sound or call_id is None or not _CALL_ID.fullmatch(call_id):
        return None
    return {"part_kind": "tool-call", "tool_name": name, "args": args, "tool_call_id": call_id}


def _parts(raw: Mapping[str, Any] | None, *kinds: str) -> Iterator[Mapping[str, Any]]:
    for part in (raw or {}).get("parts", ()):
        if part.get("part_kind") in kinds:
            yield part


def _arguments_text(args: Any) -> str:
    return args if isinstance(args, str) else orjson.dumps(args or {}).decode()


def _text(content: Any) -> str:
    return content if isinstance(content, str) else orjson.dumps(content).decode()


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
