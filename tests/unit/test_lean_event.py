"""What is promised of an event: nobody who waits is forgotten, nobody who left is in the way."""

from __future__ import annotations

import asyncio

import pytest

from shared.lean_event import LeanEvent


async def test_all_who_wait_go_on_and_who_comes_later_does_not_wait() -> None:
    event = LeanEvent()
    waiting = [asyncio.create_task(event.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    event.set()
    async with asyncio.timeout(10):
        await asyncio.gather(*waiting)
        await event.wait()
    assert event.is_set()
    assert event._waiters is None


async def test_a_set_that_is_cleared_at_once_still_wakes_who_waited() -> None:
    event = LeanEvent()
    waiting = asyncio.create_task(event.wait())
    await asyncio.sleep(0)
    event.set()
    event.clear()
    async with asyncio.timeout(10):
        await waiting
    assert not event.is_set()


async def test_who_is_cancelled_leaves_the_others_waiting() -> None:
    event = LeanEvent()
    leaves, stays = (asyncio.create_task(event.wait()) for _ in range(2))
    await asyncio.sleep(0)
    leaves.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaves
    event.set()
    async with asyncio.timeout(10):
        await stays
