"""Draws a report's figures: `python plots.py bench-DATE.json`, prints the files it made.

A program of its own, because matplotlib lives in the peers' environment.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

OURS, THEIRS, OTHERS = "#1b6ca8", "#b8b8b8", "#dd8452"
COLOURS = {"turnkeep": OURS, "baseline": THEIRS}
RATES = (
    ("streams", "turns/s", "streamed turns/s"),
    ("submits", "submits/s", "submits/s"),
    ("submits", "completions/s", "completions/s"),
    ("paced", "deltas/s", "paced deltas/s"),
    ("gets", "GET/s finished", "GET/s"),
)
TIMES = (
    ("first-delta", "first delta p50 ms", "first delta p50"),
    ("first-delta", "first delta p99 ms", "first delta p99"),
    ("cancel", "end of stream p50 ms", "cancel → end p50"),
    ("cancel", "end of stream p99 ms", "cancel → end p99"),
)
PARTS = ("worker", "api", "redis", "postgres")
PART_COLOURS = ("#1b6ca8", "#4f9bd0", "#c44e52", "#8c8c8c")

Runs = dict[str, dict[str, list[dict[str, float]]]]


def median(runs: Runs, scenario: str, side: str, figure: str) -> float | None:
    values = [run[figure] for run in runs.get(scenario, {}).get(side, []) if figure in run]
    return statistics.median(values) if values else None


def draw_ratios(axes: Any, runs: Runs) -> None:
    """Bars: how many times the baseline's rate."""
    bars = []
    for scenario, figure, title in RATES:
        ours = median(runs, scenario, "turnkeep", figure)
        theirs = median(runs, scenario, "baseline", figure)
        if ours and theirs:
            bars.append((title, ours / theirs))
    axes.barh([title for title, _ in bars], [ratio for _, ratio in bars], color=OURS)
    axes.axvline(1, color="black", linewidth=0.8)
    for place, (_, ratio) in enumerate(bars):
        axes.text(ratio, place, f" {ratio:.1f}×", va="center")
    axes.set_xlim(0, max([ratio for _, ratio in bars], default=1) * 1.2)
    axes.invert_yaxis()
    axes.set_title("Rates, baseline = 1")


def draw_times(axes: Any, runs: Runs) -> None:
    """Bars: milliseconds of both sides."""
    titles = [title for _, _, title in TIMES]
    for number, side in enumerate(("turnkeep", "baseline")):
        values = [median(runs, scenario, side, figure) or 0 for scenario, figure, _ in TIMES]
        places = [place + number * 0.4 for place in range(len(TIMES))]
        axes.barh(places, values, 0.38, color=COLOURS[side], label=side)
        for place, value in zip(places, values, strict=True):
            axes.text(value, place, f" {value:.1f}", va="center", fontsize=8)
    axes.set_yticks([place + 0.2 for place in range(len(TIMES))], titles)
    axes.invert_yaxis()
    axes.legend()
    axes.set_title("Idle system, ms")


def draw_cpu(axes: Any, runs: Runs) -> None:
    """Stacked bars: CPU of a streamed turn by process."""
    sides = [side for side in COLOURS if runs.get("streams", {}).get(side)]
    left = [0.0] * len(sides)
    for part, colour in zip(PARTS, PART_COLOURS, strict=True):
        figure = f"CPU µs/turn {part}"
        values = [median(runs, "streams", side, figure) or 0.0 for side in sides]
        axes.barh(sides, values, left=left, color=colour, label=part)
        left = [before + value for before, value in zip(left, values, strict=True)]
    for place, total in enumerate(left):
        axes.text(total, place, f" {total:,.0f}", va="center")
    axes.set_xlim(0, max(left, default=1.0) * 1.2)
    axes.invert_yaxis()
    axes.legend(loc="upper right")
    axes.set_title("CPU of one streamed turn, µs")


def draw_hops(axes: Any, runs: Runs) -> None:
    """Bars: the hop of every system."""
    names = list(runs.get("hop", {}))
    values = [median(runs, "hop", name, "hop p50 ms") or 0 for name in names]
    axes.barh(names, values, color=[COLOURS.get(name, OTHERS) for name in names])
    for place, value in enumerate(values):
        axes.text(value, place, f" {value:.2f}", va="center", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(right=max([*values, 1]) * 3)
    axes.invert_yaxis()
    axes.set_title("Accept or enqueue → worker, p50 ms (log)")


def draw_paced(axes: Any, runs: Runs) -> None:
    """Lines: how far behind the ideal a stream falls as more of them are open."""
    prefix = "p50 over ideal at "
    for side, colour in COLOURS.items():
        points: dict[int, list[float]] = {}
        for run in runs.get("paced", {}).get(side, []):
            for figure, value in run.items():
                if figure.startswith(prefix):
                    points.setdefault(int(figure.removeprefix(prefix)), []).append(value)
        streams = sorted(points)
        axes.plot(
            streams,
            [statistics.median(points[count]) for count in streams],
            marker="o",
            color=colour,
            label=side,
        )
    axes.axhline(1.05, color="black", linewidth=0.8, linestyle="--")
    axes.set_xlabel("streams at 20 ms a delta")
    axes.set_ylabel("p50 duration / ideal")
    axes.legend()
    axes.set_title("Paced streams")


def draw_growth(axes: Any, runs: Runs) -> None:
    """Bars: what is left of the empty system's figures."""
    names = [name for name in runs["growth"] if name != "empty"]
    for number, (figure, title) in enumerate(
        (("turns/s", "turns/s"), ("GET/s finished", "GET/s"), ("first delta p50 ms", "first delta"))
    ):
        base = median(runs, "growth", "empty", figure) or 1
        values = [(median(runs, "growth", name, figure) or 0) / base for name in names]
        places = [place + number * 0.27 for place in range(len(names))]
        axes.barh(places, values, 0.25, label=title)
    axes.set_yticks([place + 0.27 for place in range(len(names))], names)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.legend()
    axes.set_title("Grown system, empty = 1")


def main() -> None:
    source = Path(sys.argv[1])
    runs: Runs = json.loads(source.read_text(encoding="utf-8"))
    panels = [
        (draw, scenario)
        for draw, scenario in (
            (draw_ratios, "streams"),
            (draw_cpu, "streams"),
            (draw_times, "first-delta"),
            (draw_hops, "hop"),
            (draw_paced, "paced"),
            (draw_growth, "growth"),
        )
        if scenario in runs
    ]
    if not panels:
        return
    rows = (len(panels) + 1) // 2
    figure, grid = plt.subplots(rows, 2, figsize=(13, 4 * rows), squeeze=False)
    for axes, (draw, _) in zip(grid.flat, panels, strict=False):
        draw(axes, runs)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    figure.tight_layout()
    target = source.with_suffix(".png")
    figure.savefig(target, dpi=110)
    sys.stdout.write(f"{target}\n")


if __name__ == "__main__":
    main()
