"""What an open stream costs while nothing is said on it: memory of the API, connections to Redis.

Kinds: readers of turns that run and are silent, and streams of turns that wait for a worker.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable

import psutil

from benchmarks.answers import Answer
from benchmarks.plan import Figures, Plan
from benchmarks.recorder import Recorder, run_async
from benchmarks.systems import Options, Side, System, Turnkeep

STREAMS = 2000
WARM_UP = 200
AT_ONCE = 50
SILENT_TURNS = 4
SETTLE_S = 1.5
PATIENT = (
    ("TURNKEEP_IDLE_TIMEOUT_S", "3600"),
    ("TURNKEEP_TURN_TIMEOUT_S", "3600"),
    ("TURNKEEP_STREAM_MAX_AGE_S", "3600"),
)


def measure(side: Side, plan: Plan) -> list[Figures]:
    runs: list[Figures] = []
    for _ in range(plan.runs):
        figures: Figures = {}
        with side.start(Options(workers=0)) as system:
            figures |= run_async(cost_of(system, queued_requests(system), "queued"))
        if side.name == "turnkeep":
            with side.start(Options(env=PATIENT)) as system:
                assert isinstance(system, Turnkeep)  # noqa: S101 - the side of that name
                figures |= run_async(cost_of(system, silent_requests(system), "silent"))
        runs.append(figures)
    return runs


def queued_requests(system: System) -> list[bytes]:
    ask = system.stream_ask()
    return [ask.render(number, "queued") for number in range(WARM_UP + STREAMS)]


def silent_requests(system: Turnkeep, count: int = WARM_UP + STREAMS) -> list[bytes]:
    """Gets of the events of a few turns that never say another word."""
    script = {"deltas": 1, "intervalMs": 0, "hangAfter": 1}
    ask = system.turn_ask("/turns", Answer(202), script)
    turns = [system.submit_one(f"silent-{number}", ask) for number in range(SILENT_TURNS)]
    requests = [system.events_request(turn_id) for turn_id in turns]
    return [requests[number % SILENT_TURNS] for number in range(count)]


async def cost_of(system: System, requests: list[bytes], kind: str) -> Figures:
    api = psutil.Process(system.pids["api"])
    async with open_streams(system, requests[:WARM_UP]):
        await asyncio.sleep(SETTLE_S)
        before = api.memory_info().rss
        clients_before = system.servers.redis_info("clients")["connected_clients"]
        async with open_streams(system, requests[WARM_UP:]):
            await asyncio.sleep(SETTLE_S)
            after = api.memory_info().rss
            clients = system.servers.redis_info("clients")["connected_clients"]
    count = len(requests) - WARM_UP
    return {
        f"API KB/stream, {kind}": (after - before) / count / 1024,
        f"Redis connections/stream, {kind}": (clients - clients_before) / count,
        f"streams, {kind}": float(count),
    }


@contextlib.asynccontextmanager
async def open_streams(system: System, requests: Iterable[bytes]) -> AsyncIterator[None]:
    """Streams whose heads have come, held open."""
    streams: list[Recorder] = []
    places = asyncio.Semaphore(AT_ONCE)

    async def open_one(request: bytes) -> None:
        async with places:
            stream = await Recorder.open(system.port)
            streams.append(stream)
            stream.send(request)
            await stream.wait_for(b"text/event-stream")

    try:
        async with asyncio.TaskGroup() as group:
            for request in requests:
                group.create_task(open_one(request))
        yield
    finally:
        for stream in streams:
            stream.close()
