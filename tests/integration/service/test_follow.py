"""A reader's way through lost messages, on a log that the test writes itself."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from structlog.testing import capture_logs

from shared import background
from shared.redis.connection import RedisConnection
from shared.redis.event_log import READ_PAGE
from shared.service import follow
from shared.service.follow import Follower
from shared.turn.events import Cursor, MessageDelta, encode_event
from shared.turn.model import Principal, Turn
from tests.fixtures.system import Api, MakeTurn, places
from tests.fixtures.waiting import wait_until

END = b'{"type":"turn.ended","status":"completed"}'


@dataclass
class Stage:
    api: Api
    turn: Turn
    follower: Follower
    seq: int = 0

    async def say(self, *, attempt: int = 1, opens: bool = False, ends: bool = False) -> None:
        """One more event in the log."""
        self.seq = 1 if opens else self.seq + 1
        payload = END if ends else encode_event(MessageDelta(text=f"{attempt}-{self.seq}"))
        log, turn_id = self.api.event_log, self.turn.id
        if opens:
            generation = await self.api.dispatch.read_generation()
            await log.open(turn_id, attempt, generation or "", [payload], final=ends)
        else:
            await log.append(turn_id, attempt, self.seq, [payload], final=ends)

    async def read(self, count: int, timeout_s: float = 1.5) -> list[Cursor]:
        seen: list[Cursor] = []
        async with asyncio.timeout(timeout_s):
            while len(seen) < count:
                seen += places(await self.follower.read(timeout_s))
        return seen


@pytest.fixture
async def stage(api: Api, make_turn: MakeTurn) -> AsyncIterator[Stage]:
    await api.dispatch.begin_generation()
    turn = await api.submit(make_turn())
    async with api.hub.follow(turn) as follower:
        yield Stage(api, turn, follower)


async def test_a_reader_who_left_is_freed_without_the_collector(
    api: Api, make_turn: MakeTurn
) -> None:
    turn = await api.submit(make_turn())
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            async with api.hub.follow(turn) as follower:
                follower.interrupt()
                await follower.read()
            del follower
        assert not [thing for thing in gc.get_objects() if isinstance(thing, Follower)]
    finally:
        gc.enable()


async def test_a_message_that_never_came_is_read_from_the_log(stage: Stage) -> None:
    await stage.say(opens=True)
    await stage.say()
    assert await stage.read(2) == [Cursor(1, 1), Cursor(1, 2)]
    assert await stage.follower.read(0.05) == [], "it reads live from here on"
    listener = stage.follower._listener
    assert listener is not None
    hear, listener.hear = listener.hear, lambda _: None
    await stage.say()
    await stage.say()
    await stage.api.connection.call("PING")
    await asyncio.sleep(0.05)  # both messages have come and gone
    listener.hear = hear
    await stage.say()
    assert await stage.read(3) == [Cursor(1, 3), Cursor(1, 4), Cursor(1, 5)]


async def test_what_was_said_while_the_subscription_was_lost_is_read_from_the_log(
    stage: Stage, redis: RedisConnection
) -> None:
    await stage.say(opens=True)
    assert await stage.read(1) == [Cursor(1, 1)]
    assert await stage.follower.read(0.05) == []
    subscriber = stage.api.subscriber
    await redis.call("CLIENT", "KILL", "TYPE", "pubsub")
    await wait_until(lambda: not subscriber.is_connected, "the subscription is lost")
    await stage.say()
    assert await stage.read(1) == [Cursor(1, 2)]


async def test_a_new_attempt_is_followed_from_its_first_event(stage: Stage) -> None:
    await stage.say(opens=True)
    await stage.say()
    assert len(await stage.read(2)) == 2
    await stage.say(opens=True, attempt=2)
    await stage.say(attempt=2, ends=True)
    assert await stage.read(2) == [Cursor(2, 1), Cursor(2, 2)]
    assert stage.follower.is_done.is_set()
    assert await stage.follower.read(1) == []


async def test_a_published_repetition_is_not_handed_out_again(stage: Stage) -> None:
    await stage.say(opens=True)
    await stage.say()
    assert len(await stage.read(2)) == 2
    assert await stage.follower.read(0.05) == []
    # The log is lost and written again from its first event.
    await stage.api.connection.call("DEL", stage.api.keys.meta(stage.turn.id))
    await stage.api.connection.call("DEL", stage.api.keys.log(stage.turn.id))
    await stage.say(opens=True)
    await stage.say()
    await stage.say()
    assert await stage.read(1) == [Cursor(1, 3)]


async def test_a_reader_in_a_hurry_is_handed_the_end_alone(stage: Stage) -> None:
    await stage.say(opens=True)
    stage.follower.skip_to_end()
    await stage.say()
    await stage.say(ends=True)
    assert await stage.read(1) == [Cursor(1, 3)]


async def test_an_interrupt_makes_a_read_return(stage: Stage) -> None:
    reading = asyncio.create_task(stage.follower.read(20))
    await asyncio.sleep(0)
    stage.api.hub.drain()
    async with asyncio.timeout(10):
        assert await reading == []


async def test_a_reader_that_comes_during_a_drain_does_not_wait(stage: Stage) -> None:
    stage.api.hub.drain()
    async with asyncio.timeout(10), stage.api.hub.follow(stage.turn) as late:
        assert await late.read() == []


async def test_a_log_that_redis_refuses_to_read_is_told_from_postgres(
    stage: Stage, principal: Principal
) -> None:
    turn, api = stage.turn, stage.api
    await api.connection.call("SET", api.keys.log(turn.id), "no log", "EX", 60)
    assert await stage.follower.read(0.1) == []
    await api.cancels.cancel(principal, turn.id)
    assert await stage.read(1, timeout_s=8) == [Cursor(1, 1)]
    assert stage.follower.is_done.is_set()


async def test_an_end_that_postgres_knows_first_is_still_read_from_the_log(
    stage: Stage, admin: Any
) -> None:
    await stage.say(opens=True)
    await stage.say()
    await admin.execute(
        "update turns set status = 'completed', attempt = 1, last_seq = 3, started_at = now(),"
        " ended_at = now() where id = $1",
        stage.turn.id,
    )
    turn = await stage.api.reload(stage.turn)
    async with stage.api.hub.follow(turn, Cursor(1, 1)) as late:
        assert places(await late.read(1)) == [Cursor(1, 2)]
        late.note_ended()
        assert await late.read(0.3) == [], "its worker has a moment to tell Redis"
        await stage.say(ends=True)
        assert places(await late.read(1)) == [Cursor(1, 3)]


async def test_an_end_is_learnt_from_postgres_though_a_look_at_it_has_failed(
    stage: Stage, principal: Principal, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "WATCH_INTERVAL_S", 0.05)
    monkeypatch.setattr(background, "RESTART_PAUSE_S", 0.05)
    turn, api = stage.turn, stage.api
    await api.connection.call("SET", api.keys.log(turn.id), "no log", "EX", 60)
    assert await stage.follower.read(0.1) == []
    await admin.execute("alter table turns rename to turns_meanwhile")
    with capture_logs() as told:
        await wait_until(lambda: told, "a look at the ended turns has failed")
    await admin.execute("alter table turns_meanwhile rename to turns")
    await api.cancels.cancel(principal, turn.id)
    assert await stage.read(1, timeout_s=8) == [Cursor(1, 1)]


async def test_a_reader_told_to_skip_to_the_end_does_not_rest_at_every_page(stage: Stage) -> None:
    await stage.say(opens=True)
    for _ in range(3 * READ_PAGE):
        await stage.say()
    await stage.say(ends=True)
    stage.follower.skip_to_end()
    assert await stage.read(1, timeout_s=0.9) == [Cursor(1, 3 * READ_PAGE + 2)]
