"""Following a turn: every event once, in order, across reconnects, lost logs and slow readers.

The order that leaves no gap: listen → read the log after the cursor → live; whenever something may
have been missed (a subscription that begins or was lost), read the log again. A reader that
listens before its turn is announced needs no log at all.

Each reader has one bounded buffer, and one that cannot keep up drops it and reads the log at its
own pace.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Self
from uuid import UUID

import asyncpg
import structlog

from shared.errors import PostgresUnavailable, RedisUnavailable, TurnNotFound
from shared.lean_event import LeanEvent
from shared.postgres.pool import Database
from shared.postgres.rows import turn_from_row
from shared.redis.connection import RedisReplyError
from shared.redis.event_log import EventLog
from shared.redis.turn_feed import Listener, TurnFeed
from shared.turn.events import START, Cursor, EventBatch, is_ended, is_parked
from shared.turn.messages import is_truncated
from shared.turn.model import Turn
from shared.turn.replay import reasoning_of, replay_ended, replay_parked
from shared.turn.state import TurnStatus

log = structlog.get_logger(__name__)

WATCH_INTERVAL_S: Final = 2.0
"""How often Postgres is asked which followed turns are over or parked, should Redis not say so."""
AWAY_POLL_S: Final = 1.0
"""How often a log is tried that could not be read."""
_TELLINGS_NEEDED: Final = 2
"""Once Postgres has said so often that a turn is parked, its log is not waited for any more."""
END_GRACE_S: Final = 1.5
"""A worker tells Redis of an end after Postgres: so long, at least, its word is waited for."""


class FollowHub:
    """All followers of a process. `run` is its loop."""

    def __init__(
        self,
        *,
        database: Database,
        feed: TurnFeed,
        event_log: EventLog,
        buffer_bytes: int,
    ) -> None:
        self.database = database
        self.event_log = event_log
        self.buffer_bytes = buffer_bytes
        self.feed = feed
        self.is_draining = False
        self._followers: dict[UUID, set[Follower]] = {}
        self._awaited_ends: set[asyncio.Event] = set()

    def follow(self, turn: Turn, after: Cursor = START) -> Follower:
        """A reader of `turn` behind `after`; use it as `async with`."""
        return Follower(self, turn.id, turn, after)

    def follow_new(self, turn_id: UUID) -> Follower:
        """A reader that is there before its turn is announced: it misses nothing.

        `Follower.begin` names the turn once it is accepted; `close` must follow in any case.
        """
        follower = Follower(self, turn_id, None, START)
        follower.listen()
        return follower

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
        """An event that is set when the turn ends or is parked, or when that may be missed."""
        ended = asyncio.Event()

        def hear(batch: EventBatch | None) -> None:
            if batch is None or is_ended(batch.payloads[-1]) or is_parked(batch.payloads[-1]):
                ended.set()

        listener = self.feed.listen(turn_id, hear)
        self._awaited_ends.add(ended)
        try:
            yield ended
        finally:
            self._awaited_ends.discard(ended)
            listener.close()

    def drain(self) -> None:
        """Wakes every reader and every waiting caller: from now on nobody waits here."""
        self.is_draining = True
        for followers in self._followers.values():
            for follower in followers:
                follower.interrupt()
        for ended in self._awaited_ends:
            ended.set()

    def remember(self, follower: Follower) -> None:
        """Counts a follower among those who are told of drains and ends."""
        self._followers.setdefault(follower.turn_id, set()).add(follower)
        if self.is_draining:
            follower.interrupt()  # it came too late to be told

    def forget(self, follower: Follower) -> None:
        """Ends what `remember` began."""
        followers = self._followers.get(follower.turn_id)
        if followers is not None:
            followers.discard(follower)
            if not followers:
                del self._followers[follower.turn_id]

    async def run(self) -> None:
        """Asks Postgres which followed turns have ended, until cancelled."""
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            self.feed.unsubscribe_idle()
            ids = list(self._followers)
            if not ids:
                continue
            try:
                rows = await self.database.fetch_many("list_silent_turns", ids)
            except PostgresUnavailable:
                continue
            for row in rows:
                for follower in self._followers.get(row["id"], ()):
                    if row["has_ended"]:
                        follower.note_ended()
                    else:
                        follower.note_parked(Cursor(row["attempt"], row["last_seq"]))


class Follower:
    """One reader's way through a turn's events."""

    __slots__ = (
        "_ended_at",
        "_from_log",
        "_heard",
        "_hub",
        "_interrupted",
        "_is_new",
        "_listener",
        "_live",
        "_live_bytes",
        "_parked_count",
        "_skip_to_end",
        "_turn",
        "cursor",
        "is_done",
        "turn_id",
    )

    def __init__(self, hub: FollowHub, turn_id: UUID, turn: Turn | None, after: Cursor) -> None:
        self.turn_id = turn_id
        self.cursor = after
        self.is_done = LeanEvent()
        """Set once `turn.ended` was handed out, or the reader left."""
        self._hub = hub
        self._turn = turn
        self._is_new = turn is None
        """It came before its turn was announced, and has missed nothing since."""
        self._live: list[EventBatch] = []
        self._live_bytes = 0
        self._from_log = True
        self._heard = LeanEvent()
        self._ended_at = time.monotonic() if turn is not None and turn.is_terminal else None
        self._parked_count = 0
        self._skip_to_end = False
        self._interrupted = False
        self._listener: Listener | None = None

    @property
    def turn(self) -> Turn:
        """The turn as it was when the reader came."""
        if self._turn is None:
            raise RuntimeError("the turn of this reader has not begun")
        return self._turn

    def begin(self, turn: Turn) -> None:
        """Names the turn of a reader that came before it."""
        self._turn = turn

    async def __aenter__(self) -> Self:
        if not self.turn.is_terminal:
            self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def listen(self) -> None:
        """Hears what is published from now on; calling it again does nothing."""
        if self._listener is not None:
            return
        self._listener = self._hub.feed.listen(self.turn_id, self.hear)
        # Of a turn that nobody has announced yet, nothing was published before.
        self._from_log = not (self._is_new and self._listener.is_live)
        self._hub.remember(self)

    def close(self) -> None:
        """Leaves; closing again does nothing."""
        self.is_done.set()
        if self._listener is not None:
            self._listener.close()
        self._hub.forget(self)

    def hear(self, batch: EventBatch | None) -> None:
        """Takes a published batch; None means that some may have been missed."""
        if batch is None:
            self._from_log, self._is_new = True, False
        elif not self._from_log:
            self._live.append(batch)
            self._live_bytes += batch.size_bytes
            if self._live_bytes > self._hub.buffer_bytes:
                self._drop_live()
        self._heard.set()

    def note_ended(self) -> None:
        """Postgres says that the turn has ended; told again later, the log is not waited for."""
        if self._ended_at is None:
            self._ended_at = time.monotonic()
        self._from_log = True
        self._heard.set()

    def note_parked(self, at: Cursor) -> None:
        """Postgres says that the turn is parked, and that its attempt's last event is `at`."""
        if self.cursor < at:
            self._parked_count += 1
            self._look_again()

    def interrupt(self) -> None:
        """Makes the present or the next `read` return at once."""
        self._interrupted = True
        self._heard.set()

    def skip_to_end(self) -> None:
        """Hands out nothing but the end from now on."""
        self._skip_to_end = True
        self._heard.set()

    async def read(self, timeout_s: float | None = None) -> list[EventBatch]:
        """The next events, at least one batch; empty after `timeout_s` or an interrupt.

        After the batch that ends with `turn.ended`, `is_done` is set.

        Raises:
            TurnNotFound: the turn was deleted.
        """
        clock = asyncio.get_running_loop().time
        deadline = None if timeout_s is None else clock() + timeout_s
        while not self.is_done.is_set():
            self._heard.clear()
            batches = self._pass_on(await self._read_log() if self._from_log else self._take_live())
            if batches:
                return batches
            left_s = None if deadline is None else deadline - clock()
            if self._interrupted or (left_s is not None and left_s <= 0):
                self._interrupted = False
                return []
            if left_s is None and not self._from_log:
                await self._heard.wait()
            else:
                await self._wait(left_s)
        return []

    async def _wait(self, timeout_s: float | None) -> None:
        if self._from_log:  # Redis is away
            timeout_s = AWAY_POLL_S if timeout_s is None else min(timeout_s, AWAY_POLL_S)
        try:
            async with asyncio.timeout(timeout_s):
                await self._heard.wait()
        except TimeoutError:
            return

    async def _read_log(self) -> list[EventBatch]:
        # From here on messages are kept: what is published while the log is read comes after it.
        self._drop_live()
        self._from_log = False
        try:
            batches = await self._hub.event_log.read(self.turn_id, self.cursor)
        except (RedisUnavailable, RedisReplyError):
            batches = []
            self._from_log = True
        if batches:
            self._from_log = True  # there may be more pages
            return batches
        if self._parked_count >= _TELLINGS_NEEDED and self._ended_at is None:
            self._parked_count = 0
            return await self._read_parked()
        if self._ended_at is None and self.cursor == START and not self._is_new:
            # Nothing was logged yet: it may wait, or have ended or been parked before we listened.
            await self._check_silent()
            return []
        if self._is_end_overdue() or not await self._may_hear_end():
            return await self._read_ended()
        return []

    async def _may_hear_end(self) -> bool:
        """Whether the log is still to be heard of: a turn is ended in Postgres first, then there.

        Of a turn that was over before we came, that is so while it has a log without an end.
        """
        if self._listener is not None:
            return True
        try:
            if not await self._hub.event_log.holds(self.turn_id, START):
                return False
        except (RedisUnavailable, RedisReplyError):
            return False
        self.listen()
        self._look_again()
        return True

    def _look_again(self) -> None:
        self._from_log = True
        self._heard.set()

    async def _check_silent(self) -> None:
        try:
            turn = await self._load_turn()
        except PostgresUnavailable:
            return
        if turn.is_terminal:
            self._ended_at = time.monotonic()
            self._look_again()
        elif turn.status is TurnStatus.AWAITING_APPROVAL:
            self._parked_count = _TELLINGS_NEEDED
            self._look_again()

    def _is_end_overdue(self) -> bool:
        return self._ended_at is not None and time.monotonic() - self._ended_at >= END_GRACE_S

    def _take_live(self) -> list[EventBatch]:
        live, self._live, self._live_bytes = self._live, [], 0
        batches: list[EventBatch] = []
        place = self.cursor
        for batch in live:
            if batch.attempt == place.attempt and batch.first_seq == place.seq + 1:
                rest = batch
            else:
                unseen = batch.after(place)
                if unseen is None or unseen.attempt < place.attempt:
                    continue
                if unseen.first_seq != (place.seq + 1 if unseen.attempt == place.attempt else 1):
                    self._look_again()
                    break
                rest = unseen
            batches.append(rest)
            place = rest.last
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
        row = await self._hub.database.for_tenant(self.turn).fetch_one(
            "get_turn_of_tenant", self.turn_id, self.turn.tenant_id
        )
        if row is None:
            raise TurnNotFound
        return turn_from_row(row)

    async def _load_said(self) -> tuple[Turn, list[asyncpg.Record]] | None:
        """The turn and its messages; None: Postgres is away, and the log is tried again."""
        try:
            turn = await self._load_turn()
            rows = await self._hub.database.for_tenant(turn).fetch_many(
                "list_output_messages", turn.tenant_id, turn.id
            )
        except PostgresUnavailable:
            self._from_log = True
            return None
        return turn, rows

    async def _read_ended(self) -> list[EventBatch]:
        """What is left to say of a turn that has ended and whose log is gone."""
        said = await self._load_said()
        if said is None:
            return []
        turn, rows = said
        text = "".join(row["content"] for row in rows if row["role"] == "assistant")
        reasoning = "".join(reasoning_of(row["raw_data"]) for row in rows)
        truncated = is_truncated(row["raw_data"] for row in rows)
        return replay_ended(turn, text, reasoning, self.cursor, truncated=truncated)

    async def _read_parked(self) -> list[EventBatch]:
        """What a parked turn has said, from Postgres: its log is gone, or lacks the end."""
        said = await self._load_said()
        if said is None:
            return []
        turn, rows = said
        if turn.status is not TurnStatus.AWAITING_APPROVAL:
            return []  # the next attempt tells everything
        return replay_parked(turn, [row["raw_data"] for row in rows], self.cursor)
