"""What comes next in a run: in order, never behind what broke, gates when nothing else is left."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from shared.automations.config import APPROVAL_GATE
from shared.automations.progress import (
    StepState,
    gates_to_open,
    next_call,
    skip_blocked,
    status_of,
)
from shared.automations.status import RunStatus, StepStatus


def state(
    id_: str, *depends_on: str, status: str = "pending", kind: str = "calculator"
) -> StepState:
    return StepState(0, id_, kind, {}, frozenset(depends_on), None, StepStatus(status))


def ids(steps: Sequence[StepState]) -> list[str]:
    return [step.id for step in steps]


def test_a_chain_is_made_in_order() -> None:
    steps = [state("a"), state("b", "a"), state("c", "b")]
    made = []
    while (step := next_call(steps)) is not None:
        made.append(step.id)
        step.status = StepStatus.COMPLETED
    assert made == ["a", "b", "c"]
    assert status_of(steps) is RunStatus.COMPLETED


def test_what_a_lost_worker_had_begun_is_made_again() -> None:
    steps = [state("a", status="completed"), state("b", "a", status="running"), state("c", "b")]
    step = next_call(steps)
    assert step is not None
    assert step.id == "b"


def test_a_failed_step_skips_what_depends_on_it_and_nothing_else() -> None:
    steps = [state("a", status="failed"), state("b", "a"), state("c", "b"), state("d")]
    assert ids(skip_blocked(steps)) == ["b", "c"]
    step = next_call(steps)
    assert step is not None
    assert step.id == "d"
    step.status = StepStatus.COMPLETED
    assert next_call(steps) is None
    assert status_of(steps) is RunStatus.FAILED


def test_a_gate_waits_for_what_goes_before_and_holds_back_what_follows() -> None:
    steps = [state("a"), state("g", "a", kind=APPROVAL_GATE), state("b", "g"), state("c")]
    assert gates_to_open(steps) == []
    for name in ("a", "c"):
        step = next_call(steps)
        assert step is not None
        assert step.id == name
        step.status = StepStatus.COMPLETED
    assert next_call(steps) is None
    (gate,) = gates_to_open(steps)
    gate.status = StepStatus.AWAITING_APPROVAL
    assert gates_to_open(steps) == []
    assert status_of(steps) is RunStatus.AWAITING_APPROVAL


def test_a_denied_gate_fails_the_run_and_skips_what_stood_behind_it() -> None:
    steps = [state("g", kind=APPROVAL_GATE, status="denied"), state("b", "g")]
    assert ids(skip_blocked(steps)) == ["b"]
    assert status_of(steps) is RunStatus.FAILED


@given(st.data())
def test_every_run_comes_to_an_end(data: st.DataObject) -> None:
    """Whatever fails, and whoever decides how: no step is made twice, none is forgotten."""
    count = data.draw(st.integers(1, 10))
    steps = [
        state(
            str(n),
            *map(str, data.draw(st.sets(st.integers(0, n - 1))) if n else ()),
            kind=data.draw(st.sampled_from(["calculator", APPROVAL_GATE])),
        )
        for n in range(count)
    ]
    made: list[str] = []
    while True:
        skip_blocked(steps)
        step = next_call(steps)
        gates = gates_to_open(steps)
        if step is None and not gates:
            break
        for one in gates if step is None else [step]:
            made.append(one.id)
            ends = ["completed", "failed" if step else "denied"]
            one.status = StepStatus(data.draw(st.sampled_from(ends)))
    assert len(made) == len(set(made))
    over = {"completed", "failed", "denied", "skipped"}
    assert {step.status for step in steps} <= over
    is_well = all(step.status == "completed" for step in steps)
    assert status_of(steps) is (RunStatus.COMPLETED if is_well else RunStatus.FAILED)
