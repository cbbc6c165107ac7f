"""Workers die, hang and leave; Redis forgets or is away; Postgres pauses: every turn still ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from deploy.embedded.valkey import EmbeddedValkey
from shared.errors import RedisUnavailable
from shared.ids import new_id
from shared.turn.events import START, Cursor, TurnStarted
from shared.turn.model import Principal, Turn
from shared.turn.state import TurnStatus
from tests.fixtures.chance import seeded
from tests.fixtures.proxy import (
    Link,
    open_link,
    postgres_dsn_through,
    postgres_upstream,
    redis_upstream,
    redis_url_through,
)
from tests.fixtures.system import (
    Api,
    MakeTurn,
    RunningWorker,
    StartWorker,
    ends_once,
    events,
    follow_all,
    is_gapless,
    places,
    text_of,
)
from tests.fixtures.waiting import wait_until


def text(count: int) -> str:
    return "".join(f"w{number} " for number in range(count))


async def has_said(api: Api, turn: Turn, count: int) -> bool:
    batches = await api.event_log.read(turn.id, START)
    return bool(batches) and batches[-1].last.seq >= count


async def are_running(api: Api, turns: list[Turn], count: int) -> bool:
    running = [t for t in turns if (await api.reload(t)).status is TurnStatus.RUNNING]
    return len(running) >= count


def most_at_once(turns: list[Turn]) -> int:
    moments = [(turn.started_at, 1) for turn in turns] + [(turn.ended_at, -1) for turn in turns]
    running = most = 0
    for _, change in sorted(moments):
        running += change
        most = max(most, running)
    return most


async def stored_text(api: Api, turn: Turn) -> str:
    rows = await api.database.for_tenant(turn).fetch_many(
        "list_output_messages", turn.tenant_id, turn.id
    )
    return "".join(row["content"] for row in rows)


async def settled(worker: RunningWorker) -> None:
    """The worker has published the ends of all its turns."""
    await wait_until(lambda: not len(worker.parts.held), "the worker holds nothing")


# -- Redis forgets


async def test_flushing_redis_with_ten_running_and_fifty_queued_loses_nothing(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, flush_redis: Any
) -> None:
    for _ in range(2):
        await start_worker()
    turns = [
        await api.submit(make_turn(key=f"k{n % 10}", deltas=40, intervalMs=15)) for n in range(60)
    ]
    seen: dict[int, list[Any]] = {}

    async def read(number: int) -> None:
        seen[number] = await follow_all(api.hub, turns[number], patience_s=50)

    async with asyncio.TaskGroup() as group:
        for number in range(0, 60, 3):
            group.create_task(read(number))
        await wait_until(lambda: are_running(api, turns, 10), "ten run")
        await flush_redis()
        ended = await api.ends_of(turns, 50)
    assert {turn.status for turn in ended} == {TurnStatus.COMPLETED}
    assert {turn.attempt for turn in ended} == {1}
    for key in range(10):
        assert most_at_once(ended[key::10]) == 1
        starts = [turn.started_at for turn in ended[key::10]]
        assert starts == sorted(starts)  # type: ignore[type-var]
    for batches in seen.values():
        assert is_gapless(places(batches))
        assert ends_once(events(batches))
        assert text_of(events(batches)) == text(40)


async def test_a_chat_that_cannot_be_removed_keeps_nobody_waiting(
    api: Api,
    make_turn: MakeTurn,
    start_worker: StartWorker,
    flush_redis: Any,
    principal: Principal,
    admin: Any,
) -> None:
    """The sweeper's first duty is that turns which wait are known to Redis."""
    await admin.execute(
        "insert into threads (id, tenant_id, user_id, is_transient, created_at)"
        " values ($1, $2, $3, true, now() - interval '1 h')",
        new_id(),
        principal.tenant_id,
        principal.user_id,
    )
    turn = await api.submit(make_turn())
    await flush_redis()
    async with admin.transaction():
        await admin.execute("select from threads where is_transient for update")
        await start_worker()
        assert (await api.end_of(turn, patience_s=8.0)).status is TurnStatus.COMPLETED


async def test_flushing_redis_again_and_again_under_a_reader(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, flush_redis: Any
) -> None:
    worker = await start_worker()
    turn = await api.submit(make_turn(deltas=300, intervalMs=5))
    reader = asyncio.create_task(follow_all(api.hub, turn, patience_s=25))
    chance = seeded(1)
    flushes = 0
    while not reader.done():
        await asyncio.sleep(chance.random() * 0.3)
        await flush_redis()
        flushes += 1
    batches = await reader
    assert places(batches) == [Cursor(1, seq) for seq in range(1, 303)]
    assert flushes > 3
    await settled(worker)
    assert worker.counter("log_writes", word="NOSTATE") > 0, "no loss was noticed"


# -- Redis is away


@pytest.fixture
async def redis_link(redis_url: str) -> AsyncIterator[Link]:
    async with open_link(redis_upstream(redis_url)) as link:
        yield link


def cut_off(link: Link) -> None:
    link.refuses = True
    link.cut()


async def test_without_redis_turns_are_accepted_and_run(
    open_api: Any, make_turn: MakeTurn, start_worker: StartWorker, redis_link: Link, redis_url: str
) -> None:
    url = SecretStr(redis_url_through(redis_link, redis_url))
    cut_off(redis_link)
    api = await open_api(redis_url=url)
    await start_worker(redis_url=url)
    turns = [await api.submit(make_turn(deltas=3)) for _ in range(2)]
    ended = await api.ends_of(turns, 25)
    assert {turn.status for turn in ended} == {TurnStatus.COMPLETED}
    assert most_at_once(ended) == 1
    with pytest.raises(RedisUnavailable):
        await api.connection.call("PING")
    seen = events(await follow_all(api.hub, ended[0]))
    assert text_of(seen) == text(3)


async def test_a_cancel_without_redis_is_heard_by_the_heartbeat(
    open_api: Any,
    make_turn: MakeTurn,
    start_worker: StartWorker,
    redis_link: Link,
    redis_url: str,
    principal: Principal,
) -> None:
    url = SecretStr(redis_url_through(redis_link, redis_url))
    api = await open_api(redis_url=url)
    worker = await start_worker(redis_url=url)
    turn = await api.submit(make_turn(deltas=4, hangAfter=2))
    await wait_until(lambda: has_said(api, turn, 3), "it streams")
    cut_off(redis_link)
    cancelled = await api.cancels.cancel(principal, turn.id)
    assert (cancelled.status, cancelled.attempt) == (TurnStatus.CANCELLED, 1)
    assert await stored_text(api, turn) == text(2)
    redis_link.refuses = False
    await settled(worker)


async def test_redis_restarts_empty_under_running_turns(
    open_api: Any,
    make_turn: MakeTurn,
    start_worker: StartWorker,
    tmp_path: Path,
) -> None:
    first = EmbeddedValkey(tmp_path / "first")
    second = EmbeddedValkey(tmp_path / "second")
    with first, second:
        async with open_link(redis_upstream(first.url)) as link:
            url = SecretStr(redis_url_through(link, first.url))
            api = await open_api(redis_url=url)
            for _ in range(2):
                await start_worker(redis_url=url)
            turns = [
                await api.submit(make_turn(key=f"k{n % 5}", deltas=60, intervalMs=20))
                for n in range(10)
            ]
            readers = [asyncio.create_task(follow_all(api.hub, turn)) for turn in turns]
            await wait_until(lambda: are_running(api, turns, 5), "five run")
            await asyncio.to_thread(first.stop)
            link.upstream = redis_upstream(second.url)
            ended = await api.ends_of(turns, 25)
            assert {turn.status for turn in ended} == {TurnStatus.COMPLETED}
            for reader in readers:
                batches = await reader
                assert is_gapless(places(batches))
                assert text_of(events(batches)) == text(60)
            assert {turn.attempt for turn in ended} == {1}, "nobody died, yet a turn was taken over"


# -- Postgres is away


async def test_postgres_away_for_two_seconds_delays_the_end_only(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, database_url: str
) -> None:
    async with open_link(postgres_upstream(database_url)) as link:
        worker = await start_worker(
            database_url=SecretStr(postgres_dsn_through(link, database_url)), lease_s=8.0
        )
        turns = [
            await api.submit(make_turn(key=f"k{n}", deltas=40, intervalMs=20)) for n in range(5)
        ]
        await wait_until(lambda: are_running(api, turns, 5), "all run")
        link.refuses = True
        link.cut()
        reader = asyncio.create_task(follow_all(api.hub, turns[0]))
        await asyncio.sleep(2.0)  # the outage itself
        assert await are_running(api, turns, 5), "ended without Postgres"
        link.refuses = False
        ended = await api.ends_of(turns)
        assert {(turn.status, turn.attempt) for turn in ended} == {(TurnStatus.COMPLETED, 1)}
        assert text_of(events(await reader)) == text(40)
        await settled(worker)
        await worker.kill()


async def test_a_commit_whose_answer_is_lost_ends_the_turn_once(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, database_url: str, admin: Any
) -> None:
    async with open_link(postgres_upstream(database_url)) as link:
        worker = await start_worker(
            database_url=SecretStr(postgres_dsn_through(link, database_url))
        )
        await api.end_of(await api.submit(make_turn()))  # statements are prepared now
        turn = await api.submit(
            make_turn(text="remarkable ending", deltas=2, hangAfter=1, hangMs=300)
        )
        await wait_until(lambda: has_said(api, turn, 2), "it streams")
        link.drop_reply_to = str(turn.planned_output_message_id).encode()
        batches = await follow_all(api.hub, turn)
        assert link.dropped_replies == 1, "the fault did not happen"
        assert ends_once(events(batches))
        ended = await api.reload(turn)
        assert (ended.status, ended.attempt) == (TurnStatus.COMPLETED, 1)
        assert await admin.fetchval("select count(*) from usage") == 2
        assert worker.counter("fenced_commits") == 0
        await settled(worker)
        await worker.kill()


# -- workers die


@pytest.mark.parametrize("said", [0, 1, 5])
async def test_a_killed_worker_is_taken_over(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, said: int
) -> None:
    first = await start_worker(lease_s=60.0)
    turn = await api.submit(make_turn(deltas=6, hangAfter=said, hangMs=700))
    reader = asyncio.create_task(follow_all(api.hub, turn))
    await wait_until(lambda: has_said(api, turn, said + 1), "the first worker streams")
    second = await start_worker()
    await wait_until(lambda: has_announced(api, 2), "both are announced")
    loop = asyncio.get_running_loop()
    died_at = loop.time()
    await first.kill()
    await wait_until(lambda: second.parts.held.get(turn.id), "the second worker has it")
    assert loop.time() - died_at < 1.5
    ended = await api.end_of(turn)
    assert (ended.status, ended.attempt) == (TurnStatus.COMPLETED, 2)
    seen = await reader
    assert is_gapless(places(seen))
    assert [e.attempt for e in events(seen) if isinstance(e, TurnStarted)] == [1, 2]
    assert text_of(events(seen)) == text(6) == await stored_text(api, turn)
    assert second.counter("takeovers", cause="worker_gone") == 1
    await settled(second)


async def has_announced(api: Api, count: int) -> bool:
    return int(await api.connection.call("ZCARD", api.keys.workers)) >= count


async def test_a_turn_that_kills_its_workers_is_poison(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker
) -> None:
    poison = await api.submit(make_turn(key="poison", hangAfter=0))
    survivor = await start_worker(worker_concurrency=1)
    await wait_until(lambda: survivor.parts.held.get(poison.id), "a worker has it")
    for _ in range(3):
        bystander = await api.submit(make_turn(key="bystander", deltas=1))
        successor = await start_worker(worker_concurrency=1)
        assert (await api.end_of(bystander)).status is TurnStatus.COMPLETED
        await survivor.kill()
        survivor = successor
        await wait_until(
            lambda worker=survivor: ended_or_held(api, poison, worker), "the next worker has it"
        )
    ended = await api.end_of(poison)
    assert (ended.status, (ended.error or {})["code"]) == (TurnStatus.FAILED, "poison")
    seen = events(await follow_all(api.hub, poison))
    assert ends_once(seen)


async def ended_or_held(api: Api, turn: Turn, worker: RunningWorker) -> bool:
    return worker.parts.held.get(turn.id) is not None or (await api.reload(turn)).is_terminal


async def make_zombie(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> tuple[RunningWorker, RunningWorker]:
    """A worker that no longer renews its leases but does not know it, and a healthy one."""
    zombie = await start_worker(worker_concurrency=1, lease_s=0.5)

    async def no_beat() -> None:
        return None

    async def no_reaping(_: list[str]) -> int:
        return 0

    monkeypatch.setattr(zombie.parts.heartbeat, "beat", no_beat)
    monkeypatch.setattr(zombie.parts.reaper, "reap", no_reaping)
    return zombie, zombie


async def test_a_zombie_is_refused_by_the_log(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    zombie, _ = await make_zombie(start_worker, monkeypatch)
    turn = await api.submit(make_turn(deltas=4, hangAfter=2, hangMs=3500))
    await wait_until(lambda: has_said(api, turn, 3), "the zombie streams")
    healthy = await start_worker()
    batches = await follow_all(api.hub, turn)
    ended = await api.reload(turn)
    assert (ended.status, ended.attempt) == (TurnStatus.COMPLETED, 2)
    await settled(zombie)
    await settled(healthy)
    assert zombie.counter("log_writes", word="FENCED") >= 1
    assert healthy.counter("takeovers", cause="lease_lapsed") == 1
    assert is_gapless(places(batches))
    assert text_of(events(batches)) == text(4) == await stored_text(api, turn)


async def test_a_zombie_is_refused_by_postgres(
    api: Api,
    make_turn: MakeTurn,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
    admin: Any,
) -> None:
    zombie, _ = await make_zombie(start_worker, monkeypatch)
    # It has said all it has to say: its next word is the commit.
    turn = await api.submit(make_turn(deltas=2, hangAfter=2, hangMs=3500))
    await wait_until(lambda: has_said(api, turn, 3), "the zombie streams")
    healthy = await start_worker()
    await wait_until(lambda: healthy.parts.held.get(turn.id), "the healthy worker has it")
    await wait_until(lambda: zombie.counter("fenced_commits") == 1, "the zombie is refused")
    ended = await api.end_of(turn)
    assert (ended.status, ended.attempt) == (TurnStatus.COMPLETED, 2)
    assert await admin.fetchval("select count(*) from usage") == 1
    assert await stored_text(api, turn) == text(2)
    await settled(healthy)


async def test_a_zombie_does_not_write_its_log_again_after_a_flush(
    api: Api,
    make_turn: MakeTurn,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
    flush_redis: Any,
) -> None:
    zombie, _ = await make_zombie(start_worker, monkeypatch)
    turn = await api.submit(make_turn(deltas=400, intervalMs=10, hangAfter=2, hangMs=400))
    await wait_until(lambda: has_said(api, turn, 3), "the zombie streams")
    held = zombie.parts.held.get(turn.id)
    # Taken from it, and nobody else has said anything yet that could fence it.
    row = await api.database.fetch_one("reap_turn", turn.id, 1, 3, [zombie.parts.worker_id])
    assert row is not None
    await flush_redis()
    assert held is not None
    await wait_until(lambda: held.stop_reason, "the zombie learns that it is one", 3.0)
    assert held.stop_reason == "fenced"
    assert not [b for b in await api.event_log.read(turn.id, START) if b.attempt == 1]


# -- workers leave


async def test_a_draining_worker_finishes_what_ends_in_time(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker
) -> None:
    worker = await start_worker(drain_s=5.0)
    turns = [await api.submit(make_turn(key=f"k{n}", deltas=5, intervalMs=40)) for n in range(5)]
    await wait_until(lambda: are_running(api, turns, 5), "all run")
    later = asyncio.create_task(worker.drain())
    unlucky = await api.submit(make_turn())
    await later
    for turn in turns:
        ended = await api.reload(turn)
        assert (ended.status, ended.attempt) == (TurnStatus.COMPLETED, 1)
    assert (await api.reload(unlucky)).status is TurnStatus.PENDING
    assert not await has_announced(api, 1)


async def test_a_draining_worker_hands_back_the_rest_without_spending_its_budget(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, admin: Any
) -> None:
    turn = await api.submit(make_turn(deltas=4, hangAfter=2, hangMs=1200))
    reader = asyncio.create_task(follow_all(api.hub, turn))
    for attempt in range(1, 5):
        worker = await start_worker()
        await wait_until(lambda worker=worker: worker.parts.held.get(turn.id), "it runs")
        await worker.drain()
        row = await admin.fetchrow("select * from turns where id = $1", turn.id)
        assert (row["status"], row["attempt"], row["crash_count"]) == ("pending", attempt, 0)
    worker = await start_worker(drain_s=5.0)
    ended = await api.end_of(turn)
    assert (ended.status, ended.attempt) == (TurnStatus.COMPLETED, 5)
    batches = await reader
    assert is_gapless(places(batches))
    assert text_of(events(batches)) == text(4)
    await settled(worker)


async def test_a_second_request_to_leave_is_heeded_at_once(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker
) -> None:
    worker = await start_worker(drain_s=30.0)
    turn = await api.submit(make_turn(hangAfter=0))
    await wait_until(lambda: worker.parts.held.get(turn.id), "it runs")
    worker.worker.drain()
    await worker.drain()
    assert (await api.reload(turn)).status is TurnStatus.PENDING


async def test_rolling_restarts_under_load_fail_nothing(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, admin: Any
) -> None:
    workers = [await start_worker(), await start_worker()]
    turns = [
        await api.submit(make_turn(key=f"k{n % 15}", deltas=10, intervalMs=15)) for n in range(60)
    ]
    for place in (0, 1, 0, 1):
        await workers[place].drain()
        workers[place] = await start_worker()
    ended = await api.ends_of(turns)
    assert {turn.status for turn in ended} == {TurnStatus.COMPLETED}
    assert await admin.fetchval("select max(crash_count) from turns") == 0
    for key in range(15):
        assert most_at_once(ended[key::15]) == 1


async def test_a_worker_leaves_while_redis_is_away(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, redis_link: Link, redis_url: str
) -> None:
    worker = await start_worker(redis_url=SecretStr(redis_url_through(redis_link, redis_url)))
    turn = await api.submit(make_turn(hangAfter=0))
    await wait_until(lambda: worker.parts.held.get(turn.id), "it runs")
    cut_off(redis_link)
    async with asyncio.timeout(10):
        await worker.drain()
    assert (await api.reload(turn)).status is TurnStatus.PENDING


async def test_a_worker_that_leaves_claims_nothing_even_when_redis_does_not_answer(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, redis_link: Link, redis_url: str
) -> None:
    worker = await start_worker(redis_url=SecretStr(redis_url_through(redis_link, redis_url)))
    await api.end_of(await api.submit(make_turn()))
    await settled(worker)
    for connection in (worker.parts.connection, worker.worker._idle):
        connection._reply_timeout_s = 0.5
    redis_link.silent = True
    leaving = asyncio.create_task(worker.drain())
    await asyncio.sleep(0)
    turn = await api.submit(make_turn())
    async with asyncio.timeout(15):
        await leaving
    assert (await api.reload(turn)).attempt == 0
