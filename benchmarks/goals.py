"""What the figures are held against. A goal is read by people: no run fails for missing one."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.plan import Figures


@dataclass(frozen=True)
class Goal:
    """One line of the report's first table.

    A goal is a ratio over the baseline's figure when `at_least` is set, else the most that is
    wanted. `less` is a figure to subtract first; `against` names another figure of the baseline.
    """

    what: str
    scenario: str
    figure: str
    at_least: float | None = None
    at_most: float | None = None
    less: str | None = None
    against: str | None = None

    @property
    def text(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.at_least:g}×"
        return f"≤ {self.at_most:g}"

    def judge(self, sides: dict[str, Figures]) -> tuple[float | None, float | None, bool | None]:
        """Our figure, the baseline's, and whether the goal is met; None where nobody measured."""
        ours = self._read(sides.get("turnkeep", {}), self.figure)
        theirs = self._read(sides.get("baseline", {}), self.against or self.figure)
        if ours is None:
            return None, theirs, None
        if self.at_least is not None:
            return ours, theirs, ours >= self.at_least * theirs if theirs else None
        return ours, theirs, self.at_most is not None and ours <= self.at_most

    def _read(self, figures: Figures, name: str) -> float | None:
        value = figures.get(name)
        if value is None or self.less is None:
            return value
        return value - figures[self.less]


GOALS = (
    Goal("1 streamed turns/s", "streams", "turns/s", at_least=8),
    Goal("2 submits/s", "submits", "submits/s", at_least=6),
    Goal("2 submitted turns completed/s", "submits", "completions/s", at_least=6),
    Goal("3 paced deltas/s within 1.05 × ideal", "paced", "deltas/s", at_least=3.5),
    Goal(
        "3 the same, to the most it makes however late",
        "paced",
        "deltas/s",
        at_least=3.5,
        against="most deltas/s",
    ),
    Goal("4 first delta p50 ms", "first-delta", "first delta p50 ms", at_most=3),
    Goal("4 first delta p99 ms", "first-delta", "first delta p99 ms", at_most=6),
    Goal(
        "4 first delta over one commit, p50 ms",
        "first-delta",
        "first delta over commit p50 ms",
        at_most=1.5,
    ),
    Goal("6 GET/s finished, to its Postgres", "gets", "GET/s finished", at_least=4),
    Goal(
        "6 GET/s live, to its Postgres", "gets", "GET/s live", at_least=4, against="GET/s finished"
    ),
    Goal("1 streamed turns/s, two API processes", "two-apis", "turns/s", at_least=8),
    Goal("6 GET/s finished, two API processes", "two-apis", "GET/s finished", at_least=4),
    Goal("7 API KB per queued stream", "idle-streams", "API KB/stream, queued", at_most=14),
    Goal("7 API KB per silent stream", "idle-streams", "API KB/stream, silent", at_most=14),
    Goal(
        "7 Redis connections per stream",
        "idle-streams",
        "Redis connections/stream, queued",
        at_most=0.005,
    ),
    Goal("8 cancel to last delta p50 ms", "cancel", "last delta p50 ms", at_most=3),
    Goal("8 cancel to last delta p99 ms", "cancel", "last delta p99 ms", at_most=12),
    Goal("8 cancel to end of stream p50 ms", "cancel", "end of stream p50 ms", at_most=3),
    Goal("8 cancel to end of stream p99 ms", "cancel", "end of stream p99 ms", at_most=12),
    Goal("9 CPU µs per streamed turn", "streams", "CPU µs/turn all", at_most=700),
    Goal(
        "11 API MB more at the peak of a long turn",
        "long-turn",
        "RSS MB api peak",
        at_most=30,
        less="RSS MB api before",
    ),
    Goal(
        "11 worker MB more at its peak",
        "long-turn",
        "RSS MB worker peak",
        at_most=30,
        less="RSS MB worker before",
    ),
    Goal("12 warm start s", "start", "warm start s", at_most=3),
    Goal("12 worker MB with a provider", "start", "RSS MB worker", at_most=130),
)
