"""Tool calls as callers write them, and the parts that models are shown."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic_ai.messages import ModelMessagesTypeAdapter, ToolCallPart, ToolReturnPart

from shared.turn.tool_parts import calls_in, response_with_calls, result_request, results_in


def call(**changes: Any) -> dict[str, Any]:
    function = {"name": "f", "arguments": '{"a": 1}'}
    return {"id": "c1", "type": "function", "function": function} | changes


def parts_of(raw: Any) -> list[Any]:
    (message,) = ModelMessagesTypeAdapter.validate_python([raw])
    return list(message.parts)


@pytest.mark.parametrize(
    "written",
    [
        call(),
        call(function={"name": "f", "arguments": {"a": 1}}),
        {"id": "c1", "name": "f", "arguments": {"a": 1}},
        {"tool_call_id": "c1", "name": "f", "args": {"a": 1}},
        {"id": "c1", "type": "tool_use", "name": "f", "input": {"a": 1}},
    ],
)
def test_ways_to_write_a_call(written: dict[str, Any]) -> None:
    (part,) = parts_of(response_with_calls("", [written]))
    assert isinstance(part, ToolCallPart)
    assert (part.tool_name, part.args, part.tool_call_id) == ("f", {"a": 1}, "c1")


@pytest.mark.parametrize(
    "written",
    [
        {},
        call(id=None),
        call(id=7),
        call(id="c 1"),
        call(id="c" * 41),
        call(function=None),
        call(function={"name": "two words"}),
        call(function={"name": "f", "arguments": "no JSON"}),
        call(function={"name": "f", "arguments": "[1]"}),
        call(function={"name": "f", "arguments": "[" * 900 + "]" * 900}),
        call(function={"name": "f", "arguments": '{"a":' * 600 + "1" + "}" * 600}),
        call(function={"name": "f", "arguments": None}),
    ],
)
def test_what_no_provider_would_take_is_no_call(written: dict[str, Any]) -> None:
    assert response_with_calls("x", [written]) is None
    assert len(parts_of(response_with_calls("", [written, call()]))) == 1


def test_what_postgres_cannot_hold_is_replaced() -> None:
    written = call(function={"name": "f", "arguments": '{"a": "\\u0000"}'})
    raw = response_with_calls("", [written])
    (part,) = parts_of(raw)
    assert "\0" not in str(part.args)


def test_a_result_has_a_call_it_answers() -> None:
    (part,) = parts_of(result_request("2", "c1", "f"))
    assert isinstance(part, ToolReturnPart)
    assert (part.tool_name, part.content, part.tool_call_id) == ("f", "2", "c1")
    assert result_request("2", None, "f") is None
    assert result_request("2", "c 1", "f") is None
    assert parts_of(result_request("2", "c1", "no name"))[0].tool_name == "tool"


def test_what_was_stored_is_told_as_it_was_written() -> None:
    assert calls_in(response_with_calls("hm", [call()])) == [
        call(function={"name": "f", "arguments": '{"a":1}'})
    ]
    assert results_in(result_request("2", "c1", "f")) == [("c1", "f", "2")]
    assert calls_in(None) == []
    assert results_in(None) == []
    assert results_in({"parts": [{"part_kind": "retry-prompt", "content": "x"}]}) == []
