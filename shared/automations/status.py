"""How far automations, their runs and the steps of a run are."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class AutomationStatus(StrEnum):
    DRAFT = "draft"
    """Nobody has activated it; its newest version can be tried."""
    ACTIVE = "active"
    """Runs have the version that was the newest when it was activated."""
    PAUSED = "paused"
    """It starts no runs."""


class RunStatus(StrEnum):
    PENDING = "pending"
    """Waits for a worker."""
    RUNNING = "running"
    """A worker runs it. One that is lost leaves it to another, by its lease."""
    AWAITING_APPROVAL = "awaiting_approval"
    """All that is left waits for somebody's decision; no worker is held."""
    COMPLETED = "completed"
    FAILED = "failed"
    """A step failed or was denied; what did not depend on it was run all the same."""
    CANCELLED = "cancelled"


class StepStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    AWAITING_APPROVAL = "awaiting_approval"
    COMPLETED = "completed"
    FAILED = "failed"
    DENIED = "denied"
    """Of an approval gate: somebody, or the clock, said no."""
    SKIPPED = "skipped"
    """Never begun: it depends on a step that gave nothing, or the run was cancelled."""
    CANCELLED = "cancelled"
    """It was under way when the run was cancelled: it may have had its effect."""


BROKEN: Final = frozenset(
    {StepStatus.FAILED, StepStatus.DENIED, StepStatus.SKIPPED, StepStatus.CANCELLED}
)
"""Steps that will never give what others need."""
