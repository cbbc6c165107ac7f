"""Get Turn, with everything a request goes through: of a running turn, of a finished one, a 304."""

from __future__ import annotations

from benchmarks.plan import Figures, Plan
from benchmarks.systems import Side, System


def measure(side: Side, plan: Plan) -> list[Figures]:
    with side.start() as system:
        for ask in system.get_asks("warm-up").values():
            plan.load(system, ask, 1)
        return [run_once(system, plan, f"run-{number}") for number in range(plan.runs)]


def run_once(system: System, plan: Plan, run_name: str) -> Figures:
    figures: Figures = {}
    for name, ask in system.get_asks(run_name).items():
        result = plan.load(system, ask, max(1.0, plan.seconds / 2))
        figures[f"GET/s {name}"] = result.rate
        figures[f"p99 ms {name}"] = result.p99_ms
        figures[f"wrong answers {name}"] = float(result.bad)
    return figures
