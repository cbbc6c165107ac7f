"""The same streams and gets with two API processes on each side: who has them spread the work."""

from __future__ import annotations

from benchmarks.plan import Figures, Plan
from benchmarks.scenarios import gets, streams
from benchmarks.systems import Options, Side


def measure(side: Side, plan: Plan) -> list[Figures]:
    with side.start(Options(api_processes=2)) as system:
        plan.load(system, system.stream_ask(), plan.seconds / 3)
        plan.settle(system, streams.SETTLE_PATIENCE_S)
        runs = []
        for number in range(plan.runs):
            streamed = streams.run_once(system, plan)
            got = gets.run_once(system, plan, f"two-{number}")
            runs.append({**{name: streamed[name] for name in ("turns/s", "p50 ms")}, **got})
        return runs
