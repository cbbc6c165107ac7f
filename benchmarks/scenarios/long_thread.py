"""Streams again, on few threads that grow: what it costs to load a thread's history.

Only Turnkeep loads any; the baseline is not asked.
"""

from __future__ import annotations

from benchmarks.plan import Figures, Plan
from benchmarks.scenarios import streams
from benchmarks.systems import Options, Side

FEW_THREADS = 64


def measure(side: Side, plan: Plan) -> list[Figures]:
    if side.name != "turnkeep":
        return []
    with side.start(Options(threads=FEW_THREADS)) as system:
        plan.load(system, system.stream_ask(), plan.seconds)
        plan.settle(system, streams.SETTLE_PATIENCE_S)
        turns = system.count_turns().get("completed", 0)
        runs = [streams.run_once(system, plan) for _ in range(plan.runs)]
    for figures in runs:
        figures["turns per thread before the first run"] = turns / FEW_THREADS
    return runs
