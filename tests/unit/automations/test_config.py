"""Which automations are valid, and in which order their steps are made."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.agents.tool_names import TOOL_NAMES
from shared.automations.config import (
    APPROVAL_GATE,
    MAX_CONFIG_BYTES,
    MAX_STEPS,
    AutomationConfigInput,
    in_order,
    is_deterministic,
    normalize,
    order_steps,
)
from shared.errors import InvalidRequest
from shared.service.automations import runnable_kinds
from worker.tools.registry import TOOLS

KINDS = runnable_kinds(frozenset(TOOL_NAMES))


def step(id_: str, *depends_on: str, kind: str = "calculator", **more: Any) -> dict[str, Any]:
    return {"id": id_, "kind": kind, "dependsOn": list(depends_on), **more}


def parse(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    return normalize(AutomationConfigInput.model_validate({"steps": list(steps), **more}), KINDS)


def refusal(*steps: dict[str, Any], **more: Any) -> tuple[tuple[str | int, ...], str]:
    with pytest.raises(InvalidRequest) as refused:
        parse(*steps, **more)
    return refused.value.loc[2:], refused.value.type


def test_steps_stand_behind_what_they_depend_on_and_else_as_written() -> None:
    config = parse(step("d", "b", "c"), step("a"), step("c", "a"), step("b", "a"))
    assert [one["id"] for one in in_order(config)] == ["a", "c", "b", "d"]


def test_what_is_stored_has_every_member_and_our_flags() -> None:
    stored = parse(
        step("a", isDeterministic=False, input={"expression": "1"}),
        step("b", "a", kind="current_time", isDeterministic=True),
        step("c", "b", kind=APPROVAL_GATE),
        metadata={"mine": 1, "nonDeterministicSteps": ["a"]},
    )
    assert stored["metadata"] == {"mine": 1, "nonDeterministicSteps": ["b"]}
    assert [one["isDeterministic"] for one in stored["steps"]] == [True, False, True]
    assert stored["steps"][0] == {
        "id": "a", "kind": "calculator", "name": None, "input": {"expression": "1"},
        "dependsOn": [], "isDeterministic": True, "source": None,
    }  # fmt: skip
    again = AutomationConfigInput.model_validate(stored)
    assert normalize(again, KINDS) == stored, "what was read can be written back"


@pytest.mark.parametrize(
    ("steps", "loc", "kind"),
    [
        ([step("a"), step("a")], ("steps", 1, "id"), "duplicate_step"),
        ([step("a", "x")], ("steps", 0, "dependsOn", 0), "unknown_step"),
        ([step("a", "a")], ("steps", 0, "dependsOn"), "circular_steps"),
        ([step("a"), step("b", "a", "a")], ("steps", 1, "dependsOn", 1), "duplicate_step"),
        (
            [step("z"), step("a", "c"), step("b", "a"), step("c", "b")],
            ("steps", 1, "dependsOn"),
            "circular_steps",
        ),
        ([step("a", kind="rm")], ("steps", 0, "kind"), "unknown_kind"),
        ([step("a", kind="approval")], ("steps", 0, "kind"), "unknown_kind"),
    ],
)
def test_what_cannot_be_run_is_refused_where_it_stands(
    steps: list[dict[str, Any]], loc: tuple[Any, ...], kind: str
) -> None:
    assert refusal(*steps) == (loc, kind)


def test_a_config_is_bounded() -> None:
    long = "x" * (MAX_CONFIG_BYTES // 2)
    assert refusal(step("a", input={"a": long, "b": long})) == ((), "too_long")
    many = [step(f"s{number}") for number in range(MAX_STEPS + 1)]
    for steps in (many, []):
        with pytest.raises(ValidationError):
            parse(*steps)


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "a b"}, {"id": ""}, {"id": "x" * 65}, {"dependson": []}, {"input": []},
        {"input": None}, {"source": {"threadId": "x"}}, {"source": {}}, {"kind": "x" * 65},
    ],
)  # fmt: skip
def test_a_step_has_its_members_and_no_others(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        parse(step("a") | wrong)


def test_a_deployment_that_switched_a_tool_off_runs_no_steps_of_it() -> None:
    kinds = runnable_kinds(frozenset(TOOL_NAMES) - {"http_request"})
    config = AutomationConfigInput.model_validate({"steps": [step("a", kind="http_request")]})
    with pytest.raises(InvalidRequest, match="no steps of this kind"):
        normalize(config, kinds)


def test_our_flags_are_those_of_the_tools() -> None:
    assert {name: is_deterministic(name) for name in TOOLS} == {
        name: tool.is_deterministic for name, tool in TOOLS.items()
    }


@st.composite
def graphs(draw: st.DrawFn) -> list[tuple[str, list[str]]]:
    """Steps without a circle, in any order."""
    count = draw(st.integers(1, 12))
    steps = [
        (str(number), [str(n) for n in draw(st.sets(st.integers(0, number - 1)))] if number else [])
        for number in range(count)
    ]
    return draw(st.permutations(steps))


@given(graphs())
def test_every_graph_without_a_circle_has_an_order(steps: list[tuple[str, list[str]]]) -> None:
    order = order_steps(steps)
    assert sorted(order) == list(range(len(steps)))
    done: set[str] = set()
    for index in order:
        name, depends_on = steps[index]
        assert done >= set(depends_on)
        done.add(name)
