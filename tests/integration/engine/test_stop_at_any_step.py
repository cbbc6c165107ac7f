"""A run is stopped at each step of the event loop in turn: no task, call or connection stays."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest

from tests.chaos.fake_provider import FakeProvider, run_provider
from tests.chaos.provider_text import Behaviour, Schedule
from tests.fixtures.waiting import wait_until
from tests.integration.engine.test_agent_over_http import collect, settings_for, start
from worker.engine.registry import Engines

STEPS_OF_A_RUN = 60
"""At least: a run that takes fewer was not stopped at its request, its first chunk and its end."""
STOPS_IN_SILENCE = 30
"""A run whose provider has fallen silent is stopped at so many more steps."""


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with run_provider() as provider:
        yield provider


@pytest.fixture
async def engines(provider: FakeProvider) -> AsyncIterator[Engines]:
    engines = Engines(settings_for(provider.url, first_token_timeout_s=20, idle_timeout_s=20))
    await collect(start(engines))  # imports, and a connection
    yield engines
    await engines.aclose()


async def steps(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def stop_at(step: int, engines: Engines, again_after: int | None) -> bool:
    """Runs so many steps and cancels, perhaps twice; False: it had ended by then."""
    task = asyncio.create_task(collect(start(engines)))
    await steps(step)
    was_running = task.cancel()
    if again_after is not None:
        await steps(again_after)
        task.cancel()
    async with asyncio.timeout(10):
        await asyncio.wait([task])
    assert task.cancelled() is was_running
    return was_running


@pytest.mark.parametrize(
    ("behaviour", "again_after"),
    [(Behaviour(deltas=1), None), (Behaviour("stall", at=1), 2), (Behaviour("stall", at=1), 3)],
    ids=["once", "twice", "twice, a step later"],
)
async def test_nothing_stays_of_a_run_that_was_stopped(
    provider: FakeProvider, engines: Engines, behaviour: Behaviour, again_after: int | None
) -> None:
    provider.schedule = Schedule(0, {behaviour: 1.0})
    before = asyncio.all_tasks()
    in_silence = 0
    for step in itertools.count():
        if in_silence > STOPS_IN_SILENCE or not await stop_at(step, engines, again_after):
            assert step > STEPS_OF_A_RUN
            break
        # Held, so that the collector does not end what nobody else refers to.
        left = asyncio.all_tasks() - before - set(provider._open)
        call = provider.calls[-1]
        await wait_until(
            lambda call=call, left=left: call.is_over and all(task.done() for task in left),
            f"nothing stays of a run stopped at step {step}",
            0.5,
        )
        assert provider.open_connections <= 1
        in_silence += call.behaviour.do == "stall" and call.deltas > 0
