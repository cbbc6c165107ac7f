"""A turn's live event log: a Redis stream that is written under fencing and read by cursor.

An entry holds one flush of a writer: consecutive events, its id the place of the last of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

from shared.redis.connection import Argument, RedisConnection
from shared.redis.keys import Keys
from shared.redis.scripts import Word, load_script
from shared.turn.events import Cursor, EventBatch


class LogNames(NamedTuple):
    """What one turn's log is called in Redis: made once for each log, not for each flush."""

    keys: tuple[str, ...]
    """KEYS of both scripts: generation, meta, log."""
    channel: str
    turn: str


ScriptCall = tuple[tuple[str, ...], tuple[Argument, ...]]
READ_PAGE: Final = 16
"""Entries per read: a reader's memory is bounded by so many flushes."""


@dataclass(frozen=True, slots=True)
class LogReply:
    """What a write answered, and the log's last seq when the word tells one."""

    word: Word
    last_seq: int


class EventLog:
    """Writes and reads logs over one connection. Raises as `RedisConnection.call`."""

    def __init__(
        self,
        connection: RedisConnection,
        keys: Keys,
        *,
        max_bytes: int,
        live_ttl_s: int,
        ttl_s: int,
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._max_bytes = max_bytes
        self._live_ttl_s = live_ttl_s
        self._ttl_s = ttl_s
        self._open = load_script("open_log")
        self._append = load_script("append_log")

    def names_of(self, turn_id: UUID) -> LogNames:
        """For `send_open` and `send_append`."""
        keys = self._keys
        return LogNames(
            (keys.generation, keys.meta(turn_id), keys.log(turn_id)),
            keys.feed(turn_id),
            str(turn_id),
        )

    async def open(
        self, turn_id: UUID, attempt: int, generation: str, payloads: list[bytes], *, final: bool
    ) -> LogReply:
        """Begins the log of an attempt with its first events.

        `generation` was read before Postgres confirmed the attempt.
        """
        names = self.names_of(turn_id)
        call = self._open_call(names, attempt, generation, payloads, final=final)
        return parse_reply(await self._open.run(self._connection, *call))

    def send_open(
        self, names: LogNames, attempt: int, generation: str, payloads: list[bytes], *, final: bool
    ) -> asyncio.Future[Any]:
        """As `open`, see `RedisConnection.send`; `parse_reply` reads the reply."""
        call = self._open_call(names, attempt, generation, payloads, final=final)
        return self._open.send(self._connection, *call)

    async def append(
        self, turn_id: UUID, attempt: int, first_seq: int, payloads: list[bytes], *, final: bool
    ) -> LogReply:
        """Adds events `first_seq …` of an open attempt."""
        names = self.names_of(turn_id)
        call = self._append_call(names, attempt, first_seq, payloads, final=final)
        return parse_reply(await self._append.run(self._connection, *call))

    def send_append(
        self, names: LogNames, attempt: int, first_seq: int, payloads: list[bytes], *, final: bool
    ) -> asyncio.Future[Any]:
        """As `append`, see `RedisConnection.send`; `parse_reply` reads the reply."""
        call = self._append_call(names, attempt, first_seq, payloads, final=final)
        return self._append.send(self._connection, *call)

    def _open_call(
        self, names: LogNames, attempt: int, generation: str, payloads: list[bytes], *, final: bool
    ) -> ScriptCall:
        return (
            names.keys,
            (
                attempt,
                generation,
                len(payloads),
                b"\n".join(payloads),
                "1" if final else "0",
                names.channel,
                names.turn,
                self._ttl_s if final else self._live_ttl_s,
            ),
        )

    def _append_call(
        self, names: LogNames, attempt: int, first_seq: int, payloads: list[bytes], *, final: bool
    ) -> ScriptCall:
        return (
            names.keys,
            (
                attempt,
                first_seq,
                len(payloads),
                b"\n".join(payloads),
                "1" if final else "0",
                self._max_bytes,
                names.channel,
                names.turn,
                self._ttl_s,
            ),
        )

    async def load_scripts(self) -> None:
        """Makes sure that Redis knows what `send_open` and `send_append` run."""
        for script in (self._open, self._append):
            await self._connection.call("SCRIPT", "LOAD", script.body)

    async def read(self, turn_id: UUID, after: Cursor) -> list[EventBatch]:
        """The next page of events behind `after`; empty when there are none (now)."""
        entries = await self._connection.call(
            "XRANGE", self._keys.log(turn_id), f"({after}", "+", "COUNT", READ_PAGE
        )
        batches = (_parse_entry(entry) for entry in entries)
        return [rest for batch in batches if (rest := batch.after(after)) is not None]

    async def read_all(self, turn_id: UUID, after: Cursor) -> AsyncIterator[EventBatch]:
        """Every event behind `after` that the log holds now, page by page."""
        while page := await self.read(turn_id, after):
            for batch in page:
                yield batch
            after = page[-1].last

    async def holds(self, turn_id: UUID, cursor: Cursor) -> bool:
        """Whether the log has events at or after `cursor`: it can serve a reader from there."""
        entries = await self._connection.call(
            "XRANGE", self._keys.log(turn_id), str(cursor), "+", "COUNT", 1
        )
        return bool(entries)


def parse_reply(reply: list[Any]) -> LogReply:
    """What a write has answered."""
    return LogReply(Word(reply[0].decode()), int(reply[1]))


def _parse_entry(entry: list[object]) -> EventBatch:
    last = Cursor.parse(entry[0].decode())  # type: ignore[attr-defined]  # replies are bytes
    payloads = entry[1][1].split(b"\n")  # type: ignore[index]
    if last is None:
        raise ValueError("a log entry's id is attempt-seq")
    return EventBatch(last.attempt, last.seq - len(payloads) + 1, payloads)


def parse_message(message: bytes) -> EventBatch:
    """A published append as a batch; the turn's id in front is cut off already."""
    head, _, body = message.partition(b"\n")
    attempt, first_seq, _ = head.split(b" ")
    return EventBatch(int(attempt), int(first_seq), body.split(b"\n"))
