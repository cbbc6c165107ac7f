"""Every use-case cancelled at its first, second, third … await: nothing leaks, a retry works."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest

from shared.turn.model import ConflictPolicy, Principal
from tests.fixtures.system import Api, MakeTurn, StartWorker
from tests.fixtures.waiting import wait_until

MOST_AWAITS = 60


class _Stepper:
    """Drives a coroutine and cancels the task around it when it suspends for the n-th time."""

    def __init__(self, work: Awaitable[Any], cancel_at: int) -> None:
        self.coroutine = work.__await__()
        self.cancel_at = cancel_at
        self.suspensions = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                if error is not None:
                    waits_for = self.coroutine.throw(error)
                else:
                    waits_for = self.coroutine.send(value)
            except StopIteration as stop:
                return stop.value
            self.suspensions += 1
            if self.suspensions == self.cancel_at:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            value, error = None, None
            try:
                value = yield waits_for
            except BaseException as thrown:  # noqa: BLE001 - handed on to the coroutine
                error = thrown


async def cancel_at(work: Awaitable[Any], number: int) -> bool:
    """Whether `work` completed before its `number`-th await."""
    stepper = _Stepper(work, number)

    async def run() -> None:
        await stepper

    task = asyncio.create_task(run())
    await asyncio.wait([task])
    if task.cancelled():
        return False
    task.result()
    return stepper.suspensions < number


async def sweep(
    work: Callable[[int], Awaitable[Any]], check: Callable[[int], Awaitable[None]]
) -> int:
    """Cancels fresh runs of `work` at await 1, 2, 3 …; returns how many awaits it has."""
    for number in range(1, MOST_AWAITS):
        completed = await cancel_at(work(number), number)
        await check(number)
        if completed:
            return number - 1
    pytest.fail("the use-case never completed")


async def assert_clean(api: Api) -> None:
    """No driver call, no listener, no follower is left."""
    await wait_until(lambda: not api.database._calls, "driver calls have finished")
    assert not any(channel.listeners for channel in api.hub.feed._channels.values())
    assert api.hub._followers == {}
    assert api.hub._awaited_ends == set()
    pool = api.database._pool
    if pool is not None:
        await wait_until(
            lambda: pool.get_idle_size() == pool.get_size(), "connections are back in the pool"
        )
    assert (await api.connection.call("ECHO", "x")) == b"x"


@pytest.mark.parametrize("policy", [ConflictPolicy.ENQUEUE, ConflictPolicy.REJECT])
async def test_submit(api: Api, make_turn: MakeTurn, admin: Any, policy: ConflictPolicy) -> None:
    turns = {
        n: make_turn(f"t{n}", policy=policy, idempotency_key=f"k{n}", key=f"c{n}")
        for n in range(MOST_AWAITS)
    }

    async def check(number: int) -> None:
        await assert_clean(api)
        # The client, who got no answer, asks again under the same key.
        retry = make_turn(
            f"t{number}", policy=policy, idempotency_key=f"k{number}", key=f"c{number}"
        )
        first = await api.turns.submit(retry)
        second = await api.turns.submit(turns[number])
        assert first.turn.id == second.turn.id
        count = await admin.fetchval(
            "select count(*) from turns where concurrency_key = $1", f"c{number}"
        )
        assert count == 1

    awaits = await sweep(lambda number: api.turns.submit(turns[number]), check)
    assert awaits >= 1
    await api.turns.close()


async def test_get(api: Api, make_turn: MakeTurn, principal: Principal) -> None:
    turn = await api.submit(make_turn())

    async def check(_: int) -> None:
        await assert_clean(api)

    assert await sweep(lambda _: api.turns.get(principal, turn.id), check) >= 1


async def test_wait_for_a_turn_that_runs(
    api: Api, make_turn: MakeTurn, principal: Principal, start_worker: StartWorker
) -> None:
    await start_worker()

    async def submit_and_wait(number: int) -> None:
        turn = await api.submit(make_turn(key=f"c{number}", deltas=2, intervalMs=2))
        await api.turns.wait(principal, turn, 10)

    async def check(_: int) -> None:
        await assert_clean(api)

    assert await sweep(submit_and_wait, check) >= 3


async def test_cancel_of_a_waiting_turn(
    api: Api, make_turn: MakeTurn, principal: Principal
) -> None:
    turns = {n: await api.submit(make_turn(key=f"c{n}")) for n in range(MOST_AWAITS)}

    async def check(number: int) -> None:
        await assert_clean(api)
        assert (await api.cancels.cancel(principal, turns[number].id)).status == "cancelled"

    assert await sweep(lambda n: api.cancels.cancel(principal, turns[n].id), check) >= 3


async def test_cancel_of_a_running_turn(
    api: Api, make_turn: MakeTurn, principal: Principal, start_worker: StartWorker
) -> None:
    await start_worker()
    turns: dict[int, Any] = {}

    async def cancel(number: int) -> None:
        await api.cancels.cancel(principal, turns[number].id)

    async def start(number: int) -> None:
        turn = await api.submit(make_turn(key=f"c{number}", deltas=2, hangAfter=1))
        turns[number] = turn

        async def runs() -> bool:
            return (await api.reload(turn)).status == "running"

        await wait_until(runs, "it runs")

    for number in range(1, MOST_AWAITS):
        await start(number)
        completed = await cancel_at(cancel(number), number)
        await assert_clean(api)
        ended = await api.cancels.cancel(principal, turns[number].id)
        assert ended.status == "cancelled"
        if completed:
            return
    pytest.fail("cancel never completed")


async def test_following(api: Api, make_turn: MakeTurn, start_worker: StartWorker) -> None:
    await start_worker()

    async def follow(number: int) -> None:
        turn = await api.submit(make_turn(key=f"c{number}", deltas=3, intervalMs=2))
        async with api.hub.follow(turn) as follower:
            while not follower.is_done.is_set():
                await follower.read(5)

    async def check(_: int) -> None:
        await assert_clean(api)

    assert await sweep(follow, check) >= 4
