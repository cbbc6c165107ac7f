"""The same streams and gets with two API processes on each side: who has them spread the work."""

from __future__ import annotations

from benchmarks.plan import Figures, Plan
from benchmarks.scenarios import streams
from benchmarks.systems import Options, Side


def measure(side: Side, plan: Plan) -> list[Figures]:
    with side.start(Options(api_processes=2)) as system:
        plan.load(system, system.stream_ask(), plan.seconds / 3)
        plan.settle(system, streams.SETTLE_PATIENCE_S)
        streamed = [streams.run_once(system, plan) for _ in range(plan.runs)]
        ask = system.get_asks("two")["finished"]
        plan.load(system, ask, 1)
        got = [plan.load(system, ask, max(1.0, plan.seconds / 2)) for _ in range(plan.runs)]
    return [
        {
            "turns/s": stream["turns/s"],
            "p50 ms": stream["p50 ms"],
            "CPU µs/turn all": stream["CPU µs/turn all"],
            "GET/s finished": get.rate,
            "wrong answers": stream["wrong answers"] + float(get.bad),
        }
        for stream, get in zip(streamed, got, strict=True)
    ]
