"""What comes next in a run, from how far its steps are. Steps come in the order of execution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.automations.config import APPROVAL_GATE
from shared.automations.status import BROKEN, RunStatus, StepStatus


@dataclass(slots=True)
class StepState:
    """A step of a run. `input` as it was frozen."""

    place: int
    id: str
    kind: str
    input: dict[str, Any]
    depends_on: frozenset[str]
    source: dict[str, Any] | None
    status: StepStatus
    output_bytes: int = 0
    is_expired: bool = False
    """Of an open gate: the time to decide is over."""


def skip_blocked(steps: Sequence[StepState]) -> list[StepState]:
    """Marks what can never be run any more as skipped; returns those steps."""
    broken = {step.id for step in steps if step.status in BROKEN}
    skipped = []
    for step in steps:
        if step.status is StepStatus.PENDING and step.depends_on & broken:
            step.status = StepStatus.SKIPPED
            broken.add(step.id)
            skipped.append(step)
    return skipped


def find_ready(steps: Sequence[StepState]) -> list[StepState]:
    """Steps that could be begun now: all that they depend on is completed.

    One that was begun and not finished, by a worker that was lost, is among them.
    """
    completed = {step.id for step in steps if step.status is StepStatus.COMPLETED}
    begun = {StepStatus.PENDING, StepStatus.RUNNING}
    return [step for step in steps if step.status in begun and step.depends_on <= completed]


def next_call(steps: Sequence[StepState]) -> StepState | None:
    """The next step that a worker can make by itself."""
    return next((step for step in find_ready(steps) if step.kind != APPROVAL_GATE), None)


def gates_to_open(steps: Sequence[StepState]) -> list[StepState]:
    """Gates that somebody can be asked about now, and was not."""
    return [step for step in find_ready(steps) if step.kind == APPROVAL_GATE]


def status_of(steps: Sequence[StepState]) -> RunStatus:
    """What a run is in which no call is left to make."""
    statuses = {step.status for step in steps}
    if StepStatus.AWAITING_APPROVAL in statuses:
        return RunStatus.AWAITING_APPROVAL
    return RunStatus.FAILED if statuses & BROKEN else RunStatus.COMPLETED
