"""First delta on an idle system, and one commit of a like insert on the same disk beside it.

Random pauses, so that no timer of a system falls into step with the client.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid

import asyncpg

from benchmarks.load import percentile
from benchmarks.plan import Figures, Plan
from benchmarks.recorder import END_OF_CHUNKS, Recorder, run_async
from benchmarks.systems import Side, System

SAMPLES_PER_RUN = 35
WARM_UP = 5
PROBE = "create table commit_probe (id uuid primary key, place bigint generated always as identity,"
PROBE += " body text not null); create index on commit_probe (place)"
BODY = "x" * 600


def measure(side: Side, plan: Plan) -> list[Figures]:
    with side.start() as system:
        return [run_async(sample(system, SAMPLES_PER_RUN * plan.runs))]


async def sample(system: System, count: int) -> Figures:
    """Percentiles over all samples of all runs."""
    connection = await Recorder.open(system.port)
    database = await asyncpg.connect(system.dsn)
    ask = system.stream_ask()
    marker = ask.answer.marker.encode()
    heads, firsts, ends, commits = [], [], [], []
    try:
        await database.execute(PROBE)
        for number in range(WARM_UP + count):
            await asyncio.sleep(random.uniform(0.02, 0.22))
            sent_at = connection.send(ask.render(number, "idle"))
            await connection.wait_for(END_OF_CHUNKS)
            await asyncio.sleep(random.uniform(0.02, 0.05))
            commit_s = await time_commit(database)
            if number >= WARM_UP:
                heads.append(connection.pieces[0][0] - sent_at)
                firsts.append(connection.first_with(marker) - sent_at)
                ends.append(connection.pieces[-1][0] - sent_at)
                commits.append(commit_s)
    finally:
        connection.close()
        await database.execute("drop table if exists commit_probe")
        await database.close()
    return {
        "first delta p50 ms": percentile(firsts, 0.5) * 1000,
        "first delta p99 ms": percentile(firsts, 0.99) * 1000,
        "response head p50 ms": percentile(heads, 0.5) * 1000,
        "whole turn p50 ms": percentile(ends, 0.5) * 1000,
        "lone commit p50 ms": percentile(commits, 0.5) * 1000,
        "lone commit p99 ms": percentile(commits, 0.99) * 1000,
        "first delta over commit p50 ms": (percentile(firsts, 0.5) - percentile(commits, 0.5))
        * 1000,
        "samples": float(count),
    }


async def time_commit(database: asyncpg.Connection[asyncpg.Record]) -> float:
    began = time.perf_counter()
    await database.execute("insert into commit_probe values ($1, default, $2)", uuid.uuid4(), BODY)
    return time.perf_counter() - began
