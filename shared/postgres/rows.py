"""Rows of Postgres as values of the domain."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from shared.turn.approval import Approval, Decision, OpenApproval
from shared.turn.events import Usage
from shared.turn.model import ClaimedTurn, NewTurn, Turn
from shared.turn.state import TurnStatus

if TYPE_CHECKING:
    import asyncpg


def turn_from_row(row: asyncpg.Record) -> Turn:
    """A row of `turns` as a `Turn`."""
    return Turn(
        id=row["id"],
        tenant_id=row["tenant_id"],
        user_id=row["user_id"],
        thread_id=row["thread_id"],
        status=TurnStatus(row["status"]),
        attempt=row["attempt"],
        accept_seq=row["accept_seq"],
        input_message_id=row["input_message_id"],
        planned_output_message_id=row["planned_output_message_id"],
        output_message_id=row["output_message_id"],
        model_id=row["model_id"],
        settings=row["settings"],
        concurrency_key=row["concurrency_key"],
        max_running=row["max_running"],
        idempotency_key=row["idempotency_key"],
        usage=None if row["usage"] is None else Usage.model_validate(row["usage"]),
        error=(
            None
            if row["error_code"] is None
            else {"code": row["error_code"], "message": row["error_message"] or ""}
        ),
        worker_id=row["worker_id"],
        last_seq=row["last_seq"],
        cancel_requested_at=row["cancel_requested_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        agent_spec_id=row["agent_spec_id"],
        agent_spec_version=row["agent_spec_version"],
        parked_count=row["parked_count"],
        approvals=tuple(map(_open_approval, row.get("approvals") or ())),
    )


def _open_approval(item: dict[str, Any]) -> OpenApproval:
    return OpenApproval(
        tool_call_id=item["toolCallId"],
        tool_name=item["toolName"],
        args=item["args"],
        asked_at=_utc(item["askedAt"]),
        expires_at=_utc(item["expiresAt"]),
    )


def _utc(text: str) -> datetime:
    """Within JSON Postgres writes times in the session's zone."""
    return datetime.fromisoformat(text).astimezone(UTC)


def approval_from_row(row: asyncpg.Record) -> Approval:
    """A row of `turn_approvals` as an `Approval`."""
    decision = None
    if row["approved"] is not None:
        decision = Decision(row["tool_call_id"], row["approved"], row["reason"])
    return Approval(row["round"], row["tool_call_id"], decision, row["outcome"])


def accepted_turn(new: NewTurn, row: asyncpg.Record) -> Turn:
    """What `accept_turns` has made of `new`."""
    return Turn(
        id=new.id,
        tenant_id=new.principal.tenant_id,
        user_id=new.principal.user_id,
        thread_id=new.thread_id,
        status=TurnStatus.PENDING,
        attempt=0,
        accept_seq=row["accept_seq"],
        input_message_id=new.input_message_id,
        planned_output_message_id=new.planned_output_message_id,
        output_message_id=None,
        model_id=row["model_id"],
        settings=new.settings,
        concurrency_key=new.concurrency_key,
        max_running=row["max_running"],
        idempotency_key=new.idempotency_key if new.client_chose_key else None,
        usage=None,
        error=None,
        worker_id=None,
        last_seq=0,
        cancel_requested_at=None,
        started_at=None,
        ended_at=None,
        created_at=row["created_at"],
        updated_at=row["created_at"],
        agent_spec_id=row["agent_spec_id"],
        agent_spec_version=row["agent_spec_version"],
    )


def claimed_turn_from_row(row: asyncpg.Record) -> ClaimedTurn:
    """A row of `claim_turns` as a `ClaimedTurn`."""
    thread_system_prompt, has_attachments = row["thread"]
    prompts = (thread_system_prompt, row["system_prompt"])
    return ClaimedTurn(
        id=row["id"],
        tenant_id=row["tenant_id"],
        user_id=row["user_id"],
        thread_id=row["thread_id"],
        attempt=row["attempt"],
        accept_seq=row["accept_seq"],
        crash_count=row["crash_count"],
        concurrency_key=row["concurrency_key"],
        max_running=row["max_running"],
        model_id=row["model_id"],
        settings=row["settings"],
        instructions="\n\n".join(filter(None, prompts)) or None,
        prompt=row["prompt"],
        input_message_id=row["input_message_id"],
        has_attachments=has_attachments,
        has_history=row["has_history"],
        output_message_id=row["output_message_id"],
        agent_spec_id=row["agent_spec_id"],
        agent_spec_version=row["agent_spec_version"],
        parked_count=row["parked_count"],
        earlier_usage=(
            None if row["earlier_usage"] is None else Usage.model_validate(row["earlier_usage"])
        ),
    )
