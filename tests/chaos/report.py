"""The report of chaos runs: what was broken, measured, found not to hold, and left out."""

from __future__ import annotations

import os
import platform
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from tests.chaos import figures
from tests.chaos.catalogue import LEFT_OUT
from tests.chaos.history import Accept, Decide, Event, Sample
from tests.chaos.invariants.figures import at_most_95
from tests.chaos.mutants import mutation_score
from tests.chaos.run import Outcome, Row

_MIB = 2**20
OWN_DEPLOYMENT = (
    "Made by `python -m tests.chaos`: two APIs and two workers, PostgreSQL with fsync, every "
    "process on links of its own"
)


def write_report(
    outcomes: list[Outcome],
    path: Path,
    *,
    setting: str = OWN_DEPLOYMENT,
    left_out: Mapping[str, str] = LEFT_OUT,
) -> None:
    """Writes all runs into one file. `setting` tells what was broken, and how."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(_report(outcomes, setting, left_out)) + "\n")


def _report(outcomes: list[Outcome], setting: str, left_out: Mapping[str, str]) -> Iterator[str]:
    yield f"# Chaos, {datetime.now(UTC).strftime('%Y-%m-%d %H:%M')} UTC"
    yield ""
    yield (
        f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()} "
        f"{platform.release()}. {setting}; users submit, follow, come again, poll and cancel all "
        "the while. What each figure means stands in `docs/chaos.md`."
    )
    yield ""
    yield from _summary(outcomes)
    for outcome in outcomes:
        yield from _run(outcome)
    yield "## Left out"
    yield ""
    for ids, reason in left_out.items():
        yield f"- {ids}: {reason}."
    for outcome in outcomes:
        for row in outcome.rows:
            if row.skipped:
                yield f"- {row.fault.id} {row.fault.title}: skipped, {row.skipped}."


def _summary(outcomes: list[Outcome]) -> Iterator[str]:
    accepted = sum(_count_accepted(outcome) for outcome in outcomes)
    rows = [row for outcome in outcomes for row in outcome.rows]
    happened = [row for row in rows if row.evidence is not None]
    times = sum(row.evidence.times for row in happened if row.evidence)
    kinds = len({row.fault.id for row in happened})
    score = mutation_score()
    broken = sorted({name for outcome in outcomes for name in outcome.report.violated})
    failed = [f"{row.fault.id}: {row.problem}" for row in rows if row.problem]
    failed += [outcome.disorder for outcome in outcomes if outcome.disorder]
    yield "| what | figure |"
    yield "|---|---|"
    yield f"| faults injected / kinds / seeds | {times:,} / {kinds} / {len(outcomes)} |"
    for name, invariant in (
        ("lost", "I1"),
        ("with two ends", "I2"),
        ("duplicated", "I8"),
        ("seen by another tenant", "I14"),
    ):
        count = sum(_violations(outcome, invariant) for outcome in outcomes)
        bound = at_most_95(count, accepted)
        yield (
            f"| turns {name}, of {accepted:,} accepted under fault | {count} "
            f"(at most {bound:.1e} a turn, 95 %) |"
        )
    for name, invariant in (("running beyond a key's limit", "I6"), ("out of order", "I7")):
        count = sum(_violations(outcome, invariant) for outcome in outcomes)
        checked = sum(
            v.checked for o in outcomes for v in o.report.verdicts if v.invariant == invariant
        )
        yield f"| turns {name}, of {checked:,} checked | {count} |"
    reconnects = sum(figures.streams(outcome.events).reconnects for outcome in outcomes)
    gaps = sum(_violations(outcome, "I9") for outcome in outcomes)
    yield f"| reconnects of readers; gaps or duplicates | {reconnects:,}; {gaps} |"
    points = [
        row.evidence.figures["crash points"]
        for row in happened
        if row.evidence and "crash points" in row.evidence.figures
    ]
    yield f"| crash points | {', '.join(points) or 'not tried'} |"
    yield from _spans(outcomes)
    yield f"| promises broken | {', '.join(broken) or 'none'} |"
    yield f"| faults that failed | {'; '.join(failed) or 'none'} |"
    yield f"| planted violations caught by the checker | {score} |"
    yield ""


def _run(outcome: Outcome) -> Iterator[str]:
    plan = outcome.plan
    servers = ", ".join(f"{name} {version}" for name, version in outcome.versions.items())
    lease_s = plan.clocks.get("TURNKEEP_LEASE_S", "8")
    yield f"## Seed {plan.seed}: {servers}"
    yield ""
    yield (
        f"{len(plan.faults)} faults in {outcome.lasted_s / 60:.1f} minutes, pace "
        f"{plan.pace:g}, {plan.sessions} users at work, leases of {lease_s} s, "
        f"{outcome.report.events:,} events."
    )
    yield ""
    yield from _measured(outcome)
    yield "### Faults"
    yield ""
    heads = "id", "fault", "what was seen", "submits refused", "none accepted for", "works after"
    yield f"| {' | '.join(heads)} |"
    yield "|---|---|---|---|---|---|"
    felt = figures.outages(outcome.events, outcome.rows)
    for row, outage in zip(outcome.rows, felt, strict=True):
        yield (
            f"| {row.fault.id} | {row.fault.title} | {_seen(row)} | {outage.refused} | "
            f"{outage.longest_s:.1f} s | {row.recovered_s:.1f} s |"
        )
    yield ""
    yield "### Invariants"
    yield ""
    yield "| | promise | verdict | checked | violations |"
    yield "|---|---|---|---|---|"
    for verdict in outcome.report.verdicts:
        yield (
            f"| {verdict.invariant} | {verdict.title} | {verdict.word} | {verdict.checked:,} | "
            f"{verdict.count} |"
        )
    yield ""
    for violation in outcome.report.violations[:20]:
        yield f"- {violation}"
    if outcome.report.violations:
        yield ""


def _seen(row: Row) -> str:
    if row.skipped:
        return f"skipped: {row.skipped}"
    if row.problem:
        return f"**failed**: {row.problem}"
    return row.evidence.seen if row.evidence else ""


def _measured(outcome: Outcome) -> Iterator[str]:
    events = outcome.events
    yield "| measured | |"
    yield "|---|---|"
    yield f"| turns accepted | {_count_accepted(outcome):,} |"
    yield from _spans([outcome])
    read = figures.streams(events)
    yield (
        f"| streams | {read.connections:,} connections, {read.reconnects:,} of them reconnects; "
        f"{read.frames:,} frames, {read.after_attempt_2} attempts announced after the first, "
        f"{read.snapshots} snapshots |"
    )
    cancels = figures.cancels(events)
    yield f"| cancel: asked → answered | {cancels.answer} |"
    later = cancels.heard_later or "none"
    yield f"| cancel: answered → last delta of a reader at another API | {later} |"
    answered = [event.http for event in events if isinstance(event, Decide)]
    yield (
        f"| decisions on tool calls | {answered.count(200):,} written down, "
        f"{answered.count(409):,} later than the clock's |"
    )
    if _has_samples(outcome):
        yield from _sampled(events)
    yield ""


def _sampled(events: list[Event]) -> Iterator[str]:
    for kind in ("api", "worker"):
        memory = _grown(figures.growth(events, kind, "rss_bytes"), _MIB, " MiB")
        files = _grown(figures.growth(events, kind, "open_files"), 1, "")
        yield f"| {kind}: memory; open files | {memory}; {files} |"
    memory = _grown(figures.growth(events, "redis", "used_bytes"), _MIB, " MiB")
    dead = _grown(figures.growth(events, "postgres", "dead_rows"), 1, "")
    busy = figures.growth(events, "host", "busy")
    yield f"| Redis: memory | {memory} |"
    yield f"| Postgres: dead rows | {dead} |"
    yield f"| host: busy | {busy.mean:.0f} % of all cores |"


def _has_samples(outcome: Outcome) -> bool:
    """Processes that somebody else runs are not looked into."""
    return any(isinstance(event, Sample) for event in outcome.events)


def _grown(growth: figures.Growth, unit: float, name: str) -> str:
    at_most = f"at most {growth.most / unit:,.0f}{name}"
    if growth.per_hour is None:
        return at_most
    return f"{at_most}, {growth.per_hour / unit:+,.1f}{name}/h"


def _spans(outcomes: list[Outcome]) -> Iterator[str]:
    """How long turns were nobody's."""
    takeovers: dict[str, list[float]] = defaultdict(list)
    handoffs: list[float] = []
    for outcome in outcomes:
        handoffs += figures.handoffs(outcome.events)
        for cause, spans in figures.takeovers(outcome.events, outcome.kills).items():
            takeovers[cause] += spans
    for cause, spans in takeovers.items():
        kills = sum(kill.cause == cause for outcome in outcomes for kill in outcome.kills)
        times = figures.Times.of(spans)
        yield f"| takeover, process {cause} ({kills} times): death → next claim | {times} |"
    if handoffs:
        times = figures.Times.of(handoffs)
        yield f"| hand-off, worker asked to leave: given back → next claim | {times} |"
    if not any(_has_samples(outcome) for outcome in outcomes):
        return
    refused = sum(figures.refused_writes(outcome.events) for outcome in outcomes)
    yield f"| writes and commits for attempts that were over: tried, all refused | {refused:,} |"


def _count_accepted(outcome: Outcome) -> int:
    return len({e.turn for e in outcome.events if isinstance(e, Accept) and e.outcome == "ok"})


def _violations(outcome: Outcome, invariant: str) -> int:
    return sum(v.count for v in outcome.report.verdicts if v.invariant == invariant)
