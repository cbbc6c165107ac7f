"""F54, F55: processes whose wall clock is wrong, or jumps."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from tests.acceptance.client import Client
from tests.acceptance.product import Api, Process
from tests.chaos.arena import Arena, Evidence, Fault
from tests.chaos.packages import find_faketime


async def _skew(arena: Arena) -> Evidence:
    """One API and one worker live 10 minutes ahead, then 10 minutes behind."""
    seen = [await _live_in(arena, shift) for shift in ("+10m", "-10m")]
    assert min(abs(offset) for offset in seen) > 500, seen
    return Evidence(len(seen), f"an API and a worker at {[f'{s:+.0f} s' for s in seen]}")


async def _jump(arena: Arena) -> Evidence:
    """The clock of one API and one worker is an hour off and comes back with the next start."""
    offset = await _live_in(arena, "+1h")
    return Evidence(1 if abs(offset) > 3000 else 0, f"an API and a worker at {offset:+.0f} s")


async def _live_in(arena: Arena, shift: str) -> float:
    deployment = arena.deployment
    wrong = {
        "LD_PRELOAD": str(find_faketime()),
        "FAKETIME": shift,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    old_api, old_worker = deployment.apis[-1], deployment.workers[-1]
    await _let_go(old_api, old_worker)
    api = deployment.start_api(wrong, port=old_api.port)
    worker = deployment.start_worker(wrong)
    await deployment.be_whole()
    offset = await _offset(api)
    await asyncio.sleep(arena.seconds(6, 30))
    await _let_go(api, worker)
    await deployment.be_whole()
    return offset


async def _let_go(*processes: Process) -> None:
    for process in processes:
        process.send(signal.SIGTERM)
    for process in processes:
        await process.ended(30)


async def _offset(api: Api) -> float:
    """How far an API's clock is from ours, by the date of an answer."""
    answer = await Client(api.port, None).get("/livez")
    there = parsedate_to_datetime(answer.headers["date"])
    return (there - datetime.now(UTC)).total_seconds()


CLOCK_FAULTS = (
    Fault("F54", "wall clocks are 10 minutes off", "worker", _skew),
    Fault("F55", "a wall clock jumps by an hour", "worker", _jump),
)
