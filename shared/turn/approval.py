"""A person's say in tool calls: what is asked, what is decided, and what makes a decision valid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from shared.errors import ApprovalConflict, InvalidRequest

_DECISIONS: Final = ("body", "decisions")


@dataclass(frozen=True, slots=True)
class OpenApproval:
    """A tool call of a parked turn on which nobody has decided."""

    tool_call_id: str
    tool_name: str
    args: dict[str, Any]
    asked_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Decision:
    """What somebody says of one tool call; `reason` is told to the model when it is denied."""

    tool_call_id: str
    approved: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Approval:
    """One asked call as stored. `decision` is None while it is open."""

    round: int
    tool_call_id: str
    decision: Decision | None
    outcome: dict[str, Any] | None = None
    """Of an approved call that has run: `{"result": …}` or `{"error": text}`."""


def find_new_decisions(
    turn_id: str, approvals: Sequence[Approval], decisions: Sequence[Decision]
) -> list[Decision]:
    """What of `decisions` is to be written; nothing when all has been decided just so before.

    Raises:
        InvalidRequest: a call is named twice, is unknown, or an open one is not named.
        ApprovalConflict: a call was decided otherwise, or nothing was ever asked.
    """
    named = _by_call(decisions)
    open_calls = {a.tool_call_id for a in approvals if a.decision is None}
    known = {a.tool_call_id: a.decision for a in approvals if a.decision is not None}
    if not approvals:
        raise ApprovalConflict(turn_id)
    new: list[Decision] = []
    for index, decision in enumerate(decisions):
        call = decision.tool_call_id
        if call in open_calls:
            new.append(decision)
        elif call not in known:
            loc = (*_DECISIONS, index, "toolCallId")
            raise InvalidRequest(loc, "The turn has no such tool call to approve")
        elif known[call] != decision:
            raise ApprovalConflict(turn_id)
    missing = sorted(open_calls - named.keys())
    if missing and (new or not decisions):
        calls = ", ".join(missing)
        raise InvalidRequest(_DECISIONS, f"Decisions are missing for: {calls}", "missing")
    return new


def _by_call(decisions: Sequence[Decision]) -> dict[str, Decision]:
    named: dict[str, Decision] = {}
    for index, decision in enumerate(decisions):
        if decision.tool_call_id in named:
            loc = (*_DECISIONS, index, "toolCallId")
            raise InvalidRequest(loc, "The tool call is named twice")
        named[decision.tool_call_id] = decision
    return named
