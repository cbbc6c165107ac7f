"""`python -m benchmarks`: Turnkeep, and the baseline beside it, under the same load in one run."""

from __future__ import annotations

import argparse
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg
import psutil
import redis

from benchmarks.plan import Figures, Plan, say
from benchmarks.report import Report
from benchmarks.scenarios import (
    cancel,
    first_delta,
    gets,
    hop,
    idle_streams,
    long_turn,
    paced,
    start,
    streams,
    submits,
)
from benchmarks.servers import Servers, run_servers
from benchmarks.systems import OUR_BASELINE, Side
from benchmarks.wrk import find_wrk

SCENARIOS: dict[str, Callable[[Side, Plan], list[Figures]]] = {
    "streams": streams.measure,
    "submits": submits.measure,
    "paced": paced.measure,
    "first-delta": first_delta.measure,
    "hop": hop.measure,
    "gets": gets.measure,
    "idle-streams": idle_streams.measure,
    "cancel": cancel.measure,
    "long-turn": long_turn.measure,
    "start": start.measure,
}
SIDES = ("turnkeep", "baseline")
# One scenario that cannot be measured does not take the others with it.
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
    parser.add_argument("--only", help=f"scenarios, comma-separated, of: {', '.join(SCENARIOS)}")
    parser.add_argument("--side", choices=SIDES, help="measure one side alone")
    parser.add_argument("--runs", type=int, default=3, help="medians of so many (3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of one run (5)")
    parser.add_argument("--client", choices=("wrk", "python"), help="of saturated scenarios")
    parser.add_argument("--python", default=sys.executable, help="runs the servers of both sides")
    parser.add_argument("--baseline", type=Path, default=OUR_BASELINE, help="folder of another one")
    parser.add_argument("--out", type=Path, help="file of the report; raw figures go beside it")
    asked = parser.parse_args()
    unknown = set((asked.only or "").split(",")) - {"", *SCENARIOS}
    if unknown:
        parser.error(f"unknown scenario: {', '.join(sorted(unknown))}")
    return asked


def run(asked: argparse.Namespace, servers: Servers, plan: Plan) -> Report:
    """Every wanted scenario on every wanted side, one at a time."""
    report = Report(plan)
    wanted = asked.only.split(",") if asked.only else list(SCENARIOS)
    for name in wanted:
        for side_name in [asked.side] if asked.side else SIDES:
            began = time.monotonic()
            side = Side(side_name, servers, asked.python, asked.baseline)
            try:
                report.add(name, side_name, medians(SCENARIOS[name](side, plan)))
            except FAILURES as error:
                plan.fail(f"{name}, {side_name}: {error!r}")
            say(f"  {name}, {side_name}: {time.monotonic() - began:.0f} s")
    return report


def medians(runs: list[Figures]) -> Figures:
    """Of every figure its median over the runs that have it."""
    names = dict.fromkeys(name for figures in runs for name in figures)
    return {
        name: statistics.median(figures[name] for figures in runs if name in figures)
        for name in names
    }


def main() -> None:
    """Starts servers, measures, prints the report and writes it when asked."""
    asked = parse_arguments()
    hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    wrk = None if asked.client == "python" else find_wrk()
    if asked.client == "wrk" and wrk is None:
        sys.exit("benchmarks: wrk is not installed")
    plan = Plan(runs=asked.runs, seconds=asked.seconds, wrk=wrk)
    try:
        with tempfile.TemporaryDirectory(prefix="turnkeep-bench-") as folder:
            Path(folder).chmod(0o711)  # the embedded server's user has to pass through
            with run_servers(Path(folder)) as servers:
                report = run(asked, servers, plan)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.stdout.write(report.as_markdown())
    if asked.out:
        report.write(asked.out)
    sys.exit(1 if plan.failures else 0)


if __name__ == "__main__":
    main()
