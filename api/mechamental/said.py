"""Messages between this surface and the core: what is kept of one, and how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from api.mechamental.schemas import CreateThreadMessage, ThreadPath
from shared.service.shared_threads import NewMessage
from shared.turn.history import estimate_tokens
from shared.turn.tool_parts import calls_in, response_with_calls, result_request, results_in

_KEPT_AS: Final = "mechamental"
"""The member of a message's details that is this surface's."""
_SOURCE_OF: Final = {
    "user": "user_input",
    "assistant": "augmentation",
    "tool": "tool",
    "system": "system",
}
"""Of messages that this surface did not store."""
_KEPT: Final = (
    "source", "execution_id", "augmentation_id", "endpoint_id", "model", "token_count",
    "prompt_tokens", "completion_tokens", "tool_call_id", "tool_calls", "tool_name", "artifacts",
    "metadata", "parent_message_id",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Address:
    """Where a thread's messages are, as they tell it."""

    path: ThreadPath
    app: str | None

    def as_members(self) -> dict[str, Any]:
        return {
            "thread_id": self.path.thread_id,
            "workspace_id": self.path.workspace_id,
            "app_id": self.app,
            "namespace_id": self.path.namespace_id,
        }


def as_new_message(body: CreateThreadMessage) -> NewMessage:
    """What is stored. Tool calls and results also as what a model is shown of them later."""
    raw = None
    if body.role == "assistant" and body.tool_calls:
        raw = response_with_calls(body.content, body.tool_calls)
    elif body.role == "tool":
        raw = result_request(body.content, body.tool_call_id, body.tool_name)
    kept = {name: getattr(body, name) for name in _KEPT}
    if body.token_count is None:
        told = {"role": body.role, "content": body.content, "raw_data": raw}
        kept["token_count"] = estimate_tokens(told)
    return NewMessage(body.role, body.content, raw, {_KEPT_AS: kept})


def kept_of(row: Any) -> dict[str, Any]:
    """What this surface has kept of a message; empty if another one stored it."""
    kept = (row["details"] or {}).get(_KEPT_AS)
    return kept if isinstance(kept, dict) else {}


def message_to_dict(
    row: Any,
    address: Address,
    turn: Any = None,
    artifacts: Sequence[Any] = (),
) -> dict[str, Any]:
    """A ThreadMessage; of a message that a turn made also what the turn tells of it."""
    kept = kept_of(row)
    told = kept if kept else _told_by(row, turn, artifacts)
    return {
        "message_id": str(row["id"]),
        **address.as_members(),
        "role": row["role"],
        "content": row["content"],
        **{name: told.get(name) for name in _KEPT},
        "created_at": iso(row["created_at"]),
    }


def iso(at: datetime) -> str:
    """UTC with microseconds and `Z`: a `+` would not survive a query string."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _told_by(
    row: Any,
    turn: Any,
    artifacts: Sequence[Any],
) -> dict[str, Any]:
    role, raw = row["role"], row["raw_data"]
    results = results_in(raw) if role == "tool" else []
    call_id, name, _ = results[0] if results else (None, None, "")
    told: dict[str, Any] = {
        "source": _SOURCE_OF[role],
        "execution_id": None if row["turn_id"] is None else str(row["turn_id"]),
        "token_count": estimate_tokens(row),
        "tool_call_id": call_id,
        "tool_name": name,
        "tool_calls": calls_in(raw) if role == "assistant" else [],
        "artifacts": [_artifact(artifact) for artifact in artifacts],
        "metadata": {},
    }
    if turn is not None and role == "assistant":
        told["model"] = turn["model_id"]
        usage = turn["usage"] if turn["output_message_id"] == row["id"] else None
        if usage is not None:  # sums over the turn stand on its answer
            told["prompt_tokens"] = usage.get("inputTokens")
            told["completion_tokens"] = usage.get("outputTokens")
    return told


def _artifact(row: Any) -> dict[str, Any]:
    return {
        "artifact_id": str(row["artifact_id"]),
        "mime_type": row["mime_type"],
        "filename": row["file_name"],
        "size_bytes": row["size_bytes"],
    }
