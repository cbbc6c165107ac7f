"""`python -m benchmarks`: Turnkeep, and the baseline beside it, under the same load in one run."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

import uvloop

from benchmarks.load import Tally, percentile_ms, run_load
from benchmarks.systems import (
    Baseline,
    Servers,
    System,
    Turnkeep,
    cpu_seconds,
    run_baseline,
    run_turnkeep,
    run_valkey,
)
from deploy.embedded.postgres import EmbeddedPostgres

ROOT = Path(__file__).resolve().parent.parent
DELTAS = 50
CONNECTIONS = 64
Figures = dict[str, float]


def measure_streams(system: System, servers: Servers, seconds: float) -> Figures:
    """Saturated streamed turns a second, and what each cost."""
    _load(system, lambda: system.stream_request(DELTAS), seconds / 3, streams=True)
    before = cpu_seconds({**system.pids, **servers.pids})
    tally, took_s = _load(system, lambda: system.stream_request(DELTAS), seconds, streams=True)
    after = cpu_seconds({**system.pids, **servers.pids})
    figures = {
        "streamed turns/s": tally.done / took_s,
        "stream p50 ms": percentile_ms(tally.durations_s, 0.5),
        "stream p99 ms": percentile_ms(tally.durations_s, 0.99),
        "wrong answers": float(tally.bad),
    }
    total = 0.0
    for name, spent_s in after.items():
        used = (spent_s - before[name]) / max(tally.done, 1) * 1e6
        figures[f"CPU µs/turn {name}"] = used
        total += used
    figures["CPU µs/turn all"] = total
    return figures


def measure_submits(system: System, _: Servers, seconds: float) -> Figures:
    """Saturated submits a second without a stream."""
    tally, took_s = _load(system, lambda: system.submit_request(DELTAS), seconds, streams=False)
    return {"submits/s": tally.done / took_s, "submit wrong answers": float(tally.bad)}


def measure_first_delta(system: System, _: Servers, seconds: float) -> Figures:
    """First delta on an idle system: one turn at a time, with a pause between."""
    times: list[float] = []
    for _number in range(max(20, int(seconds * 10))):
        tally, _took = asyncio.run(_one(system))
        times += tally.first_delta_s
        time.sleep(0.03)
    return {
        "first delta p50 ms": percentile_ms(times, 0.5),
        "first delta p99 ms": percentile_ms(times, 0.99),
    }


def measure_gets(system: System, _: Servers, seconds: float) -> Figures:
    """Get Turn of a finished turn."""
    turn_id = system.submit_one(DELTAS)
    time.sleep(1.0)
    tally, took_s = _load(system, lambda: system.get_request(turn_id), seconds, streams=False)
    return {"GET/s": tally.done / took_s, "GET wrong answers": float(tally.bad)}


SCENARIOS: dict[str, Callable[[System, Servers, float], Figures]] = {
    "streams": measure_streams,
    "first-delta": measure_first_delta,
    "gets": measure_gets,
    "submits": measure_submits,
}


def _load(
    system: System, make_request: Callable[[], bytes], seconds: float, *, streams: bool
) -> tuple[Tally, float]:
    return uvloop.run(
        run_load(
            system.port,
            make_request,
            connections=CONNECTIONS,
            seconds=seconds,
            delta=system.delta if streams else None,
            deltas=DELTAS,
        )
    )


async def _one(system: System) -> tuple[Tally, float]:
    return await run_load(
        system.port,
        lambda: system.stream_request(DELTAS),
        connections=1,
        seconds=10,
        most=1,
        delta=system.delta,
        deltas=DELTAS,
    )


def measure(
    system: AbstractContextManager[Turnkeep] | AbstractContextManager[Baseline],
    servers: Servers,
    wanted: Iterable[str],
    runs: int,
    seconds: float,
) -> Figures:
    """Medians over `runs` of every figure of the wanted scenarios."""
    medians: Figures = {}
    with system as side:
        for name in wanted:
            all_runs = []
            for number in range(runs):
                sys.stderr.write(f"  {side.name}: {name} {number + 1}/{runs}\n")
                all_runs.append(SCENARIOS[name](side, servers, seconds))
            for figure in all_runs[0]:
                medians[figure] = statistics.median(run[figure] for run in all_runs)
    return medians


def write_report(sides: dict[str, Figures], runs: int, seconds: float) -> str:
    """The figures as Markdown; ratios are Turnkeep over the baseline."""
    lines = [
        f"# Benchmark, {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        "",
        f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}. "
        f"Load client, servers and processes share the cores. {CONNECTIONS} connections, "
        f"{DELTAS}-delta turns, medians of {runs} runs of {seconds:g} s. Postgres with fsync.",
        "",
        f"| figure | {' | '.join(sides)} | ratio |",
        f"|---|{'---|' * (len(sides) + 1)}",
    ]
    ours = sides["turnkeep"]
    theirs = sides.get("baseline", {})
    for figure, value in ours.items():
        cells = [f"{side[figure]:,.2f}" if figure in side else "–" for side in sides.values()]
        other = theirs.get(figure)
        ratio = f"{value / other:.2f}" if other else "–"
        lines.append(f"| {figure} | {' | '.join(cells)} | {ratio} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Starts servers, measures, prints the report and writes it when asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default=",".join(SCENARIOS), help="scenarios, comma-separated")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each run")
    parser.add_argument("--baseline", type=Path, help="folder of the baseline's app.py, worker.py")
    parser.add_argument("--out", type=Path, help="file for the report")
    asked = parser.parse_args()
    wanted = asked.only.split(",")
    with tempfile.TemporaryDirectory(prefix="turnkeep-bench-") as folder:
        home = Path(folder)
        with EmbeddedPostgres(home / "postgres") as postgres, run_valkey(home) as (port, pid):
            servers = Servers(postgres.dsn, port, {"redis": pid})
            if postgres.process is not None:
                servers.pids["postgres"] = postgres.process.pid
            sides = {
                "turnkeep": measure(
                    run_turnkeep(servers, ROOT), servers, wanted, asked.runs, asked.seconds
                )
            }
            if asked.baseline:
                sides["baseline"] = measure(
                    run_baseline(servers, asked.baseline, DELTAS),
                    servers,
                    wanted,
                    asked.runs,
                    asked.seconds,
                )
    report = write_report(sides, asked.runs, asked.seconds)
    sys.stdout.write(report)
    if asked.out:
        asked.out.write_text(report, encoding="utf-8")


if __name__ == "__main__":
    main()
