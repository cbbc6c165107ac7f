"""Workers run turns: in order, within limits, once; and say so to every reader."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import AsyncMock
from uuid import UUID

import pytest

from shared.errors import RedisUnavailable
from shared.redis.event_log import LogNames
from shared.service.cancel import CancelService
from shared.turn.events import START, Cursor, MessageDelta, TurnEnded, TurnStarted
from shared.turn.model import Principal, Turn
from shared.turn.state import TurnStatus
from tests.fixtures.chance import seeded
from tests.fixtures.system import (
    Api,
    MakeTurn,
    StartWorker,
    ends_once,
    events,
    follow_all,
    is_gapless,
    places,
    text_of,
)
from tests.fixtures.waiting import wait_until
from worker.engine.base import EngineResult
from worker.engine.scripted import _ScriptedRun


def text(count: int) -> str:
    return "".join(f"w{number} " for number in range(count))


async def stored_text(api: Api, turn: Turn) -> str:
    rows = await api.database.for_tenant(turn).fetch_many(
        "list_output_messages", turn.tenant_id, turn.id
    )
    return "".join(row["content"] for row in rows)


def overlaps(turns: list[Turn]) -> int:
    """Most turns that ran at the same moment, by their stored times."""
    moments = []
    for turn in turns:
        if turn.started_at is None or turn.ended_at is None:
            continue
        moments += [(turn.started_at, 1), (turn.ended_at, -1)]
    running = most = 0
    for _, change in sorted(moments):
        running += change
        most = max(most, running)
    return most


async def is_running(api: Api, turn: Turn) -> bool:
    return (await api.reload(turn)).status is TurnStatus.RUNNING


async def has_said(api: Api, turn: Turn, count: int) -> bool:
    """Whether the log holds at least `count` events of the newest attempt."""
    batches = await api.event_log.read(turn.id, START)
    return bool(batches) and batches[-1].last.seq >= count


async def end_in_postgres(api: Api, turn: Turn) -> Turn:
    """The turn once its end is committed, whether or not it was published."""

    async def ended() -> Turn | None:
        row = await api.reload(turn)
        return row if row.is_terminal else None

    found: Turn = await wait_until(ended, "the end is committed")
    return found


async def test_one_key_runs_in_accept_order_and_never_twice_at_once(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker
) -> None:
    for _ in range(2):
        await start_worker()
    turns = [await api.submit(make_turn(deltas=2, intervalMs=1)) for _ in range(20)]
    ended = await api.ends_of(turns)
    assert {turn.status for turn in ended} == {TurnStatus.COMPLETED}
    starts = [turn.started_at for turn in ended]
    assert starts == sorted(starts)  # type: ignore[type-var]
    assert overlaps(ended) == 1
    assert {turn.attempt for turn in ended} == {1}
    assert len({turn.worker_id for turn in ended}) == 1, "ended turns name no worker"


async def test_a_limit_of_three_uses_three_slots(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, admin: Any, principal: Principal
) -> None:
    await admin.execute(
        "insert into concurrency_limits values ($1, 'wide', 3)", principal.tenant_id
    )
    for _ in range(2):
        await start_worker()
    turns = [await api.submit(make_turn(key="wide", deltas=5, intervalMs=10)) for _ in range(12)]
    ended = await api.ends_of(turns)
    assert overlaps(ended) == 3


async def test_a_reader_gets_every_event_once_and_postgres_the_same_text(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker
) -> None:
    await start_worker()
    turn = await api.submit(make_turn(deltas=200, intervalMs=0, reasoning=3))
    batches = await follow_all(api.hub, turn)
    seen = events(batches)
    assert isinstance(seen[0], TurnStarted)
    assert places(batches) == [Cursor(1, seq) for seq in range(1, 206)]
    assert ends_once(seen)
    assert text_of(seen) == text(200) == await stored_text(api, turn)
    end = seen[-1]
    assert isinstance(end, TurnEnded)
    ended = await api.reload(turn)
    assert (end.status, end.usage) == (ended.status, ended.usage)
    assert ended.last_seq == 205


async def test_forty_readers_that_reconnect_at_random_miss_and_repeat_nothing(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker
) -> None:
    await start_worker()
    turn = await api.submit(make_turn(deltas=600, intervalMs=1))
    reconnects = 0

    async def reader(seed: int) -> bytes:
        nonlocal reconnects
        chance = seeded(seed)
        cursor, seen, said = START, [], []
        while True:
            async with api.hub.follow(await api.reload(turn), cursor) as follower:
                for _ in range(chance.randint(1, 12)):
                    batches = await follower.read(1.0)
                    seen += places(batches)
                    said += [payload for batch in batches for payload in batch.payloads]
                    if follower.is_done.is_set():
                        assert is_gapless(seen), seen
                        assert len(seen) == 602
                        return b"\n".join(said)
                    cursor = follower.cursor
            reconnects += 1

    async with asyncio.timeout(25), asyncio.TaskGroup() as group:
        readers = [group.create_task(reader(seed)) for seed in range(40)]
    assert len({task.result() for task in readers}) == 1
    assert reconnects > 100


async def test_a_slow_reader_falls_back_to_the_log(
    open_api: Any, make_turn: MakeTurn, start_worker: StartWorker
) -> None:
    api = await open_api(stream_buffer_bytes=4096)
    await start_worker()
    turn = await api.submit(make_turn(deltas=2000, intervalMs=0, startDelayMs=50))
    async with api.hub.follow(turn) as follower:
        batches = await follower.read(5)
        await api.end_of(turn)
        assert follower._live_bytes <= 4096 + 40_000, "one message may lie above the limit"
        while not follower.is_done.is_set():
            batches += await follower.read(1)
    assert places(batches) == [Cursor(1, seq) for seq in range(1, 2003)]


async def test_without_its_log_a_finished_turn_is_told_compactly(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, flush_redis: Any
) -> None:
    await start_worker()
    turn = await api.submit(make_turn(deltas=50, reasoning="thinking aloud"))
    whole = text_of(events(await follow_all(api.hub, turn)))
    turn = await api.reload(turn)
    await flush_redis()
    seen = events(await follow_all(api.hub, turn))
    assert [event.type for event in seen] == [
        "turn.started", "reasoning.delta", "message.delta", "turn.ended",
    ]  # fmt: skip
    assert text_of(seen) == whole == text(50)
    # Who has read half of it gets what replaces that half; who has read all gets the end again.
    for after, kinds in (
        (Cursor(1, 10), ["turn.snapshot", "turn.ended"]),
        (Cursor(1, turn.last_seq), ["turn.ended"]),
    ):
        seen = events(await follow_all(api.hub, turn, after))
        assert [event.type for event in seen] == kinds


async def test_an_open_stream_whose_log_is_lost_behind_the_end_gets_a_snapshot(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, flush_redis: Any
) -> None:
    worker = await start_worker()
    turn = await api.submit(make_turn(deltas=3, hangAfter=2, hangMs=300))
    async with api.hub.follow(turn) as follower:
        first: list[Any] = []
        while len(places(first)) < 3:
            first += await follower.read(5)
        follower._listener.close()  # type: ignore[union-attr]  # it hears nothing from now on
        await api.end_of(turn)
        await wait_until(lambda: not len(worker.parts.held), "the worker has published the end")
        await flush_redis()
        rest = []
        while not follower.is_done.is_set():
            rest += await follower.read(5)
    assert [event.type for event in events(rest)] == ["turn.snapshot", "turn.ended"]
    assert text_of(events([*first, *rest])) == text(3)


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        ({"deltas": 3, "failAfter": 2}, TurnStatus.FAILED, "model_error"),
        (
            {"deltas": 3, "failAfter": 0, "failWith": "rate_limited"},
            TurnStatus.FAILED,
            "rate_limited",
        ),
        ({"deltas": "three"}, TurnStatus.FAILED, "invalid_settings"),
    ],
)
async def test_failures_end_the_turn_with_their_code(
    api: Api,
    make_turn: MakeTurn,
    start_worker: StartWorker,
    script: dict[str, Any],
    status: TurnStatus,
    code: str,
) -> None:
    await start_worker()
    ended = await api.end_of(await api.submit(make_turn(**script)))
    assert (ended.status, (ended.error or {}).get("code")) == (status, code)


async def test_a_model_that_hangs_fails_with_a_timeout(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker
) -> None:
    await start_worker(first_token_timeout_s=0.2, idle_timeout_s=0.1)
    never = await api.submit(make_turn(key="a", hangAfter=0))
    midway = await api.submit(make_turn(key="b", deltas=3, hangAfter=2))
    for turn in await api.ends_of([never, midway]):
        assert (turn.status, (turn.error or {})["code"]) == (TurnStatus.FAILED, "timeout")
    assert await stored_text(api, midway) == text(2)


async def test_an_output_that_is_too_long_fails_and_keeps_what_fits(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker
) -> None:
    await start_worker(event_log_max_bytes=65_536)
    turn = await api.submit(make_turn(deltas=5000))
    seen = events(await follow_all(api.hub, turn))
    end = seen[-1]
    assert isinstance(end, TurnEnded)
    assert (end.status, end.error and end.error.code) == (TurnStatus.FAILED, "output_limit")
    assert len([event for event in seen if isinstance(event, MessageDelta)]) > 1000


_UNSTORABLE = pytest.mark.parametrize("bad", ["\0", "\ud800"])


@_UNSTORABLE
async def test_readers_and_rows_agree_on_what_postgres_cannot_hold(
    api: Api,
    make_turn: MakeTurn,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
    bad: str,
) -> None:
    monkeypatch.setattr("worker.engine.scripted._answer_about", lambda _: f"a {bad} b")
    await start_worker()
    turn = await api.submit(make_turn(deltas=None))
    seen = events(await follow_all(api.hub, turn))
    assert (await api.reload(turn)).status is TurnStatus.COMPLETED
    assert text_of(seen) == "a \ufffd b" == await stored_text(api, turn)


@_UNSTORABLE
async def test_a_turn_ends_even_when_its_messages_cannot_be_stored(
    api: Api,
    make_turn: MakeTurn,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
    bad: str,
) -> None:
    monkeypatch.setattr("worker.engine.scripted._answer_about", lambda _: f"a {bad} b")
    for module, replaces in itertools.product(
        ("turn_drive", "turn_commits"), ("storable", "storable_json")
    ):
        monkeypatch.setattr(f"worker.{module}.{replaces}", lambda value: value)
    await start_worker()
    ended = await api.end_of(await api.submit(make_turn(deltas=None)), 8)
    assert (ended.status, ended.attempt) == (TurnStatus.FAILED, 1)
    assert (ended.error or {})["code"] == "internal"


async def test_a_turn_that_waits_too_long_expires(
    open_api: Any, make_turn: MakeTurn, start_worker: StartWorker
) -> None:
    api = await open_api(queue_ttl_s=0.5)
    await start_worker()
    blocker = await api.submit(make_turn(deltas=2, hangAfter=1, hangMs=1500))
    await wait_until(lambda: is_running(api, blocker), "the first runs")
    waits = await api.submit(make_turn())
    ended = await api.end_of(waits)
    assert (ended.status, (ended.error or {})["code"]) == (TurnStatus.EXPIRED, "queue_ttl")
    assert (await api.end_of(blocker)).status is TurnStatus.COMPLETED


async def test_history_reaches_the_model(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker
) -> None:
    await start_worker()
    first = await api.end_of(await api.submit(make_turn("one two three", deltas=4)))
    second = await api.end_of(await api.submit(make_turn("four five", deltas=1)))
    assert first.usage is not None
    assert second.usage is not None
    assert first.usage.input_tokens == 3
    assert second.usage.input_tokens == 2 + 3 + 4


async def test_a_hundred_turns_at_once_on_two_workers(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, admin: Any
) -> None:
    for _ in range(2):
        await start_worker()
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(api.submit(make_turn(key=f"k{number % 25}", deltas=5)))
            for number in range(100)
        ]
    ended = await api.ends_of([task.result() for task in tasks])
    assert {turn.status for turn in ended} == {TurnStatus.COMPLETED}
    by_key: dict[str, list[Turn]] = {}
    for turn in ended:
        by_key.setdefault(turn.concurrency_key, []).append(turn)
    for turns in by_key.values():
        assert overlaps(turns) == 1
        in_order = sorted(turns, key=lambda turn: turn.accept_seq)
        assert in_order == sorted(turns, key=lambda turn: turn.started_at)  # type: ignore[arg-type,return-value]
    assert await admin.fetchval("select count(*) from usage") == 100


async def cancel_and_listen(
    api: Api, principal: Principal, turn_id: UUID, partial: str | None = None
) -> tuple[Turn, float]:
    loop = asyncio.get_running_loop()
    began = loop.time()
    turn = await api.cancels.cancel(principal, turn_id, partial)
    return turn, loop.time() - began


async def test_a_hundred_cancels_of_streaming_turns(
    open_api: Any, make_turn: MakeTurn, start_worker: StartWorker, principal: Principal
) -> None:
    # Forcing comes late here, so that a slow machine does not turn a cancel into a forced one.
    api = await open_api(cancel_wait_s=5.0)
    await start_worker()
    chance = seeded(5)
    after_ack = 0
    waits_s = []

    async def one(number: int) -> None:
        nonlocal after_ack
        turn = await api.submit(make_turn(key=f"k{number}", deltas=5000, intervalMs=2))
        acknowledged = asyncio.Event()
        seen: list[Any] = []

        async def read() -> None:
            nonlocal after_ack
            async with api.hub.follow(turn) as follower:
                while not follower.is_done.is_set():
                    batches = events(await follower.read(1))
                    if acknowledged.is_set():
                        after_ack += sum(isinstance(e, MessageDelta) for e in batches)
                    seen.extend(batches)

        reader = asyncio.create_task(read())
        await wait_until(
            lambda: sum(isinstance(e, MessageDelta) for e in seen) > chance.randint(1, 20),
            "it streams",
        )
        cancelled, took_s = await cancel_and_listen(api, principal, turn.id)
        acknowledged.set()
        waits_s.append(took_s)
        await reader
        assert cancelled.status is TurnStatus.CANCELLED
        assert ends_once(seen)
        assert cancelled.usage is not None
        said = text_of(seen)
        assert said
        assert await stored_text(api, turn) == said
        assert cancelled.usage.output_tokens == len(said.split())
        again = await api.reload(turn)
        assert (again.status, again.attempt) == (TurnStatus.CANCELLED, 1), "it was forced"

    for first in range(0, 100, 10):
        async with asyncio.TaskGroup() as group:
            for number in range(first, first + 10):
                group.create_task(one(number))
    assert after_ack == 0
    assert len(waits_s) == 100
    assert sorted(waits_s)[50] < 1


async def test_a_reader_that_lags_hears_no_delta_behind_the_acknowledgement(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, principal: Principal
) -> None:
    await start_worker()
    turn = await api.submit(make_turn(deltas=5000, intervalMs=1))
    async with api.hub.follow(turn) as follower:
        await follower.read(5)
        await wait_until(lambda: has_said(api, turn, 10), "more is said than was read")
        cancelled = await api.cancels.cancel(principal, turn.id)
        assert cancelled.status is TurnStatus.CANCELLED
        rest = []
        while not follower.is_done.is_set():
            rest += events(await follower.read(1))
    assert [event.type for event in rest] == ["turn.ended"]


async def test_a_worker_that_does_not_stop_is_overruled(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, principal: Principal
) -> None:
    worker = await start_worker()
    turn = await api.submit(make_turn(deltas=4, hangAfter=2, ignoreCancelMs=1500))
    seen: list[Any] = []
    async with api.hub.follow(turn) as follower:
        while text_of(seen) != text(2):
            seen += events(await follower.read(5))
        cancelled, took_s = await cancel_and_listen(api, principal, turn.id)
        assert 0.25 < took_s < 1.4
        assert (cancelled.status, cancelled.attempt) == (TurnStatus.CANCELLED, 2)
        while not follower.is_done.is_set():
            seen += events(await follower.read(5))
    assert [event.type for event in seen] == [
        "turn.started", "message.delta", "message.delta", "turn.ended",
    ]  # fmt: skip
    assert await stored_text(api, turn) == text(2)
    assert cancelled.usage is not None
    assert cancelled.usage.output_tokens == 2
    await wait_until(lambda: not len(worker.parts.held), "the worker lets go")
    assert (await api.reload(turn)).attempt == 2


async def test_a_worker_that_nobody_hears_of_is_overruled_at_once(
    open_api: Callable[..., Awaitable[Api]],
    make_turn: MakeTurn,
    start_worker: StartWorker,
    principal: Principal,
) -> None:
    api = await open_api(cancel_wait_s=8.0)
    worker = await start_worker(worker_concurrency=1)
    turn = await api.submit(make_turn(deltas=4, hangAfter=2))
    await wait_until(lambda: has_said(api, turn, 3), "it streams")
    await worker.kill()
    cancelled, took_s = await cancel_and_listen(api, principal, turn.id)
    assert took_s < 4
    assert (cancelled.status, cancelled.attempt) == (TurnStatus.CANCELLED, 2)
    assert await stored_text(api, turn) == text(2)


async def test_the_clients_own_partial_text_is_kept(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, principal: Principal
) -> None:
    await start_worker()
    turn = await api.submit(make_turn(deltas=4, hangAfter=2))
    await wait_until(lambda: has_said(api, turn, 3), "it streams")
    await cancel_and_listen(api, principal, turn.id, "w0")
    assert await stored_text(api, turn) == "w0"
    silent = await api.submit(make_turn(deltas=4, hangAfter=0))
    await wait_until(lambda: is_running(api, silent), "it runs")
    cancelled, _ = await cancel_and_listen(api, principal, silent.id, "seen")
    assert cancelled.output_message_id == silent.planned_output_message_id
    assert await stored_text(api, silent) == "seen"


async def test_cancelling_what_has_ended_changes_nothing(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, principal: Principal
) -> None:
    await start_worker()
    turn = await api.end_of(await api.submit(make_turn()))
    assert await api.cancels.cancel(principal, turn.id, "x") == turn


async def test_a_cancel_frees_the_key_for_the_next_turn(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, principal: Principal
) -> None:
    await start_worker()
    first = await api.submit(make_turn(deltas=4, hangAfter=2))
    second, third = [await api.submit(make_turn()) for _ in range(2)]
    await wait_until(lambda: is_running(api, first), "the first runs")
    await api.cancels.cancel(principal, second.id)
    await api.cancels.cancel(principal, first.id)
    assert (await api.end_of(third, 1.0)).status is TurnStatus.COMPLETED


async def test_is_gapless_finds_what_it_should() -> None:
    def at(*pairs: tuple[int, int]) -> list[Cursor]:
        return [Cursor(*pair) for pair in pairs]

    assert is_gapless(at((1, 1), (1, 2), (2, 1)))
    assert not is_gapless(at((1, 1), (1, 3)))
    assert not is_gapless(at((1, 1), (1, 1)))
    assert not is_gapless(at((2, 1), (1, 2)))
    assert not is_gapless(at((1, 1), (2, 2)))


@pytest.mark.parametrize("after", [START, Cursor(1, 3)])
async def test_a_reader_that_comes_between_commit_and_publication_gets_every_event(
    api: Api,
    make_turn: MakeTurn,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
    after: Cursor,
) -> None:
    worker = await start_worker()
    event_log = worker.parts.writer.event_log
    gate = asyncio.Event()

    def gated(*args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        return asyncio.ensure_future(append_later(*args, **kwargs))

    async def append_later(names: LogNames, *args: Any, **kwargs: Any) -> Any:
        await gate.wait()
        reply = await event_log.append(UUID(names.turn), *args, **kwargs)
        return [reply.word.encode(), reply.last_seq]

    turn = await api.submit(make_turn(deltas=6, hangAfter=4, hangMs=200))
    await wait_until(lambda: has_said(api, turn, 5), "it streams")
    monkeypatch.setattr(event_log, "send_append", gated)
    ended = await end_in_postgres(api, turn)
    reader = asyncio.create_task(follow_all(api.hub, ended, after))
    await wait_until(lambda: api.hub._followers or reader.done(), "it waits for the end")
    gate.set()
    batches = await reader
    assert places(batches) == [Cursor(1, seq) for seq in range(after.seq + 1, 9)]


async def test_a_reader_does_not_wait_for_ever_for_an_end_that_is_never_published(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await start_worker()
    turn = await api.submit(make_turn(deltas=6, hangAfter=4, hangMs=200))
    await wait_until(lambda: has_said(api, turn, 5), "it streams")
    never: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(worker.parts.writer, "_send", lambda *_, **__: never)
    ended = await end_in_postgres(api, turn)
    seen = events(await follow_all(api.hub, ended, Cursor(1, 5), patience_s=5))
    assert [event.type for event in seen] == ["turn.snapshot", "turn.ended"]
    assert text_of(seen) == text(6)


async def test_a_slot_whose_release_was_lost_is_released_again(
    api: Api, make_turn: MakeTurn, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await start_worker()
    lost: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    lost.set_exception(RedisUnavailable("lost"))
    monkeypatch.setattr(worker.parts.dispatch, "send_settle", lambda _: lost)
    monkeypatch.setattr(worker.parts.sweeper, "_restore_stalled", AsyncMock())
    first = await api.submit(make_turn(deltas=1))
    second = await api.submit(make_turn(deltas=1))
    await api.end_of(first)
    async with asyncio.timeout(8):
        assert (await api.end_of(second)).status is TurnStatus.COMPLETED


async def test_a_turn_whose_result_cannot_be_had_ends_all_the_same(
    api: Api, start_worker: StartWorker, make_turn: MakeTurn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Any) -> EngineResult:
        raise ValueError("no result")

    monkeypatch.setattr(_ScriptedRun, "result", broken)
    await start_worker()
    ended = await api.end_of(await api.submit(make_turn()))
    assert (ended.status, ended.attempt) == ("failed", 1)
    assert ended.error is not None
    assert ended.error["code"] == "internal"


async def test_a_cancel_that_comes_too_late_takes_no_delta_from_a_slow_reader(
    api: Api,
    make_turn: MakeTurn,
    start_worker: StartWorker,
    principal: Principal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def let_it_end(self: CancelService, principal: Principal, turn: Turn) -> Turn:
        return await self._turns.wait(principal, turn, 10)

    monkeypatch.setattr(CancelService, "_cancel_running", let_it_end)
    await start_worker(heartbeat_s=60.0, lease_s=120.0)  # which would tell it of the cancel
    turn = await api.submit(make_turn(deltas=30, intervalMs=10))
    async with api.hub.follow(turn) as reader:
        await reader.read(5)
        ended = await api.cancels.cancel(principal, turn.id)
        assert ended.status is TurnStatus.COMPLETED
        events = 0
        while not reader.is_done.is_set():
            events += sum(len(batch.payloads) for batch in await reader.read(5))
    assert events >= 30, "what it had not read yet is told before the end"
