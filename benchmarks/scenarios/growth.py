"""Streams, first deltas and gets again on a system that is not empty, beside an empty one.

Each load alone, then all together: finished turns, turns that wait, keys that wait, idle streams.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from benchmarks.filling import fill_finished, fill_waiting, find_database, remove_waiting, tidy
from benchmarks.plan import Figures, Plan, open_turns
from benchmarks.progress import say
from benchmarks.recorder import run_async
from benchmarks.scenarios import first_delta, gets, streams
from benchmarks.scenarios.idle_streams import PATIENT, open_streams, silent_requests
from benchmarks.servers import Servers, execute
from benchmarks.systems import ROOT, Options, Side, System, Turnkeep
from deploy.embedded.postgres import EmbeddedPostgres

FOLDER = ROOT / ".turnkeep" / "bench-growth"
DATABASE = "grown"
EMPTY = "empty"
KEPT = (
    "turns/s", "p50 ms", "p99 ms", "CPU µs/turn all", "first delta p50 ms", "first delta p99 ms",
    "GET/s finished", "GET/s live", "wrong answers", "turns not completed",
)  # fmt: skip


@dataclass(frozen=True)
class Growth:
    """What a system has to carry besides the load."""

    finished: bool = False
    pending: int = 0
    keys: int = 0
    idle: int = 0


def growths(plan: Plan) -> dict[str, Growth]:
    pending, keys, idle = 100_000, 20_000, 10_000
    return {
        EMPTY: Growth(),
        f"{plan.finished:,} finished": Growth(finished=True),
        f"{pending:,} pending": Growth(pending=pending),
        f"{keys:,} keys waiting": Growth(keys=keys),
        f"{idle:,} idle streams": Growth(idle=idle),
        "all together": Growth(True, pending, keys, idle),
    }


def measure(servers: Servers, python: str, plan: Plan) -> dict[str, list[Figures]]:
    """Figures of all runs per growth."""
    found: dict[str, list[Figures]] = {}
    FOLDER.mkdir(parents=True, exist_ok=True)
    # Its data stays: to fill it takes longer than to measure it.
    with EmbeddedPostgres(FOLDER / "postgres") as postgres:
        assert postgres.process is not None  # noqa: S101 - started above
        pids = {**servers.pids, "postgres": postgres.process.pid}
        grown = replace(servers, socket_dir=str(postgres.socket_dir), pids=pids)
        side = Side("turnkeep", grown, python)
        # The empty one last as well: a drift of the machine must not look like growth.
        for name, growth in [*growths(plan).items(), (EMPTY, Growth())]:
            say(f"    {name}")
            with database(grown, growth, plan) as dsn:
                found.setdefault(name, []).extend(measure_one(side, dsn, growth, plan))
    return found


@contextlib.contextmanager
def database(servers: Servers, growth: Growth, plan: Plan) -> Iterator[str]:
    """A database with what the growth asks for; only the finished turns are there to stay."""
    if growth.finished:
        if not find_database(servers.dsn("postgres"), DATABASE):
            execute(servers.dsn("postgres"), f"create database {DATABASE}")
        dsn = servers.dsn(DATABASE)
        fill_finished(dsn, plan.finished)
        remove_waiting(dsn)
    else:
        dsn = servers.make_database()
        fill_finished(dsn, 0)
    try:
        if growth.pending:
            fill_waiting(dsn, keys=100, turns=growth.pending)
        if growth.keys:
            fill_waiting(dsn, keys=growth.keys, turns=growth.keys)
        yield dsn
    finally:
        if growth.finished:
            remove_waiting(dsn)
        else:
            servers.drop_database(dsn)


def measure_one(side: Side, dsn: str, growth: Growth, plan: Plan) -> list[Figures]:
    options = Options(env=PATIENT, has_backlog=True)
    with side.start(options, dsn) as system:
        assert isinstance(system, Turnkeep)  # noqa: S101 - the side of that name
        requests = silent_requests(system, growth.idle) if growth.idle else []
        with open_streams(system.port, requests):
            tidy(dsn)
            held = open_turns(system.count_turns())
            plan.load(system, system.stream_ask(), plan.seconds)
            plan.settle(system, streams.SETTLE_PATIENCE_S, held)
            runs = [run_once(system, plan, f"run-{number}") for number in range(plan.runs)]
        if growth.idle:
            plan.note(f"growth: {growth.idle:,} streams stayed open while others were measured")
    return [{name: run[name] for name in KEPT} for run in runs]


def run_once(system: System, plan: Plan, name: str) -> Figures:
    figures = streams.run_once(system, plan)
    figures |= run_async(first_delta.sample(system, first_delta.SAMPLES_PER_RUN))
    return figures | gets.run_once(system, plan, name)
