"""Bodies of automations and their runs.

Specification: the VirtuousAI API's automations; what it leaves open: `docs/automations.md`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field, StringConstraints

from api.limits import MAX_REASON_CHARS
from api.validation import QueryInt
from api.wire import Model, id_text, instant
from shared.automations.config import MAX_STEPS, AutomationConfigInput, StepId
from shared.automations.decision import GateDecision
from shared.automations.status import AutomationStatus, RunStatus, StepStatus
from shared.errors import InvalidRequest
from shared.service.automations import AutomationChange
from shared.service.changes import UNCHANGED
from shared.turn.model import duration_s

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=255)]
Description = Annotated[str, Field(max_length=4000)]


# -- responses


class Crystallized(Model):
    automation_id: str


class StepOrigin(Model):
    """Of a crystallized step: the call it was. Its thread's attachments are what it can read."""

    thread_id: str
    turn_id: str | None
    message_id: str | None
    tool_call_id: str | None


class AutomationStep(Model):
    id: str
    kind: str
    name: str | None
    input: dict[str, Any]
    depends_on: list[str]
    is_deterministic: bool = Field(description="The same input gives the same each time")
    source: StepOrigin | None


class AutomationConfig(Model):
    steps: list[AutomationStep]
    metadata: dict[str, Any] = Field(
        description="nonDeterministicSteps: ids of steps that may give another result each time"
    )


class LatestRun(Model):
    id: str
    status: RunStatus
    started_at: datetime | None
    completed_at: datetime | None
    version_number: int


class VersionsSummary(Model):
    count: int
    active_count: int
    has_draft: bool = Field(description="The newest version is not the active one")


class Automation(Model):
    id: str
    tenant_id: str
    name: str
    description: str | None
    config: AutomationConfig | None = Field(
        description="Of the newest version; null in a list when it is long"
    )
    status: AutomationStatus
    trigger_type: Literal["manual"]
    orchestrator_type: Literal["dag"]
    source_type: Literal["manual", "thread"]
    source_thread_id: str | None
    source_agent_run_id: str | None = Field(description="Always null")
    source_agent_spec_id: str | None
    template_id: str | None = Field(description="Always null")
    version_number: int = Field(description="The newest")
    active_version_number: int | None = Field(description="The one that runs; null: the newest")
    versions_summary: VersionsSummary
    latest_run: LatestRun | None
    created_by: str | None
    updated_by: str | None
    created_at: datetime
    updated_at: datetime


class AutomationList(Model):
    items: list[Automation]
    total: int


class RunError(Model):
    code: Literal["step_failed", "denied", "poison"]
    message: str


class AutomationRun(Model):
    id: str
    automation_id: str
    version_number: int
    trigger_type: Literal["manual"]
    status: RunStatus
    error: RunError | None
    created_by: str = Field(description="In whose name the steps are made")
    started_at: datetime | None
    completed_at: datetime | None
    duration_seconds: float | None
    created_at: datetime
    updated_at: datetime


class AutomationRunList(Model):
    items: list[AutomationRun]
    total: int


class GateDecided(Model):
    approved: bool
    reason: str | None
    decided_by: str | None = Field(description="Null: nobody did in time")
    decided_at: datetime


class RunStep(Model):
    id: str
    kind: str
    name: str | None
    status: StepStatus
    depends_on: list[str]
    is_deterministic: bool
    input: dict[str, Any]
    output: Any
    error: str | None
    decision: GateDecided | None
    expires_at: datetime | None = Field(description="Of a gate: when the clock says no")
    started_at: datetime | None
    completed_at: datetime | None
    duration_seconds: float | None


class AutomationRunDetail(AutomationRun):
    steps: list[RunStep] = Field(description="In the order of execution")


# -- requests


class AutomationListQuery(Model):
    status: AutomationStatus | None = None
    limit: QueryInt = Field(default=100, ge=1, le=1000)
    offset: QueryInt = Field(default=0, ge=0, le=1_000_000_000)


class AutomationRunListQuery(Model):
    status: RunStatus | None = None
    automation_id: UUID | None = None
    limit: QueryInt = Field(default=100, ge=1, le=1000)
    offset: QueryInt = Field(default=0, ge=0, le=1_000_000_000)


class CrystallizeThread(Model):
    name: Name | None = Field(default=None, description="Else the thread's title")


class CreateAutomation(Model):
    name: Name
    description: Description | None = None
    config: AutomationConfigInput
    trigger_type: Literal["manual", "schedule", "webhook"] = Field(
        default="manual",
        description="Others than manual are refused: nothing here would start them",
    )
    orchestrator_type: Literal["dag", "local"] = Field(default="dag", description="dag alone")
    template_id: str | None = Field(default=None, description="There are no templates")

    def check(self) -> None:
        """Raises InvalidRequest for what is documented elsewhere and does not run here."""
        _check_trigger(self.trigger_type)
        if self.orchestrator_type != "dag":
            msg = "Only automations of orchestratorType dag run here"
            raise InvalidRequest(("body", "orchestratorType"), msg)
        if self.template_id is not None:
            raise InvalidRequest(("body", "templateId"), "There are no templates here")


class UpdateAutomation(Model):
    """What is absent stays as it is; `description: null` clears it."""

    name: Name | None = None
    description: Description | None = None
    config: AutomationConfigInput | None = None
    status: AutomationStatus | None = Field(
        default=None, description="active makes the newest version the one that runs"
    )
    trigger_type: Literal["manual", "schedule", "webhook"] | None = None

    def as_change(self) -> AutomationChange:
        """The change that is asked for."""
        _check_trigger(self.trigger_type)
        named = "description" in self.model_fields_set
        return AutomationChange(
            name=UNCHANGED if self.name is None else self.name,
            description=self.description if named else UNCHANGED,
            config=UNCHANGED if self.config is None else self.config,
            status=UNCHANGED if self.status is None else self.status,
        )


class StartRun(Model):
    version_number: int | None = Field(
        default=None, ge=1, le=2**31 - 1, strict=True,
        description="Else the active version, else the newest",
    )  # fmt: skip


class StepDecision(Model):
    step_id: StepId
    approved: bool = Field(strict=True)
    reason: str | None = Field(default=None, max_length=MAX_REASON_CHARS)

    def as_decision(self) -> GateDecision:
        return GateDecision(self.step_id, self.approved, self.reason)


class DecideRun(Model):
    decisions: list[StepDecision] = Field(min_length=1, max_length=MAX_STEPS)


def _check_trigger(trigger_type: str | None) -> None:
    if trigger_type not in (None, "manual"):
        msg = f"Nothing here starts runs by {trigger_type}: triggerType must be manual"
        raise InvalidRequest(("body", "triggerType"), msg)


# -- rendering


def automation_to_dict(row: Any) -> dict[str, Any]:
    """A row of `get_automation` as `Automation` describes it."""
    active = row["active_version"]
    return {
        "id": id_text(row["id"]),
        "tenantId": id_text(row["tenant_id"]),
        "name": row["name"],
        "description": row["description"],
        "config": row["config"],
        "status": row["status"],
        "triggerType": "manual",
        "orchestratorType": "dag",
        "sourceType": row["source_type"],
        "sourceThreadId": id_text(row["source_thread_id"]),
        "sourceAgentRunId": None,
        "sourceAgentSpecId": id_text(row["source_agent_spec_id"]),
        "templateId": None,
        "versionNumber": row["version"],
        "activeVersionNumber": active,
        "versionsSummary": {
            "count": row["version"],
            "activeCount": int(active is not None),
            "hasDraft": active != row["version"],
        },
        "latestRun": _latest_run(row),
        "createdBy": id_text(row["created_by"]),
        "updatedBy": id_text(row["updated_by"]),
        "createdAt": instant(row["created_at"]),
        "updatedAt": instant(row["updated_at"]),
    }


def _latest_run(row: Any) -> dict[str, Any] | None:
    if row["run_id"] is None:
        return None
    return {
        "id": id_text(row["run_id"]),
        "status": row["run_status"],
        "startedAt": instant(row["run_started_at"]),
        "completedAt": instant(row["run_ended_at"]),
        "versionNumber": row["run_version"],
    }


def run_to_dict(row: Any) -> dict[str, Any]:
    """A row of `automation_runs` as `AutomationRun` describes it."""
    code = row["error_code"]
    return {
        "id": id_text(row["id"]),
        "automationId": id_text(row["automation_id"]),
        "versionNumber": row["version"],
        "triggerType": "manual",
        "status": row["status"],
        "error": None if code is None else {"code": code, "message": row["error_message"]},
        "createdBy": id_text(row["user_id"]),
        "startedAt": instant(row["started_at"]),
        "completedAt": instant(row["ended_at"]),
        "durationSeconds": duration_s(row["started_at"], row["ended_at"]),
        "createdAt": instant(row["created_at"]),
        "updatedAt": instant(row["updated_at"]),
    }


def step_to_dict(row: Any) -> dict[str, Any]:
    """A row of `automation_run_steps` as `RunStep` describes it."""
    decision = None
    if row["approved"] is not None:
        decision = {
            "approved": row["approved"],
            "reason": row["reason"],
            "decidedBy": id_text(row["decided_by"]),
            "decidedAt": instant(row["decided_at"]),
        }
    return {
        "id": row["step_id"],
        "kind": row["kind"],
        "name": row["name"],
        "status": row["status"],
        "dependsOn": row["depends_on"],
        "isDeterministic": row["is_deterministic"],
        "input": row["input"],
        "output": row["output"],
        "error": row["error"],
        "decision": decision,
        "expiresAt": instant(row["expires_at"]),
        "startedAt": instant(row["started_at"]),
        "completedAt": instant(row["ended_at"]),
        "durationSeconds": duration_s(row["started_at"], row["ended_at"]),
    }
