"""Turns that change hands: handed back late, taken over at bad moments, claimed by halves."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from shared.errors import PostgresUnavailable
from shared.postgres.pool import Database
from shared.redis.connection import RedisReplyError
from shared.redis.dispatch import Dispatch
from shared.redis.event_log import EventLog
from shared.service.ends import TurnEnds
from shared.turn.events import START
from shared.turn.model import Turn
from shared.turn.state import TurnStatus
from tests.fixtures.proxy import open_link, postgres_dsn_through, postgres_upstream
from tests.fixtures.system import Api, MakeTurn, RunningWorker, StartWorker
from tests.fixtures.waiting import wait_until


async def holds(worker: RunningWorker, *turns: Turn) -> None:
    await wait_until(lambda: all(worker.parts.held.get(turn.id) for turn in turns), "it runs")


@pytest.mark.parametrize("is_killed", [False, True])
async def test_a_turn_that_has_started_does_not_expire_when_it_must_start_again(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, admin: Any, is_killed: bool
) -> None:
    first = await start_worker(lease_s=1.0)
    turn = await api.submit(make_turn(deltas=2, hangAfter=1, hangMs=600))
    await holds(first, turn)
    await admin.execute("update turns set expires_at = now()")
    await (first.kill() if is_killed else first.drain())
    second = await start_worker(drain_s=5.0)
    ended = await api.end_of(turn)
    assert (ended.status, ended.attempt) == (TurnStatus.COMPLETED, 2)
    await second.drain()


async def test_what_cannot_be_handed_back_is_taken_over_at_once(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, database_url: str
) -> None:
    async with open_link(postgres_upstream(database_url)) as link:
        url = SecretStr(postgres_dsn_through(link, database_url))
        leaving = await start_worker(database_url=url, lease_s=60.0)
        turn = await api.submit(make_turn(deltas=2, hangAfter=1, hangMs=600))
        await holds(leaving, turn)
        link.refuses = True
        link.cut()
        await leaving.drain()  # raises what main raises
    successor = await start_worker(drain_s=5.0)
    ended = await api.end_of(turn)
    assert (ended.status, ended.attempt) == (TurnStatus.COMPLETED, 2)
    await successor.drain()


async def test_postgres_lost_between_two_claims_leaves_the_first_one_running(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await start_worker(worker_concurrency=1)
    hog = await api.submit(make_turn(key="hog", hangAfter=0))
    await holds(worker, hog)  # so that nothing is claimed but by this test
    calls = 0
    fetch_many = Database.fetch_many

    async def vanish(self: Database, name: str, *args: Any) -> list[asyncpg.Record]:
        nonlocal calls
        if name == "claim_turns":
            if len(args[0]) > 1:
                raise asyncpg.UniqueViolationError
            calls += 1
            if calls == 2:
                raise PostgresUnavailable
        return await fetch_many(self, name, *args)

    monkeypatch.setattr(Database, "fetch_many", vanish)
    turns = [await api.submit(make_turn(key=f"k{number}")) for number in range(2)]
    claimed = await worker.parts.claims.claim([turn.id for turn in turns])
    monkeypatch.undo()
    assert (calls, [turn.id for turn in claimed]) == (2, [turns[0].id])
    await worker.drain()


async def test_no_takeover_waits_for_a_redis_that_hangs(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = await start_worker()
    turns = [await api.submit(make_turn(key=f"k{number}", hangAfter=0)) for number in range(5)]
    await holds(dead, *turns)
    gone = [dead.parts.worker_id]
    await dead.kill()
    rival = await start_worker(worker_concurrency=1, reaper_interval_s=60.0)
    told = asyncio.Event()
    told_of = 0

    async def hang(self: Dispatch, change: object) -> int:
        nonlocal told_of
        told_of += 1
        await told.wait()
        return 0

    monkeypatch.setattr(Dispatch, "settle", hang)
    reaping = asyncio.create_task(rival.parts.reaper.reap(gone))
    await wait_until(lambda: told_of >= 5, "all are taken and Redis is asked once for each")
    told.set()
    assert await reaping == 5


async def test_a_turn_whose_row_is_locked_holds_up_no_other_takeover(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, database_url: str
) -> None:
    dead = await start_worker()
    turns = [await api.submit(make_turn(key=f"k{number}", hangAfter=0)) for number in range(3)]
    await holds(dead, *turns)
    gone = [dead.parts.worker_id]
    await dead.kill()
    survivor = await start_worker(reaper_interval_s=60.0)
    reaper = survivor.parts.reaper
    rival = await asyncpg.connect(database_url)
    try:
        async with rival.transaction():
            await rival.execute("select from turns where id = $1 for update", turns[0].id)
            assert await reaper.reap(gone) == 2
            assert set(gone) <= await survivor.parts.control.list_silent_workers()
        assert await reaper.reap(gone) == 1
    finally:
        await rival.close()


async def test_a_slow_answer_about_leases_proves_nothing(
    api: Api,
    make_turn: MakeTurn,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
    admin: Any,
) -> None:
    worker = await start_worker(heartbeat_s=60.0, reaper_interval_s=60.0, lease_s=1.0)
    turn = await api.submit(make_turn(hangAfter=0))
    await holds(worker, turn)
    await admin.execute("update turns set lease_until = now() - interval '1 s'")
    fetch_many = Database.fetch_many

    async def stand_still(self: Database, name: str, *args: Any) -> list[asyncpg.Record]:
        rows = await fetch_many(self, name, *args)
        if name == "list_lost_turns":
            await asyncio.sleep(0.3)
        return rows

    monkeypatch.setattr(Database, "fetch_many", stand_still)
    reaper = worker.parts.reaper
    assert await reaper.reap([]) == 0
    monkeypatch.undo()
    assert await reaper.reap([]) == 0, "nobody could renew: one lease of grace"
    reaper._trust_leases_at = 0.0
    reaper._lapsed_due_at = 0.0
    assert await reaper.reap([]) == 1


async def test_a_redis_that_takes_no_writes_is_not_asked_without_pause(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await start_worker()
    turn = await api.submit(make_turn(deltas=4, intervalMs=100))
    writes = 0

    def refuse(*_: object, **__: object) -> asyncio.Future[Any]:
        nonlocal writes
        writes += 1
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        reply.set_exception(
            RedisReplyError("OOM command not allowed when used memory > 'maxmemory'.")
        )
        return reply

    monkeypatch.setattr(EventLog, "send_open", refuse)
    monkeypatch.setattr(EventLog, "send_append", refuse)
    await holds(worker, turn)
    await asyncio.sleep(1.0)
    assert 2 < writes < 50
    monkeypatch.undo()
    await api.end_of(turn)
    await wait_until(lambda: is_logged(api, turn), "its log is repaired")


async def is_logged(api: Api, turn: Turn) -> bool:
    batches = await api.event_log.read(turn.id, START)
    return bool(batches) and batches[-1].last.seq == 6


async def test_a_claim_whose_reply_was_lost_is_given_back_without_cost(
    api: Api,
    make_turn: MakeTurn,
    start_worker: StartWorker,
    admin: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost = 0
    fetch_many = Database.fetch_many

    async def lose_first_reply(self: Database, name: str, *args: Any) -> list[asyncpg.Record]:
        nonlocal lost
        answer = await fetch_many(self, name, *args)
        if name == "claim_turns" and answer and not lost:
            lost += 1
            raise PostgresUnavailable("the reply was lost")
        return answer

    monkeypatch.setattr(Database, "fetch_many", lose_first_reply)
    await start_worker(lease_s=60.0)  # the lease cannot be what helps
    ended = await api.end_of(await api.submit(make_turn()), 10)
    assert (lost, ended.status, ended.attempt) == (1, TurnStatus.COMPLETED, 2)
    assert await admin.fetchval("select crash_count from turns where id = $1", ended.id) == 0


async def test_a_cancelled_turn_keeps_its_text_when_its_worker_dies_first(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, admin: Any
) -> None:
    first = await start_worker()
    turn = await api.submit(make_turn(deltas=5, hangAfter=3))
    await holds(first, turn)
    async with api.hub.follow(turn) as follower:
        seen = 0
        while seen < 4:
            seen += sum(len(batch.payloads) for batch in await follower.read(5))
    # The wish is on record, but nobody has told the worker when it dies.
    await admin.execute("update turns set cancel_requested_at = now() where id = $1", turn.id)
    await first.kill()
    await start_worker()
    ended = await api.end_of(turn)
    assert ended.status is TurnStatus.CANCELLED
    rows = await api.database.for_tenant(turn).fetch_many(
        "list_output_messages", turn.tenant_id, turn.id
    )
    assert [row["content"] for row in rows] == ["w0 w1 w2 "]


async def test_a_worker_outlives_a_postgres_that_fails_in_mid_takeover(
    api: Api,
    make_turn: MakeTurn,
    start_worker: StartWorker,
    admin: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = await start_worker()
    cancelled = await api.submit(make_turn(key="a", deltas=5, hangAfter=3))
    other = await api.submit(make_turn(key="b", deltas=5, hangAfter=3, hangMs=1500))
    await holds(first, cancelled, other)
    async with api.hub.follow(cancelled) as follower:
        seen = 0
        while seen < 4:
            seen += sum(len(batch.payloads) for batch in await follower.read(5))
    await admin.execute("update turns set cancel_requested_at = now() where id = $1", cancelled.id)
    keep, failures = TurnEnds.keep_partial_text, 0

    async def fail_twice(self: TurnEnds, turn: Turn, attempt: int) -> Turn:
        nonlocal failures
        failures += 1
        if failures <= 2:
            raise PostgresUnavailable
        return await keep(self, turn, attempt)

    monkeypatch.setattr(TurnEnds, "keep_partial_text", fail_twice)
    await first.kill()
    await start_worker()
    ended = await api.end_of(cancelled)
    assert ended.status is TurnStatus.CANCELLED
    assert (await api.end_of(other)).status is TurnStatus.COMPLETED

    async def text() -> list[str]:
        rows = await api.database.for_tenant(ended).fetch_many(
            "list_output_messages", ended.tenant_id, ended.id
        )
        return [row["content"] for row in rows]

    await wait_until(text, "the text is kept once Postgres is back")
    assert await text() == ["w0 w1 w2 "]
    assert failures == 3
