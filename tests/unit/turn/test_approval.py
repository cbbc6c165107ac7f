"""Which decisions are news, which are the same again, and which are refused."""

from __future__ import annotations

import pytest

from shared.errors import ApprovalConflict, InvalidRequest
from shared.turn.approval import Approval, Decision, find_new_decisions
from shared.turn.events import MessageDelta, ReasoningDelta, ToolCall, ToolResult, Usage
from shared.turn.retell import retell

YES, NO = Decision("a", True), Decision("a", False, "no")
OPEN = [Approval(2, "b", None), Approval(2, "c", None)]
DECIDED = [Approval(1, "a", YES)]
ALL = [Decision("b", True), Decision("c", False)]


def test_all_open_calls_are_decided_at_once() -> None:
    assert find_new_decisions("t", [*DECIDED, *OPEN], ALL) == ALL
    assert find_new_decisions("t", [*DECIDED, *OPEN], [YES, *ALL]) == ALL, "one is old"


def test_the_same_again_is_nothing_new() -> None:
    assert find_new_decisions("t", DECIDED, [YES]) == []
    assert find_new_decisions("t", [*DECIDED, *OPEN], [YES]) == [], "of an earlier round"


@pytest.mark.parametrize(
    ("decisions", "told"),
    [
        ([], "b, c"),
        (ALL[:1], "c"),
        ([YES, *ALL[:1]], "c"),
        ([*ALL, Decision("x", True)], "no such"),
        ([*ALL, *ALL], "twice"),
    ],
)
def test_what_is_not_whole_is_refused(decisions: list[Decision], told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        find_new_decisions("t", [*DECIDED, *OPEN], decisions)


@pytest.mark.parametrize("approvals", [[], DECIDED])
def test_a_conflict_is_told(approvals: list[Approval]) -> None:
    with pytest.raises(ApprovalConflict):
        find_new_decisions("t", approvals, [NO])


def test_messages_are_told_as_they_were() -> None:
    call = {"part_kind": "tool-call", "tool_call_id": "c", "tool_name": "pay"}
    back = {"part_kind": "tool-return", "tool_call_id": "c", "tool_name": "pay"}
    raws = [
        {
            "parts": [
                {"part_kind": "thinking", "content": "hm"},
                {"part_kind": "text", "content": ""},
            ]
        },
        {"parts": [{"part_kind": "text", "content": "Let me."}, call | {"args": '{"x":1}'}]},
        None,
        {"parts": [back | {"content": {"y": 2}}]},
        {"parts": [back | {"content": "no", "outcome": "denied"}]},
        {"parts": [back | {"content": "broken", "outcome": "failed"}]},
        {"parts": [call | {"args": "{"}, {"part_kind": "file", "content": "?"}]},
        {"parts": [{**back, "part_kind": "retry-prompt", "content": ["again"]}]},
    ]
    assert retell(raws) == [
        ReasoningDelta("hm"),
        MessageDelta("Let me."),
        ToolCall(tool_call_id="c", name="pay", args={"x": 1}),
        ToolResult(tool_call_id="c", result={"y": 2}),
        ToolResult(tool_call_id="c", error="no", denied=True),
        ToolResult(tool_call_id="c", error="broken"),
        ToolCall(tool_call_id="c", name="pay", args={"INVALID_JSON": "{"}),
        ToolResult(tool_call_id="c", error='["again"]'),
    ]


def test_usage_of_attempts_adds_up() -> None:
    first = Usage(input_tokens=1, output_tokens=2, cached_input_tokens=3, total_cost="0.10")
    second = Usage(input_tokens=10, output_tokens=20, total_cost="0.05")
    assert first + second == Usage(
        input_tokens=11, output_tokens=22, cached_input_tokens=3, total_cost="0.15"
    )
    assert first + None == first
    assert (first + Usage()).total_cost == "0.10", "what is known of it"
    assert (Usage() + Usage()).total_cost is None
