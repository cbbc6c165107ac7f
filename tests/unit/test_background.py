"""Loops beside requests: begun again after a defect, gone with their block."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from shared import background
from shared.background import in_background
from tests.fixtures.waiting import wait_until


class Loop:
    def __init__(self, *defects: Exception) -> None:
        self.defects = list(defects)
        self.begun = 0
        self.is_running = False

    async def run(self) -> None:
        self.begun += 1
        if self.defects:
            raise self.defects.pop()
        self.is_running = True
        try:
            await asyncio.Event().wait()
        finally:
            self.is_running = False


async def test_a_defect_is_told_and_ends_neither_its_loop_nor_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "RESTART_PAUSE_S", 0.01)
    broken, whole = Loop(ZeroDivisionError(), LookupError()), Loop()
    with capture_logs() as told:
        async with in_background(broken.run, whole.run):
            await wait_until(lambda: broken.is_running, "it goes on")
            assert (broken.begun, whole.begun, whole.is_running) == (3, 1, True)
    assert [line["loop"] for line in told] == ["Loop.run", "Loop.run"]
    assert not broken.is_running
    assert not whole.is_running


async def test_a_block_that_fails_leaves_no_loop_behind() -> None:
    loop = Loop()

    async def fail() -> None:
        async with in_background(loop.run):
            await wait_until(lambda: loop.is_running, "it runs")
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert not loop.is_running
