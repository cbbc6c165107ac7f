"""A person's say in the approval gates of a run, and what makes it valid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shared.automations.config import APPROVAL_GATE
from shared.automations.status import StepStatus
from shared.errors import AutomationConflict, InvalidRequest


@dataclass(frozen=True, slots=True)
class GateDecision:
    step_id: str
    approved: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class StoredStep:
    """What there is to know of a step on which somebody wants to decide."""

    kind: str
    status: StepStatus
    decision: GateDecision | None
    is_by_clock: bool = False


def find_new_decisions(
    steps: Mapping[str, StoredStep], decisions: Sequence[GateDecision]
) -> list[GateDecision]:
    """What of `decisions` is to be written; what was decided just so before is left out.

    Raises:
        InvalidRequest: a step is named twice, or is no gate of this run.
        AutomationConflict: a gate was decided otherwise, or nobody is asked about it.
    """
    new: list[GateDecision] = []
    named: set[str] = set()
    for index, decision in enumerate(decisions):
        loc = ("body", "decisions", index, "stepId")
        step = steps.get(decision.step_id)
        if decision.step_id in named:
            raise InvalidRequest(loc, "The step is named twice")
        named.add(decision.step_id)
        if step is None or step.kind != APPROVAL_GATE:
            raise InvalidRequest(loc, "The run has no such approval gate")
        if step.status is StepStatus.AWAITING_APPROVAL:
            new.append(decision)
        elif step.is_by_clock or step.decision != decision:
            raise AutomationConflict("The run's gates are not open to these decisions")
    return new
