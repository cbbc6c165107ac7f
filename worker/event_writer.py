"""Writes the events of all turns of a process to their logs: coalesced, fenced, repairable.

A turn's first event leaves with the next tick of the loop. While one of its flushes is in flight
the next one gathers: no timer on an idle process, large batches on a busy one. No task per flush:
the reply's callback goes on.

A turn's events stay in memory until it ends, so a log that Redis has lost is written again from its
first event, and readers go on at their cursor as if nothing had happened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from uuid import UUID

import structlog

from shared.errors import PostgresUnavailable, RedisUnavailable, TurnFailed
from shared.metrics import Metrics
from shared.postgres.pool import Database
from shared.redis.connection import RedisReplyError
from shared.redis.dispatch import Dispatch
from shared.redis.event_log import EventLog, LogReply, parse_reply
from shared.redis.scripts import Word
from shared.turn.events import Event, encode_event

log = structlog.get_logger(__name__)

ENTRY_MAX_BYTES: Final = 16_384
"""One log entry holds at most so many bytes (or one event), which bounds a reader's page."""
_RETRY_PAUSE_S: Final = 0.1


class TurnLog:
    """The events of one attempt. `generation` is None until known: Redis was away at the claim."""

    __slots__ = (
        "_writer",
        "attempt",
        "final",
        "flushed",
        "forgotten",
        "generation",
        "in_flight",
        "is_marked",
        "is_open",
        "lost",
        "names",
        "on_fenced",
        "payloads",
        "size_bytes",
        "turn_id",
        "written",
    )

    def __init__(
        self,
        writer: EventWriter,
        turn_id: UUID,
        attempt: int,
        generation: str | None,
        on_fenced: Callable[[], None],
    ) -> None:
        self._writer = writer
        self.turn_id = turn_id
        self.names = writer.event_log.names_of(turn_id)
        self.attempt = attempt
        self.generation = generation
        self.on_fenced = on_fenced
        self.is_open = False
        self.in_flight = False
        self.is_marked = False
        """The writer knows that there is something to write, or is writing."""
        self.forgotten = False
        self.lost = generation is None
        self.final = False
        self.payloads: list[bytes] = []
        self.size_bytes = 0
        self.written = 0
        self.flushed = asyncio.Event()

    @property
    def last_seq(self) -> int:
        """Seq of the newest event, written or not."""
        return len(self.payloads)

    def append(self, event: Event, *, final: bool = False) -> None:
        """Adds an event; it leaves with the next flush.

        Raises:
            TurnFailed: the turn says more than a log may hold.
        """
        payload = encode_event(event)
        self.size_bytes += len(payload)
        if self.size_bytes > self._writer.max_bytes and not final:
            raise TurnFailed("output_limit", "The turn's output exceeds the size limit")
        self.payloads.append(payload)
        self.final = final
        if not self.is_marked:
            self._writer.mark(self)

    def next_chunk(self) -> list[bytes]:
        """The events of the next entry."""
        size = 0
        for index in range(self.written, len(self.payloads)):
            size += len(self.payloads[index])
            if size > ENTRY_MAX_BYTES and index > self.written:
                return self.payloads[self.written : index]
        return self.payloads[self.written :]


class EventWriter:
    """The one writer of a worker process; `run` is its repair loop."""

    def __init__(
        self,
        *,
        event_log: EventLog,
        dispatch: Dispatch,
        database: Database,
        metrics: Metrics,
        max_bytes: int,
        on_generation_lost: Callable[[], None],
    ) -> None:
        self.max_bytes = max_bytes
        self.event_log = event_log
        self._dispatch = dispatch
        self._database = database
        self._metrics = metrics
        self._on_generation_lost = on_generation_lost
        # By log, not by turn: an old attempt and a new one of a turn may be here side by side.
        self._dirty: dict[TurnLog, None] = {}
        self._lost: dict[TurnLog, None] = {}
        self._wake_repair = asyncio.Event()

    def open(
        self, turn_id: UUID, attempt: int, generation: str | None, on_fenced: Callable[[], None]
    ) -> TurnLog:
        """A log for a freshly claimed attempt. `generation` was read before the claim."""
        return TurnLog(self, turn_id, attempt, generation, on_fenced)

    def mark(self, turn_log: TurnLog) -> None:
        """Notes that `turn_log` has something to write."""
        if turn_log.forgotten:
            return
        turn_log.is_marked = True
        turn_log.flushed.clear()
        if turn_log.lost:
            self._lost[turn_log] = None
            self._wake_repair.set()
        elif not turn_log.in_flight:
            if not self._dirty:
                # Behind what is ready to run now: the start of a turn and its first burst are one.
                loop = asyncio.get_running_loop()
                loop.call_soon(loop.call_soon, self._flush_all)
            self._dirty[turn_log] = None

    def flush(self, turn_log: TurnLog) -> bool:
        """Sends the next entry now, before the next command; whether nothing is left after it."""
        if turn_log.in_flight or turn_log.lost or turn_log.forgotten:
            return False
        self._dirty.pop(turn_log, None)
        is_rest = turn_log.written + len(turn_log.next_chunk()) == turn_log.last_seq
        self._flush(turn_log)
        return is_rest

    def forget(self, turn_log: TurnLog) -> None:
        """Drops what is unwritten: the attempt is over or fenced."""
        self._dirty.pop(turn_log, None)
        self._lost.pop(turn_log, None)
        turn_log.forgotten = True
        turn_log.flushed.set()

    def _flush_all(self) -> None:
        dirty, self._dirty = self._dirty, {}
        for turn_log in dirty:
            self._flush(turn_log)

    def _flush(self, turn_log: TurnLog) -> None:
        chunk = turn_log.next_chunk()
        if turn_log.lost:
            return
        if not chunk:
            turn_log.is_marked = False
            return
        final = turn_log.final and turn_log.written + len(chunk) == turn_log.last_seq
        turn_log.in_flight = True
        reply = self._send(turn_log, chunk, final=final)
        reply.add_done_callback(partial(self._replied, turn_log))

    def _send(self, turn_log: TurnLog, chunk: list[bytes], *, final: bool) -> asyncio.Future[Any]:
        if turn_log.is_open:
            return self.event_log.send_append(
                turn_log.names, turn_log.attempt, turn_log.written + 1, chunk, final=final
            )
        # Without a generation a log is lost, and never sent.
        return self.event_log.send_open(
            turn_log.names, turn_log.attempt, turn_log.generation or "", chunk, final=final
        )

    def _replied(self, turn_log: TurnLog, reply: asyncio.Future[Any]) -> None:
        turn_log.in_flight = False
        error = reply.exception()
        if isinstance(error, (RedisUnavailable, RedisReplyError)):
            log.warning("event_log.unwritten", turn_id=str(turn_log.turn_id), error=str(error))
            self._lose(turn_log)
        else:
            self._take_reply(turn_log, parse_reply(reply.result()))

    def _take_reply(self, turn_log: TurnLog, reply: LogReply) -> None:
        self._metrics.log_writes.labels(word=reply.word).inc()
        match reply.word:
            case Word.OK | Word.DUP | Word.GAP:
                turn_log.is_open = True
                turn_log.written = min(reply.last_seq, turn_log.last_seq)
                if turn_log.written < turn_log.last_seq:
                    self.mark(turn_log)
                else:
                    turn_log.is_marked = False
                    turn_log.flushed.set()
            case Word.NOSTATE | Word.STALEGEN:
                self._lose(turn_log)
            case Word.FENCED | Word.CLOSED | Word.FULL:
                self.forget(turn_log)
                turn_log.on_fenced()

    def _lose(self, turn_log: TurnLog) -> None:
        turn_log.lost = True
        self.mark(turn_log)

    async def run(self) -> None:
        """Opens lost logs again until cancelled: generation first, then Postgres, then the log."""
        while True:
            await self._wake_repair.wait()
            self._wake_repair.clear()
            try:
                repaired = await self._repair()
            except (RedisUnavailable, RedisReplyError, PostgresUnavailable):
                repaired = False
            # Also after a success: a log that is lost again at once (Redis is full) must not spin.
            await asyncio.sleep(_RETRY_PAUSE_S)
            if not repaired:
                self._wake_repair.set()

    async def _repair(self) -> bool:
        generation = await self._dispatch.read_generation()
        if generation is None:
            self._on_generation_lost()
            return False
        await self.event_log.load_scripts()
        lost = list(self._lost)
        rows = await self._database.fetch_many(
            "validate_attempts", [t.turn_id for t in lost], [t.attempt for t in lost]
        )
        valid = {row["id"] for row in rows}
        for turn_log in lost:
            self._lost.pop(turn_log, None)
            # An ended turn's last event is still owed to its readers; nobody else can hold it.
            if turn_log.turn_id in valid or turn_log.final:
                turn_log.generation = generation
                turn_log.is_open = False
                turn_log.written = 0
                turn_log.lost = False
                self.mark(turn_log)
            else:
                self.forget(turn_log)
                turn_log.on_fenced()
        return True
