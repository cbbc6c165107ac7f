"""Turns as callers see them: submit, get, list, wait. Cancels: `shared/service/cancel.py`."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from typing import Any, Final
from uuid import UUID

import asyncpg
import structlog

from shared.errors import (
    AgentSpecNotFound,
    ArtifactNotFound,
    ConcurrencyConflict,
    IdempotencyKeyReused,
    Overloaded,
    PostgresUnavailable,
    RedisUnavailable,
    StorageFull,
    ThreadMovedOn,
    ThreadNotFound,
    TurnNotFound,
)
from shared.ids import new_id
from shared.metrics import Metrics
from shared.postgres.batches import as_elements, columns
from shared.postgres.group_commit import GroupCommit
from shared.postgres.pool import Database
from shared.postgres.rows import accepted_turn, turn_from_row
from shared.postgres.transaction import Transaction
from shared.redis.connection import RedisReplyError
from shared.redis.dispatch import Dispatch, LineChange
from shared.service.backlog import Backlog
from shared.service.follow import FollowHub
from shared.service.given_messages import add_given
from shared.service.regenerate import accept_regenerated
from shared.service.storage import StorageQuota
from shared.turn.messages import preview, title
from shared.turn.model import Accepted, ConflictPolicy, NewTurn, Principal, Turn
from shared.turn.state import TurnStatus

log = structlog.get_logger(__name__)

MAX_REPLAYS_SOUGHT: Final = 4
"""While the queue is full, so many submits at a time are looked up by their idempotency keys; the
others are refused like new ones, and may come again."""
END_POLL_S: Final = 5.0
"""How often a waiting caller asks Postgres, should Redis not tell."""


class _NotAccepted(Exception):
    """The idempotency key was used meanwhile, or the thread is gone: nothing is to stay."""


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

    async def find_replay_or_refusal(self, new: NewTurn) -> Accepted | None:
        """What a submit that may not wait would get, before anything is done for it.

        Raises:
            QueueFull, Saturated: no more turns may wait, and none was accepted under its key.
        """
        refusal = self._backlog.find_refusal(new.principal.tenant_id, new.concurrency_key)
        return None if refusal is None else await self._find_replay_or_refuse(new, refusal)

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
        new = new.as_said()
        try:
            if new.redo is not None:
                row = await accept_regenerated(self._database, new, self._queue_ttl_s)
            elif new.conflict_policy is ConflictPolicy.REJECT or new.follows or new.brings_more:
                row = await self._accept_alone(new)
            else:
                row = await self._accepts.run(*self._accept_arguments(new))
        except _NotAccepted:
            row = None
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
            if new.makes_thread:
                await transaction.fetch_one("create_thread_once", new.thread_id, tenant_id, user_id)
            # First: a conflict would tell a stranger that somebody else's thread is busy.
            if not await transaction.fetch_one("get_thread", new.thread_id, tenant_id, user_id):
                raise ThreadNotFound
            await transaction.fetch_one("lock_concurrency_key", tenant_id, new.concurrency_key)
            known = await transaction.fetch_one(
                "find_idempotent_turn", tenant_id, new.idempotency_scope, new.idempotency_key
            )
            if known is not None:
                return None
            if new.follows is not None:
                await self._require_newest(transaction, new, new.follows)
            active = new.conflict_policy is ConflictPolicy.REJECT and await transaction.fetch_one(
                "find_active_turn_of_key", tenant_id, new.concurrency_key
            )
            if active:
                raise ConcurrencyConflict(
                    str(active["id"]) if active["user_id"] == user_id else None
                )
            if new.files or new.artifact_ids:
                await self._require_room(transaction, new)
            if new.given:
                await self._add_given(transaction, new)
            await transaction.go_on_as_engine()
            accepted = await transaction.fetch_one(
                "accept_turns", *columns([as_elements(self._accept_arguments(new))])
            )
            if accepted is None:
                raise _NotAccepted
            return await self._add_more(transaction, new, accepted)

        return await self._database.for_tenant(new.principal).run_in_transaction(accept)

    @staticmethod
    async def _require_newest(transaction: Transaction, new: NewTurn, turn_id: UUID) -> None:
        locked = await transaction.fetch_one(
            "lock_thread", new.thread_id, new.principal.tenant_id, new.principal.user_id
        )
        if locked is None or locked["last_turn_id"] != turn_id:
            raise ThreadMovedOn

    async def _add_given(self, transaction: Transaction, new: NewTurn) -> None:
        thread = await self._lock_thread(transaction, new)
        if thread["last_turn_id"] is not None:
            raise ThreadMovedOn
        await add_given(transaction, new.principal, new.thread_id, new.given)

    @staticmethod
    async def _lock_thread(transaction: Transaction, new: NewTurn) -> asyncpg.Record:
        locked = await transaction.fetch_one(
            "lock_thread", new.thread_id, new.principal.tenant_id, new.principal.user_id
        )
        if locked is None:
            raise ThreadNotFound
        return locked

    async def _add_more(self, transaction: Transaction, new: NewTurn, accepted: Any) -> Any:
        """What a turn brings besides its own rows; the accepted row with what that changed."""
        if new.files:
            await transaction.fetch_many("attach_message_files", *_file_arguments(new))
        if new.artifact_ids:
            await self._attach_artifacts(transaction, new)
        if new.principal.acts_for is not None:
            await transaction.fetch_one(
                "name_author",
                new.input_message_id,
                new.principal.tenant_id,
                new.principal.acts_for,
            )
        if new.agent_spec_id is None:
            return accepted
        return {**accepted, **await self._give_agent(transaction, new, new.agent_spec_id)}

    @staticmethod
    async def _attach_artifacts(transaction: Transaction, new: NewTurn) -> None:
        attached = await transaction.fetch_many(
            "attach_message_artifacts",
            new.principal.tenant_id,
            new.principal.user_id,
            new.thread_id,
            new.input_message_id,
            [new_id() for _ in new.artifact_ids],
            list(new.artifact_ids),
        )
        if len(attached) < len(new.artifact_ids):
            raise ArtifactNotFound

    @staticmethod
    async def _give_agent(
        transaction: Transaction, new: NewTurn, agent_spec_id: UUID
    ) -> asyncpg.Record:
        row = await transaction.fetch_one(
            "give_turn_agent", new.id, new.principal.tenant_id, agent_spec_id, new.model_id
        )
        if row is None:
            raise AgentSpecNotFound
        return row

    async def _require_room(self, transaction: Transaction, new: NewTurn) -> None:
        # Locked: what others attach meanwhile counts.
        thread = await self._lock_thread(transaction, new)
        more = len(new.files) + len(new.artifact_ids)
        self._quota.require_place(thread["attachment_count"], more)
        if new.files:
            size_bytes = sum(len(file.data) for file in new.files)
            await self._quota.require_room(
                transaction, new.principal.tenant_id, len(new.files), size_bytes
            )
        if any(file.object_key is None for file in new.files):  # there was no room a moment ago
            raise StorageFull("more than it may store")

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
            new.names_model,
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


def _file_arguments(new: NewTurn) -> tuple[Any, ...]:
    files = new.files
    return (
        new.principal.tenant_id,
        new.principal.user_id,
        new.thread_id,
        new.input_message_id,
        [new_id() for _ in files],
        [new_id() for _ in files],
        [file.sha256 for file in files],
        [file.object_key for file in files],
        [len(file.data) for file in files],
        [file.reader for file in files],
        [file.name for file in files],
        [file.mime_type for file in files],
    )


def _waiting(turn: Turn) -> LineChange:
    waiting = {turn.id: turn.accept_seq} if turn.status is TurnStatus.PENDING else {}
    return LineChange(turn.tenant_id, turn.concurrency_key, turn.max_running, waiting=waiting)
