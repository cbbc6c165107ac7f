"""One chaos run: a deployment under load, fault after fault, quiet, the last look, the verdict."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from deploy.configuration import free_port
from deploy.embedded.tether import tethered
from shared.errors import RedisUnavailable
from shared.redis.connection import RedisReplyError
from tests.acceptance.product import ROOT
from tests.chaos import history as told
from tests.chaos.arena import Arena, Evidence, Fault, FaultMissed, FaultSkipped, Target
from tests.chaos.checker import Report, Rules, check
from tests.chaos.deployment import SHORT_CLOCKS, Deployment, open_deployment
from tests.chaos.history import History, read
from tests.chaos.probes import (
    AppendWatcher,
    Baseline,
    find_overdue,
    find_residue,
    observe,
    sample_host,
    sample_process,
    sample_redis,
    sample_refusals,
    sample_tables,
    take_baseline,
)
from tests.chaos.workload import PROVIDER_MODEL, Kill, Workload, make_tenants
from tests.fixtures.chance import seeded
from tests.fixtures.proxy import Upstream, open_link

FAULT_LIMIT_S: Final = 3600.0
QUIET_LIMIT_S: Final = 90.0
SAMPLE_S: Final = 2.0
AWAY: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    RedisUnavailable,
    RedisReplyError,
)
"""What a look at servers and processes that are being hurt may meet."""


@dataclass(frozen=True)
class Plan:
    """What a run does. `pace` 1 is the short profile."""

    faults: list[Fault]
    seed: int
    pace: float = 1.0
    sessions: int = 40
    provider_share: float = 0.05
    asking_share: float = 0.1
    interval_s: float = 0.0
    """From the beginning of one fault to that of the next, at least."""
    clean_s: float = 5.0
    """Load without a fault, before the first and after the last one."""
    clocks: dict[str, str] = field(default_factory=lambda: dict(SHORT_CLOCKS))


@dataclass(frozen=True)
class Row:
    """How one fault went."""

    fault: Fault
    began: int
    healed: int
    recovered_s: float
    """From healed until a turn went through each API again."""
    evidence: Evidence | None
    problem: str = ""
    skipped: str = ""

    @property
    def is_ok(self) -> bool:
        return not self.problem


@dataclass(frozen=True)
class Outcome:
    """What a run found."""

    plan: Plan
    rows: list[Row]
    kills: list[Kill]
    report: Report
    events: list[told.Event]
    lasted_s: float
    versions: dict[str, str]
    disorder: str = ""
    """Processes that did not end well when all was over."""

    @property
    def is_ok(self) -> bool:
        return self.report.is_ok and not self.disorder and all(row.is_ok for row in self.rows)


Tell = Callable[[str], None]


async def run(plan: Plan, directory: Path, tell: Tell) -> Outcome:
    """Runs a plan in an empty directory, whose files are left for who wants to look."""
    began = time.monotonic()
    path = directory / "history.jsonl"
    with History(path) as history, fake_provider(directory, plan.seed) as provider_port:
        async with (
            open_link(Upstream(None, "127.0.0.1", provider_port)) as provider,
            open_deployment(
                directory,
                has_small_disk=any(fault.needs_small_disk for fault in plan.faults),
                settings={
                    **plan.clocks,
                    "TURNKEEP_OPENAI_CHAT_BASE_URL": f"http://127.0.0.1:{provider.port}/v1",
                    "TURNKEEP_OPENAI_CHAT_API_KEY": "none",
                    "TURNKEEP_DEFAULT_MODEL": PROVIDER_MODEL,  # imported before a worker is ready
                    "TURNKEEP_DRAIN_S": "2",
                    "TURNKEEP_APPROVAL_TTL_S": "8",  # for those that nobody decides
                },
            ) as deployment,
        ):
            workload = Workload(
                deployment,
                history,
                await make_tenants(deployment),
                seed=plan.seed,
                sessions=plan.sessions,
                provider_share=plan.provider_share,
                asking_share=plan.asking_share,
            )
            rows = await _watch(
                plan, Arena(deployment, workload, provider, seeded(plan.seed), plan.pace), tell
            )
            versions = await read_versions(deployment)
    if deployment.disorder:
        tell(f"left in disorder: {deployment.disorder}")
    recorded = read(path)
    rules = Rules(settle_s=60.0, lease_s=float(plan.clocks.get("TURNKEEP_LEASE_S", "8")))
    report = check(recorded.events, rules, torn=recorded.torn)
    return Outcome(
        plan=plan,
        rows=rows,
        kills=workload.kills,
        report=report,
        events=recorded.events,
        lasted_s=time.monotonic() - began,
        versions=versions,
        disorder=deployment.disorder,
    )


async def _watch(plan: Plan, arena: Arena, tell: Tell) -> list[Row]:
    """The run itself, with everything that looks on."""
    deployment, history = arena.deployment, arena.workload.history
    baseline = await take_baseline(deployment.metrics_ports())
    rows: list[Row] = []
    async with (
        observe(deployment.database_url, history),
        AppendWatcher(deployment.valkey.url, history),
        _sampling(deployment, history),
    ):
        await go_through(plan, arena, tell, rows)
        await until_quiet(deployment)
        await _look_around(deployment, history, baseline)
    return rows


async def go_through(plan: Plan, arena: Arena, tell: Tell, rows: list[Row]) -> None:
    """All faults, one after the other, under load; each adds its row."""
    async with arena.workload.running():
        await arena.workload.until_flowing()
        await asyncio.sleep(plan.clean_s)
        for number, fault in enumerate(plan.faults, 1):
            tell(f"[{number}/{len(plan.faults)}] {fault.id} {fault.title}")
            next_at = time.monotonic() + plan.interval_s
            row = await inject(fault, arena)
            rows.append(row)
            tell(f"    {_describe(row)}")
            await asyncio.sleep(max(plan.clean_s / 5, next_at - time.monotonic()))
        await asyncio.sleep(plan.clean_s)
        tell("waiting for the last turns")


async def inject(fault: Fault, arena: Arena) -> Row:
    """Breaks something, and waits until a turn goes through each API again."""
    history = arena.workload.history
    began = told.now()
    evidence: Evidence | None = None
    problem = skipped = ""
    name = f"{fault.id}/{began}"  # a soak may draw a fault again
    history.append(told.FaultBegun(at=began, fault=name, name=fault.title, layer=fault.layer))
    try:
        async with asyncio.timeout(FAULT_LIMIT_S):
            evidence = await fault.inject(arena)
    except FaultSkipped as error:
        skipped = str(error)
    except FaultMissed as error:
        problem = f"the fault did not happen: {error}"
    except (AssertionError, pytest.fail.Exception, OSError, TimeoutError) as error:
        problem = f"{type(error).__name__}: {error}"
        traceback.print_exc(file=sys.stderr)
    healed = told.now()
    history.append(told.FaultHealed(at=healed, fault=name))
    recovered_s = 0.0
    try:
        await arena.deployment.be_whole()
        recovered_s = await arena.workload.until_flowing(60)
    except (AssertionError, pytest.fail.Exception) as error:
        problem = problem or f"no recovery: {error}"
    return Row(fault, began, healed, recovered_s, evidence, problem, skipped)


def _describe(row: Row) -> str:
    if row.skipped:
        return f"skipped: {row.skipped}"
    if row.problem:
        return f"FAILED: {row.problem}"
    assert row.evidence is not None
    lasted_s = (row.healed - row.began) / 1e9
    return f"{row.evidence.seen} ({lasted_s:.0f} s; works again {row.recovered_s:.1f} s later)"


async def until_quiet(deployment: Deployment) -> None:
    """Until no turn waits or runs any more; the final look tells what did not get there."""
    deadline = time.monotonic() + QUIET_LIMIT_S
    while time.monotonic() < deadline:
        async with deployment.admin() as admin:
            if not await admin.fetchval("select count(*) from turns where ended_at is null"):
                break
        await asyncio.sleep(0.5)
    await asyncio.sleep(2)  # for the last slots and logs to be let go


async def _look_around(deployment: Deployment, history: History, baseline: Baseline) -> None:
    """What is left now that everything has ended."""
    async with deployment.admin() as admin, deployment.redis() as redis:
        history.extend(
            await find_residue(admin, redis, deployment.metrics_ports(), baseline, spare_files=16)
        )


@contextmanager
def fake_provider(directory: Path, seed: int) -> Iterator[int]:
    """The port of a fake provider in a process of its own."""
    port = free_port()
    process = subprocess.Popen(
        tethered(
            [
                sys.executable,
                *("-m", "tests.chaos.fake_provider", "--port", str(port), "--seed", str(seed)),
                *("--log", str(directory / "provider.jsonl")),
            ],
            signal.SIGKILL,
        ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
    )
    try:
        yield port
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def _sampling(deployment: Deployment, history: History) -> AsyncIterator[None]:
    async def sample() -> None:
        while True:
            with contextlib.suppress(*AWAY):
                await look()
            await asyncio.sleep(SAMPLE_S)

    async def look() -> None:
        for process in [*deployment.apis, *deployment.workers]:
            history.extend(sample_process(process.name, process.pid))
        history.extend(sample_host())
        workers = {worker.name: worker.metrics_port for worker in deployment.workers}
        async with asyncio.timeout(SAMPLE_S):
            history.extend(await sample_refusals(workers))
        async with deployment.redis() as redis, asyncio.timeout(SAMPLE_S):
            history.extend(await sample_redis(redis))
        async with deployment.admin() as admin:
            history.extend(await find_overdue(admin))
            history.extend(await sample_tables(admin))

    task = asyncio.create_task(sample())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()  # what ended it before its time is a defect of the kit


async def read_versions(deployment: Target) -> dict[str, Any]:
    """Of the servers."""
    async with deployment.admin() as admin:
        postgres = await admin.fetchval("show server_version")
    async with deployment.redis() as redis:
        info: bytes = await redis.call("INFO", "server")
    said = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    name = "Valkey" if "valkey_version" in said else "Redis"
    version = said.get("valkey_version", said["redis_version"])
    return {"PostgreSQL": postgres, name: version}
