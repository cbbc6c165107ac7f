"""THE state machine of a turn. Nothing else lists statuses: terminal sets and SQL guards derive.

A turn is written down as `pending`. A worker's claim makes it `running`; it ends in exactly one
terminal status, which is written once. Cancel is a request (`cancel_requested_at`), not a status.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import Final


class TurnStatus(StrEnum):
    """What a turn is doing. The labels are also the Postgres enum `turn_status`."""

    PENDING = "pending"
    """Written down, waiting for its place on its concurrency key and for a free worker."""
    RUNNING = "running"
    """One worker holds a lease on it under the current attempt."""
    AWAITING_APPROVAL = "awaiting_approval"
    """Parked without a worker until a person decides on its tool calls."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    """Never started within its queue time."""


class Transition(StrEnum):
    """Why a status changes."""

    CLAIM = "claim"
    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"
    EXPIRE = "expire"
    PARK = "park"
    RESUME = "resume"
    HAND_BACK = "hand_back"
    """Its worker returns the turn as it leaves, or because it never learned of its claim.

    Costs nothing of the crash budget.
    """
    LOSE_WORKER = "lose_worker"
    """The lease lapsed or the worker's process is gone."""


_S, _T = TurnStatus, Transition

TRANSITIONS: Final = MappingProxyType(
    {
        (_S.PENDING, _T.CLAIM): _S.RUNNING,
        (_S.PENDING, _T.CANCEL): _S.CANCELLED,
        (_S.PENDING, _T.EXPIRE): _S.EXPIRED,
        (_S.PENDING, _T.FAIL): _S.FAILED,
        (_S.RUNNING, _T.COMPLETE): _S.COMPLETED,
        (_S.RUNNING, _T.FAIL): _S.FAILED,
        (_S.RUNNING, _T.CANCEL): _S.CANCELLED,
        (_S.RUNNING, _T.PARK): _S.AWAITING_APPROVAL,
        (_S.RUNNING, _T.HAND_BACK): _S.PENDING,
        (_S.RUNNING, _T.LOSE_WORKER): _S.PENDING,
        (_S.AWAITING_APPROVAL, _T.RESUME): _S.PENDING,
        (_S.AWAITING_APPROVAL, _T.CANCEL): _S.CANCELLED,
        (_S.AWAITING_APPROVAL, _T.FAIL): _S.FAILED,
    }
)

TERMINAL: Final = frozenset(s for s in _S if all(source is not s for source, _ in TRANSITIONS))
ACTIVE: Final = frozenset(_S) - TERMINAL


def sources(transition: Transition) -> list[TurnStatus]:
    """Statuses that `transition` may leave: the `status = ANY(...)` guard of its query."""
    return [source for source, why in TRANSITIONS if why is transition]


def target(source: TurnStatus, transition: Transition) -> TurnStatus:
    """Status after `transition`.

    Raises:
        KeyError: `transition` may not leave `source`.
    """
    return TRANSITIONS[source, transition]


def mermaid() -> str:
    """The diagram shown in `docs/architecture.md`."""
    lines = ["stateDiagram-v2", "    [*] --> pending"]
    lines += [f"    {src} --> {dst}: {why}" for (src, why), dst in TRANSITIONS.items()]
    lines += [f"    {status} --> [*]" for status in _S if status in TERMINAL]
    return "\n".join(lines)
