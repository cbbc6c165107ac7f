"""From sending a cancel to the last delta that still came, and to the end of the stream."""

from __future__ import annotations

import asyncio
import random
import re

from benchmarks.load import percentile
from benchmarks.plan import Figures, Plan
from benchmarks.recorder import END_OF_CHUNKS, Recorder, run_async
from benchmarks.systems import Options, Side, System

SAMPLES_PER_RUN = {"turnkeep": 20, "baseline": 10}
"""The baseline answers a cancel after half a second."""
OPTIONS = Options(deltas=2000, interval_ms=20)
TURN_ID = re.compile(rb"(?i)(?:location: \S*/turns/|x-turn-id: )([0-9a-f-]+)")


def measure(side: Side, plan: Plan) -> list[Figures]:
    with side.start(OPTIONS) as system:
        return [run_async(sample(system, SAMPLES_PER_RUN[side.name] * plan.runs))]


async def sample(system: System, count: int) -> Figures:
    """Percentiles over all samples of all runs."""
    stream, control = await Recorder.open(system.port), await Recorder.open(system.port)
    ask = system.stream_ask()
    marker = ask.answer.marker.encode()
    last_deltas, ends, answers = [], [], []
    for number in range(count):
        stream.send(ask.render(number, "cancel"))
        await stream.wait_for(marker)
        found = TURN_ID.search(stream.answer)
        assert found is not None  # noqa: S101 - both sides name the turn in a header
        await asyncio.sleep(random.uniform(0.1, 0.4))
        sent_at = control.send(system.cancel_ask(found[1].decode()).render(0, ""))
        await stream.wait_for(END_OF_CHUNKS)
        await control.wait_for(b"\r\n\r\n")
        last_deltas.append(max(0.0, stream.last_with(marker) - sent_at))
        ends.append(stream.pieces[-1][0] - sent_at)
        await asyncio.sleep(0.02)
        answers.append(control.pieces[-1][0] - sent_at)
    stream.close()
    control.close()
    return {
        "last delta p50 ms": percentile(last_deltas, 0.5) * 1000,
        "last delta p99 ms": percentile(last_deltas, 0.99) * 1000,
        "end of stream p50 ms": percentile(ends, 0.5) * 1000,
        "end of stream p99 ms": percentile(ends, 0.99) * 1000,
        "answer to the cancel p50 ms": percentile(answers, 0.5) * 1000,
        "samples": float(count),
    }
