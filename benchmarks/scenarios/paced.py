"""Streams at 20 ms a delta, as a model speaks: how many a system holds without falling behind."""

from __future__ import annotations

import time

import uvloop

from benchmarks.load import drive, percentile
from benchmarks.plan import Figures, Plan, say
from benchmarks.systems import Options, Side, System

STEPS = (50, 100, 200, 300, 400, 600, 800, 1000, 1300, 1600, 2000)
INTERVAL_MS = 20
DELTAS = 50
IDEAL_S = {"turnkeep": (DELTAS - 1) * INTERVAL_MS / 1000, "baseline": DELTAS * INTERVAL_MS / 1000}
"""The baseline also pauses before its first delta."""
MOST_BEHIND = 1.05
CONCURRENCY = {"turnkeep": 2500, "baseline": 600}
HOLD_S = 3.0


def measure(side: Side, plan: Plan) -> list[Figures]:
    options = Options(interval_ms=INTERVAL_MS, concurrency=CONCURRENCY[side.name])
    runs: list[Figures] = []
    with side.start(options) as system:
        first = 1
        for _ in range(plan.runs):
            figures, first = climb(system, plan, first)
            runs.append(figures)
    return runs


def climb(system: System, plan: Plan, first: int) -> tuple[Figures, int]:
    """Raises the concurrency until it is too much; also the step at which to begin next time."""
    figures: Figures = {"streams held": 0.0, "deltas/s": 0.0}
    number = first
    for number in range(first, len(STEPS)):
        behind, deltas_per_s = hold(system, plan, STEPS[number])
        say(f"    {system.name}: {STEPS[number]} streams, p50 {behind:.3f} x ideal")
        figures[f"p50 over ideal at {STEPS[number]}"] = behind
        if not behind <= MOST_BEHIND:
            break
        figures["streams held"], figures["deltas/s"] = float(STEPS[number]), deltas_per_s
    return figures, max(0, number - 2)


def hold(system: System, plan: Plan, streams: int) -> tuple[float, float]:
    """Median duration over the ideal, and deltas a second, once all streams are open."""
    ideal_s = IDEAL_S[system.name]
    ramp_s = max(1.0, streams / 500)
    began = time.perf_counter()
    tally = uvloop.run(
        drive(
            system.port,
            system.stream_ask(),
            f"paced-{streams}-{began:.0f}",
            connections=streams,
            seconds=ramp_s + HOLD_S,
            ramp_s=ramp_s,
        )
    )
    if tally.faults:
        plan.note(f"{system.name}: {len(tally.faults)} paced streams wrong ({tally.faults[0]})")
    full_at, last_at = began + ramp_s + ideal_s, began + ramp_s + HOLD_S
    inside = [duration for end, duration in tally.answers if full_at <= end <= last_at]
    rate = len(inside) * DELTAS / (last_at - full_at)
    return percentile(inside, 0.5) / ideal_s, rate
