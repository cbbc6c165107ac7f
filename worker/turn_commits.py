"""How an attempt ends, written to Postgres: a terminal status, or parked until people decide.

Each write is a compare-and-set on (turn, attempt), repeated until Postgres has answered. Redis
hears nothing here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
import structlog

from shared.errors import PostgresUnavailable, TurnFailed
from shared.ids import new_id
from shared.postgres.group_commit import GroupCommit
from shared.postgres.pool import Database
from shared.turn.events import TurnEnded, TurnError, Usage
from shared.turn.messages import is_truncated, preview
from shared.turn.model import ClaimedTurn, duration_s
from shared.turn.state import TERMINAL, TurnStatus
from shared.turn.text import storable, storable_json
from worker.engine.base import EngineMessage, EngineResult
from worker.held_turns import HeldTurn, StopReason
from worker.patience import PAUSE_S

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ending:
    """How the drive of an attempt ended, before it is committed."""

    status: TurnStatus
    error: TurnFailed | None = None

    def without_messages(self) -> Ending:
        """What is left of it when its messages cannot be stored."""
        if self.status is not TurnStatus.COMPLETED:
            return self
        message = "The model's answer could not be stored"
        return Ending(TurnStatus.FAILED, TurnFailed("internal", message))


@dataclass(frozen=True, slots=True)
class Parked:
    """The turn is put away. Its open calls are decided by the clock at `expires_at`."""

    expires_at: datetime


class TurnCommits:
    """One per worker: turns that end together share a commit."""

    def __init__(self, database: Database, *, approval_ttl_s: float) -> None:
        self._database = database
        self._approval_ttl_s = approval_ttl_s
        self._endings = GroupCommit(database, "end_turns")

    async def end(
        self, held: HeldTurn, ending: Ending, result: EngineResult, last_seq: int
    ) -> TurnEnded | None:
        """Ends the turn with what was produced; `last_seq` will be that of `turn.ended`.

        None: refused, the turn is somebody else's.
        """
        turn = held.turn
        while True:
            arguments = _end_arguments(turn, ending, result, last_seq)
            try:
                row = await self._insist(
                    held, self._endings.run, arguments, last_seq, then=TERMINAL
                )
            except asyncpg.PostgresError as error:
                # All was made storable, and yet Postgres refuses it: end without it.
                if result == EngineResult():
                    raise
                log.warning("turn.unstorable", turn_id=str(turn.id), exc_info=error)
                usage = result.usage if result.messages else turn.earlier_usage or Usage()
                result, ending = EngineResult(usage=usage), ending.without_messages()
            else:
                return None if row is None else _ended_event(ending, result, row)

    async def park(self, held: HeldTurn, result: EngineResult, last_seq: int) -> Parked | Ending:
        """Puts the turn away until its tool calls are decided, or says how else it ends."""
        turn = held.turn
        arguments = _park_arguments(turn, result, last_seq, self._approval_ttl_s)
        try:
            row = await self._insist(
                held,
                lambda *args: self._database.fetch_one("park_turn", *args),
                arguments,
                last_seq,
                then={TurnStatus.AWAITING_APPROVAL},
            )
        except asyncpg.UniqueViolationError:
            message = "The model has used the id of a tool call again"
            return Ending(TurnStatus.FAILED, TurnFailed("model_error", message))
        except asyncpg.PostgresError as error:
            log.warning("turn.unstorable", turn_id=str(turn.id), exc_info=error)
            return Ending(TurnStatus.COMPLETED).without_messages()
        if row is not None:
            return Parked(row["expires_at"])
        return Ending(TurnStatus.CANCELLED)  # or fenced: then this is refused as well

    async def _insist(
        self,
        held: HeldTurn,
        write: Callable[..., Awaitable[asyncpg.Record | None]],
        arguments: tuple[Any, ...],
        last_seq: int,
        *,
        then: Set[TurnStatus],
    ) -> asyncpg.Record | None:
        """The row of a write, which puts the turn into one of the statuses `then`.

        None: refused, or nobody asked any more because the turn was fenced meanwhile.
        """
        turn = held.turn
        is_retry = False
        while held.stop_reason is not StopReason.FENCED:
            try:
                row = await write(*arguments)
                if row is None and is_retry:
                    row = await self._find_own(turn, last_seq, then)
            except PostgresUnavailable as error:
                log.warning("turn.commit_delayed", turn_id=str(turn.id), error=str(error))
                is_retry = True
                await asyncio.sleep(PAUSE_S)
            else:
                return row
        return None

    async def _find_own(
        self, turn: ClaimedTurn, last_seq: int, statuses: Set[TurnStatus]
    ) -> asyncpg.Record | None:
        """The row, if a commit whose answer was lost did happen and is the last word."""
        row = await self._database.for_tenant(turn).fetch_one(
            "get_turn_of_tenant", turn.id, turn.tenant_id
        )
        if row is None or row["status"] not in statuses:
            return None
        return row if (row["attempt"], row["last_seq"]) == (turn.attempt, last_seq) else None


def _end_arguments(
    turn: ClaimedTurn, ending: Ending, result: EngineResult, last_seq: int
) -> tuple[Any, ...]:
    # The last assistant message is the turn's output.
    answer = next((m for m in reversed(result.messages) if m.role == "assistant"), None)
    messages = [_as_row(message, turn, answer) for message in result.messages]
    return (
        turn.id,
        turn.tenant_id,
        turn.attempt,
        ending.status,
        ending.error.error_code if ending.error else None,
        ending.error.message if ending.error else None,
        result.usage.model_dump(by_alias=True),
        last_seq,
        None if answer is None else str(turn.output_message_id),
        messages,
        _last_text(messages),
        turn.thread_id,
    )


def _park_arguments(
    turn: ClaimedTurn, result: EngineResult, last_seq: int, ttl_s: float
) -> tuple[Any, ...]:
    messages = [_as_row(message, turn, None) for message in result.messages]
    calls = [
        {
            "tool_call_id": call.tool_call_id,
            "tool_name": call.name,
            "args": storable_json(call.args),
        }
        for call in result.asked
    ]
    return (
        turn.id,
        turn.tenant_id,
        turn.attempt,
        result.usage.model_dump(by_alias=True),
        last_seq,
        messages,
        _last_text(messages),
        calls,
        ttl_s,
        turn.thread_id,
    )


def _as_row(
    message: EngineMessage, turn: ClaimedTurn, answer: EngineMessage | None
) -> dict[str, Any]:
    return {
        "id": str(turn.output_message_id if message is answer else new_id()),
        "role": message.role,
        "content": storable(message.content),
        "raw_data": storable_json(message.raw),
    }


def _last_text(messages: list[dict[str, Any]]) -> str | None:
    """Preview of the last assistant message; None when there is none, or it has no text."""
    text = next((m["content"] for m in reversed(messages) if m["role"] == "assistant"), None)
    return preview(text) if text else None


def _ended_event(ending: Ending, result: EngineResult, row: asyncpg.Record) -> TurnEnded:
    error, said = ending.error, row["output_message_id"]
    return TurnEnded(
        status=ending.status,
        error=TurnError(code=error.error_code, message=error.message) if error else None,
        usage=result.usage,
        output_message_id=None if said is None else str(said),
        duration_s=duration_s(row["started_at"], row["ended_at"]),
        truncated=True if is_truncated(message.raw for message in result.messages) else None,
    )
