"""Streams at 20 ms a delta, as a model speaks: how many a system holds without falling behind.

Also the most deltas a second that it makes at all, however late they are.
"""

from __future__ import annotations

import time

import uvloop

from benchmarks.load import drive, percentile
from benchmarks.plan import Figures, Plan
from benchmarks.progress import say
from benchmarks.systems import Options, Side, System

STEPS = (30, 40, 50, 65, 85, 110, 140, 180, 240, 310, 400, 520, 680, 880, 1150, 1500, 1950, 2500)
FIRST = 5
STRIDE = 2
INTERVAL_MS = 20
DELTAS = 50
IDEAL_S = {"turnkeep": (DELTAS - 1) * INTERVAL_MS / 1000, "baseline": DELTAS * INTERVAL_MS / 1000}
"""The baseline also pauses before its first delta; it waits for each publish behind each pause,
so that its streams fall behind a little even when there are few."""
MOST_BEHIND = 1.05
WORTHWHILE = 1.05
CONCURRENCY = {"turnkeep": 2500, "baseline": 600}
HOLD_S = 3.0


def measure(side: Side, plan: Plan) -> list[Figures]:
    options = Options(interval_ms=INTERVAL_MS, concurrency=CONCURRENCY[side.name])
    runs: list[Figures] = []
    with side.start(options) as system:
        number, stride, peak = FIRST, STRIDE, -1
        for _ in range(plan.runs):
            figures, number = climb(system, plan, number, stride)
            if peak < 0:
                peak = find_peak(system, plan, figures, max(number, FIRST) + STRIDE)
            else:
                look(system, plan, figures, peak)
            runs.append(figures)
            stride = 1
    return runs


def climb(system: System, plan: Plan, first: int, stride: int) -> tuple[Figures, int]:
    """Finds the last step that a system holds; also the step at which to begin next time."""
    figures: Figures = {"streams held": 0.0, "deltas/s": 0.0, "most deltas/s": 0.0}
    held, too_much, number = -1, len(STEPS), first
    while held < number < too_much:
        behind, deltas_per_s = look(system, plan, figures, number)
        if behind <= MOST_BEHIND:
            held = number
            figures["streams held"], figures["deltas/s"] = float(STEPS[number]), deltas_per_s
        else:
            too_much = number
        number = next_step(held, too_much, stride)
    return figures, max(held, 0)


def find_peak(system: System, plan: Plan, figures: Figures, first: int) -> int:
    """Goes on, behind or not, while more streams still mean more deltas; the step of the most."""
    best = number = min(first, len(STEPS) - 1)
    while number < len(STEPS):
        before = figures["most deltas/s"]
        look(system, plan, figures, number)
        if figures["most deltas/s"] > before:
            best = number
        if figures["most deltas/s"] < before * WORTHWHILE:
            break
        number += STRIDE
    return best


def look(system: System, plan: Plan, figures: Figures, number: int) -> tuple[float, float]:
    """Measures one step and writes it down: how far behind the ideal, and deltas a second."""
    behind, deltas_per_s = hold(system, plan, STEPS[number])
    say(f"    {system.name}: {STEPS[number]} streams, {behind:.3f} x ideal, {deltas_per_s:,.0f}/s")
    figures[f"p50 over ideal at {STEPS[number]}"] = behind
    figures["most deltas/s"] = max(figures["most deltas/s"], deltas_per_s)
    return behind, deltas_per_s


def next_step(held: int, too_much: int, stride: int) -> int:
    """Up or down by strides while one end is unknown, then into the middle."""
    if held < 0:
        return max(0, too_much - stride)
    if too_much == len(STEPS):
        return min(held + stride, len(STEPS) - 1)
    return (held + too_much) // 2


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
