from __future__ import annotations
import asyncio, time
from typing import Any
import asyncpg, pytest
from pydantic import SecretStr
from shared.turn.state import TurnStatus
from tests.fixtures.servers import *
from tests.fixtures.system import *
from tests.fixtures.system import Api
from tests.fixtures.waiting import wait_until
from tests.fixtures.proxy import *


async def two_running(api, make_turn, start_worker, **kw):
    worker = await start_worker(**kw)
    a = await api.submit(make_turn(key="a", hangAfter=0))
    b = await api.submit(make_turn(key="b", hangAfter=0))
    await wait_until(
        lambda: worker.parts.held.get(a.id) and worker.parts.held.get(b.id), "both run"
    )
    return worker, a, b


async def test_deadlock(api, make_turn, start_worker, database_url):
    worker, a, b = await two_running(api, make_turn, start_worker)
    other = await asyncpg.connect(database_url)
    async with other.transaction():
        await other.execute("select 1 from turns where id=$1 for update", b.id)
        await asyncio.sleep(0.4)  # a beat holds a and waits for b
        try:
            await other.execute("select 1 from turns where id=$1 for update", a.id)
        except asyncpg.DeadlockDetectedError:
            print("other was the victim")
    await other.close()
    await asyncio.sleep(0.5)
    print("worker done:", worker.main.done(), worker.main.done() and repr(worker.main.exception()))
    assert not worker.main.done()


async def test_frozen_redis_keeps_leases(open_api, api, make_turn, start_worker, redis_url):
    async with open_link(redis_upstream(redis_url)) as link:
        worker = await start_worker(redis_url=SecretStr(redis_url_through(link, redis_url)))
        turn = await api.submit(make_turn(hangAfter=0))
        await wait_until(lambda: worker.parts.held.get(turn.id), "runs")
        link.silent = True
        await asyncio.sleep(8)
        now = await api.reload(turn)
        print(now.status, now.attempt)
        link.silent = False
        link.cut()
        row = await api.database.fetch_one("get_turn_of_tenant", turn.id, turn.tenant_id)
        print(row["attempt"], row["crash_count"], row["status"])
        assert row["crash_count"] == 0


async def test_unsubscribed_announced(api, make_turn, start_worker, redis, flush_redis):
    worker, a, b = await two_running(api, make_turn, start_worker, lease_s=60.0)
    sub = worker.parts.subscriber
    # redis restarts: this worker's subscription comes back later than its heartbeat
    sub._address = type(sub._address).parse("redis://127.0.0.1:1")
    sub._lost.set()
    await flush_redis()
    other = await start_worker()
    await asyncio.sleep(1.5)
    row = await api.database.fetch_one("get_turn_of_tenant", a.id, a.tenant_id)
    print(row["attempt"], row["crash_count"], row["status"])
    assert row["crash_count"] == 0


async def test_hand_back_expired(api, open_api, make_turn, start_worker, admin):
    worker = await start_worker()
    turn = await api.submit(make_turn(deltas=2, hangAfter=1, hangMs=1500))
    await wait_until(lambda: worker.parts.held.get(turn.id), "runs")
    await admin.execute("update turns set expires_at = now() where id=$1", turn.id)
    await worker.drain()
    w2 = await start_worker()
    ended = await api.end_of(turn)
    print(ended.status, ended.error)
    assert ended.status is TurnStatus.COMPLETED


async def test_group_commit_wait(api, make_turn, database_url, open_api):
    async with open_link(postgres_upstream(database_url)) as link:
        api = await open_api(database_url=SecretStr(postgres_dsn_through(link, database_url)))
        for _ in range(3):
            await api.submit(make_turn(key="x"))
        link.silent = True
        t0 = time.monotonic()

        async def one():
            try:
                await api.turns.submit(make_turn())
            except Exception as e:
                return time.monotonic() - t0, repr(e)[:60]

        r = await asyncio.gather(*[one() for _ in range(1500)])
        print("slowest", max(x[0] for x in r), "fastest", min(x[0] for x in r), r[0][1])
        link.silent = False
        link.cut()


async def test_oom_hot_loop(api, make_turn, start_worker, redis):
    worker = await start_worker()
    turn = await api.submit(make_turn(deltas=2, hangAfter=1, hangMs=3000))
    await wait_until(lambda: worker.parts.held.get(turn.id), "runs")
    await asyncio.sleep(0.2)
    from shared.redis.connection import RedisReplyError

    calls = 0

    async def oom(*a, **k):
        nonlocal calls
        calls += 1
        raise RedisReplyError("OOM command not allowed")

    worker.parts.writer._event_log.append = oom
    worker.parts.writer._event_log.open = oom
    held = worker.parts.held.get(turn.id)
    await asyncio.sleep(0)
    # say something
    from shared.turn.events import MessageDelta

    t0 = time.monotonic()
    for log_ in [*worker.parts.writer._dirty.values()]:
        pass
    await asyncio.sleep(3.2)
    await asyncio.sleep(1)
    print("writes attempted", calls)
