"""Saturated submits without a stream, and how fast the turns they leave behind complete."""

from __future__ import annotations

import time

from benchmarks.plan import Figures, Plan, open_turns
from benchmarks.systems import Side, System

DRAIN_PATIENCE_S = {"turnkeep": 60.0, "baseline": 5.0}


def measure(side: Side, plan: Plan) -> list[Figures]:
    figures: list[Figures] = []
    while len(figures) < plan.runs:
        # A backlog that outlasts the patience is thrown away with its processes.
        with side.start() as system:
            plan.load(system, system.submit_ask(), 1)
            plan.settle(system, DRAIN_PATIENCE_S[side.name])
            is_drained = True
            while is_drained and len(figures) < plan.runs:
                run, is_drained = run_once(system, plan)
                figures.append(run)
    return figures


def run_once(system: System, plan: Plan) -> tuple[Figures, bool]:
    """The figures, and whether all turns have ended in time."""
    counts = system.count_turns()
    completed, accepted = counts.get("completed", 0), sum(counts.values())
    began = time.monotonic()
    result = plan.load(system, system.submit_ask(), max(2.0, plan.seconds / 2))
    is_drained = plan.settle(system, DRAIN_PATIENCE_S[system.name])
    counts = system.count_turns()
    took_s = time.monotonic() - began
    done = counts.get("completed", 0) - completed
    lost = sum(counts.values()) - counts.get("completed", 0) - open_turns(counts)
    if lost:
        plan.note(f"{system.name}: submitted turns ended otherwise than completed: {counts}")
    figures = {
        "submits/s": result.rate,
        "p50 ms": result.p50_ms,
        "p99 ms": result.p99_ms,
        "completions/s": done / took_s,
        "wrong answers": float(result.bad),
        "turns lost": float(lost + max(0, result.done - (sum(counts.values()) - accepted))),
        "turns still open after the wait": float(open_turns(counts)),
    }
    return figures, is_drained
