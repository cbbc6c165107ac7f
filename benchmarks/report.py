"""The figures as Markdown beside their goals, and raw as JSON."""

from __future__ import annotations

import datetime
import json
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.plan import Figures, Plan


@dataclass
class Report:
    """Medians per scenario and side; ratios are Turnkeep over the baseline."""

    plan: Plan
    figures: dict[str, dict[str, Figures]] = field(default_factory=dict)
    began: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC))

    def add(self, scenario: str, side: str, figures: Figures) -> None:
        self.figures.setdefault(scenario, {})[side] = figures

    def as_markdown(self) -> str:
        lines = [
            f"# Benchmark, {self.began:%Y-%m-%d %H:%M} UTC",
            "",
            f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}."
            f" Load client ({self.plan.client}), servers and processes share the cores."
            f" {self.plan.connections} connections, 50-delta turns, medians of {self.plan.runs}"
            f" runs of {self.plan.seconds:g} s. Postgres with fsync.",
        ]
        for scenario, sides in self.figures.items():
            lines += ["", f"## {scenario}", "", *_table(sides)]
        if self.plan.failures:
            lines += ["", "## Not measured", "", *(f"- {text}" for text in self.plan.failures)]
        if self.plan.notes:
            lines += ["", "## Notes", "", *(f"- {note}" for note in self.plan.notes)]
        return "\n".join(lines) + "\n"

    def write(self, path: Path) -> None:
        """The report, and beside it the figures as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.as_markdown(), encoding="utf-8")
        path.with_suffix(".json").write_text(json.dumps(self.figures, indent=1), encoding="utf-8")


def _table(sides: dict[str, Figures]) -> list[str]:
    ours, theirs = sides.get("turnkeep", {}), sides.get("baseline", {})
    lines = ["| figure | turnkeep | baseline | ratio |", "|---|---|---|---|"]
    for name in dict.fromkeys([*ours, *theirs]):
        ratio = f"{ours[name] / theirs[name]:.2f}" if ours.get(name) and theirs.get(name) else "–"
        cells = [f"{side[name]:,.2f}" if name in side else "–" for side in (ours, theirs)]
        lines.append(f"| {name} | {' | '.join(cells)} | {ratio} |")
    return lines
