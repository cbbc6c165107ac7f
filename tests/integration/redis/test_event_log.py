"""The event log's scripts on a real server: every word, and every blind retry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

import pytest

from shared.ids import new_id
from shared.redis.connection import RedisConnection
from shared.redis.dispatch import CommandConnection, Dispatch
from shared.redis.event_log import READ_PAGE, EventLog, LogReply, parse_message
from shared.redis.keys import Keys
from shared.redis.scripts import Word
from shared.redis.subscriber import Subscriber
from shared.turn.events import START, Cursor, EventBatch
from tests.fixtures.waiting import wait_until


@dataclass
class Log:
    """One turn's log, and the generation of its Redis."""

    log: EventLog
    dispatch: Dispatch
    redis: RedisConnection
    keys: Keys
    turn_id: UUID
    generation: str

    async def open(self, attempt: int, *payloads: bytes, final: bool = False) -> LogReply:
        return await self.log.open(
            self.turn_id, attempt, self.generation, list(payloads) or [b"s"], final=final
        )

    async def append(
        self, attempt: int, first: int, *payloads: bytes, final: bool = False
    ) -> LogReply:
        return await self.log.append(self.turn_id, attempt, first, list(payloads), final=final)

    async def new_generation(self) -> None:
        await self.redis.call("DEL", self.keys.generation)
        self.generation = await self.dispatch.begin_generation()

    async def read(self, after: Cursor = START) -> list[tuple[int, int, list[bytes]]]:
        return [tuple(batch) async for batch in self.log.read_all(self.turn_id, after)]  # type: ignore[misc]


@pytest.fixture
async def log(redis_url: str, redis_prefix: str, redis: RedisConnection) -> AsyncIterator[Log]:
    keys = Keys(prefix=redis_prefix)
    connection = CommandConnection(redis_url, keys)
    dispatch = Dispatch(connection, keys)
    generation = await dispatch.begin_generation()
    event_log = EventLog(connection, keys, max_bytes=100, live_ttl_s=500, ttl_s=50)
    yield Log(event_log, dispatch, redis, keys, new_id(), generation)
    await connection.close()


async def test_open_then_append_then_close(log: Log) -> None:
    assert await log.open(1, b"a", b"b") == LogReply(Word.OK, 2)
    assert await log.append(1, 3, b"c") == LogReply(Word.OK, 3)
    assert await log.append(1, 4, b"d", b"e", final=True) == LogReply(Word.OK, 5)
    assert await log.read() == [(1, 1, [b"a", b"b"]), (1, 3, [b"c"]), (1, 4, [b"d", b"e"])]
    assert await log.append(1, 6, b"f") == LogReply(Word.CLOSED, 5)


async def test_a_blind_retry_is_told_so_and_changes_nothing(log: Log) -> None:
    await log.open(1, b"a")
    assert await log.open(1, b"a") == LogReply(Word.DUP, 1)
    await log.append(1, 2, b"b")
    assert await log.append(1, 2, b"b") == LogReply(Word.DUP, 2)
    await log.append(1, 3, b"c", final=True)
    assert await log.append(1, 3, b"c", final=True) == LogReply(Word.DUP, 3)
    assert await log.read() == [(1, 1, [b"a"]), (1, 2, [b"b"]), (1, 3, [b"c"])]


async def test_a_blind_retry_of_an_open_that_also_ends_is_told_so(log: Log) -> None:
    await log.open(1, b"a", b"end", final=True)
    assert await log.open(1, b"a", b"end", final=True) == LogReply(Word.DUP, 2)
    assert await log.read() == [(1, 1, [b"a", b"end"])]


async def test_an_older_attempt_is_fenced(log: Log) -> None:
    await log.open(1, b"old")
    await log.open(2, b"new")
    assert await log.append(1, 2, b"late") == LogReply(Word.FENCED, 2)
    assert await log.open(1, b"late") == LogReply(Word.FENCED, 2)
    assert await log.read() == [(1, 1, [b"old"]), (2, 1, [b"new"])]


async def test_an_ended_log_takes_no_newer_attempt(log: Log) -> None:
    await log.open(1, b"end", final=True)
    assert await log.open(2, b"more") == LogReply(Word.CLOSED, 1)


async def test_a_gap_is_refused(log: Log) -> None:
    await log.open(1, b"a")
    assert await log.append(1, 3, b"c") == LogReply(Word.GAP, 1)
    assert await log.read() == [(1, 1, [b"a"])]


async def test_an_append_to_nothing_is_refused(log: Log) -> None:
    assert (await log.append(1, 2, b"b")).word is Word.NOSTATE


async def test_a_log_of_another_generation_is_as_good_as_lost(log: Log) -> None:
    await log.open(1, b"a")
    stale = log.generation
    await log.new_generation()
    assert (await log.append(1, 2, b"b")).word is Word.NOSTATE
    reply = await log.log.open(log.turn_id, 1, stale, [b"a"], final=False)
    assert reply.word is Word.STALEGEN
    assert await log.open(1, b"a", b"b") == LogReply(Word.OK, 2)
    assert await log.read() == [(1, 1, [b"a", b"b"])]


async def test_without_a_generation_nothing_opens(log: Log) -> None:
    await log.redis.call("DEL", log.keys.generation)
    assert (await log.open(1, b"a")).word is Word.STALEGEN
    assert await log.dispatch.read_generation() is None


async def test_a_full_log_takes_nothing_but_the_end(log: Log) -> None:
    await log.open(1, b"x" * 60)
    assert await log.append(1, 2, b"x" * 60) == LogReply(Word.FULL, 1)
    assert await log.append(1, 2, b"x" * 60, final=True) == LogReply(Word.OK, 2)


async def test_a_log_lives_for_a_while_and_its_end_shortens_that(log: Log) -> None:
    keys = (log.keys.meta(log.turn_id), log.keys.log(log.turn_id))
    await log.open(1, b"a")
    for key in keys:
        assert 490 < await log.redis.call("TTL", key) <= 500
    await log.append(1, 2, b"end", final=True)
    for key in keys:
        assert 40 < await log.redis.call("TTL", key) <= 50


async def test_reading_goes_on_behind_any_cursor_and_over_pages(log: Log) -> None:
    await log.open(1, b"1")
    first = 2
    while first <= 3 * READ_PAGE:
        event_log = EventLog(
            log.log._connection, log.keys, max_bytes=10**6, live_ttl_s=60, ttl_s=60
        )
        payloads = [str(n).encode() for n in range(first, first + 3)]
        await event_log.append(log.turn_id, 1, first, payloads, final=False)
        first += 3
    for cursor in (START, Cursor(1, 1), Cursor(1, 3), Cursor(1, 100), Cursor(1, first - 1)):
        seen = [payload for _, _, batch in await log.read(cursor) for payload in batch]
        assert seen == [str(n).encode() for n in range(cursor.seq + 1, first)]
    assert await log.log.holds(log.turn_id, Cursor(1, first - 1))
    assert not await log.log.holds(log.turn_id, Cursor(1, first))


async def test_what_is_appended_is_published_once(log: Log, redis_url: str) -> None:
    heard: list[bytes | None] = []
    async with Subscriber(redis_url) as subscriber:
        await subscriber.subscribe(log.keys.feed(log.turn_id), heard.append)
        heard.clear()
        await log.open(1, b"a", b"b")
        await log.open(1, b"a", b"b")
        await log.append(1, 3, b"c")
        await log.append(1, 3, b"c")
        await log.append(1, 9, b"z")
        await log.append(1, 4, b"d", final=True)
        await wait_until(lambda: len(heard) >= 3, "three messages arrive")
    batches = [parse_message(message.partition(b" ")[2]) for message in heard if message]
    assert batches == [
        EventBatch(1, 1, [b"a", b"b"]), EventBatch(1, 3, [b"c"]), EventBatch(1, 4, [b"d"]),
    ]  # fmt: skip


async def test_a_server_restarted_from_an_older_state_is_not_trusted(
    log: Log, redis_url: str
) -> None:
    await log.redis.call("SET", log.keys.generation, "an-older-run:abc", "EX", 60)
    connection = CommandConnection(redis_url, log.keys)
    assert await Dispatch(connection, log.keys).read_generation() is None
    await connection.close()


async def test_the_guard_leaves_a_generation_of_this_server_alone(log: Log, redis_url: str) -> None:
    connection = CommandConnection(redis_url, log.keys)
    assert await Dispatch(connection, log.keys).read_generation() == log.generation
    assert await Dispatch(connection, log.keys).begin_generation() == log.generation
    await connection.close()


async def test_nobody_slips_past_the_guard_of_a_new_connection(log: Log, redis_url: str) -> None:
    await log.redis.call("SET", log.keys.generation, "an-older-run:abc", "EX", 60)
    connection = CommandConnection(redis_url, log.keys)
    dispatch = Dispatch(connection, log.keys)
    answers: list[asyncio.Task[str | None]] = []
    async with asyncio.TaskGroup() as group:
        opening = group.create_task(connection.call("PING"))
        while not opening.done():
            answers.append(group.create_task(dispatch.read_generation()))
            await asyncio.sleep(0)
    assert {task.result() for task in answers} == {None}
    await connection.close()
