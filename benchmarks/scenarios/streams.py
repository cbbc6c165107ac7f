"""Saturated streamed turns: how many a second, and what each costs every process."""

from __future__ import annotations

from benchmarks.plan import Figures, Plan, open_turns
from benchmarks.servers import memory_mb, per_turn, read_spent
from benchmarks.systems import Side, System

SETTLE_PATIENCE_S = 20.0


def measure(side: Side, plan: Plan) -> list[Figures]:
    with side.start() as system:
        plan.load(system, system.stream_ask(), plan.seconds / 3)
        plan.settle(system, SETTLE_PATIENCE_S)
        return [run_once(system, plan) for _ in range(plan.runs)]


def run_once(system: System, plan: Plan) -> Figures:
    """One run under load, then a look at whether every accepted turn has completed."""
    before = read_spent(system.dsn, system.servers, system.pids)
    counts = system.count_turns()
    completed, held = counts.get("completed", 0), open_turns(counts)
    result = plan.load(system, system.stream_ask())
    memory = memory_mb({**system.pids, **system.servers.pids})
    is_settled = plan.settle(system, SETTLE_PATIENCE_S, held)
    after = read_spent(system.dsn, system.servers, system.pids)
    counts = system.count_turns()
    done = counts.get("completed", 0) - completed
    lost = sum(counts.values()) - counts.get("completed", 0) - held
    if lost or not is_settled:
        plan.note(f"{system.name}: not every streamed turn completed: {counts}")
    return {
        "turns/s": result.rate,
        "p50 ms": result.p50_ms,
        "p99 ms": result.p99_ms,
        "wrong answers": float(result.bad),
        "turns not completed": float(lost),
        # Turns that the client abandoned at the end have cost as much as the others.
        **per_turn(before, after, done),
        **memory,
    }
