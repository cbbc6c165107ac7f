"""What a run measured, taken from its history."""

from __future__ import annotations

import bisect
import itertools
import signal
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from tests.chaos.history import (
    Accept,
    Cancel,
    Connect,
    Event,
    Frame,
    Sample,
    Signalled,
    Transition,
)
from tests.chaos.invariants.facts import PENDING, RUNNING
from tests.chaos.invariants.figures import percentile, series, slope_per_hour
from tests.chaos.invariants.run import pid_of
from tests.chaos.probes import REFUSED_COMMITS, REFUSED_WRITES
from tests.chaos.run import Row
from tests.chaos.workload import Kill

WARM_UP_S = 600.0
"""An API fills its cache of rendered turns for so long under the load of the kit."""
LIVED_S = 300.0
SETTLED_S = 10.0
"""An outage is counted to a fault when it begins at most so long after its end."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds by nearest rank."""

    count: int
    p50: float
    p99: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Times | None:
        """None for no values."""
        known = list(values)
        if not known:
            return None
        return cls(len(known), percentile(known, 50), percentile(known, 99), max(known))

    def __str__(self) -> str:
        p50, p99, longest = (_seconds(value) for value in (self.p50, self.p99, self.most))
        return f"p50 {p50}, p99 {p99}, max {longest} (n = {self.count})"


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def takeovers(events: Iterable[Event], kills: list[Kill]) -> dict[str, list[float]]:
    """From a process' death to the next claim of each turn it held, by cause of death."""
    by_turn: dict[str, list[Transition]] = defaultdict(list)
    for event in events:
        if isinstance(event, Transition):
            by_turn[event.turn].append(event)
    spans: dict[str, list[float]] = defaultdict(list)
    for turn in by_turn.values():
        turn.sort(key=lambda change: change.order)
        for held, after in itertools.pairwise(turn):
            if held.new != "running" or after.crash_count <= after.old_crash_count:
                continue
            kill = _killer(kills, held, after)
            again = next((c for c in turn if c.order > after.order and c.new == "running"), None)
            if kill is not None and again is not None:
                spans[kill.cause].append((again.at - max(kill.at, held.at)) / 1e9)
    return spans


def handoffs(events: Iterable[Event]) -> list[float]:
    """From the moment a draining worker gave a turn back to the next claim of it."""
    drained: set[int] = set()
    changes = []
    for event in events:
        if isinstance(event, Signalled) and event.signal == signal.SIGTERM.name:
            drained.add(event.pid)
        elif isinstance(event, Transition):
            changes.append(event)
    changes.sort(key=lambda change: change.order)
    returned: dict[str, int] = {}
    spans = []
    for change in changes:
        if change.new == PENDING and change.crash_count == change.old_crash_count:
            if pid_of(change.old_worker) in drained:
                returned[change.turn] = change.at
        elif change.turn in returned:
            at = returned.pop(change.turn)
            if change.new == RUNNING:
                spans.append((change.at - at) / 1e9)
    return spans


def refused_writes(events: Iterable[Event]) -> int:
    """Appends and commits that workers tried for attempts that were over, all of them refused."""
    latest: dict[tuple[str, str], float] = defaultdict(float)
    for event in events:
        if isinstance(event, Sample) and event.figure in (*REFUSED_WRITES, REFUSED_COMMITS):
            name = event.subject, event.figure
            latest[name] = max(latest[name], event.value)
    return int(sum(latest.values()))


def _killer(kills: list[Kill], held: Transition, lost: Transition) -> Kill | None:
    for kill in kills:
        if f"-{kill.pid}-" in held.worker and kill.at <= lost.at:
            return kill
    return None


@dataclass(frozen=True, slots=True)
class Outage:
    """How one fault was felt by who submits."""

    refused: int
    longest_s: float
    """The longest time in which no submit at all was accepted."""


def outages(events: Iterable[Event], rows: list[Row]) -> list[Outage]:
    """Of each row, in their order."""
    submits = sorted((e for e in events if isinstance(e, Accept)), key=lambda accept: accept.at)
    accepted = [accept.at for accept in submits if accept.outcome == "ok"]
    found = []
    for row in rows:
        until = row.healed + int(SETTLED_S * 1e9)
        refused = sum(
            accept.outcome != "ok" and row.began <= accept.began <= row.healed for accept in submits
        )
        first = max(0, bisect.bisect_left(accepted, row.began) - 1)
        last = bisect.bisect_right(accepted, until)
        window = accepted[first : last + 1]
        gaps = [(b - a) / 1e9 for a, b in itertools.pairwise(window)]
        found.append(Outage(refused, max(gaps, default=0.0)))
    return found


@dataclass(frozen=True, slots=True)
class Streams:
    connections: int
    reconnects: int
    frames: int
    after_attempt_2: int
    snapshots: int


def streams(events: Iterable[Event]) -> Streams:
    """How much was read, and how often readers came again."""
    chains: set[str] = set()
    connections = frames = taken_over = snapshots = 0
    for event in events:
        if isinstance(event, Connect) and event.outcome == "ok":
            connections += 1
            chains.add(event.chain)
        elif isinstance(event, Frame):
            frames += event.type != "comment"
            taken_over += event.type == "turn.started" and event.attempt > 1
            snapshots += event.type == "turn.snapshot"
    return Streams(connections, connections - len(chains), frames, taken_over, snapshots)


@dataclass(frozen=True, slots=True)
class Cancels:
    answer: Times | None
    """From asking to the answer."""
    heard_later: Times | None
    """From an answer to the last delta that some reader of the turn read after it."""


def cancels(events: Iterable[Event]) -> Cancels:
    """Cancels that ended their turn."""
    answered: dict[str, int] = {}
    asked: list[float] = []
    last_delta: dict[str, int] = {}
    turn_of: dict[str, str] = {}
    for event in events:
        if isinstance(event, Cancel) and event.outcome == "ok" and event.status == "cancelled":
            answered.setdefault(event.turn, event.at)
            asked.append((event.at - event.began) / 1e9)
        elif isinstance(event, Connect):
            turn_of[event.connection] = event.turn
        elif isinstance(event, Frame) and event.type == "message.delta":
            turn = turn_of.get(event.connection, "")
            last_delta[turn] = max(event.at, last_delta.get(turn, 0))
    late = [
        (last_delta[turn] - at) / 1e9
        for turn, at in answered.items()
        if last_delta.get(turn, 0) > at
    ]
    return Cancels(Times.of(asked), Times.of(late))


@dataclass(frozen=True, slots=True)
class Growth:
    """A figure of all subjects of one kind."""

    most: float
    mean: float
    per_hour: float | None
    """The mean of those that lived long enough, each weighed by how long; None without one."""


def growth(events: Iterable[Event], kind: str, figure: str) -> Growth:
    """Of a sampled figure of all subjects whose names begin so, as `rss_bytes` of `worker`.

    A process grows while it warms up: its first minutes do not count.
    """
    samples = [e for e in events if isinstance(e, Sample) and e.figure == figure]
    subjects = {s.subject for s in samples if s.subject.startswith(kind)}
    lines = [series(samples, subject, figure) for subject in subjects]
    warm = [[point for point in line if point[0] - line[0][0] >= WARM_UP_S] for line in lines]
    old = [(line, line[-1][0] - line[0][0]) for line in warm if len(line) > 1]
    old = [(line, lived_s) for line, lived_s in old if lived_s >= LIVED_S]
    total_s = sum(lived_s for _, lived_s in old)
    values = [sample.value for sample in samples if sample.subject in subjects]
    return Growth(
        max(values, default=0.0),
        sum(values) / max(1, len(values)),
        sum(slope_per_hour(line) * lived_s for line, lived_s in old) / total_s if old else None,
    )
