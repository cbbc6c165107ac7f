"""The figures as Markdown beside their goals, and raw as JSON; plots come from `plots.py`."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.goals import GOALS
from benchmarks.plan import Figures, Plan

PLOTS = Path(__file__).with_name("plots.py")
TITLES = {
    "streams": "Saturated streamed turns",
    "submits": "Saturated submits, then all complete",
    "paced": "Streams at 20 ms a delta",
    "first-delta": "First delta on an idle system",
    "hop": "From accept or enqueue to a worker, on an idle system",
    "gets": "Get Turn",
    "two-apis": "Streams and gets with two API processes",
    "idle-streams": "Open streams on which nothing is said",
    "cancel": "From a cancel to silence",
    "long-turn": "100,000 deltas, 50 readers",
    "start": "`make run` on data that is there",
    "long-thread": "The same turns on few threads",
    "aegra": "Beside Aegra, 16 connections, the first deltas before the load",
    "growth": "On a system that is not empty (ratio to the empty one)",
}
WORKLOAD = """\
Both sides run on the same Postgres (fsync on) and the same Valkey, one API process and one worker
each unless a title says otherwise, one side at a time, each scenario on a fresh database; the load
client and all servers share the cores. Turnkeep authenticates, keeps idempotency and order per
key, loads the thread's history and keeps a log of events; the baseline does none of it. Turns go
round 20,000 threads, so that a thread carries few of them. Every answer is checked: status, each
delta, their order, the end. "Wrong answers" counts what failed; "turns not completed" is what
Postgres says after the run. CPU is user and system time of a process with its children, over the
turns that completed. Postgres commits come from pg_stat_database, which lags by up to a second: ±
some percent; Redis commands include those inside scripts. Percentiles are nearest rank; those of
idle systems (first delta, hop, cancel) are over the samples of all runs. A cancel between two
deltas, 20 ms apart, is mostly followed by none: the end of the stream says more. A paced stream of
the baseline falls behind by itself, waiting for each publish behind each pause: see also the most
it makes at all."""


def medians(runs: Sequence[Figures]) -> Figures:
    """Of every figure its median over the runs that have it."""
    names = dict.fromkeys(name for figures in runs for name in figures)
    return {
        name: statistics.median(figures[name] for figures in runs if name in figures)
        for name in names
    }


@dataclass
class Report:
    """All runs per scenario and side; ratios are Turnkeep over the baseline."""

    plan: Plan
    runs: dict[str, dict[str, list[Figures]]] = field(default_factory=dict)
    began: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC))

    def add(self, scenario: str, side: str, runs: Sequence[Figures]) -> None:
        if runs:
            self.runs.setdefault(scenario, {})[side] = list(runs)

    def figures(self, scenario: str) -> dict[str, Figures]:
        """Medians per side."""
        return {side: medians(runs) for side, runs in self.runs.get(scenario, {}).items()}

    def as_markdown(self, plots: Sequence[Path] = ()) -> str:
        plan = self.plan
        lines = [
            f"# Benchmark, {self.began:%Y-%m-%d %H:%M} UTC",
            "",
            f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}"
            f" {platform.release()}. Load client of saturated scenarios: {plan.client},"
            f" {plan.connections} connections. 50-delta turns, medians of {plan.runs} runs of"
            f" {plan.seconds:g} s. {self._load_average()}",
            "",
            WORKLOAD,
            "",
            "## Goals",
            "",
            *self._goals(),
        ]
        for plot in plots:
            lines += ["", f"![{plot.stem}]({plot.name})"]
        for scenario in self.runs:
            lines += ["", f"## {TITLES[scenario]}", ""]
            sides = self.figures(scenario)
            lines += _growth_table(sides) if scenario == "growth" else _table(sides)
        for title, texts in (("Not measured", plan.failures), ("Notes", plan.notes)):
            if texts:
                lines += ["", f"## {title}", "", *(f"- {text}" for text in texts)]
        return "\n".join(lines) + "\n"

    def write(self, path: Path, plot_python: str | None) -> None:
        """The report; beside it the figures of all runs as JSON, and plots when they can be."""
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = path.with_suffix(".json")
        raw.write_text(json.dumps(self.runs, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        plots: list[Path] = []
        if plot_python is None:
            self.plan.note("no plots: matplotlib is not there")
        else:
            command = [plot_python, str(PLOTS), str(raw)]
            drawn = subprocess.run(command, capture_output=True, text=True, check=False)
            if drawn.returncode:
                self.plan.note(f"no plots: {drawn.stderr.strip().splitlines()[-1:]}")
            plots = [Path(line) for line in drawn.stdout.split()]
        path.write_text(self.as_markdown(plots), encoding="utf-8")

    def _load_average(self) -> str:
        first, _, last = os.getloadavg()
        return f"Load average at the end {first:.1f}, over 15 minutes {last:.1f}."

    def _goals(self) -> list[str]:
        lines = [*self._hop_goal(), *self._growth_goals()]
        for goal in GOALS:
            ours, theirs, is_met = goal.judge(self.figures(goal.scenario))
            if ours is not None or theirs is not None:
                cells = (_number(ours), _number(theirs), _ratio(ours, theirs), goal.text)
                lines.append(f"| {goal.what} | {' | '.join(cells)} | {_said(is_met)} |")
        lines.sort(key=lambda line: int(line.split()[1]))
        head = "| figure | turnkeep | baseline | ratio | goal | met |"
        return [head, "|---|---|---|---|---|---|", *lines]

    def _hop_goal(self) -> list[str]:
        hops = {name: found["hop p50 ms"] for name, found in self.figures("hop").items()}
        ours = hops.pop("turnkeep", None)
        hops.pop("baseline", None)
        if ours is None or not hops:
            return []
        best = min(hops, key=lambda name: hops[name])
        goal, is_met = f"≤ {best}, {hops[best]:.2f}", _said(ours <= hops[best])
        return [f"| 5 queue hop p50 ms | {_number(ours)} | – | – | {goal} | {is_met} |"]

    def _growth_goals(self) -> list[str]:
        found = self.figures("growth")
        empty = found.pop("empty", {})
        lines = []
        for name, grown in found.items():
            for figure, worse in (
                ("turns/s", 0.9),
                ("GET/s finished", 0.9),
                ("first delta p50 ms", 1.1),
            ):
                ratio = grown[figure] / empty[figure]
                is_met = ratio >= worse if worse < 1 else ratio <= worse
                lines.append(
                    f"| 10 {figure}, {name} | {_number(grown[figure])} | –"
                    f" | {ratio:.2f} of empty | within 10 % | {_said(is_met)} |"
                )
        return lines


def _table(sides: dict[str, Figures]) -> list[str]:
    names = dict.fromkeys(name for figures in sides.values() for name in figures)
    is_compared = {"turnkeep", "baseline"} <= sides.keys()
    titles = ["figure", *sides]
    if is_compared:
        titles.insert(3, "ratio")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name in names:
        cells = [name, *(_number(figures.get(name)) for figures in sides.values())]
        if is_compared:
            cells.insert(3, _ratio(sides["turnkeep"].get(name), sides["baseline"].get(name)))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _growth_table(sides: dict[str, Figures]) -> list[str]:
    empty = sides["empty"]
    lines = [f"| figure | {' | '.join(sides)} |", "|---" * (len(sides) + 1) + "|"]
    for name in empty:
        cells = [name, _number(empty[name])]
        for figures in list(sides.values())[1:]:
            cells.append(f"{_number(figures[name])} ({_ratio(figures[name], empty[name])})")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.2f}"


def _ratio(ours: float | None, theirs: float | None) -> str:
    return f"{ours / theirs:.2f}" if ours is not None and theirs else "–"


def _said(is_met: bool | None) -> str:
    return "–" if is_met is None else "yes" if is_met else "no"
