"""A turn of 100,000 deltas with 50 readers: each gets all of it in order, and memory stays flat."""

from __future__ import annotations

import asyncio
import re
import time

import psutil

from benchmarks.answers import Answer
from benchmarks.plan import Figures, Plan
from benchmarks.recorder import run_async
from benchmarks.systems import Options, Side, Turnkeep

DELTAS = 100_000
READERS = 50
SAMPLE_S = 0.1
PATIENCE_S = 180.0
WORD = re.compile(rb"w(\d+) ")


def measure(side: Side, plan: Plan) -> list[Figures]:
    if side.name != "turnkeep":
        return []  # it keeps no log that a second reader could follow
    with side.start(Options(deltas=DELTAS)) as system:
        assert isinstance(system, Turnkeep)  # noqa: S101 - the side of that name
        return [run_async(run_once(system, plan, f"long-{n}")) for n in range(min(plan.runs, 2))]


async def run_once(system: Turnkeep, plan: Plan, name: str) -> Figures:
    processes = {part: psutil.Process(system.pids[part]) for part in ("api", "worker")}
    before = {part: process.memory_info().rss for part, process in processes.items()}
    peak = dict(before)

    async def watch() -> None:
        while True:
            for part, process in processes.items():
                peak[part] = max(peak[part], process.memory_info().rss)
            await asyncio.sleep(SAMPLE_S)

    # A pause first, so that every reader is there from the first delta on.
    script = {"deltas": DELTAS, "intervalMs": 0, "startDelayMs": 1000}
    ask = system.turn_ask("/turns", Answer(202), script)
    turn_id = await asyncio.to_thread(system.submit_one, name, ask)
    began = time.perf_counter()
    watching = asyncio.create_task(watch())
    try:
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            request = system.events_request(turn_id)
            readers = [group.create_task(read(system.port, request)) for _ in range(READERS)]
    finally:
        watching.cancel()
    took_s = time.perf_counter() - began
    complete = sum(reader.result() == DELTAS for reader in readers)
    if complete < READERS:
        wrong = sorted({reader.result() for reader in readers})
        plan.note(f"long turn: {READERS - complete} readers not in order to the end: {wrong[:5]}")
    await asyncio.sleep(2)
    figures: Figures = {
        "readers complete and in order": float(complete),
        "readers": float(READERS),
        "deltas/s to all readers": complete * DELTAS / took_s,
    }
    for part, process in processes.items():
        figures[f"RSS MB {part} before"] = before[part] / 1e6
        figures[f"RSS MB {part} peak"] = peak[part] / 1e6
        figures[f"RSS MB {part} after"] = process.memory_info().rss / 1e6
    return figures


async def read(port: int, request: bytes) -> int:
    """How many deltas came in order, to the end or to the first that was out of place."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    expected, rest = 0, b""
    try:
        while data := await reader.read(262_144):
            whole, newline, rest = (rest + data).rpartition(b"\n")
            numbers = list(map(int, WORD.findall(whole + newline)))
            if numbers != list(range(expected, expected + len(numbers))):
                return expected
            expected += len(numbers)
            if b"turn.ended" in whole:
                return expected
    finally:
        writer.close()
    return expected
