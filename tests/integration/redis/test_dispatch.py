"""Lines, the ready set and fairness, on the real scripts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

import pytest

from shared.ids import new_id
from shared.redis.connection import RedisConnection
from shared.redis.dispatch import (
    CommandConnection,
    Dispatch,
    IdleConnection,
    LineChange,
    ReadyTurns,
)
from shared.redis.keys import Keys
from tests.fixtures.servers import scan
from tests.fixtures.waiting import wait_until

TENANT = UUID(int=0xA)


@dataclass
class Desk:
    dispatch: Dispatch
    redis: RedisConnection
    keys: Keys
    next_seq: int = 0

    async def add(
        self, key: str = "k", *, tenant: UUID = TENANT, limit: int = 1, count: int = 1
    ) -> list[UUID]:
        turns = []
        for _ in range(count):
            self.next_seq += 1
            turn_id = new_id()
            await self.dispatch.settle(
                LineChange(tenant, key, limit, waiting={turn_id: self.next_seq})
            )
            turns.append(turn_id)
        return turns

    async def over(self, *turns: UUID, key: str = "k", limit: int = 1) -> int:
        return await self.dispatch.settle(LineChange(TENANT, key, limit, over=list(turns)))

    async def take(self, most: int = 100) -> list[UUID]:
        ready = await self.dispatch.take_ready(most)
        assert ready is not None
        return ready.turn_ids


@pytest.fixture
async def desk(redis_url: str, redis_prefix: str, redis: RedisConnection) -> AsyncIterator[Desk]:
    keys = Keys(prefix=redis_prefix)
    connection = CommandConnection(redis_url, keys)
    dispatch = Dispatch(connection, keys)
    await dispatch.begin_generation()
    yield Desk(dispatch, redis, keys)
    await connection.close()


async def test_a_key_lets_one_through_at_a_time_in_order(desk: Desk) -> None:
    turns = await desk.add(count=5)
    for turn_id in turns:
        assert await desk.take() == [turn_id]
        assert await desk.take() == []
        await desk.over(turn_id)
    assert await desk.take() == []


async def test_accept_order_counts_and_not_arrival(desk: Desk) -> None:
    first, second, third = new_id(), new_id(), new_id()
    await desk.add()
    for turn_id, seq in ((third, 30), (first, 10), (second, 20)):
        await desk.dispatch.settle(LineChange(TENANT, "k", 1, waiting={turn_id: seq}))
    (running,) = await desk.take()
    order = []
    for _ in range(3):
        await desk.over(running)
        (running,) = await desk.take()
        order.append(running)
    assert order == [first, second, third]


async def test_a_limit_of_three_lets_three_through(desk: Desk) -> None:
    turns = await desk.add(limit=3, count=7)
    assert await desk.take() == turns[:3]
    assert await desk.over(turns[1], limit=3) == 1
    assert await desk.take() == [turns[3]]
    assert await desk.over(turns[0], turns[2], turns[3], limit=3) == 3
    assert await desk.take() == turns[4:]


async def test_saying_it_twice_changes_nothing_more(desk: Desk) -> None:
    first, second, third = await desk.add(count=3)
    waiting = {first: 1, second: 2, third: 3}
    for _ in range(3):
        assert await desk.dispatch.settle(LineChange(TENANT, "k", 1, waiting=waiting)) == 0
    assert await desk.take() == [first]
    assert await desk.dispatch.settle(LineChange(TENANT, "k", 1, waiting=waiting)) == 0
    assert await desk.take() == []
    assert await desk.over(first) == 1
    assert await desk.over(first) == 0
    assert await desk.take() == [second]


async def test_who_runs_takes_a_slot_and_leaves_the_line(desk: Desk) -> None:
    first, second = await desk.add(count=2)
    await desk.take()
    lost = LineChange(TENANT, "k", 1, over=[first], running=[second])
    assert await desk.dispatch.settle(lost) == 0
    assert await desk.take() == []
    assert await desk.over(second) == 0


async def test_a_flood_of_one_tenant_does_not_move_another(desk: Desk) -> None:
    flood_tenant, calm_tenant = UUID(int=1), UUID(int=2)
    flood = []
    for number in range(200):
        flood += await desk.add(f"a{number}", tenant=flood_tenant)
    served = await desk.take(50)
    assert served == flood[:50]
    calm = []
    for number in range(10):
        calm += await desk.add(f"b{number}", tenant=calm_tenant)
    order = await desk.take(40)
    places = [order.index(turn_id) for turn_id in calm]
    # Served in turn with the flood: place of the n-th is 2n, not 150.
    assert all(place <= 2 * n + 2 for n, place in enumerate(places)), places


async def test_three_tenants_with_a_backlog_share_evenly(desk: Desk) -> None:
    owner: dict[UUID, int] = {}
    for tenant, count in ((1, 100), (2, 60), (3, 40)):
        for number in range(count):
            (turn_id,) = await desk.add(f"{tenant}.{number}", tenant=UUID(int=tenant))
            owner[turn_id] = tenant
    first = [owner[turn_id] for turn_id in await desk.take(90)]
    assert {tenant: first.count(tenant) for tenant in (1, 2, 3)} == {1: 30, 2: 30, 3: 30}


async def test_a_reset_frees_slots_of_turns_that_were_forgotten(desk: Desk) -> None:
    lost, waits = await desk.add(count=2)
    assert await desk.take() == [lost]
    change = LineChange(TENANT, "k", 1, waiting={waits: 2}, reset=True)
    assert await desk.dispatch.settle(change) == 1
    assert await desk.take() == [waits]


async def test_a_reset_leaves_a_turn_alone_that_is_ready(desk: Desk) -> None:
    (turn_id,) = await desk.add()
    change = LineChange(TENANT, "k", 1, waiting={turn_id: 1}, reset=True)
    assert await desk.dispatch.settle(change) == 0
    assert await desk.take() == [turn_id]
    assert await desk.take() == []


async def test_an_idle_worker_is_handed_the_next_turn(desk: Desk, redis_url: str) -> None:
    generation = await desk.dispatch.read_generation() or ""
    idle = IdleConnection(redis_url)
    waiting = asyncio.create_task(idle.take_one(desk.keys, generation, 5))
    await wait_until(lambda: idle.is_ready, "it waits")
    (turn_id,) = await desk.add()
    assert await waiting == ReadyTurns(generation, [turn_id])
    assert await desk.take() == []
    await idle.close()


async def test_a_worker_that_waits_can_be_told_to_stop_and_gives_back_what_it_got(
    desk: Desk, redis_url: str
) -> None:
    idle = IdleConnection(redis_url)
    waiting = asyncio.create_task(idle.take_one(desk.keys, "g", 5))
    await wait_until(lambda: idle.is_ready, "it waits")
    await idle.stop_waiting(desk.redis)
    async with asyncio.timeout(4):
        assert await waiting is None
    first, second = await desk.add("a") + await desk.add("b")
    taken = await idle.take_one(desk.keys, "g", 5)
    assert taken is not None
    await desk.dispatch.return_ready(taken)
    assert await desk.take() == [first, second]
    await idle.close()


async def test_nothing_is_taken_from_a_redis_without_state(desk: Desk) -> None:
    (turn_id,) = await desk.add()
    await desk.redis.call("DEL", desk.keys.generation)
    assert await desk.dispatch.take_ready(10) is None
    assert not await desk.dispatch.keep_generation()
    await desk.dispatch.begin_generation()
    assert await desk.take() == [turn_id]


async def test_every_key_has_a_ttl(desk: Desk) -> None:
    turns = await desk.add(limit=2, count=4)
    await desk.take(1)
    await desk.over(turns[0], limit=2)
    keys = await scan(desk.redis, f"{desk.keys.prefix}:*")
    assert len(keys) == 6
    for key in keys:
        assert await desk.redis.call("TTL", key) > 0, key
