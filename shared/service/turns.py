"""The life of a turn as callers see it: submit, get, list, wait, cancel."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from typing import Any, Final
from uuid import UUID

import structlog

from shared.errors import (
    ConcurrencyConflict,
    IdempotencyKeyReused,
    Overloaded,
    PostgresUnavailable,
    RedisUnavailable,
    ThreadNotFound,
    TurnNotFound,
)
from shared.metrics import Metrics
from shared.postgres.batches import as_elements, columns
from shared.postgres.group_commit import GroupCommit
from shared.postgres.pool import Database
from shared.postgres.rows import accepted_turn, turn_from_row
from shared.postgres.transaction import Transaction
from shared.redis.connection import RedisReplyError
from shared.redis.control import Control
from shared.redis.dispatch import Dispatch, LineChange
from shared.redis.event_log import EventLog
from shared.service.backlog import Backlog
from shared.service.follow import FollowHub, ended_event
from shared.service.regenerate import accept_regenerated
from shared.turn.events import Cursor, MessageDelta, Usage, decode_event, encode_event
from shared.turn.messages import interrupted_response, preview, title
from shared.turn.model import Accepted, ConflictPolicy, NewTurn, Principal, Turn
from shared.turn.state import TurnStatus

log = structlog.get_logger(__name__)

MAX_REPLAYS_SOUGHT: Final = 4
"""While the queue is full, so many submits at a time are looked up by their idempotency keys; the
others are refused like new ones, and may come again."""
DELIVER_WAIT_S: Final = 0.05
"""How long an acknowledged cancel waits for this process' readers to hear the end."""
END_POLL_S: Final = 5.0
"""How often a waiting caller asks Postgres, should Redis not tell."""
PUBLISH_TIMEOUT_S: Final = 1.0
"""How long a turn's end waits for a Redis that hangs."""
LATE_TEXT_S: Final = 30.0
"""So long after a cancel a reader may still say what it saw: browsers close the stream first."""
REDIS_AWAY_CANCEL_WAIT_S: Final = 2.5
"""Without Redis a worker learns of a cancel by its heartbeat."""


class TurnService:
    """Raises the errors of `shared.errors`; opens and commits every transaction itself."""

    def __init__(
        self,
        *,
        database: Database,
        dispatch: Dispatch,
        event_log: EventLog,
        control: Control,
        hub: FollowHub,
        metrics: Metrics,
        backlog: Backlog,
        queue_ttl_s: float,
        cancel_wait_s: float,
    ) -> None:
        self._database = database
        self._dispatch = dispatch
        self._event_log = event_log
        self._control = control
        self._hub = hub
        self._metrics = metrics
        self._backlog = backlog
        self._queue_ttl_s = queue_ttl_s
        self._cancel_wait_s = cancel_wait_s
        self._accepts = GroupCommit(database, "accept_turns")
        self._announcements: set[asyncio.Task[None]] = set()
        self._replays_sought = 0

    # -- submit

    async def submit(self, new: NewTurn) -> Accepted:
        """Writes a turn down, then announces it. When this returns, the turn is safe.

        Raises:
            ThreadNotFound: the thread is gone or not the caller's.
            IdempotencyKeyReused: the key stands for another request.
            NotFound: the thread has no such message to answer anew.
            ConcurrencyConflict: `reject`, and the key has an active turn; or the thread has one,
                and the turn would answer a message anew.
            QueueFull: no more turns may wait; one that was accepted before is still returned.
            Saturated: the turn would not be started within its queue time.
            PostgresUnavailable: nothing was accepted, or nobody can tell; a retry under the same
                idempotency key is safe.
        """
        tenant_id = new.principal.tenant_id
        refusal = self._backlog.find_refusal(tenant_id, new.concurrency_key)
        if refusal is not None:
            return await self._find_replay_or_refuse(new, refusal)
        scopes = self._backlog.enter(tenant_id, new.concurrency_key)
        is_new = False
        try:
            accepted = await self._accept(new)
            is_new = not accepted.replayed
        finally:
            self._backlog.leave(scopes, accepted=is_new)
        return accepted

    async def _accept(self, new: NewTurn) -> Accepted:
        try:
            if new.redo is not None:
                row = await accept_regenerated(self._database, new, self._queue_ttl_s)
            elif new.conflict_policy is ConflictPolicy.REJECT:
                row = await self._accept_alone(new)
            else:
                row = await self._accepts.run(*self._accept_arguments(new))
        except PostgresUnavailable:
            # The commit may have happened: the idempotency key tells.
            if await self._find_accepted(new) is None:
                raise
            row = None
        if row is None:
            known = await self._find_accepted(new)
            if known is None:
                raise ThreadNotFound
            return await self._replay(new, known)
        if new.redo is not None:
            new = dataclasses.replace(new, input_message_id=row["input_message_id"])
        turn = accepted_turn(new, row)
        self._announce(_waiting(turn))
        self._metrics.turns_accepted.labels(replayed="no").inc()
        return Accepted(turn, replayed=False, position=row["position"])

    async def _accept_alone(self, new: NewTurn) -> Any:
        async def accept(transaction: Transaction) -> Any:
            tenant_id, user_id = new.principal.tenant_id, new.principal.user_id
            # First: a conflict would tell a stranger that somebody else's thread is busy.
            if await transaction.fetch_one("get_thread", new.thread_id, tenant_id, user_id) is None:
                raise ThreadNotFound
            await transaction.fetch_one("lock_concurrency_key", tenant_id, new.concurrency_key)
            known = await transaction.fetch_one(
                "find_idempotent_turn", tenant_id, new.idempotency_scope, new.idempotency_key
            )
            if known is not None:
                return None
            active = await transaction.fetch_one(
                "find_active_turn_of_key", tenant_id, new.concurrency_key
            )
            if active is not None:
                raise ConcurrencyConflict(
                    str(active["id"]) if active["user_id"] == user_id else None
                )
            await transaction.go_on_as_engine()
            return await transaction.fetch_one(
                "accept_turns", *columns([as_elements(self._accept_arguments(new))])
            )

        return await self._database.for_tenant(new.principal).run_in_transaction(accept)

    def _accept_arguments(self, new: NewTurn) -> tuple[Any, ...]:
        return (
            new.id,
            new.principal.tenant_id,
            new.principal.user_id,
            new.thread_id,
            new.input_message_id,
            new.planned_output_message_id,
            new.text,
            new.raw_message,
            new.model_id,
            new.settings,
            new.system_prompt,
            new.concurrency_key,
            new.idempotency_scope,
            new.idempotency_key,
            new.fingerprint,
            new.client_chose_key,
            self._queue_ttl_s,
            preview(new.text),
            title(new.text),
        )

    async def _find_accepted(self, new: NewTurn) -> Any:
        return await self._database.for_tenant(new.principal).fetch_one(
            "find_idempotent_turn",
            new.principal.tenant_id,
            new.idempotency_scope,
            new.idempotency_key,
        )

    async def _find_replay_or_refuse(self, new: NewTurn, refusal: Overloaded) -> Accepted:
        """A refusal must cost little: few at a time ask Postgres whether they are replays."""
        known = None
        if new.client_chose_key and self._replays_sought < MAX_REPLAYS_SOUGHT:
            self._replays_sought += 1
            try:
                known = await self._find_accepted(new)
            finally:
                self._replays_sought -= 1
        if known is None:
            raise refusal
        return await self._replay(new, known)

    async def _replay(self, new: NewTurn, known: Any) -> Accepted:
        if known["fingerprint"] != new.fingerprint:
            raise IdempotencyKeyReused
        turn = await self.get(new.principal, known["turn_id"])
        ours = turn.id == new.id
        if ours:
            self._announce(_waiting(turn))
        self._metrics.turns_accepted.labels(replayed="no" if ours else "yes").inc()
        return Accepted(turn, replayed=not ours, position=0)

    def commit_wait_s(self) -> float:
        """How long the submit has waited that is first in the next batch; 0 when none waits."""
        return self._accepts.waiting_s()

    # -- read

    async def get(self, principal: Principal, turn_id: UUID) -> Turn:
        """One turn of the caller.

        Raises:
            TurnNotFound: unknown, deleted or somebody else's.
        """
        row = await self._database.for_tenant(principal).fetch_one(
            "get_turn", turn_id, principal.tenant_id, principal.user_id
        )
        if row is None:
            raise TurnNotFound
        return turn_from_row(row)

    async def list_turns(
        self,
        principal: Principal,
        *,
        thread_id: UUID | None,
        status: TurnStatus | None,
        concurrency_key: str | None,
        before_seq: int | None,
        limit: int,
    ) -> list[Turn]:
        """The caller's turns, newest first, at most `limit`."""
        rows = await self._database.for_tenant(principal).fetch_many(
            "list_turns",
            principal.tenant_id,
            principal.user_id,
            thread_id,
            status,
            concurrency_key,
            before_seq,
            limit,
        )
        return [turn_from_row(row) for row in rows]

    async def find_active(self, principal: Principal, thread_id: UUID) -> Turn | None:
        """The thread's running turn, or else the first that waits."""
        row = await self._database.for_tenant(principal).fetch_one(
            "find_active_turn_of_thread", principal.tenant_id, principal.user_id, thread_id
        )
        return None if row is None else turn_from_row(row)

    async def count_ahead(self, turn: Turn) -> int:
        """Turns of the same key that go first, counted to 100."""
        row = await self._database.for_tenant(turn).fetch_one(
            "count_turns_ahead", turn.tenant_id, turn.concurrency_key, turn.accept_seq
        )
        return 0 if row is None else int(row["position"])

    async def wait(self, principal: Principal, turn: Turn, timeout_s: float) -> Turn:
        """The turn once it has ended, or as it is after `timeout_s`."""
        return turn if turn.is_terminal else await self._await_end(principal, turn.id, timeout_s)

    async def _await_end(self, principal: Principal, turn_id: UUID, timeout_s: float) -> Turn:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        async with self._hub.listen_for_end(turn_id) as ended:
            while True:
                ended.clear()
                turn = await self.get(principal, turn_id)
                left_s = deadline - loop.time()
                if turn.is_terminal or left_s <= 0 or self._hub.is_draining:
                    return turn
                try:
                    async with asyncio.timeout(min(left_s, END_POLL_S)):
                        await ended.wait()
                except TimeoutError:
                    continue

    # -- cancel

    async def cancel(
        self, principal: Principal, turn_id: UUID, partial_text: str | None = None
    ) -> Turn:
        """Ends a turn; when this returns it is terminal and no delta of it is delivered any more.

        A turn that has ended comes back as it is; `partial_text` may come a little late.

        Raises:
            TurnNotFound: unknown, deleted or somebody else's.
        """
        row = await self._database.for_tenant(principal).fetch_one(
            "request_cancel", turn_id, principal.tenant_id, principal.user_id
        )
        if row is None:
            turn = await self.get(principal, turn_id)
            late = await self._add_late_text(principal, turn.thread_id, partial_text, turn_id)
            return late or turn
        turn = turn_from_row(row)
        if turn.is_terminal:
            self._count_cancel("pending")
            await self.publish_end(turn)
        else:
            turn = await self._cancel_running(principal, turn)
        if turn.status is TurnStatus.CANCELLED:
            # Of a turn that ended otherwise meanwhile, readers get every delta.
            await self._hub.deliver_all(turn.id, DELIVER_WAIT_S)
        if partial_text and turn.status is TurnStatus.CANCELLED:
            await self._put_partial_text(turn, partial_text)
            turn = await self.get(principal, turn_id)
        return turn

    async def cancel_thread(
        self, principal: Principal, thread_id: UUID, partial_text: str | None = None
    ) -> Turn | None:
        """Cancels the thread's active turn; None when there is none.

        Turns that wait behind it are left alone: Stop means the answer being written. Where the
        last turn was cancelled without a word just now, it is the one that is meant.
        """
        active = await self.find_active(principal, thread_id)
        if active is None:
            return await self._add_late_text(principal, thread_id, partial_text)
        return await self.cancel(principal, active.id, partial_text)

    async def cancel_all_of_thread(self, principal: Principal, thread_id: UUID) -> None:
        """Cancels every active turn of a thread, the running one last."""
        while True:
            turns = await self.list_turns(
                principal,
                thread_id=thread_id,
                status=TurnStatus.PENDING,
                concurrency_key=None,
                before_seq=None,
                limit=100,
            )
            for turn in turns:
                await self.cancel(principal, turn.id)
            if turns:
                continue
            if await self.cancel_thread(principal, thread_id) is None:
                return

    async def _cancel_running(self, principal: Principal, turn: Turn) -> Turn:
        heard = await self._signal_worker(turn)
        if heard is None:
            turn = await self._await_end(principal, turn.id, REDIS_AWAY_CANCEL_WAIT_S)
        elif heard:
            turn = await self._await_end(principal, turn.id, self._cancel_wait_s)
        if turn.status is TurnStatus.CANCELLED:
            self._metrics.cancels.labels(how="graceful").inc()
        while not turn.is_terminal:
            forced = await self._force_cancel(turn)
            turn = forced or await self.get(principal, turn.id)
        return turn

    async def _signal_worker(self, turn: Turn) -> bool | None:
        """Whether the turn's worker listens; None when Redis cannot tell."""
        try:
            return await self._control.cancel(turn.worker_id or "", turn.id)
        except (RedisUnavailable, RedisReplyError):
            return None

    async def _force_cancel(self, turn: Turn) -> Turn | None:
        if turn.status is not TurnStatus.RUNNING:
            # It was handed back meanwhile: a pending turn is cancelled by the request itself.
            row = await self._database.for_tenant(turn).fetch_one(
                "request_cancel", turn.id, turn.tenant_id, turn.user_id
            )
        else:
            text = await self._read_partial_text(turn, turn.attempt)
            usage = Usage(output_tokens=len(text.split()))
            row = await self._database.for_tenant(turn).fetch_one(
                "force_cancel",
                turn.id,
                turn.tenant_id,
                turn.attempt,
                turn.planned_output_message_id if text else None,
                text,
                interrupted_response(text, turn.model_id),
                usage.model_dump(by_alias=True),
                preview(text),
            )
        if row is None:
            return None
        cancelled = turn_from_row(row)
        if not cancelled.is_terminal:
            return None
        self._count_cancel("forced")
        log.info("turn.cancel_forced", turn_id=str(turn.id), attempt=turn.attempt)
        await self.publish_end(cancelled)
        return cancelled

    def _count_cancel(self, how: str) -> None:
        """A cancel that ended the turn here, not in its worker."""
        self._metrics.cancels.labels(how=how).inc()
        self._metrics.turns_ended.labels(status=TurnStatus.CANCELLED).inc()

    async def _read_partial_text(self, turn: Turn, attempt: int) -> str:
        parts: list[str] = []
        try:
            async for batch in self._event_log.read_all(turn.id, Cursor(attempt, 0)):
                if batch.attempt == attempt:
                    events = (decode_event(payload) for payload in batch.payloads)
                    parts += [event.text for event in events if isinstance(event, MessageDelta)]
        except (RedisUnavailable, RedisReplyError):
            log.warning("turn.partial_text_unread", turn_id=str(turn.id))
        return "".join(parts)

    async def keep_partial_text(self, turn: Turn, attempt: int) -> Turn:
        """Gives a turn that was cancelled without its worker the text that `attempt` has logged."""
        text = await self._read_partial_text(turn, attempt)
        if not text:
            return turn
        await self._put_partial_text(turn, text)
        row = await self._database.for_tenant(turn).fetch_one(
            "get_turn_of_tenant", turn.id, turn.tenant_id
        )
        return turn if row is None else turn_from_row(row)

    async def _add_late_text(
        self,
        principal: Principal,
        thread_id: UUID,
        text: str | None,
        turn_id: UUID | None = None,
    ) -> Turn | None:
        """Gives the thread's last turn the text its reader saw, if its cancel was just now.

        None: there is no text, or no such turn, or it is not `turn_id`.
        """
        if not text:
            return None
        row = await self._database.for_tenant(principal).fetch_one(
            "find_silent_cancel",
            thread_id,
            principal.tenant_id,
            principal.user_id,
            LATE_TEXT_S,
        )
        if row is None or turn_id not in (None, row["id"]):
            return None
        turn = turn_from_row(row)
        await self._put_partial_text(turn, text)
        return await self.get(principal, turn.id)

    async def _put_partial_text(self, turn: Turn, text: str) -> None:
        query = "replace_partial_text" if turn.output_message_id else "add_partial_text"
        await self._database.for_tenant(turn).fetch_one(
            query,
            turn.tenant_id,
            turn.id,
            text,
            interrupted_response(text, turn.model_id),
            preview(text),
        )

    # -- after a commit

    async def publish_end(self, turn: Turn) -> None:
        """Tells Redis of a turn that ended without its worker: closes its log, frees its slot.

        Losing this loses nothing: readers ask Postgres, and the sweeper restores the line.
        """
        payload = encode_event(ended_event(turn))
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                generation = await self._dispatch.read_generation()
                if generation is not None:
                    await self._event_log.open(
                        turn.id, turn.attempt, generation, [payload], final=True
                    )
                await self._dispatch.settle(
                    LineChange(
                        turn.tenant_id, turn.concurrency_key, turn.max_running, over=[turn.id]
                    )
                )
        except (RedisUnavailable, RedisReplyError, TimeoutError) as error:
            log.warning("turn.end_unpublished", turn_id=str(turn.id), error=str(error))

    def _announce(self, change: LineChange) -> None:
        reply = self._dispatch.send_settle(change)
        reply.add_done_callback(functools.partial(self._announced, change))

    def _announced(self, change: LineChange, reply: asyncio.Future[Any]) -> None:
        if reply.exception() is not None:
            # Not connected yet, or not any more.
            task = asyncio.create_task(self._settle(change))
            self._announcements.add(task)
            task.add_done_callback(self._announcements.discard)

    async def _settle(self, change: LineChange) -> None:
        try:
            await self._dispatch.settle(change)
        except (RedisUnavailable, RedisReplyError) as error:
            log.warning("turn.undispatched", error=str(error))

    async def close(self) -> None:
        """Waits for announcements under way."""
        if self._announcements:
            await asyncio.wait(self._announcements, timeout=2)


def _waiting(turn: Turn) -> LineChange:
    waiting = {turn.id: turn.accept_seq} if turn.status is TurnStatus.PENDING else {}
    return LineChange(turn.tenant_id, turn.concurrency_key, turn.max_running, waiting=waiting)
