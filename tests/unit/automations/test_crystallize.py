"""A thread's tool calls as steps, and decisions on gates."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from shared.automations.config import APPROVAL_GATE, MAX_STEPS, in_order
from shared.automations.crystallize import Said, crystallize, find_actions
from shared.automations.decision import GateDecision, StoredStep, find_new_decisions
from shared.automations.status import StepStatus
from shared.errors import AutomationConflict, InvalidRequest, NotCrystallizable

THREAD, TURN, OTHER, MESSAGE = (UUID(int=number) for number in range(1, 5))


def call(call_id: str, tool: str = "calculator", args: Any = None) -> dict[str, Any]:
    return {"part_kind": "tool-call", "tool_name": tool, "tool_call_id": call_id, "args": args}


def calls(*parts: dict[str, Any], turn: UUID = TURN, approved: tuple[str, ...] = ()) -> Said:
    return Said(turn, MESSAGE, parts, (), approved)


def results(*succeeded: str, turn: UUID = TURN) -> Said:
    return Said(turn, MESSAGE, (), succeeded, ())


def steps_of(*said: Said) -> list[dict[str, Any]]:
    return list(crystallize(THREAD, find_actions(said))["steps"])


def test_each_call_that_succeeded_is_a_step_behind_the_one_before() -> None:
    steps = steps_of(
        calls(call("1", args={"expression": "1"}), call("2", "current_time"), call("3")),
        results("3", "1"),  # results come in any order, the steps in that of the calls
        calls(call("4", "search", '{"q": [1]}')),
        results("4"),
    )
    assert [(s["id"], s["kind"], s["input"], s["dependsOn"]) for s in steps] == [
        ("step_1", "calculator", {"expression": "1"}, []),
        ("step_2", "calculator", {}, ["step_1"]),
        ("step_3", "search", {"q": [1]}, ["step_2"]),
    ]
    assert steps[0]["source"] == {
        "threadId": str(THREAD), "turnId": str(TURN), "messageId": str(MESSAGE), "toolCallId": "1",
    }  # fmt: skip


def test_an_approved_call_stands_behind_a_gate() -> None:
    config = crystallize(
        THREAD,
        find_actions(
            [
                calls(call("1"), call("2", "pay", {"euros": 5}), approved=("2",)),
                results("1", "2"),
                calls(call("3", "approval", {"reason": "go on?"}), approved=("3",)),
                results("3"),
            ]
        ),
    )
    assert [(s["id"], s["kind"], s["dependsOn"]) for s in in_order(config)] == [
        ("step_1", "calculator", []),
        ("gate_2", APPROVAL_GATE, ["step_1"]),
        ("step_2", "pay", ["gate_2"]),
        ("gate_3", APPROVAL_GATE, ["step_2"]),
    ]
    assert config["steps"][1]["input"] == {"toolName": "pay", "args": {"euros": 5}}
    assert config["steps"][3]["input"] == {"reason": "go on?"}
    assert config["metadata"]["nonDeterministicSteps"] == ["step_2"]


def test_ids_of_calls_belong_to_their_turn() -> None:
    said = [calls(call("1", "a")), results("1"), calls(call("1", "b"), turn=OTHER)]
    assert [s["kind"] for s in steps_of(*said)] == ["a"]
    said.append(results("1", turn=OTHER))
    assert [s["kind"] for s in steps_of(*said)] == ["a", "b"]


@pytest.mark.parametrize("args", ["", None, {}, "{}"])
def test_a_call_may_have_no_arguments(args: Any) -> None:
    assert steps_of(calls(call("1", args=args)), results("1"))[0]["input"] == {}


@pytest.mark.parametrize("args", ["{", "[1]", 1])
def test_a_call_whose_arguments_are_none_is_left_out(args: Any) -> None:
    with pytest.raises(NotCrystallizable, match="no completed actions"):
        steps_of(calls(call("1", args=args)), results("1"))


def test_a_thread_that_did_nothing_or_too_much_is_none() -> None:
    with pytest.raises(NotCrystallizable, match="no completed actions"):
        steps_of(calls(call("1")))
    ids = [str(number) for number in range(MAX_STEPS + 1)]
    with pytest.raises(NotCrystallizable, match="more than 200 steps"):
        steps_of(calls(*map(call, ids)), results(*ids))
    with pytest.raises(NotCrystallizable, match="bytes"):
        steps_of(calls(call("1", args={"x": "x" * 300_000})), results("1"))
    assert len(steps_of(calls(*map(call, ids[1:])), results(*ids))) == MAX_STEPS


# -- decisions


def gate(status: str, approved: bool | None = None, *, by_clock: bool = False) -> StoredStep:
    decision = None if approved is None else GateDecision("g", approved)
    return StoredStep(APPROVAL_GATE, StepStatus(status), decision, by_clock)


YES, NO = GateDecision("g", approved=True), GateDecision("g", approved=False)


def test_an_open_gate_takes_a_decision_and_a_decided_one_the_same_again() -> None:
    assert find_new_decisions({"g": gate("awaiting_approval")}, [NO]) == [NO]
    assert find_new_decisions({"g": gate("completed", True)}, [YES]) == []


@pytest.mark.parametrize(
    "known",
    [
        gate("completed", True), gate("denied", False, by_clock=True), gate("pending"),
        gate("skipped"),
    ],
)  # fmt: skip
def test_other_gates_are_a_conflict(known: StoredStep) -> None:
    with pytest.raises(AutomationConflict):
        find_new_decisions({"g": known}, [NO])


def test_a_decision_names_a_gate_once() -> None:
    step = StoredStep("calculator", StepStatus.COMPLETED, None)
    for steps, decisions in (
        ({}, [YES]), ({"g": step}, [YES]), ({"g": gate("awaiting_approval")}, [YES, YES]),
    ):  # fmt: skip
        with pytest.raises(InvalidRequest) as refused:
            find_new_decisions(steps, decisions)
        assert refused.value.loc == ("body", "decisions", len(decisions) - 1, "stepId")
