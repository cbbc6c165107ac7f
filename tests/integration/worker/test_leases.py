"""A worker that lives keeps its turns: whatever Redis does, and whoever else locks their rows."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
from pydantic import SecretStr

from shared.redis.connection import RedisAddress
from shared.turn.model import Turn
from tests.fixtures.proxy import open_link, redis_upstream, redis_url_through
from tests.fixtures.system import Api, MakeTurn, RunningWorker, StartWorker
from tests.fixtures.waiting import wait_until


async def holds(worker: RunningWorker, *turns: Turn) -> None:
    await wait_until(lambda: all(worker.parts.held.get(turn.id) for turn in turns), "it runs")


async def test_a_heartbeat_that_loses_a_deadlock_beats_again(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, database_url: str, admin: Any
) -> None:
    worker = await start_worker()
    turns = [await api.submit(make_turn(key=f"k{number}", hangAfter=0)) for number in range(2)]
    await holds(worker, *turns)
    rival = await asyncpg.connect(database_url)
    try:
        for first, second in (turns, reversed(turns)):
            victims = 0
            async with rival.transaction():
                await rival.execute("select 1 from turns where id = $1 for update", first.id)
                await wait_until(lambda: is_waiting(admin), "the heartbeat waits for the lock")
                try:
                    await rival.execute("select 1 from turns where id = $1 for update", second.id)
                except asyncpg.DeadlockDetectedError:
                    victims += 1
            assert victims == 0, "the rival was to win"
    finally:
        await rival.close()
    before = await admin.fetchval("select min(lease_until) from turns")
    await wait_until(lambda: is_renewed(admin, before), "the leases are renewed")
    assert not worker.main.done()
    assert all(turn.attempt == 1 for turn in [await api.reload(turn) for turn in turns])


async def is_waiting(admin: Any) -> bool:
    return bool(await admin.fetchval("select exists (select 1 from pg_locks where not granted)"))


async def is_renewed(admin: Any, before: Any) -> bool:
    return bool(await admin.fetchval("select min(lease_until) > $1 from turns", before))


async def test_two_workers_keep_their_turns_while_redis_hangs(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, redis_url: str, admin: Any
) -> None:
    async with open_link(redis_upstream(redis_url)) as link:
        url = SecretStr(redis_url_through(link, redis_url))
        first, second = [await start_worker(redis_url=url, lease_s=1.5) for _ in range(2)]
        turn = await api.submit(make_turn(deltas=2, hangAfter=1, hangMs=4000))
        await wait_until(lambda: is_held(turn, first, second), "it runs")
        link.silent = True
        await asyncio.sleep(3.0)  # the outage itself: two leases long
        assert await admin.fetchval("select sum(crash_count) from turns") == 0
        link.silent = False
        link.cut()
        ended = await api.end_of(turn)
        assert (ended.status, ended.attempt) == ("completed", 1)
        for one in (first, second):
            await wait_until(lambda one=one: not len(one.parts.held), "it holds nothing")


def is_held(turn: Turn, *workers: RunningWorker) -> bool:
    return any(worker.parts.held.get(turn.id) for worker in workers)


async def test_a_worker_whose_subscription_comes_back_late_keeps_its_turns(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, flush_redis: Any, admin: Any
) -> None:
    late = await start_worker(lease_s=60.0)
    turn = await api.submit(make_turn(hangAfter=0))
    await holds(late, turn)
    # Redis restarts, and of this worker's two connections only the one for commands is back.
    subscriber = late.parts.subscriber
    subscriber._address, address = RedisAddress.parse("redis://127.0.0.1:1"), subscriber._address
    subscriber._lost.set()
    await wait_until(lambda: not subscriber.is_connected, "the subscription is lost")
    await flush_redis()
    prompt = await start_worker()
    await wait_until(lambda: is_announced(api, prompt), "the other worker is announced")
    await asyncio.sleep(0.5)  # ten rounds of the reaper
    assert await admin.fetchval("select crash_count from turns") == 0
    subscriber._address = address
    await wait_until(lambda: is_announced(api, late), "it is announced again")
    assert (await api.reload(turn)).attempt == 1


async def is_announced(api: Api, worker: RunningWorker) -> bool:
    score = await api.connection.call("ZSCORE", api.keys.workers, worker.parts.worker_id)
    return score is not None
