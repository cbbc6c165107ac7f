"""Asks a person for leave. The call itself does nothing: that it came back is the answer."""

from __future__ import annotations

from pydantic import Field, JsonValue

from shared.agents.tool_names import APPROVAL
from worker.tools.base import Arguments, Tool, ToolContext


class ApprovalArguments(Arguments):
    reason: str = Field(min_length=1, max_length=1000, description="What is to be allowed, and why")


class Approval(Tool[ApprovalArguments]):
    """Runs only after somebody has allowed it; a refusal reaches the model as the call's denial."""

    name = APPROVAL
    description = "Asks the user to allow what you are about to do. Use it before risky steps."
    parameters = ApprovalArguments
    is_deterministic = True
    requires_approval = True

    async def run(self, context: ToolContext, arguments: ApprovalArguments) -> JsonValue:
        return {"approved": True}
