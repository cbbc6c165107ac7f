"""Turns as callers see them: submit, get, list, wait. Cancels: `shared/service/cancel.py`."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from typing import Any, Final
from uuid import UUID

import structlog

from shared.errors import (
    IdempotencyKeyReused,
    Overloaded,
    PostgresUnavailable,
    RedisUnavailable,
    ThreadNotFound,
    TurnNotFound,
)
from shared.metrics import Metrics
from shared.postgres.group_commit import GroupCommit
from shared.postgres.pool import Database
from shared.postgres.rows import accepted_turn, turn_from_row
from shared.redis.connection import RedisReplyError
from shared.redis.dispatch import Dispatch, LineChange
from shared.service.accept import accept_alone, accept_arguments
from shared.service.backlog import Backlog
from shared.service.follow import FollowHub
from shared.service.regenerate import accept_regenerated
from shared.service.storage import StorageQuota
from shared.turn.model import Accepted, ConflictPolicy, NewTurn, Principal, Turn
from shared.turn.state import TurnStatus

log = structlog.get_logger(__name__)

MAX_REPLAYS_SOUGHT: Final = 4
"""While the queue is full, so many submits at a time are looked up by their idempotency keys; the
others are refused like new ones, and may come again."""
END_POLL_S: Final = 5.0
"""How often a waiting caller asks Postgres, should Redis not tell."""


class TurnService:
    """Raises the errors of `shared.errors`; opens and commits every transaction itself."""

    def __init__(
        self,
        *,
        database: Database,
        dispatch: Dispatch,
        hub: FollowHub,
        metrics: Metrics,
        backlog: Backlog,
        queue_ttl_s: float,
        quota: StorageQuota | None = None,
    ) -> None:
        self._database = database
        self._dispatch = dispatch
        self._hub = hub
        self._metrics = metrics
        self._backlog = backlog
        self._queue_ttl_s = queue_ttl_s
        self._quota = quota or StorageQuota()
        self._accepts = GroupCommit(database, "accept_turns")
        self._announcements: set[asyncio.Task[None]] = set()
        self._replays_sought = 0

    # -- submit

    async def replay_or_refuse(self, new: NewTurn) -> Accepted | None:
        """What a submit that may not wait would get, before anything is done for it.

        Raises:
            QueueFull, Saturated: no more turns may wait, and none was accepted under its key.
        """
        refusal = self._backlog.find_refusal(new.principal.tenant_id, new.concurrency_key)
        return None if refusal is None else await self._replay_or_raise(new, refusal)

    async def find_replay(self, new: NewTurn) -> Accepted | None:
        """What a submit under the same idempotency key has made before, if anything.

        Raises:
            IdempotencyKeyReused: the key stands for another request.
        """
        known = await self._find_accepted(new)
        return None if known is None else await self._replay(new, known)

    async def submit(self, new: NewTurn) -> Accepted:
        """Writes a turn down, then announces it. When this returns, the turn is safe.

        Raises:
            ThreadNotFound: the thread is gone or not the caller's.
            IdempotencyKeyReused: the key stands for another request.
            MessageNotFound: the thread has no such message to answer anew.
            ThreadMovedOn: the turn `new` follows is not the newest of the thread; or there is one,
                before which the messages that `new` brings along would have no place.
            ConcurrencyConflict: `reject`, and the key has an active turn; or the thread has one,
                and the turn would answer a message anew.
            QueueFull: no more turns may wait; one that was accepted before is still returned.
            Saturated: the turn would not be started within its queue time.
            StorageFull: there is no room for the message's files.
            TooManyAttachments: the thread has none for those, or for the message's artifacts.
            ArtifactNotFound: an artifact of the message is gone, or not the thread's user's to see.
            AgentSpecNotFound: the turn's own agent spec is gone.
            PostgresUnavailable: nothing was accepted, or nobody can tell; a retry under the same
                idempotency key is safe.
        """
        tenant_id = new.principal.tenant_id
        refusal = self._backlog.find_refusal(tenant_id, new.concurrency_key)
        if refusal is not None:
            return await self._replay_or_raise(new, refusal)
        scopes = self._backlog.enter(tenant_id, new.concurrency_key)
        is_new = False
        try:
            accepted = await self._accept(new)
            is_new = not accepted.replayed
        finally:
            self._backlog.leave(scopes, accepted=is_new)
        return accepted

    async def _accept(self, new: NewTurn) -> Accepted:
        new = new.as_said()
        try:
            if new.redo is not None:
                row = await accept_regenerated(self._database, new, self._queue_ttl_s)
            elif new.conflict_policy is ConflictPolicy.REJECT or new.follows or new.brings_more:
                row = await accept_alone(self._database, self._quota, new, self._queue_ttl_s)
            else:
                row = await self._accepts.run(*accept_arguments(new, self._queue_ttl_s))
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

    async def _find_accepted(self, new: NewTurn) -> Any:
        return await self._database.for_tenant(new.principal).fetch_one(
            "find_idempotent_turn",
            new.principal.tenant_id,
            new.idempotency_scope,
            new.idempotency_key,
        )

    async def _replay_or_raise(self, new: NewTurn, refusal: Overloaded) -> Accepted:
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
        """The turn once it has ended or is parked anew, or as it is after `timeout_s`."""
        if turn.is_terminal:
            return turn
        parked_count = turn.parked_count
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        async with self._hub.listen_for_end(turn.id) as ended:
            while True:
                ended.clear()
                turn = await self.get(principal, turn.id)
                left_s = deadline - loop.time()
                is_parked = turn.status is TurnStatus.AWAITING_APPROVAL
                # By count: it may have run between two looks, and asked for other calls.
                is_news = turn.is_terminal or (is_parked and turn.parked_count != parked_count)
                if is_news or left_s <= 0 or self._hub.is_draining:
                    return turn
                try:
                    async with asyncio.timeout(min(left_s, END_POLL_S)):
                        await ended.wait()
                except TimeoutError:
                    continue

    # -- after a commit

    def announce_resumed(self, turn: Turn) -> None:
        """Tells Redis that a parked turn waits again. Losing this loses nothing."""
        self._announce(LineChange.of_returned(turn))

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
