"""`python -m benchmarks`: Turnkeep, and the baseline beside it, under the same load in one run."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import psutil
import redis

from benchmarks.environment import find_python
from benchmarks.plan import Figures, Plan
from benchmarks.progress import say
from benchmarks.report import Report
from benchmarks.scenarios import (
    aegra,
    cancel,
    first_delta,
    gets,
    growth,
    hop,
    idle_streams,
    long_thread,
    long_turn,
    paced,
    peers,
    start,
    streams,
    submits,
    two_apis,
)
from benchmarks.servers import Servers, run_servers
from benchmarks.systems import OUR_BASELINE, Side
from benchmarks.wrk import find_wrk, install_wrk

SCENARIOS: dict[str, Callable[[Side, Plan], list[Figures]]] = {
    "streams": streams.measure,
    "submits": submits.measure,
    "paced": paced.measure,
    "first-delta": first_delta.measure,
    "hop": hop.measure,
    "long-thread": long_thread.measure,
    "gets": gets.measure,
    "two-apis": two_apis.measure,
    "idle-streams": idle_streams.measure,
    "cancel": cancel.measure,
    "long-turn": long_turn.measure,
    "start": start.measure,
}
SIDES = ("turnkeep", "baseline")
BESIDE: dict[str, Callable[[Servers, str, Plan], dict[str, list[Figures]]]] = {
    "growth": growth.measure,
    "aegra": aegra.measure,
}
"""Not of Turnkeep beside the baseline; part of a full run, or asked for by name."""
REPORTS = Path("docs/reports")
FAILURES = (
    OSError,
    ExceptionGroup,
    asyncpg.PostgresError,
    psutil.Error,
    redis.RedisError,
    subprocess.SubprocessError,
)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", help=f"of: {', '.join([*SCENARIOS, *BESIDE])}")
    parser.add_argument("--side", choices=SIDES, help="measure one side alone")
    parser.add_argument("--runs", type=int, default=3, help="medians of so many (3)")
    parser.add_argument("--seconds", type=float, help="of one run (4; with --full 15)")
    parser.add_argument("--client", choices=("wrk", "python"), help="of saturated scenarios")
    parser.add_argument("--python", default=sys.executable, help="runs the servers of both sides")
    parser.add_argument("--baseline", type=Path, default=OUR_BASELINE, help="folder of another one")
    parser.add_argument("--report", action="store_true", help=f"--out {REPORTS}/bench-DATE.md")
    parser.add_argument("--out", type=Path, help="file of the report; raw figures go beside it")
    parser.add_argument("--full", action="store_true", help="longer runs, growth and Aegra")
    parser.add_argument(
        "--finished", type=int, default=5_000_000, help="finished turns of growth (5,000,000)"
    )
    asked = parser.parse_args()
    if asked.report and not asked.out:
        asked.out = REPORTS / f"bench-{datetime.datetime.now(datetime.UTC):%Y-%m-%d}.md"
    unknown = set(wanted_scenarios(asked)) - {*SCENARIOS, *BESIDE}
    if unknown:
        parser.error(f"unknown scenario: {', '.join(sorted(unknown))}")
    return asked


def wanted_scenarios(asked: argparse.Namespace) -> list[str]:
    if asked.only:
        return str(asked.only).split(",")
    return [*SCENARIOS, *(BESIDE if asked.full else [])]


def run(asked: argparse.Namespace, servers: Servers, plan: Plan) -> Report:
    """Every wanted scenario on every wanted side, one at a time."""
    report = Report(plan)
    sides = [asked.side] if asked.side else SIDES
    for name in wanted_scenarios(asked):
        began = time.monotonic()
        if name in BESIDE:
            with told(plan, name):
                for measured, runs in BESIDE[name](servers, asked.python, plan).items():
                    report.add(name, measured, runs)
        else:
            for side_name in sides:
                with told(plan, f"{name}, {side_name}"):
                    side = Side(side_name, servers, asked.python, asked.baseline)
                    report.add(name, side_name, SCENARIOS[name](side, plan))
        if name == "hop" and not asked.side:
            with told(plan, "peers"):
                for peer, figures in peers.measure(servers, plan).items():
                    report.add(name, peer, [figures])
        say(f"  {name}: {time.monotonic() - began:.0f} s")
    return report


@contextlib.contextmanager
def told(plan: Plan, what: str) -> Iterator[None]:
    """One scenario that cannot be measured does not take the others with it."""
    try:
        yield
    except FAILURES as error:
        plan.fail(f"{what}: {error!r}")


def main() -> None:
    """Starts servers, measures, prints the report and writes it when asked."""
    asked = parse_arguments()
    hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    wrk = (
        None
        if asked.client == "python"
        else find_wrk() or (install_wrk() if asked.report else None)
    )
    if asked.client == "wrk" and wrk is None:
        sys.exit("benchmarks: wrk is not installed")
    seconds = asked.seconds or (15.0 if asked.full else 4.0)
    plan = Plan(runs=asked.runs, seconds=seconds, wrk=wrk, finished=asked.finished)
    try:
        with tempfile.TemporaryDirectory(prefix="turnkeep-bench-") as folder:
            Path(folder).chmod(0o711)  # the embedded server's user has to pass through
            with run_servers(Path(folder)) as servers:
                report = run(asked, servers, plan)
    except KeyboardInterrupt:
        sys.exit(130)
    if asked.out:
        report.write(asked.out, find_python(plan))
    sys.stdout.write(report.as_markdown())
    sys.exit(1 if plan.failures else 0)


if __name__ == "__main__":
    main()
