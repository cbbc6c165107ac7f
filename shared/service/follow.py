"""Following a turn: every event once, in order, across reconnects, lost logs and slow readers.

The order that leaves no gap: subscribe → acknowledgement → read the log after the cursor → live.
One subscription connection per process; each reader has one bounded buffer, and a reader that
cannot keep up drops it and reads the log at its own pace.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Self
from uuid import UUID

import structlog

from shared.errors import PostgresUnavailable, RedisUnavailable, TurnNotFound
from shared.postgres.pool import Database
from shared.postgres.rows import turn_from_row
from shared.redis.connection import RedisReplyError
from shared.redis.event_log import EventLog, parse_message
from shared.redis.keys import Keys
from shared.redis.subscriber import Subscriber, Subscription
from shared.turn.events import (
    START,
    Cursor,
    EventBatch,
    MessageDelta,
    ReasoningDelta,
    TurnEnded,
    TurnError,
    TurnSnapshot,
    TurnStarted,
    encode_event,
    is_ended,
)
from shared.turn.model import Turn

log = structlog.get_logger(__name__)

WATCH_INTERVAL_S: Final = 2.0
"""How often Postgres is asked which followed turns have ended, should Redis not have said so."""
_TELLINGS_NEEDED: Final = 2
"""Once Postgres has said so often that a turn is over, its log is not waited for any more."""


class FollowHub:
    """All followers of a process. Run it as `async with`."""

    def __init__(
        self,
        *,
        database: Database,
        subscriber: Subscriber,
        event_log: EventLog,
        keys: Keys,
        buffer_bytes: int,
    ) -> None:
        self.database = database
        self.event_log = event_log
        self.buffer_bytes = buffer_bytes
        self._subscriber = subscriber
        self._keys = keys
        self.is_draining = False
        self._followers: dict[UUID, set[Follower]] = {}
        self._listeners: set[asyncio.Event] = set()
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._watch = asyncio.create_task(self._watch_postgres())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])

    def follow(self, turn: Turn, after: Cursor = START) -> Follower:
        """A reader of `turn` behind `after`; use it as `async with`."""
        return Follower(self, turn, after)

    async def deliver_all(self, turn_id: UUID, timeout_s: float) -> None:
        """Waits until this process' readers of an ended turn have got its end.

        Readers that take longer than `timeout_s` get the end without the deltas still before it:
        nothing of a cancelled turn is heard after its cancel was acknowledged.
        """
        followers = [f for f in self._followers.get(turn_id, ()) if not f.is_done.is_set()]
        if not followers:
            return
        try:
            async with asyncio.timeout(timeout_s):
                for follower in followers:
                    await follower.is_done.wait()
        except TimeoutError:
            for follower in followers:
                follower.skip_to_end()

    @asynccontextmanager
    async def listen_for_end(self, turn_id: UUID) -> AsyncIterator[asyncio.Event]:
        """An event that is set when the turn's end is published, or when that may be missed."""
        ended = asyncio.Event()

        def hear(message: bytes | None) -> None:
            if message is None or is_ended(message[message.rfind(b"\n") + 1 :]):
                ended.set()

        channel = self._keys.events(turn_id)
        try:
            subscription = await self._subscriber.subscribe(channel, hear)
        except RedisUnavailable:
            subscription = self._subscriber.subscribe_soon(channel, hear)
        self._listeners.add(ended)
        try:
            yield ended
        finally:
            self._listeners.discard(ended)
            subscription.close()

    def drain(self) -> None:
        """Wakes every reader and every waiting caller: from now on nobody waits here."""
        self.is_draining = True
        for followers in self._followers.values():
            for follower in followers:
                follower.interrupt()
        for ended in self._listeners:
            ended.set()

    async def subscribe(self, follower: Follower) -> Subscription:
        """Listens on the turn's channel; without Redis the reader hears once it is back."""
        channel = self._keys.events(follower.turn.id)
        self._followers.setdefault(follower.turn.id, set()).add(follower)
        try:
            return await self._subscriber.subscribe(channel, follower.hear)
        except RedisUnavailable:
            return self._subscriber.subscribe_soon(channel, follower.hear)

    def forget(self, follower: Follower) -> None:
        """Ends what `subscribe` began."""
        followers = self._followers.get(follower.turn.id)
        if followers is not None:
            followers.discard(follower)
            if not followers:
                del self._followers[follower.turn.id]

    async def _watch_postgres(self) -> None:
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            ids = list(self._followers)
            if not ids:
                continue
            try:
                rows = await self.database.fetch_many("list_ended_turns", ids)
            except PostgresUnavailable:
                continue
            for row in rows:
                for follower in self._followers.get(row["id"], ()):
                    follower.note_ended()


class Follower:
    """One reader's way through a turn's events."""

    def __init__(self, hub: FollowHub, turn: Turn, after: Cursor) -> None:
        self.turn = turn
        self.cursor = after
        self.is_done = asyncio.Event()
        """Set once `turn.ended` was handed out, or the reader left."""
        self._hub = hub
        self._live: deque[EventBatch] = deque()
        self._live_bytes = 0
        self._from_log = True
        self._heard = asyncio.Event()
        self._ended_count = 1 if turn.is_terminal else 0
        self._skip_to_end = False
        self._interrupted = False
        self._subscription: Subscription | None = None

    async def __aenter__(self) -> Self:
        try:
            if not self.turn.is_terminal:
                self._subscription = await self._hub.subscribe(self)
        except BaseException:
            self._hub.forget(self)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.is_done.set()
        if self._subscription is not None:
            self._subscription.close()
        self._hub.forget(self)

    def hear(self, message: bytes | None) -> None:
        """Takes a published message; None means that some may have been missed."""
        if message is None:
            self._from_log = True
        elif not self._from_log:
            self._live.append(parse_message(message))
            self._live_bytes += len(message)
            if self._live_bytes > self._hub.buffer_bytes:
                self._drop_live()
        self._heard.set()

    def note_ended(self) -> None:
        """Postgres says that the turn has ended; told again, the log is not waited for."""
        self._ended_count += 1
        self._from_log = True
        self._heard.set()

    def interrupt(self) -> None:
        """Makes the present or the next `read` return at once."""
        self._interrupted = True
        self._heard.set()

    def skip_to_end(self) -> None:
        """Hands out nothing but the end from now on."""
        self._skip_to_end = True
        self._heard.set()

    async def read(self, timeout_s: float) -> list[EventBatch]:
        """The next events, at least one batch; empty after `timeout_s` or an interrupt.

        After the batch that ends with `turn.ended`, `is_done` is set.

        Raises:
            TurnNotFound: the turn was deleted.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        while not self.is_done.is_set():
            batches = await self._read_available()
            if batches:
                return batches
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0 or self._interrupted:
                self._interrupted = False
                return []
            await self._wait(min(left_s, 1.0) if self._from_log else left_s)
        return []

    async def _wait(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._heard.wait()
        except TimeoutError:
            return

    async def _read_available(self) -> list[EventBatch]:
        self._heard.clear()
        if self._from_log:
            batches = await self._read_log()
        else:
            batches = self._take_live()
        return self._pass_on(batches)

    async def _read_log(self) -> list[EventBatch]:
        # From here on messages are kept: what is published while the log is read comes after it.
        self._drop_live()
        self._from_log = False
        try:
            batches = await self._hub.event_log.read(self.turn.id, self.cursor)
        except (RedisUnavailable, RedisReplyError):
            batches = []
            self._from_log = True
        if batches:
            self._from_log = True  # there may be more pages
            return batches
        if self._ended_count == 0 and self.cursor == START:
            # Nothing was logged yet: it may wait, or have ended before we listened.
            self._ended_count = await self._check_ended()
            if self._ended_count:
                self._look_again()
            return []
        if self._ended_count >= _TELLINGS_NEEDED or not await self._may_hear_end():
            return await self._read_postgres()
        return []

    async def _may_hear_end(self) -> bool:
        """Whether the log is still to be heard of: a turn is ended in Postgres first, then there.

        Of a turn that was over before we came, that is so while it has a log without an end.
        """
        if self._subscription is not None:
            return True
        try:
            if not await self._hub.event_log.holds(self.turn.id, START):
                return False
        except (RedisUnavailable, RedisReplyError):
            return False
        self._subscription = await self._hub.subscribe(self)
        self._look_again()
        return True

    def _look_again(self) -> None:
        self._from_log = True
        self._heard.set()

    async def _check_ended(self) -> int:
        try:
            turn = await self._load_turn()
        except PostgresUnavailable:
            return 0
        return 1 if turn.is_terminal else 0

    def _take_live(self) -> list[EventBatch]:
        batches: list[EventBatch] = []
        place = self.cursor
        while self._live:
            batch = self._live.popleft()
            rest = batch.after(place)
            if rest is None or rest.attempt < place.attempt:
                continue
            follows = rest.first_seq == (place.seq + 1 if rest.attempt == place.attempt else 1)
            if not follows:
                self._drop_live()
                self._from_log = True
                self._heard.set()
                break
            batches.append(rest)
            place = rest.last
        if not self._live:
            self._live_bytes = 0
        return batches

    def _pass_on(self, batches: list[EventBatch]) -> list[EventBatch]:
        for index, batch in enumerate(batches):
            self.cursor = max(self.cursor, batch.last)
            if is_ended(batch.payloads[-1]):
                self.is_done.set()
                if self._skip_to_end:
                    return [EventBatch(batch.attempt, batch.last.seq, batch.payloads[-1:])]
                return batches[: index + 1]
        if batches and self._skip_to_end:
            self._heard.set()  # the end may stand on the next page
            return []
        return batches

    def _drop_live(self) -> None:
        self._live.clear()
        self._live_bytes = 0
        self._from_log = True

    async def _load_turn(self) -> Turn:
        row = await self._hub.database.fetch_one(
            "get_turn_of_tenant", self.turn.id, self.turn.tenant_id
        )
        if row is None:
            raise TurnNotFound
        return turn_from_row(row)

    async def _read_postgres(self) -> list[EventBatch]:
        """What is left to say of a turn that has ended and whose log is gone."""
        try:
            turn = await self._load_turn()
            rows = await self._hub.database.fetch_many(
                "list_output_messages", turn.tenant_id, turn.id
            )
        except PostgresUnavailable:
            self._from_log = True
            return []
        text = "".join(row["content"] for row in rows if row["role"] == "assistant")
        reasoning = "".join(_reasoning_of(row["raw_data"]) for row in rows)
        return replay_ended(turn, text, reasoning, self.cursor)


def replay_ended(turn: Turn, text: str, reasoning: str, after: Cursor) -> list[EventBatch]:
    """A finished turn as few events. All but the end have seq 0: they cannot be resumed from."""
    attempt = max(turn.attempt, 1)
    payloads: list[bytes] = []
    has_spoken = turn.started_at is not None or bool(text)
    if has_spoken and (after.attempt < attempt or after.seq == 0):
        payloads.append(encode_event(TurnStarted(attempt=attempt, model_id=turn.model_id)))
        if reasoning:
            payloads.append(encode_event(ReasoningDelta(text=reasoning)))
        if text:
            payloads.append(encode_event(MessageDelta(text=text)))
    elif has_spoken and after.seq < turn.last_seq:
        payloads.append(encode_event(TurnSnapshot(text=text, reasoning=reasoning)))
    batches = [EventBatch(attempt, 0, [payload]) for payload in payloads]
    end = EventBatch(attempt, max(turn.last_seq, 1), [encode_event(ended_event(turn))])
    return [*batches, end]


def ended_event(turn: Turn) -> TurnEnded:
    """The `turn.ended` of a turn in a terminal status."""
    return TurnEnded(
        status=turn.status,
        error=None if turn.error is None else TurnError.model_validate(turn.error),
        usage=turn.usage,
        output_message_id=None if turn.output_message_id is None else str(turn.output_message_id),
        duration_s=turn.duration_s,
    )


def _reasoning_of(raw: dict[str, object] | None) -> str:
    parts = raw.get("parts") if raw else None
    if not isinstance(parts, list):
        return ""
    return "".join(str(p.get("content", "")) for p in parts if p.get("part_kind") == "thinking")
